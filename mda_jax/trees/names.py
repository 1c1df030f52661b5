"""Names of the leaves of a parameter tree."""

import re
from collections import Counter
from typing import Any

import jax
from jax.tree_util import GetAttrKey

from mda_jax import _check


def named(tree: Any) -> dict[str, Any]:
    """Leaves by slash-joined path, in tree order.

    Dicts, lists, registered dataclasses, Linen `FrozenDict`, NNX states and modules
    and Equinox-like modules all give the names a plain nested dict would: the `value`
    step of an NNX variable is left out.

    Args:
      tree: any pytree.

    Returns:
      `{name: leaf}`.

    Raises:
      ValueError: two leaves get the same name, as in `{"a/b": x, "a": {"b": y}}`.

    >>> named({"encoder": [{"kernel": 1.0}], "head": 2.0})
    {'encoder/0/kernel': 1.0, 'head': 2.0}
    """
    flat = jax.tree_util.tree_leaves_with_path(tree)
    children = Counter(path[:-1] for path, _ in flat)
    names = [_joined(path, children) for path, _ in flat]
    _check.unique_names(names)
    return dict(zip(names, (leaf for _, leaf in flat), strict=True))


def parts(name: str) -> tuple[str, ...]:
    """The steps of a name, whether joined by '/' or, as in PyTorch, by '.'.

    >>> parts("blocks.0/kernel")
    ('blocks', '0', 'kernel')
    """
    return tuple(re.split(r"[/.]", name))


def kind(name: str) -> str:
    """A name without its numbers, which count layers: those of one kind lie alike.

    >>> kind("blocks/0/kernel")
    'blocks/*/kernel'
    """
    return re.sub(r"\d+", "*", name)


def _joined(path: tuple, children: Counter) -> str:
    is_variable = path[-1:] == (GetAttrKey("value"),) and children[path[:-1]] == 1
    kept = path[:-1] if is_variable and len(path) > 1 else path
    return jax.tree_util.keystr(kept, simple=True, separator="/")
