"""Bad inputs by the thousand: each must be refused in one sentence, quickly, and leave nothing behind (`guard`).

``python tests/faults/inputs.py [--seed 0] [--count 4000] [--only GROUP] [--out benchmarks/inputs.json]`` makes inputs group by
group, all different, and counts what comes of them. A failure is listed with what reproduces it; ``--only`` its group, with the
same seed and count, makes it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import itertools
import json
import math
import os
import random
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import hypothesis
import numpy as np
import tyro
from guard import BAD, Box, Case, command, judge, named, stubs
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rljax import data, envs, heads, horizon, mdp, statistics, store
from rljax.data import mdps
from rljax.envs import tabular
from rljax.experiments import cli, collect, presets, report, setup, sweep
from rljax.experiments import finetune as tuning
from rljax.experiments import horizon as analysing
from rljax.experiments import train as training

TEXTS = (
    *("", " ", "nan", "inf", "-inf", "-1", "0", "-0.0", "1e400", "9" * 30, "0x10", "\uff11\uff12", "\u00bd", "\u202e3"),
    *("\U0001f4a5", "a" * 3000, "../../etc", "/", "--", "-", "[]", "{}", "None", "null", "true", "1,2", "1e3", "1.5", "3;ls"),
    *("$(id)", "%s%n", "{0}", "\n", "a\nb", "\t1", "1 ", "1_000", "NaN", "\udcff", "\x1b[31m", "a=b", "=", ",", "1,,2", ":"),
    *("log:1:0", "-9" * 9),
)
VALUES = (
    *(None, True, "x", "", b"x", [], {}, (), math.nan, math.inf, -math.inf, -1, 0, 1.5, 10**30, 10**400, -(10**30), 3 + 4j),
    *(np.array([]), np.zeros((2, 2)), np.array(["a"]), np.array([math.nan]), np.array(None), np.datetime64("2020"), int, len),
    *(range(3), {1}, Path("x"), "\U0001f4a5", "a" * 3000, "\0", [None], [[1]], ("a", 1), {"a": 1}, 2**63, 1e308, -0.0, 1e-320),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["../x", "/etc", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
TRAIN = (
    *("train", "iql", "pendulum?horizon=5", "--data", "data.npz", "--out", "run", "--seeds", "2", "--steps", "20"),
    *("--eval-every", "10", "--eval-episodes", "2", "--config.batch-size", "8"),
    *("--config.actor-width", "8", "--config.critic-width", "8"),
)


def drawn(strategy: Any, rng: random.Random, num: int) -> list[Any]:
    """``num`` examples that hypothesis draws, at most."""
    found: list[Any] = []

    @hypothesis.seed(rng.getrandbits(32))
    @hypothesis.settings(max_examples=num, database=None, deadline=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(strategy)
    def draw(x: Any) -> None:
        found.append(x)

    draw()
    return found


def recorded(num: int = 40) -> dict[str, np.ndarray]:
    """A D4RL file in the pendulum's shapes and units."""
    rng, ends = np.random.default_rng(0), np.arange(num) % 10 == 9
    arrays = {
        "observations": rng.normal(size=(num, 3)),
        "actions": rng.uniform(-2, 2, (num, 1)),
        "rewards": rng.normal(size=num),
    }
    return {k: x.astype(np.float32) for k, x in arrays.items()} | {"terminals": np.zeros(num, bool), "timeouts": ends}


def furnish(box: Box) -> None:
    """A data set, an MDP, a study and a run of two seeds, for the working folder."""
    os.chdir(box.work)
    for name in ("brax/hopper", "gymnax/CartPole-v1", "gymnasium/CartPole-v1"):  # their libraries take time to import
        envs.make(name)
    np.savez("data.npz", **recorded())
    with h5py.File("data.hdf5", "w") as file:
        file.update(recorded())
    mdps.save("mdp.npz", tabular.chain(3))
    np.save("policy.npy", np.full((6, 3, 2), 0.5))
    Path("study.py").write_text("from rljax.experiments.sweep import Run\nRUNS = [Run('sac', 'pendulum', seeds=2)]\n")
    Path("canary.py").write_text("def attack(*args):\n    open('/tmp/rljax-canary', 'w')\n")
    with contextlib.redirect_stdout(io.StringIO()):
        cli.run(TRAIN)
    (box.work / "study").mkdir()
    (box.work / "study" / "study.json").write_text(json.dumps([{"folder": "../run", "varied": [{}]}]))
    box.keep()


def commands(rng: random.Random, num: int, box: Box) -> Iterator[Case]:
    """Every option and argument of every command with every text."""
    bases: dict[str, tuple[Any, tuple[str, ...]]] = {
        "train": (cli.Train, ("sac", "pendulum")),
        "train ": (cli.Train, ("bc", "pendulum", "--data", "data.npz")),
        "finetune": (tuning.Finetune, ("rlpd", "pendulum", "--data", "data.npz")),
        "finetune ": (tuning.Finetune, ("iql", "pendulum?horizon=5", "--from", "run")),
        "sweep": (cli.Sweep, ("study.py", "--commands")),
        "data": (cli.Data, ("data.npz",)),
        "collect": (cli.Collect, ("pendulum",)),
        "collect ": (cli.Collect, ("--mix", "data.npz=1", "--out", "mixed.npz")),
        "report": (cli.Report, ("run",)),
        "compare": (cli.Compare, ("run", "run")),
        "track": (cli.Track, ("run",)),
        "show": (cli.Show, ("run",)),
        "play": (cli.Play, ("run",)),
        "horizon": (analysing.Horizon, ("tabular/trap?k=3",)),
        "horizon ": (analysing.Horizon, ("mdp.npz",)),
        "bench": (cli.Bench, ("sac", "--rounds", "1")),
    }
    lines: list[tuple[str, ...]] = [(text,) for text in TEXTS] + [(name, text) for name in ("agents", "envs") for text in TEXTS]
    for name, (form, base) in bases.items():
        options = [field.name.replace("_", "-") for field in dataclasses.fields(form)]
        options = [x for x in options if x not in ("follow", "wandb")] + ["config.batch-size", "config.tau", "from"]
        lines += [(name.strip(), *base, f"--{option}={text}") for option in options for text in TEXTS]
        lines += [(name.strip(), *base, f"--{option}") for option in options]
        lines += [(name.strip(), *base[:i], text, *base[i + 1 :]) for i in range(len(base)) for text in TEXTS]
    for line in rng.sample(lines, min(num, len(lines))):
        yield command("commands", *line)


def configs(rng: random.Random, num: int, box: Box) -> Iterator[Case]:
    """Every field of every agent's config, and every argument of `train`, with every value; and some that hypothesis makes."""
    agents = [importlib.import_module(f"rljax.agents.{name}") for name in cli.agent_names()]
    made = [
        (agent, field.name, value)
        for agent in agents
        for field in dataclasses.fields(agent.Config)
        for value in (*VALUES, -0.5, 1, 2, 1e30)
    ]
    arguments = [name for name in inspect.signature(training.train).parameters if name not in ("agent", "config")]
    made += [(agents[i], f"train's {name}", value) for name in arguments for value in VALUES for i in (0, -1)]
    heads_ = [heads.Scalar, heads.TwoHot, heads.HLGauss, heads.C51]
    made += [
        (head, field.name, value) for head in heads_ for field in dataclasses.fields(head) for value in (*VALUES, -0.5, 2, 1e30)
    ]
    junk = drawn(st.tuples(st.sampled_from(agents), st.dictionaries(st.text(max_size=9), JSON, min_size=1)), rng, num // 5)
    for agent, fields in junk:
        yield Case("configs", f"override({agent.__name__}.Config(), {named(fields)})", partial(_override, agent, fields))
    for module, name, value in rng.sample(made, min(num - len(junk), len(made))):
        yield Case("configs", f"{module.__name__}, {name} = {named(value)}", partial(_train, module, name, value))


def _override(agent: Any, fields: dict[str, Any]) -> None:
    from rljax.config import from_dict, override

    (override if len(str(fields)) % 2 else from_dict)(agent.Config() if len(str(fields)) % 2 else agent.Config, fields)


def _train(agent: Any, name: str, value: Any) -> None:
    """Train it with one field of the config, or one argument, that is ``value``."""
    argument = name.removeprefix("train's ") if name.startswith("train's ") else None
    if not hasattr(agent, "make"):
        agent, head = importlib.import_module("rljax.agents.cql"), dataclasses.replace(agent(), **{name: value})
        changes = {"head": head}
    else:
        changes = {} if argument else {name: value}
    config = dataclasses.replace(agent.Config(), **changes)
    discrete = agent.__name__.endswith(("discrete", "dqn", "sqirl", "gorp", "drama"))
    where = ("tabular/trap?k=3" if discrete else "pendulum") if not argument == "env" else value
    kwargs: dict[str, Any] = {"steps": 10_000, "out": "new"} | ({argument: value} if argument and argument != "env" else {})
    if not hasattr(config, "warmup") and not hasattr(agent, "loop") or hasattr(config, "recorded"):
        kwargs.setdefault("data", _discrete() if discrete else "data.npz")
    training.train(agent, config, where, **kwargs)


def _discrete() -> Any:
    """Episodes of the trap, as a data set."""
    arrays = recorded(20) | {"observations": np.eye(3, dtype=np.uint8)[np.arange(20) % 3], "actions": np.arange(20) % 2}
    np.savez("discrete.npz", **arrays)
    loaded = data.load("discrete.npz")
    Path("discrete.npz").unlink()
    return loaded


def files(rng: random.Random, num: int, box: Box) -> Iterator[Case]:
    """Data sets and MDPs: other arrays, damaged bytes, damaged descriptions, bombs."""
    cases = itertools.chain(_bombs(), _descriptions(rng, num // 8), _arrays(rng, num // 2), _bytes(rng, num))
    for name, note, option in itertools.islice(cases, num):
        if option == "data" and rng.random() < 0.5:
            yield Case("files", f"data.load: {note}", partial(data.load, name))
        else:
            yield command("files", option, name, "--json", note=note)


def _put(name: str, arrays: dict[str, Any], **attributes: Any) -> str:
    """The name of a file of ``arrays``."""
    if name.endswith(".npz"):
        np.savez(name, **arrays)
        return name
    with h5py.File(name, "w") as file:
        for key, x in arrays.items():
            file.create_dataset(key, data=x if np.asarray(x).dtype.kind != "U" else np.asarray(x).astype("S"))
        file.attrs.update(attributes)
    return name


def _arrays(rng: random.Random, num: int) -> Iterator[tuple[str, str, str]]:
    """Files in which one array is another."""
    dtypes = ("f2", "f4", "f8", ">f8", "g", "c8", "i1", "u8", ">i4", "?", "S3", "U3", "M8[s]", "m8[s]", "V4", "i4,f4", "3f4")
    shapes = ((), (0,), (1,), (40,), (39,), (40, 0), (0, 40), (40, 1), (40, 2), (40, 1, 1), (2, 20), (40, 3), (40, 2, 3, 4))
    extra = {name: np.zeros(40) for name in ("masks", "episode_terminals", "cut_offs")} | {
        "next_observations": np.zeros((40, 3))
    }
    odd = (math.nan, math.inf, -math.inf, 1e300, -1e300, 2.0, -1.0, 0.5, 1.0, 0.0, 1e38)
    for number in range(num):
        suffix, tables = rng.choice([(".npz", False), (".hdf5", False), (".npz", True)])
        base = dict(mdps.read("mdp.npz").mdp._asdict()) if tables else recorded()
        if tables and number % 2:
            base = {"transitions": np.zeros((3, 2), int), "rewards": np.zeros((3, 2)), "horizon": 3}
        if not tables:
            base |= {k: extra[k] for k in rng.sample(sorted(extra), rng.choice([0, 0, 1, 2]))}
        key, how = rng.choice([*base]), rng.choice(["drop", "other", "odd", "odd", "all", "integers"])
        old = np.asarray(base[key])
        if how == "drop":
            del base[key]
        elif how == "other":
            dtype, shape = rng.choice(dtypes), rng.choice(shapes)
            base[key] = np.zeros(shape, dtype)
            how = f"zeros({shape}, {dtype!r})"
        elif how == "integers":
            base[key] = np.random.default_rng(number).integers(-5, 5, old.shape)
            how = f"default_rng({number}).integers(-5, 5, {old.shape})"
        else:
            row, value = rng.randrange(max(old.size, 1)), rng.choice(odd)
            changed = old.astype(float)
            changed.reshape(-1)[slice(None) if how == "all" else row] = value
            base[key], how = changed, f"{value} in {'all' if how == 'all' else f'element {row}'}"
        name = f"bad{suffix}"
        try:
            _put(name, base)
        except (TypeError, ValueError):  # HDF5 has no such type
            continue
        what = f"{'MDP' if tables else 'data'} {suffix} of {', '.join(base)}: {key}: {how}"
        yield name, what, "horizon" if tables else "data"


def _bytes(rng: random.Random, num: int) -> Iterator[tuple[str, str, str]]:
    """Whole files of which some bytes are others, are missing, or stand twice."""
    for _ in range(num):
        source, option = rng.choice([("data.npz", "data"), ("data.hdf5", "data"), ("mdp.npz", "horizon")])
        contents, seed = bytearray(Path(source).read_bytes()), rng.getrandbits(32)
        own, how = random.Random(seed), rng.choice(["bytes", "cut", "twice", "zeros"])
        at = own.randrange(len(contents))
        if how == "bytes":
            for _ in range(own.randint(1, 12)):
                contents[own.randrange(len(contents))] = own.randrange(256)
        elif how == "cut":
            del contents[at:]
        elif how == "twice":
            contents[at:at] = contents[at : at + own.randint(1, 500)]
        else:
            contents[at : at + 64] = bytes(len(contents[at : at + 64]))
        name = f"bad{Path(source).suffix}"
        Path(name).write_bytes(contents)
        yield name, f"{source}, {how}, random.Random({seed})", option


def _bombs() -> Iterator[tuple[str, str, str]]:
    """Files that say that they hold more than they do, or hold it densely packed; links, folders, devices."""
    flat = {k: x for k, x in recorded().items() if k != "observations"}
    for shape in ((2**62,), (10**10, 3), (-1, 3), (2**31, 2**31), (40, 10**9)):
        _put("bad.npz", flat)
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
        with zipfile.ZipFile("bad.npz", "a") as file:
            file.writestr("observations.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(480))
        yield "bad.npz", f"observations of shape {shape} and 480 bytes", "data"
    for size in (5 * 2**28, 5 * 2**26):
        for keys in (("observations",), ("rewards", "terminals", "timeouts"), ("next_observations", "actions")):
            with h5py.File("bad.hdf5", "w") as file:
                for key in {**recorded(), "next_observations": 0}:
                    packed = {"chunks": (2**16, 1), "compression": "gzip"} if key in keys else {}
                    file.create_dataset(key, (size if packed else 40, 1), "f4", **packed)
            yield "bad.hdf5", f"{', '.join(keys)} of {size} rows that take no place", "data"
    for key, option in (("observations", "data"), ("transitions", "horizon")):
        _put("bad.npz", flat if option == "data" else {"rewards": np.zeros((3, 2))})
        _add_zeros(f"{key}.npy")
        yield "bad.npz", f"5 GiB of zeros in {key}, deflated", option
    places = "/dev/zero /dev/null /dev/random . / /proc/self/mem /proc/self/environ study.py run loop.npz pipe.npz"
    for option, place in itertools.product(("data", "horizon"), places.split()):
        if place == "pipe.npz":
            os.mkfifo(place)
        yield place, f"{place} as a file", option


def _add_zeros(name: str) -> None:
    """Add an array of 5 GiB to bad.npz: one deflated block again and again."""
    size, deflate = 5 * 2**30, zlib.compressobj(9, zlib.DEFLATED, -15)
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size}, 1), }}".ljust(117).encode() + b"\n"
    first = deflate.compress(b"\x93NUMPY\x01\x00v\x00" + header) + deflate.flush(zlib.Z_FULL_FLUSH)
    block = deflate.compress(bytes(2**26)) + deflate.flush(zlib.Z_FULL_FLUSH)
    with zipfile.ZipFile("bad.npz", "a") as file:
        file.writestr(name, first + size // 2**26 * block + deflate.flush())
        info = file.getinfo(name)
        info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, size + 128


def _descriptions(rng: random.Random, num: int) -> Iterator[tuple[str, str, str]]:
    """rljax's own files and Minari's folders whose descriptions are others."""
    box = {"type": "Box", "shape": [1], "low": [-2], "high": [2]}
    for number, said in enumerate(drawn(_damaged({"name": "x", "action": box, "reference": [0.0, 1.0]}), rng, num)):
        text = json.dumps(said)
        if number % 2:
            _put("bad.npz", recorded() | {"next_observations": np.zeros((40, 3)), "rljax": np.array(text)})
            yield "bad.npz", f"description 'rljax' = {text}", "data"
            continue
        shutil.rmtree("minari", ignore_errors=True)
        Path("minari").mkdir()
        with h5py.File("minari/main_data.hdf5", "w") as file:
            group = file.create_group("episode_0")
            arrays = {"observations": np.zeros((5, 3)), "actions": np.zeros((4, 1), "f4"), "rewards": np.zeros(4)}
            group.update(arrays | {"terminations": np.zeros(4, bool), "truncations": np.arange(4) == 3})
        if isinstance(said, dict):
            keys = {"dataset_id": "name", "action_space": "action", "ref_min_score": "reference"}
            said = {k: said.get(name) for k, name in keys.items()} | {"ref_max_score": 3} | said
        Path("minari/metadata.json").write_text(json.dumps(said))
        yield "minari", f"minari/metadata.json = {json.dumps(said)}", "data"


def _damaged(value: Any) -> Any:
    """A strategy for ``value`` (JSON) with one part, anywhere in it, that is missing, renamed, or another."""
    if isinstance(value, dict) and value:
        parts = []
        for key, inner in value.items():
            rest = {k: x for k, x in value.items() if k != key}
            parts += [st.just(rest), st.just(rest | {key + "_": inner})]
            parts += [_damaged(inner).map(lambda x, key=key: value | {key: x})] * 4
        return st.one_of(JSON, *parts)
    if isinstance(value, list) and value:
        return st.one_of(JSON, st.just(value[1:]), st.just(value * 2), _damaged(value[0]).map(lambda x: [x, *value[1:]]))
    numbers = st.sampled_from([math.nan, math.inf, -1, 0, 2**31, 2**63, 10**30, 10**400, 1e300, 0.5, -0.5, "nan", "1"])
    names = ["os:system", "rljax.store:save", "rljax.heads:nothing", "canary:attack", "../x", "\0", "a/b", "\u00e9", ""]
    return st.one_of(JSON, numbers, st.sampled_from(names))


def runs(rng: random.Random, num: int, box: Box) -> Iterator[Case]:
    """Run folders of strangers: each file other JSON, other bytes or a link, and each command that reads them."""
    step = max(Path("run/checkpoints").iterdir(), key=lambda p: int(p.name))
    names = ("run/config.json", "run/versions.json", "study/study.json", step / "host.json", step / "manifest.json")
    jsons = list(map(Path, names))
    other = {path: drawn(_damaged(json.loads(path.read_text())), rng, num) for path in jsons}
    rows = {path: path.read_text().splitlines() for path in map(Path, ("run/metrics.jsonl", "run/timing.jsonl"))}
    others = {path: drawn(_damaged(json.loads(lines[-1])), rng, num) for path, lines in rows.items()}
    readers = [(name, "run") for name in ("show", "play", "report", "track")] + [("report", "study"), ("compare", "run", "run")]
    readers += [("show", "run", "--params-hash"), ("finetune", "iql", "pendulum?horizon=5", "--from", "run")]
    readers += [("collect", "pendulum?horizon=5", "--agent", "run"), TRAIN, ("load",)]
    for _ in range(num):
        path = rng.choices([*jsons, *rows, None], (12, 2, 2, 6, 2, 4, 1, 3))[0]
        if path is None:
            note = _rearranged(rng, box)
        elif path in rows:
            row, changed = rng.randrange(len(rows[path])), json.dumps(rng.choice(others[path]))
            path.write_text("".join((changed if i == row else x) + "\n" for i, x in enumerate(rows[path])))
            _signed(path.name == "metrics.jsonl")
            note = f"{path}, row {row} = {changed}"
        else:
            text = path.read_text()
            broken = [text[: rng.randrange(len(text))], "", "[" * 100_000, "\0", "null", text + text, "9" * 5000]
            text = json.dumps(rng.choice(other[path])) if rng.random() < 0.9 else rng.choice(broken)
            path.write_text(text)
            if path.name == "host.json":
                _signed(False)
            note = f"{path} = {named(text) if len(text) > 9000 else text}"
        line = rng.choice(readers)
        load = Case("runs", f"{note}; rljax.load('run')", partial(training.load, "run"))
        yield load if line == ("load",) else command("runs", *line, note=note)


def _signed(metrics: bool) -> None:
    """Give the newest checkpoint the digests of the files, and of the ``metrics``, as they are now, as a stranger would."""
    step, path = max(Path("run/checkpoints").iterdir(), key=lambda p: int(p.name)), Path("run/metrics.jsonl")
    if metrics:
        signed = {"metrics_bytes": path.stat().st_size, "metrics_digest": store.file_digest(path), "pending": ""}
        store.write_json(step / "host.json", store.read_json(step / "host.json") | signed)
    store.write_json(step / "manifest.json", store._digests(step))


def _rearranged(rng: random.Random, box: Box) -> str:
    """Put a link, a folder, a pipe, other bytes or nothing in the place of a part of the run."""
    parts = [p for p in sorted(Path("run").rglob("*")) if p.name != ".lock"]
    others = ("", "curve.png", "tensorboard", "config.json.part", "play.gif", "before.json")
    part = rng.choice([*parts, *(Path("run") / name for name in others)])
    how = rng.choice(["link", "link", "folder", "pipe", "bytes", "nothing", "zero", "loop"])
    if part.exists():
        shutil.move(part, "moved")
    targets = {"link": box.root / "outside" / "mine", "zero": "/dev/zero", "loop": part.name}
    if how in targets:
        part.symlink_to(targets[how])
    elif how == "folder":
        part.mkdir()
    elif how == "pipe":
        os.mkfifo(part)
    elif how == "bytes":
        part.write_bytes(random.Random(0).randbytes(100))
    return f"{part} is {how}"


def environments(rng: random.Random, num: int, box: Box) -> Iterator[Case]:
    """Names and options of environments."""
    bases = [name for name in envs.names() if not name.startswith("ale/")]
    bases += ["tabular/mdp.npz", "tabular/data.npz", "gymnasium/CartPole-v1", "ale/Pong"]
    options = "horizon sticky observation backend shown asked length size k actions depth side terminal \u202e".split()
    numbers = "1e9 100000 1000000000 2147483648 4294967296 1.0 0.999999999 nan one_hot index pixels mjx".split()
    for _ in range(num):
        base, kind = rng.choice(bases), rng.randrange(4)
        if kind == 0:
            inserted = rng.choice([*TEXTS, "/", "?", "//", "x.npz", "../mdp.npz"])
            name = base[: rng.randrange(len(base))] + inserted + base[rng.randrange(len(base)) :]
        elif kind == 1:
            name = f"{base}?{rng.choice(TEXTS)}"
        else:
            base = rng.choice([base, *(b for b in bases if "tabular" in b or b == "recall")])
            given = [f"{rng.choice(options)}={rng.choice([*TEXTS, *numbers])}" for _ in range(rng.randint(1, 2))]
            name = f"{base}?{'&'.join(given)}"
        count = rng.choice([1, 1, 1, *VALUES, 10**9]) if kind == 3 else 1
        yield Case("environments", f"make({name!a}, {named(count)}), reset and step", partial(_step, name, count))


def _step(name: str, num: Any) -> None:
    """Make the env, and reset and step it as far as shapes go."""
    import jax

    from rljax.base import Env, random_action

    env = envs.make(name, num)
    if isinstance(env, Env):
        key = jax.random.key(0)
        state, _ = jax.eval_shape(env.reset, key)
        action = jax.eval_shape(lambda key: random_action(env.spec.action, key, env.num_envs), key)
        jax.eval_shape(env.step, state, action, key)


def functions(rng: random.Random, num: int, box: Box) -> Iterator[Case]:
    """Functions for people, with other values for one or all of their arguments."""
    dataset, table, rows = data.load("data.npz"), mdps.read("mdp.npz").mdp, store.read_rows(Path("run/metrics.jsonl"))
    result, scores, rng_ = training.load("run"), np.arange(6.0).reshape(2, 3), np.random.default_rng(0)
    frozen = [
        (data.load, ("data.npz",)),
        (data.save, (dataset, "x.npz")),
        (data.mc_returns, (dataset, 0.9)),
        (data.take, (dataset, 3, rng_)),
        (data.normalized_score, (1.0, (0.0, 1.0))),
        (data.weights.parse, ("rw:0.1",)),
        (data.weights.probabilities, (dataset, "rw:0.1")),
        (data.spec_of, (dataset, -2.0, 2.0)),
        (data.fit, (dataset, result.setup.spec)),
        (mdps.read, ("mdp.npz", 3)),
        (mdps.read_policy, ("policy.npy",)),
        (mdps.save, ("x.npz", table)),
        (mdp.checked, (table,)),
        (mdp.deterministic, (np.zeros((2, 2), int), np.zeros((2, 2)), 3)),
        (mdp.sticky, (table, 0.25)),
        (horizon.analyze, (table, np.full((6, 3, 2), 0.5))),
        (horizon.gorp_bounds, (table,)),
        (statistics.iqm, (scores,)),
        (statistics.interval, (scores, 0.95, 100)),
        (statistics.pooled_iqm, (scores,)),
        (statistics.optimality_gap, (scores, 1.0)),
        (statistics.improvement, (scores, scores)),
        (statistics.profile, (scores, np.arange(3.0))),
        (statistics.stratified, (statistics.pooled_iqm, scores)),
        (report.table, (rows,)),
        (report.scores, (rows, "eval/return")),
        (report.curve, (rows, "eval/return", result.setup.describe())),
        (report.switch, (rows,)),
        (result.agent, (0, 0)),
        (result.policy, (0, 0)),
        (result.policy(0), (np.zeros(3),)),
        (result.plot, ("eval/return",)),
        (training.load, ("run",)),
        (store.read_rows, (Path("run/metrics.jsonl"),)),
        (setup.read_setup, (Path("run"),)),
        (sweep.plan, ([sweep.Run("sac", "pendulum")], 3)),
        (sweep.uniform, (0.0, 1.0)),
        (sweep.log_uniform, (0.1, 1.0)),
        (presets.find, ("sac", "pendulum")),
        (collect.mix_files, ({"data.npz": 1.0}, 10)),
        (cli.parse_seeds, ("4",)),
        (cli.parse_shares, ("a=1",)),
        (cli.find_agent, ("sac",)),
        (tabular.from_mdp, (table,)),
        (tabular.chain, (3,)),
        (tabular.tree, (3, 2)),
        (tabular.grid, (3,)),
        (tabular.trap, (2, 2)),
        (heads.support_from, ((-1.0, 0.0), 0.9)),
        (envs.check, (envs.make("pendulum"),)),
        (envs.make, ("pendulum", 2)),
    ]
    frozen += [
        (partial(_sweep, name), (value,))
        for name, value in vars(sweep.Run("sac", "pendulum", grid={"tau": [0.1]}, config={"tau": 0.1})).items()
    ]
    made = [(f, (*args[:i], value, *args[i + 1 :])) for f, args in frozen for i in range(len(args)) for value in VALUES]
    strange = hnp.arrays(
        st.sampled_from(["f8", "f4", "i8", "?", "U2", "c16"]), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    )
    for x in drawn(strange, rng, num // 10):
        f, args = rng.choice(frozen)
        i = rng.randrange(len(args))
        made.append((f, (*args[:i], x, *args[i + 1 :])))
    for f, args in rng.sample(made, min(num, len(made))):
        name = getattr(f, "__qualname__", None) or f"{f.func.__name__}{f.args}"
        yield Case("functions", f"{name}({', '.join(map(named, args))})", partial(f, *args))


def _sweep(name: str, value: Any) -> None:
    sweep.plan([sweep.Run(**({"agent": "sac", "env": "pendulum"} | {name: value}))])


def inner(rng: random.Random, num: int, box: Box) -> Iterator[Case]:
    """Every other public function, with values that it was not made for."""
    agents = [f"rljax.agents.{name}" for name in cli.agent_names()]
    modules = [importlib.import_module(name) for name in (*agents, *sorted(sys.modules)) if name.startswith("rljax.")]
    modules = [
        m for m in modules if not any(part in m.__name__ for part in ("experiments", "with_minari", "alias", "from_ale"))
    ]
    own = [f for m in modules for f in vars(m).values() if inspect.isfunction(f) and f.__module__ == m.__name__]
    found = [f for f in own if not f.__name__.startswith("_")]
    found = sorted(set(found), key=lambda f: (f.__module__, f.__qualname__))
    for i in range(num):
        f = found[i % len(found)]
        values = [rng.choice(VALUES) for p in inspect.signature(f).parameters.values() if p.default is p.empty]
        name = f"{f.__module__}.{f.__qualname__}({', '.join(map(named, values))})"
        yield Case("inner", name, partial(f, *values), inner=True)


GROUPS: dict[str, Callable[[random.Random, int, Box], Iterator[Case]]] = {
    f.__name__: f for f in (commands, configs, files, runs, environments, functions, inner)
}


@dataclass(frozen=True)
class Inputs:
    """Hand over bad inputs, and count what comes of them."""

    seed: int = 0
    count: int = 4_000  # inputs in all, about
    only: str | None = None  # one group
    out: Path | None = None  # the JSON file, of which --only changes its group
    verbose: bool = False  # print every input and what was said


def campaign(cases: Iterable[Case], box: Box, verbose: bool = False) -> dict[str, Any]:
    """Counts of what came of the cases, and those that were not as they should be; no case is taken twice."""
    seen, counts, failures = set(), Counter(tried=0, refused=0, accepted=0, **dict.fromkeys(BAD, 0)), []
    for case in cases:
        if case.name in seen:
            continue
        seen.add(case.name)
        verdict = judge(case, box)
        counts.update(["tried", verdict.outcome])
        if verbose or verdict.outcome in BAD:
            print(f"{case.group}: {case.name}\n    {verdict.outcome}: {ascii(verdict.said)[:400]}", flush=True)
        if verdict.outcome in BAD:
            failures.append({"input": ascii(case.name), "outcome": verdict.outcome, "said": ascii(verdict.said)})
        box.clean()
    return {"counts": counts, "failures": failures}


def main(given: Inputs) -> int:
    """Run the campaign; 1 if anything was not as it should be."""
    groups = {name: group for name, group in GROUPS.items() if given.only in (None, name)}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        box = Box(Path(folder).resolve())
        furnish(box)
        with stubs():
            for name, group in groups.items():
                box.clean()
                found[name] = campaign(group(random.Random(given.seed), given.count // len(GROUPS), box), box, given.verbose)
                print(name, dict(found[name]["counts"]), flush=True)
        os.chdir("/")
    if given.out is not None:
        old = json.loads(given.out.read_text())["groups"] if given.only and given.out.exists() else {}
        merged = {name: (old | found)[name] for name in GROUPS if name in old | found}
        total = {key: sum(x["counts"][key] for x in merged.values()) for key in ("tried", "refused", "accepted", *BAD)}
        given.out.write_text(json.dumps({"seed": given.seed, "total": total, "groups": merged}, indent=1) + "\n")
    return int(any(x["failures"] for x in found.values()))


if __name__ == "__main__":
    arguments = tyro.cli(Inputs)
    out = arguments.out and arguments.out.absolute()
    sys.exit(main(dataclasses.replace(arguments, out=out)))
