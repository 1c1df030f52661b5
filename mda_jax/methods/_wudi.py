"""WUDI-Merging."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mda_jax import _check, primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import Fixed, spectral, stage


def wudi(steps: int = 300, rate: Number = 1e-5, scale: Number = 1.0) -> Stage:
    """Descend from the sum of deltas to where it disturbs each expert less.

    Args:
      steps: of Adam, at least 1; another value compiles again.
      rate: Adam's learning rate, in units of the weights: an entry moves by at most
        about `steps * rate`.
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. Matrices and convolutions `X`, `[m, n]`, start at
      the sum and lower `sum_t ||(X - D_t) D_t^T||^2 / ||D_t||^2`; all other leaves take
      the mean of the deltas. Slopes hold the directions of the steps still, which
      depend on signs more than on sizes: those in the deltas are those of the sum.

    Raises:
      ValueError: `steps` is below 1.

    Paper:
      Cheng et al., Whoever Started the Interference Should End It, 2025,
      https://arxiv.org/abs/2503.08099, equation for the layer loss.
      Differs: an expert that changes nothing takes no part, where the authors' code
      divides by zero. The step size is not relative to the deltas, which is the
      authors' choice: `dls` is the minimiser with a ridge instead.
    """
    _check.at_least_one("wudi", steps=steps)
    matrices = stage(descended, steps=Fixed(steps), rate=rate)
    return spectral(matrices, scale)


def descended(
    d: Float[Array, "k m n"], *, steps: Fixed, rate: Number
) -> Float[Array, "1 m n"]:
    """The sum, moved to where the descent of `wudi` ends."""
    rate = jnp.asarray(rate, d.dtype)
    held = jax.lax.stop_gradient(rate)
    moved = _path(jax.lax.stop_gradient(d), steps, held)
    per_rate = moved / jnp.where(held > 0, held, 1)
    return p.total(d) + moved + (rate - held) * per_rate


def _path(
    d: Float[Array, "k m n"], steps: Fixed, rate: Number
) -> Float[Array, "1 m n"]:
    """How far Adam gets from the sum; the loss enters through its quadratic form."""
    used = p.input_grams(d)
    curvature = used.sum(0)
    kept = jnp.einsum("kmi,kij->mj", d, used, precision="highest")[None]
    adam = optax.adam(rate)

    def step(state, _):
        x, memory = state
        gradient = 2 * (jnp.matmul(x, curvature, precision="highest") - kept)
        with jax.numpy_dtype_promotion("standard"):  # optax counts in integers
            update, memory = adam.update(gradient, memory)
        return (x + update, memory), None

    start = p.total(d)
    (x, _), _ = jax.lax.scan(step, (start, adam.init(start)), length=steps.value)
    return x - start
