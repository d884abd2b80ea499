"""Finite Markov decision processes as arrays: what `rljax.horizon` analyses and `rljax.envs.tabular` steps through."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rljax.base import InputError


class MDP(NamedTuple):
    """A finite MDP whose episodes begin in state 0 and last at most ``horizon`` steps.

    From state s, action a leads with ``probability[s, a, k]`` (float64, sums to 1 over k) to ``successor[s, a, k]`` (int32; -1
    ends the episode) and gives ``reward[s, a, k]`` (float64). All are [S, A, K]; K is 1 if nothing is random.
    """

    successor: np.ndarray
    probability: np.ndarray
    reward: np.ndarray
    horizon: int


def deterministic(successor: np.ndarray, reward: np.ndarray, horizon: int) -> MDP:
    """The `MDP` in which action a always leads from s to ``successor[s, a]`` and gives ``reward[s, a]``, both [S, A]."""
    successor, reward = np.asarray(successor), np.asarray(reward)
    return checked(MDP(successor[..., None], np.ones((*successor.shape, 1)), reward[..., None], horizon))


def checked(mdp: MDP) -> MDP:
    """``mdp`` with the types of `MDP`.

    Raises:
        InputError: for shapes that do not fit, states that do not exist, rewards that are not finite, or probabilities that do
            not sum to 1.
    """
    successor, probability, reward = (np.asarray(x) for x in mdp[:3])
    if successor.ndim != 3 or not successor.size or not successor.shape == probability.shape == reward.shape:
        shapes = f"{successor.shape}, {probability.shape} and {reward.shape}"
        raise InputError(f"an MDP needs successor, probability and reward of one shape [S, A, K], got {shapes}")
    if not np.issubdtype(successor.dtype, np.integer):
        raise InputError(f"successors must be whole numbers, got {successor.dtype}")
    for wrong, rule in (
        ((successor < -1) | (successor >= len(successor)), f"successors must be states from 0 to {len(successor) - 1}, or -1"),
        (~((probability >= 0) & (probability <= 1)), "probabilities must lie in [0, 1]"),
        (~np.isclose(probability.sum(-1), 1), "probabilities must sum to 1"),
        (~np.isfinite(reward), "rewards must be finite"),
    ):
        if wrong.any():
            where = np.argwhere(wrong)[0]
            raise InputError(f"{rule}: not so in state {where[0]}, action {where[1]}")
    if mdp.horizon < 1:
        raise InputError(f"the horizon must be at least 1 step, got {mdp.horizon}")
    return MDP(successor.astype(np.int32), probability.astype(np.float64), reward.astype(np.float64), int(mdp.horizon))
