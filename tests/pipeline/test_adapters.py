"""A model with a LoRA adapter is the model that has the adapter merged in."""

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from folders import read, save, task_arithmetic, tensors
from samples import assert_same

from mda_jax import pipeline
from mda_jax.converters.formats import FormatError, open_tensors, write_file
from mda_jax.pipeline import MergeError, adapters
from mda_jax.pipeline.adapters import open_model
from mda_jax.pipeline.lora import read_lora
from mda_jax.pipeline.references import Located


GOLDEN = Path(__file__).parent / "golden/peft"
PREFIX = "base_model.model."
QUERY = "model.layers.0.self_attn.q_proj"
UP = "model.layers.0.mlp.up_proj"
TABLE = "model.embed_tokens"
CONFIG = {
    "peft_type": "LORA",
    "r": 3,
    "lora_alpha": 6,
    "target_modules": ["q_proj", "up_proj"],
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "init_lora_weights": True,
    "lora_dropout": 0.05,
    "task_type": "CAUSAL_LM",
    "of_a_later_version": None,
}


def drawn(shape, seed=0, dtype=np.float32):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def factors(module, rank, columns, rows, seed=0):
    """The factors of a linear layer, as PEFT names and lays them out."""
    return {
        f"{PREFIX}{module}.lora_A.weight": drawn((rank, columns), seed),
        f"{PREFIX}{module}.lora_B.weight": drawn((rows, rank), seed),
    }


def save_adapter(path, content, **config):
    path.mkdir()
    write_file(path / "adapter_model.safetensors", content)
    (path / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return path


def adapted(folder, adapter):
    return open_model(Located(folder, adapter))


def assert_changed(model, name, change):
    """The tensor is the file's and a change known in float64, up to its roundings.

    A sum of r products, the scale and the last sum: r + 3 roundings of the largest.
    """
    base = open_tensors(model.files[0])[name].astype(np.float64)
    got, want = model[name], base + change
    assert got.dtype == model.spec(name).dtype and got.shape == want.shape
    assert not got.flags.writeable
    size = max(1.0, np.abs(want).max(), np.abs(change).max())
    bound = 64 * np.finfo(got.dtype).eps * size
    assert np.abs(got - want).max() <= bound


@pytest.fixture
def base(tmp_path):
    return save(tmp_path / "base", tensors(0))


@pytest.fixture
def lora(tmp_path):
    """An adapter of two modules."""
    content = factors(QUERY, 3, 8, 8) | factors(UP, 3, 8, 16, seed=1)
    return save_adapter(tmp_path / "lora", content)


def product(content, module, scale):
    up, down = (
        content[f"{PREFIX}{module}.lora_{side}.weight"].astype(np.float64)
        for side in "BA"
    )
    return scale * up @ down


def test_adapted_tensors_and_no_others_change(base, lora):
    model, content = adapted(base, lora), read(lora)
    assert_changed(model, f"{QUERY}.weight", product(content, QUERY, 2.0))
    assert_changed(model, f"{UP}.weight", product(content, UP, 2.0))
    rest = read(base).keys() - {f"{QUERY}.weight", f"{UP}.weight"}
    assert_same({n: model[n] for n in rest}, {n: read(base)[n] for n in rest})


def test_it_looks_like_an_opened_checkpoint(base, lora):
    model, plain = adapted(base, lora), open_tensors(base)
    assert list(model) == list(plain) and len(model) == len(plain)
    assert str(model.path) == f"{base}+{lora}" and model.metadata == plain.metadata
    assert [file.name for file in model.files] == [
        "model.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
    ]
    assert all(model.spec(n) == (model[n].shape, model[n].dtype) for n in model)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"lora_alpha": 0.75}, 0.25),
        ({"use_rslora": True}, 6 / 3**0.5),
        ({"alpha_pattern": {"q_proj": 12}}, 4.0),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 12, "q_proj": 3}}, 4.0),
        ({"alpha_pattern": {r"model\.layers\.\d+\.self_attn\.q_proj": 12}}, 4.0),
        ({"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 12}}, 4.0),
        ({"alpha_pattern": {"^q_proj": 12, "proj": 12, "up_proj|k_proj": 12}}, 2.0),
        ({"alpha_pattern": {"up_proj|q_proj": 12}, "use_rslora": True}, 12 / 3**0.5),
        ({"r": 5, "rank_pattern": {"self_attn.q_proj": 3}}, 2.0),
        ({"rank_pattern": {"q_proj": 3}, "use_rslora": True, "r": 9}, 6 / 3**0.5),
    ],
)
def test_the_strength_of_a_change(base, tmp_path, config, scale):
    content = factors(QUERY, 3, 8, 8)
    model = adapted(base, save_adapter(tmp_path / "lora", content, **config))
    assert_changed(model, f"{QUERY}.weight", product(content, QUERY, scale))


@pytest.mark.parametrize("columns", [8, 5])
def test_weights_stored_as_in_by_out(tmp_path, columns):
    """As GPT-2 has them."""
    base = save(tmp_path / "base", {"h.0.c_attn.weight": drawn((8, columns), 3)})
    content = factors("h.0.c_attn", 3, 8, columns)
    lora = save_adapter(tmp_path / "lora", content, fan_in_fan_out=True)
    change = product(content, "h.0.c_attn", 2.0).T
    assert_changed(adapted(base, lora), "h.0.c_attn.weight", change)


@pytest.mark.parametrize("suffix", ["", ".default"])
def test_embeddings(base, tmp_path, suffix):
    down, up = drawn((3, 12)), drawn((8, 3))
    content = {
        f"{PREFIX}{TABLE}.lora_embedding_A{suffix}": down,
        f"{PREFIX}{TABLE}.lora_embedding_B{suffix}": up,
    }
    model = adapted(base, save_adapter(tmp_path / "lora", content))
    change = 2.0 * (up.astype(np.float64) @ down).T
    assert_changed(model, f"{TABLE}.weight", change)


@pytest.mark.parametrize("kernel", [(3,), (1, 1), (3, 2), (2, 3, 2)])
def test_convolutions(tmp_path, kernel):
    """Two convolutions, one after the other, are one."""
    base = save(tmp_path / "base", {"conv.weight": drawn((4, 5, *kernel), 1)})
    down, up = drawn((3, 5, *kernel)), drawn((4, 3, *(1,) * len(kernel)))
    content = {
        f"{PREFIX}conv.lora_A.weight": down,
        f"{PREFIX}conv.lora_B.weight": up,
    }
    options = {"fan_in_fan_out": True}  # which is about matrices
    model = adapted(base, save_adapter(tmp_path / "lora", content, **options))
    x = torch.from_numpy(drawn((2, 5, *(4,) * len(kernel)), 2)).double()
    convolve = getattr(torch.nn.functional, f"conv{len(kernel)}d")
    first = convolve(x, torch.from_numpy(down).double())
    want = 2.0 * convolve(first, torch.from_numpy(up).double())
    change = (model["conv.weight"] - read(base)["conv.weight"]).astype(np.float64)
    got = convolve(x, torch.from_numpy(change))
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_modules_to_save_and_biases_replace(tmp_path):
    names = "score.dense.weight score.out.bias", "q_proj.weight q_proj.bias k_proj.bias"
    content = {name: drawn((4, 4), i) for i, name in enumerate(" ".join(names).split())}
    content |= {n: drawn((4,), i) for i, n in enumerate(content) if n.endswith("bias")}
    base = save(tmp_path / "base", content)
    brought = {
        f"{PREFIX}score.dense.weight": drawn((4, 4), 7),
        f"{PREFIX}score.modules_to_save.default.out.bias": drawn((4,), 8),
        f"{PREFIX}q_proj.base_layer.bias": drawn((4,), 9),
        f"{PREFIX}k_proj.bias": drawn((4,), 10),
        f"{PREFIX}q_proj.base_layer.weight": drawn((4, 4), 11),
    }
    product_of_q = factors("q_proj", 3, 4, 4)
    options = {"modules_to_save": ["score", "classifier"], "bias": "all"}
    lora = save_adapter(tmp_path / "lora", brought | product_of_q, **options)
    model = adapted(base, lora)
    for name, given in zip(
        ["score.dense.weight", "score.out.bias", "q_proj.bias", "k_proj.bias"],
        brought.values(),
        strict=False,
    ):
        np.testing.assert_array_equal(model[name], given)
    change = product(product_of_q, "q_proj", 2.0)
    instead = brought[f"{PREFIX}q_proj.base_layer.weight"] - content["q_proj.weight"]
    assert_changed(model, "q_proj.weight", change + instead)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_nothing_is_rounded_to_the_type_of_the_files(tmp_path, dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    base = save(tmp_path / "base", tensors(0, kind))
    content = {n: a * 1e-4 for n, a in factors(QUERY, 3, 8, 8).items()}
    model = adapted(base, save_adapter(tmp_path / "lora", content))
    exact = np.dtype("float64" if dtype == "float64" else "float32")
    assert model[f"{QUERY}.weight"].dtype == exact
    assert_changed(model, f"{QUERY}.weight", product(content, QUERY, 2.0))
    assert model[f"{UP}.weight"].dtype == kind


@pytest.mark.parametrize("block", [1, 60, 800, 1 << 18])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_part_has_the_bits_of_the_whole(tmp_path, monkeypatch, block, transposed):
    """Of a size at which rows of a product depend on how many are asked for."""
    monkeypatch.setattr(adapters, "_BLOCK", block)
    base = save(tmp_path / "base", {"x.weight": drawn((64, 50), 1)})
    content = factors("x", 300, *((64, 50) if transposed else (50, 64)))
    options = {"fan_in_fan_out": transposed, "r": 300}
    model = adapted(base, save_adapter(tmp_path / "lora", content, **options))
    whole = model["x.weight"].reshape(-1)
    change = product(content, "x", 6 / 300)
    assert_changed(model, "x.weight", change.T if transposed else change)
    for start in range(0, 3200, 270):
        for stop in (start, start + 1, start + 330, 3199, 3200, 3300):
            got = model.entries("x.weight", slice(start, stop))
            np.testing.assert_array_equal(got, whole[start:stop])


# ---- merges ----


def materialised(path, folder, adapter):
    """The model's folder, written with the adapter merged in."""
    model = adapted(folder, adapter)
    return save(path, {name: np.array(model[name]) for name in model})


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "linear", "iso_c"])
def test_merging_is_merging_the_materialised_model(base, lora, tmp_path, method):
    other = save_adapter(tmp_path / "other", factors(UP, 3, 8, 16, seed=5))
    plain = [materialised(tmp_path / f"m{x.name}", base, x) for x in (lora, other)]
    common = {"merge_method": method, "parameters": {"weight": 0.3}}
    both = [f"{base}+{x}" for x in (lora, other)]
    got = pipeline.run(task_arithmetic(base, *both, **common), tmp_path / "got")
    pipeline.run(task_arithmetic(base, *plain, **common), tmp_path / "want")
    assert_same(read(tmp_path / "got"), read(tmp_path / "want"))
    assert not got.warnings


def test_an_adapted_base(base, lora, tmp_path):
    """Also what differs from it is measured against the adapted weights."""
    plain = materialised(tmp_path / "plain", base, lora)
    for name, start in {"got": f"{base}+{lora}", "want": plain}.items():
        pipeline.run(task_arithmetic(start, base), tmp_path / name)
    assert_same(read(tmp_path / "got"), read(tmp_path / "want"))
    first, second = (
        json.loads((tmp_path / name / "merge_manifest.json").read_text())["tensors"]
        for name in ("got", "want")
    )
    assert first == second
    assert (tmp_path / "got" / "config.json").read_bytes() == (
        base / "config.json"
    ).read_bytes()


def test_the_plan_of_a_merge(base, lora):
    found = pipeline.plan(task_arithmetic(base, f"{base}+{lora}"))
    assert any("adapters are added in float32" in line for line in found.differences)
    assert {row.read for row in found.rows} == {"float32"}
    alone = pipeline.plan({"merge_method": "passthrough", "models": [str(base)]})
    assert not any("adapters" in line for line in alone.differences)


def test_a_model_with_its_adapter_becomes_a_folder(tmp_path):
    """In the model's own type, rounded once."""
    base = save(tmp_path / "base", tensors(0, ml_dtypes.bfloat16))
    lora = save_adapter(tmp_path / "lora", factors(QUERY, 3, 8, 8))
    config = {"merge_method": "passthrough", "models": [f"{base}+{lora}"]}
    report = pipeline.run(config, tmp_path / "out")
    model, out = adapted(base, lora), read(tmp_path / "out")
    for name in model:
        np.testing.assert_array_equal(out[name], model[name].astype(ml_dtypes.bfloat16))
        assert out[name].dtype == ml_dtypes.bfloat16
    assert report.files and (tmp_path / "out" / "config.json").is_file()
    assert {row.read for row in pipeline.plan(config).rows} == {"bfloat16"}


def test_small_changes_of_a_16_bit_base_are_not_lost(tmp_path):
    """Two adapters of a base in bfloat16, each too small for its grid."""
    base = save(tmp_path / "base", tensors(0, ml_dtypes.bfloat16))
    one, two = (
        save_adapter(
            tmp_path / f"lora{seed}",
            {n: 1e-3 * a for n, a in factors(QUERY, 3, 8, 8, seed).items()},
        )
        for seed in (1, 2)
    )
    config = task_arithmetic(f"{base}+{one}", f"{base}+{two}", out_dtype="float32")
    pipeline.run(config, tmp_path / "out")
    name = f"{QUERY}.weight"
    got = read(tmp_path / "out")[name] - read(base)[name].astype(np.float32)
    want = sum(0.5 * product(read(each), QUERY, 2.0) for each in (one, two))
    assert np.abs(got - want).max() <= 4 * np.finfo(np.float32).eps * 4
    assert np.abs(want).max() > 1e-6


def test_manifest_and_report_tell_adapters_apart(base, lora, tmp_path):
    other = save_adapter(tmp_path / "other", factors(UP, 3, 8, 16, seed=5))
    held = dict(read(base), **{"model.rotary_emb.inv_freq": drawn((4,))})
    second = save(tmp_path / "second", held)
    models = [f"{second}+{lora}", f"{second}+{other}"]
    report = pipeline.run(task_arithmetic(base, *models), tmp_path / "out")
    assert list(report.dropped) == models
    manifest = json.loads((tmp_path / "out" / "merge_manifest.json").read_text())
    assert manifest["inputs"].keys() == {str(base), *models}
    files = manifest["inputs"][models[0]]
    assert files.keys() == {
        "model.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    assert all(
        any(key.endswith("sha256") and len(digest) == 64 for key, digest in of.items())
        for of in files.values()
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"- {models[0]}\n- {models[1]}\n" in card


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_only_with_the_same_adapter_a_merge_is_resumed(base, lora, tmp_path, file):
    config, small = task_arithmetic(base, f"{base}+{lora}"), {"shard_size": 700}

    def stop(done, total):
        if done > 0.7 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config, tmp_path / "out", **small, watch=stop)
    stamp = (lora / file).stat()
    os.utime(lora / file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    with pytest.raises(pipeline.ConfigError, match="unfinished merge of another"):
        pipeline.run(config, tmp_path / "out", **small, resume=True)
    os.utime(lora / file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    pipeline.run(config, tmp_path / "out", **small, resume=True)


@pytest.mark.parametrize("case", ["cat", "cat_rslora"])
def test_adapters_of_peft_itself(tmp_path, case):
    """Factors and scales as PEFT 0.21.2 had them, and their exact weighted sum.

    Also its own concatenated adapter, where that is right: with rank-stabilised
    scales its strength is too great by the root of the rank.
    """
    with np.load(GOLDEN / f"{case}.npz") as file:
        held = {name: file[name] for name in file}
    modules = {name: n for n in ("fc1", "fc2", "sq") for name in [f"base/{n}.weight"]}
    weights = {f"{module}.weight": held[name] for name, module in modules.items()}
    base, models = save(tmp_path / "base", weights), []
    for i, (rank, alpha, rs) in enumerate(
        zip(held["hp/ranks"], held["hp/lora_alpha"], held["hp/use_rslora"], strict=True)
    ):
        content = {
            f"{PREFIX}{module}.lora_{side}.weight": held[
                f"adapters/a{i}/{module}.lora_{side}"
            ]
            for module in modules.values()
            for side in "AB"
        }
        options = {"r": int(rank), "lora_alpha": int(alpha), "use_rslora": bool(rs)}
        lora = save_adapter(tmp_path / f"a{i}", content, **options)
        assert read_lora(lora).scale("fc1") == pytest.approx(
            float(held[f"adapters/a{i}/scaling"]), rel=1e-8
        )
        weight = {"weight": float(held["hp/weights"][i])}
        models.append({"model": f"{base}+{lora}", "parameters": weight})
    config = task_arithmetic(base) | {"models": models, "out_dtype": "float32"}
    pipeline.run(config, tmp_path / "out")
    merged = read(tmp_path / "out")
    wanted = ["reference/{}.exact_weighted_sum"]
    wanted += ["expected/{}.delta"] if case == "cat" else []
    for module in modules.values():
        change = merged[f"{module}.weight"] - weights[f"{module}.weight"]
        for want in (held[name.format(module)] for name in wanted):
            assert np.abs(change - want).max() <= 1e-6


# ---- what is refused ----

DOWN = f"{PREFIX}{QUERY}.lora_A.weight"
BACK = f"{PREFIX}{QUERY}.lora_B.weight"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"peft_type": "VERA"}, "'peft_type' is 'VERA'; only what plain LoRA does"),
        ({"peft_type": "IA3"}, "'peft_type' is 'IA3'"),
        ({"peft_type": "LOHA"}, "'peft_type' is 'LOHA'"),
        ({"peft_type": None}, "'peft_type' is None"),
        ({"use_dora": True}, r"'use_dora' is True; .* \(merge_and_unload\)"),
        ({"lora_bias": True}, "'lora_bias' is True"),
        ({"use_qalora": True}, "'use_qalora' is True"),
        ({"alora_invocation_tokens": [1]}, "'alora_invocation_tokens' is"),
        ({"layer_replication": [[0, 1]]}, "'layer_replication' is"),
        ({"trainable_token_indices": [1]}, "'trainable_token_indices' is"),
        ({"target_parameters": ["w"]}, "'target_parameters' is"),
        ({"megatron_config": {"x": 1}}, "'megatron_config' is"),
        ({"of_a_later_version": 3}, "'of_a_later_version' is 3"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'"),
        ({"init_lora_weights": "loftq"}, "'init_lora_weights' is 'loftq'"),
        ({"bias": "some"}, "'bias': Input should be 'none', 'all' or 'lora_only'"),
        ({"r": 0}, "'r': Input should be greater than or equal to 1, got 0"),
        ({"r": None}, "'r' is missing"),
        ({"lora_alpha": "x"}, "'lora_alpha': Input should be a valid number"),
        ({"rank_pattern": {"q": "x"}}, "'rank_pattern.q': Input should be"),
        ({"alpha_pattern": {"(": 1}}, r"'alpha_pattern.*'\(' is no regular expression"),
        ({"r": 4}, r"has shape \(3, 8\) and .* \(8, 3\); expected factors of rank 4"),
        ({"rank_pattern": {"q_proj": 2}}, "expected factors of rank 2"),
        ({"modules_to_save": ["lm_head"]}, "'lm_head.weight' was trained, says"),
        ({"modules_to_save": ["norm"]}, "'model.norm.weight' was trained"),
        ({"modules_to_save": ["mlp"]}, r"mlp\.up_proj\.weight' was trained"),
    ],
)
def test_settings_that_are_refused(base, tmp_path, config, expected):
    lora = save_adapter(tmp_path / "lora", factors(QUERY, 3, 8, 8), **config)
    with pytest.raises(MergeError, match=expected) as caught:
        adapted(base, lora)
    assert "\n" not in str(caught.value) and str(lora) in str(caught.value)


def renamed(content, old, new):
    return {name.replace(old, new): array for name, array in content.items()}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: renamed(c, "layers.0", "layers.7"), "layers.7.*nearest.*layers.0"),
        (lambda c: renamed(c, PREFIX, "unet."), "not named as PEFT does it"),
        (
            lambda c: c | {f"{PREFIX}{QUERY}.lora_magnitude_vector": drawn((8,))},
            "place",
        ),
        (
            lambda c: c | {f"{PREFIX}lm_head.x": drawn((8,))},
            "no place in .*'lm_head.x'",
        ),
        (lambda c: {DOWN: c[DOWN]}, "q_proj.lora_A.weight' is there without its part"),
        (lambda c: {BACK: c[BACK]}, "q_proj.lora_B.weight' is there without its part"),
        (lambda c: c | {DOWN: drawn((3, 9))}, r"make \(8, 9\), but .* shape \(8, 8\)"),
        (lambda c: c | {DOWN: drawn((3, 8, 1))}, r"shape \(3, 8, 1\) and .* \(8, 3\)"),
        (lambda c: c | {DOWN: drawn((3,))}, r"shape \(3,\) and"),
        (lambda c: c | {DOWN: drawn((4, 8))}, r"\(4, 8\) and .*factors of rank 3"),
        (lambda c: c | {BACK: drawn((8, 4))}, r"and .* \(8, 4\); .*factors of rank 3"),
        (
            lambda c: c | {DOWN: drawn((3, 8, 1)), BACK: drawn((8, 3, 2))},
            r"has shape \(3, 8, 1\) and .* \(8, 3, 2\); expected factors of rank 3",
        ),
        (lambda c: factors(UP, 3, 16, 8), r"\(8, 16\), but .* 'fan_in_fan_out' in"),
        (
            lambda c: c | {f"{PREFIX}lm_head.weight": drawn((13, 8))},
            r"make \(13, 8\), but 'lm_head.weight' .* has shape \(12, 8\)\. Give the",
        ),
    ],
)
def test_tensors_that_are_refused(base, tmp_path, change, expected):
    lora = save_adapter(tmp_path / "lora", change(factors(QUERY, 3, 8, 8)))
    with pytest.raises(MergeError, match=expected) as caught:
        adapted(base, lora)
    assert "\n" not in str(caught.value) and str(lora) in str(caught.value)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_were_trained_but_not_saved(tmp_path, bias):
    held = {"a.weight": drawn((4, 4)), "a.bias": drawn((4,)), "b.bias": drawn((4,))}
    base, content = save(tmp_path / "base", held), factors("a", 3, 4, 4)
    lora = save_adapter(tmp_path / "lora", content, bias=bias)
    with pytest.raises(MergeError, match=r"'a\.bias' was trained"):
        adapted(base, lora)
    brought = content | {f"{PREFIX}a.bias": drawn((4,), 2)}
    other = save_adapter(tmp_path / "other", brought, bias=bias)
    if bias == "all":
        with pytest.raises(MergeError, match=r"'b\.bias' was trained"):
            adapted(base, other)
    else:
        np.testing.assert_array_equal(adapted(base, other)["a.bias"], drawn((4,), 2))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float8_e4m3fn"])
def test_quantised_models(tmp_path, dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    base = save(tmp_path / "base", {"a.weight": np.ones((4, 4), kind)})
    lora = save_adapter(tmp_path / "lora", factors("a", 3, 4, 4))
    with pytest.raises(MergeError, match=f"'a.weight' is {dtype}, quantised; .* Deq"):
        adapted(base, lora)


def test_an_adapter_in_pytorchs_format(base, lora):
    expected = {n: np.array(a) for n, a in adapted(base, lora).items()}
    weights = lora / "adapter_model.safetensors"
    content = {
        n: torch.from_numpy(np.array(a)) for n, a in open_tensors(weights).items()
    }
    torch.save(content, lora / "adapter_model.bin")
    weights.unlink()
    assert_same(adapted(base, lora), expected)


def test_files_that_are_missing_or_damaged(base, lora, tmp_path):
    weights, config = lora / "adapter_model.safetensors", lora / "adapter_config.json"
    with pytest.raises(MergeError, match=r"no adapter_config\.json; give the folder"):
        adapted(base, base)
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(FormatError, match="truncated"):
        adapted(base, lora)
    weights.unlink()
    with pytest.raises(
        MergeError, match=r"no adapter_model\.safetensors; expected it, or"
    ):
        adapted(base, lora)
    for text, expected in {"{": "no valid JSON", "[]": "expected a mapping"}.items():
        config.write_text(text)
        with pytest.raises(MergeError, match=expected):
            adapted(base, lora)
