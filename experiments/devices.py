"""Learners spread over the devices of this machine: everything along their axis N, which is padded to a multiple of these.

Learners never exchange anything, so each device runs its own, and results do not depend on where a learner is but in the last
bits: a device's program is made for as many learners as it has.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rljax.loops import LoopState

PyTree = Any
AXIS = "learners"
LARGE, COPIED = 2**19, 2**26  # bytes of an agent, and of all else of a learner, for `in_turn`


def threads() -> int:
    """The processors of this process, for which XLA compiles."""
    given = os.environ.get("NPROC", "")
    if given.isdecimal() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each_processor() -> None:
    """Make each processor a device, so that several learners have one each; a single learner still has the threads of all.

    Neither a number of devices that the user has set is changed, nor that of a JAX that has begun to compute.
    """
    flagged = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not flagged and jax.config.values["jax_num_cpu_devices"] < 0:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", threads())


def mesh(num: int) -> Mesh | None:
    """As few devices as take ``num`` learners as evenly as all of this machine could; None if it is one."""
    each = -(-num // len(jax.local_devices()))
    devices = jax.local_devices()[: -(-num // each)]
    return Mesh(np.array(devices), (AXIS,)) if len(devices) > 1 else None


def in_turn(state: LoopState) -> bool:
    """Whether learners [N] on one device should run a chunk in turn: on a processor, if they are large and their rings are not.

    Several large agents do not stay in its cache. In turn each learner's state is copied, once in a chunk.
    """
    agent, all_bytes = (sum(x.size * x.dtype.itemsize // x.shape[0] for x in jax.tree.leaves(t)) for t in (state.agent, state))
    return jax.local_devices()[0].platform == "cpu" and agent > LARGE and all_bytes - agent < COPIED


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
    """Arrays that all learners read, once on each device, or once in all where these are processors."""
    if mesh is None:
        return jax.device_put(tree)
    if mesh.devices.flat[0].platform == "cpu":  # which share memory that is aligned as JAX aligns its own
        tree = jax.tree.map(np.asarray, jax.device_put(tree, mesh.devices.flat[0]))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


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
