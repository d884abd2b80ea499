"""Learners spread over the devices of this machine: everything along their axis N, which is padded to a multiple of these.

Learners never exchange anything, so each device runs its own, and results do not depend on where a learner is but in the last
bits: a device's program is made for as many learners as it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PyTree = Any
AXIS = "learners"


def mesh(num: int) -> Mesh | None:
    """The devices for ``num`` learners, no more than these; None if it is one."""
    devices = jax.local_devices()[:num]
    return Mesh(np.array(devices), (AXIS,)) if len(devices) > 1 else None


def spread(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Arrays [N, ...] with their last row repeated until they can be divided among the devices, on which they then lie.

    With one device they are bound to it: JAX would compile a program again for loaded arrays, which always are.
    """
    if mesh is None:
        return jax.device_put(tree, jax.local_devices()[0])
    where = NamedSharding(mesh, PartitionSpec(AXIS))

    def place(x: jax.Array) -> jax.Array:
        rows = jnp.arange(x.shape[0] + -x.shape[0] % mesh.size)
        return jax.device_put(jnp.asarray(x)[jnp.minimum(rows, x.shape[0] - 1)], where)

    return jax.tree.map(place, tree)


def share(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Arrays that all learners read, once on each device."""
    return jax.device_put(tree, None if mesh is None else NamedSharding(mesh, PartitionSpec()))


def gather(mesh: Mesh | None, tree: PyTree, num: int) -> PyTree:
    """The first ``num`` rows of what is `spread`, on one device."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda x: jax.device_put(x, jax.local_devices()[0])[:num], tree)


def divided(mesh: Mesh | None, f: Callable, shared: tuple[bool, ...]) -> Callable:
    """``f`` on each device, for its part of all arguments but those ``shared``."""
    if mesh is None:
        return f
    specs = tuple(PartitionSpec() if whole else PartitionSpec(AXIS) for whole in shared)
    return jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)
