import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import grid

from mda_jax import (
    Layout,
    Role,
    chain,
    is_matrix,
    merge,
    merge_by_name,
    primitives as p,
    sided,
    stage,
    survey,
    where,
    whole_model,
)
from mda_jax.engine._kernel import merge_chunk, surveyed
from mda_jax.methods import iso_c, linear, task_arithmetic


def by_largest(d):
    """Couples the entries of a weight, exactly."""
    return d / jnp.abs(d).max()


COUPLED = stage(by_largest)


def trees(k=2, seed=0, **shapes):
    shapes = shapes or {"w": (4, 6), "b": (6,)}

    def one(i):
        return {n: jnp.asarray(grid(seed + i, s)) for n, s in shapes.items()}

    return one(99), [one(i) for i in range(k)]


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_adds_the_rows_to_the_base():
    base, experts = trees(3)
    got = merge(base, experts, task_arithmetic(0.5))
    want = {n: w + sum(0.5 * (e[n] - w) for e in experts) for n, w in base.items()}
    equal(got, want)


def test_a_stacked_tree_is_a_list_of_trees():
    base, experts = trees(3)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *experts)
    equal(merge(base, stacked, COUPLED), merge(base, experts, COUPLED))
    equal(merge(base["w"], stacked["w"], COUPLED), merge(base, experts, COUPLED)["w"])


def test_lists_of_arrays_are_trees_too():
    base, experts = trees(2)
    want = merge(base, experts, linear())
    as_lists = [[e["w"], e["b"]] for e in experts]
    assert all(
        jnp.array_equal(x, want[n])
        for n, x in zip(
            "wb", merge([base["w"], base["b"]], as_lists, linear()), strict=True
        )
    )


def test_one_compilation_per_bucket():
    shapes = {f"w{i}": (3, 5) for i in range(9)} | {f"b{i}": (5,) for i in range(9)}
    base, experts = trees(2, **shapes)
    merge_chunk.clear_cache()
    merge(base, experts, task_arithmetic(0.1), batch=4)  # chunks of 3
    assert merge_chunk._cache_size() == 2
    merge(base, experts, task_arithmetic(0.2), batch=4)
    merge(base, experts[::-1], task_arithmetic(0.2), batch=4)
    assert merge_chunk._cache_size() == 2


def test_a_chunk_that_lacks_leaves_is_padded():
    shapes = {f"w{i}": (3, 5) for i in range(7)}
    base, experts = trees(2, **shapes)
    merge_chunk.clear_cache()
    got = merge(base, experts, linear(), batch=3)  # 3 + 3 + 1
    assert merge_chunk._cache_size() == 1
    equal(got, merge(base, experts, linear(), batch=7))


def test_flax_heads_and_plain_kernels_share_a_compilation():
    shapes = {"q/kernel": (8, 2, 4), "out/kernel": (2, 4, 8), "fc.weight": (8, 8)}
    base, experts = trees(2, **shapes)
    merge_chunk.clear_cache()
    merge(base, experts, linear())
    assert merge_chunk._cache_size() == 1


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_batch_bounds_memory_not_the_result(batch):
    shapes = {"s/ln/scale": (5, 8), "s/fc/kernel": (5, 6, 8), "fc/kernel": (6, 8)}
    base, experts = trees(3, **shapes)
    equal(merge(base, experts, COUPLED, batch=batch), merge(base, experts, COUPLED))


def test_batch_bounds_memory():
    shapes = {"s/norm/weight": (16, 8), "s/fc/weight": (16, 64, 64)}
    base, experts = trees(2, **shapes)
    quarter, whole = (
        jax.jit(merge, static_argnames="batch")
        .lower(base, experts, COUPLED, batch=batch)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for batch in (4, 16)
    )
    assert quarter < whole


def test_jit_vmap_and_grad():
    base, experts = trees(2)
    want = merge(base, experts, COUPLED)
    equal(jax.jit(merge)(base, experts, COUPLED), want)
    many = jax.tree.map(lambda x: jnp.stack([x, x]), experts)
    mapped = jax.vmap(lambda e: merge(base, e, COUPLED))(many)
    equal(jax.tree.map(lambda x: x[1], mapped), want)
    slope = jax.grad(lambda s: merge(base, experts, task_arithmetic(s))["b"].sum())(0.3)
    np.testing.assert_allclose(slope, sum((e["b"] - base["b"]).sum() for e in experts))


def test_vmap_sweeps_a_number():
    base, experts = {"w": jnp.zeros(3)}, [{"w": jnp.ones(3)}]
    scales = jnp.linspace(0, 1, 5)
    out = jax.vmap(lambda s: merge(base, experts, task_arithmetic(s)))(scales)
    np.testing.assert_allclose(out["w"][:, 0], scales)


def test_weights_held_as_constants_are_not_multiplied_while_compiling():
    base, experts = trees(w=(8, 12))

    def products(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().as_text().count(" dot(")

    passed = products(lambda *both: merge(*both, iso_c()), base, experts)
    assert products(lambda: merge(base, experts, iso_c())) == passed > 0


def test_arithmetic_is_float32_and_cast_once():
    base = {"w": jnp.full(3, 1.0, jnp.bfloat16)}
    experts = [{"w": jnp.full(3, 1.0 + 2**-10, jnp.float32)}] * 4
    got = merge(base, experts, chain())["w"]  # 1 + 4 * 2**-10 rounds to 1 in bfloat16
    assert got.dtype == jnp.bfloat16 and (got == 1).all()
    got = merge(base, experts * 2, chain())["w"]
    assert (got == 1 + 2**-7).all()  # summed in bfloat16 it would have stayed 1


def test_experts_may_be_of_other_float_types():
    base = {"w": jnp.ones(3, jnp.float32)}
    experts = [{"w": jnp.full(3, 2.0, t)} for t in (jnp.bfloat16, jnp.float16)]
    got = merge(base, experts, linear())["w"]
    assert got.dtype == jnp.float32 and (got == 2).all()


def test_float64_stays_float64():
    with jax.enable_x64(True):
        base, experts = {"w": jnp.ones(2, float)}, [{"w": jnp.full(2, 1 + 2**-40)}]
        assert (merge(base, experts, chain())["w"] == experts[0]["w"]).all()


def test_float64_needs_64_bits():
    with pytest.raises(ValueError, match=r"base\['w'\] is float64, but JAX"):
        merge({"w": np.ones(2)}, [{"w": np.ones(2)}], chain())


def test_what_cannot_be_averaged_is_the_base():
    base = {
        "step": jnp.int32(3),
        "mask": jnp.array([True]),
        "key": jax.random.key(0),
        "empty": jnp.zeros((0, 3)),
        "w": jnp.zeros(2),
    }
    other = base | {"step": jnp.int32(9), "mask": jnp.array([False]), "w": jnp.ones(2)}
    got = merge(base, [other], chain())
    assert all(got[n] is base[n] for n in ("step", "mask", "key", "empty"))
    assert (got["w"] == 1).all()


def test_numpy_trees_need_no_conversion():
    base, experts = trees(2)
    plain = jax.tree.map(np.asarray, (base, experts))
    equal(merge(*plain, COUPLED), merge(base, experts, COUPLED))


def test_nnx_states_come_back_as_they_are():
    def state(seed):
        return nnx.state(nnx.Linear(3, 4, rngs=nnx.Rngs(seed)))

    got = merge(state(0), [state(1), state(2)], linear())
    assert jax.tree.structure(got) == jax.tree.structure(state(0))
    want = (state(1)["kernel"][...] + state(2)["kernel"][...]) / 2
    np.testing.assert_allclose(got["kernel"][...], want, atol=1e-6)


def test_stages_see_the_canonical_view_the_role_and_the_base_as_stored():
    seen = []

    def spy(d, side):
        seen.append((d.shape, side.base.shape, side.base.dtype, side.role))
        return d

    shapes = {
        "q/kernel": (8, 2, 3),
        "conv/kernel": (3, 3, 2, 5),
        "wte/embedding": (9, 4),
    }
    base = {n: jnp.zeros(s, jnp.bfloat16) for n, s in shapes.items()}
    merge(base, [base] * 2, sided(spy))
    assert seen == [
        ((2, 5, 18), (5, 18), jnp.bfloat16, Role.CONV),
        ((2, 6, 8), (6, 8), jnp.bfloat16, Role.MATRIX),
        ((2, 9, 4), (9, 4), jnp.bfloat16, Role.EMBEDDING),
    ]


def test_where_chooses_by_role():
    rule = where(is_matrix, stage(p.scaled, by=0.0), chain())
    base = {"kernel": jnp.zeros((2, 3)), "embedding": jnp.zeros((2, 3))}
    out = merge(base, [jax.tree.map(jnp.ones_like, base)], rule)
    assert not out["kernel"].any() and out["embedding"].all()


def test_layout_rules_reach_the_stage():
    rule = where(is_matrix, stage(p.scaled, by=0.0), chain())
    base, expert = {"a": jnp.zeros((2, 3))}, {"a": jnp.ones((2, 3))}
    assert not merge(base, [expert], rule).get("a").any()
    assert merge(base, [expert], rule, layout={"a": Role.VECTOR})["a"].all()


def random_signs(d, side):
    return d * jax.random.rademacher(side.key, d.shape, d.dtype)


def test_keys_come_from_the_name_and_the_place_in_the_stack():
    base, _ = trees(1, **{"a": (50,), "b": (50,), "s/ln/scale": (3, 50)})
    stack = {"s/ln/scale": Layout(Role.VECTOR, (0,), (1,))}
    options = {"key": jax.random.key(0), "layout": stack}
    ones = [jax.tree.map(lambda x: x + 1, base)]
    got = merge(base, ones, sided(random_signs), **options)
    signs = jax.tree.map(lambda x, y: np.asarray(x - y), got, base)
    rows = [signs["a"], signs["b"], *signs["s/ln/scale"]]
    assert len({row.tobytes() for row in rows}) == 5
    alone = {"b": base["b"]}, [{"b": ones[0]["b"]}]
    equal(merge(*alone, sided(random_signs), key=options["key"])["b"], got["b"])


def test_stages_of_a_chain_draw_independently():
    twice = chain(*[sided(random_signs)] * 2)
    base, expert = {"w": jnp.zeros(10_000)}, {"w": jnp.ones(10_000)}
    got = merge(base, [expert], twice, key=jax.random.key(0))["w"]
    assert abs(float(got.mean())) < 5 / 10_000**0.5  # 5 sigma; one key would give 1


def weighed(d, side):
    return d * side.aux


def grams(d, side):
    return jnp.einsum("kmn,no->kmo", d, side.aux["gram"])


def test_aux_goes_with_its_leaf_in_the_same_view():
    fisher = jnp.asarray(grid(5, (2, 4, 6)))
    base, experts = trees(2, **{"fc/kernel": (4, 6), "fc/bias": (6,)})
    aux = {"fc/kernel": fisher, "fc/bias": jnp.ones((2, 6))}
    got = merge(base, experts, sided(weighed), aux=aux)["fc/kernel"]
    want = sum(
        f * (e["fc/kernel"] - base["fc/kernel"])
        for f, e in zip(fisher, experts, strict=True)
    )
    np.testing.assert_allclose(got, base["fc/kernel"] + want, atol=1e-5)


def test_aux_of_its_own_shape_passes_as_it_is():
    rule = where(is_matrix, sided(grams), chain())
    base, experts = trees(1, **{"fc.weight": (4, 6), "s/ln/scale": (3, 6)} | STACK)
    gram = jnp.asarray(grid(7, (6, 6)))
    aux = {"fc.weight": {"gram": gram}, "s/ln/scale": None}
    aux |= {"s/fc/kernel": {"gram": jnp.stack([gram] * 3)}}
    got = merge(base, experts, rule, aux=aux)
    delta = experts[0]["s/fc/kernel"] - base["s/fc/kernel"]
    want = base["s/fc/kernel"] + jnp.einsum("snm,no->som", delta, gram)
    np.testing.assert_allclose(got["s/fc/kernel"], want, atol=1e-5)


STACK = {"s/fc/kernel": (3, 6, 4)}


def squares(d):
    return {"squares": (d**2).sum(), "entries": d[0].size}


def above(d, found, *, times):
    """How many entries are larger than so many root mean squares."""
    squares, entries = (found[n].astype(d.dtype) for n in ("squares", "entries"))
    level = times * jnp.sqrt(squares / entries)
    return jnp.sum(jnp.abs(d) > level)


def norm_cut(found, count, *, by):
    size = jnp.sqrt(found["squares"])
    return stage(p.scaled, by=by * count.astype(size.dtype) / size)


def two_surveys(times=1.0, by=2.0):
    return whole_model(norm_cut, survey(squares), survey(above, times=times), by=by)


def rule_of_two_surveys(deltas, times=1.0, by=2.0):
    """The factor that `two_surveys` scales with."""
    rows = np.concatenate([np.asarray(d, np.float64).ravel() for d in deltas])
    level = times * np.sqrt((rows**2).sum() / (rows.size / len(deltas[0])))
    return by * (np.abs(rows) > level).sum() / np.linalg.norm(rows)


def whole(k=2):
    """A base, experts, and the deltas of the floating leaves."""
    shapes = {
        "fc/kernel": (4, 6),
        "b": (6,),
        "s/ln/scale": (3, 6),
        "s/k/kernel": (3, 4, 2),
    }
    base, experts = trees(k, **shapes)
    deltas = [np.stack([e[n] - base[n] for e in experts]) for n in shapes]
    base["step"] = jnp.int32(0)
    return base, [e | {"step": jnp.int32(1)} for e in experts], deltas


def test_a_whole_model_method_surveys_every_weight_first():
    base, experts, deltas = whole()
    got = merge(base, experts, two_surveys())
    factor = rule_of_two_surveys(deltas)
    want = base["b"] + factor * sum(e["b"] - base["b"] for e in experts)
    np.testing.assert_allclose(got["b"], want, rtol=1e-5)
    assert got["step"] == 0


def test_a_survey_is_compiled_once_per_shape():
    base, experts, _ = whole()
    merge(base, experts, two_surveys())
    before = surveyed._cache_size()
    merge(base, experts, two_surveys(times=2.0, by=0.5))
    assert surveyed._cache_size() == before
    more = {"again/b": base["b"], **base}
    merge(more, [{"again/b": e["b"], **e} for e in experts], two_surveys())
    assert surveyed._cache_size() == before


def test_surveys_are_traced_swept_and_differentiated():
    base, experts, _ = whole()

    def swept(times, by):
        return merge(base, experts, two_surveys(times, by))["b"]

    times, by = jnp.array([0.5, 1.0]), jnp.array([2.0, 3.0])
    many = jax.jit(jax.vmap(swept))(times, by)
    each = [swept(*pair) for pair in zip(times, by, strict=True)]
    np.testing.assert_allclose(many, jnp.stack(each), rtol=1e-5)
    slope = jax.grad(lambda by: swept(1.0, by).sum())(2.0)
    want = (swept(1.0, 3.0) - swept(1.0, 2.0)).sum()
    np.testing.assert_allclose(slope, want, rtol=1e-4)


def test_surveys_add_up_over_types():
    with jax.enable_x64(True):
        base = {"a": jnp.zeros(3), "b": jnp.zeros(2, jnp.float32)}
        expert = {"a": jnp.ones(3), "b": jnp.ones(2, jnp.float32)}
        got = merge(base, [expert], two_surveys(times=0.5, by=5**0.5))
    np.testing.assert_allclose(got["a"], 5, rtol=1e-6)
    np.testing.assert_allclose(got["b"], 5, rtol=1e-6)


def test_a_whole_model_method_needs_no_floating_weight():
    base = {"step": jnp.int32(3)}
    assert merge(base, [base], two_surveys()) == base


def test_a_whole_model_method_sees_the_weights_of_its_rule():
    base, experts, _ = whole()
    got = merge_by_name({"b": two_surveys(), ".*": chain()}, base, experts)
    alone = [{"b": t["b"]} for t in (base, *experts)]
    want = merge(alone[0], alone[1:], two_surveys())
    np.testing.assert_array_equal(got["b"], want["b"])


def test_rules_by_name():
    base = {"head": jnp.zeros(2), "body": {"w": jnp.zeros(2)}, "step": jnp.int32(0)}
    expert = jax.tree.map(jnp.ones_like, base)
    keep = stage(p.scaled, by=0.0)
    out = merge_by_name({"head": keep, ".*w|head": chain()}, base, [expert])
    assert not out["head"].any() and out["body"]["w"].all() and out["step"] == 0


def test_rules_by_name_infer_layouts_from_the_whole_tree():
    shapes = {"attn/c_attn/weight": (4, 12), "attn/c_proj/weight": (4, 4)}
    seen = []

    def spy(d, side):
        seen.append(side.base)
        return d

    base, experts = trees(1, **shapes)
    merge_by_name({".*proj.*": sided(spy), ".*": chain()}, base, experts)
    assert len(seen) == 1
    base = {n: x.at[0, 1].set(7.0) for n, x in base.items()}
    rule = {".*proj.*": stage(first_row), ".*": chain()}
    got = merge_by_name(rule, base, [jax.tree.map(lambda x: x + 1, base)])
    changed = (got["attn/c_proj/weight"] != base["attn/c_proj/weight"]).tolist()
    assert changed == [[True, False, False, False]] * 4  # a column: stored [in, out]


def first_row(d):
    return d.at[:, 1:].set(0)


ZEROS = {"w": jnp.zeros(3), "b": jnp.zeros(2)}
STACKED = {"s/ln/scale": jnp.zeros((3, 4)), "s/k/kernel": jnp.zeros((3, 5, 4))}


@pytest.mark.parametrize(
    "base, experts, options, text",
    [
        ({}, [{}], {}, "base has no leaves"),
        (ZEROS, [], {}, "`experts` is empty"),
        (ZEROS, [{"w": 1, "x": 2}], {}, r"experts\[0\] lacks \['b'\].*unknown \['x'\]"),
        (ZEROS, [ZEROS | {"w": jnp.zeros(4)}], {}, r"\['w'\] has shape \(4,\), base"),
        (ZEROS, [ZEROS | {"w": jnp.zeros(3, int)}], {}, r"\['w'\] is int32, base is"),
        (ZEROS, ZEROS, {}, r"experts\['b'\] has shape \(2,\), base has \(2, 2\)"),
        (jnp.zeros(()), jnp.zeros(()), {}, r"leaves of a stacked tree are \[k, "),
        (ZEROS, jnp.zeros((2, 3)), {}, r"experts lacks \['b', 'w'\]"),
        ({"f": jnp.tanh}, [{"f": jnp.tanh}], {}, r"base\['f'\] is a .*, not an array"),
        ({"c": jnp.zeros(1, complex)}, [], {}, "is complex64; merges are real"),
        (ZEROS, [ZEROS], {"batch": 0}, r"batch=0\): batch is at least 1"),
        (ZEROS, [ZEROS], {"key": jax.random.PRNGKey(0)}, "pass one typed key"),
        (ZEROS, [ZEROS], {"aux": {"w": 1}}, "aux has not the structure of base"),
        (ZEROS, [ZEROS], {"layout": {"v": Role.VECTOR}}, "rule 'v' matches no weight"),
        (
            STACKED,
            [STACKED],
            {"aux": dict.fromkeys(STACKED, jnp.zeros((2, 2)))},
            r"aux of 's/k/kernel' has shape \(2, 2\); the leaf is a stack of 3",
        ),
    ],
)
def test_errors_name_the_offender(base, experts, options, text):
    before = merge_chunk._cache_size()
    with pytest.raises(ValueError, match=text):
        merge(base, experts, chain(), **options)
    assert merge_chunk._cache_size() == before


def test_errors_of_rules_by_name():
    base = {"head": jnp.zeros(2), "body": {"w": jnp.zeros(2)}}
    with pytest.raises(ValueError, match=r"no rule of \['head'\] matches 'body/w'"):
        merge_by_name({"head": chain()}, base, [base])
    with pytest.raises(ValueError, match=r"rule 'haed' matches no weight.*'head'"):
        merge_by_name({"haed": chain(), ".*": chain()}, base, [base])


def flattened(d, side):
    return d.reshape(len(d), -1)


def test_a_stage_must_return_rows():
    with pytest.raises(ValueError, match=r"stage returned an array of shape \(1, 6\)"):
        merge({"w": jnp.zeros((2, 3))}, [{"w": jnp.ones((2, 3))}], sided(flattened))
