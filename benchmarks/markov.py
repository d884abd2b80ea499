"""How much of a Brax task's next observation hangs on state that the observation does not show.

``python benchmarks/markov.py TASK BACKEND`` steps 32 copies under random actions, each also from a state that is made anew
from positions and velocities. It prints, for each element of the observation, the standard deviation of the difference
between the two next observations over that of the change in one step: 0 is a Markov observation.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import numpy as np

from rljax.envs import from_brax

COPIES, STEPS = 32, 20


def main(task: str, backend: str) -> None:
    """Print one line of JSON."""
    env = from_brax.load(task, backend)

    def body(state: Any, key: jax.Array) -> tuple[Any, tuple]:
        action = jax.random.uniform(key, (env.action_size,), minval=-1.0)
        new = env.step(state, action)
        anew = env.pipeline_init(state.pipeline_state.q, state.pipeline_state.qd)
        other = env.step(state.replace(pipeline_state=anew), action)
        return new, (state.obs, new.obs, other.obs, state.done)

    @jax.jit
    def run(key: jax.Array) -> tuple:
        key_reset, key_steps = jax.random.split(key)
        return jax.lax.scan(body, env.reset(key_reset), jax.random.split(key_steps, STEPS))[1]

    obs, new, other, done = map(np.asarray, jax.vmap(run)(jax.random.split(jax.random.key(0), COPIES)))
    going = np.cumsum(done, 1) == 0
    share = (new - other)[going].std(0) / (new - obs)[going].std(0)
    print(json.dumps({"task": task, "backend": backend, "hidden": [round(float(x), 3) for x in share]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
