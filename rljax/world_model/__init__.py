"""A latent world model on `rljax.ssm`: observations become categorical latents, whose course a Mamba-2 model predicts.

Source: Drama (Wang et al., arXiv:2410.08893), with its latents of DreamerV2 and V3 (arXiv:2301.04104). An observation o_t is
encoded by itself as a latent z_t; the sequence model reads z_t and the action a_t and gives h_{t+1}, all that is known before
o_{t+1} is seen. From h_{t+1} come the reward and the end that a_t led to, and the prior of z_{t+1}; from z_t alone comes the
reconstruction of o_t. h is 0 where an episode begins.

`networks` has sizes and networks, `model` what is learned, the loss, and single steps, `imagination` dreams, and a model as
an environment, `behaviour` actor and critic that learn from dreams.

Deviations: RMSNorm instead of BatchNorm in encoder and decoder, so that imagination and training see the same network, and the
encoder reads observations less their mean (`Networks.centre`), without which what never changes drowns what does;
episodes that end within a sequence reset the state, and nothing is predicted across them; all but images is encoded as its
symmetric logarithm by an MLP, and small images by one as they are.

Axes: B batch, T time, Z latent (groups x classes, flat), D width; ``...`` stands for any leading axes.
"""

from rljax.world_model.imagination import Dream, Foreseen, as_env, dream, foresee, recall
from rljax.world_model.model import (
    Memory,
    Params,
    action_size,
    begin,
    encode_action,
    features,
    forget,
    imagine,
    init,
    log_probs,
    loss,
    most_probable,
    observe,
    outcome,
    reconstruct,
    sample,
    step,
)
from rljax.world_model.networks import DRAMA, MLP, REWARDS, SIZES, XS, Actor, Networks, S, Size, flat

__all__ = [
    "DRAMA",
    "MLP",
    "REWARDS",
    "XS",
    "Actor",
    "Dream",
    "Foreseen",
    "Memory",
    "Networks",
    "Params",
    "SIZES",
    "S",
    "Size",
    "action_size",
    "as_env",
    "begin",
    "dream",
    "encode_action",
    "features",
    "flat",
    "foresee",
    "forget",
    "imagine",
    "init",
    "log_probs",
    "loss",
    "most_probable",
    "observe",
    "outcome",
    "recall",
    "reconstruct",
    "sample",
    "step",
]
