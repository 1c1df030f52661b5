"""Plain array functions over the experts' deltas: no trees, no hidden keys."""

from mda_jax.primitives.averages import (
    Weights as Weights,
    mean as mean,
    per_expert as per_expert,
    scaled as scaled,
    total as total,
    weighted as weighted,
    weighted_mean as weighted_mean,
)
from mda_jax.primitives.cores import (
    CoreSpace as CoreSpace,
    core_space as core_space,
)
from mda_jax.primitives.grams import (
    directional_least_squares as directional_least_squares,
    input_grams as input_grams,
)
from mda_jax.primitives.selection import (
    keep_count as keep_count,
    keep_largest as keep_largest,
)
from mda_jax.primitives.signs import (
    agreeing as agreeing,
    agreeing_mean as agreeing_mean,
    agreeing_sum as agreeing_sum,
    agreeing_weighted_mean as agreeing_weighted_mean,
    nonnegative_sign_of_sum as nonnegative_sign_of_sum,
    sign_of_sum as sign_of_sum,
)
from mda_jax.primitives.subspaces import (
    apart as apart,
    as_it_is as as_it_is,
    flat_cores as flat_cores,
    flat_spectrum as flat_spectrum,
    leading_energy as leading_energy,
    leading_subspaces as leading_subspaces,
    on_frame_span as on_frame_span,
    on_one_frame as on_one_frame,
    orthonormal as orthonormal,
    rank_of_each as rank_of_each,
    recombined as recombined,
    side_by_side as side_by_side,
    simplex_aligned as simplex_aligned,
)
