"""PyTorch checkpoints into Flax and back, bit for bit."""

from mda_jax.converters.checkpoint import Checkpoint as Checkpoint, load as load
from mda_jax.converters.convert import (
    build as build,
    in_dialect as in_dialect,
    to_flax as to_flax,
    to_torch as to_torch,
    with_tree as with_tree,
)
from mda_jax.converters.errors import ConversionError as ConversionError
from mda_jax.converters.formats import FormatError as FormatError, place as place
from mda_jax.converters.store import save as save
