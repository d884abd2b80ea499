"""One module under two names: `agents.sac`, as typed in a checkout's root, is `rljax.agents.sac`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Alias(MetaPathFinder, Loader):
    """Imports ``name.x`` as ``rljax.name.x``: the import system returns what `exec_module` leaves in `sys.modules`."""

    def __init__(self, name: str):
        self.prefix = name + "."

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.startswith(self.prefix) else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = import_module("rljax." + module.__name__)


def alias(name: str) -> None:
    """Make the package ``name``, which is being imported, and all its submodules those of ``rljax.name``."""
    sys.meta_path.insert(0, _Alias(name))
    sys.modules[name] = import_module("rljax." + name)
