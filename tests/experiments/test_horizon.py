"""``rljax horizon``: what it prints, draws and refuses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from rljax.data import mdps
from rljax.envs import tabular
from rljax.experiments import cli
from rljax.mdp import deterministic


@pytest.fixture
def rljax(tmp_path, monkeypatch, capsys):
    """``rljax("horizon x.npz")`` in a folder with some files: its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    mdps.save("trap.npz", tabular.trap(4))
    np.savez("nameless.npz", transitions=np.array([[-1]]), rewards=np.array([[1.0]]))
    np.save("uniform.npy", np.full((4, 4, 2), 0.5))
    np.save("short.npy", np.full((2, 4, 2), 0.5))
    np.save("objects.npy", np.array([None]), allow_pickle=True)
    np.save("text.npy", np.array(["a"]))
    Path("folder").mkdir()
    Path("broken.npz").write_bytes(Path("trap.npz").read_bytes()[:300])

    def run(line):
        monkeypatch.setattr(sys, "argv", ["rljax", *line.split()])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capsys.readouterr()

    return run


def numbers(rljax, line):
    code, out, err = rljax(line + " --json")
    assert (code, err) == (0, "")
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_table_chart_and_words(rljax):
    code, out, _ = rljax("horizon trap.npz")
    assert code == 0
    rows = dict(line.split("  ", 1) for line in out.split("\n\n")[0].splitlines())
    said = {name: text.split()[0] for name, text in rows.items()}
    assert (said["k_min"], said["epw"], said["optimal return"], said["random return"]) == ("4", "4", "1.0", "0.4375")
    assert rows["MDP"].split(", ")[:2] == [rows["MDP"].split(", ")[0], "2 actions"]
    assert "4 reachable states" in out and "horizon 4" in out
    assert len([line for line in out.split("\n\n")[1].splitlines() if "#" in line or "-" in line]) >= 4
    assert "goes wrong; it is optimal after 3 more steps" in out and "one must plan 4 steps ahead" in out


def test_easy_one_in_words(rljax):
    assert "plain exploration should work" in rljax("horizon tabular/chain?length=3")[1]
    mdps.save("same.npz", deterministic(np.array([[-1, -1]]), np.ones((1, 2)), 3))
    assert "nothing to learn" in rljax("horizon same.npz")[1]


def test_json_has_all_in_full_precision(rljax):
    found = numbers(rljax, "horizon trap.npz")
    assert found["random_return"] == 0.4375
    assert [found[k] for k in ("states", "actions", "horizon", "k_min", "epw")] == [4, 2, 4, 4, 4]
    assert len(found["greedy_returns"]) == 5 and len(found["optimal_value"]) == len(found["random_value"]) == 4
    assert found["min_state_action_occupancy"] == 1 / 16
    assert found["gorp_bounds"][0] == {"k": 1, "m": None, "effective_horizon": "inf", "samples": None}
    assert found["gorp_k"] == 4 and found["gorp_samples"] == 16 * 1 * 16
    assert "gorp_bounds" not in numbers(rljax, "horizon trap.npz --no-gorp")
    assert len(numbers(rljax, "horizon trap.npz --max-k 2")["gorp_bounds"]) == 2


def test_sticky_and_horizon(rljax):
    found = numbers(rljax, "horizon trap.npz --sticky 0.25 --horizon 3")
    assert (found["horizon"], found["sticky"], found["effective_horizon"]) == (3, 0.25, None)
    assert found["optimal_return"] < 1
    assert numbers(rljax, "horizon tabular/trap?k=4&sticky=0.25 --horizon 3") == found
    assert numbers(rljax, "horizon tabular/trap.npz?sticky=0.25&horizon=3") == found
    assert "for deterministic MDPs" in rljax("horizon trap.npz --sticky 0.25")[1]


def test_exploration_policy(rljax):
    uniform, plain = numbers(rljax, "horizon trap.npz --exploration uniform.npy"), numbers(rljax, "horizon trap.npz")
    renamed = {k.replace("random", "exploration"): v for k, v in plain.items()}
    assert uniform == renamed


def test_large_numbers(rljax):
    """A reward far away among 4 actions: 1e30 episodes and more are whole numbers in JSON and short in the table."""
    depth = 60
    after = np.full((depth, 4), -1)
    after[:-1, -1] = np.arange(1, depth)
    mdps.save("far.npz", deterministic(after, np.outer(np.arange(depth) == depth - 1, [0, 0, 0, 1.0]), depth))
    found = numbers(rljax, "horizon far.npz --max-k 1")
    assert isinstance(found["ms"][0], int) and found["ms"][0] > 10**30 and found["gorp_samples"] > 10**30
    code, out, _ = rljax("horizon far.npz --no-gorp")
    assert code == 0 and f"1: {found['ms'][0]:.4g}, 2: " in out
    assert max(map(len, out.split("\n\n")[0].splitlines())) < 250


def test_picture(rljax):
    code, out, _ = rljax("horizon trap.npz --png trap.png")
    assert code == 0 and out.endswith("picture in trap.png\n")
    assert Path("trap.png").read_bytes()[:4] == b"\x89PNG"


def test_estimate_from_episodes(rljax):
    code, out, _ = rljax("horizon gymnax/CartPole-v1 --horizon 20 --max-k 2 --episodes 50")
    assert code == 0 and "An estimate, not a bound" in out and "Episodes begin in different states" in out
    found = numbers(rljax, "horizon gymnax/CartPole-v1 --horizon 20 --max-k 2 --episodes 50")
    assert [e["k"] for e in found["estimates"]] == [1, 2]
    assert all(float(e["low"]) <= float(e["effective_horizon"]) <= float(e["high"]) for e in found["estimates"])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("horizon", "FILE"),
        ("horizon missing.npz", "there is no file missing.npz"),
        ("horizon missing", "unknown environment 'missing'"),
        ("horizon folder", "folder is a folder"),
        ("horizon broken.npz", "broken.npz is damaged or cut short"),
        ("horizon uniform.npy", "uniform.npy is no npz file"),
        ("horizon nameless.npz", "give --horizon"),
        ("horizon trap.npz --horizon 0", "the horizon must be at least 1 step, got 0"),
        ("horizon trap.npz --horizon x", "--horizon"),
        ("horizon trap.npz --horizon 1000000000", "of memory"),
        ("horizon trap.npz --sticky 1", "at least 0 and below 1, got 1"),
        ("horizon trap.npz --sticky -0.5", "at least 0 and below 1, got -0.5"),
        ("horizon trap.npz --sticky nan", "at least 0 and below 1, got nan"),
        ("horizon trap.npz --max-k 0", "--max-k must be at least 1, got 0"),
        ("horizon trap.npz --exploration missing.npy", "there is no file missing.npy"),
        ("horizon trap.npz --exploration folder", "folder is a folder"),
        ("horizon trap.npz --exploration trap.npz", "trap.npz is no npy file"),
        ("horizon trap.npz --exploration objects.npy", "objects.npy"),
        ("horizon trap.npz --exploration text.npy", "text.npy holds <U1, not numbers"),
        ("horizon trap.npz --exploration short.npy", "[4, 4 or 5, 2], got [2, 4, 2]"),
        ("horizon trap.npz --exploration uniform.npy --sticky 0.5", "--exploration describes the states of the file"),
        ("horizon trap.npz --colour red", "--colour"),
        ("horizon tabular/tarp", "did you mean tabular/trap?"),
        ("horizon tabular/trap?size=3", "has no option 'size'"),
        ("horizon pendulum", "those of pendulum are continuous"),
        ("horizon gymnax/CartPole-v1 --sticky 0.5", "--sticky is for MDPs"),
        ("horizon gymnax/CartPole-v1 --png x.png", "--exploration and --png are for MDPs"),
        ("horizon gymnax/CartPole-v1 --max-k 30", "more than 200000 episodes at once"),
        ("horizon gymnax/CartPole-v1 --episodes 1", "episodes must be at least 2, got 1"),
        ("horizon trap.npz --png folder/none/x.png", "--png must be a file that ends in .png, in a folder that exists"),
        ("horizon trap.npz --png x.foo", "--png must be a file that ends in .png"),
        ("horizon trap.npz --episodes -1", "--episodes must be at least 2, got -1"),
        ("horizon tabular/trap?sticky=0.25 --sticky 0.5", "tabular/trap?sticky=0.25 says how sticky actions are"),
    ],
)
def test_a_mistake_is_one_sentence(rljax, line, sentence):
    code, out, err = rljax(line)
    assert code == 2 and out == "" and sentence in err and err.count("\n") == 1


def test_freeway(rljax):
    shared = Path(os.environ.get("RLJAX_SHARED", Path(__file__).parents[3] / "shared"))
    path = shared / "data/effective_horizon/freeway_10_fs30.npz"
    if not path.exists():
        pytest.skip(f"no real MDP: {path} does not exist")
    found = numbers(rljax, f"horizon {path}")
    assert found["ms"] == [5307, 2244, 1020, 505, 262, 69, 57, 1] and found["effective_horizon"] == 8
    assert (found["k_min"], found["epw"], found["gorp_k"], found["gorp_samples"]) == (1, 6, 1, 11_100)
    assert round(found["gorp_effective_horizon"], 4) == 4.2868
    sticky = numbers(rljax, f"horizon {path} --sticky 0.25")
    assert (sticky["states"], sticky["k_min"], sticky["epw"], sticky["optimal_return"]) == (322, 1, 6, 1)
    np.testing.assert_allclose(sticky["random_return"], 0.031809488932291664, rtol=1e-14)
