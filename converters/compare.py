"""Two checkpoints side by side: names, shapes, types, numbers, what the models say."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mda_jax.converters.checkpoint import Checkpoint
from mda_jax.converters.convert import build, leaves
from mda_jax.converters.errors import ConversionError
from mda_jax.converters.formats import Spec
from mda_jax.converters.reference import model_of
from mda_jax.converters.translate import Named


class Difference(NamedTuple):
    """A tensor in which two checkpoints differ.

    Attributes:
      name: of the tensor.
      one: what it is in the first; None if it is missing there.
      other: the same in the second.
      entries: how many differ; 0 if shapes or types do.
      largest: of the differences between entries; infinite where one is not finite.
    """

    name: str
    one: Spec | None
    other: Spec | None
    entries: int = 0
    largest: float = 0.0


def common(one: Checkpoint, other: Checkpoint) -> tuple[Named, Named]:
    """The tensors of two checkpoints under the same names.

    Those of files if both have the same dialect; else our own leaves of both.

    Raises:
      ConversionError: they are of different families.
    """
    if one.naming == other.naming:
        return one.tensors, other.tensors
    if one.family != other.family:
        raise ConversionError(
            f"{one.path} is {one.family} and {other.path} {other.family}; models of two"
            " families have no tensors in common."
        )
    return leaves(one), leaves(other)


def differences(
    one: Named, other: Named, *, rtol: float = 0.0, atol: float = 0.0
) -> Iterator[Difference]:
    """Where two sets of tensors differ; one tensor of each is held at a time.

    Args:
      one: tensors by name.
      other: the same.
      rtol: difference of two numbers that counts as none, as a part of the second.
      atol: added to that. Where both are 0, entries are compared bit for bit.

    Yields:
      The tensors that differ, by name.
    """
    bitwise = not rtol and not atol
    held = set(one), set(other)
    for name in sorted(held[0] | held[1]):
        first = one.spec(name) if name in held[0] else None
        second = other.spec(name) if name in held[1] else None
        if first is None or second is None or first.shape != second.shape:
            yield Difference(name, first, second)
        elif bitwise and first != second:
            yield Difference(name, first, second)
        else:
            a, b = np.asarray(one[name]), np.asarray(other[name])
            unlike = _bits(a) != _bits(b) if bitwise else _apart(a, b, rtol, atol)
            if count := int(np.count_nonzero(unlike)):
                yield Difference(name, first, second, count, _largest(a, b))


def outputs(
    one: Checkpoint, other: Checkpoint, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """How far apart two models are in what they say to the same random inputs.

    Args:
      one: a checkpoint with a `config.json`.
      other: one of the same family; the inputs are those of the first.
      seed: of the inputs.

    Returns:
      Output -> largest difference, and largest entry of the first model's.

    Raises:
      ConversionError: a config is not understood, or the models have other outputs.
    """
    import jax

    module = model_of(one.family)
    inputs = module.example(one.config, jax.random.key(seed))
    said = [
        {name: np.asarray(x, np.float64) for name, x in jitted(*inputs).items()}
        for jitted in (jax.jit(build(c).outputs) for c in (one, other))
    ]
    if said[0].keys() != said[1].keys():
        odd = min(said[0].keys() ^ said[1].keys())
        raise ConversionError(f"one of the models alone has the output {odd!r}.")
    return {
        name: (_largest(said[0][name], said[1][name]), float(np.abs(x).max()))
        for name, x in said[0].items()
    }


def _bits(array: np.ndarray) -> np.ndarray:
    """Every entry as an unsigned integer."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(f"V{array.dtype.itemsize}").view(_UNSIGNED[array.dtype.itemsize])


_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def _apart(a: np.ndarray, b: np.ndarray, rtol: float, atol: float) -> np.ndarray:
    """Whether entries differ by more than is allowed."""
    wide = a.astype(np.float64), b.astype(np.float64)
    return ~np.isclose(*wide, rtol=rtol, atol=atol, equal_nan=True)


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    if not a.size:
        return 0.0
    wide = a.astype(np.float64), b.astype(np.float64)
    same = (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(wide[0] - wide[1]))
    return float(np.nan_to_num(apart, nan=np.inf).max())
