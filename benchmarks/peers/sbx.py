"""SBX' SAC on gymnasium's pendulum, one update per env step.

Needs stable_baselines3, jax, flax, optax and tfp-nightly installed, and a clone of https://github.com/araffin/sbx.
"""

from __future__ import annotations

import sys
from typing import Any

import worker


def build(options: Any) -> worker.Work:
    """SBX' own loop."""
    if options.agent != "sac" or options.seeds != 1:
        worker.refuse("of SBX only sac with one seed is measured")
    sys.path.insert(0, options.clone)
    import torch
    from sbx import SAC

    torch.set_num_threads(options.threads)
    policy = {"net_arch": [worker.WIDTH] * options.depth, "n_critics": worker.CRITICS}
    model = SAC(
        "MlpPolicy",
        "Pendulum-v1",
        batch_size=worker.BATCH,
        buffer_size=worker.CAPACITY,
        learning_starts=0,
        policy_kwargs=policy,
        seed=0,
    )

    def run(num: int) -> int:
        before = model.num_timesteps
        model.learn(num, reset_num_timesteps=False)
        return model.num_timesteps - before

    return worker.Work(run, "env steps", ("stable_baselines3", "jax", "jaxlib", "flax", "gymnasium", "torch"))


if __name__ == "__main__":
    worker.serve(build)
