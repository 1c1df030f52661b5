"""Methods that run the model: they learn from unlabelled data, or ask for its worth."""

from mda_jax.adaptive._adamerging import adamerging as adamerging
from mda_jax.adaptive._blocks import blocks as blocks
from mda_jax.adaptive._coefficients import (
    combined as combined,
    layer_wise as layer_wise,
    task_vectors as task_vectors,
    task_wise as task_wise,
)
from mda_jax.adaptive._descent import Descent as Descent
from mda_jax.adaptive._greedy_soup import Soup as Soup, greedy_soup as greedy_soup
from mda_jax.adaptive._mda_am import mda_am as mda_am
