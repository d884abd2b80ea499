"""A study on a Ray cluster: a task for each program, which goes on from its run folder when its worker or node was lost."""

from __future__ import annotations

import functools
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rljax.base import InputError
from rljax.experiments import clusters, progress
from rljax.experiments.clusters import Begin, Engine, Job

RETRIES = 100  # of a program whose worker died; not endless, for one that kills its worker each time
ANSWER_SECONDS = 10.0  # that a cluster may take to answer


def connect(given: Any) -> Begin:
    """Join the cluster at ``given.address``, or else that of RAY_ADDRESS or the one that this machine is part of.

    Raises:
        InputError: if Ray is not installed, or there is no cluster at this address.
    """
    try:
        import ray
    except ImportError:
        raise InputError('ray is not installed: pip install "rljax[ray]"') from None

    address = given.address or os.environ.get("RAY_ADDRESS")
    if address:
        require_answer(address)
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        raise InputError("there is no Ray cluster here: start one with ray start --head, or give its --address") from None
    needs = {"CPU": given.cpus or 1, "GPU": given.gpus or 0, "memory": (given.memory or 0) * 2**30}
    _say_nodes(ray.nodes(), needs)
    task = ray.remote(
        num_cpus=needs["CPU"],
        num_gpus=needs["GPU"],
        memory=needs["memory"],
        max_retries=RETRIES,
        max_calls=1,  # a process of its own, which sees its GPUs and ends with all of its memory
        scheduling_strategy="SPREAD",
    )(clusters.run)
    return functools.partial(_begin, task)


def _begin(task: Any, jobs: Mapping[str, Job], out: Path) -> Engine:
    """Give the cluster a ``task`` for each of ``jobs``."""
    import ray

    left = {task.remote(job.command): folder for folder, job in jobs.items()}

    def look() -> tuple[set[str], set[str]]:
        done, _ = ray.wait(list(left), num_returns=len(left), timeout=clusters.LOOK_SECONDS)
        ended = {left.pop(x) for x in done}
        return clusters.active({folder: jobs[folder] for folder in left.values()}, out), ended

    def stop() -> None:
        progress.say("stopping as soon as the steps that run are done; Ctrl-C again stops at once")
        for x in left:
            ray.cancel(x)
        ray.wait(list(left), num_returns=len(left))

    return Engine(look, stop)


def require_answer(address: str) -> None:
    """Raise `InputError` unless something listens at HOST:PORT, for which Ray would look for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) >= 2**16 or "/" in host:
        raise InputError(f"the address of a Ray cluster must be HOST:PORT, such as 10.0.0.1:6379, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise InputError(f"there is no Ray cluster at {address} ({error.strerror or error})") from None


def _say_nodes(nodes: list[dict[str, Any]], needs: Mapping[str, float]) -> None:
    """Say what the cluster has, and if no node of it can take a program."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    cpus, gpus = (int(sum(node.get(name, 0) for node in alive)) for name in ("CPU", "GPU"))
    progress.say(f"Ray has {len(alive)} nodes with {cpus} CPUs and {gpus} GPUs")
    if not any(all(node.get(name, 0) >= need for name, need in needs.items()) for node in alive):
        progress.say("none of them has what a program asks for: waiting for one that has; ask for less, or Ctrl-C to stop")
