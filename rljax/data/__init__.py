"""Offline data: files to transitions, trajectory weights, reference scores. Nothing here imports a simulator."""

from rljax.data import mdps
from rljax.data.dataset import ENDS, Dataset, Info, digest, fit, mc_returns, select, spec_of
from rljax.data.files import load
from rljax.data.save import concatenate, save, take
from rljax.data.scores import normalized_score, reference

__all__ = [
    "ENDS",
    "Dataset",
    "Info",
    "concatenate",
    "digest",
    "fit",
    "load",
    "mc_returns",
    "mdps",
    "normalized_score",
    "reference",
    "save",
    "select",
    "spec_of",
    "take",
]
