"""`render`: one episode as a file to look at - a Brax scene (HTML), an animation (GIF), or else a plot (PNG)."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

import jax
import numpy as np

from rljax.base import Env, HostEnv
from rljax.envs import from_brax, from_gymnax, maze

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

FRAMES = 200  # at most; longer episodes are thinned out
SIDE = 240  # pixels of a frame's longer side
SMOOTH = 2  # drawn larger by this factor, then averaged
CURVES = 16  # observations with more elements are plotted as an image
BLACK, GREY, RED, BLUE, GREEN = (30, 30, 30), (190, 190, 190), (200, 60, 50), (50, 100, 190), (60, 150, 80)
PALETTE = ((240, 240, 240), BLUE, RED, (240, 170, 50), GREEN, (140, 90, 170), (90, 190, 200), (220, 120, 170), BLACK)


class Canvas(NamedTuple):
    """A frame with world coordinates: the box ``(left, bottom, right, top)``, y upwards, fills it."""

    image: Image
    draw: ImageDraw
    box: tuple[float, float, float, float]


Draw = Callable[[Canvas, np.ndarray], None]


def render(env: Env | HostEnv, states: Any, obs: np.ndarray, reward: np.ndarray) -> tuple[str, bytes]:
    """``(suffix, contents)`` of a file that shows one episode of T steps.

    ``states`` (leaves [T, ...]) and ``obs`` [T, ...] are those acted on, of one copy of ``env``
    (without states where it runs on the host); ``reward`` [T].
    """
    base, _, query = env.name.partition("?")
    family, _, env_id = base.partition("/")
    if family == "brax":
        backend = parse_qs(query).get("backend", [from_brax.defaults(env_id)["backend"]])[0]
        return ".html", _scene(from_brax.load(env_id, backend), states[0].pipeline_state.x).encode()
    drawing = _drawing(env_id if family in ("gymnax", "gymnasium") else base, obs)
    if drawing is None:
        return ".png", _plot(env.name, obs, reward)
    return ".gif", _animation(*drawing, np.asarray(obs), np.cumsum(reward))


def colors(images: np.ndarray) -> np.ndarray:
    """RGB [..., 3] of images [..., C] in [0, 1]: as they are, grey, or of more channels the strongest one in its colour."""
    channels = images.shape[-1]
    if channels in (1, 3):
        return np.broadcast_to(images, (*images.shape[:-1], 3))
    palette, strength = np.array(PALETTE) / 255, images.max(-1, keepdims=True)
    return (1 - strength) * palette[0] + strength * palette[1 + images.argmax(-1) % (len(PALETTE) - 1)]


def _scene(env: Any, x: Any) -> str:
    """Brax's page, whose viewer is loaded from the network; ``x`` are the links' transforms, leaves [T, links, ...]."""
    from brax.io import html

    x = jax.tree.map(np.asarray, x)
    states = [SimpleNamespace(x=jax.tree.map(lambda leaf: leaf[i], x)) for i in range(len(x.pos))]  # noqa: B023
    page: str = html.render(env.sys.tree_replace({"opt.timestep": env.dt}), states, height="100vh", colab=False)
    return page


def _plot(name: str, obs: np.ndarray, reward: np.ndarray) -> bytes:
    """PNG of return and reward, above the observations, over env steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    steps, flat = np.arange(len(reward)), np.asarray(obs, float).reshape(len(reward), -1)
    upper.plot(steps, np.cumsum(reward), label="return so far")
    upper.plot(steps, reward, label="reward", lw=0.8)
    upper.legend(frameon=False)
    upper.set(title=f"{name}: {len(reward)} steps, return {np.sum(reward):.1f}")
    upper.grid(alpha=0.3)
    if flat.shape[1] <= CURVES:
        lower.plot(steps, flat, lw=1, marker="." if len(steps) == 1 else None, label=[str(i) for i in range(flat.shape[1])])
        lower.legend(frameon=False, ncols=4, fontsize="small")
        lower.set(xlabel="env steps", ylabel="observation")
    else:
        image = lower.imshow(flat.T, aspect="auto", interpolation="nearest", origin="lower")
        figure.colorbar(image, ax=lower)
        lower.set(xlabel="env steps", ylabel="element of the observation")
    contents = io.BytesIO()
    figure.savefig(contents, dpi=100, format="png")
    return contents.getvalue()


def _animation(draw: Draw, box: tuple[float, float, float, float], ms: int, obs: np.ndarray, returns: np.ndarray) -> bytes:
    """GIF of one frame per step, or of `FRAMES` steps; each says its step and the return up to and with it."""
    from PIL import Image, ImageDraw

    width, height = box[2] - box[0], box[3] - box[1]
    scale = SMOOTH * SIDE / max(width, height)
    size = (round(width * scale / SMOOTH) * SMOOTH, round(height * scale / SMOOTH) * SMOOTH)
    frames = []
    for i in np.unique(np.linspace(0, len(obs) - 1, min(len(obs), FRAMES)).astype(int)):
        image = Image.new("RGB", size, "white")
        draw(Canvas(image, ImageDraw.Draw(image), box), obs[i])
        frame = Image.new("RGB", (size[0] // SMOOTH, size[1] // SMOOTH + 16), "white")
        frame.paste(image.reduce(SMOOTH), (0, 16))
        ImageDraw.Draw(frame).text((4, 2), f"step {i + 1}   return {returns[i]:.1f}", fill=BLACK)
        frames.append(frame.quantize(64))
    contents = io.BytesIO()
    frames[0].save(contents, "GIF", save_all=True, append_images=frames[1:], duration=ms, loop=0)
    return contents.getvalue()


def _drawing(name: str, obs: np.ndarray) -> tuple[Draw, tuple[float, float, float, float], int] | None:
    """How to draw an observation, the box it fills and the milliseconds it stays; None if nobody has told."""
    if name in _MECHANISMS:
        return _MECHANISMS[name]
    if name.startswith("maze/"):
        plan = maze.load(name.removeprefix("maze/"))
        path, (columns, rows) = maze.positions(plan, obs), plan.free.shape
        return (lambda canvas, o: _point_maze(canvas, plan, path, o)), (0.0, 0.0, float(columns), float(rows)), 50
    if name.endswith("-MinAtar") or name in from_gymnax.GRIDS:
        return _pixels, (0.0, 0.0, float(obs.shape[2]), float(obs.shape[1])), 100
    if name in _MAZES:
        import gymnax

        grid = gymnax.make(name)[0]
        rows, columns = grid.env_map.shape if name == "FourRooms-misc" else grid.desc.shape
        return (lambda canvas, o: _MAZES[name](canvas, grid, o)), (0.0, 0.0, float(columns), float(rows)), 100
    return None


def _at(canvas: Canvas, *points: tuple[float, float]) -> list[tuple[float, float]]:
    """Pixels of points in world coordinates."""
    left, bottom, right, top = canvas.box
    width, height = canvas.image.size
    return [((x - left) / (right - left) * width, (top - y) / (top - bottom) * height) for x, y in points]


def _line(canvas: Canvas, points: list[tuple[float, float]], color: Any, width: float) -> None:
    """A line of a width in world units, with round ends."""
    pixels = max(1, round(width * canvas.image.size[0] / (canvas.box[2] - canvas.box[0])))
    canvas.draw.line(_at(canvas, *points), fill=color, width=pixels, joint="curve")
    if pixels > 3:
        for x, y in (points[0], points[-1]):
            _disc(canvas, x, y, width / 2, color)


def _disc(canvas: Canvas, x: float, y: float, radius: float, color: Any) -> None:
    canvas.draw.ellipse([*_at(canvas, (x - radius, y + radius))[0], *_at(canvas, (x + radius, y - radius))[0]], fill=color)


def _rectangle(canvas: Canvas, left: float, bottom: float, right: float, top: float, color: Any) -> None:
    canvas.draw.rectangle([*_at(canvas, (left, top))[0], *_at(canvas, (right, bottom))[0]], fill=color)


def _pendulum(canvas: Canvas, obs: np.ndarray) -> None:
    cos, sin = obs[:2]  # of the angle from upright, which grows to the left
    _line(canvas, [(0, 0), (-sin, cos)], RED, 0.2)
    _disc(canvas, 0, 0, 0.06, BLACK)


def _cart_pole(canvas: Canvas, obs: np.ndarray) -> None:
    x, angle = obs[0], obs[2]
    _line(canvas, [(-2.4, 0), (2.4, 0)], GREY, 0.03)
    _rectangle(canvas, x - 0.25, -0.12, x + 0.25, 0.12, BLACK)
    _line(canvas, [(x, 0.08), (x + np.sin(angle), 0.08 + np.cos(angle))], RED, 0.1)


def _acrobot(canvas: Canvas, obs: np.ndarray) -> None:
    angle_1 = np.arctan2(obs[1], obs[0])  # from hanging down
    angle_2 = angle_1 + np.arctan2(obs[3], obs[2])
    elbow = np.sin(angle_1), -np.cos(angle_1)
    _line(canvas, [(-2.2, 1), (2.2, 1)], GREEN, 0.03)  # the height to reach
    _line(canvas, [(0, 0), elbow], BLUE, 0.16)
    _line(canvas, [elbow, (elbow[0] + np.sin(angle_2), elbow[1] - np.cos(angle_2))], RED, 0.16)


def _mountain_car(canvas: Canvas, obs: np.ndarray) -> None:
    x = np.linspace(-1.2, 0.6, 60)
    _line(canvas, list(zip(x, np.sin(3 * x) * 0.45, strict=True)), GREY, 0.015)
    _line(canvas, [(0.5, 0.45), (0.5, 0.6)], GREEN, 0.02)
    _disc(canvas, obs[0], np.sin(3 * obs[0]) * 0.45 + 0.04, 0.04, RED)


def _point_maze(canvas: Canvas, plan: maze.Maze, path: np.ndarray, obs: np.ndarray) -> None:
    """Walls, the goal, the whole episode's path and where the mass is now."""
    for column, row in np.argwhere(~plan.free):
        _rectangle(canvas, column, row, column + 1, row + 1, BLACK)
    (goal_x, goal_y), (x, y) = plan.goal, maze.positions(plan, obs)
    _disc(canvas, goal_x, goal_y, maze.RADIUS, GREEN)
    _line(canvas, list(zip(*path.T, strict=True)), GREY, 0.06)
    _disc(canvas, x, y, 0.15, RED)


def _pixels(canvas: Canvas, obs: np.ndarray) -> None:
    """Each cell in the colour of its last channel that is set."""
    from PIL import Image

    channels = np.reshape(obs, (*obs.shape[:2], -1)).astype(int)
    last = np.max(channels * (1 + np.arange(channels.shape[2])), 2)
    colors = np.array(PALETTE, np.uint8)[np.where(last > 0, 1 + (last - 1) % (len(PALETTE) - 1), 0)]
    canvas.image.paste(Image.fromarray(colors).resize(canvas.image.size, Image.Resampling.NEAREST))


def _cell(canvas: Canvas, row: float, column: float, color: Any) -> None:
    """Fill a cell; row 0 is at the top."""
    y = canvas.box[3] - row
    _rectangle(canvas, column, y - 1, column + 1, y, color)


def _four_rooms(canvas: Canvas, grid: Any, obs: np.ndarray) -> None:
    for row, column in np.argwhere(~np.asarray(grid.env_map, bool)):
        _cell(canvas, row, column, BLACK)
    _cell(canvas, obs[2], obs[3], GREEN)
    _disc(canvas, obs[1] + 0.5, canvas.box[3] - obs[0] - 0.5, 0.35, RED)


def _frozen_lake(canvas: Canvas, grid: Any, obs: np.ndarray) -> None:
    colors = (GREY, (225, 240, 250), BLUE, GREEN)  # start, frozen, hole, goal
    for (row, column), tile in np.ndenumerate(np.asarray(grid.desc)):
        _cell(canvas, row, column, colors[tile])
    row, column = divmod(int(np.argmax(obs)), grid.desc.shape[1])
    _disc(canvas, column + 0.5, canvas.box[3] - row - 0.5, 0.3, RED)


_MAZES = MappingProxyType({"FourRooms-misc": _four_rooms, "FrozenLake-misc": _frozen_lake})
_SWING = (_pendulum, (-1.3, -1.3, 1.3, 1.3), 50)
_CAR = (_mountain_car, (-1.25, -0.6, 0.65, 0.75), 50)
_MECHANISMS = MappingProxyType(
    {
        "pendulum": _SWING,
        "pendulum/angle": _SWING,
        "Pendulum-v1": _SWING,
        "CartPole-v1": (_cart_pole, (-2.6, -0.6, 2.6, 1.5), 50),
        "Acrobot-v1": (_acrobot, (-2.2, -2.2, 2.2, 2.2), 100),
        "MountainCar-v0": _CAR,
        "MountainCarContinuous-v0": _CAR,
    }
)
