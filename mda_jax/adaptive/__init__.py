"""Methods that learn from unlabelled data how much of each delta to add."""

from mda_jax.adaptive._adamerging import adamerging as adamerging
from mda_jax.adaptive._blocks import blocks as blocks
from mda_jax.adaptive._coefficients import (
    combined as combined,
    layer_wise as layer_wise,
    task_vectors as task_vectors,
    task_wise as task_wise,
)
from mda_jax.adaptive._descent import Descent as Descent
from mda_jax.adaptive._mda_am import mda_am as mda_am
