"""Plain array functions over the experts' deltas: no trees, no hidden keys."""

from mda_jax.primitives.averages import (
    Weights as Weights,
    mean as mean,
    per_expert as per_expert,
    scaled as scaled,
    total as total,
    weighted as weighted,
    weighted_mean as weighted_mean,
    weighted_sum as weighted_sum,
)
from mda_jax.primitives.cores import (
    CoreSpace as CoreSpace,
    core_space as core_space,
)
from mda_jax.primitives.dropping import (
    Density as Density,
    Rescale as Rescale,
    as_kept as as_kept,
    by_l1_norm as by_l1_norm,
    by_probability as by_probability,
    drop as drop,
    rank_density as rank_density,
)
from mda_jax.primitives.grams import (
    directional_least_squares as directional_least_squares,
    input_grams as input_grams,
)
from mda_jax.primitives.histograms import (
    Count as Count,
    counted as counted,
    entries as entries,
    lower_counts as lower_counts,
    lower_sums as lower_sums,
    order_statistics as order_statistics,
    reaching as reaching,
    sign_of_count as sign_of_count,
    upper_counts as upper_counts,
)
from mda_jax.primitives.masks import tall_masks as tall_masks
from mda_jax.primitives.rounding import rounded as rounded
from mda_jax.primitives.selection import (
    keep_band as keep_band,
    keep_count as keep_count,
    keep_largest as keep_largest,
    kth_smallest as kth_smallest,
)
from mda_jax.primitives.signs import (
    agreeing as agreeing,
    agreeing_largest as agreeing_largest,
    agreeing_mean as agreeing_mean,
    agreeing_sum as agreeing_sum,
    agreeing_weighted_mean as agreeing_weighted_mean,
    nonnegative_sign_of_sum as nonnegative_sign_of_sum,
    positive_sign_of_sum as positive_sign_of_sum,
    sign_of_sum as sign_of_sum,
)
from mda_jax.primitives.spheres import (
    Axes as Axes,
    Cosine as Cosine,
    Each as Each,
    Gram as Gram,
    One as One,
    angle as angle,
    columns as columns,
    cosine as cosine,
    cosine_of_mean_angle as cosine_of_mean_angle,
    cosine_or_one as cosine_or_one,
    cosines as cosines,
    gram as gram,
    gram_across_rows as gram_across_rows,
    length as length,
    mean_cosine as mean_cosine,
    or_one as or_one,
    root as root,
    rows as rows,
    slerp_shares as slerp_shares,
    unit as unit,
    whole as whole,
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
