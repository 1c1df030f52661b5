"""Checkpoint formats, read and written without PyTorch."""

from mda_jax.converters.formats.dtypes import Spec as Spec
from mda_jax.converters.formats.errors import FormatError as FormatError
from mda_jax.converters.formats.msgpack import write_msgpack as write_msgpack
from mda_jax.converters.formats.npz import write_npz as write_npz
from mda_jax.converters.formats.orbax import write_orbax as write_orbax
from mda_jax.converters.formats.outlines import (
    outline as outline,
    write_outlined as write_outlined,
)
from mda_jax.converters.formats.placement import place as place
from mda_jax.converters.formats.pytorch import write_pytorch as write_pytorch
from mda_jax.converters.formats.shards import header_text as header_text
from mda_jax.converters.formats.tensors import (
    Tensors as Tensors,
    open_tensors as open_tensors,
)
from mda_jax.converters.formats.writer import (
    SafetensorsWriter as SafetensorsWriter,
    write_file as write_file,
    write_folder as write_folder,
)
