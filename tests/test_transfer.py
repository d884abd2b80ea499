"""What an agent takes over from another one's state."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import cql, cql_discrete, iql, sac_discrete, td3_bc, wsrl
from rljax.base import Array, Discrete, InputError, Spec
from rljax.config import override
from rljax.transfer import transfer

SPEC = Spec(Array((3,)), Array((2,), low=-1.0, high=1.0), 10)
SMALL = {"actor_width": 8, "critic_width": 8, "num_critics": 3, "layer_norm": True}
DEPTHS = {"actor_depth": 2, "critic_depth": 2}


def state_of(agent, seed=0, **changes):
    """A fresh state, with every number moved away from where it started."""
    fields = {field.name for field in dataclasses.fields(agent.Config)}
    config = override(agent.Config(), {k: v for k, v in (SMALL | DEPTHS | changes).items() if k in fields})
    state = agent.make(SPEC, config).init(jax.random.key(seed))
    return jax.tree.map(lambda x: x + jnp.ones((), x.dtype), state)


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


@pytest.mark.parametrize(
    ("parts", "taken"),
    [
        ("both", {"actor", "critic", "target", "alpha", "stats"}),
        ("actor", {"actor", "alpha", "stats"}),
        ("critic", {"critic", "target", "stats"}),
    ],
)
def test_parts_with_their_optimisers(parts, taken):
    """Parameters, targets, moments and counts are those of the origin; what is not taken stays."""
    new, old = wsrl.make(SPEC, override(wsrl.Config(), SMALL)).init(jax.random.key(1)), state_of(cql)
    made = transfer(new, old, parts)
    for name in new._fields:
        assert same(getattr(made, name), getattr(old if name in taken else new, name)), name
    assert not same(new.actor, old.actor) and not same(new.stats, old.stats)


def test_what_the_origin_lacks_stays():
    """IQL has no temperature: with its critics alone WSRL's own remains."""
    new = wsrl.make(SPEC, override(wsrl.Config(), SMALL)).init(jax.random.key(1))
    made = transfer(new, state_of(iql), "critic")
    assert same(made.alpha, new.alpha) and same(made.critic, state_of(iql).critic)


@pytest.mark.parametrize(
    ("origin", "sentence"),
    [
        (lambda: state_of(iql), "actor of the offline run does not fit: .* is .2,. there and .4,. here"),
        (lambda: state_of(cql, num_critics=2), r"critic of the offline run .* is \(2, 8\) there and \(3, 8\) here"),
        (lambda: state_of(cql, actor_width=4), "actor of the offline run does not fit"),
        (lambda: state_of(cql, layer_norm=False), "here; use the offline run's widths"),
    ],
)
def test_other_networks_are_refused(origin, sentence):
    new = state_of(wsrl)
    with pytest.raises(InputError, match=sentence):
        transfer(new, origin())


def test_targets_that_were_not_there_are_copies():
    """BC has no target actor: TD3+BC starts with a copy of the actor that it takes over; with a critic alone, with its own."""
    new = state_of(td3_bc)
    old = state_of(td3_bc, seed=1)
    made = transfer(new, type("Clone", (), {"_fields": ("actor", "stats"), "actor": old.actor, "stats": old.stats}), "actor")
    assert same(made.actor, old.actor) and same(made.target_actor, old.actor.params) and same(made.target, new.target)
    made = transfer(new, old, "critic")
    assert same(made.actor, new.actor) and same(made.target_actor, new.target_actor) and same(made.target, old.target)


def test_what_is_wanted_must_be_there():
    """A discrete CQL has no actor for a discrete SAC to go on with."""
    discrete = Spec(Array((3,)), Discrete(4), 10)
    states = [agent.make(discrete, agent.Config()).init(jax.random.key(0)) for agent in (sac_discrete, cql_discrete)]
    with pytest.raises(InputError, match="the offline run has no actor"):
        transfer(*states)
    assert same(transfer(*states, "critic").critic, states[1].critic)


def test_unknown_parts():
    with pytest.raises(InputError, match="initialise must be one of both, actor, critic, got 'q'"):
        transfer(state_of(wsrl), state_of(cql), "q")
