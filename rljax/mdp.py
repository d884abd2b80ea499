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
    if not isinstance(mdp, MDP):
        raise InputError(f"an MDP must be of the class rljax.mdp.MDP, got {type(mdp).__name__}")
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
    probability = np.ones(reward.shape) if reward.shape[2] == 1 else probability.astype(np.float64)
    return MDP(successor.astype(np.int32), probability, reward.astype(np.float64), int(mdp.horizon))


def simplest(mdp: MDP) -> MDP:
    """``mdp`` with K = 1 if nothing in it is random, else as it is."""
    certain = mdp.probability == 1
    if mdp.successor.shape[2] == 1 or not certain.any(-1).all():
        return mdp
    which = certain.argmax(-1)[..., None]
    successor, probability, reward = (np.take_along_axis(x, which, -1) for x in mdp[:3])
    return MDP(successor, probability, reward, mdp.horizon)


def reachable(mdp: MDP, steps: int | None = None) -> np.ndarray:
    """Bool [S]: the states that some actions lead to within ``steps`` steps, or in any number of them."""
    found = np.arange(len(mdp.successor)) == 0
    new, count = np.flatnonzero(found), 0
    while new.size and (steps is None or count < steps):
        leads_to = mdp.successor[new][mdp.probability[new] > 0]
        fresh = np.zeros_like(found)
        fresh[leads_to[leads_to >= 0]] = True
        fresh &= ~found
        found |= fresh
        new, count = np.flatnonzero(fresh), count + 1
    return found


def sticky(mdp: MDP, p: float) -> MDP:
    """The `MDP` in which, from the second step on, the action executed last is executed again with probability ``p``.

    Its states are the start, 0, and the pairs of a state and the action that led to it, in that order and only those that
    can occur; K is doubled: first what the chosen action does (1 - p), then the repeated one (p). ``p`` = 0 gives ``mdp``.

    Rewards that are float32 numbers, as BRIDGE's are, get the value whose product with the probability of its half is the
    float32 product, as in the reference (arXiv:2312.08369); so they can differ by 6e-8 of their size from those of ``mdp``,
    and do not if products are exact, as 0.25 x 1 is.

    Raises:
        InputError: unless 0 <= p < 1.
    """
    if not 0 <= p < 1:
        raise InputError(f"the probability of a repeated action must be at least 0 and below 1, got {p}")
    if p == 0:
        return mdp
    num_states, num_actions, _ = mdp.successor.shape
    usable = (mdp.successor >= 0) & (mdp.probability > 0) & reachable(mdp)[:, None, None]
    pair = mdp.successor.astype(np.int64) * num_actions + np.arange(num_actions)[:, None]
    pairs = np.unique(pair[usable])
    number = np.full(num_states * num_actions, -1, np.int32)
    number[pairs] = np.arange(1, len(pairs) + 1)
    leads_to = np.where(mdp.successor >= 0, number[pair], -1)
    state, last = np.divmod(pairs, num_actions)
    shape, parts = (len(pairs), *mdp.successor.shape[1:]), []
    for share, action in ((1 - p, np.arange(num_actions)[None]), (p, last[:, None])):
        at = (state[:, None], action)
        part = leads_to[at], mdp.probability[at] * share, _rounded(mdp.reward, share)[at]
        parts.append([np.broadcast_to(x, shape) for x in part])
    lifted = [np.concatenate(x, -1) for x in zip(*parts, strict=True)]
    first = leads_to[:1], mdp.probability[:1], mdp.reward[:1]
    nothing = np.full_like(leads_to[:1], -1), np.zeros_like(mdp.probability[:1]), np.zeros_like(mdp.reward[:1])
    start = [np.concatenate(x, -1) for x in zip(first, nothing, strict=True)]
    successor, probability, reward = (np.concatenate(x) for x in zip(start, lifted, strict=True))
    return MDP(successor, probability, reward, mdp.horizon)


def sticky_states(mdp: MDP) -> int:
    """How many pairs of a state and the action executed last occur within an episode of ``mdp`` with sticky actions.

    The states in which it acts, as the reference of arXiv:2312.08369 counts them: the start is taken for state 0 after
    action 0, and the end of the episode, if it comes before the last step, for one more state with each action.
    """
    if mdp.horizon == 1:
        return 1
    num_states, num_actions, _ = mdp.successor.shape
    before = reachable(mdp, mdp.horizon - 2)
    used = (mdp.probability > 0) & before[:, None, None]
    target = np.where(mdp.successor < 0, num_states, mdp.successor.astype(np.int64))
    pairs = np.unique((target * num_actions + np.arange(num_actions)[:, None])[used])
    ended = pairs // num_actions == num_states
    if ended.any() and _ends_before(mdp, mdp.horizon - 2):
        ends = num_actions  # once it has ended, every action leaves it so
    else:
        ends = int(ended.sum())
    return int((~ended).sum()) + ends + (0 not in pairs)


def _ends_before(mdp: MDP, steps: int) -> bool:
    """Whether some episode of ``mdp`` ends within ``steps`` steps."""
    if steps < 1:
        return False
    before = reachable(mdp, steps - 1)
    return bool(((mdp.successor < 0) & (mdp.probability > 0) & before[:, None, None]).any())


def _rounded(reward: np.ndarray, share: float) -> np.ndarray:
    """``reward``, such that ``share`` times it is a float32 if every reward is one."""
    with np.errstate(over="ignore"):
        single = reward.astype(np.float32)
    if not np.array_equal(single, reward):
        return reward
    return (np.float32(share) * single).astype(np.float64) / share
