"""JAX-native functional reinforcement learning: agents are modules of pure functions, experiments compile whole."""

from __future__ import annotations

from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rljax.experiments.setup import Start
    from rljax.experiments.train import Result, load, train

__all__ = ["Result", "Start", "__version__", "load", "train"]

_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "agents" / "__init__.py").is_file():
    __path__.append(str(_root))  # a checkout: rljax.agents, rljax.envs and rljax.experiments lie beside this folder


def __getattr__(name: str) -> Any:
    if name in ("Result", "Start", "load", "train"):
        from rljax.experiments import train

        return getattr(train, name)
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("rljax")
        except metadata.PackageNotFoundError:  # a checkout that was never installed
            return "0+unknown"
    raise AttributeError(f"module 'rljax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
