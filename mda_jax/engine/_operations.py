"""Operations and memory traffic of a traced program, on each device of a mesh."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from typing import Any, NamedTuple, TypeAlias

from jax.extend.core import ClosedJaxpr, Jaxpr


Amount: TypeAlias = int | float


class Work(NamedTuple):
    """What one device does.

    Attributes:
      products: floating-point operations in products of matrices.
      factorisations: those in decompositions of matrices.
      traffic: bytes that products, decompositions and passes of loops read and write.
    """

    products: Amount = 0
    factorisations: Amount = 0
    traffic: Amount = 0

    def times(self, n: Amount) -> "Work":
        """The same work, n times."""
        return Work(*(n * each for each in self))


class Place(NamedTuple):
    """Where a program runs.

    Attributes:
      platform: whose branch of `jax.lax.platform_dependent` counts.
      devices: over which XLA splits what is not in a `shard_map`.
    """

    platform: str
    devices: int


# Golub, Van Loan, Matrix Computations, 4th edition: sections 4.2, 3.2, 5.2, 8.3, 8.6;
# for m >= n, with all vectors of the thin forms.
FACTORISATIONS: Mapping[str, Callable[[int, int], Amount]] = {
    "cholesky": lambda m, n: n**3 / 3,
    "lu": lambda m, n: m * n**2 - n**3 / 3,
    "qr": lambda m, n: 4 * m * n**2 - 4 * n**3 / 3,
    "eigh": lambda m, n: 9 * n**3,
    "svd": lambda m, n: 6 * m * n**2 + 20 * n**3,
}


def work(program: ClosedJaxpr | Jaxpr, place: Place) -> Work:
    """Count what each device does in a program.

    Products are split evenly over the devices of XLA, decompositions repeated by each.
    A loop without a known end counts as one pass; of branches that are not the
    platform's, the one with most operations counts.
    """
    return total(_of(eqn, place) for eqn in _open(program).eqns)


def total(each: Iterable[Work]) -> Work:
    """The sum."""
    return reduce(lambda a, b: Work(*map(sum, zip(a, b, strict=True))), each, Work())


def _of(eqn: Any, place: Place) -> Work:
    name, params = eqn.primitive.name, eqn.params
    inner = list(_inner(params))
    if name == "dot_general":
        return Work(_product(eqn), traffic=_bytes(eqn)).times(1 / place.devices)
    if name in FACTORISATIONS:
        *batch, m, n = eqn.invars[0].aval.shape
        each = FACTORISATIONS[name](max(m, n), min(m, n))
        return Work(factorisations=math.prod(batch) * each, traffic=_bytes(eqn))
    if name == "triangular_solve":
        matrix, sides = (x.aval for x in eqn.invars)
        each = matrix.shape[-1] * sides.size
        return Work(factorisations=each, traffic=_bytes(eqn))
    if name == "shard_map":
        sizes = [params["mesh"].shape[axis] for axis in params["newly_manual_axes"]]
        left = max(1, place.devices // math.prod(sizes))
        return work(inner[0], place._replace(devices=left))
    if name == "cond":
        return _branch(inner, params.get("branches_platforms"), place)
    if name in ("scan", "while"):
        return total(_pass(each, place) for each in inner).times(
            params.get("length", 1)
        )
    return total(work(each, place) for each in inner)


def _pass(body: ClosedJaxpr | Jaxpr, place: Place) -> Work:
    """One pass of a loop: what it works on goes through memory once, at least."""
    opened, found = _open(body), work(body, place)
    through = _size((*opened.invars, *opened.outvars)) / place.devices
    return found._replace(traffic=max(found.traffic, through))


def _branch(branches: list, platforms: Any, place: Place) -> Work:
    if platforms is None:
        return max((work(each, place) for each in branches), key=lambda w: sum(w[:2]))
    mine = [p is not None and place.platform in p for p in platforms]
    chosen = mine.index(True) if any(mine) else platforms.index(None)
    return work(branches[chosen], place)


def _product(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2 * eqn.outvars[0].aval.size * math.prod(shape[i] for i in contracted)


def _bytes(eqn: Any) -> int:
    return _size((*eqn.invars, *eqn.outvars))


def _size(variables: Iterable[Any]) -> int:
    """Bytes of arrays; keys and other things of no bytes aside."""
    avals = (x.aval for x in variables)
    return sum(a.size * getattr(a.dtype, "itemsize", 0) for a in avals)


def _inner(params: Mapping[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr | Jaxpr):
                yield each


def _open(program: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program
