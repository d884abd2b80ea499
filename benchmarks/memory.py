"""What a run's agents reach with their acting memory, and without: ``python benchmarks/memory.py RUN``.

Prints, for each seed, the mean return of 200 greedy episodes, and of as many in which all is forgotten before every step.
"""

from __future__ import annotations

import json
import sys

import jax

from rljax import evaluate
from rljax.base import Env
from rljax.experiments.train import load

EPISODES = 200


def main() -> None:
    """Both figures of all seeds."""
    result = load(sys.argv[1])
    assert isinstance(result.setup.env, Env)
    env = result.setup.env.resize(EPISODES)
    for index, seed in enumerate(result.setup.seeds):
        agent, state = result.agent(index)
        cut = agent._replace(mode=lambda state, memory, obs, agent=agent: agent.mode(state, agent.memory(EPISODES), obs))
        found = {}
        for name, one in (("memory", agent), ("cut", cut)):
            play = jax.jit(lambda state, key, one=one: evaluate.episodes(one, env, state, key)[0])
            found[name] = float(play(state, jax.random.key(seed)).mean())
        print(json.dumps({"seed": seed} | found), flush=True)


if __name__ == "__main__":
    main()
