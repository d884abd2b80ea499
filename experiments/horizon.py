"""``rljax horizon``: how hard exploration is in a finite MDP, or, as far as episodes show, in any environment."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

import numpy as np
import tyro

from rljax.base import Env, InputError
from rljax.experiments import forms
from rljax.mdp import MDP

Numbers = dict[str, Any]
LINES = 20  # of the drawing in the terminal, at most
BAR = 40  # characters


@dataclass(frozen=True)
class Horizon:
    """Say how hard exploration is in an MDP: FILE is an npz file (of BRIDGE, or as rljax writes it), or an environment.

    tabular/ environments are analysed exactly; others are estimated from episodes, if their actions are discrete.
    """

    file: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FILE")]]  # an npz file, or one of `rljax envs`
    sticky: float = 0.0  # probability that the action executed before is repeated, from the second step on
    horizon: int | None = None  # steps of an episode [as the file's name says, such as freeway_10_fs30: 10]
    exploration: Path | None = None  # an npy file [T, S or S + 1, A] with the exploration policy [random actions]
    gorp: bool = True  # also the tighter bounds for GORP, where they do not take too long
    max_k: int | None = None  # largest k of these bounds [as far as it is quick, A^k <= 1000]; of an estimate from episodes [3]
    episodes: int = 500  # episodes of each action sequence, if the numbers are estimated
    seed: int = 0  # of these episodes
    json: bool = False  # print one JSON object, in which infinite numbers are "inf"
    png: Path | None = None  # draw the values over time into this file


def horizon(args: list[str]) -> int:
    """``rljax horizon``."""
    given = forms.parse(Horizon, args, "rljax horizon")
    if given.max_k is not None and given.max_k < 1:
        raise InputError(f"--max-k must be at least 1, got {given.max_k}")
    if given.episodes < 2:
        raise InputError(f"--episodes must be at least 2, got {given.episodes}")
    if given.png is not None and not (given.png.suffix == ".png" and given.png.absolute().parent.is_dir()):
        raise InputError(f"--png must be a file that ends in .png, in a folder that exists, got {given.png}")
    source = find(given.file, given.horizon, given.sticky)
    if isinstance(source, Env):
        return _estimated(source, given)
    mdp, sticky = source
    numbers = analysis(mdp, sticky, given.exploration, given.max_k, given.gorp)
    if given.png is not None:
        from rljax.experiments import report

        report.save_png(figure(numbers, given.file), given.png)
    if given.json:
        print(json.dumps(_plain(numbers)))
        return 0
    print(f"{table(numbers)}\n\n{chart(numbers)}\n\n{words(numbers)}")
    if given.png is not None:
        print(f"picture in {given.png}")
    return 0


def find(name: str, steps: int | None, sticky: float) -> tuple[MDP, float] | Env:
    """What ``name`` means: an MDP and its stickiness, or an environment that is no table.

    Raises:
        InputError: if there is no such file or environment, it is broken, or its simulator runs on the host.
    """
    from rljax import envs
    from rljax.data import mdps
    from rljax.envs import tabular

    base, _, query = name.partition("?")
    family, _, inner = base.partition("/")
    if family != "tabular" and (base.endswith(tabular.SUFFIX) or Path(name).exists()):
        return mdps.read(name, steps, pixels=False).mdp, sticky
    options: dict[str, Any] = {} if steps is None else {"horizon": steps}
    env = envs.make(name, **options)
    if not isinstance(env, Env):
        raise InputError(f"{name} runs on the host: `rljax horizon` takes npz files, and environments that are compiled")
    if family != "tabular":
        if sticky:
            raise InputError("--sticky is for MDPs in files and tabular/ environments")
        return env
    given = {k: v[-1] for k, v in parse_qs(query).items()}
    if sticky and "sticky" in given:
        raise InputError(f"{name} says how sticky actions are: leave out --sticky")
    if inner.endswith(tabular.SUFFIX):
        mdp = mdps.read(inner, env.spec.horizon, pixels=False).mdp
    else:
        sizes = {k: int(v) for k, v in given.items() if k not in ("sticky", "observation", "horizon")}
        mdp = tabular.FAMILIES[inner](**sizes)._replace(horizon=env.spec.horizon)
    return mdp, sticky or float(given.get("sticky", 0))


def analysis(
    mdp: MDP, sticky: float = 0.0, exploration: Path | None = None, max_k: int | None = None, gorp: bool = True
) -> Numbers:
    """All numbers of ``rljax horizon`` by name; ``exploration`` is an npy file."""
    from rljax import horizon as theory
    from rljax.data import mdps
    from rljax.experiments import machine
    from rljax.mdp import sticky as lifted
    from rljax.mdp import sticky_states

    if sticky and exploration is not None:
        raise InputError("--exploration describes the states of the file, so it cannot be used with --sticky")
    policy = None if exploration is None else mdps.read_policy(exploration)
    whole = lifted(mdp, sticky)
    machine.require_free(theory.memory(whole), "the analysis", f"lower --horizon, which is {mdp.horizon}")
    found = theory.analyze(whole, policy)
    behaviour = "random" if policy is None else "exploration"
    numbers = {
        "states": sticky_states(mdp) if sticky else found.num_states,
        "actions": found.num_actions,
        "horizon": found.horizon,
        "sticky": sticky,
        "optimal_return": found.optimal_return,
        f"{behaviour}_return": found.exploration_return,
        "worst_return": found.worst_return,
        "k_min": found.k_min,
        "epw": found.epw,
        "effective_horizon": found.effective_horizon,
        **{name: [getattr(b, x) for b in found.bounds] for name, x in _BOUNDS},
        "stochastic_effective_horizon": found.stochastic_effective_horizon,
        "stochastic_gap": found.stochastic_gap,
        "greedy_returns": list(found.greedy_returns),
        **{f"min_{name}_occupancy": x for name, x in found.occupancy._asdict().items()},
        "covering_length": found.covering_length,
        "optimal_value": found.optimal_value.tolist(),
        f"{behaviour}_value": found.exploration_value.tolist(),
    }
    if gorp and whole.successor.shape[2] == 1:
        work = {} if max_k is None else {"work": math.inf}
        numbers |= _gorp(theory.gorp_bounds(whole, policy, max_k, **work))
    return numbers


_BOUNDS = (("ks", "k"), ("ms", "samples"), ("vars", "var"), ("gaps", "gap"))


def _gorp(bounds: tuple[Any, ...]) -> Numbers:
    """The best of the bounds for GORP, and each of them; nothing if there are none."""
    if not bounds:
        return {}
    by_steps = min(bounds, key=lambda b: math.inf if b.steps is None else b.steps)
    return {
        "gorp_effective_horizon": min(b.effective_horizon for b in bounds),
        "gorp_k": by_steps.k,
        "gorp_samples": by_steps.steps,
        "gorp_bounds": [
            {"k": b.k, "m": b.samples, "effective_horizon": b.effective_horizon, "samples": b.steps} for b in bounds
        ],
    }


def _plain(x: Any) -> Any:
    """``x`` for JSON, in which numbers that are not finite are the strings "inf", "-inf" and "nan"."""
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, list):
        return [_plain(v) for v in x]
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x


def _behaviour(numbers: Numbers) -> str:
    return "random" if "random_return" in numbers else "exploration"


def table(numbers: Numbers) -> str:
    """The numbers as text."""
    n, behaviour = numbers, _behaviour(numbers)
    sticky = f", sticky actions {n['sticky']:g}" if n["sticky"] else ""
    rows = [
        ("MDP", f"{n['states']} reachable states, {n['actions']} actions, horizon {n['horizon']}{sticky}"),
        ("optimal return", f"{n['optimal_return']!r}"),
        (f"{behaviour} return", f"{n[f'{behaviour}_return']!r}"),
        ("worst return", f"{n['worst_return']!r}"),
        ("k_min", str(n["k_min"])),
        ("epw", f"{n['epw']}  (effective planning window)"),
    ]
    if n["effective_horizon"] is not None:
        rows += [
            ("effective horizon", f"{n['effective_horizon']!r}  (simple bound)"),
            ("m, by k", _list([f"{k}: {count(m)}" for k, m in zip(n["ks"], n["ms"], strict=True)]) or "none"),
        ]
    gap = f"{n['stochastic_effective_horizon']:.6g}  (gap {n['stochastic_gap']:.4g})"
    rows.append(("stochastic effective horizon", gap))
    if "gorp_samples" in n:
        steps = "none" if n["gorp_samples"] is None else f"k {n['gorp_k']}, {count(n['gorp_samples'])} samples (env steps)"
        rows.append(("GORP bound", f"{n['gorp_effective_horizon']:.5g}  ({steps})"))
    rows += [
        ("greedy returns, k = 1 ...", ", ".join(f"{x:.6g}" for x in n["greedy_returns"])),
        ("min state occupancy", f"{n['min_state_occupancy']:.4g}  (sum over steps {n['min_sum_state_occupancy']:.4g})"),
        (
            "min state-action occupancy",
            f"{n['min_state_action_occupancy']:.4g}  (sum over steps {n['min_sum_state_action_occupancy']:.4g})",
        ),
        ("covering length", f"{n['covering_length']:.6g}  (upper bound)"),
    ]
    return "\n".join(f"{name:<28}  {text}" for name, text in rows)


def _list(texts: list[str]) -> str:
    """The first ten, and the last one."""
    return ", ".join(texts if len(texts) <= 11 else [*texts[:10], "...", texts[-1]])


def count(number: float) -> str:
    """A number of samples: in full up to a million, beyond with four digits."""
    return "inf" if number == math.inf else str(number) if number < 10**6 else f"{float(number):.4g}"


def chart(numbers: Numbers) -> str:
    """The mean optimal value at each step and the part of it that exploration gets, as bars of characters."""
    behaviour = _behaviour(numbers)
    best, own = (np.array(numbers[f"{name}_value"]) for name in ("optimal", behaviour))
    every = -(-len(best) // LINES)
    top = max(float(np.abs(best).max()), float(np.abs(own).max()), 1e-300)
    lines = [
        f"value ahead of the states that the {behaviour} policy visits ({behaviour} #, optimal -)",
        "step  optimal   " + behaviour,
    ]
    for t in range(0, len(best), every):
        filled, whole = (round(BAR * max(x, 0) / top) for x in (own[t], best[t]))
        bar = "#" * filled + "-" * max(whole - filled, 0)
        lines.append(f"{t + 1:>4}  {best[t]:<9.3g} {own[t]:<9.3g} {bar}".rstrip())
    return "\n".join(lines)


def figure(numbers: Numbers, name: str) -> Any:
    """The optimal and the exploration value over time, and their gap."""
    from matplotlib.figure import Figure

    behaviour, steps = _behaviour(numbers), np.arange(1, numbers["horizon"] + 1)
    best, own = (np.array(numbers[f"{kind}_value"]) for kind in ("optimal", behaviour))
    drawn = Figure(figsize=(8, 4), layout="constrained")
    axes = drawn.subplots()
    axes.plot(steps, best, label="optimal")
    axes.plot(steps, own, label=behaviour)
    axes.fill_between(steps, own, best, alpha=0.15, label="value gap")
    axes.set(xlabel="step of the episode", ylabel=f"mean value ahead, in states that the {behaviour} policy visits")
    axes.legend(frameon=False)
    drawn.suptitle(f"{Path(name).name}: k_min {numbers['k_min']}, planning window {numbers['epw']}")
    return drawn


def words(numbers: Numbers) -> str:
    """What the numbers mean, in sentences."""
    n, behaviour = numbers, _behaviour(numbers)
    if n["optimal_return"] - n["worst_return"] < 1e-4:
        return "Every policy is optimal here: there is nothing to learn."
    if n["k_min"] == 1:
        said = [
            f"Acting greedily on the {behaviour} policy's Q is optimal (k_min 1): one step of policy improvement is enough, so "
            "plain exploration should work, if it sees enough samples."
        ]
    else:
        more = f"{n['k_min'] - 1} more step{'s' * (n['k_min'] > 2)} of Q-value iteration (k_min {n['k_min']})"
        said = [
            f"Greedy on the {behaviour} policy's Q goes wrong; it is optimal after {more}. "
            "The larger k_min, the less plain exploration helps."
        ]
    said.append(f"By immediate rewards alone one must plan {n['epw']} step{'s' * (n['epw'] != 1)} ahead (epw).")
    tries = n["effective_horizon"]
    if tries is not None:
        effort = (
            count(round(float(n["actions"]) ** tries)) if n["actions"] > 1 and tries * math.log10(n["actions"]) < 300 else "A^H"
        )
        said.append(
            f"GORP, which samples A^H episodes at each step, needs at most {n['actions']}^{tries:.4g} = {effort} of them"
            + (": no better than trying every sequence of actions." if tries >= n["horizon"] else ".")
        )
    else:
        said.append(
            "The effective horizon of GORP is for deterministic MDPs; for this one, see the stochastic effective horizon."
        )
    if n.get("gorp_samples") is not None:
        said.append(f"Counted more carefully, {count(n['gorp_samples'])} env steps are enough for it half of the time.")
    elif tries is not None and "gorp_samples" not in n:
        said.append("The more careful bounds for GORP were not computed.")
    return "\n".join(said)


def _estimated(env: Env, given: Horizon) -> int:
    """Estimates for an environment that is no table."""
    import jax

    from rljax import horizon as theory
    from rljax.base import Discrete
    from rljax.horizon.sample import LANES

    if given.exploration is not None or given.png is not None:
        raise InputError("--exploration and --png are for MDPs in files and tabular/ environments")
    largest = given.max_k
    if largest is None:
        actions = env.spec.action.n if isinstance(env.spec.action, Discrete) else 1
        largest = max([1, *(k for k in (2, 3) if actions**k * given.episodes <= LANES)])
    found = theory.estimate(env, jax.random.key(given.seed), tuple(range(1, largest + 1)), given.episodes)
    if given.json:
        print(json.dumps(_plain({"env": env.name, "estimates": [{**e._asdict(), "actions": list(e.actions)} for e in found]})))
        return 0
    print(f"estimated from {given.episodes} episodes of each sequence of k actions; the first {len(found[0].actions)} steps")
    print("k  H_k       95% interval        m_k       gap        std")
    for e in found:
        interval = f"{e.low:.3g} to {e.high:.3g}"
        print(f"{e.k:<2} {e.effective_horizon:<9.4g} {interval:<19} {count(e.samples):<9} {e.gap:<10.3g} {e.std:.3g}")
    print(
        "An estimate, not a bound: it takes the action with the best mean for the optimal one, and sees the first steps only."
    )
    if not found[0].one_start:
        print("Episodes begin in different states; the effective horizon is defined for one start, so take this as an average.")
    return 0
