"""A model with a LoRA adapter, as if its weights had been merged into the files.

Nothing is written: what the adapter changes is computed when it is read. It comes out
in float32 (or float64, where the model is), never rounded to the type of the files, so
that a merge rounds once, at its end.
"""

import difflib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mda_jax.converters.formats import Spec, Tensors, open_tensors
from mda_jax.pipeline.bits import in_rows
from mda_jax.pipeline.errors import MergeError
from mda_jax.pipeline.inventory import FLOATS
from mda_jax.pipeline.lora import CONFIG, Lora, read_lora
from mda_jax.pipeline.references import Located, joined


WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the first is read
_BLOCK = 1 << 15  # entries that are computed at once
_FACTOR = re.compile(
    r"base_model\.model\.(.+)\.lora_(embedding_)?([AB])(\.default)?(\.weight)?"
)
_WHOLE = re.compile(r"base_model\.model\.(.+)")
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")


class Product(NamedTuple):
    """A change of one tensor, seen as a matrix: `scale * up @ down`, or its transpose.

    With the adapter's names of `up` `[out, r, 1, ...]` and `down` `[r, in, ...]`.
    """

    down: str
    up: str
    scale: float
    transposed: bool


class Changes(NamedTuple):
    """What an adapter does to the tensors of a model, by their names."""

    products: dict[str, Product]  # are added
    whole: dict[str, str]  # take the place of the model's; names in the adapter


class Adapted(Tensors):
    """The tensors of a model with an adapter, computed as they are read.

    Reading some entries needs the memory of these entries and of the factors. They
    are computed in blocks of rows that do not depend on which entries are asked for,
    so that a tensor has the same bits however it is read.

    A table of tokens that the files tie to the head changes for both, as when PEFT
    merges the adapter into the model.
    """

    def __init__(self, folder: Path, adapter: Path):
        super().__init__(folder)
        lora, self._adapter = read_lora(adapter), _open(adapter)
        self._products, self._whole = Changes({}, {})
        self._products, self._whole = changes(self, self._adapter, lora)
        self.path = joined(folder, adapter)
        self.files += [*self._adapter.files, adapter / CONFIG]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._products:
            return self._before(name)
        spec = self.spec(name)
        return self.entries(name, slice(0, spec.size)).reshape(spec.shape)

    def spec(self, name: str) -> Spec:
        """Shape of one tensor, and the element type in which it is handed out."""
        if name in self._whole:
            spec = self._adapter.spec(self._whole[name])
        else:
            spec = super().spec(name)
        return spec._replace(dtype=_exact(spec)) if name in self._products else spec

    def entries(self, name: str, part: slice) -> np.ndarray:
        """Consecutive entries of one tensor laid out flat, and no others computed."""
        if name not in self._products:
            return self._before(name).reshape(-1)[part]
        spec = self.spec(name)
        start, stop, _ = part.indices(spec.size)
        rows, columns = spec.shape[0], spec.size // spec.shape[0]
        before = self._before(name).reshape(rows, columns)
        left, right = self._factors(self._products[name], spec.dtype)
        step = max(1, _BLOCK // columns)
        first = start // columns // step * step
        found = np.empty((-(-stop // columns) - first, columns), spec.dtype)
        for row in range(first, first + len(found), step):
            block = left[row : row + step] @ right
            block += before[row : row + step].astype(spec.dtype)
            found[row - first : row - first + step] = block[: len(found) - row + first]
        offset = first * columns
        entries = found.reshape(-1)[start - offset : stop - offset]
        entries.flags.writeable = False
        return entries

    def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Part of one tensor, computed with the rest of its rows."""
        if name in self._products:
            return in_rows(partial(self.entries, name), self.spec(name).shape, index)
        if name in self._whole:
            return self._adapter.part(self._whole[name], index)
        return super().part(name, index)

    def fill(self, name: str, first: int, out: np.ndarray) -> None:
        """Write as many entries as an array takes, from one on, cast to its type."""
        if name in self._products or name in self._whole:
            out[...] = self.entries(name, slice(first, first + out.size))
        else:
            super().fill(name, first, out)

    def _before(self, name: str) -> np.ndarray:
        """The tensor that a product is added to."""
        if name in self._whole:
            return self._adapter[self._whole[name]]
        return super().__getitem__(name)

    def _factors(
        self, product: Product, dtype: np.dtype
    ) -> tuple[np.ndarray, np.ndarray]:
        """The change as a product of two matrices, the first with the tensor's rows."""
        up, down = self._adapter[product.up], self._adapter[product.down]
        left = up.reshape(up.shape[:2]).astype(dtype) * dtype.type(product.scale)
        right = down.reshape(len(down), -1).astype(dtype)
        return (right.T, left.T) if product.transposed else (left, right)


def open_model(model: Located) -> Tensors:
    """Open a model, with its adapter if it has one; reads headers only.

    Args:
      model: existing paths.

    Returns:
      Its tensors.

    Raises:
      FormatError: there is no such checkpoint, or a file is damaged.
      MergeError: the adapter does not fit the model, or is more than plain LoRA.
    """
    folder, adapter = model
    return open_tensors(folder) if adapter is None else Adapted(folder, adapter)


def changes(model: Tensors, adapter: Tensors, lora: Lora) -> Changes:
    """Find the place of every tensor of an adapter.

    Args:
      model: what is adapted.
      adapter: its weights.
      lora: its settings.

    Returns:
      What happens to which tensor of the model.

    Raises:
      MergeError: a tensor has no place or another shape or rank, a factor lacks its
        partner, or something that was trained is not in the file.
    """
    factors: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    tables = set()
    for name in adapter:
        if found := _FACTOR.fullmatch(name):
            factors.setdefault(found[1], {})[found[3]] = name
            tables |= {found[1]} if found[2] else set()
        else:
            whole[_target_of(adapter, name)] = name
    _check_places(model, adapter, {*whole, *(f"{module}.weight" for module in factors)})
    for target, name in whole.items():
        _check_shape(model, adapter, target, [name], adapter.spec(name).shape)
    products = {}
    for module, held in factors.items():
        target = f"{module}.weight"
        matrix = len(model.spec(target).shape) == 2
        transposed = module in tables or (lora.fan_in_fan_out and matrix)
        products[target] = _product(adapter, lora, module, held, transposed)
        _check_type(model, adapter, target)
        shape = _shape(adapter, products[target])
        names = [products[target].up, products[target].down]
        _check_shape(model, adapter, target, names, shape)
    _check_complete(model, adapter, lora, whole, factors)
    return Changes(products, whole)


def _open(adapter: Path) -> Tensors:
    for file in (adapter / name for name in WEIGHTS):
        if file.is_file():
            return open_tensors(file)
    raise MergeError(
        f"{adapter}: no {WEIGHTS[0]}; expected it, or {WEIGHTS[1]}. Save the adapter"
        " with PEFT: save_pretrained(folder)."
    )


def _exact(spec: Spec) -> np.dtype:
    """The type in which nothing of a tensor is lost."""
    return np.promote_types(spec.dtype, np.float32)


def _target_of(adapter: Tensors, name: str) -> str:
    """The model's tensor that one of the adapter's replaces."""
    if not (found := _WHOLE.fullmatch(name)):
        raise MergeError(
            f"{adapter.path}: {name!r} is not named as PEFT does it; expected"
            " 'base_model.model.' first. Save the adapter with PEFT."
        )
    return _WRAPPERS.sub("", found[1])


def _product(
    adapter: Tensors, lora: Lora, module: str, held: Mapping[str, str], transposed: bool
) -> Product:
    """The change of one module, its factors checked against each other."""
    if held.keys() != {"A", "B"}:
        (name,) = held.values()
        raise MergeError(f"{adapter.path}: {name!r} is there without its partner.")
    down, up = adapter.spec(held["A"]).shape, adapter.spec(held["B"]).shape
    rank = lora.rank(module)
    fits = len(down) > 1 and down[0] == rank and up[1:2] == (rank,)
    if not fits or up[2:] != (1,) * (len(down) - 2):
        raise MergeError(
            f"{adapter.path}: {held['A']!r} has shape {down} and {held['B']!r} {up};"
            f" expected factors of rank {rank}, as {CONFIG} says."
        )
    return Product(held["A"], held["B"], lora.scale(module), transposed)


def _shape(adapter: Tensors, product: Product) -> tuple[int, ...]:
    """The shape of a change."""
    down, up = adapter.spec(product.down).shape, adapter.spec(product.up).shape
    return (*down[1:], up[0]) if product.transposed else (up[0], *down[1:])


def _check_places(model: Tensors, adapter: Tensors, targets: set[str]) -> None:
    lost = sorted(targets.difference(model))
    if lost:
        near = difflib.get_close_matches(lost[0], list(model), n=3, cutoff=0)
        raise MergeError(
            f"{adapter.path}: {len(lost)} of its tensors have no place in {model.path}:"
            f" {lost[0]!r} first; nearest there: {', '.join(near)}. Give the model that"
            " the adapter was trained on."
        )


def _check_shape(
    model: Tensors,
    adapter: Tensors,
    target: str,
    names: list[str],
    shape: tuple[int, ...],
) -> None:
    wanted = model.spec(target).shape
    if shape == wanted:
        return
    turned = shape == wanted[::-1] and len(names) == 2
    advice = f"Is 'fan_in_fan_out' in {CONFIG} right?" if turned else "Give the model"
    advice += "" if turned else " that the adapter was trained on."
    raise MergeError(
        f"{adapter.path}: {' and '.join(map(repr, names))} make {shape}, but"
        f" {target!r} of {model.path} has shape {wanted}. {advice}"
    )


def _check_type(model: Tensors, adapter: Tensors, target: str) -> None:
    dtype = model.spec(target).dtype
    if dtype not in FLOATS:
        raise MergeError(
            f"{model.path}: {target!r} is {dtype}, quantised; {adapter.path} can be"
            " added to float64, float32, float16 or bfloat16 only. Dequantise the model"
            " first."
        )


def _check_complete(
    model: Tensors,
    adapter: Tensors,
    lora: Lora,
    whole: Mapping[str, str],
    factors: Mapping[str, object],
) -> None:
    """Refuse an adapter that trained tensors which its file does not have."""
    trained = [n for n in model if _within(n.rpartition(".")[0], lora.modules_to_save)]
    if lora.bias == "all":
        trained += [name for name in model if name.endswith(".bias")]
    elif lora.bias == "lora_only":
        trained += [f"{m}.bias" for m in factors if f"{m}.bias" in model]
    if lost := [name for name in trained if name not in whole]:
        raise MergeError(
            f"{adapter.path}: {lost[0]!r} was trained, says {CONFIG}, but is not there"
            f" ({len(lost)} such). Save the adapter with PEFT again, or merge it there."
        )


def _within(module: str, names: list[str]) -> bool:
    """Whether a module is one of those named, or a part of one."""
    return any(f".{name}." in f".{module}." for name in names)
