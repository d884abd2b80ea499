# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A world model
#
# Drama ([arXiv:2410.08893](https://arxiv.org/abs/2410.08893)) learns a model of its environment from pixels, and then acts as
# it has found best in imagination. Here a falling ball is to be caught. In the few steps of this notebook, some minutes on two
# CPU cores, the model learns how the ball falls, and the policy begins to learn.

# %%
from dataclasses import replace

import jax
import jax.numpy as jnp

import rljax
from rljax import envs, evaluate, normalize
from rljax import world_model as wm
from rljax.agents import drama
from rljax.experiments import imagination, presets

# %% [markdown]
# ## Learning
#
# The first steps are random. After that each update is a step of the model on replayed sequences, and a step of actor and
# critic on episodes that the model imagines.

# %%
env = envs.make("gymnax/Catch-bsuite")
config = replace(presets.find("drama", env.name).config, every=8)
result = rljax.train(drama, config, env, seeds=2, steps=8_000, eval_every=2_000)
result.plot()

# %% [markdown]
# ## Looking into it
#
# The model sees half of an episode. What it makes of that is drawn beside what was there; then it imagines how the ball goes
# on, from the actions alone.

# %%
imagination.strip(result, 0, jax.random.key(1))

# %% [markdown]
# ## A model is an environment
#
# It begins where the real one does, with an observation, and shows features: the latent, and what the state-space model
# remembers. Any agent of vectors could learn in it.

# %%
agent, state = result.agent(0)
net = drama.networks(config, env.spec.obs.shape, env.spec.action.n, False, state.centre.mean)
params = state.model.params


def start(key):
    _, obs = env.reset(key)
    memory = wm.begin(config.size, 1)
    logits = net.model.apply(params.networks, normalize.apply(state.stats, obs), method="encode")
    return wm.most_probable(logits)[0], jax.tree.map(lambda x: x[0], memory)


imagined = wm.as_env(net.model, params, env.spec, start, num_envs=256)
imagined.spec.obs

# %% [markdown]
# The policy in it, which sees features as they are, beside the policy in the real environment:


# %%
def policy(state, memory, features):
    learned = state.behaviour
    out = drama.behaviour.actions(net.heads, learned.actor.params, learned.features, features)
    return net.heads.policy.mode(out), memory


dreamer = agent._replace(memory=lambda n: (), mode=policy)
in_dreams, _ = jax.jit(lambda key: evaluate.episodes(dreamer, imagined, state, key))(jax.random.key(2))
in_reality, _ = jax.jit(lambda key: evaluate.episodes(agent, env.resize(256), state, key))(jax.random.key(3))
{"imagined": float(jnp.mean(in_dreams)), "real": float(jnp.mean(in_reality))}

# %% [markdown]
# From the command line:
#
# ```bash
# rljax train drama gymnax/Catch-bsuite --seeds 2 --steps 8000 --config.every 8
# rljax play RUN --imagine
# ```
