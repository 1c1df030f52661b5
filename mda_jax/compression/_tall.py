"""TALL masks: which entries of a merged delta each expert needs."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from mda_jax import primitives as p
from mda_jax._types import Stage, WholeModel
from mda_jax.combine import stage
from mda_jax.compression._unified import Unified, deltas_of, merged_delta, packed


def tall_masks(
    base: Any,
    experts: Sequence[Any],
    share: p.Weights = 0.4,
    multi: Stage | WholeModel | None = None,
) -> Unified:
    """The merged delta, and a mask per expert of the entries that are its own.

    Args:
      base: parameters.
      experts: k trees like `base`.
      share: an entry is an expert's own where its delta is larger than `share` times
        what the other experts add to it; dimensionless, one number or one per expert.
        The larger, the fewer.
      multi: the method whose result is masked. None: the sum of the deltas.

    Returns:
      Expert `t` is the base and the masked merged delta; all scales are 1.

    Raises:
      ValueError: there is no expert, or one has other names or shapes than the base,
        or there is not one share per expert.

    Paper:
      Wang et al., Localizing Task Information for Improved Model Merging and
      Compression, 2024, https://arxiv.org/abs/2405.07813, section 4.
      Differs: the authors choose `share` per expert on validation data, from 0.2 to
      0.6. fusion-bench fixes 0.6, and its masks compare the base less the delta.
    """
    deltas = deltas_of("tall_masks", base, experts)
    vector = merged_delta(deltas, stage(p.total) if multi is None else multi)
    masks = {
        name: packed(p.tall_masks(d, merged=vector[name][None], share=share))
        for name, d in deltas.items()
    }
    return Unified(base, vector, masks, jnp.ones(len(experts), jnp.float32))
