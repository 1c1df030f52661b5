"""Directions of class features: their means, how collapsed they are, and targets."""

from mda_jax.features.alignment import (
    Alignment as Alignment,
    align as align,
    centre as centre,
    centred_directions as centred_directions,
)
from mda_jax.features.collapse import (
    NeuralCollapse as NeuralCollapse,
    etf_deviation as etf_deviation,
    neural_collapse as neural_collapse,
)
from mda_jax.features.directions import unit_rows as unit_rows
from mda_jax.features.losses import (
    alignment_loss as alignment_loss,
    entropy as entropy,
    rotation_loss as rotation_loss,
)
from mda_jax.features.means import ClassMeans as ClassMeans, class_means as class_means
from mda_jax.features.targets import (
    aligned_targets as aligned_targets,
    random_targets as random_targets,
)
