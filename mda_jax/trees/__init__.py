"""Names, roles and canonical views of the leaves of a parameter tree."""

from mda_jax.trees.aliases import memory as memory, unaliased as unaliased
from mda_jax.trees.buckets import (
    Bucket as Bucket,
    as_they_lie as as_they_lie,
    buckets as buckets,
    coverage as coverage,
    seed as seed,
)
from mda_jax.trees.layout import (
    Layout as Layout,
    is_canonical as is_canonical,
    unview as unview,
    view as view,
    view_shape as view_shape,
)
from mda_jax.trees.names import kind as kind, named as named
from mda_jax.trees.rules import (
    Rules as Rules,
    every_2d as every_2d,
    layouts as layouts,
)
