"""Studies on a real Ray cluster of several nodes on this machine: ``pytest tests/cluster/test_ray.py`` with the extra ray.

Nodes, workers and the launcher are killed in the middle; what comes out is, byte for byte, what an undisturbed study gives.
"""

from __future__ import annotations

import signal

import psutil
import pytest

cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def cluster(environment):
    """A head without CPUs."""
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()


@pytest.fixture
def nodes(cluster):
    """Two nodes that take one program each."""
    return [add_node(cluster), add_node(cluster)]


@pytest.fixture
def options(cluster, nodes):
    return ["--on", "ray", "--address", cluster.address]


def add_node(cluster):
    return cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)


def workers(node=None):
    """The processes that train a program, on one node or on all."""
    parents = None if node is None else [x.process.pid for x in node.all_processes["raylet"]]
    found = [
        process for process in psutil.process_iter(["cmdline", "ppid"]) if "ray::run" in "".join(process.info["cmdline"] or [])
    ]
    return [process for process in found if parents is None or process.info["ppid"] in parents]


def test_a_node_is_killed(study, expected, cluster, nodes, options, wait):
    """Its program is retried, from the run folder, by another node; nothing else is done twice."""
    launcher = study.launch(*options)
    wait(lambda: len(study.begun()) == 2 and workers(nodes[1]))
    cluster.remove_node(nodes[1], allow_graceful=False)  # SIGKILL
    add_node(cluster)
    said = launcher.communicate()[0]
    assert launcher.returncode == 0 and study.contents() == expected, said
    assert study.log().count("resumed at step") == 1
    assert [said.count(f"{name}, is finished") for name in study.programs] == [1, 1, 1]


def test_a_worker_and_the_launcher_are_killed(study, expected, options, wait, kill):
    """A killed worker's program is retried; after a kill of the launcher the same command leaves alone what is finished."""
    launcher = study.launch(*options)
    wait(study.begun)
    workers()[0].kill()
    wait(lambda: "resumed at step" in study.log() and study.done())
    kill(launcher)
    done = study.done()
    stamps, before = study.stamps(done), study.log().count("resumed at step")
    again = study.finish(*options)
    assert study.contents() == expected and study.stamps(done) == stamps and len(done) < 3
    assert not [name for name in done if f"{name}, runs" in again] and before == 1


def test_ctrl_c_stops_at_a_checkpoint(study, expected, options, wait, kill):
    launcher = study.launch(*options)
    wait(lambda: len(study.begun()) == 2)
    said = kill(launcher, signal.SIGINT)
    assert launcher.returncode == 130 and "stopping as soon as" in said and "Traceback" not in said, said
    assert study.log().count("stopped at step") == 2
    study.finish(*options)
    assert study.contents() == expected and study.log().count("resumed at step") == 2


def test_a_mistake_of_the_user_is_not_retried(study, options):
    first, (_, *others) = study.out / study.programs[0], study.programs
    first.mkdir(parents=True)
    (first / "metrics.jsonl").write_text("")
    (study.out / "study.json").write_text("[]")
    launcher = study.launch(*options)
    said = launcher.communicate()[0]
    assert launcher.returncode == 2 and "1 of 3 programs could not be trained" in said.splitlines()[-1], said
    assert study.log(first.name).count("config.json is missing") == 1 and study.done() == others


def test_no_cluster(study, environment):
    launcher = study.launch("--on", "ray", "--address", "127.0.0.1:1")
    said = launcher.communicate()[0].splitlines()
    assert launcher.returncode == 2
    assert said[-1] == "rljax: error: there is no Ray cluster at 127.0.0.1:1 (Connection refused)"
