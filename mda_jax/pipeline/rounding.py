"""mergekit's methods in the models' own type: PyTorch rounds after every operation.

On bfloat16 and float16 PyTorch computes each operation in float32 and rounds the
result; a sum along an axis is one operation. So do these functions: `r` rounds. Their
rows are the models' weights, the base's first where the method has one, in place of
deltas, and what they return is the merged weight, in place of a change.
"""

import math
from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Deltas, Number, Rows, Side, Stage
from mda_jax.combine import Fixed, chain, sided, stage
from mda_jax.methods._dare_linear import at_random, dropped
from mda_jax.methods._della_linear import by_rank
from mda_jax.methods._ram import changers, changes
from mda_jax.pipeline.dialect import array, ids
from mda_jax.pipeline.parameters import Numbers


Row = Float[Array, " 1 *d"]
Each = Float[Array, " k *ones"]
Mix = Callable[[Deltas, Float[Array, " k"], Partial], Row]


def rounding_stage(
    method: str, numbers: Numbers, dtype: np.dtype, *, base: bool
) -> Stage:
    """What mergekit computes for a tensor of a narrow type.

    Args:
      method: a name of `dialect.MERGEKIT`.
      numbers: its parameters.
      dtype: bfloat16 or float16.
      base: whether the first row of the weights is the base's.

    Returns:
      A stage `[k, *d] -> [1, *d]` of weights, as they are stored.
    """
    r = Partial(_rounded, Fixed(dtype))
    if base and method in _OF_DELTAS:
        return sided(on_deltas, method=_OF_DELTAS[method](numbers, r), r=r)
    return sided(on_weights, method=_OF_WEIGHTS[method](numbers, r), r=r)


def _rounded(dtype: Fixed, x: Array) -> Array:
    return p.rounded(x, to=dtype.value)


def _over(x: Array, y: Array | Number) -> Array:
    """The quotient; of a `y` that all share XLA would take the reciprocal instead."""
    return x / jnp.where(jnp.isnan(x), x, y)


def on_weights(d: Deltas, side: Side, *, method: Stage, r: Partial) -> Row:
    """A method that sees the weights, cast on loading."""
    return method(r(d), side)


def on_deltas(d: Deltas, side: Side, *, method: Stage, r: Partial) -> Row:
    """A method that sees the deltas and returns what to add to the base."""
    weights = r(d)
    base = weights[:1]
    return r(base + method(r(weights[1:] - base), side))


def _step_by_step(r: Partial, *stages: Stage) -> Stage:
    """The stages one after the other, each result rounded."""
    return chain(*(each for one in stages for each in (one, stage(r))))


# Sums of deltas, with or without a vote.


def _mixed(mix: Mix, n: Numbers, r: Partial) -> tuple[Stage, Stage]:
    weights = array(n.each("weight"))
    return (
        stage(mixed, mix=Partial(mix), weights=weights, r=r),
        stage(p.scaled, by=n.common["lambda"]),
    )


def _summed(n: Numbers, r: Partial) -> tuple[Stage, Stage]:
    return _mixed(mean if n.common["normalize"] else total, n, r)


def _voted(n: Numbers, r: Partial) -> tuple[Stage, Stage]:
    return _mixed(elected_mean if n.common["normalize"] else elected, n, r)


def mixed(d: Deltas, *, mix: Partial, weights: Float[Array, " k"], r: Partial) -> Row:
    """One delta from weighted deltas."""
    weights = r(weights)
    return mix(r(p.weighted(d, weights=weights)), weights, r)


def total(d: Deltas, weights: Float[Array, " k"], r: Partial) -> Row:
    """The sum."""
    del weights
    return r(p.total(d))


def mean(d: Deltas, weights: Float[Array, " k"], r: Partial) -> Row:
    """The sum over the sum of the weights, or over 1 where that is tiny."""
    whole = r(weights.sum())
    return _over(r(p.total(d)), jnp.where(jnp.abs(whole) < 1e-8, 1, whole))


def elected(d: Deltas, weights: Float[Array, " k"], r: Partial) -> Row:
    """The sum over those that carry the elected sign."""
    del weights
    return p.agreeing_sum(d, sign=_sign(d, r))


def elected_mean(d: Deltas, weights: Float[Array, " k"], r: Partial) -> Row:
    """The same, over the sum of their weights."""
    agree = p.agreeing(d, sign=_sign(d, r))
    shares = p.weighted(agree.astype(d.dtype), weights=weights)
    whole = r(p.total(shares))
    return _over(r(p.total(jnp.where(agree, d, 0))), jnp.where(whole == 0, 1, whole))


def _sign(d: Deltas, r: Partial) -> Row:
    return p.nonnegative_sign_of_sum(r(p.total(d)))


# What they are preceded by.


def _after(
    sparsify: Callable[[Numbers, Partial], Stage],
    mix: Callable[[Numbers, Partial], tuple[Stage, Stage]],
) -> Callable[[Numbers, Partial], Stage]:
    return lambda n, r: _step_by_step(r, sparsify(n, r), *mix(n, r))


def _largest(n: Numbers, r: Partial) -> Stage:
    rescale = Partial(_rescale(n, r.args[0].value))
    return stage(trimmed, density=Fixed(n.each("density")), rescale=rescale)


def trimmed(d: Deltas, *, density: Fixed, rescale: Partial) -> Deltas:
    """The largest `int(density * n)` entries of each row, one at least."""
    n = math.prod(d.shape[1:])
    counts = jnp.asarray([max(1, int(share * n)) for share in density.value])
    return rescale(p.keep_count(d, count=counts), d, array(density.value))


def _in_a_band(n: Numbers, r: Partial) -> Stage:
    density, outliers = array(n.each("density")), array(n.each("gamma"))
    rescale = Partial(_rescale(n, r.args[0].value))
    return stage(banded, density=density, outliers=outliers, rescale=rescale)


def banded(d: Deltas, *, density: Array, outliers: Array, rescale: Partial) -> Deltas:
    """All but the largest and the smallest entries of each row."""
    return rescale(p.keep_band(d, density=density, outliers=outliers), d, density)


def _at_random(n: Numbers, r: Partial) -> Stage:
    density = array(n.each("density"))
    return dropped(at_random, _after_draws(n, r), density=density, ids=ids(n))


def _at_random_by_rank(n: Numbers, r: Partial) -> Stage:
    numbers = {name: array(n.each(name)) for name in ("density", "epsilon")}
    return dropped(by_rank, _after_draws(n, r), **numbers, ids=ids(n))


def _after_draws(n: Numbers, r: Partial) -> p.Rescale:
    """On a CPU PyTorch draws for float16 in float32, and mergekit rescales there."""
    dtype = r.args[0].value
    return _rescale(n, np.dtype(np.float32) if dtype == np.float16 else dtype)


def _rescale(n: Numbers, dtype: np.dtype) -> p.Rescale:
    return by_l1_norm(dtype) if n.common["rescale"] else p.as_kept


@cache
def by_l1_norm(dtype: np.dtype) -> p.Rescale:
    """Give each expert its L1 norm back, unless either norm is below 1e-7."""
    r = Partial(_rounded, Fixed(dtype))

    def norms(kept: Deltas, d: Deltas) -> tuple[Each, Each]:
        whole, left = (r(jnp.abs(x).sum(p.whole(x), keepdims=True)) for x in (d, kept))
        return whole, left

    def to_norm(kept: Deltas, density: p.Density, found: tuple[Each, Each]) -> Deltas:
        del density
        whole, left = found
        tiny = jnp.minimum(whole, left) < 1e-7
        return r(kept * jnp.where(tiny, 1, r(_over(whole, left))))

    return p.Rescale(norms, to_norm)


# Averages of weights, and SLERP: in float32, rounded in the end.


def _linear(n: Numbers, r: Partial) -> Stage:
    average = weighted_mean if n.common["normalize"] else weighted_sum
    weights = array(n.each("weight"))
    return _step_by_step(r, stage(average, weights=weights))


def weighted_mean(d: Deltas, *, weights: Float[Array, " k"]) -> Row:
    """The weighted sum over the sum of the weights."""
    return _over(weighted_sum(d, weights=weights), weights.sum())


def weighted_sum(d: Deltas, *, weights: Float[Array, " k"]) -> Row:
    """One product after the other is added, without being rounded itself."""
    whole = jnp.zeros_like(d[:1])
    for x, weight in zip(d, weights, strict=True):
        whole = _multiplied_and_added(x[None], weight, whole)
    return whole


def _multiplied_and_added(x: Row, weight: Float[Array, ""], to: Row) -> Row:
    """The fused operation, exact to the last rounding as `x` has 11 bits or less.

    Halves of the weight make exact products, and what the sum with the first of them
    loses is added to the second (Knuth's two-sum).
    """
    head = jax.lax.reduce_precision(weight, 8, 11)
    first, second = p.scaled(x, by=head), p.scaled(x, by=weight - head)
    whole = to + first
    part = whole - to
    lost = (to - (whole - part)) + (first - part)
    return whole + (lost + second)


def _passthrough(n: Numbers, r: Partial) -> Stage:
    (scale,) = n.each("scale")
    return _step_by_step(r, stage(p.scaled, by=scale))


def _slerp(n: Numbers, r: Partial) -> Stage:
    return _step_by_step(r, stage(along_the_arc, t=n.common["t"]))


def along_the_arc(d: Deltas, *, t: Number) -> Row:
    """Between base and expert, each a vector seen from 0."""
    between = p.cosine(p.gram(d, p.whole(d)))
    first, second = p.slerp_shares(between, t, straight=0.9995)
    return first * d[:1] + second * d[1:]


# Vectors and the angles between them.


def _length(x: Deltas, axes: p.Axes, r: Partial) -> Each:
    return r(p.length(x, axes))


def _dot(x: Deltas, y: Rows, axes: p.Axes, r: Partial) -> Each:
    return r(r(x * y).sum(axes, keepdims=True))


def _nuslerp(n: Numbers, r: Partial) -> Stage:
    by = {False: p.rows, True: p.columns}[bool(n.common["nuslerp_row_wise"])]
    vectors = p.whole if n.common["nuslerp_flatten"] else by
    first, second = n.each("weight")
    some = abs(first + second) >= 1e-6
    t = second / (first + second) if some else 0.5
    return stage(between, shares=(1 - t, t), vectors=Partial(vectors), r=r)


def between(
    d: Deltas, *, shares: tuple[Number, Number], vectors: Partial, r: Partial
) -> Row:
    """Along the arc between two rows, straight where they are parallel."""
    rows, axes = (d[:1], d[1:]), vectors(d)
    first, second = (
        r(_over(x, r(jnp.maximum(_length(x, axes, r), 1e-7)))) for x in rows
    )
    angle = r(jnp.arccos(jnp.clip(_dot(first, second, axes, r), -1, 1)))
    sine = r(jnp.sin(angle))
    bent = [
        r(r(jnp.sin(r(p.scaled(angle, by=t)))) * x)
        for t, x in zip(shares, rows, strict=True)
    ]
    straight = [r(p.scaled(x, by=t)) for t, x in zip(shares, rows, strict=True)]
    arc = r(_over(r(bent[0] + bent[1]), sine))
    return jnp.where(jnp.abs(sine) < 1e-8, r(straight[0] + straight[1]), arc)


def _multislerp(n: Numbers, r: Partial) -> Stage:
    weights, eps = array(n.each("weight")), n.common["eps"]
    share = shares if n.common["normalize_weights"] else rounded_weights
    return stage(barycentre, weights=weights, eps=eps, share=Partial(share), r=r)


def rounded_weights(weights: Float[Array, " k"], r: Partial) -> Float[Array, " k"]:
    """The weights as they are."""
    return r(weights)


def shares(weights: Float[Array, " k"], r: Partial) -> Float[Array, " k"]:
    """The weights over their sum."""
    weights = r(weights)
    return r(_over(weights, r(weights.sum())))


def barycentre(
    d: Deltas,
    *,
    weights: Float[Array, " k"],
    eps: Number,
    share: Partial,
    r: Partial,
) -> Row:
    """One step towards the mean on a sphere; linear where no direction is left."""
    if len(d) == 1:
        return d
    axes, weights = p.whole(d), share(weights, r)
    tiny = r(jnp.asarray(eps, d.dtype))

    def average(x: Deltas) -> Row:
        return r(p.total(r(p.weighted(x, weights=weights))))

    lengths = _length(d, axes, r)
    units = r(_over(d, r(lengths + tiny)))
    middle = average(units)
    size = _length(middle, axes, r)
    middle = r(_over(middle, size))
    along = _dot(units, middle, axes, r)
    tangent = average(r(units - r(along * middle)))
    far = r(_length(tangent, axes, r) + tiny)
    reach = r(r(jnp.sin(far)) / far)
    moved = r(r(middle * r(jnp.cos(far))) + r(tangent * reach))
    return jnp.where(size < tiny, average(d), r(moved * average(lengths)))


def _model_stock(n: Numbers, r: Partial) -> Stage:
    vectors = Partial(p.rows if n.common["filter_wise"] else p.whole)
    return stage(pulled_mean, vectors=vectors, r=r)


def pulled_mean(d: Deltas, *, vectors: Partial, r: Partial) -> Row:
    """Between the base and the mean of the experts, by the angle of their deltas."""
    base, experts, count = d[:1], d[1:], len(d) - 1
    if count == 1:
        return experts
    deltas, axes = r(experts - base), vectors(d)
    lengths = _length(deltas, axes, r)
    i, j = np.triu_indices(count, 1)
    sizes = r(jnp.maximum(r(lengths[i] * lengths[j]), 1e-6))
    cosines = jnp.clip(r(_dot(deltas[i], deltas[j], axes, r) / sizes), -1, 1)
    cosine = r(_over(p.total(cosines), len(i)))
    below = r(1 + r((count - 1) * cosine))
    single = jnp.abs(below) < 1e-6
    ratio = jnp.where(single, 0, r(r(count * cosine) / jnp.where(single, 1, below)))
    middle = r(_over(_added_up(experts, r), count))
    return r(r(ratio * middle) + r(r(1 - ratio) * base))


def _added_up(d: Deltas, r: Partial) -> Row:
    """The sum, rounded after every addition."""
    whole = d[:1]
    for each in d[1:]:
        whole = r(whole + each[None])
    return whole


def _karcher(n: Numbers, r: Partial) -> Stage:
    rounds, tolerance = Fixed(n.common["max_iter"]), n.common["tol"]
    return stage(karcher_mean, rounds=rounds, tolerance=tolerance, r=r)


def karcher_mean(d: Deltas, *, rounds: Fixed, tolerance: Number, r: Partial) -> Row:
    """The mean direction, and the mean length; lengths are float32 throughout."""
    if len(d) == 1:
        return d
    axes = p.whole(d)
    lengths = p.length(d, axes)
    near = jnp.asarray(tolerance, d.dtype)
    present = lengths > near
    units = r(_over(d, jnp.where(lengths > 0, lengths, 1)))
    alike = _over(
        present.astype(d.dtype), jnp.maximum(present.sum(), 1).astype(d.dtype)
    )

    def unit(x: Row, otherwise: Row) -> Row:
        size = p.length(x, axes)
        return jnp.where(size < near, otherwise, r(_over(x, size)))

    def step(_: Array, middle: Row) -> Row:
        cosines = jnp.clip(r((middle * units).sum(axes, keepdims=True)), -1, 1)
        angles = r(jnp.arccos(cosines))
        pull = r(alike * r(angles / r(jnp.sin(angles))))
        tangents = r(pull * r(units - r(cosines * middle)))
        tangent = _added_up(jnp.where(present & (angles >= near), tangents, 0), r)
        far = p.length(tangent, axes)
        along = r(r(jnp.sin(far)) * r(_over(tangent, far)))
        moved = r(r(r(jnp.cos(far)) * middle) + along)
        return jnp.where(far < near, middle, unit(moved, moved))

    first = units[present.argmax()][None]
    start = unit(_added_up(r(alike * units), r), first)
    middle = jax.lax.fori_loop(0, rounds.value, step, start)
    return r(r(p.total(lengths * (1 / len(d)))) * middle)


# Entries by themselves.


def _nearswap(n: Numbers, r: Partial) -> Stage:
    return stage(near_swapped, t=n.common["t"], r=r)


def near_swapped(d: Deltas, *, t: Number, r: Partial) -> Row:
    """The expert's entries as far as they are near; PyTorch divides by reciprocals."""
    base, expert = d[:1], d[1:]
    gap = r(jnp.maximum(jnp.abs(r(base - expert)), 1e-6))
    share = jnp.clip(r(p.scaled(r(1 / gap), by=t)), 0, 1)
    return r(r(share * expert) + r(r(1 - share) * base))


def _ram(n: Numbers, r: Partial) -> Stage:
    return stage(mean_of_changes, epsilon=n.common["epsilon"], r=r)


def mean_of_changes(d: Deltas, *, epsilon: Number, r: Partial) -> Row:
    """Mean over the experts that changed an entry."""
    changed, count = _changes(d, epsilon, r)
    parts = jnp.where(count > 1, r(d / jnp.maximum(count, 1)), d)
    return r(p.total(jnp.where(changed, parts, 0)))


def _changes(d: Deltas, epsilon: Number, r: Partial) -> tuple[Array, Row]:
    """Which entries an expert changed, and how many experts changed an entry."""
    changed = changes(d, r(jnp.asarray(epsilon, d.dtype)))
    return changed, changers(changed, d)


def _ramplus_tl(n: Numbers, r: Partial) -> Stage:
    numbers = {name: n.common[name] for name in ("epsilon", "r", "alpha")}
    gain, most = numbers["r"], numbers["alpha"]
    epsilon = numbers["epsilon"]
    return stage(amplified, epsilon=epsilon, gain=gain, most_overlap=most, r=r)


def amplified(
    d: Deltas, *, epsilon: Number, gain: Number, most_overlap: Number, r: Partial
) -> Row:
    """The weight; the factors are float32, and so is what they are multiplied with."""
    base = d[:1]
    deltas = r(d[1:] - base)
    changed, count = _changes(deltas, epsilon, r)
    alone, shared = (
        jnp.count_nonzero(changed & which, p.whole(d), keepdims=True).astype(d.dtype)
        for which in (count == 1, count > 1)
    )
    least, most = (jnp.asarray(x, d.dtype) for x in (epsilon, most_overlap))
    overlap = jnp.clip(shared / jnp.maximum(alone, least), 0, most)
    factor = 1 + p.scaled(overlap, by=gain)
    parts = jnp.where(count > 1, r(deltas / jnp.maximum(count, 1)), factor * deltas)
    return base + p.total(jnp.where(changed, parts, 0))


def _sce(n: Numbers, r: Partial) -> Stage:
    share, fuse = n.common["select_topk"], stage(fused, r=r)
    if share >= 1:
        return fuse
    return chain(stage(most_varying, share=share, r=r), fuse)


def most_varying(d: Deltas, *, share: Number, r: Partial) -> Deltas:
    """Zero all but the entries of the largest variance over the experts."""
    centre = _over(p.total(d), len(d))
    variance = r(_over(p.total(jnp.square(d - centre)), len(d)))
    some = jnp.count_nonzero(variance).astype(d.dtype)
    count = jnp.floor(jnp.asarray(share, d.dtype) * some).astype(int)
    kept = p.keep_count(variance, count=count) != 0
    return jnp.where(kept & (count > 0), d, 0)


def fused(d: Deltas, *, r: Partial) -> Row:
    """Weighted by energy, over the experts that carry the elected sign."""
    size = math.prod(d.shape[1:])
    energies = r(_over(r(jnp.square(d)).sum(p.whole(d), keepdims=True), size))
    whole = r(p.total(energies))
    tiny = whole < 1e-6
    weights = r(jnp.where(tiny, 1 / len(d), _over(energies, whole)))
    shares = jnp.where(p.agreeing(d, sign=_sign(d, r)), weights, 0)
    return r(r(p.total(r(d * shares))) / r(jnp.maximum(r(p.total(shares)), 1e-6)))


def _arcee_fusion(n: Numbers, r: Partial) -> Stage:
    del n
    return stage(important, r=r)


def important(d: Deltas, *, r: Partial) -> Row:
    """The weight, float32: the expert's entries where they are important."""
    base, expert = d[:1], d[1:]
    delta, tiny = r(expert - base), r(jnp.full((), 1e-8, d.dtype))
    of, to = (r(r(jax.nn.softmax(x, axis=-1)) + tiny) for x in (expert, base))
    terms = r(of * r(jnp.log(r(of / to))))
    importance = r(jnp.abs(delta) * r(terms.sum(-1, keepdims=True)))
    rising = jnp.sort(importance.reshape(-1))
    low, median, high = (rising[int(q * (d[0].size - 1))] for q in (0.25, 0.5, 0.75))
    threshold = r(median + r(1.5 * r(high - low)))
    return base + jnp.where(importance >= threshold, delta, 0)


_OF_DELTAS: dict[str, Callable[[Numbers, Partial], Stage]] = {
    "breadcrumbs": _after(_in_a_band, _summed),
    "breadcrumbs_ties": _after(_in_a_band, _voted),
    "dare_linear": _after(_at_random, _summed),
    "dare_ties": _after(_at_random, _voted),
    "della": _after(_at_random_by_rank, _voted),
    "della_linear": _after(_at_random_by_rank, _summed),
    "multislerp": _multislerp,
    "nuslerp": _nuslerp,
    "ram": _ram,
    "sce": _sce,
    "task_arithmetic": lambda n, r: _step_by_step(r, *_summed(n, r)),
    "ties": _after(_largest, _voted),
}
_OF_WEIGHTS: dict[str, Callable[[Numbers, Partial], Stage]] = {
    "arcee_fusion": _arcee_fusion,
    "karcher": _karcher,
    "linear": _linear,
    "model_stock": _model_stock,
    "multislerp": _multislerp,
    "nearswap": _nearswap,
    "nuslerp": _nuslerp,
    "passthrough": _passthrough,
    "ramplus_tl": _ramplus_tl,
    "slerp": _slerp,
}
