"""Choose a method's numbers by their worth on validation pictures."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mda_jax import methods


COARSE = (0.15, 0.25, 0.4, 0.65, 1.0, 1.6)  # of the default scale
FINE = (0.8, 1.0, 1.25)  # of the best scale so far
OTHERS = (0.2, 0.5, 1.0, 2.0, 5.0)  # of the best value so far of any other number
FRACTIONS = ("common", "density", "quantile", "share")  # numbers that end at 1
_STEPS_BEYOND = 4  # at most, where the best is at an end of what was tried
Hyper = dict[str, float]


class Round(NamedTuple):
    """Multiples to try of one number while the others stay."""

    number: str
    multiples: tuple[float, ...]


def defaults(name: str) -> Hyper:
    """The numbers of a method that can be tuned: those with a float for a default.

    >>> defaults("ties")
    {'density': 0.2, 'scale': 1.0}
    """
    given = inspect.signature(getattr(methods, name)).parameters.values()
    return {p.name: p.default for p in given if isinstance(p.default, float)}


def scale_only(name: str) -> list[Round]:
    """One round, over the scale."""
    return [Round("scale", COARSE)] if "scale" in defaults(name) else []


def every_number(name: str) -> list[Round]:
    """The scale, then every other number, then the scale again, finer."""
    others = [Round(number, OTHERS) for number in defaults(name) if number != "scale"]
    scale = scale_only(name)
    return [*scale, *others, *(Round("scale", FINE) for _ in scale)]


def tuned(
    name: str,
    rounds: list[Round],
    worth: Callable[[Hyper], float],
    report: Callable[[str], None] = lambda line: None,
) -> Hyper:
    """The best setting met, one number at a time.

    Args:
      name: a name of `mda_jax.methods`.
      rounds: what to try, in order; every round starts from the best setting so far,
        and goes on beyond its ends while the best is at an end.
      worth: the value of a setting, the higher the better.
      report: called with a line of text for each round.

    Returns:
      Values of the method's numbers; empty without rounds.
    """
    best = defaults(name) if rounds else {}
    known: dict[tuple[tuple[str, float], ...], float] = {}

    def value(setting: Hyper) -> float:
        key = tuple(setting.items())
        if key not in known:
            known[key] = worth(setting) if _is_allowed(name, setting) else -math.inf
        return known[key]

    for number, multiples in rounds:
        tried = {_possible(number, best[number] * m): 0.0 for m in multiples}
        report(f"{name}: trying {number} in {list(tried)}")
        for _ in range(1 + _STEPS_BEYOND):
            tried = {x: value({**best, number: x}) for x in sorted(tried)}
            beyond = _possible(number, _beyond_best_end(tried))
            if beyond in tried:
                break
            tried[beyond] = 0.0
        best = dict(max(known.items(), key=lambda item: item[1])[0])
    return best


def _is_allowed(name: str, setting: Hyper) -> bool:
    """Whether the method takes these numbers together."""
    try:
        getattr(methods, name)(**setting)
    except ValueError:
        return False
    return True


def _beyond_best_end(tried: Mapping[float, float]) -> float:
    """The next value in geometric order if the best is at an end; else the best."""
    values = list(tried)
    best = max(values, key=lambda x: tried[x])
    if best == values[0]:
        return best * best / values[1]
    if best == values[-1]:
        return best * best / values[-2]
    return best


def _possible(number: str, value: float) -> float:
    return min(float(f"{value:.3g}"), 1.0 if number in FRACTIONS else float("inf"))
