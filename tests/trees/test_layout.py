"""Inference from names and shapes, and the views that follow from it."""

import ast
from pathlib import Path

import jax
import numpy as np
import pytest

from mda_jax import Layout, Role, trees


def sections():
    """`{model: [(torch name, shape, flax name, shape, permutation or None)]}`."""
    found, rows = {}, []
    for line in (Path(__file__).parent / "pairs.txt").read_text().splitlines():
        if line.startswith("["):
            rows = found[line.strip("[]")] = []
        elif not line.startswith("#"):
            torch, t_shape, flax, f_shape, transform = line.split(" | ")
            order = None
            if transform != "identity":
                order = ast.literal_eval(transform.split(" ")[1])
            shapes = ast.literal_eval(t_shape), ast.literal_eval(f_shape)
            rows.append((torch, shapes[0], flax, shapes[1], order))
    return found


PAIRS = sections()


@pytest.mark.parametrize("model", PAIRS)
def test_pytorch_and_flax_show_the_same_view(model):
    rng = np.random.default_rng(0)
    torch, flax = {}, {}
    for t_name, t_shape, f_name, f_shape, order in PAIRS[model]:
        x = torch[t_name] = rng.normal(size=t_shape).astype(np.float32)
        flax[f_name] = (x if order is None else x.transpose(order)).reshape(f_shape)
    t_plan, f_plan = trees.layouts(torch), trees.layouts(flax)
    for t_name, _, f_name, _, _ in PAIRS[model]:
        t_layout, f_layout = t_plan[t_name], f_plan[f_name]
        assert t_layout.role is f_layout.role, t_name
        seen = trees.view(flax[f_name], f_layout)
        np.testing.assert_array_equal(trees.view(torch[t_name], t_layout), seen)
        back = trees.unview(seen, f_layout, flax[f_name].shape)
        np.testing.assert_array_equal(back, flax[f_name])


ROLES = {
    Role.MATRIX: [
        ("layers.0.q_proj.weight", (8, 4)),
        ("attn.in_proj_weight", (12, 4)),
        ("visual.proj", (8, 6)),
        ("text_projection", (8, 6)),
        ("Transformer/MlpBlock_0/Dense_0/kernel", (4, 8)),
        ("lm_head.dense.weight", (8, 8)),
        ("score.weight", (1, 8)),
        ("moe.gate.weight", (4, 8)),
    ],
    Role.CONV: [
        ("patch_embed.proj.weight", (8, 3, 4, 4)),
        ("embedding/kernel", (4, 4, 3, 8)),
        ("encoder/conv1/kernel", (3, 4, 8)),
        ("encoder.conv1.weight", (8, 4, 3)),
    ],
    Role.EMBEDDING: [
        ("model.embed_tokens.weight", (60, 8)),
        ("wte.weight", (60, 8)),
        ("wte/embedding", (60, 8)),
        ("embeddings.word_embeddings.weight", (60, 8)),
        ("embeddings.tok_embeddings.weight", (60, 8)),
        ("embeddings.token_type_embeddings.weight", (2, 8)),
        ("token_embedder/embedding", (60, 8)),
        ("shared.weight", (60, 8)),
        ("gpt_neox.embed_in.weight", (60, 8)),
        ("lm_head.weight", (60, 8)),
        ("cls.predictions.decoder.weight", (60, 8)),
        ("SelfAttention.relative_attention_bias.weight", (32, 4)),
        ("attn.relative_position_bias_table", (169, 4)),
        ("attn.rel_pos_h", (27, 8)),
    ],
    Role.POSITION: [
        ("embeddings.position_embeddings.weight", (40, 8)),
        ("embeddings.position_embedding.weight", (17, 8)),
        ("vit.embeddings.position_embeddings", (1, 17, 8)),
        ("pos_embed", (1, 17, 8)),
        ("encoder.pos_embedding", (1, 17, 8)),
        ("visual.positional_embedding", (17, 8)),
        ("transformer.wpe.weight", (40, 8)),
        ("wpe/embedding", (40, 8)),
        ("decoder.embed_positions.weight", (40, 8)),
    ],
    Role.VECTOR: [
        ("norm.weight", (8,)),
        ("ln_1/scale", (8,)),
        ("self_attn.q_norm.weight", (4, 8)),
        ("attn/query/bias", (4, 2)),
        ("cls_token", (1, 1, 8)),
        ("visual.class_embedding", (8,)),
        ("embeddings.mask_token", (1, 8)),
        ("features.1.0.layer_scale", (8, 1, 1)),
        ("head.probe", (1, 1, 8)),
        ("register_tokens", (4, 8)),
        ("grn.weight", (1, 1, 1, 8)),
    ],
    Role.SCALAR: [("logit_scale", ())],
    Role.BUFFER: [
        ("bn1.running_mean", (8,)),
        ("bn1.running_var", (8,)),
        ("batch_stats/bn/mean", (8,)),
        ("bn/var", (8,)),
    ],
}
CASES = [(role, *case) for role, cases in ROLES.items() for case in cases]


@pytest.mark.parametrize("role, name, shape", CASES, ids=[c[1] for c in CASES])
def test_role(role, name, shape):
    leaf = jax.ShapeDtypeStruct(shape, "float32")
    layout = trees.layouts({name: leaf})[name]
    assert layout.role is role and not layout.stack


@pytest.mark.parametrize("dtype", ["int32", "bool", jax.dtypes.prng_key])
def test_what_is_not_floating_is_a_buffer(dtype):
    leaf = jax.random.key(0) if not isinstance(dtype, str) else np.zeros((2, 3), dtype)
    assert trees.layouts({"kernel": leaf})["kernel"].role is Role.BUFFER


def out_axes(**shapes):
    leaves = {
        name.replace("__", "/"): jax.ShapeDtypeStruct(shape, "float32")
        for name, shape in shapes.items()
    }
    return [x.out for x in trees.layouts(leaves).values() if x.role is Role.MATRIX]


def test_gpt2_keeps_in_out_even_where_it_is_square():
    attn = {"attn__c_attn__weight": (8, 24), "attn__c_proj__weight": (8, 8)}
    assert out_axes(**attn) == [(1,), (1,)]
    hf_flax = {"attn__c_attn__kernel": (24, 8), "attn__c_proj__kernel": (8, 8)}
    assert out_axes(**hf_flax) == [(0,), (0,)]
    open_clip = {"attn__in_proj_weight": (24, 8), "mlp__c_proj__weight": (8, 8)}
    assert out_axes(**open_clip) == [(0,), (0,)]


def test_the_bias_decides_which_axis_is_out():
    assert out_axes(fc__weight=(4, 6), fc__bias=(6,)) == [(1,)]
    assert out_axes(fc__kernel=(4, 6), fc__bias=(4,)) == [(0,)]
    assert out_axes(fc__w=(4, 6), fc__b=(6,)) == [(1,)]
    assert out_axes(attn__in_proj_weight=(12, 4), attn__in_proj_bias=(12,)) == [(0,)]


def test_stacked_experts():
    mixtral = {"experts__gate_up_proj": (5, 12, 8), "experts__down_proj": (5, 8, 6)}
    assert out_axes(**mixtral) == [(1,), (1,)]
    llama4 = {"experts__gate_up_proj": (5, 8, 12), "experts__down_proj": (5, 6, 8)}
    assert out_axes(**llama4) == [(2,), (2,)]
    square = {"experts__gate_up_proj": (5, 8, 16), "experts__down_proj": (5, 8, 8)}
    assert out_axes(**square) == [(2,), (2,)]
    leaves = {
        "moe/experts/wi/kernel": np.zeros((5, 8, 6), np.float32),
        "mlp.experts.gate_up_proj_bias": np.zeros((5, 12), np.float32),
        "mlp.experts.0.w1.weight": np.zeros((6, 8), np.float32),
    }
    kernel, bias, single = trees.layouts(leaves).values()
    assert kernel == Layout(Role.MATRIX, (0,), (2,), (1,))
    assert bias == Layout(Role.VECTOR, (0,), (1,))
    assert single == Layout(Role.MATRIX, (), (0,), (1,))


def scanned(**more):
    shapes = {
        "embed/embedding": (20, 8),
        "layers/attn/query/kernel": (3, 8, 4, 2),
        "layers/attn/query/bias": (3, 4, 2),
        "layers/attn/out/kernel": (3, 4, 2, 8),
        "layers/ln/scale": (3, 8),
        "layers/gain": (3,),
        "layers/mlp/kernel": (3, 8, 16),
        "final_ln/scale": (8,),
    }
    return {n: np.zeros(s, np.float32) for n, s in (shapes | more).items()}


def test_scanned_layers_are_a_stack():
    plan = trees.layouts(scanned())
    stacked = [name for name, layout in plan.items() if layout.stack]
    assert stacked == [name for name in plan if name.startswith("layers/")]
    assert plan["layers/attn/query/kernel"] == Layout(Role.MATRIX, (0,), (2, 3), (1,))
    assert plan["layers/attn/out/kernel"] == Layout(Role.MATRIX, (0,), (3,), (1, 2))
    assert plan["layers/mlp/kernel"] == Layout(Role.MATRIX, (0,), (2,), (1,))
    assert plan["layers/ln/scale"] == Layout(Role.VECTOR, (0,), (1,))
    assert plan["layers/gain"] == Layout(Role.SCALAR, (0,))


def test_a_bias_gives_a_stack_without_norms_away():
    shapes = {"mlp/kernel": (3, 8, 16), "mlp/bias": (3, 16)}
    plan = trees.layouts({n: np.zeros(s, np.float32) for n, s in shapes.items()})
    assert plan["mlp/kernel"] == Layout(Role.MATRIX, (0,), (2,), (1,))
    assert plan["mlp/bias"] == Layout(Role.VECTOR, (0,), (1,))


def test_a_container_of_unequal_lengths_is_no_stack():
    plan = trees.layouts(scanned(**{"layers/odd": (5,)}))
    assert not any(layout.stack for layout in plan.values())


def test_scanned_experts_have_two_stack_axes():
    more = {"layers/experts/wi/kernel": (3, 5, 8, 6)}
    layout = trees.layouts(scanned(**more))["layers/experts/wi/kernel"]
    assert layout == Layout(Role.MATRIX, (0, 1), (3,), (2,))


def test_rules_override_and_the_first_match_wins():
    leaves = scanned()
    rules = {
        ".*mlp/kernel": Layout(Role.MATRIX, (1,), (0,), (2,)),
        ".*kernel": Role.VECTOR,
        "embed/.*": Role.MATRIX,
        "final_ln/scale": Role.BUFFER,
    }
    plan = trees.layouts(leaves, rules)
    assert plan["layers/mlp/kernel"].stack == (1,)
    assert plan["layers/attn/query/kernel"] == Layout(Role.VECTOR, (0,), (1, 2, 3))
    assert plan["embed/embedding"] == Layout(Role.MATRIX, (), (0,), (1,))
    assert plan["final_ln/scale"].role is Role.BUFFER
    assert plan["layers/ln/scale"] == trees.layouts(leaves)["layers/ln/scale"]


@pytest.mark.parametrize(
    "rules, text",
    [
        ({"layers/mpl/kernel": Role.VECTOR}, r"matches no weight.*layers/mlp/kernel"),
        ({"embed/.*": Layout(Role.MATRIX, out=(0,))}, r"names the axes \(0,\); the"),
        ({".*gain|.*scale": Role.MATRIX}, r"'layers/ln/scale' makes it a matrix"),
    ],
)
def test_rules_that_do_not_fit_are_errors(rules, text):
    with pytest.raises(ValueError, match=text):
        trees.layouts(scanned(), rules)


def test_integers_stay_buffers_whatever_the_rules_say():
    leaves = {"step": np.zeros((2, 2), np.int32), "w": np.zeros((2, 2), np.float32)}
    plan = trees.layouts(leaves, {".*": Role.MATRIX})
    assert [layout.role for layout in plan.values()] == [Role.BUFFER, Role.MATRIX]


def test_every_2d_is_the_rule_of_two_axes():
    leaves = scanned(conv=(2, 2), step=(1, 17, 8), pos_embed=(17, 8))
    leaves |= {"conv/kernel": np.zeros((3, 3, 2, 8), np.float32)}
    roles = {n: x.role for n, x in trees.layouts(leaves, trees.every_2d).items()}
    vectors = [n for n, role in roles.items() if role is Role.VECTOR]
    assert vectors == [
        "layers/attn/query/bias",
        "layers/ln/scale",
        "final_ln/scale",
        "step",
        "conv/kernel",
    ]
    assert roles["layers/gain"] is Role.SCALAR
    assert set(roles.values()) == {Role.VECTOR, Role.SCALAR, Role.MATRIX}


def test_a_view_carries_leading_axes_along():
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    layout = Layout(Role.MATRIX, stack=(0,), out=(2,), into=(1,))
    seen = trees.view(x, layout)
    assert seen.shape == (3, 2, 5, 4)
    np.testing.assert_array_equal(seen[1, 0], x[0, 1].T)


def test_canonical_leaves_are_recognised():
    matrix = Layout(Role.MATRIX, out=(0,), into=(1,))
    assert trees.is_canonical((2, 3), matrix)
    assert not trees.is_canonical((2, 3), matrix._replace(out=(1,), into=(0,)))
    assert not trees.is_canonical((2, 3), Layout(Role.VECTOR, out=(0, 1)))
    assert not trees.is_canonical((2, 3), Layout(Role.VECTOR, stack=(0,), out=(1,)))
