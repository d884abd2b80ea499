"""Signatures of classes that are made from their fields, NamedTuples and configs, for the API pages."""

from __future__ import annotations

from typing import Any

import griffe

POSITIONAL = griffe.ParameterKind.positional_or_keyword


class Fields(griffe.Extension):
    """Gives such a class an ``__init__`` with its fields, as griffe does for dataclasses."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        made = any(str(base) == "NamedTuple" for base in cls.bases) or any(str(x.value) == "config" for x in cls.decorators)
        if not made or "__init__" in cls.members:
            return
        fields = [x for x in cls.attributes.values() if x.annotation is not None and "property" not in x.labels]
        parameters = [griffe.Parameter(x.name, annotation=x.annotation, kind=POSITIONAL, default=x.value) for x in fields]
        first = griffe.Parameter("self", kind=POSITIONAL)
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(first, *parameters)))
