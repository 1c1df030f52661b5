"""mergekit's methods: their parameters, the part of each model, and their stages."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mda_jax import _check, methods, primitives as p, trees
from mda_jax._types import Role, Stage, WholeModel
from mda_jax.combine import chain, entrywise, stage
from mda_jax.methods._dare_linear import at_random, dropped
from mda_jax.methods._della_linear import by_rank
from mda_jax.methods._sce import fused, guarded_energy_shares
from mda_jax.methods._task_arithmetic import task_arithmetic
from mda_jax.methods._ties import elected_sum, elected_weighted_mean
from mda_jax.pipeline.config import Request, Section
from mda_jax.pipeline.parameters import Numbers, Parameter, Signature
from mda_jax.pipeline.trim import Trim


EVERYWHERE = frozenset(Role)
NOWHERE: frozenset[Role] = frozenset()


class Cast(NamedTuple):
    """Which part each model of a section plays."""

    donor: int  # gives names, types and the other files
    experts: tuple[int, ...]
    subtract: bool  # whether experts are seen relative to the donor, or to zero


class Step(NamedTuple):
    """What happens to a tensor."""

    method: Stage | WholeModel
    trim: Trim | None = None  # what happens to each expert before


class Dialect(NamedTuple):
    """What a configuration means by a method."""

    signature: Signature
    cast: Callable[[Request, Section], Cast]
    step: Callable[[Numbers], Step]
    elementwise: frozenset[Role]


def into_base(request: Request, section: Section, *, most: int | None = None) -> Cast:
    """The models but the base, relative to it."""
    method = request.config.merge_method
    if section.base is None:
        if request.config.base_model is None:
            problem = f"{method} needs 'base_model': the ancestor."
            raise request.document.error((), problem)
        problem = f"{method} needs the base among the sources; list its layers too."
        raise request.document.error(section.steps, problem)
    every = range(len(section.ingredients))
    experts = tuple(i for i in every if i != section.base)
    if not experts:
        problem = "no model besides base_model is listed; add one to merge into it."
        raise request.document.error((*section.steps, "models"), problem)
    _check_count(request, section, most, len(experts), "besides base_model")
    return Cast(section.base, experts, True)


def _around_zero(
    request: Request, section: Section, *, most: int | None = None
) -> Cast:
    """All models, the base as one of them; their weights are the deltas from zero."""
    experts = tuple(range(len(section.ingredients)))
    _check_count(request, section, most, len(experts), "in all")
    return Cast(section.base or 0, experts, False)


def _into_base_if_any(
    request: Request, section: Section, *, most: int | None = None
) -> Cast:
    parts = _around_zero if section.base is None else into_base
    return parts(request, section, most=most)


def _alone(request: Request, section: Section) -> Cast:
    """The one model that is listed; a base serves for the other files only."""
    listed = [i for i, each in enumerate(section.ingredients) if i != section.base]
    (first, *rest) = listed or [section.base or 0]
    _check_count(request, section, 1, 1 + len(rest), "in each slice")
    return Cast(first, (first,), False)


def _check_count(
    request: Request, section: Section, wanted: int | None, got: int, where: str
) -> None:
    if wanted not in (None, got):
        problem = f"merges exactly {wanted} model(s) {where}, got {got}."
        text = f"{request.config.merge_method} {problem}"
        raise request.document.error((*section.steps, "models"), text)


def _linear(n: Numbers) -> Step:
    return Step(stage(p.weighted_sum, weights=array(_shares(n))))


def _slerp(n: Numbers) -> Step:
    return Step(methods.slerp(t=n.common["t"], cosine=p.cosine))


def _nuslerp(n: Numbers) -> Step:
    by = {False: p.rows, True: p.columns}[bool(n.common["nuslerp_row_wise"])]
    vectors = p.whole if n.common["nuslerp_flatten"] else by
    return Step(methods.nuslerp(n.each("weight"), vectors=vectors, cosine=p.cosine))


def _multislerp(n: Numbers) -> Step:
    average = p.weighted_mean if n.common["normalize_weights"] else p.weighted_sum
    return Step(methods.multislerp(n.each("weight"), average=average))


def _karcher(n: Numbers) -> Step:
    return Step(methods.karcher(rounds=n.common["max_iter"], tolerance=n.common["tol"]))


def _model_stock(n: Numbers) -> Step:
    return Step(
        methods.model_stock(vectors=p.rows if n.common["filter_wise"] else p.whole)
    )


def _nearswap(n: Numbers) -> Step:
    return Step(methods.nearswap(t=n.common["t"]))


def _arcee_fusion(n: Numbers) -> Step:
    del n
    return Step(methods.arcee_fusion())


def _passthrough(n: Numbers) -> Step:
    (scale,) = n.each("scale")
    return Step(methods.passthrough(scale=scale))


def _ram(n: Numbers) -> Step:
    return Step(methods.ram(n.common["epsilon"]))


def _ramplus_tl(n: Numbers) -> Step:
    gain, most = n.common["r"], n.common["alpha"]
    return Step(methods.ram_plus(n.common["epsilon"], gain=gain, most_overlap=most))


def _sce(n: Numbers) -> Step:
    rules = {
        "coefficients": guarded_energy_shares,
        "elect": p.nonnegative_sign_of_sum,
    }
    share = n.common["select_topk"]
    return Step(fused(**rules) if share == 1 else methods.sce(share, **rules))


def _ties(n: Numbers) -> Step:
    """Trimmed on the way in: one expert at a time, in the memory of a few slices."""
    return Step(_voted(n), _trim(n))


def _breadcrumbs(n: Numbers) -> Step:
    return Step(_summed(n), _trim(n, n.each("gamma")))


def _breadcrumbs_ties(n: Numbers) -> Step:
    return Step(_voted(n), _trim(n, n.each("gamma")))


def _trim(n: Numbers, outliers: tuple[float, ...] = ()) -> Trim:
    return Trim(n.each("density"), bool(n.common["rescale"]), outliers)


def _task_arithmetic(n: Numbers) -> Step:
    return Step(_summed(n))


def _summed(n: Numbers) -> Stage:
    weights = array(_shares(n))
    return task_arithmetic(scale=n.common["lambda"], weights=weights)


def _voted(n: Numbers) -> Stage:
    """mergekit's election: weights vote, and share the disjoint mean, as weights."""
    weights = array(n.each("weight"))
    mean = entrywise(elected_weighted_mean, weights=weights)
    return chain(
        entrywise(p.weighted, weights=weights),
        mean if n.common["normalize"] else entrywise(elected_sum),
        entrywise(p.scaled, by=n.common["lambda"]),
    )


def _after(
    sparsify: Callable[[Numbers], Stage], combine: Callable[[Numbers], Stage]
) -> Callable[[Numbers], Step]:
    return lambda n: Step(chain(sparsify(n), combine(n)))


def _at_random(n: Numbers) -> Stage:
    density = array(n.each("density"))
    return dropped(at_random, _rescale(n), density=density, ids=ids(n))


def _at_random_by_rank(n: Numbers) -> Stage:
    for density, epsilon in zip(n.each("density"), n.each("epsilon"), strict=True):
        _check.probabilities("della", density, epsilon)
    numbers = {name: array(n.each(name)) for name in ("density", "epsilon")}
    return dropped(by_rank, _rescale(n), **numbers, ids=ids(n))


def _rescale(n: Numbers) -> p.Rescale:
    return p.by_l1_norm if n.common["rescale"] else p.as_kept


def ids(n: Numbers) -> jax.Array:
    """Of the experts, for their draws."""
    return jnp.asarray([trees.seed(name) for name in n.experts])


def _shares(n: Numbers) -> tuple[float, ...]:
    weights = n.each("weight")
    if not n.common["normalize"]:
        return weights
    if abs(sum(weights)) < 1e-8:
        problem = "the weights sum to 0: set normalize to false, or other weights."
        raise ValueError(problem)
    return tuple(w / sum(weights) for w in weights)


def array(values: tuple[float, ...]) -> jnp.ndarray:
    """Numbers of a stage, one per expert."""
    return jnp.asarray(np.asarray(values, np.float32))


_WEIGHT = Parameter(None, own=True)
_INT8_MASK = Parameter(False)  # a matter of storage: the result is the same
_ARITHMETIC = {
    "weight": _WEIGHT,
    "lambda": Parameter(1.0),
    "normalize": Parameter(False),
    "int8_mask": _INT8_MASK,
}
_DENSITY = {"density": Parameter(1.0, own=True, fraction=True)}
_KEPT = _DENSITY | {"rescale": Parameter(False)}
_RESCALED = _DENSITY | {"rescale": Parameter(True)}
_BAND = _KEPT | {"gamma": Parameter(0.01, own=True)}
_RANKED = _RESCALED | {"epsilon": Parameter(0.15, own=True)}
_NORMALISED = _ARITHMETIC | {"normalize": Parameter(True)}
_ONE = partial(into_base, most=1)
_TWO = partial(_into_base_if_any, most=2)
MERGEKIT = {
    "arcee_fusion": Dialect({}, _ONE, _arcee_fusion, NOWHERE),
    "breadcrumbs": Dialect(_ARITHMETIC | _BAND, into_base, _breadcrumbs, EVERYWHERE),
    "breadcrumbs_ties": Dialect(
        _ARITHMETIC | _BAND, into_base, _breadcrumbs_ties, EVERYWHERE
    ),
    "dare_linear": Dialect(
        _ARITHMETIC | _RESCALED, into_base, _after(_at_random, _summed), NOWHERE
    ),
    "dare_ties": Dialect(
        _ARITHMETIC | _RESCALED, into_base, _after(_at_random, _voted), NOWHERE
    ),
    "della": Dialect(
        _NORMALISED | _RANKED, into_base, _after(_at_random_by_rank, _voted), NOWHERE
    ),
    "della_linear": Dialect(
        _ARITHMETIC | _RANKED, into_base, _after(_at_random_by_rank, _summed), NOWHERE
    ),
    "karcher": Dialect(
        {"max_iter": Parameter(10), "tol": Parameter(1e-5)},
        _around_zero,
        _karcher,
        NOWHERE,
    ),
    "linear": Dialect(
        {"weight": _WEIGHT, "normalize": Parameter(True)},
        _around_zero,
        _linear,
        EVERYWHERE,
    ),
    "model_stock": Dialect(
        {"filter_wise": Parameter(False)}, into_base, _model_stock, NOWHERE
    ),
    "multislerp": Dialect(
        {
            "weight": _WEIGHT,
            "normalize_weights": Parameter(True),
            "eps": Parameter(1e-8),  # a guard; ours needs none
        },
        _into_base_if_any,
        _multislerp,
        NOWHERE,
    ),
    "nearswap": Dialect({"t": Parameter(None)}, _ONE, _nearswap, EVERYWHERE),
    "nuslerp": Dialect(
        {
            "weight": _WEIGHT,
            "nuslerp_flatten": Parameter(True),
            "nuslerp_row_wise": Parameter(False),
        },
        _TWO,
        _nuslerp,
        NOWHERE,
    ),
    "passthrough": Dialect(
        {"scale": Parameter(1.0, own=True)}, _alone, _passthrough, EVERYWHERE
    ),
    "ram": Dialect({"epsilon": Parameter(1e-5)}, into_base, _ram, EVERYWHERE),
    "ramplus_tl": Dialect(
        {
            "epsilon": Parameter(1e-5),
            "r": Parameter(0.1),
            "alpha": Parameter(0.2),
        },
        into_base,
        _ramplus_tl,
        NOWHERE,
    ),
    "sce": Dialect(
        {"select_topk": Parameter(1.0, fraction=True), "int8_mask": _INT8_MASK},
        into_base,
        _sce,
        NOWHERE,
    ),
    "slerp": Dialect({"t": Parameter(None)}, _ONE, _slerp, NOWHERE),
    "task_arithmetic": Dialect(_ARITHMETIC, into_base, _task_arithmetic, EVERYWHERE),
    "ties": Dialect(_NORMALISED | _KEPT, into_base, _ties, EVERYWHERE),
}
