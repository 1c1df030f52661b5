from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax.core import FrozenDict

from mda_jax.trees import named
from mda_jax.trees.names import parts


@jax.tree_util.register_dataclass
@dataclass
class Pair:
    value: object
    key: object


class Net(nnx.Module):
    def __init__(self):
        self.blocks = nnx.List([nnx.Linear(2, 3, rngs=nnx.Rngs(0))])
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))


def test_every_container_gives_the_names_of_a_nested_dict():
    plain = {"blocks": {"0": {"bias": 1, "kernel": 2}}, "head": 3}
    want = ["blocks/0/bias", "blocks/0/kernel", "head"]
    assert list(named(plain)) == want
    assert list(named(FrozenDict(plain))) == want
    assert list(named({"blocks": [{"bias": 1, "kernel": 2}], "head": 3})) == want


def test_nnx_variables_do_not_show():
    stats = ["norm/bias", "norm/mean", "norm/scale", "norm/var"]
    want = ["blocks/0/bias", "blocks/0/kernel", *stats]
    assert list(named(nnx.state(Net()))) == want
    assert list(named(Net())) == want
    assert list(named(nnx.to_pure_dict(nnx.state(Net())))) == want


def test_other_things_called_value_keep_their_name():
    assert list(named({"attn": {"key": 1, "value": 2}})) == ["attn/key", "attn/value"]
    assert list(named({"attn": Pair(1, 2)})) == ["attn/value", "attn/key"]
    assert list(named({"value": {"kernel": 1}})) == ["value/kernel"]


def test_a_bare_array_is_a_tree():
    assert list(named(jnp.zeros(2))) == [""]


def test_colliding_names_are_an_error():
    with pytest.raises(ValueError, match=r"two leaves are called 'a/b'"):
        named({"a/b": 1, "a": {"b": 2}})


def test_parts_splits_both_dialects():
    assert parts("model.layers.0/kernel") == ("model", "layers", "0", "kernel")
