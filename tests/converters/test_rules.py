"""Templates, rearrangements, and what happens when names do not fit."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mda_jax.converters import ConversionError
from mda_jax.converters.dialects import LINEN, TORCH, Dialect, linear, linen, norm
from mda_jax.converters.rules import Rule, Table
from mda_jax.converters.transforms import STACK, UNSTACK, fold, permute, split
from mda_jax.converters.translate import Arrays, Joined, Translated


def bits(shape, seed=0):
    """Float32 of random bits: infinities and NaN of every kind among them."""
    whole = np.random.default_rng(seed).integers(0, 2**32, shape, dtype=np.uint32)
    return whole.view(np.float32)


def same(a, b):
    return a.shape == b.shape and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def there_and_back(rules, tensors):
    inner = Translated(Arrays(tensors), rules)
    outer = Translated(inner, [rule.flipped() for rule in rules])
    assert set(outer) == set(tensors)
    for name, array in tensors.items():
        assert outer.spec(name) == (array.shape, array.dtype)
        assert same(outer[name], array), name
    for name in inner:
        assert inner.spec(name).shape == inner[name].shape
    return inner


@pytest.mark.parametrize(
    ("transform", "shape", "expected"),
    [
        (permute(1, 0), (3, 5), lambda x: [x.T]),
        (permute(2, 3, 1, 0), (2, 3, 4, 5), lambda x: [np.einsum("oihw->hwio", x)]),
        (fold(1, 3, -1), (2, 3, 4), lambda x: [x.reshape(2, 12)]),
        (fold(0, 1, 1, 1, -1), (1, 1, 1, 4), lambda x: [x[0, 0, 0]]),
        (split(2, 1, 1), (3, 8), lambda x: [x[:, :4], x[:, 4:6], x[:, 6:]]),
        (permute(1, 0) | split(1, 1), (4, 3), lambda x: [x[:2].T, x[2:].T]),
        (UNSTACK, (3, 2), list),
        (permute(0, 2, 1) | split(1, 3), (2, 8, 3), None),
    ],
)
def test_a_rearrangement_and_its_inverse(transform, shape, expected):
    x = bits(shape)
    there = transform([x])
    assert [y.shape for y in there] == transform.shapes([shape])
    if expected is not None:
        assert all(same(a, b) for a, b in zip(there, expected(x), strict=True))
    [back] = transform.inverse()(there)
    assert same(back, x)
    on_device = transform([jnp.asarray(np.arange(x.size).reshape(shape))])
    counted = transform([np.arange(x.size).reshape(shape)])
    assert all(map(np.array_equal, on_device, counted))


@given(
    heads=st.integers(1, 4),
    groups=st.integers(1, 3),
    depth=st.integers(1, 4),
    width=st.integers(1, 5),
)
@settings(max_examples=25, deadline=None)
def test_uneven_splits_come_back(heads, groups, depth, width):
    rows = (heads * groups + 2 * heads) * depth
    rules = [
        Rule(
            ("qkv.weight",),
            ("q/kernel", "k/kernel", "v/kernel"),
            permute(1, 0) | split(heads * groups, heads, heads),
        )
    ]
    inner = there_and_back(rules, {"qkv.weight": bits((rows, width))})
    assert inner.spec("q/kernel").shape == (width, heads * groups * depth)
    assert inner.spec("v/kernel").shape == (width, heads * depth)


def test_layers_are_gathered_and_scattered():
    experts = Rule(("l.{i}.e.{e*}.w",), ("l/{i}/e/kernel",), permute(1, 0) | STACK)
    tensors = {
        f"l.{i}.e.{e}.w": bits((2, 3), 10 * i + e) for i in (0, 7) for e in range(12)
    }
    inner = there_and_back([experts], tensors)
    assert inner.spec("l/7/e/kernel").shape == (12, 3, 2)
    assert same(inner["l/7/e/kernel"][10], tensors["l.7.e.10.w"].T)
    scanned = Rule(("stack/kernel",), ("l/{i*}/kernel",), UNSTACK)
    inner = there_and_back([scanned], {"stack/kernel": bits((11, 2, 3))})
    assert list(inner)[10] == "l/10/kernel"


def test_named_sizes_are_learnt_from_shapes_and_put_back():
    rules = [Rule(("q",), ("q",), fold(1, "heads", -1))]
    inner = Translated(Arrays({"q": bits((6, 2, 4))}), rules)
    assert inner.sizes == {"heads": 2} and inner.spec("q").shape == (6, 8)
    with pytest.raises(ConversionError, match="number of heads is not known"):
        Translated(inner, [rule.flipped() for rule in rules])
    bound = [
        Rule(r.inner, r.outer, r.transform.bind(inner.sizes).inverse()) for r in rules
    ]
    assert Translated(inner, bound).spec("q").shape == (6, 2, 4)


TABLE = Table(
    [
        Rule(
            ("enc.{i}.{a:q|k}.weight",),
            ("enc/{i}/{a:query|key}/kernel",),
            permute(1, 0),
        ),
        Rule(("enc.{i}.qkv",), ("enc/{i}/x", "enc/{i}/y"), split(1, 1)),
        Rule(("a.{e*}.w",), ("a/w",), STACK),
        Rule(("left", "right"), ("both",)),
        Rule(("buffer",), ()),
    ]
)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {"enc.0.v.weight": (2, 2)},
            "'enc.0.v.weight'; the nearest is 'enc.{i}.q.weight'",
        ),
        ({"enc.00.q.weight": (2, 2)}, "no rule for the tensor 'enc.00.q.weight'"),
        ({"enc.0.q.weight.x": (2, 2)}, "no rule for the tensor"),
        (
            {"enc.0.q.weight": (2, 2, 2)},
            "'enc.0.q.weight': found shape .* expected 2 axes",
        ),
        ({"enc.0.qkv": (2, 3)}, "'enc.0.qkv': found shape"),
        (
            {"a.0.w": (2,), "a.2.w": (2,)},
            "'a.1.w' is missing; .* together with 'a.0.w'",
        ),
        ({"a.99999999999.w": (2,)}, "'a.0.w' is missing"),
        ({"a.0.w": (2,), "a.1.w": (3,)}, "expected arrays of one shape"),
        ({"left": (2,)}, "'right' is missing"),
    ],
)
def test_what_does_not_fit_is_named(shapes, message):
    with pytest.raises(ConversionError, match=message):
        TABLE.groups(shapes)


def test_two_rules_for_one_tensor_or_leaf_are_refused():
    twice = Table([Rule(("a.{i}",), ("x/{i}",)), Rule(("a.{j}",), ("y/{j}",))])
    with pytest.raises(ConversionError, match=r"'a\.1' has several rules"):
        twice.groups({"a.1": (2,)})
    rules = [Rule(("a",), ("x",)), Rule(("b",), ("x",))]
    with pytest.raises(ConversionError, match="'x' comes from both 'a' and 'b'"):
        Translated(Arrays({"a": bits(2), "b": bits(2)}), rules)


def test_tensors_of_two_types_do_not_become_one():
    tensors = {"a.0.w": np.zeros(2, np.float32), "a.1.w": np.zeros(2, np.float16)}
    with pytest.raises(ConversionError, match=r"'a\.1\.w' float16.* Cast them first"):
        Translated(Arrays(tensors), [Rule(("a.{e*}.w",), ("a/w",), STACK)])


def test_one_list_of_modules_serves_torch_and_linen():
    torch = Dialect(
        "hub",
        TORCH,
        prefixes=("model.", ""),
        backbone=(linear("l.{i}.fc", "layers/{i}/fc"), norm("ln", "norm")),
        heads=(linear("head", "head"),),
    )
    tensors = {"model.l.0.fc.weight": bits((3, 2)), "model.l.0.fc.bias": bits(3)}
    tensors |= {"model.ln.weight": bits(2), "head.weight": bits((5, 2))}
    inner = there_and_back(list(torch.rules("model.")), tensors)
    assert set(inner) == {
        "layers/0/fc/kernel",
        "layers/0/fc/bias",
        "norm/scale",
        "head/kernel",
    }
    rules = linen(torch).rules("model/")
    flax = Translated(inner, [rule.flipped() for rule in rules])
    assert same(flax["model/l/0/fc/kernel"], tensors["model.l.0.fc.weight"].T)
    assert same(flax["model/ln/scale"], tensors["model.ln.weight"])
    assert LINEN.separator == "/" and not linen(torch).is_torch


def test_arrays_are_made_when_they_are_asked_for_and_views_stay_views():
    asked = []

    class Spy(Arrays):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    held = {"enc.0.q.weight": bits((2, 3)), "enc.1.q.weight": bits((2, 3))}
    rule = Rule(("enc.{i}.q.weight",), ("{i}/kernel",), permute(1, 0))
    inner = Translated(Spy(held), [rule])
    assert list(inner) and inner.spec("1/kernel") and not asked
    assert np.shares_memory(inner["1/kernel"], held["enc.1.q.weight"])
    assert asked == ["enc.1.q.weight"]


def test_of_a_stack_only_the_layers_of_a_part_are_read():
    asked = []

    class Spy(Arrays):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    held = {f"a.{e}.w": bits((2, 3), e) for e in range(8)}
    rule = Rule(("a.{e*}.w",), ("a/kernel",), permute(1, 0) | STACK)
    stack = Joined([(Translated(Spy(held), [rule]), {"k": "a/kernel"})])
    part = stack.part("k", (slice(2, 4), slice(1, 3)))
    assert asked == ["a.2.w", "a.3.w"]
    assert same(part, stack["k"][2:4, 1:3])
    assert stack.part("k", (slice(8, 8), slice(0, 1))).shape == (0, 1, 2)
    assert same(stack.part("k", ()), stack["k"])
