"""CORL's TD3+BC, IQL and CQL (PyTorch).

Needs torch and numpy installed, and a clone of https://github.com/tinkoff-ai/CORL.
"""

from __future__ import annotations

import importlib
import math
import sys
from typing import Any

import torch
import worker

SHAPES = (worker.OBS, worker.ACTION)


def build(options: Any) -> worker.Work:
    """CORL's training loop without evaluations and logs."""
    if options.agent not in AGENTS or options.seeds != 1 or options.depth != 2:
        worker.refuse("CORL has td3_bc, iql and cql, here with one seed and two hidden layers")
    torch.set_num_threads(options.threads)
    sys.path.insert(0, options.clone)
    worker.stand_in("d4rl", "gym", "pyrallis", "wandb")
    module = importlib.import_module(f"algorithms.offline.{options.agent}")
    trainer = AGENTS[options.agent](module, options)
    replay = module.ReplayBuffer(*SHAPES, options.rows)
    replay.load_d4rl_dataset(worker.recorded(options.rows))

    def run(num: int) -> int:
        for _ in range(num):
            trainer.train(replay.sample(worker.BATCH))
        return num

    return worker.Work(run, "gradient steps", ("torch", "numpy"))


def td3_bc(module: Any, options: Any) -> Any:
    """The trainer of TD3+BC."""
    networks = module.Actor(*SHAPES, 1.0), module.Critic(*SHAPES), module.Critic(*SHAPES)
    return module.TD3_BC(1.0, *(x for network in networks for x in (network, adam(network))))


def iql(module: Any, options: Any) -> Any:
    """The trainer of IQL."""
    networks = module.GaussianPolicy(*SHAPES, 1.0), module.TwinQ(*SHAPES), module.ValueFunction(worker.OBS)
    return module.ImplicitQLearning(1.0, *(x for network in networks for x in (network, adam(network))))


def cql(module: Any, options: Any) -> Any:
    """The trainer of CQL; the actor has three hidden layers there, one of which is taken out."""
    critics = [module.FullyConnectedQFunction(*SHAPES, True, options.depth) for _ in range(worker.CRITICS)]
    actor = module.TanhGaussianPolicy(*SHAPES, 1.0, orthogonal_init=True)
    del actor.base_network[4:6]
    pairs = [x for network in (*critics, actor) for x in (network, adam(network))]
    return module.ContinuousCQL(
        *pairs, target_entropy=-math.prod((worker.ACTION,)), bc_steps=0, cql_n_actions=options.actions, cql_alpha=10.0
    )


def adam(network: Any) -> Any:
    """The optimiser of a network."""
    return torch.optim.Adam(network.parameters(), 3e-4)


AGENTS = {"td3_bc": td3_bc, "iql": iql, "cql": cql}

if __name__ == "__main__":
    worker.serve(build)
