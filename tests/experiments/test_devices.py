"""Learners spread over eight virtual devices: the same numbers as on one, whatever their count; resume, and moving between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from rljax import envs, loops, store
from rljax.agents import iql, sac
from rljax.base import InputError
from rljax.config import override, stack
from rljax.data.dataset import Info, Steps, from_steps
from rljax.experiments import cli, devices
from rljax.experiments.train import load, train

TINY = override(sac.Config(), {"actor_width": 8, "critic_width": 8, "batch_size": 8, "warmup": 40})
COUNTS = {"steps": 120, "eval_every": 60, "eval_episodes": 2, "log_every": 20}
FORCED = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}


@pytest.fixture
def on_eight(tmp_path):
    """``on_eight(code)`` runs code that sees eight devices, in this folder; what it prints."""

    def run(code):
        setup = """
            import jax
            from rljax import store
            from rljax.experiments.train import load, train
            from test_devices import COUNTS, TINY, offline, sac
            assert len(jax.devices()) == 8
        """
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(setup) + textwrap.dedent(code)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def offline(out, **changes):
    """IQL on random steps in the pendulum's shapes, its observations normalised by the data set's statistics."""
    rng, last, no = np.random.default_rng(0), np.arange(200) % 20 == 19, np.zeros(200, bool)
    obs, action = rng.normal(3.0, 2.0, (200, 3)), rng.uniform(-2, 2, (200, 1))
    steps = Steps(obs, action, rng.normal(size=200), rng.normal(3.0, 2.0, (200, 3)), no, last, last, ~no)
    config = override(iql.Config(), {"actor_width": 8, "critic_width": 8, "batch_size": 8, "obs_stats": "dataset"})
    data = from_steps(steps, Info("recorded", "rljax"))
    return train(iql, config, "pendulum", data=data, out=out, **(COUNTS | {"seeds": 3} | changes))


def numbers(out, most):
    """All metrics up to step ``most``, as arrays by name, and the rows' places."""
    rows = [row for row in store.read_rows(out / "metrics.jsonl") if row["step"] <= most]
    places = [(row["step"], row["seed"], row["config"], row["kind"]) for row in rows]
    names = sorted({name for row in rows for name in row if "/" in name})
    return places, {name: np.array([row.get(name, 0.0) for row in rows]) for name in names}


def assert_close(a, b, most):
    """Equal rows, with numbers that agree to 1e-5, and after whole episodes to 1e-3, as sums in another order do."""
    (places, found), (expected_places, expected) = numbers(a, most), numbers(b, most)
    assert places == expected_places and found.keys() == expected.keys()
    for name in found:
        tolerance = {"rtol": 1e-3, "atol": 1e-2} if name.startswith("eval/") else {"rtol": 1e-5, "atol": 1e-5}
        np.testing.assert_allclose(found[name], expected[name], **tolerance, err_msg=name)


@pytest.mark.slow
def test_nine_learners_on_eight_devices(on_eight, tmp_path):
    """Five take two each, and so they are padded to ten, of which nothing is seen."""
    configs = [override(TINY, {"actor_lr": rate}) for rate in (1e-4, 3e-4, 1e-3)]
    train(sac, configs, "pendulum", seeds=3, out=tmp_path / "one", **COUNTS)
    said = on_eight(
        """
        from rljax.config import override
        configs = [override(TINY, {"actor_lr": rate}) for rate in (1e-4, 3e-4, 1e-3)]
        run = train(sac, configs, "pendulum", seeds=3, out="eight", **COUNTS)
        print(len(run.diverged), {x.shape[0] for x in jax.tree.leaves(run.state)})
        print(store.digest(load("eight").state) == store.digest(run.state))
        """
    )
    assert said.splitlines()[-2:] == ["9 {9}", "True"]
    assert_close(tmp_path / "eight", tmp_path / "one", 60)


@pytest.mark.slow
def test_seven_seeds_fit_on_seven_of_eight_devices(on_eight, tmp_path):
    train(sac, TINY, "pendulum", seeds=7, out=tmp_path / "one", **COUNTS)
    said = on_eight('print(len(train(sac, TINY, "pendulum", seeds=7, out="eight", **COUNTS).diverged))')
    assert said.splitlines()[-1] == "7"
    assert_close(tmp_path / "eight", tmp_path / "one", 60)


def test_recorded_data_is_shared_and_a_run_moves_between_devices(on_eight, tmp_path):
    """A run stopped on eight devices goes on there as if it had not been, and on one with its learners' states."""
    offline(tmp_path / "one")
    said = on_eight(
        """
        offline("whole")
        offline("broken", steps=60)
        offline("moved", steps=60)
        offline("broken")
        import numpy as np
        from rljax.experiments import cli, devices
        print([mesh.size if (mesh := devices.mesh(num)) else 1 for num in (1, 2, 8, 9, 17)])
        shared = devices.share(devices.mesh(8), np.ones(1000))
        print(len({shard.data.unsafe_buffer_pointer() for shard in shared.addressable_shards}))
        """
    )
    assert said.splitlines()[-2:] == ["[1, 2, 8, 5, 6]", "1"]  # what processors share is in memory once
    assert_close(tmp_path / "whole", tmp_path / "one", 60)
    assert (tmp_path / "broken" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert store.digest(load(tmp_path / "broken").state) == store.digest(load(tmp_path / "whole").state)
    offline(tmp_path / "moved")
    assert_close(tmp_path / "moved", tmp_path / "one", 60)
    assert json.loads((tmp_path / "moved" / "versions.json").read_text())[0]["device"].startswith("8 x cpu")


def test_which_learners_run_in_turn():
    """Large ones whose rings are small: those of the usual 256 units, not those of 8, nor with a large replay."""

    def decided(module, changes, transitions):
        config = stack([override(module.Config(), changes)] * 2)
        env = envs.make("pendulum")

        def init(config):
            return loops.online(module.make(env.spec, config), env, 8, transitions).init(jax.random.key(0))

        return devices.in_turn(jax.eval_shape(jax.vmap(init), config))

    assert decided(sac, {}, 20_000)
    assert not decided(sac, {"actor_width": 8, "critic_width": 8}, 20_000)
    assert not decided(sac, {}, 4_000_000)


@pytest.mark.parametrize(("own", "number"), [({}, 3), ({"JAX_NUM_CPU_DEVICES": "1"}, 1), (FORCED, 2)])
def test_each_processor_is_a_device(own, number):
    """Unless the user has set their number."""
    code = "import jax; from rljax.experiments import devices; devices.each_processor(); print(len(jax.devices()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"NPROC": "3"} | own)
    assert done.stdout == f"{number}\n", done.stderr


@pytest.mark.parametrize(("command", "expected"), [("train", 1), ("sweep", 1), ("finetune", 1), ("bench", 1), ("show", 0)])
def test_commands_that_learn_use_each_processor(command, expected, monkeypatch):
    calls = []
    monkeypatch.setattr(devices, "each_processor", lambda: calls.append(None))
    with pytest.raises(InputError):
        cli.run([command, "--no-such-option"])
    assert len(calls) == expected


@pytest.mark.slow
def test_a_diverged_learner_among_padded_ones(on_eight, tmp_path):
    said = on_eight(
        """
        from rljax.config import override
        configs = [TINY, override(TINY, {"critic_lr": 1e30}), override(TINY, {"tau": 0.01})]
        print(train(sac, configs, "pendulum", seeds=3, out="run", **COUNTS).diverged)
        """
    )
    assert said.splitlines()[-1] == str((False, True, False) * 3)
    assert {(row["config"]) for row in store.read_rows(tmp_path / "run" / "metrics.jsonl") if row.get("diverged")} == {1}
