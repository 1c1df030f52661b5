"""Merge fine-tuned models by composing pure functions of their deltas."""

from mda_jax import (
    adaptive as adaptive,
    compression as compression,
    features as features,
    linalg as linalg,
    methods as methods,
    primitives as primitives,
    training as training,
    trees as trees,
)
from mda_jax._types import (
    Deltas as Deltas,
    Role as Role,
    Rows as Rows,
    Side as Side,
    Stage as Stage,
    Survey as Survey,
    WholeModel as WholeModel,
)
from mda_jax.combine import (
    chain as chain,
    entrywise as entrywise,
    is_matrix as is_matrix,
    sided as sided,
    sided_survey as sided_survey,
    stage as stage,
    survey as survey,
    surveyed as surveyed,
    where as where,
    whole_model as whole_model,
)
from mda_jax.engine import (
    merge as merge,
    merge_by_name as merge_by_name,
    stream as stream,
)
from mda_jax.trees import Layout as Layout
