"""Rows of token tables: gathered, lent, padded, cut, in the memory of what is read."""

import json

import ml_dtypes
import numpy as np
import pytest
from folders import read, save, task_arithmetic, tensors
from hypothesis import given, settings, strategies as st

from mda_jax import pipeline
from mda_jax.converters.formats import open_tensors
from mda_jax.pipeline import ConfigError, MergeError, embeddings
from mda_jax.pipeline.embeddings import Stored, Table
from mda_jax.pipeline.names import is_token_table


EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = st.sampled_from([np.dtype(n) for n in ("float32", "bfloat16", "float16")])


def oracle(own_table, own, lenders, real):
    """The table, row by row, in float64."""
    rows = []
    for i in range(len(own)):
        lent = [t[ids[i]].astype(np.float64) for t, ids in lenders if ids[i] >= 0]
        if own[i] >= 0:
            rows.append(own_table[own[i]].astype(np.float64))
        else:
            zero = np.zeros(own_table.shape[1:])
            rows.append(np.mean(lent, axis=0) if lent else zero)
    found = np.array(rows).astype(own_table.dtype)
    found[~real] = found[real].astype(np.float64).mean(0).astype(own_table.dtype)
    return found


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_part_of_a_table_is_that_of_the_whole(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("t")
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng, rows = np.random.default_rng(seed), data.draw(st.integers(1, 30))
    tail = data.draw(st.sampled_from([(), (1,), (5,), (2, 3)]))
    stored = []
    for i in range(data.draw(st.integers(1, 3))):
        table = rng.normal(size=(rng.integers(1, 40), *tail))
        save(folder / str(i), {"w": table.astype(data.draw(DTYPES))})
        stored.append(Stored(open_tensors(folder / str(i)), "w"))
    held = [s.model["w"] for s in stored]
    ids = [rng.integers(-1, len(table), rows) for table in held]
    real = rng.random(rows) < 0.7
    real[rng.integers(rows)] = True
    lenders = list(zip(stored[1:], ids[1:], strict=True))
    found = Table(stored[0], ids[0], lenders, real)
    want = oracle(held[0], ids[0], list(zip(held[1:], ids[1:], strict=True)), real)
    assert found.spec.shape == want.shape and found.spec.dtype == want.dtype
    np.testing.assert_array_equal(found.read(), want)
    start, stop = sorted(rng.integers(0, want.size + 1, 2).tolist())
    part = found.entries(slice(start, stop))
    np.testing.assert_array_equal(part, want.reshape(-1)[start:stop])


def test_long_tables_are_gathered_in_blocks(tmp_path, monkeypatch):
    save(tmp_path / "a", {"w": np.arange(40, dtype=np.float32).reshape(20, 2)})
    monkeypatch.setattr(embeddings, "_BLOCK", 6)
    stored = Stored(open_tensors(tmp_path / "a"), "w")
    own = np.arange(20)[::-1].copy()
    own[7], real = -1, np.ones(20, bool)
    real[13] = False
    lent = np.full(20, -1)
    lent[7] = 4
    found = Table(stored, own, [(stored, lent)], real)
    want = oracle(stored.model["w"], own, [(stored.model["w"], lent)], real)
    np.testing.assert_array_equal(found.read(), want)


def test_rows_that_lie_close_are_read_without_the_table(tmp_path):
    save(tmp_path / "a", {"w": np.arange(40, dtype=np.float32).reshape(20, 2)})

    class Counted(type(open_tensors(tmp_path / "a"))):
        read = 0

        def entries(self, name, part):
            self.read += part.stop - part.start
            return super().entries(name, part)

    model = Counted(tmp_path / "a")
    ids = np.array([5, 7, 6])
    assert Stored(model, "w").rows(ids).tolist() == [[10, 11], [14, 15], [12, 13]]
    assert model.read == 6
    assert Stored(model, "w").rows(np.array([19, 0])).tolist() == [[38, 39], [0, 1]]
    assert Stored(model, "w").rows(ids[:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("wte.weight", True),
        ("transformer.wte.weight", True),
        ("model.language_model.embed_tokens.weight", True),
        ("lm_head.bias", True),
        ("lm_head.decoder.bias", True),
        ("bert.embeddings.word_embeddings.weight", True),
        ("cls.predictions.bias", True),
        ("cls.predictions.decoder.weight", True),
        ("gpt_neox.embed_in.weight", True),
        ("embed_out.weight", True),
        ("shared.weight", True),
        ("final_logits_bias", True),
        ("bert.embeddings.position_embeddings.weight", False),
        ("bert.embeddings.token_type_embeddings.weight", False),
        ("model.embed_positions.weight", False),
        ("layers.0.shared.weight", False),
        ("visual.proj_out.weight", False),
        ("model.norm.weight", False),
        ("newte.weight", False),
    ],
)
def test_tables_are_known_by_name(name, is_one):
    assert is_token_table(name) == is_one


def model(folder, seed, rows, dtype=np.float32, **config):
    content = tensors(seed, dtype)
    rng = np.random.default_rng(seed)
    for name in (EMBED, HEAD):
        content[name] = rng.normal(size=(rows, 8)).astype(dtype)
    return save(folder, content, **({"vocab_size": rows} | config))


def test_tables_are_cut_to_the_shortest(tmp_path):
    base, a, b = (
        model(tmp_path / n, s, 9 + s) for s, n in enumerate(["base", "a", "b"])
    )
    report = pipeline.run(
        task_arithmetic(base, a, b), tmp_path / "out", truncate_embeddings=True
    )
    assert "token tables were cut to 9 rows" in report.warnings[0]
    found = read(tmp_path / "out")
    for name in found:
        x, y, z = (read(m)[name].astype(np.float64)[:9] for m in (base, a, b))
        if name not in (EMBED, HEAD):
            x, y, z = (read(m)[name].astype(np.float64) for m in (base, a, b))
        want = x + 0.5 * (y - x) + 0.5 * (z - x)
        np.testing.assert_allclose(found[name], want, atol=1e-5)
    pipeline.run(task_arithmetic(b, a), tmp_path / "two", truncate_embeddings=True)
    noted = json.loads((tmp_path / "two" / "config.json").read_text())
    assert noted["vocab_size"] == len(read(tmp_path / "two")[EMBED]) == 10


def test_what_fits_is_not_cut(tmp_path):
    base, a = (model(tmp_path / n, s, 9) for s, n in enumerate(["base", "a"]))
    config = task_arithmetic(base, a)
    report = pipeline.run(config, tmp_path / "out", truncate_embeddings=True)
    assert not report.warnings
    plain = pipeline.run(config, tmp_path / "plain")
    for file in ("model.safetensors", "config.json"):
        assert (report.out / file).read_bytes() == (plain.out / file).read_bytes()


def test_differing_vocabularies_are_an_error_with_two_remedies(tmp_path):
    base, a = (model(tmp_path / n, s, 9 + s) for s, n in enumerate(["base", "a"]))
    with pytest.raises(MergeError) as caught:
        pipeline.run(task_arithmetic(base, a), tmp_path / "out")
    assert "(10, 8), not (9, 8)" in str(caught.value)
    assert "give 'tokenizer: {source: union}'" in str(caught.value)
    assert "or --unsafe-truncate-embeddings to cut" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "noted"),
    [
        ({"vocab_size": 10}, {"vocab_size": 9}),
        ({"vocab_size": None, "text_config": {"vocab_size": 10}}, None),
        ({"vocab_size": 10, "text_config": {"vocab_size": 10}}, None),
        ({"vocab_size": None}, {"vocab_size": None}),
    ],
)
def test_the_size_is_noted_where_it_was(tmp_path, config, noted):
    a = model(tmp_path / "a", 1, 10, **config)
    base = model(tmp_path / "base", 0, 9)
    pipeline.run(task_arithmetic(a, base), tmp_path / "out", truncate_embeddings=True)
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    want = json.loads(json.dumps(noted or config).replace("10", "9"))
    assert {key: found[key] for key in want} == want


def test_an_odd_table_is_an_error(tmp_path):
    base, a = (model(tmp_path / n, s, 9 + s) for s, n in enumerate(["base", "a"]))
    odd = read(a) | {"model.embed_tokens_per_layer.weight": np.ones((4, 2), np.float32)}
    (tmp_path / "x").mkdir()
    b = save(tmp_path / "x" / "b", odd, vocab_size=10)
    with pytest.raises(MergeError, match=r"seems to be a table .* has 4 rows, not 10"):
        pipeline.run(
            task_arithmetic(base, b), tmp_path / "out", truncate_embeddings=True
        )


def test_models_without_tables_have_no_vocabulary(tmp_path):
    folders = [save(tmp_path / n, {"w": np.ones(3, np.float32)}) for n in "ab"]
    config = task_arithmetic(*folders, tokenizer={})
    with pytest.raises(ConfigError, match="no model has a table of tokens; leave out"):
        pipeline.run(config, tmp_path / "out")
    del config["tokenizer"]
    pipeline.run(config, tmp_path / "out", truncate_embeddings=True)


def words(folder, tokens):
    """A tokenizer of whole words, as the least that its file needs."""
    vocab = {token: i for i, token in enumerate(tokens)}
    content = {"added_tokens": [], "model": {"type": "WordLevel", "vocab": vocab}}
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize("base_dtype", ["float32", "bfloat16"])
def test_a_head_that_is_tied_in_one_model_is_lent_heads(tmp_path, base_dtype):
    """The expert's head is its embedding; tokens it lacks are the base's head rows."""
    base = model(tmp_path / "base", 0, 3, np.dtype(base_dtype))
    content = tensors(1) | {EMBED: np.ones((2, 8), np.float32)}
    del content[HEAD]
    a = save(tmp_path / "a", content, vocab_size=2, tie_word_embeddings=True)
    words(base, ["x", "y", "z"])
    words(a, ["z", "x"])
    config = task_arithmetic(base, a, tokenizer={"source": "base"})
    config["models"][0]["parameters"]["weight"] = 1.0
    pipeline.run(config | {"dtype": "float32"}, tmp_path / "out")
    merged, head = read(tmp_path / "out"), read(base)[HEAD].astype(np.float32)
    assert set(merged) == set(read(base))
    # Rounding of base + (expert - base), of values below 8.
    np.testing.assert_allclose(merged[HEAD][[0, 2]], 1, atol=1e-6)
    assert (merged[HEAD][1] == head[1]).all()


def test_a_tied_base_stays_tied(tmp_path):
    base, a = (model(tmp_path / n, s, 3) for s, n in enumerate(["b", "a"]))
    content = read(base)
    del content[HEAD]
    tied = save(tmp_path / "tied", content, vocab_size=3)
    same = read(a)
    same[HEAD] = same[EMBED]
    double = save(tmp_path / "double", same, vocab_size=3)
    words(tied, ["x", "y", "z"])
    words(double, ["z", "x", "w"])
    config = task_arithmetic(tied, double, tokenizer={})
    report = pipeline.run(config, tmp_path / "out")
    assert set(read(tmp_path / "out")) == set(content)
    assert report.dropped[str(double)] == {HEAD: "dropped: tied duplicate"}
    assert len(read(tmp_path / "out")[EMBED]) == 4


def test_slices_take_their_tables_from_their_ends(tmp_path):
    a, b = (model(tmp_path / n, s, 2 + s) for s, n in enumerate("ab"))
    words(a, ["x", "y"])
    words(b, ["y", "z", "x"])
    slices = [{"sources": [{"model": str(m), "layer_range": [0, 1]}]} for m in (a, b)]
    config = {"merge_method": "passthrough", "slices": slices, "tokenizer": {}}
    pipeline.run(config, tmp_path / "out")
    merged = read(tmp_path / "out")
    # x and y keep their ids, z comes third; the first slice has a's embedding.
    table, head = read(a)[EMBED], read(b)[HEAD]
    assert (merged[EMBED] == [*table, read(b)[EMBED][1]]).all()
    assert (merged[HEAD] == head[[2, 0, 1]]).all()


def test_resuming_needs_the_same_vocabularies(tmp_path):
    a, b = (model(tmp_path / n, s, 3) for s, n in enumerate("ab"))
    words(a, ["x", "y", "z"])
    words(b, ["y", "z", "x"])
    config = task_arithmetic(a, b, tokenizer={})

    def stop(done, total):
        if done > 0.8 * total:
            raise OSError("stop")

    small = {"shard_size": 300}
    with pytest.raises(OSError, match="stop"):
        pipeline.run(config, tmp_path / "out", **small, watch=stop)
    words(b, ["x", "z", "y"])
    with pytest.raises(ConfigError, match="unfinished merge of another"):
        pipeline.run(config, tmp_path / "out", **small, resume=True)


def test_bfloat16_rows_are_kept_bit_by_bit(tmp_path):
    a = model(tmp_path / "a", 0, 4, ml_dtypes.bfloat16)
    b = model(tmp_path / "b", 1, 3, ml_dtypes.bfloat16)
    words(a, ["w", "x", "y", "z"])
    words(b, ["z", "x", "v"])
    config = {"merge_method": "passthrough", "models": [{"model": str(b)}]}
    pipeline.run(config | {"base_model": str(a), "tokenizer": {}}, tmp_path / "out")
    found, mine, base = (read(p)[EMBED] for p in (tmp_path / "out", b, a))
    want = np.stack([base[0], mine[1], base[2], mine[0], mine[2]])
    assert found.tobytes() == want.tobytes()


def test_methods_that_see_whole_tables(tmp_path):
    a, b = (model(tmp_path / n, s, 3) for s, n in enumerate("ab"))
    words(a, ["x", "y", "z"])
    words(b, ["y", "z", "x"])
    config = task_arithmetic(a, b, merge_method="slerp", tokenizer={})
    config["models"][0].pop("parameters")
    pipeline.run(config | {"parameters": {"t": 1.0}}, tmp_path / "out")
    for name in (EMBED, HEAD):
        want = read(b)[name][[2, 0, 1]]
        np.testing.assert_allclose(read(tmp_path / "out")[name], want, atol=1e-5)
