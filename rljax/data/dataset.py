"""Recorded episodes as transitions, on the host: numpy arrays that a run hands to the device once.

N transitions, M episodes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rljax.base import Array, Discrete, InputError, Space, Spec, Transition, bounds

ENDS = ("terminated", "truncated", "cut off")  # how an episode ends; cut off: the recording stops within it
TOLERANCE = 1e-4  # how far outside its bounds an action may lie, in the env's units


@dataclass(frozen=True)
class Info:
    """What a file says beside its steps; ``reference`` holds the returns of a random and of an expert policy."""

    name: str
    format: str
    action: Space | None = None
    reference: tuple[float, float] | None = None
    fitted: bool = False  # whether actions are in [-1, 1], see `fit`


class Steps(NamedTuple):
    """Recorded steps [N] in order: a row is known if its successor is, last if its episode goes no further."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    timeout: np.ndarray
    last: np.ndarray
    known: np.ndarray


class Dataset(NamedTuple):
    """Transitions with a known successor, and the episodes they come from.

    A terminal's successor need not be known: nothing is learned from it. A last step without successor is no transition,
    but ``length`` and ``returns`` count it, and its reward is kept in ``dropped``.
    """

    transition: Transition  # [N, ...], rewards raw; actions in the file's units until `fit`
    episode: np.ndarray  # int32 [N], which episode
    length: np.ndarray  # int32 [M], steps
    returns: np.ndarray  # float64 [M], undiscounted sum of the raw rewards
    dropped: np.ndarray  # float64 [M], raw reward of the last step if that is no transition, else 0
    end: np.ndarray  # uint8 [M], index into `ENDS`
    info: Info

    @property
    def sizes(self) -> np.ndarray:
        """Transitions of each episode, int64 [M]."""
        return np.bincount(self.episode, minlength=len(self.length))

    @property
    def starts(self) -> np.ndarray:
        """Index of each episode's first transition, int64 [M]."""
        return np.cumsum(self.sizes) - self.sizes


def from_steps(steps: Steps, info: Info) -> Dataset:
    """The `Dataset` of steps in order; observations are kept as uint8 or become float32.

    Raises:
        InputError: if no step has a known successor.
    """
    keep = steps.known | steps.terminated
    if not keep.any():
        raise InputError(f"{info.name} has no transition: no step has a known successor")
    episode = np.cumsum(steps.last) - steps.last
    num = int(episode[-1]) + 1
    rewards = steps.reward.astype(np.float64)
    end = np.full(num, ENDS.index("cut off"), np.uint8)
    end[episode[steps.last & steps.timeout]] = ENDS.index("truncated")
    end[episode[steps.last & steps.terminated]] = ENDS.index("terminated")
    dropped = np.zeros(num)
    dropped[episode[~keep]] = rewards[~keep]
    transition = Transition(
        obs=_observations(steps.obs)[keep],
        action=steps.action[keep],
        reward=steps.reward[keep].astype(np.float32),
        next_obs=_observations(steps.next_obs)[keep],
        terminated=steps.terminated[keep],
        truncated=(steps.last & ~steps.terminated)[keep],
    )
    return Dataset(
        transition=transition,
        episode=episode[keep].astype(np.int32),
        length=np.bincount(episode, minlength=num).astype(np.int32),
        returns=np.bincount(episode, rewards, num),
        dropped=dropped,
        end=end,
        info=info,
    )


def select(dataset: Dataset, episodes: np.ndarray) -> Dataset:
    """The data set of these episodes (indices, rising) alone."""
    keep = np.isin(dataset.episode, episodes)
    number = np.cumsum(np.isin(np.arange(len(dataset.length)), episodes)) - 1
    return Dataset(
        transition=Transition(*(x[keep] for x in dataset.transition)),
        episode=number[dataset.episode[keep]].astype(np.int32),
        length=dataset.length[episodes],
        returns=dataset.returns[episodes],
        dropped=dataset.dropped[episodes],
        end=dataset.end[episodes],
        info=dataset.info,
    )


def spec_of(dataset: Dataset, low: float | None = None, high: float | None = None) -> Spec:
    """The `Spec` of a data set whose environment is not at hand; the horizon is the longest episode.

    Raises:
        InputError: if the file does not say the actions' bounds and ``low`` and ``high`` are not given.
    """
    obs, action = dataset.transition.obs, dataset.transition.action
    if low is not None and high is not None:
        if action.dtype.kind == "i":
            raise InputError(f"{dataset.info.name} has discrete actions: leave out --action-low and --action-high")
        if not -np.inf < low < high < np.inf:
            raise InputError(f"the lower bound of actions must be below the upper one, and both finite, got {low} and {high}")
        space: Space | None = Array(action.shape[1:], "float32", float(low), float(high))
    else:
        space = dataset.info.action
    if space is None and action.dtype.kind == "i":
        space = Discrete(int(action.max()) + 1)
    if space is None:
        raise InputError(
            f"{dataset.info.name} does not say its actions' bounds: give --action-low and --action-high, "
            "or an environment to evaluate in"
        )
    return Spec(Array(obs.shape[1:], str(obs.dtype)), space, int(dataset.length.max()))


def fit(dataset: Dataset, spec: Spec) -> Dataset:
    """The data set as an agent for ``spec`` sees it: continuous actions mapped from the spec's bounds to [-1, 1].

    Raises:
        InputError: if observations or actions have other shapes than the spec, or an action lies outside its bounds.
    """
    name, t = dataset.info.name, dataset.transition
    if dataset.info.fitted:
        if dataset.info.action != spec.action or t.obs.shape[1:] != spec.obs.shape:
            raise InputError(f"{name} was fitted to another environment: load it again")
        return dataset
    if t.obs.shape[1:] != spec.obs.shape:
        raise InputError(f"{name} has observations of shape {t.obs.shape[1:]}, the environment has {spec.obs.shape}")
    discrete = t.action.dtype.kind == "i"
    if discrete != isinstance(spec.action, Discrete):
        kinds = ("continuous", "discrete")
        raise InputError(f"{name} has {kinds[discrete]} actions, the environment has {kinds[not discrete]} ones")
    obs = [x.astype(spec.obs.dtype) for x in (t.obs, t.next_obs)]
    if isinstance(spec.action, Discrete):
        _check_actions(name, (t.action < 0) | (t.action >= spec.action.n), t.action, f"0 to {spec.action.n - 1}")
        return dataset._replace(transition=t._replace(obs=obs[0], next_obs=obs[1]))
    if t.action.shape[1:] != spec.action.shape:
        raise InputError(f"{name} has actions of shape {t.action.shape[1:]}, the environment has {spec.action.shape}")
    low, high = bounds(spec.action)
    _check_actions(name, (t.action < low - TOLERANCE) | (t.action > high + TOLERANCE), t.action, f"{low} to {high}")
    action = np.clip(2 * (t.action - low) / (high - low) - 1, -1, 1).astype(np.float32)
    transition = t._replace(obs=obs[0], next_obs=obs[1], action=action)
    return dataset._replace(transition=transition, info=replace(dataset.info, action=spec.action, fitted=True))


def mc_returns(
    dataset: Dataset, discount: float, scale: float = 1.0, bias: float = 0.0, failure: float | None = None
) -> np.ndarray:
    """Discounted return-to-go float32 [N] of the rewards ``scale * reward + bias``, up to the recorded end of the episode.

    Where every reward of an episode is ``failure`` (in raw units), it is the value of failing for ever,
    (scale * failure + bias) / (1 - discount): a time limit would make failures look better than they are
    (Cal-QL and WSRL, arXiv:2303.05479, arXiv:2412.07762).
    """
    if not 0 <= discount < 1:
        raise InputError(f"discount must be in [0, 1), got {discount}")
    count, start = dataset.sizes, dataset.starts
    has_dropped = dataset.length > count
    carry = np.where(has_dropped, scale * dataset.dropped + bias, 0.0)
    out = scale * dataset.transition.reward.astype(np.float64) + bias
    order = np.argsort(-count, kind="stable")
    for back in range(1, int(count.max()) + 1):  # all episodes at once, from their ends
        longer = order[: np.searchsorted(-count[order], -back, side="right")]
        row = start[longer] + count[longer] - back
        out[row] += discount * carry[longer]
        carry[longer] = out[row]
    if failure is not None:
        failing = np.bincount(dataset.episode, dataset.transition.reward != np.float32(failure), len(count)) == 0
        failing &= ~has_dropped | (dataset.dropped == failure)
        out[failing[dataset.episode]] = (scale * failure + bias) / (1 - discount)
    return out.astype(np.float32)


def digest(dataset: Dataset) -> str:
    """16 hex digits of a SHA-256 over all arrays: what a run remembers of its data."""
    sha = hashlib.sha256()
    for x in (*dataset.transition, *dataset[1:6]):
        sha.update(f"{x.dtype}{x.shape}".encode())
        sha.update(np.ascontiguousarray(x).data)
    return sha.hexdigest()[:16]


def whole(action: np.ndarray, where: str) -> np.ndarray:
    """Discrete actions [N] as int32.

    Raises:
        InputError: if one is not a whole number that int32 holds.
    """
    with np.errstate(invalid="ignore"):
        found = action.astype(np.int32)
    wrong = found != action
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{where} is {action[row]} in row {row}: discrete actions must be whole numbers of 32 bits")
    return found


def _observations(obs: np.ndarray) -> np.ndarray:
    obs = obs if obs.ndim > 1 else obs[:, None]
    return obs if obs.dtype == np.uint8 else obs.astype(np.float32)


def _check_actions(name: str, outside: np.ndarray, action: np.ndarray, rule: str) -> None:
    rows = outside.reshape(len(outside), -1).any(1)
    if rows.any():
        row = int(rows.argmax())
        raise InputError(f"{name}, transition {row}: action {action[row].tolist()} lies outside the bounds {rule}")
