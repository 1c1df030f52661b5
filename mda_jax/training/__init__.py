"""Averages of parameters along a training run, and replicas merged within it."""

from mda_jax.training.averagers import (
    Averager as Averager,
    cosine as cosine,
    decay_factors as decay_factors,
    ema as ema,
    linear as linear,
    merge_weights as merge_weights,
    one_minus_sqrt as one_minus_sqrt,
    uniform as uniform,
    weighted as weighted,
    window as window,
    wsm as wsm,
)
from mda_jax.training.optimiser import (
    averaged_params as averaged_params,
    averaging as averaging,
)
from mda_jax.training.replicas import (
    Merger as Merger,
    MergerState as MergerState,
    averaged as averaged,
    fresh as fresh,
    keep as keep,
    merge_every as merge_every,
    merge_replicas as merge_replicas,
    replicate as replicate,
)
