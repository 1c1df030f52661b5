"""The layout of every leaf: inferred, then overridden by rules."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from mda_jax import _check
from mda_jax._types import Role
from mda_jax.trees.infer import inferred
from mda_jax.trees.layout import Layout


Leaves: TypeAlias = Mapping[str, Any]
Rules: TypeAlias = Mapping[str, Layout | Role] | Callable[[Leaves], dict[str, Layout]]
TWO_SIDED = (Role.MATRIX, Role.CONV, Role.EMBEDDING, Role.POSITION)


def layouts(leaves: Leaves, rules: Rules | None = None) -> dict[str, Layout]:
    """The layout of every leaf.

    Args:
      leaves: `{name: array or ShapeDtypeStruct}` of the whole model.
      rules: `{regex: layout or role}`, tried in order on the whole name, the first
        match wins; a role keeps the inferred axes where they serve it. Or a function
        of `leaves`, such as `every_2d`. Leaves without a rule are inferred; integers
        and booleans stay buffers.

    Returns:
      `{name: Layout}`, in the order of `leaves`.

    Raises:
      ValueError: a rule matches nothing, or does not fit a leaf it matches.

    >>> import jax
    >>> kernel = jax.ShapeDtypeStruct((8, 16), "float32")
    >>> layouts({"dense/kernel": kernel})["dense/kernel"]
    Layout(role=<Role.MATRIX: 'matrix'>, stack=(), out=(1,), into=(0,))
    """
    if callable(rules):
        return rules(leaves)
    plan = inferred(leaves)
    if not rules:
        return plan
    _check.rules_match("layouts", rules, list(leaves))
    for name in filter(lambda n: _check.is_merged(leaves[n]), leaves):
        rule = next((r for p, r in rules.items() if re.fullmatch(p, name)), None)
        if isinstance(rule, Layout):
            _check.layout_fits(name, rule, len(leaves[name].shape))
            plan[name] = rule
        elif rule is not None:
            plan[name] = _as_role(name, plan[name], rule)
    return plan


def every_2d(leaves: Leaves) -> dict[str, Layout]:
    """Every 2-D weight a matrix, all else a vector: the rule of fusion-bench.

    Token tables, position tables and heads are matrices too; convolutions are not.
    Kernels and biases that Flax splits into heads count as what they are in PyTorch.
    """
    plan = inferred(leaves)
    for name in filter(lambda n: _check.is_merged(leaves[n]), leaves):
        layout = plan[name]
        axes = len(leaves[name].shape) - len(layout.stack)
        is_bias = name.endswith("bias")
        if layout.role is Role.MATRIX or (axes == 2 and not is_bias):
            plan[name] = _as_role(name, layout, Role.MATRIX)
        elif axes > 1:
            plan[name] = _as_role(name, layout, Role.VECTOR)
    return plan


def _as_role(name: str, layout: Layout, role: Role) -> Layout:
    """The same leaf in another role, its axes regrouped only where they must be."""
    axes = (*layout.out, *layout.into)
    if role in TWO_SIDED and layout.into:
        return layout._replace(role=role)
    if role in TWO_SIDED:
        _check.role_fits(name, role, len(axes))
        return layout._replace(role=role, out=axes[:-1], into=axes[-1:])
    return layout._replace(role=role, out=tuple(sorted(axes)), into=())
