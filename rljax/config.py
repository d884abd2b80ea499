"""Configs: frozen dataclasses that are pytrees. Numbers are leaves and can be vmapped, choices are static.

Example:
    >>> @config
    ... class Config:
    ...     lr: float = leaf(3e-4, "(0, inf)")  # Adam step size
    ...     width: int = static(256, "[1, inf)")  # units per hidden layer
    >>> stacked = stack(grid(Config(), lr=[1e-4, 3e-4]))
    >>> stacked.lr.shape, stacked.width
    ((2,), 256)
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import itertools
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import InputError, Spec

C = TypeVar("C")


def leaf(default: float, rule: str = "(-inf, inf)") -> Any:
    """A number that can be stacked, vmapped and changed without compiling; ``rule`` is the interval it must lie in."""
    return dataclasses.field(default=default, metadata={"rule": rule})


def static(default: Any, rule: str | None = None, choices: Mapping[str, Any] | None = None) -> Any:
    """A choice that shapes the program: part of the tree's structure.

    ``rule`` is an interval for numbers (and for each element of a tuple); ``choices`` maps the names that the command
    line accepts to values.
    """
    return dataclasses.field(default=default, metadata={"static": True, "rule": rule, "choices": choices})


def choice(default: Any, choices: Mapping[str, Any]) -> Any:
    """A config within the config, such as a head; its leaves are leaves. ``choices`` as in `static`."""
    return dataclasses.field(default=default, metadata={"choices": choices})


@dataclass_transform(frozen_default=True)
def config(cls: type[C]) -> type[C]:
    """Make ``cls`` a frozen dataclass and a pytree whose leaves are the fields not marked `static`."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    meta = [f.name for f in fields if f.metadata.get("static")]
    return jax.tree_util.register_dataclass(cls, [f.name for f in fields if f.name not in meta], meta)


def stack(configs: Sequence[C]) -> C:
    """One config whose leaves have a leading axis of ``len(configs)``, as float arrays.

    Raises:
        InputError: if the configs differ in a static field (they are different programs).
    """
    first = jax.tree.structure(configs[0])
    for other in configs[1:]:
        if jax.tree.structure(other) != first:
            raise InputError(
                f"configs that differ in the static field(s) {', '.join(_differ(configs[0], other))} cannot be stacked"
            )
    dtype = jnp.result_type(float)
    return jax.tree.map(lambda *xs: jax.device_put(np.stack([np.asarray(x, dtype) for x in xs])), *configs)


def grid(base: C, **values: Sequence[Any]) -> list[C]:
    """All combinations of ``values`` over ``base``, the last name varying fastest."""
    return [override(base, row) for row in combinations(values)]


def combinations(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of ``values``, the last name varying fastest."""
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


def override(base: C, changes: Mapping[str, Any], where: str = "config") -> C:
    """``base`` with some fields replaced; numbers are checked for type, names of choices become their values.

    ``{"head.sigma": 0.5}`` replaces a field of the config ``base.head``; errors call ``base`` as ``where`` says.

    Raises:
        InputError: for an unknown field, or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(base)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(type(base))
    for path, value in changes.items():
        name, _, inner = path.partition(".")
        if name not in fields:
            close = [field for field in fields if name in field] or difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(fields)}"
            raise InputError(f"{where} has no field {name!r}: {hint}")
        choices = fields[name].metadata.get("choices")
        if inner:
            value = _override_inner(getattr(base, name), inner, value, f"{where}.{name}")
        elif choices and isinstance(value, str):
            if value not in choices:
                raise InputError(f"{where}.{name} must be one of {', '.join(choices)}, got {value!r}")
            value = choices[value]
        elif not _fits(value, hints[name]):
            raise InputError(f"{where}.{name} must be {_type_name(hints[name])}, got {value!r}")
        elif dataclasses.is_dataclass(fields[name].default) and jax.tree_util.all_leaves([value]):
            raise InputError(f"{where}.{name} must be an object of a class made with @config, got {value!r}")
        base = dataclasses.replace(base, **{name: value})  # type: ignore[type-var]
    return base


def check_fields(config: C) -> C:
    """The config with names of choices replaced by their values; `InputError` if a field has a value of the wrong type."""
    return override(config, {f.name: getattr(config, f.name) for f in dataclasses.fields(config)})  # type: ignore[arg-type]


def check_ranges(config: Any, where: str = "config") -> None:
    """Hold every number against the interval that its field declares, and call ``check`` of configs within the config.

    Raises:
        InputError: naming the field, the rule and the offending number.
    """
    for field in dataclasses.fields(config):
        value, rule = getattr(config, field.name), field.metadata.get("rule")
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{where}.{field.name}")
            getattr(value, "check", lambda where: None)(f"{where}.{field.name}")
        elif rule:
            for number in np.ravel(np.asarray(value)):
                if not _inside(float(number), rule):
                    raise InputError(f"{where}.{field.name} must be in {rule}, got {number:g}")


def check_action(agent: str, spec: Spec, kind: type, alternative: str = "another agent") -> None:
    """Raise `InputError` unless ``spec.action`` is of ``kind``; ``alternative`` is the agent to use instead."""
    if not isinstance(spec.action, kind):
        have = "continuous" if kind.__name__ == "Discrete" else "discrete"
        raise InputError(f"agent {agent} does not take {have} actions; use {alternative} for this environment")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as JSON-able values: choices by name, functions and nested configs by dotted path."""
    out = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        choices = field.metadata.get("choices") or {}
        names = [name for name, choice in choices.items() if _same(choice, value)]
        if names:
            out[field.name] = names[0]
        elif dataclasses.is_dataclass(value):
            out[field.name] = {"type": _path(type(value)), **to_dict(value)}
        elif callable(value):
            out[field.name] = {"function": _path(value)}
        elif isinstance(value, tuple) and any(map(callable, value)):
            out[field.name] = [{"function": _path(function)} for function in value]
        else:
            plain: Any = value.tolist() if isinstance(value, np.ndarray | np.generic | jax.Array) else value
            whole = isinstance(plain, int) and not field.metadata.get("static")
            out[field.name] = float(plain) if whole else plain  # 1 and 1.0 are one configuration
    return out


def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
    """The inverse of `to_dict`. Dotted paths are only followed into rljax itself."""
    statics = {f.name for f in dataclasses.fields(cls) if f.metadata.get("static")}  # type: ignore[arg-type]

    def decode(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(value) if name in statics else jnp.asarray(value, float)
        if isinstance(value, dict) and "type" in value:
            return from_dict(_resolve(value["type"]), {k: v for k, v in value.items() if k != "type"})
        return _resolve(value.get("function")) if isinstance(value, dict) else value

    return override(cls(), {name: decode(name, value) for name, value in values.items()})


def _override_inner(inner: Any, name: str, value: Any, where: str) -> Any:
    if not dataclasses.is_dataclass(inner):
        raise InputError(f"{where} has no field {name!r}: it is not a config")
    return override(inner, {name: value}, where)


def _differ(a: Any, b: Any) -> list[str]:
    return [
        f.name
        for f in dataclasses.fields(a)
        if jax.tree.structure(getattr(a, f.name)) != jax.tree.structure(getattr(b, f.name))
        or (f.metadata.get("static") and getattr(a, f.name) != getattr(b, f.name))
    ]


def _same(a: Any, b: Any) -> bool:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=False)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(np.array_equal(x, y) for x, y in leaves)


def _inside(x: float, rule: str) -> bool:
    low, high = (float(s) for s in rule[1:-1].split(","))
    above = x > low or (x == low and rule[0] == "[")
    below = x < high or (x == high and rule[-1] == "]")
    return not math.isnan(x) and above and below


def _fits(value: Any, hint: Any) -> bool:
    if hint is float:
        return isinstance(value, int | float | np.ndarray | jax.Array | np.floating) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int | np.integer) and not isinstance(value, bool)
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, arg) for arg in args)
    if origin is tuple and args:
        return isinstance(value, tuple) and all(_fits(v, args[0]) for v in value)
    return not isinstance(origin, type) or (isinstance(value, origin) and not isinstance(value, type))


def _type_name(hint: Any) -> str:
    names = {float: "a number", int: "an integer"}
    return names.get(hint, f"of type {hint}")


def _path(obj: Callable[..., Any]) -> str:
    return f"{obj.__module__}:{obj.__qualname__}"


def _resolve(path: Any) -> Any:
    module, _, name = str(path).partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if module.partition(".")[0] == "rljax" else None
    except (ImportError, AttributeError):
        found = None
    if getattr(found, "__module__", "").partition(".")[0] != "rljax":  # nor anything that a module of ours has imported
        raise InputError(
            f"config refers to {path}, which is not part of rljax: rebuild the config in Python and pass it to train"
        )
    return found
