"""Reading the leaves of a merge, whole or in pieces, ready to merge."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import NamedTuple

import jax
import numpy as np

from mda_jax.pipeline.bits import all_finite, blocks, chosen, is_finite, sampled
from mda_jax.pipeline.errors import MergeError
from mda_jax.pipeline.trim import KEEP_ALL, Cut, Trim, find_cut
from mda_jax.pipeline.views import View


class Piece(NamedTuple):
    """Some consecutive entries of one tensor, laid out flat."""

    tensor: str
    part: slice


class Sources(NamedTuple):
    """The models of a merge, tensor by tensor."""

    donor: View
    experts: tuple[View, ...]
    tied: list[dict[str, str]]  # per expert: tensor -> the one it holds instead
    subtract: bool  # whether the donor is the base, or zero is
    dtypes: dict[str, np.dtype]  # of the arrays handed out as base, by tensor

    @property
    def disagree(self) -> bool:
        """Whether experts may differ in the sign of their deltas."""
        return self.subtract and len(self.experts) > 1

    def leaf(self, name: str) -> jax.ShapeDtypeStruct:
        """Shape of a tensor, and the type in which it is merged."""
        return jax.ShapeDtypeStruct(self.donor.spec(name).shape, self.dtypes[name])

    def held(self, i: int, name: str) -> str:
        """The tensor that an expert has of this name, or the one tied to it."""
        return self.tied[i].get(name, name)

    def types(self, name: str) -> tuple[np.dtype, ...]:
        """The element type of every expert's tensor."""
        each = enumerate(self.experts)
        return tuple(expert.spec(self.held(i, name)).dtype for i, expert in each)

    def read(self, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """The base's and the experts' whole tensor, as they are."""
        experts = [e[self.held(i, name)] for i, e in enumerate(self.experts)]
        if not self.subtract:
            return np.zeros(self.leaf(name).shape, self.dtypes[name]), experts
        return self.donor[name].astype(self.dtypes[name], copy=False), experts

    def fill(
        self,
        piece: Piece,
        trim: Trim | None,
        cuts: tuple[Cut, ...],
        base: np.ndarray,
        experts: np.ndarray,
    ) -> None:
        """Write the base's `[n]` and the experts' `[k, n]` entries, experts trimmed."""
        self._fill_base(piece, base)
        for i, cut in enumerate(cuts):
            expert, name = experts[i], self.held(i, piece.tensor)
            self.experts[i].fill(name, piece.part.start, expert)
            if trim is not None and not all_finite(expert):
                raise self.not_finite(piece.tensor)  # else it might be voted out
            if cut != KEEP_ALL:
                _trim(base, expert, cut, piece.part.start)

    def conflicts(self, piece: Piece) -> tuple[int, int]:
        """Entries that one expert raises above the base and another one lowers.

        Of a large tensor every eighth block of entries is looked at, wherever pieces
        begin.

        Returns:
          Such entries, and all that were looked at.
        """
        name, part = piece
        found, looked_at = 0, 0
        for block in sampled(self.donor.spec(name).size, part):
            size = block.stop - block.start
            base, expert = np.empty((2, size), np.float32)
            self._fill_base(Piece(name, block), base)
            up, down = np.zeros((2, size), bool)
            for i, view in enumerate(self.experts):
                view.fill(self.held(i, name), block.start, expert)
                up |= expert > base
                down |= expert < base
            found += int(np.count_nonzero(up & down))
            looked_at += size
        return found, looked_at

    def cuts(self, name: str, trim: Trim | None) -> tuple[Cut, ...]:
        """Where to trim each expert's delta of one tensor that is not empty."""
        if trim is None:
            return (KEEP_ALL,) * len(self.experts)
        size, rescale = self.donor.spec(name).size, trim.rescale
        outliers = trim.outliers or (0.0,) * len(trim.densities)

        def find(i: int, density: float, largest: float) -> Cut:
            read = partial(self._delta, name, i)
            return find_cut(read, size, density, rescale=rescale, outliers=largest)

        with ThreadPoolExecutor() as threads:  # NumPy lets go of the interpreter
            return tuple(threads.map(find, count(), trim.densities, outliers))

    def not_finite(self, name: str) -> MergeError:
        """The error for NaN or infinity in one merged tensor; says where it is from."""
        models = [(self.donor, name)] if self.subtract else []
        ties = zip(self.experts, self.tied, strict=True)
        models += [(expert, tied.get(name, name)) for expert, tied in ties]
        guilty = [
            str(m.path)
            for m, held in models
            if not is_finite(partial(m.__getitem__, held))
        ]
        source = (
            f"{', '.join(guilty)} has it already. Repair or leave out that model."
            if guilty
            else "no model has it: the result leaves the range of its type."
            " Choose a wider dtype or smaller weights."
        )
        return MergeError(f"{name!r} would be NaN or infinite; {source}")

    def _fill_base(self, piece: Piece, out: np.ndarray) -> None:
        if self.subtract:
            self.donor.fill(piece.tensor, piece.part.start, out)
        else:
            out[...] = 0

    def _delta(self, name: str, i: int, part: slice) -> np.ndarray:
        base, delta = np.empty((2, part.stop - part.start), np.float32)
        self._fill_base(Piece(name, part), base)
        self.experts[i].fill(self.held(i, name), part.start, delta)
        delta -= base
        return delta


def _trim(base: np.ndarray, expert: np.ndarray, cut: Cut, start: int) -> None:
    """Change an expert so that its delta to the base is the trimmed delta."""
    for part in blocks(expert.size):
        low, high = base[part].astype(np.float32), expert[part].astype(np.float32)
        delta = high - low
        if cut.factor != 1:
            expert[part] = low + np.float32(cut.factor) * delta
        stays, goes = expert[part], base[part].astype(expert.dtype, copy=False)
        expert[part] = chosen(cut.keeps(delta, start + part.start), stays, goes)
