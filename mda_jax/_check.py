"""Errors raised before any compilation. Each says: who, got, expected, what to do."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def fraction(who: str, **arg: Any) -> None:
    """Raise unless the one argument lies in (0, 1]. Tracers have no value and pass."""
    ((name, value),) = arg.items()
    if isinstance(value, jax.core.Tracer):
        return
    values = np.asarray(value, np.float64)
    if np.all((0 < values) & (values <= 1)):
        return
    percent = np.all((1 < values) & (values <= 100)) and values.ndim == 0
    hint = f" Did you mean {name}={float(values) / 100:g}?" if percent else ""
    raise ValueError(
        f"{who}({name}={value}): {name} is a fraction in (0, 1], not a percentage."
        + hint
    )


def within(who: str, low: float, high: float, **arg: Any) -> None:
    """Raise unless the one argument lies in [low, high]. Tracers pass."""
    ((name, value),) = arg.items()
    if isinstance(value, jax.core.Tracer):
        return
    values = np.asarray(value, np.float64)
    if not np.all((low <= values) & (values <= high)):
        raise ValueError(
            f"{who}({name}={value}): {name} is a number in [{low:g}, {high:g}]."
        )


def probabilities(who: str, density: Any, epsilon: Any) -> None:
    """Raise unless `density` and `density` +- `epsilon` lie in (0, 1]. Tracers pass."""
    fraction(who, density=density)
    if isinstance(density, jax.core.Tracer) or isinstance(epsilon, jax.core.Tracer):
        return
    middle, half = np.asarray(density, np.float64), np.abs(np.asarray(epsilon))
    if not np.all((middle == 1) | ((half < middle) & (middle + half <= 1))):
        raise ValueError(
            f"{who}(density={density}, epsilon={epsilon}): density - epsilon and"
            " density + epsilon are probabilities in (0, 1]; pass a smaller epsilon."
        )


def one_per_expert(who: str, k: int, **arg: Any) -> None:
    """Raise unless the one argument is a list of `k` numbers."""
    ((name, value),) = arg.items()
    if jnp.shape(value) != (k,):
        raise ValueError(
            f"{who}: {name} has shape {jnp.shape(value)}, there are {k} experts. Pass"
            f" one number per expert, in the order of the experts."
        )


def at_least_one(who: str, **arg: int) -> None:
    """Raise unless the one argument is a positive integer."""
    ((name, value),) = arg.items()
    if value < 1:
        raise ValueError(f"{who}({name}={value}): {name} is at least 1.")


def at_least_two(who: str, **arg: int) -> None:
    """Raise unless the one argument is 2 or more."""
    ((name, value),) = arg.items()
    if value < 2:
        raise ValueError(
            f"{who}({name}={value}): {name} is at least 2; one vector makes no frame."
        )


def frame_fits(who: str, vertices: int, width: int) -> None:
    """Raise unless a simplex frame of so many vertices fits into the width."""
    at_least_two(who, classes=vertices)
    if width < vertices - 1:
        raise ValueError(
            f"{who}: {vertices} classes need features of width {vertices - 1} or more,"
            f" got {width}."
        )


def rank_within(who: str, rank: int, shape: tuple[int, ...]) -> None:
    """Raise unless `rank` directions exist in matrices of this shape."""
    most = min(shape[-2:])
    if not 1 <= rank <= most:
        raise ValueError(
            f"{who}(rank={rank}): matrices of shape {shape[-2:]} have between 1 and"
            f" {most} singular directions; pass a rank in [1, {most}]."
        )


def unique_names(names: Iterable[str]) -> None:
    """Raise if two leaves got one name when their paths were joined."""
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(
                f"named: two leaves are called {name!r} once their paths are joined by"
                " '/'. Rename the key that contains '/'."
            )
        seen.add(name)


def arrays(who: str, what: str, leaves: Mapping[str, Any]) -> None:
    """Raise unless there is a leaf and every leaf has a shape and a dtype."""
    if not leaves:
        raise ValueError(f"{who}: {what} has no leaves; pass a tree of arrays.")
    for name, leaf in leaves.items():
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise ValueError(
                f"{who}: {what}[{name!r}] is a {type(leaf).__name__}, not an array."
                " Filter the tree first, so that only its arrays are left."
            )
        alive(who, f"{what}[{name!r}]", leaf)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(
                f"{who}: {what}[{name!r}] is {leaf.dtype}; merges are real. Split it"
                " into its real and imaginary parts."
            )
        if is_merged(leaf) and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
            raise ValueError(
                f"{who}: {what}[{name!r}] is {leaf.dtype}, but JAX computes in 32 bits"
                " here. Set jax_enable_x64, or cast the tree."
            )


def alive(who: str, what: str, x: Any) -> None:
    """Raise for an array whose memory was given away."""
    is_array = isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)
    if is_array and x.is_deleted():
        raise ValueError(
            f"{who}: {what} has been deleted, most likely by donation to an earlier"
            " call. Leave out donate, or keep a copy."
        )


def made_of_stages(who: str, method: Any) -> None:
    """Raise for what was not made by `mda_jax.methods` or `mda_jax.combine`."""
    if jax.tree_util.all_leaves([method]):
        found = getattr(method, "__name__", repr(method))
        raise ValueError(
            f"{who}: method is {found}; expected one that is made, as"
            " mda_jax.methods.ties() is, or by mda_jax.stage."
        )


def some_experts(who: str, count: int) -> None:
    """Raise unless there is an expert."""
    if not count:
        raise ValueError(
            f"{who}: `experts` is empty; pass at least one fine-tuned tree."
        )


def same_leaves(
    who: str, what: str, base: Mapping[str, Any], tree: Mapping[str, Any], k: tuple = ()
) -> None:
    """Raise unless `tree` has the base's names and, name by name, `(*k, *shape)`."""
    if base.keys() != tree.keys():
        raise ValueError(
            f"{who}: {what} lacks {_some(base.keys() - tree.keys())} and has unknown"
            f" {_some(tree.keys() - base.keys())}. Convert every checkpoint with the"
            " same converter, or drop these weights from all trees."
        )
    for name, leaf in base.items():
        got, want = tree[name], (*k, *leaf.shape)
        alive(who, f"{what}[{name!r}]", got)
        if got.shape != want:
            raise ValueError(
                f"{who}: {what}[{name!r}] has shape {got.shape}, base has {want}."
                " Only checkpoints of one architecture can be merged; leave a resized"
                " head out of every tree."
            )
        if is_merged(leaf) and not is_merged(got):
            raise ValueError(
                f"{who}: {what}[{name!r}] is {got.dtype}, base is {leaf.dtype}."
                " Dequantise it, or drop this weight from all trees."
            )


def is_merged(leaf: Any) -> bool:
    """Whether there is anything to merge: not so for integers, booleans, PRNG keys and
    leaves without entries, which are copied.
    """
    return jnp.issubdtype(leaf.dtype, jnp.floating) and 0 not in leaf.shape


def rules_match(who: str, rules: Iterable[str], names: Sequence[str]) -> None:
    """Raise for a rule that matches no name: most likely it is misspelt."""
    for pattern in rules:
        if not any(re.fullmatch(pattern, name) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0)
            raise ValueError(
                f"{who}: rule {pattern!r} matches no weight. A rule is a regular"
                f" expression for the whole name; the nearest names are {near}."
            )


def covered(who: str, rules: Iterable[str], missed: Sequence[str]) -> None:
    """Raise if a weight was met by no rule."""
    if missed:
        raise ValueError(
            f"{who}: no rule of {list(rules)} matches {missed[0]!r} ({len(missed)}"
            " weights in all). End the rules with '.*'. `chain()` adds the deltas as"
            " they are; `stage(primitives.scaled, by=0.0)` adds none."
        )


def layout_fits(name: str, layout: Any, ndim: int) -> None:
    """Raise unless the layout's axes are those of the leaf, each once."""
    axes = (*layout.stack, *layout.out, *layout.into)
    if sorted(axes) != list(range(ndim)):
        raise ValueError(
            f"layouts: the rule for {name!r} names the axes {axes}; the leaf has axes"
            f" {tuple(range(ndim))}. Put each of them once in stack, out or into."
        )


def role_fits(name: str, role: Any, ndim: int) -> None:
    """Raise if a leaf with fewer than two axes is to be seen as a matrix."""
    if ndim < 2:
        raise ValueError(
            f"layouts: the rule for {name!r} makes it a {role.value}, which has two"
            f" axes at least; the leaf has {ndim}. Make the rule match less."
        )


def stacked(who: str, leaves: Mapping[str, Any]) -> tuple[int]:
    """`(k,)` of a stacked tree of experts; raise if its leaves have no such axis."""
    for name, leaf in leaves.items():
        if not leaf.shape or not leaf.shape[0]:
            raise ValueError(
                f"{who}: experts[{name!r}] has shape {leaf.shape}; leaves of a stacked"
                " tree are [k, *shape], k >= 1. Or pass a list of trees."
            )
        return (leaf.shape[0],)
    raise ValueError(f"{who}: `experts` is empty; pass at least one fine-tuned tree.")


def experts(who: str, wanted: int, k: int) -> None:
    """Raise unless a method that merges a fixed number of experts gets that many."""
    if k != wanted:
        raise ValueError(f"{who}: merges exactly {wanted} expert(s), got {k}.")


def needs_key(who: str, key: Any) -> Any:
    """The key of a random stage; raise if there is none."""
    if key is None:
        raise ValueError(
            f"{who}: drops entries at random, which needs a key; pass"
            " merge(..., key=jax.random.key(seed))."
        )
    return key


def typed_key(who: str, key: Any) -> None:
    """Raise unless the key is None or one typed PRNG key."""
    if key is None:
        return
    found = repr(key)
    if hasattr(key, "dtype"):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and not key.ndim:
            return
        found = f"an array of {key.dtype} with shape {key.shape}"
    raise ValueError(
        f"{who}: key is {found}; pass one typed key, jax.random.key(seed)."
    )


def donatable(who: str, arrays: Any) -> None:
    """Raise where arrays are traced: only their owner can give them away."""
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(arrays)):
        raise ValueError(
            f"{who}: donate=True inside a transformation of JAX, which has the arrays;"
            " leave it out, and give donate_argnums to jit."
        )


def aux_entries(who: str, structure: Any, aux: Any) -> list:
    """The entry of each leaf of the base; raise where `aux` is built otherwise."""
    try:
        return structure.flatten_up_to(aux)
    except ValueError as error:
        raise ValueError(
            f"{who}: aux has not the structure of base ({error}). Give it one entry"
            " per leaf, None where there is nothing to hand over."
        ) from error


def rows_fit(got: tuple, weight: tuple) -> None:
    """Raise unless a stage returned rows of the weight's shape."""
    if got[1:] != weight or len(got) != len(weight) + 1 or not got[0]:
        raise ValueError(
            f"merge: the stage returned an array of shape {got} for a weight of shape"
            f" {weight}. A stage returns rows [j, *d], j >= 1, that are summed."
        )


def aux_fits(name: str, shape: tuple, stack: int) -> None:
    """Raise unless an extra of a stacked leaf starts with the stack's length."""
    if shape[:1] != (stack,):
        raise ValueError(
            f"merge: aux of {name!r} has shape {shape}; the leaf is a stack of {stack}"
            " weights. Give it the leaf's own trailing axes, or one entry per weight"
            " on a leading axis."
        )


def _some(names: Iterable[str]) -> list[str]:
    listed = sorted(names)
    return listed if len(listed) <= 4 else [*listed[:4], f"and {len(listed) - 4} more"]
