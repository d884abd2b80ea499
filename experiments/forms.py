"""Command lines: an agent's config as a form that tyro fills, and what is read of a command line before that."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro

from rljax.base import InputError
from rljax.config import override

FLAGS = frozenset({"-h", "--help", "--fresh", "--no-fresh", "--plan", "--no-plan"})
INNER = "__"  # the dot of "head.low", in the name of a form's field


def value(args: list[str], option: str) -> str | None:
    """The value given to ``option``, if it is given."""
    for i, arg in enumerate(args):
        if arg == option and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(option + "="):
            return arg.partition("=")[2]
    return None


def positionals(args: list[str]) -> list[str]:
    """The arguments that are neither options nor their values; all options but `FLAGS` take one value."""
    found, skip = [], False
    for arg in args:
        if skip:
            skip = False
        elif arg.startswith("-"):
            skip = arg not in FLAGS and "=" not in arg
        else:
            found.append(arg)
    return found


def form(config: Any) -> Any:
    """``config`` as a dataclass that tyro can fill: choices as their names, comments as help."""
    values, fields = {}, []
    for field, kind, comment in described(type(config)):
        value, choices = getattr(config, field.name), field.metadata.get("choices") or {}
        values[field.name] = _name(value, choices)
        fields.append((field.name, Annotated[_as_names(field, kind), tyro.conf.arg(help=comment)]))
        if dataclasses.is_dataclass(value):
            for inner, (inner_kind, help_) in _inner_fields(config, field.name).items():
                name = f"{field.name}.{inner}"
                values[name.replace(".", INNER)] = None
                option = tyro.conf.arg(name=name, help=f"{help_}; as the head has it, or computed, if not given")
                fields.append((name.replace(".", INNER), Annotated[inner_kind | None, option]))
    return dataclasses.make_dataclass("Config", fields, frozen=True)(**values)


def described(config: type) -> list[tuple[Any, Any, str]]:
    """``(field, type, comment)`` of each field."""
    comments = dict(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(config), re.MULTILINE))
    kinds = inspect.get_annotations(config, eval_str=True)
    return [(field, kinds[field.name], comments.get(field.name, "")) for field in dataclasses.fields(config)]


def _as_names(field: Any, kind: Any) -> Any:
    return Literal[tuple(field.metadata["choices"])] if field.metadata.get("choices") else kind


def _name(value: Any, choices: Mapping[str, Any]) -> Any:
    """The name of the choice that ``value`` is, or, of a config with other numbers, that of its kind; else ``value``."""
    same = [k for k, v in choices.items() if v is value or (type(v) is type(value) and v == value)]
    alike = [k for k, v in choices.items() if dataclasses.is_dataclass(v) and type(v) is type(value)]
    return (same + alike + [value])[0]


def read(filled: Any, preset: Any) -> Any:
    """The config ``preset`` with what was ``filled`` in instead into its form."""
    return override(preset, changes(filled, preset))


def changes(filled: Any, preset: Any) -> dict[str, Any]:
    """What was ``filled`` into the form of ``preset``: fields, such as "head.low", and their values."""
    there = vars(form(preset))
    return {k.replace(INNER, "."): v for k, v in vars(filled).items() if v != there[k]}


def typed(preset: Any, field: str, text: str, prog: str) -> Any:
    """``text`` as a value of a config's field, such as "head.low"."""
    require_field(preset, field)
    try:
        filled = parse(type(form(preset)), [f"--{field.replace('_', '-')}={text}"], prog, form(preset))
    except InputError:
        raise InputError(f"{text!r} is no value for {field}: see {prog} --help") from None
    return getattr(filled, field.replace(".", INNER))


def given(filled: Any) -> set[str]:
    """Names of the fields that have a value in a ``filled`` form, such as "head.low"."""
    return {name.replace(INNER, ".") for name, value in vars(filled).items() if value is not None}


def parse(command: Any, args: list[str], prog: str, defaults: Any = None) -> Any:
    """Parse with tyro; what it says of a mistake becomes one sentence."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(command, args=args, prog=prog, default=defaults)
    except SystemExit as end:
        if not end.code:
            raise
    lines = [line.strip("│ ") for line in complaint.getvalue().splitlines()][1:]  # the first is a title
    parts = [list(part) for rule, part in itertools.groupby(lines, lambda line: set(line) <= set("─-╭╮╰╯")) if not rule]
    raise InputError(" ".join(parts[0]).rstrip(".") + f"; see {prog} --help")


def require_field(config: Any, path: str) -> None:
    """Raise `InputError` unless ``config``, or one of the choices for a config within it, has the field."""
    name, _, inner = path.partition(".")
    override(config, {name: getattr(config, name, None)})
    if inner and inner not in _inner_fields(config, name):
        known = ", ".join(_inner_fields(config, name)) or "none"
        raise InputError(f"config.{name} has no field {inner!r}: its fields are {known}")


def _inner_fields(config: Any, name: str) -> dict[str, tuple[Any, str]]:
    """``{field: (type, comment)}`` of all choices for the config within ``config`` called ``name``."""
    choices = next(f.metadata.get("choices") or {} for f in dataclasses.fields(config) if f.name == name)
    found: dict[str, tuple[Any, str]] = {}
    for choice in filter(dataclasses.is_dataclass, choices.values()):
        for field, kind, comment in described(type(choice)):
            found.setdefault(field.name, (_as_names(field, kind), comment))
    return found
