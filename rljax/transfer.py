"""What one agent's state takes over from another's: how fine-tuning begins."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from rljax.base import InputError

PARTS = MappingProxyType(
    {"both": (), "actor": ("critic", "target", "value", "multiplier"), "critic": ("actor", "target_actor", "alpha")}
)
COPIES = MappingProxyType({"target": "critic", "target_actor": "actor"})  # where a target comes from that was not there before


def transfer(state: Any, origin: Any, parts: str = "both") -> Any:
    """``state`` (a NamedTuple) with every field that ``origin`` has too taken from there: parameters and optimisers.

    ``parts`` "actor" leaves out critics, targets, value and multiplier, "critic" leaves out actor and temperature. Targets that
    ``origin`` lacks become copies of what was taken, other fields that it lacks stay as they are. Only shapes are looked at, so
    `jax.eval_shape` checks without computing.

    Raises:
        InputError: for unknown ``parts``, if ``origin`` has no actor or critic that is wanted, and naming the first field whose
            arrays have other names or shapes.
    """
    if parts not in tuple(PARTS):
        raise InputError(f"initialise must be one of {', '.join(PARTS)}, got {parts!r}")
    for name in ("actor", "critic"):
        if name in state._fields and name not in origin._fields and name not in PARTS[parts]:
            raise InputError(
                f"the offline run has no {name}: take over the other part alone, or start from another agent's run"
            )
    fields = [name for name in state._fields if name in origin._fields and name not in PARTS[parts]]
    for name in fields:
        here, there = _shapes(getattr(state, name)), _shapes(getattr(origin, name))
        wrong = next((k for k in here | there if here.get(k) != there.get(k)), None)
        if wrong is not None:
            raise InputError(
                f"{name} of the offline run does not fit: {wrong} is {there.get(wrong, 'missing')} there and "
                f"{here.get(wrong, 'missing')} here; use the offline run's widths, depths, layer_norm, num_critics and head, "
                "an agent with the same kind of networks, or take over the other part alone"
            )
    taken = state._replace(**{name: getattr(origin, name) for name in fields})
    copies = {to: of for to, of in COPIES.items() if to in state._fields and to not in fields and of in fields}
    return taken._replace(**{to: jax.tree.map(jnp.copy, getattr(taken, of).params) for to, of in copies.items()})


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}
