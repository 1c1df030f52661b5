"""One model that gives back each expert: a merged delta, and a mask per expert."""

from mda_jax.compression._emr import emr as emr
from mda_jax.compression._tall import tall_masks as tall_masks
from mda_jax.compression._unified import Unified as Unified
