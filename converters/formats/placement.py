"""From files straight onto the devices of a mesh."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import numpy as np
from jax.sharding import Sharding
from numpy.typing import ArrayLike, DTypeLike

from mda_jax.converters.formats.arrays import InParts, spec_of
from mda_jax.converters.formats.dtypes import Spec


def place(
    tensors: Mapping[str, ArrayLike],
    shardings: Mapping[str, Sharding],
    *,
    dtypes: Mapping[str, DTypeLike] = MappingProxyType({}),
    names: Iterable[str] | None = None,
) -> dict[str, jax.Array]:
    """Put tensors onto devices, each process reading its own shards only.

    Args:
      tensors: name -> array. Of those of `open_tensors` only the shards are read; of
        another mapping each array is asked for once.
      shardings: name -> how it is spread over devices.
      dtypes: name -> type to which it is cast; the others keep theirs.
      names: the tensors to place; all if not given.

    Returns:
      Name -> global array, in the order of `names`.

    Raises:
      ValueError: there is no such tensor, it has no sharding, or a type of 64 bits that
        JAX would cut to 32.
    """
    chosen = list(tensors if names is None else names)
    for kind, held in (("tensor", tensors), ("sharding", shardings)):
        if missing := [name for name in chosen if name not in held]:
            raise ValueError(
                f"place: {len(missing)} names have no {kind}, {missing[0]!r} first."
                " Give one, or leave the names out."
            )
    return {
        name: _placed(tensors, name, shardings[name], dtypes.get(name))
        for name in chosen
    }


def _placed(
    tensors: Mapping[str, ArrayLike],
    name: str,
    sharding: Sharding,
    dtype: DTypeLike | None,
) -> jax.Array:
    (shape, own), part = _source(tensors, name)
    wanted = np.dtype(own if dtype is None else dtype)
    if jax.dtypes.canonicalize_dtype(wanted) != wanted:
        raise ValueError(
            f"place: {name!r} would be {wanted}, of which JAX keeps 32 bits. Give"
            " another type in dtypes, or set jax_enable_x64."
        )
    read: dict[str, np.ndarray] = {}  # one for all devices that have the same part

    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
        if (key := str(index)) not in read:
            # A copy: on CPU, JAX may keep the memory that it is given, here the file's.
            read[key] = np.array(part(index or ()), wanted, order="C")
        return read[key]

    return jax.make_array_from_callback(shape, sharding, shard, dtype=wanted)


def _source(
    tensors: Mapping[str, ArrayLike], name: str
) -> tuple[Spec, Callable[[tuple[slice, ...]], np.ndarray]]:
    """What a tensor is, and what gives a part of it."""
    if isinstance(tensors, InParts):
        return tensors.spec(name), partial(tensors.part, name)
    whole = np.asarray(tensors[name])
    return spec_of(whole), whole.__getitem__
