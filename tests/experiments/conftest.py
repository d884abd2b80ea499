"""What tests of resumed runs share: the module's ``short(out)`` makes a short run in a folder."""

from __future__ import annotations

import pytest

from rljax import store
from rljax.experiments.train import load


@pytest.fixture(scope="session")
def contents():
    """``contents(folder)``: all that must not depend on interruptions, the metrics' bytes and what was learned."""
    return lambda out: ((out / "metrics.jsonl").read_bytes(), store.digest(load(out).state))


@pytest.fixture(scope="module")
def whole(request, tmp_path_factory):
    """The folder of a run that was never interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    request.module.short(out)
    return out
