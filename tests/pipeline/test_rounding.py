"""`as_mergekit` computes what PyTorch does in bfloat16 and float16.

`golden/rounded` has outputs of mergekit 0.1.5; the other expectations are its
operations in PyTorch, on small tensors.
"""

import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from folders import SHAPES, read, save, task_arithmetic, tensors
from ruamel.yaml import YAML

from mda_jax import Side, pipeline, primitives as p
from mda_jax.converters.formats import open_tensors
from mda_jax.pipeline import ConfigError
from mda_jax.pipeline.dialect import MERGEKIT, ids
from mda_jax.pipeline.parameters import Numbers
from mda_jax.pipeline.rounding import rounding_stage


GOLDEN = Path(__file__).parent / "golden"
FOLDERS = [*(GOLDEN / "rounded").iterdir()]
FOLDERS += [GOLDEN / "cases" / name for name in ("bf16_linear", "bf16_slerp")]


@pytest.mark.parametrize("folder", sorted(FOLDERS), ids=lambda folder: folder.name)
def test_mergekit_agrees_to_the_last_bit(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(GOLDEN)
    config = YAML(typ="safe").load(folder / "config.yml")
    file = folder / "expected.safetensors"
    expected = open_tensors(file if file.exists() else folder / "expected")
    if config["merge_method"] == "arcee_fusion":
        config["out_dtype"] = "float32"  # which mergekit writes in any case
    out = tmp_path / "out"
    report = pipeline.run(config, out, arithmetic=pipeline.as_mergekit)
    told = {f"merged by {config['merge_method']}, all in {config['dtype']}"}
    assert set(report.rules.values()) == told
    masks = folder / "ambiguous.npz"
    ambiguous = dict(np.load(masks)) if masks.exists() else {}
    actual = open_tensors(out)
    for name, want in expected.items():
        got = actual[name]
        assert got.dtype == want.dtype, name
        sure = ~ambiguous.get(name, np.zeros(want.shape, bool))
        np.testing.assert_array_equal(got[sure], want[sure], name)


# What mergekit does, written with PyTorch. Each takes the weights, cast already, the
# base's first where there is a base, and `n`, the parameters.


def per_row(values, like):
    return torch.tensor(values, dtype=like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def linear(x, n):
    weights = torch.tensor(n["weight"])
    whole = torch.zeros(x.shape[1:])
    for each, weight in zip(x, weights, strict=True):
        whole.addcmul_(each, weight.reshape([1] * each.ndim))
    return (whole / weights.sum() if n["normalize"] else whole).to(x.dtype)


def slerp(x, n):
    a, b = x.float()
    t, cosine = torch.tensor(n["t"]), ((a / a.norm()) * (b / b.norm())).sum()
    angle = torch.acos(cosine)
    first, second = (torch.sin(s * angle) / torch.sin(angle) for s in (1 - t, t))
    return (first * a + second * b).to(x.dtype)


def added(x, n, *, keep=None, vote=False):
    """Task arithmetic and what is made of it."""
    base, deltas = x[0], x[1:] - x[0]
    if keep is not None:
        kept = ((delta, keep(i, delta, n)) for i, delta in enumerate(deltas))
        deltas = torch.stack([rescaled(*pair, n) for pair in kept])
    weights = per_row(n["weight"], deltas)
    deltas = deltas * weights
    shares = weights
    if vote:
        sign = torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
        agree = deltas.sign() == sign
        deltas, shares = deltas * agree, weights * agree
    whole, divisor = deltas.sum(0), shares.sum(0)
    if n["normalize"]:
        whole = whole / torch.where(divisor == 0, torch.ones_like(divisor), divisor)
    return base + whole * n["lambda"]


def rescaled(delta, kept, n):
    if not n["rescale"]:
        return kept
    work = delta.dtype
    if "drawn" in n and work == torch.float16:
        delta, kept = delta.float(), kept.float()
    return (kept * (delta.abs().sum() / kept.abs().sum())).to(work)


def by_magnitude(i, delta, n, *, top=0):
    keep = int(n["density"][i] * delta.numel())
    order = delta.abs().float().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(delta.numel(), dtype=delta.dtype)
    mask[order[top : top + keep]] = 1
    return delta * mask.reshape(delta.shape)


def in_a_band(i, delta, n):
    return by_magnitude(i, delta, n, top=int(n["gamma"][i] * delta.numel()))


def drawn(i, delta, n):
    """The draws are this library's."""
    return delta * torch.tensor(n["drawn"][i]).to(delta.dtype)


def nuslerp(x, n):
    if len(x) == 3:
        return x[0] + nuslerp(x[1:] - x[0], n)
    second = n["weight"][1] / sum(n["weight"])
    axis = 0 if n["nuslerp_row_wise"] else -1
    a, b = x.flatten(1) if n["nuslerp_flatten"] else x
    units = (v / torch.norm(v, dim=axis, keepdim=True).clamp(min=1e-7) for v in (a, b))
    angle = torch.acos(math.prod(units).sum(axis, keepdim=True).clamp(-1, 1))
    parts = torch.sin((1 - second) * angle) * a + torch.sin(second * angle) * b
    return (parts / torch.sin(angle)).reshape(x.shape[1:])


def multislerp(x, n, *, based=True):
    base, x = (x[0], x[1:] - x[0]) if based else (None, x)
    flat, weights = x.flatten(1), torch.tensor(n["weight"], dtype=x.dtype)
    if n["normalize_weights"]:
        weights = weights / weights.sum()
    lengths = flat.norm(dim=1, keepdim=True)
    units = flat / (lengths + n["eps"])
    middle = (units * weights[:, None]).sum(0)
    middle = middle / middle.norm()
    off = units - (units * middle).sum(1, keepdim=True) * middle
    tangent = (off * weights[:, None]).sum(0)
    far = tangent.norm() + n["eps"]
    moved = middle * torch.cos(far) + tangent * (torch.sin(far) / far)
    moved = (moved * (lengths[:, 0] * weights).sum()).reshape(x.shape[1:])
    return moved if base is None else moved + base


def karcher(x, n):
    share = 1 / len(x)
    lengths = [each.float().norm() for each in x]
    units = [each / length for each, length in zip(x, lengths, strict=True)]
    middle = sum(share * each for each in units)
    middle = middle / middle.float().norm()
    for _ in range(n["max_iter"]):
        tangent = torch.zeros_like(middle)
        for each in units:
            cosine = torch.dot(middle.flatten(), each.flatten()).clamp(-1, 1)
            angle = torch.arccos(cosine)
            if angle.item() >= n["tol"]:
                scale = share * (angle / torch.sin(angle))
                tangent += scale * (each - cosine * middle)
        far = tangent.float().norm()
        if far.item() < n["tol"]:
            break
        middle = torch.cos(far) * middle + torch.sin(far) * (tangent / far)
        middle = middle / middle.float().norm()
    return sum(share * length for length in lengths) * middle


def model_stock(x, n):
    base, experts = x[0], list(x[1:])
    if not n["filter_wise"]:
        base, experts = base.flatten(), [each.flatten() for each in experts]
    deltas, count, found = [each - base for each in experts], len(experts), []
    for i in range(count):
        for j in range(i + 1, count):
            sizes = deltas[i].norm(dim=-1) * deltas[j].norm(dim=-1)
            product = (deltas[i] * deltas[j]).sum(-1)
            found.append((product / sizes.clamp(min=1e-6)).clamp(-1, 1))
    cosine = torch.stack(found).mean(0)[..., None]
    t = (count * cosine) / (1 + (count - 1) * cosine)
    return (t * (sum(experts) / count) + (1 - t) * base).reshape(x.shape[1:])


def nearswap(x, n):
    a, b = x
    share = (n["t"] / (a - b).abs().clamp(min=1e-6)).clamp(0, 1)
    return share * b + (1 - share) * a


def ram(x, n, *, plus=False):
    base, deltas = x[0], x[1:] - x[0]
    changed = deltas.abs() > n["epsilon"]
    count = changed.sum(0)
    deltas, several = deltas * changed, count > 1
    alone = deltas * (count == 1)
    if plus:
        shared, single = (
            (changed & which).sum((1, 2), keepdim=True) for which in (several, ~several)
        )
        overlap = (shared / single.clamp(min=n["epsilon"])).clamp(0, n["alpha"])
        alone = alone * (1 + n["r"] * overlap)
    return base + (alone + deltas * several / count.clamp(min=1)).sum(0)


def sce(x, n):
    base, deltas = x[0], x[1:] - x[0]
    if n["select_topk"] < 1:
        spread = deltas.var(0, unbiased=False).flatten()
        count = int(torch.count_nonzero(spread) * n["select_topk"])
        mask = torch.zeros_like(spread)
        mask[spread.float().argsort(descending=True, stable=True)[:count]] = 1
        deltas = deltas * mask.reshape(base.shape)
    energy = deltas.square().flatten(1).mean(1)
    whole = energy.sum().item()
    alike = torch.ones_like(energy) / len(energy)
    weights = (alike if whole < 1e-6 else energy / whole)[:, None, None]
    sign = torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
    weights = weights * (deltas.sign() == sign)
    return base + (deltas * weights).sum(0) / weights.sum(0).clamp(min=1e-6)


def arcee_fusion(x, n):
    base, expert = x
    of, to = (torch.softmax(each, -1) + 1e-8 for each in (expert, base))
    divergence = (of * torch.log(of / to)).sum(-1, keepdim=True)
    matter = (expert - base).abs() * divergence
    places = (torch.tensor([0.25, 0.5, 0.75]) * (matter.numel() - 1)).long()
    low, median, high = matter.flatten().sort()[0][places]
    mask = (matter >= median + 1.5 * (high - low)).float()
    return base + (expert - base) * mask


def passthrough(x, n):
    return x[0] * n["scale"][0]


EACH = {"weight": (0.7, 0.45, 0.3), "density": (0.5, 0.7, 0.4)}
EACH |= {"gamma": (0.02, 0.1, 0.05), "epsilon": (0.1, 0.2, 0.15), "scale": (0.77,) * 3}
FIRST, SCALED, PLAIN = {"lambda": 0.3}, {"rescale": True}, {"rescale": False}
BAND = partial(added, keep=in_a_band)
DRAWN = partial(added, keep=drawn)
TRIMMED = partial(added, keep=by_magnitude, vote=True)
VOTED_BAND = partial(added, keep=in_a_band, vote=True)
VOTED = partial(added, keep=drawn, vote=True)
APART = {"normalize": True}
CASES = [  # method, parameters, experts, whether there is a base, what it does
    ("linear", APART, 3, False, linear),
    ("linear", {"normalize": False}, 2, False, linear),
    ("task_arithmetic", FIRST | {"normalize": False}, 3, True, added),
    ("task_arithmetic", FIRST | APART, 3, True, added),
    ("ties", FIRST | APART | PLAIN, 3, True, TRIMMED),
    ("ties", {"normalize": False} | SCALED, 3, True, TRIMMED),
    ("breadcrumbs", PLAIN, 3, True, BAND),
    ("breadcrumbs_ties", SCALED, 3, True, VOTED_BAND),
    ("dare_linear", SCALED, 3, True, DRAWN),
    ("dare_ties", SCALED, 3, True, VOTED),
    ("della", SCALED, 3, True, VOTED),
    ("della_linear", SCALED, 3, True, DRAWN),
    ("slerp", {"t": 0.35}, 1, True, slerp),
    ("nuslerp", {}, 2, True, nuslerp),
    ("nuslerp", {"nuslerp_flatten": False}, 2, True, nuslerp),
    ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}, 2, True, nuslerp),
    ("nuslerp", {}, 2, False, nuslerp),
    ("multislerp", {}, 3, True, multislerp),
    ("multislerp", {}, 3, False, partial(multislerp, based=False)),
    ("multislerp", {"normalize_weights": False}, 3, True, multislerp),
    ("karcher", {}, 3, False, karcher),
    ("model_stock", {}, 3, True, model_stock),
    ("model_stock", {"filter_wise": True}, 3, True, model_stock),
    ("nearswap", {"t": 0.02}, 1, True, nearswap),
    ("ram", {"epsilon": 0.01}, 3, True, ram),
    ("ramplus_tl", {"epsilon": 0.01}, 3, True, partial(ram, plus=True)),
    ("sce", {"select_topk": 0.3}, 3, True, sce),
    ("sce", {}, 3, True, sce),
    ("arcee_fusion", {}, 1, True, arcee_fusion),
    ("passthrough", {}, 1, False, passthrough),
]
TYPES = {
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
    torch.float16: np.dtype(np.float16),
}
FLOAT32 = ("arcee_fusion", "ramplus_tl")  # come out in it


def weights(experts, base):
    """As they are stored: near their base, or at different angles to each other."""
    draw = np.random.default_rng(3)
    first = draw.normal(size=(1, 24, 40))
    others = draw.normal(size=(experts, 24, 40))
    near = np.concatenate([first, first + 0.2 * others])
    apart = others.cumsum(0) * np.array([1, 1, -1])[:experts, None, None]
    rows = near if base else apart
    return (0.1 * rows).astype(np.float32)


def draws(x, numbers, key, dtype):
    """Which entries are kept, of deltas as they are rounded."""
    deltas = (x[1:].astype(dtype) - x[:1].astype(dtype)).astype(np.float32)
    density = jnp.asarray(numbers.each("density"))
    if "epsilon" in dict(numbers.own):
        epsilon = jnp.asarray(numbers.each("epsilon"))
        density = p.rank_density(jnp.asarray(deltas), density=density, epsilon=epsilon)
    key = jax.random.fold_in(key, 0)  # for the first link of a chain
    ones = jnp.ones(deltas.shape)
    return np.asarray(p.drop(ones, key=key, density=density, ids=ids(numbers)))


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize(
    ("method", "given", "experts", "base", "expected"),
    CASES,
    ids=[f"{name}-{i}" for i, (name, *_) in enumerate(CASES)],
)
def test_every_operation_is_rounded(method, given, experts, base, expected, kind):
    signature, dtype = MERGEKIT[method].signature, TYPES[kind]
    every = {n: given.get(n, s.default) for n, s in signature.items() if not s.own}
    own = {n: EACH[n][:experts] for n, s in signature.items() if s.own}
    names = tuple("abc"[:experts])
    numbers = Numbers(tuple(every.items()), tuple(own.items()), names)
    x, key = weights(experts, base), jax.random.key(5)
    n = {"rescale": False} | every | own
    if method.startswith(("dare", "della")):
        n["drawn"] = draws(x, numbers, key, dtype)
    want = expected(torch.tensor(x).to(kind), n).float().numpy()
    side = Side(np.zeros(x.shape[1:], np.float32), key)
    merge = jax.jit(rounding_stage(method, numbers, dtype, base=base))
    (got,) = np.asarray(merge(x, side))
    if method not in FLOAT32:
        np.testing.assert_array_equal(got, got.astype(dtype).astype(np.float32))
    # Sums in another order differ in float32, and seldom round to the neighbour.
    assert (got != want).mean() <= 0.02
    ulp = float(ml_dtypes.finfo(dtype).eps) * np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=2 * ulp)


def test_every_method_of_mergekit_is_tried():
    assert {name for name, *_ in CASES} == set(MERGEKIT)


@pytest.fixture
def models(tmp_path):
    return [save(tmp_path / n, tensors(s)) for s, n in enumerate(["base", "a", "b"])]


@pytest.mark.parametrize("method", ["ties", "dare_linear", "task_arithmetic"])
def test_float32_is_merged_as_ever(models, tmp_path, method):
    config = task_arithmetic(*models, merge_method=method, out_dtype="bfloat16")
    pipeline.run(config, tmp_path / "ours")
    pipeline.run(config, tmp_path / "theirs", arithmetic=pipeline.as_mergekit)
    theirs = read(tmp_path / "theirs")
    for name, want in read(tmp_path / "ours").items():
        np.testing.assert_array_equal(theirs[name], want)


def test_the_type_is_that_of_each_tensor_where_none_is_given(tmp_path):
    narrow = "model.layers.0.mlp.up_proj.weight"
    folders = []
    for seed, name in enumerate("xyz"):
        content = tensors(seed) | {narrow: tensors(seed)[narrow].astype(np.float16)}
        folders.append(save(tmp_path / name, content | {"steps": np.arange(3)}))
    config = task_arithmetic(*folders)
    plan = pipeline.plan(config, arithmetic=pipeline.as_mergekit)
    rules = {row.tensors.replace("*", "0"): row.rule for row in plan.rows}
    assert "all in float16" in rules.pop(narrow) and len(plan.rows) == len(SHAPES) + 1
    assert not any("all in" in rule for rule in rules.values())
    assert plan.bytes_read == pipeline.plan(config).bytes_read
    pipeline.run(config, tmp_path / "out", arithmetic=pipeline.as_mergekit)
    got, (base, *experts) = read(tmp_path / "out"), map(read, folders)
    half = [torch.tensor(e[narrow] - base[narrow]) * 0.5 for e in experts]
    want = torch.tensor(base[narrow]) + (half[0] + half[1])
    np.testing.assert_array_equal(got[narrow], want.numpy())
    assert got["steps"].tolist() == [0, 1, 2]


def test_a_type_that_is_not_settled_is_refused(models, tmp_path):
    half = {n: x.astype(np.float16) for n, x in tensors(4).items()}
    config = task_arithmetic(save(tmp_path / "half", half), *models)
    with pytest.raises(ConfigError, match="stored as float16 and float32: give the"):
        pipeline.plan(config, arithmetic=pipeline.as_mergekit)
    config["dtype"] = "float16"
    plan = pipeline.plan(config, arithmetic=pipeline.as_mergekit)
    assert all("all in float16" in row.rule for row in plan.rows)
    assert "arithmetic is float32" not in " ".join(plan.differences)


def test_methods_of_this_library_are_refused(models):
    config = task_arithmetic(*models, merge_method="tsv", dtype="bfloat16")
    with pytest.raises(ConfigError, match="mergekit has no 'tsv'"):
        pipeline.plan(config, arithmetic=pipeline.as_mergekit)
