"""Atari games of the Arcade Learning Environment (arXiv:1207.4708) as pure functions: a state holds that of the emulator.

Each env step calls the host, which restores the emulator's state, plays four frames and saves the state again. So a run resumes
exactly, and nothing depends on what else the process plays; copies and seeds are stepped one after the other.

The protocol is that of Atari 100k (arXiv:1903.00374), as in Drama: four frames per step, of which the maximum of the last two
is seen, 64 x 64 RGB, the game's minimal set of actions, none repeated at random, rewards as the game gives them, at most
108 000 frames per game. Deviation: a game starts after 0 to 30 random no-ops (doi:10.1038/nature14236), else all would start
alike.
"""

from __future__ import annotations

import functools
import threading
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Array, Discrete, Env, InputError, Spec, Step

FRAMES = 4  # per env step
SIDE = 64  # pixels
NOOPS = 30  # at most, at a game's start
SLACK = 64  # bytes by which a state may be longer than at the start
PAIRS = ("Combat", "Joust", "MazeCraze", "Warlords")  # games for two, which ale-py cannot play
OBS = Array((SIDE, SIDE, 3), "uint8", 0, 255)
TERMINAL = ("life", "game")

# Mean returns of random play and of a human tester (arXiv:1511.06581), in the 26 games of Atari 100k.
REFERENCE = MappingProxyType(
    {
        "Alien": (227.8, 7127.7),
        "Amidar": (5.8, 1719.5),
        "Assault": (222.4, 742.0),
        "Asterix": (210.0, 8503.3),
        "BankHeist": (14.2, 753.1),
        "BattleZone": (2360.0, 37187.5),
        "Boxing": (0.1, 12.1),
        "Breakout": (1.7, 30.5),
        "ChopperCommand": (811.0, 7387.8),
        "CrazyClimber": (10780.5, 35829.4),
        "DemonAttack": (152.1, 1971.0),
        "Freeway": (0.0, 29.6),
        "Frostbite": (65.2, 4334.7),
        "Gopher": (257.6, 2412.5),
        "Hero": (1027.0, 30826.4),
        "Jamesbond": (29.0, 302.8),
        "Kangaroo": (52.0, 3035.0),
        "Krull": (1598.0, 2665.5),
        "KungFuMaster": (258.5, 22736.3),
        "MsPacman": (307.3, 6951.6),
        "Pong": (-20.7, 14.6),
        "PrivateEye": (24.9, 69571.3),
        "Qbert": (163.9, 13455.0),
        "RoadRunner": (11.5, 7845.0),
        "Seaquest": (68.4, 42054.7),
        "UpNDown": (533.4, 11693.2),
    }
)

_LOCK = threading.Lock()  # a game has one emulator in a process


class State(NamedTuple):
    """The emulator's state as bytes, uint8 [E, n], and the env steps of each game, int32 [E]."""

    emulator: Any
    age: Any


class Emulator(NamedTuple):
    """An emulator with a game, the game's actions, its state at the start, and the bytes kept of any state."""

    ale: Any
    actions: list
    start: bytes
    size: int


def ids() -> tuple[str, ...]:
    """Ids of the games in the ale-py that is installed; without it the 26 of Atari 100k, which then say what they need."""
    try:
        from ale_py import roms
    except ImportError:
        return tuple(REFERENCE)
    games = ("".join(word.capitalize() for word in rom.split("_")) for rom in sorted(roms.get_all_rom_ids()))
    return tuple(game for game in games if game not in PAIRS)


def defaults(env_id: str) -> dict[str, Any]:
    """Options and their defaults."""
    return {"horizon": 108_000 // FRAMES, "terminal": "life"}


@functools.cache  # so that no program is compiled again
def build(env_id: str, num_envs: int, name: str, horizon: int, terminal: str) -> Env:
    """`Env` of a game: observations uint8 [64, 64, 3].

    With ``terminal`` "life" a lost life is ``terminated``, but the game goes on from there until it is over; then
    ``evaluation`` plays whole games. ``reference`` is known for the games of Atari 100k.

    Raises:
        InputError: without ale-py, and for another ``terminal``.
    """
    if terminal not in TERMINAL:
        raise InputError(f"terminal of ale/{env_id} must be {' or '.join(TERMINAL)}, got {terminal!r}")
    game = _load(env_id)
    spec = Spec(OBS, Discrete(len(game.actions)), horizon)

    emulators = State(_shape((num_envs, game.size), "uint8"), _shape((num_envs,), "int32"))
    obs = _shape((num_envs, *OBS.shape), "uint8")

    def noops(key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (num_envs,), 0, NOOPS + 1, jnp.int32)

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        begin = functools.partial(_begin, env_id)
        return jax.pure_callback(begin, (emulators, obs), noops(key), vmap_method="broadcast_all")

    def step(state: State, action: jax.Array, key: jax.Array) -> tuple[State, Step]:
        reward, flag = _shape((num_envs,), "float32"), _shape((num_envs,), "bool")
        play = functools.partial(_play, env_id, horizon, terminal == "life")
        out = (emulators, Step(obs, reward, obs, flag, flag))
        return jax.pure_callback(play, out, state, action, noops(key), vmap_method="broadcast_all")

    def resize(n: int) -> Env:
        return build(env_id, n, name, horizon, terminal)

    whole = build(env_id, num_envs, name, horizon, "game") if terminal == "life" else None
    return Env(spec, reset, step, num_envs, resize, name, whole, REFERENCE.get(env_id))


def _shape(shape: tuple[int, ...], dtype: str) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)


@functools.cache
def _load(env_id: str) -> Emulator:
    try:
        from ale_py import ALEInterface, LoggerMode, roms
    except ImportError:
        raise InputError(f"ale/{env_id} needs ale-py: pip install 'rljax[atari]'") from None
    rom = next(rom for rom in roms.get_all_rom_ids() if rom.replace("_", "") == env_id.lower())
    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 0)
    path: Any = roms.get_rom_path(rom)
    ale.loadROM(path)
    actions = ale.getMinimalActionSet()
    ale.act(actions[0])  # before its first frame a game's state is not complete
    start = ale.cloneState().serialize()
    return Emulator(ale, actions, start, len(start) + SLACK)


def _save(emulator: Emulator) -> np.ndarray:
    state = emulator.ale.cloneState().serialize()
    return np.frombuffer(state.ljust(emulator.size, b"\0"), np.uint8)


def _restore(emulator: Emulator, state: bytes) -> None:
    from ale_py import ALEState

    emulator.ale.restoreState(ALEState(state))


def _begin(env_id: str, noops: Any) -> Any:
    """``(State, obs)`` of new games [..., E], each after some no-ops."""
    counts = np.asarray(noops)
    with _LOCK:
        games = [_start(_load(env_id), count) for count in counts.ravel()]
    states, obs = _stacked(games, counts.shape)
    return State(states, np.zeros(counts.shape, np.int32)), obs


def _start(emulator: Emulator, noops: int) -> tuple[np.ndarray, np.ndarray]:
    _restore(emulator, emulator.start)
    for _ in range(noops):
        emulator.ale.act(emulator.actions[0])
    return _save(emulator), _shrunk(emulator.ale.getScreenRGB())


def _play(env_id: str, horizon: int, by_life: bool, state: State, action: Any, noops: Any) -> Any:
    """``(State, Step)`` after one env step in each of the games [..., E]; those that are over begin anew."""
    action, noops, age, old = map(np.asarray, (action, noops, state.age, state.emulator))  # no jax in a callback
    with _LOCK:
        rows = zip(old.reshape(action.size, -1), action.ravel(), noops.ravel(), age.ravel() + 1, strict=True)
        games = [_step(_load(env_id), *row, horizon, by_life) for row in rows]
    states, age, *step = _stacked(games, action.shape)
    return State(states, age), Step(*step)


def _step(
    emulator: Emulator, old: np.ndarray, action: int, noops: int, age: np.int32, horizon: int, by_life: bool
) -> tuple[Any, ...]:
    """State and age of one game after an env step, and the fields of its `Step`."""
    ale, reward, screens = emulator.ale, 0, []
    _restore(emulator, old.tobytes())
    lives = ale.lives()
    for frame in range(FRAMES):
        reward += ale.act(emulator.actions[action])
        over = bool(ale.game_over())
        if over or frame >= FRAMES - 2:
            screens.append(ale.getScreenRGB())
        if over:
            break
    terminated = over or (by_life and ale.lives() < lives)
    next_obs = _shrunk(np.max(screens, 0))
    ends = np.float32(reward), next_obs, terminated, age >= horizon and not terminated
    if over or age >= horizon:
        state, obs = _start(emulator, noops)
        return state, np.int32(0), obs, *ends
    return _save(emulator), age, next_obs, *ends


def _shrunk(screen: np.ndarray) -> np.ndarray:
    """A screen [210, 160, 3] as an observation, each pixel the mean of those that it covers."""
    from PIL import Image

    return np.asarray(Image.fromarray(screen).resize((SIDE, SIDE), Image.Resampling.BOX))


def _stacked(games: list[tuple[Any, ...]], shape: tuple[int, ...]) -> list[Any]:
    """The games' values, each as an array [..., E, ...]."""
    return [np.reshape(x, (*shape, *np.shape(x[0]))) for x in zip(*games, strict=True)]
