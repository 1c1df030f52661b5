"""Every tensor of every model is merged, copied, dropped or tied, or an error."""

import json

import ml_dtypes
import numpy as np
import pytest
from folders import read, save, task_arithmetic, tensors
from hypothesis import HealthCheck, given, settings, strategies as st

from mda_jax import pipeline
from mda_jax.pipeline import ConfigError, MergeError
from mda_jax.pipeline.names import partners


EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def merge(tmp_path, base, expert, **top):
    """Merge two dictionaries of tensors; the output's tensors and the report."""
    config = task_arithmetic(
        save(tmp_path / "base", base), save(tmp_path / "expert", expert), **top
    )
    report = pipeline.run(config, tmp_path / "out")
    return read(tmp_path / "out"), report


def half_way(base, expert):
    return base + np.float32(0.5) * (expert - base)


def test_everything_is_merged(tmp_path):
    base, expert = tensors(0), tensors(1)
    merged, report = merge(tmp_path, base, expert)
    for name in base:
        # The three roundings of base + w (expert - base), of values below 8.
        allowed = 3 * 8 * np.finfo(np.float32).eps
        want = half_way(base[name].astype(np.float64), expert[name])
        assert np.abs(merged[name] - want).max() <= allowed, name
    assert set(report.rules.values()) == {"merged by task_arithmetic"}
    assert report.counts() == {"merged by task_arithmetic": len(base)}


@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sets(st.sampled_from(sorted(tensors(0)))), st.data())
def test_whatever_is_missing_or_extra_is_named(tmp_path_factory, lost, data):
    names = [n for n in tensors(0) if n not in (EMBED, HEAD)]
    lost -= {EMBED, HEAD}
    extra = data.draw(st.sets(st.sampled_from(["a.weight", "b.bias"])))
    expert = {n: x for n, x in tensors(1).items() if n not in lost}
    expert |= {n: np.ones(3, np.float32) for n in extra}
    assert set(names) >= lost
    if not lost | extra:
        merge(tmp_path_factory.mktemp("m"), tensors(0), expert)
        return
    with pytest.raises(MergeError) as caught:
        merge(tmp_path_factory.mktemp("m"), tensors(0), expert)
    text = str(caught.value)
    assert f"{len(lost) + len(extra)} tensors do not match" in text
    assert any(repr(n) in text for n in lost | extra) and "expert" in text


def test_a_shape_mismatch_names_both_shapes(tmp_path):
    expert = tensors(1) | {EMBED: np.zeros((14, 8), np.float32)}
    with pytest.raises(MergeError, match=r"has shape \(14, 8\), not \(12, 8\)"):
        merge(tmp_path, tensors(0), expert)


def test_a_tied_expert_lends_its_embedding_to_the_head(tmp_path):
    base, expert = tensors(0), tensors(1)
    del expert[HEAD]
    merged, report = merge(tmp_path, base, expert)
    want = half_way(base[HEAD], expert[EMBED])
    np.testing.assert_allclose(merged[HEAD], want, rtol=1e-6, atol=1e-6)
    assert report.tied == {str(tmp_path / "expert"): {HEAD: EMBED}}
    assert report.counts()["tied: read from their partner"] == 1


def test_a_duplicate_of_the_embedding_is_dropped(tmp_path):
    base, expert = tensors(0), tensors(1)
    del base[HEAD]
    expert[HEAD] = expert[EMBED].copy()
    merged, report = merge(tmp_path, base, expert)
    assert HEAD not in merged
    assert report.dropped[str(tmp_path / "expert")] == {HEAD: "dropped: tied duplicate"}


def test_an_untied_head_has_no_place_in_a_tied_base(tmp_path):
    base = tensors(0)
    del base[HEAD]
    with pytest.raises(MergeError, match=r"'lm_head.weight' \(12, 8\) is extra"):
        merge(tmp_path, base, tensors(1))


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("lm_head.weight", "transformer.wte.weight"),
        ("lm_head.weight", "shared.weight"),
        ("shared.weight", "encoder.embed_tokens.weight"),
        ("decoder.embed_tokens.weight", "shared.weight"),
        ("model.decoder.embed_tokens.weight", "model.shared.weight"),
        ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"),
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
        ("proj_out.weight", "model.decoder.embed_tokens.weight"),
        ("embed_out.weight", "gpt_neox.embed_in.weight"),
    ],
)
def test_pairs_that_files_store_once(name, held):
    assert partners(name, {held}) == [held]
    assert partners(held, {name}) == [name]
    assert partners(name, {f"other.{held}"}) == []


def test_integers_are_copied_and_recomputed_buffers_come_and_go(tmp_path):
    base, expert = tensors(0), tensors(1)
    base["mask"] = np.array([True, False])
    base["embeddings.position_ids"] = np.arange(4)[None]
    expert["mask"] = np.array([True, False])
    expert["layers.0.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    expert["bn.num_batches_tracked"] = np.array(7)
    expert["h.0.attn.bias"] = np.ones((1, 1, 4, 4), np.float32)
    merged, report = merge(tmp_path, base, expert)
    assert merged["mask"].tolist() == [True, False]
    assert report.rules["mask"] == "copied: integers or booleans"
    assert report.rules["embeddings.position_ids"] == "copied: recomputed by the model"
    assert set(report.dropped[str(tmp_path / "expert")]) == {
        "layers.0.rotary_emb.inv_freq",
        "bn.num_batches_tracked",
        "h.0.attn.bias",
    }
    assert set(merged) == set(base)


def test_a_bias_called_like_a_mask_is_a_weight(tmp_path):
    base, expert = tensors(0), tensors(1)
    expert["h.0.attn.bias"] = np.ones(4, np.float32)
    with pytest.raises(MergeError, match=r"'h.0.attn.bias' \(4,\) is extra"):
        merge(tmp_path, base, expert)


def test_integers_that_differ(tmp_path):
    base = tensors(0) | {"step": np.array(1)}
    _, report = merge(tmp_path, base, tensors(1) | {"step": np.array(2)})
    assert "1 integer tensors differ" in report.warnings[0]


def test_quantised_weights_are_refused(tmp_path):
    packed = np.arange(6, dtype=np.int32).reshape(2, 3)
    with pytest.raises(MergeError, match=r"'w' is int32 and differs.*Dequantise"):
        merge(tmp_path, tensors(0) | {"w": packed}, tensors(1) | {"w": packed + 1})
    eight = {"w": np.ones(3, ml_dtypes.float8_e4m3fn)}
    (tmp_path / "f8").mkdir()
    with pytest.raises(MergeError, match="'w' is float8_e4m3fn, which has no meaning"):
        merge(tmp_path / "f8", tensors(0) | eight, tensors(1) | eight)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "linear", "tsv"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_traced_to_its_model(tmp_path, method, bad):
    expert = tensors(1)
    expert["model.norm.weight"][3] = bad
    top = {"merge_method": method}
    if method == "linear":
        top["parameters"] = {"weight": 1.0}
    with pytest.raises(
        MergeError, match=r"'model.norm.weight' would be .*expert has it"
    ):
        merge(tmp_path, tensors(0), expert, **top)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "expert"]


def test_overflow_is_not_blamed_on_a_model(tmp_path):
    expert = tensors(1) | {HEAD: np.full((12, 8), 1e6, np.float32)}
    with pytest.raises(
        MergeError, match="no model has it: the result leaves the range"
    ):
        merge(tmp_path, tensors(0), expert, dtype="float16")


def test_a_merge_that_changes_nothing_is_reported(tmp_path):
    _, report = merge(tmp_path, tensors(0), tensors(0))
    assert "equal those of" in report.warnings[0]


def test_float64_and_running_statistics_are_pointed_out(tmp_path):
    base, expert = (
        tensors(s) | {"bn.running_mean": np.full(4, s + 0.5)} for s in (0, 1)
    )
    merged, report = merge(tmp_path, base, expert)
    assert merged["bn.running_mean"].tolist() == [1.0] * 4
    assert merged["bn.running_mean"].dtype == np.float64
    assert "1 running statistics" in report.warnings[0]
    assert "1 float64 tensors" in report.warnings[1]


def test_empty_tensors_and_scalars(tmp_path):
    odd = {"none": np.zeros((0, 3), np.float32), "scale": np.array(2.0, np.float32)}
    merged, _ = merge(tmp_path, tensors(0) | odd, tensors(1) | odd)
    assert merged["none"].shape == (0, 3) and merged["scale"] == 2.0


def test_only_empty_tensors(tmp_path):
    odd = {"none": np.zeros((0, 3), np.float32)}
    merged, _ = merge(tmp_path, odd, odd)
    assert merged["none"].shape == (0, 3)


@pytest.mark.parametrize(
    ("inputs", "top", "output", "noted"),
    [
        ("float32", {}, "float32", "float32"),
        ("bfloat16", {}, "bfloat16", "float32"),
        ("float32", {"dtype": "bfloat16"}, "bfloat16", "bfloat16"),
        ("float32", {"dtype": "torch.bfloat16"}, "bfloat16", "bfloat16"),
        ("bfloat16", {"out_dtype": "float32"}, "float32", "float32"),
        ("float32", {"dtype": "float32", "out_dtype": "float16"}, "float16", "float16"),
    ],
)
def test_output_types(tmp_path, inputs, top, output, noted):
    base, expert = (tensors(s, np.dtype(inputs)) for s in (0, 1))
    merged, _ = merge(tmp_path, base, expert, **top)
    for name, array in merged.items():
        assert array.dtype == np.dtype(output), name
        wide = half_way(*(x[name].astype(np.float32) for x in (base, expert)))
        # One rounding to the output, besides those in float32 as above.
        eps = float(ml_dtypes.finfo(np.dtype(output)).eps)
        assert np.abs(array.astype(np.float32) - wide).max() <= 8 * eps, name
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == noted


def test_rounding_happens_once(tmp_path):
    """A bfloat16 merge stored as float32 keeps the digits of the arithmetic."""
    base = {"w": np.array([1.0, 3.0], ml_dtypes.bfloat16)}
    expert = {"w": np.array([1.0078125, 3.0], ml_dtypes.bfloat16)}
    merged, _ = merge(tmp_path, base, expert, out_dtype="float32")
    assert merged["w"].tolist() == [1.00390625, 3.0]


def test_config_errors_come_before_reading(tmp_path):
    base = save(tmp_path / "base", tensors(0))
    (base / "model.safetensors").write_bytes(b"damaged")
    config = task_arithmetic(base, base)
    with pytest.raises(ConfigError, match="no model besides"):
        pipeline.run(config, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists already"):
        pipeline.run(config, base)
    with pytest.raises(ConfigError, match="no such folder; create it"):
        pipeline.run(config, tmp_path / "a" / "b")
