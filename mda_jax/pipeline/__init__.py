"""Merging model folders: configuration, plan, streaming, atomic output."""

from mda_jax.converters.formats.writer import SHARD_SIZE as SHARD_SIZE
from mda_jax.pipeline.arithmetic import (
    as_mergekit as as_mergekit,
    in_float32 as in_float32,
)
from mda_jax.pipeline.errors import ConfigError as ConfigError, MergeError as MergeError
from mda_jax.pipeline.estimate import Estimate as Estimate, estimate as estimate
from mda_jax.pipeline.hosts import is_first as is_first
from mda_jax.pipeline.mesh import mesh_of as mesh_of
from mda_jax.pipeline.orbax import run_to_orbax as run_to_orbax
from mda_jax.pipeline.plan import Plan as Plan, plan as plan
from mda_jax.pipeline.report import Report as Report
from mda_jax.pipeline.run import run as run
from mda_jax.pipeline.several import run_all as run_all
