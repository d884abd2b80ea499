"""Fixtures for all tests, and a compilation cache that outlives the run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import jax
import pytest

import rljax

QUICK_CODE = "--xla_cpu_use_fusion_emitters=false"  # takes half the time to compile; known to XLA until jax 0.11


def pytest_configure(config: pytest.Config) -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.__version_info__ < (0, 11) and QUICK_CODE not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {QUICK_CODE}".strip()  # read by XLA at the first computation
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_report_header() -> str:
    return f"rljax: {rljax.__file__}"


@pytest.fixture(autouse=True, scope="module")
def programs_are_dropped() -> Iterator[None]:
    """Each compiled program holds a hundred memory mappings, of which Linux allows a process 65 530."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile without most optimisations: of networks this small, compiling is what takes time.

    A module whose programs run long, or are looked at, says ``OPTIMIZED = True``.
    """
    jax.config.update("jax_disable_most_optimizations", not getattr(request.module, "OPTIMIZED", False))
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def key_reuse_checks() -> Iterator[None]:
    """A key consumed twice is an error; to call a jitted function twice with one key, pass `jax.random.clone` of it."""
    with jax.debug_key_reuse(True):
        yield


@pytest.fixture
def no_rank_promotion() -> Iterator[None]:
    """Operands of different rank are an error, unless one is a scalar."""
    with jax.numpy_rank_promotion("raise"):
        yield


@contextlib.contextmanager
def _compilations() -> Iterator[list[str]]:
    names: list[str] = []

    def listen(event: str, duration: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":  # lowering comes before the cache is asked
            names.append(str(kwargs.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def compilations() -> Callable[[], contextlib.AbstractContextManager[list[str]]]:
    """``with compilations() as names``: the programs compiled in the block, as "jit(f)"; found in the cache or not."""
    return _compilations
