"""Environments by name, one adapter per library: `make`, `names`, and `check` for an environment of your own."""

from __future__ import annotations

import difflib
import functools
import re
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlencode

import numpy as np

from rljax.base import Env, HostEnv, InputError
from rljax.envs import from_ale, from_brax, from_gymnasium, from_gymnax, maze, pendulum, recall, tabular
from rljax.envs.contract import check

__all__ = ["check", "make", "names"]

_ADAPTERS = MappingProxyType(
    {
        "ale": from_ale,
        "brax": from_brax,
        "gymnax": from_gymnax,
        "maze": maze,
        "pendulum": pendulum,
        "recall": recall,
        "tabular": tabular,
    }
)

MOST = 2**31  # what counts env steps and copies is 32 bits wide

if __name__ == "envs":  # python runs in the checkout's root
    from rljax.alias import alias

    alias(__name__)


def make(name: str, num_envs: int = 1, **options: Any) -> Env | HostEnv:
    """`Env` of ``num_envs`` copies: ``pendulum``, ``recall``, or ``ale/``, ``brax/``, ``gymnax/``, ``maze/``, ``tabular/<id>``.

    Equal arguments give the same object. ``gymnasium/<id>`` is any environment registered with gymnasium, as a `HostEnv`;
    it has no options.

    Options stand in the name or beside it: ``make("brax/hopper?backend=mjx")`` is ``make("brax/hopper", backend="mjx")``.
    All adapters know ``horizon`` (env steps), brax also ``backend``. ``env.name`` is the name with the options that are
    not defaults: ``make(env.name)`` gives this env again. Raises `InputError` for a name, option or number that is wrong.

    >>> make("pendulum", num_envs=2, horizon=50).name
    'pendulum?horizon=50'
    """
    if not isinstance(name, str):
        raise InputError(f"an environment's name must be text, got {type(name).__name__}")
    if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer):
        raise InputError(f"num_envs must be a whole number, got {type(num_envs).__name__}")
    if not 1 <= num_envs < MOST:
        raise InputError(f"num_envs must be at least 1 and below {MOST}, got {num_envs}")
    base, _, query = name.partition("?")
    given = {k: v[-1] for k, v in parse_qs(query, keep_blank_values=True).items()} | options
    family, _, env_id = base.partition("/")
    if family == "gymnasium" and env_id:
        _options(base, {}, given)
        return from_gymnasium.build(env_id, num_envs, name)
    adapter = _ADAPTERS.get(family)
    if adapter is None or not (env_id in adapter.ids() or (adapter is tabular and env_id.endswith(tabular.SUFFIX))):
        raise InputError(getattr(adapter, "BROKEN", {}).get(env_id) or _unknown(base))
    chosen = _options(base, adapter.defaults(env_id), given)
    return _make(base + ("?" if chosen else "") + urlencode(chosen), num_envs)


def names() -> list[str]:
    """Every name that `make` knows, without options. Imports gymnax."""
    return [f"{family}/{i}".rstrip("/") for family, adapter in sorted(_ADAPTERS.items()) for i in adapter.ids()]


@functools.cache
def _make(name: str, num_envs: int) -> Env:
    base, _, query = name.partition("?")
    family, _, env_id = base.partition("/")
    adapter = _ADAPTERS[family]
    defaults = adapter.defaults(env_id)
    given = {k: _kind(k, defaults[k])(v[0]) for k, v in parse_qs(query).items()}
    env: Env = adapter.build(env_id, num_envs, name, **(defaults | given))
    return env._replace(resize=functools.partial(_make, name))


def _options(base: str, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, str]:
    """The options in ``given`` that differ from ``defaults``, as text and sorted."""
    unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        raise InputError(
            f"{base} has no option {', '.join(map(repr, unknown))}: it knows {', '.join(sorted(defaults)) or 'none'}"
        )
    chosen = {k: str(given[k]) for k in sorted(given) if str(given[k]) != str(defaults[k])}
    for k, text in chosen.items():
        kind = _kind(k, defaults[k])
        if kind is int and not (re.fullmatch(r"\d{1,18}", text) and 0 < int(text) < MOST):
            unit = " of env steps" * (k == "horizon")
            raise InputError(f"{k} of {base} must be a whole number{unit} above 0 and below {MOST}, got {text!r}")
        if kind is float and not re.fullmatch(r"\d*\.?\d+", text):
            raise InputError(f"{k} of {base} must be a number, got {text!r}")
    if "backend" in chosen and chosen["backend"] not in from_brax.BACKENDS:
        raise InputError(f"unknown backend {chosen['backend']!r} of {base}: choose {', '.join(from_brax.BACKENDS)}")
    return chosen


def _kind(name: str, default: Any) -> type:
    """The type of an option: that of its default; a horizon is a whole number, also where the environment chooses it."""
    return int if name == "horizon" else type(default)


def _unknown(base: str) -> str:
    known = {name.lower(): name for name in names()}
    close = difflib.get_close_matches(base.lower(), known, n=1, cutoff=0.75)
    hint = f"did you mean {known[close[0]]}?" if close else "see `rljax envs`"
    return f"unknown environment {base!r}: {hint}"
