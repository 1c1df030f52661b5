"""Reading the leaves of a merge, whole or in pieces, ready to merge."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from mda_jax.pipeline.bits import is_finite
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

    def leaf(self, name: str) -> jax.ShapeDtypeStruct:
        """Shape of a tensor, and the type in which it is merged."""
        return jax.ShapeDtypeStruct(self.donor.spec(name).shape, self.dtypes[name])

    def types(self, name: str) -> tuple[np.dtype, ...]:
        """The element type of every expert's tensor."""
        each = enumerate(self.experts)
        return tuple(expert.spec(self._held(i, name)).dtype for i, expert in each)

    def read(self, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """The base's and the experts' whole tensor, as they are."""
        experts = [e[self._held(i, name)] for i, e in enumerate(self.experts)]
        if not self.subtract:
            return np.zeros(self.leaf(name).shape, self.dtypes[name]), experts
        return self.donor[name].astype(self.dtypes[name], copy=False), experts

    def read_piece(
        self, piece: Piece, trim: Trim | None, cuts: tuple[Cut, ...]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """The base's and the experts' entries of one piece, experts trimmed."""
        base = self._base(piece).astype(self.dtypes[piece.tensor], copy=False)
        experts = []
        for i, cut in enumerate(cuts):
            expert = self._entries(i, piece)
            if trim is not None and not np.isfinite(expert).all():
                raise self.not_finite(piece.tensor)  # else it might be voted out
            if cut != KEEP_ALL:
                expert = _trimmed(base, expert, cut, piece.part.start)
            experts.append(expert)
        return base, experts

    def cuts(self, name: str, trim: Trim | None) -> tuple[Cut, ...]:
        """Where to trim each expert's delta of one tensor that is not empty."""
        if trim is None:
            return (KEEP_ALL,) * len(self.experts)
        size, rescale = self.donor.spec(name).size, trim.rescale
        outliers = trim.outliers or (0.0,) * len(trim.densities)
        shares = enumerate(zip(trim.densities, outliers, strict=True))
        return tuple(
            find_cut(
                partial(self._delta, name, i),
                size,
                density,
                rescale=rescale,
                outliers=largest,
            )
            for i, (density, largest) in shares
        )

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

    def _base(self, piece: Piece) -> np.ndarray:
        name, part = piece
        if self.subtract:
            return self.donor.entries(name, part)
        return np.zeros(part.stop - part.start, self.dtypes[name])

    def _entries(self, i: int, piece: Piece) -> np.ndarray:
        return self.experts[i].entries(self._held(i, piece.tensor), piece.part)

    def _held(self, i: int, name: str) -> str:
        return self.tied[i].get(name, name)

    def _delta(self, name: str, i: int, part: slice) -> np.ndarray:
        piece = Piece(name, part)
        return _difference(self._base(piece), self._entries(i, piece))


def _difference(base: np.ndarray, expert: np.ndarray) -> np.ndarray:
    return expert.astype(np.float32) - base.astype(np.float32)


def _trimmed(base: np.ndarray, expert: np.ndarray, cut: Cut, start: int) -> np.ndarray:
    """An expert whose delta to the base is the trimmed delta."""
    delta = _difference(base, expert)
    keeps = cut.keeps(delta, start)
    if cut.factor != 1:
        grown = base.astype(np.float32) + np.float32(cut.factor) * delta
        return np.where(keeps, grown, base.astype(np.float32))
    if expert.dtype != base.dtype:
        expert, base = expert.astype(np.float32), base.astype(np.float32)
    return np.where(keeps, expert, base)
