"""`merge` and `merge_by_name`: trees in memory, eager or traced."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mda_jax import _check, trees
from mda_jax.engine._donate import spending
from mda_jax.engine._mesh import in_auto_mode, mesh_of
from mda_jax.engine._stream import Job, Method, run, seen


EVERY = "(?s:.*)"


def merge(
    base: Any,
    experts: Any,
    method: Method,
    *,
    key: Any = None,
    aux: Any = None,
    layout: trees.Rules | None = None,
    batch: int = 8,
    donate: bool = False,
) -> Any:
    """Merge experts into their base: `base + sum_j method(experts - base)[j]`.

    Works on any pytree, eagerly and under `jit`, `grad` and `vmap` (but not over
    explicit axes of a mesh). Stages see every weight in its canonical view, whatever
    the layout of the leaf.

    Arrays may be spread over a mesh, explicit or not; each leaf of the result is spread
    as that of the base. Methods that treat every row by itself work where the parts
    stand. Linear maps of other methods are handed whole to the devices, some to each,
    up to 2^28 bytes each in float32; of larger ones XLA multiplies the parts.

    Args:
      base: pytree of arrays, the common ancestor.
      experts: k >= 1 pytrees with the names and shapes of `base`; or one such tree
        with leaves `[k, *shape]`.
      method: a stage `[k, *d] -> [j, *d]`, or a `WholeModel`; see `mda_jax.methods`.
      key: a PRNG key; only random stages need it.
      aux: pytree with the structure of `base`, down to a tree of arrays (or None) per
        leaf, handed to the method with the leaf. An array that ends in the leaf's
        own shape is brought to canonical view with it; others pass as they are, for a
        stack of weights with one entry each on a leading axis.
      layout: rules `{regex: Layout or Role}` where inference from names and shapes
        needs help; see `trees.layouts`.
      batch: weights of one shape processed at once; bounds memory, not the result.
      donate: whether the arrays of `base` and `experts` are deleted, each when it has
        been read for the last time (JAX's, not NumPy's; several leaves may be one
        array), also if a stage fails. Outside `jit`, to which `donate_argnums` says the
        same; if a tree has tied leaves, through `trees.unaliased`.

    Returns:
      A tree like `base`, each leaf in its own dtype. The arithmetic is float32
      (float64 where the base is), cast once. Integers and booleans are the base's.

    Raises:
      ValueError: names, shapes, rules or extras do not fit; the message names the
        first offender. Nothing has been compiled or deleted then.

    >>> import jax.numpy as jnp
    >>> from mda_jax import chain
    >>> merge({"w": jnp.ones(2)}, [{"w": jnp.array([2.0, 1.0])}], chain())
    {'w': Array([2., 1.], dtype=float32)}
    """
    options = {"key": key, "aux": aux, "layout": layout, "batch": batch}
    return _merge("merge", {EVERY: method}, base, experts, donate=donate, **options)


def merge_by_name(
    rules: Mapping[str, Method], base: Any, experts: Any, **options: Any
) -> Any:
    """Like `merge`, with the method chosen by weight name: the first full match wins.

    Args:
      rules: `{regex: method}`, tried in order; end with `".*"` to cover the rest.
      base: as in `merge`.
      experts: as in `merge`.
      **options: as in `merge`.

    Returns:
      As `merge`. A `WholeModel` sees the weights its own rule matched.

    Raises:
      ValueError: a weight matches no rule, or a rule no weight; or as in `merge`.
    """
    return _merge("merge_by_name", rules, base, experts, **options)


def _merge(
    who: str,
    rules: Mapping[str, Method],
    base: Any,
    experts: Any,
    *,
    key: Any = None,
    aux: Any = None,
    layout: trees.Rules | None = None,
    batch: int = 8,
    donate: bool = False,
) -> Any:
    leaves = trees.named(base)
    _check.arrays(who, "base", leaves)
    for method in rules.values():
        _check.made_of_stages(who, method)
    _check.at_least_one(who, batch=batch)
    _check.typed_key(who, key)
    rows = _rows(who, base, leaves, experts)
    if donate:
        _check.donatable(who, (leaves, rows))
    plan = trees.layouts(leaves, layout)
    extras = _extras(who, base, leaves, aux, plan)
    assigned = _assigned(who, rules, leaves)
    methods = {pattern: rules[pattern] for pattern in assigned}

    def merged(leaves: dict, rows: dict, extras: dict, methods: dict, key: Any) -> dict:
        def read(name: str) -> tuple[Any, Any]:
            return leaves[name], rows[name]

        done: dict[str, Any] = {}
        mesh = mesh_of(jax.tree.leaves((leaves, rows)))
        spend = spending((leaves, rows, extras, methods)) if donate else None
        for pattern, mine in assigned.items():
            here = {name: leaves[name] for name in mine}
            job = Job(here, read, plan, extras, mesh=mesh)
            for name, leaf in run(job, methods[pattern], key, batch):
                done[name] = leaf
                if spend:
                    spend(read(name), leaf)
        return {name: done[name] for name in leaves}

    found = in_auto_mode(merged, leaves, leaves, rows, extras, methods, key)
    return jax.tree.unflatten(jax.tree.structure(base), [found[n] for n in leaves])


def _rows(who: str, base: Any, leaves: Mapping[str, Any], experts: Any) -> dict:
    """Per name a tuple of the experts' leaves, or one stacked array."""
    built: Any = jax.tree.structure(experts)
    is_stacked = built == jax.tree.structure(base)
    if isinstance(experts, Sequence) and not is_stacked:
        _check.some_experts(who, len(experts))
        named = [trees.named(tree) for tree in experts]
        for i, tree in enumerate(named):
            _check.same_leaves(who, f"experts[{i}]", leaves, tree)
        return {name: tuple(tree[name] for tree in named) for name in leaves}
    stacked = trees.named(experts)
    _check.same_leaves(who, "experts", leaves, stacked, _check.stacked(who, stacked))
    return stacked


def _assigned(
    who: str, rules: Mapping[str, Method], leaves: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The leaves of each rule; leaves that are merely copied need none."""
    _check.rules_match(who, rules, list(leaves))
    assigned: dict[str, dict[str, Any]] = {pattern: {} for pattern in rules}
    missed = []
    for name, leaf in leaves.items():
        found = [p for p in rules if re.fullmatch(p, name)]
        if not found and _check.is_merged(leaf):
            missed.append(name)
        assigned[(*found, next(iter(rules)))[0]][name] = leaf
    _check.covered(who, rules, missed)
    return {pattern: mine for pattern, mine in assigned.items() if mine}


def _extras(
    who: str, base: Any, leaves: Mapping[str, Any], aux: Any, plan: Mapping
) -> dict[str, Any]:
    if aux is None:
        return {}
    entries = _check.aux_entries(who, jax.tree.structure(base), aux)
    return {
        name: jax.tree.map(lambda x, n=name: _extra(n, x, leaves[n], plan[n]), entry)
        for name, entry in zip(leaves, entries, strict=True)
    }


def _extra(name: str, x: Any, leaf: Any, layout: trees.Layout) -> Any:
    if x.shape[max(0, x.ndim - leaf.ndim) :] == leaf.shape:
        return seen(x, layout, leaf.shape)
    if layout.stack:
        _check.aux_fits(name, x.shape, trees.view_shape(leaf.shape, layout)[0])
    return x
