"""Averaging at the end of a chain of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mda_jax import training


def loss(params, x):
    return ((params["w"] * x).sum() - 1) ** 2


def trained(optimiser, steps=6):
    """Parameters after each step of a jitted loop, and the last state."""

    @jax.jit
    def step(params, state, x):
        gradients = jax.grad(loss)(params, x)
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params = {"w": jnp.ones(3)}
    state, passed = optimiser.init(params), []
    for x in np.random.default_rng(0).normal(size=(steps, 3)).astype(np.float32):
        params, state = step(params, state, jnp.asarray(x))
        passed.append(np.asarray(params["w"], np.float64))
    return passed, state


def test_the_parameters_after_every_step_are_averaged():
    averager = training.window(4)
    inner = optax.sgd(0.1, momentum=0.9)
    plain, _ = trained(inner)
    passed, state = trained(optax.chain(inner, training.averaging(averager)))
    np.testing.assert_array_equal(passed, plain)
    got = training.averaged_params(averager, state)["w"]
    np.testing.assert_allclose(got, np.mean(passed[-4:], axis=0), rtol=1e-6)


def test_it_stands_inside_other_chains():
    averager = training.ema(0.5)
    inner = optax.chain(optax.sgd(0.1), training.averaging(averager))
    passed, state = trained(optax.named_chain(("clip", optax.clip(9.0)), ("in", inner)))
    weights = 2.0 ** np.arange(6)
    got = training.averaged_params(averager, state)["w"]
    np.testing.assert_allclose(got, weights @ passed / weights.sum(), rtol=1e-5)


def test_parameters_may_have_any_names():
    averager = training.uniform()
    params = {"average": jnp.ones(2)}
    optimiser = optax.named_chain(("average", training.averaging(averager)))
    got = training.averaged_params(averager, optimiser.init(params))
    np.testing.assert_array_equal(got["average"], params["average"])


def test_what_is_missing_is_told():
    averager = training.uniform()
    optimiser = training.averaging(averager)
    state = optimiser.init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="found no params"):
        optimiser.update({"w": jnp.ones(2)}, state)
    with pytest.raises(ValueError, match="found 0 averages"):
        training.averaged_params(averager, optax.sgd(0.1).init({"w": jnp.ones(2)}))
