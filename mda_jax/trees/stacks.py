"""Which leaves are stacks of weights: scanned layers and stacked experts."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from mda_jax import _check
from mda_jax.trees.names import parts


NORM = re.compile(r".*norm.*|ln|ln_\w+|bn\d*|scale")
VECTORS = {"scale", "bias", "weight", "gamma", "beta"}
EXPERTS = re.compile(r"(\w*_)?experts|moe_?block(_\d+)?", re.IGNORECASE)


def stacks(leaves: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The stack axes of every floating leaf.

    A *scanned container* is the outermost prefix under which all leaves share their
    leading length, something has three axes, and what is a vector elsewhere (a norm's
    scale, a bias next to its kernel) has two. Below a part called `experts`, the
    next axis of a leaf with two axes more than a vector counts experts.
    """
    shapes = {n: leaf.shape for n, leaf in leaves.items() if _check.is_merged(leaf)}
    containers = _containers(shapes)
    return {name: _stack(name, shape, containers) for name, shape in shapes.items()}


def bias_of(name: str) -> str:
    """The name that the bias beside this leaf would have."""
    for weight, bias in (("weight", "bias"), ("kernel", "bias"), ("w", "b")):
        if re.search(rf"(^|[/._]){weight}$", name):
            return name.removesuffix(weight) + bias
    return f"{name}_bias"


def _stack(name: str, shape: tuple, containers: set) -> tuple[int, ...]:
    scanned = int(any(prefix in containers for prefix in _prefixes(name)))
    rest = len(shape) - scanned
    vector = parts(name)[-1].endswith(("bias", "scale"))
    is_moe = any(EXPERTS.fullmatch(part) for part in parts(name)[:-1])
    return tuple(range(scanned + int(is_moe and rest == (2 if vector else 3))))


def _containers(shapes: Mapping[str, tuple]) -> set[tuple[str, ...]]:
    leading, deep = defaultdict(set), set()
    for name, shape in shapes.items():
        for prefix in _prefixes(name):
            leading[prefix].add(shape[:1])
            if len(shape) >= 3:
                deep.add(prefix)
    found = set()
    for name in filter(lambda n: _is_stacked_vector(n, shapes), shapes):
        for prefix in _prefixes(name):
            if len(leading[prefix]) == 1 and prefix in deep:
                found.add(prefix)
                break
    return found


def _prefixes(name: str) -> list[tuple[str, ...]]:
    steps = parts(name)
    return [steps[:i] for i in range(len(steps))]


def _is_stacked_vector(name: str, shapes: Mapping[str, tuple]) -> bool:
    """Whether this leaf gives a scanned stack away."""
    *module, last = parts(name)
    if len(shapes[name]) != 2:
        return _has_stacked_bias(name, shapes)
    return last in VECTORS and (last == "scale" or bool(NORM.fullmatch(_last(module))))


def _has_stacked_bias(name: str, shapes: Mapping[str, tuple]) -> bool:
    shape, bias = shapes[name], shapes.get(bias_of(name))
    if len(shape) != 3 or bias == shape[1:]:
        return False
    return bias in (shape[:2], (shape[0], shape[2]))


def _last(module: list[str]) -> str:
    return module[-1].lower() if module else ""
