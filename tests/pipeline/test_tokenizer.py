"""A tokenizer is built from files, and every token keeps its meaning.

Row `i` of a model's table holds its seed and `i`, so that every row of a result tells
where it came from.
"""

import json

import numpy as np
import pytest
import torch
from folders import read, save, tensors
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, models as kinds
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from mda_jax import pipeline
from mda_jax.pipeline import ConfigError, MergeError
from mda_jax.pipeline.vocabulary import PLAIN, Vocabulary, read_vocabulary


EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PIECES = ["<s>", "a", "b", "c", "ab"]


def word_level(pieces):
    return kinds.WordLevel({t: i for i, t in enumerate(pieces)}, unk_token=pieces[0])


def bpe(pieces):
    pairs = [(p[:-1], p[-1]) for p in pieces if p[:-1] in pieces and p[-1] in pieces]
    return kinds.BPE({t: i for i, t in enumerate(pieces)}, merges=pairs)


def unigram(pieces):
    return kinds.Unigram([(t, -float(i)) for i, t in enumerate(pieces)], unk_id=0)


def word_piece(pieces):
    return kinds.WordPiece({t: i for i, t in enumerate(pieces)}, unk_token=pieces[0])


def tokenizer(folder, pieces, added=(), kind=bpe, **options):
    """Write a tokenizer as transformers does."""
    folder.mkdir(exist_ok=True)
    made = Tokenizer(kind(list(pieces)))
    made.add_special_tokens(list(added))
    made.save(str(folder / "tokenizer.json"))
    options = {"tokenizer_class": "PreTrainedTokenizerFast"} | options
    (folder / "tokenizer_config.json").write_text(json.dumps(options))


def tables(seed, rows, width=8):
    """Two tables whose rows tell the model, the table and the token."""
    row = np.arange(rows, dtype=np.float32)[:, None] + np.zeros(width, np.float32)
    return {EMBED: 1000 * seed + row, HEAD: 1000 * seed + 500 + row}


def model(folder, seed, rows, pieces, added=(), **options):
    save(folder, tensors(0) | tables(seed, rows), vocab_size=rows)
    tokenizer(folder, pieces, added, **options)
    return folder


def merge(out, folders, method="passthrough", base=None, **top):
    """Merge; the report, and the tokens with the ids that transformers gives them."""
    config = {"merge_method": method, "models": [{"model": str(f)} for f in folders]}
    if base is not None:
        config["base_model"] = str(base)
    report = pipeline.run(config | top, out)
    return report, AutoTokenizer.from_pretrained(out).get_vocab()


def seen_as(tmp_path, folder, folders, base=None, **top):
    """The tables that a merge sees of one model, by token, and the padding."""
    weights = [
        {"model": str(f), "parameters": {"weight": float(f == folder)}} for f in folders
    ]
    config = {"merge_method": "linear", "models": weights} | top
    config["parameters"] = {"weight": 0.0, "normalize": False}
    if base is not None:
        config["base_model"] = str(base)
    pipeline.run(config, tmp_path / "out", force=True)
    ids = AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    found = read(tmp_path / "out")
    noted = json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"]
    assert noted == len(found[EMBED]) == len(found[HEAD])
    padding = sorted(set(range(noted)) - set(ids.values()))
    by_token = {t: (found[EMBED][i], found[HEAD][i]) for t, i in ids.items()}
    return by_token, (found[EMBED][padding], found[HEAD][padding])


def expected(token, model, others, base):
    """What a model's row of a token is, by the rule; model -> (seed, ids)."""
    if token in others[model][1]:
        lenders = [model]
    elif base is not None and token in others[base][1]:
        lenders = [base]
    else:
        lenders = [m for m, (_, ids) in others.items() if token in ids]
    rows = [1000 * others[m][0] + others[m][1][token] for m in lenders]
    if not rows:
        return 0.0, 0.0
    return np.mean(rows), np.mean(rows) + 500


@pytest.mark.parametrize("kind", [bpe, word_level, unigram, word_piece])
def test_union_keeps_every_token_of_every_model(tmp_path, kind):
    a = model(tmp_path / "a", 1, 7, PIECES, ["<x>"], kind=kind)
    b = model(tmp_path / "b", 2, 8, ["<s>", "b", "a", "d"], ["<y>", "<x>"], kind=kind)
    held = {
        a: (1, {t: i for i, t in enumerate([*PIECES, "<x>"])}),
        b: (2, {t: i for i, t in enumerate(["<s>", "b", "a", "d", "<y>", "<x>"])}),
    }
    tokens = [*PIECES, "<x>", "d", "<y>"]
    for base in (None, a, b):
        for folder in (a, b):
            found, _ = seen_as(
                tmp_path, folder, [a, b], base, tokenizer={"source": "union"}
            )
            assert set(found) == set(tokens)
            for token in tokens:
                want = expected(token, folder, held, base)
                for row, value in zip(found[token], want, strict=True):
                    assert (row == np.float32(value)).all(), (token, folder, base)


def test_ids_of_the_base_stay_and_new_ones_follow(tmp_path):
    a = model(tmp_path / "a", 1, 6, PIECES, ["<x>"])
    b = model(tmp_path / "b", 2, 8, [*PIECES[:4], "d", "bd", "e"], ["<y>"])
    _, ids = merge(tmp_path / "out", [b], base=a, tokenizer={"source": "union"})
    order = sorted(ids, key=ids.get)
    assert order == [*PIECES, "<x>", "d", "bd", "e", "<y>"]
    merged = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert merged("ab<y>").input_ids == [4, 9]
    assert merged.added_tokens_decoder[9].special
    assert not merged.added_tokens_decoder[6].special


VOCABULARY = st.lists(
    st.text("abcdé<▁", min_size=1, max_size=3), min_size=1, max_size=9
)


@st.composite
def vocabularies(draw):
    """Pieces, added tokens and padding of a model."""
    tokens = draw(VOCABULARY.map(lambda t: list(dict.fromkeys(t))))
    count = draw(st.integers(1, len(tokens)))
    return tokens[:count], tokens[count:], draw(st.integers(0, 4))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(vocabularies(), min_size=2, max_size=3),
    st.sampled_from(["union", "base", 1]),
    st.booleans(),
)
def test_every_row_is_what_the_rule_says(tmp_path_factory, drawn, source, has_base):
    tmp_path = tmp_path_factory.mktemp("m")
    folders, held = [], {}
    for seed, (pieces, added, padding) in enumerate(drawn):
        rows = len(pieces) + len(added) + padding
        folder = tmp_path / str(seed)
        folders.append(model(folder, seed, rows, pieces, added, kind=word_level))
        held[folder] = (seed, {t: i for i, t in enumerate([*pieces, *added])})
    base = folders[0] if has_base else None
    is_index = source == 1
    options = {"source": str(folders[1]) if is_index else source}
    donor = folders[1 if is_index else 0]
    for folder in folders:
        found, padding = seen_as(tmp_path, folder, folders, base, tokenizer=options)
        if source == "union":
            assert set(found) == {t for _, ids in held.values() for t in ids}
        else:
            assert found.keys() == held[donor][1].keys()
        for token, rows in found.items():
            want = expected(token, folder, held, base)
            np.testing.assert_allclose([r[0] for r in rows], want, rtol=1e-6)
        sizes = [len(pieces) + len(added) + more for pieces, added, more in drawn]
        assert len(found) + len(padding[0]) == max(sizes[is_index], len(found))
        if len(set(sizes)) == 1 and all(held[f][1] == held[donor][1] for f in folders):
            for name, rest in zip((EMBED, HEAD), padding, strict=True):
                assert (rest == read(folder)[name][len(found) :]).all()
            continue
        for i, rest in enumerate(padding):
            mean = np.mean([rows[i] for rows in found.values()], 0)
            np.testing.assert_allclose(rest, np.tile(mean, (len(rest), 1)), rtol=1e-5)


def test_a_tokenizer_that_all_share_changes_nothing(tmp_path):
    a, b = (model(tmp_path / n, s, 9, PIECES) for s, n in enumerate("ab"))
    for i, source in enumerate(["union", "base", str(b)]):
        merge(tmp_path / str(i), [a], tokenizer_source=source)
        for name, table in tables(0, 9).items():
            assert (read(tmp_path / str(i))[name] == table).all()
        for file in ("config.json", "tokenizer.json"):
            assert (tmp_path / str(i) / file).read_bytes() == (a / file).read_bytes()


@pytest.mark.parametrize(
    ("options", "rows"),
    [({}, 9), ({"pad_to_multiple_of": 1}, 6), ({"pad_to_multiple_of": 4}, 8)],
)
def test_padding(tmp_path, options, rows):
    a = model(tmp_path / "a", 1, 9, PIECES)
    b = model(tmp_path / "b", 2, 7, [*PIECES, "d"])
    found, (padding, _) = seen_as(tmp_path, b, [a, b], a, tokenizer=options)
    assert len(found) + len(padding) == rows
    mean = 2000 + np.mean(range(6))
    assert (padding == mean).all()


def test_explicit_rows(tmp_path):
    a = model(tmp_path / "a", 1, 5, PIECES)
    b = model(tmp_path / "b", 2, 7, [*PIECES, "d"], ["<y>"])
    tokens = {
        "c": {"source": str(b), "force": True},
        "ab": {"source": str(b)},
        "b": {"force": True},
        "a": {"source": {"kind": "zero"}, "force": True},
        "d": {"source": {"kind": "model_token", "model": str(a), "token": "c"}},
        "<y>": {"source": {"kind": "model_token", "model": {"path": str(b)}}},
        "<new>": None,
        "<zero>": {"source": {"kind": "zero"}},
    }
    tokens["<y>"]["source"]["token_id"] = 1
    top = {"tokenizer": {"source": "base", "tokens": tokens}}
    found, _ = seen_as(tmp_path, a, [a, b], a, **top)
    rows = {token: float(row[0]) for token, (row, _) in found.items()}
    assert rows == {
        "<s>": 1000,
        "a": 0,
        "b": 1002,
        "c": 2003,
        "ab": 1004,
        "d": 1003,
        "<y>": 2001,
        "<new>": 0,
        "<zero>": 0,
    }
    found, _ = seen_as(tmp_path, b, [a, b], a, **top)
    rows = {token: float(row[0]) for token, (row, _) in found.items()}
    # What b has itself stays, unless it is forced.
    assert rows == {
        "<s>": 2000,
        "a": 0,
        "b": 1002,
        "c": 2003,
        "ab": 2004,
        "d": 2005,
        "<y>": 2006,
        "<new>": 0,
        "<zero>": 0,
    }
    merged = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert merged.added_tokens_decoder[merged.get_vocab()["<y>"]].special


def test_tokens_that_no_model_has_are_reported(tmp_path):
    a = model(tmp_path / "a", 1, 5, PIECES)
    other = tmp_path / "other"
    tokenizer(other, [*PIECES, "q"], ["<q>"])
    report, ids = merge(tmp_path / "out", [a], tokenizer={"source": str(other)})
    assert report.warnings[0].startswith("2 tokens are in no model, '<q>' first")
    assert (read(tmp_path / "out")[EMBED][ids["q"]] == 0).all()
    asked = {"source": str(other), "tokens": {"q": {}, "<q>": {}}}
    report, _ = merge(tmp_path / "again", [a], tokenizer=asked)
    assert not any("are in no model" in line for line in report.warnings)


@pytest.mark.parametrize("kind", [bpe, word_level, unigram, word_piece])
def test_tokens_without_a_row_are_left_out_of_the_base(tmp_path, kind):
    a = model(tmp_path / "a", 1, 4, PIECES, ["<x>"], kind=kind, pad_token="<x>")
    b = model(tmp_path / "b", 2, 5, PIECES, kind=kind)
    (a / "vocab.json").write_text("{}")
    (a / "special_tokens_map.json").write_text('{"pad_token": {"content": "<x>"}}')
    _, ids = merge(tmp_path / "out", [b], base=a, tokenizer={"source": "base"})
    assert ids == {t: i for i, t in enumerate(PIECES[:4])}
    assert (read(tmp_path / "out")[EMBED][:, 0] == [2000, 2001, 2002, 2003]).all()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token is None
    assert not (tmp_path / "out" / "vocab.json").exists()
    _, ids = merge(tmp_path / "two", [b], base=a, tokenizer={"source": "union"})
    assert ids == {t: i for i, t in enumerate(PIECES)}


def test_a_role_without_an_id_gets_the_next_one(tmp_path):
    a = model(tmp_path / "a", 1, 8, PIECES, ["<x>"], pad_token="[PAD]")
    late = {"extra_special_tokens": ["<z>"]}
    late |= {"added_tokens_decoder": {"6": {"content": "<q>", "special": True}}}
    b = model(tmp_path / "b", 2, 8, PIECES, ["<y>"], **late)
    assert read_vocabulary(a).ids == AutoTokenizer.from_pretrained(a).get_vocab()
    assert read_vocabulary(b).ids == AutoTokenizer.from_pretrained(b).get_vocab()
    _, ids = merge(tmp_path / "out", [a, b][:1], base=b, tokenizer={"source": "union"})
    assert ids == read_vocabulary(tmp_path / "out").ids
    assert set(ids) == {*PIECES, "<x>", "<y>", "<q>", "<z>", "[PAD]"}
    assert AutoTokenizer.from_pretrained(a).pad_token_id == 6


def test_the_options_note_added_tokens_where_they_did(tmp_path):
    noted = {"5": {"content": "<x>", "special": True, "lstrip": True}}
    a = model(tmp_path / "a", 1, 6, PIECES, ["<x>"], added_tokens_decoder=noted)
    (a / "added_tokens.json").write_text('{"<x>": 5}')
    b = model(tmp_path / "b", 2, 6, PIECES, ["<y>"])
    merge(tmp_path / "out", [b], base=a, tokenizer={})
    options = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert {i: t["content"] for i, t in options["added_tokens_decoder"].items()} == {
        "5": "<x>",
        "6": "<y>",
    }
    added = json.loads((tmp_path / "out" / "added_tokens.json").read_text())
    assert added == {"<x>": 5, "<y>": 6}


def test_the_older_files_of_a_bpe_tokenizer(tmp_path):
    for name, seed, pieces in (("a", 1, PIECES), ("b", 2, [*PIECES, "ac"])):
        folder = save(
            tmp_path / name,
            tensors(0) | tables(seed, len(pieces) + 1),
            vocab_size=len(pieces) + 1,
        )
        vocab = {t: i for i, t in enumerate(pieces)} | {"<|endoftext|>": len(pieces)}
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text("#version: 0.2\na b\n")
        (folder / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "GPT2Tokenizer"}'
        )
        assert read_vocabulary(folder).pieces == vocab
    a, b = tmp_path / "a", tmp_path / "b"
    _, ids = merge(tmp_path / "out", [b], base=a, tokenizer={})
    assert ids == {t: i for i, t in enumerate([*PIECES, "<|endoftext|>", "ac"])}
    assert read(tmp_path / "out")[EMBED][:, 0].tolist() == [
        *range(2000, 2005),
        2006,
        2005,
    ]


def test_words_of_a_text_file(tmp_path):
    text = "[PAD]\n[UNK]\n\u2028\né\n"
    (tmp_path / "vocab.txt").write_text(text, encoding="utf-8")
    assert read_vocabulary(tmp_path).ids == {
        "[PAD]": 0,
        "[UNK]": 1,
        "\u2028": 2,
        "é": 3,
    }


def opaque(folder, seed, content=b"pieces"):
    save(folder, tensors(0) | tables(seed, 5), vocab_size=5)
    (folder / "tokenizer.model").write_bytes(content)
    return folder


def test_a_sentencepiece_model_that_all_share_is_copied(tmp_path):
    a, b = opaque(tmp_path / "a", 1), opaque(tmp_path / "b", 2)
    config = {"merge_method": "passthrough", "models": [{"model": str(b)}]}
    config |= {"base_model": str(a), "tokenizer": {"source": "base"}}
    pipeline.run(config, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"pieces"
    assert (read(tmp_path / "out")[EMBED] == tables(2, 5)[EMBED]).all()
    remedy = r"a tokenizer.json is needed to read its tokens; copy it .*save_pretrained"
    (b / "tokenizer.model").write_bytes(b"others")
    with pytest.raises(MergeError, match=remedy):
        pipeline.run(config, tmp_path / "no")
    (b / "tokenizer.model").write_bytes(b"pieces")
    (b / "added_tokens.json").write_text('{"<x>": 4}')
    with pytest.raises(MergeError, match=remedy):
        pipeline.run(config, tmp_path / "no")


def test_what_is_refused(tmp_path):
    a, b = (model(tmp_path / n, s, 5, PIECES) for s, n in enumerate("ab"))
    elsewhere = tmp_path / "elsewhere"
    tokenizer(elsewhere, PIECES)
    for source, problem in {
        str(elsewhere): r"elsewhere' is none of the merged models; list it",
        str(b): r"b' has no token '<q>'; give a token that it has, or kind: zero",
    }.items():
        tokens = {"<q>": {"source": source}}
        with pytest.raises(ConfigError, match=problem):
            merge(tmp_path / "out", [a], base=b, tokenizer={"tokens": tokens})
    row = {"kind": "model_token", "model": str(a), "token_id": 5}
    with pytest.raises(
        ConfigError, match=r"a' has 5 rows of tokens, from 0; got token"
    ):
        merge(tmp_path / "out", [a], tokenizer={"tokens": {"a": {"source": row}}})
    (a / "tokenizer.json").write_text("[]")
    with pytest.raises(MergeError, match=r"tokenizer.json: expected a tokenizer"):
        merge(tmp_path / "out", [a], base=b, tokenizer={})
    (a / "tokenizer.json").unlink()
    with pytest.raises(MergeError, match=r"a: a tokenizer.json is needed to read its"):
        merge(tmp_path / "out", [a], base=b, tokenizer={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "elsewhere"]


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9), min_size=1).filter(
        lambda ids: len(set(ids.values())) == len(ids)
    ),
    st.lists(st.sampled_from("abcdxyz"), unique=True),
)
def test_ids_are_those_that_the_library_gives(tmp_path_factory, pieces, added):
    folder = tmp_path_factory.mktemp("t")
    made = json.loads(Tokenizer(kinds.WordLevel(pieces, unk_token="a")).to_str())
    listed = [{"id": i, "content": token} | PLAIN for i, token in enumerate(added)]
    text = json.dumps(made | {"added_tokens": listed})
    (folder / "tokenizer.json").write_text(text)
    ids = Tokenizer.from_str(text).get_vocab()
    if len(set(ids.values())) < len(ids):
        with pytest.raises(MergeError, match="gives two tokens one id"):
            read_vocabulary(folder)
    else:
        assert read_vocabulary(folder).ids == ids


def test_ids_that_cannot_be_kept_are_refused(tmp_path):
    gaps = Vocabulary(tmp_path, {"a": 0, "b": 5}, {"<x>": PLAIN, "<y>": PLAIN})
    assert gaps.ids == {"a": 0, "b": 5, "<x>": 2, "<y>": 3}
    with pytest.raises(
        MergeError, match="ids beyond the 4 rows of its table, and gaps"
    ):
        gaps.below(4)


def test_special_ids_are_those_of_the_vocabulary(tmp_path):
    a = model(tmp_path / "a", 1, 6, PIECES, ["<x>"])
    b = model(tmp_path / "b", 2, 6, ["a", "b", "c", "<s>", "ab"], ["<y>"])
    notes = {"config.json": {"eos_token_id": 0}, "generation_config.json": {}}
    for folder, end in ((a, 5), (b, [3, 5])):
        for name in notes:
            old = json.loads((folder / name).read_text()) if "gen" not in name else {}
            noted = old | {"eos_token_id": end, "own_" + folder.name + "_token_id": 1}
            (folder / name).write_text(json.dumps(noted))
    merge(tmp_path / "out", [b], base=a, tokenizer={"source": str(b)})
    for name in notes:
        noted = json.loads((tmp_path / "out" / name).read_text())
        assert noted["eos_token_id"] == [3, 5] and "own_b_token_id" not in noted
    merge(tmp_path / "base", [b], base=a, tokenizer={"source": "base"})
    noted = json.loads((tmp_path / "base" / "config.json").read_text())
    assert noted["eos_token_id"] == 5


def llama(folder, rows, seed, *, tied):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "vocab_size": rows, "tie_word_embeddings": tied}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "tsv"])
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_loads_model_and_tokenizer(tmp_path, method, tied):
    base = llama(tmp_path / "base", 8, 0, tied=tied)
    expert = llama(tmp_path / "a", 6, 1, tied=tied)
    tokenizer(base, PIECES, ["<x>"], eos_token="<x>")
    tokenizer(expert, ["<s>", "b", "a", "ab"], ["<y>"])
    Tokenizer.from_file(str(base / "tokenizer.json"))
    one = {"weight": 1.0} if method != "ties" else {"weight": 1.0, "density": 1.0}
    config = {"merge_method": method, "base_model": str(base), "dtype": "float32"}
    config["models"] = [{"model": str(expert), "parameters": one}]
    pipeline.run(config | {"tokenizer": {"source": "union"}}, tmp_path / "out")
    merged, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values()), info
    made = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert merged.config.vocab_size == 8 >= len(made) == 7
    theirs = AutoModelForCausalLM.from_pretrained(expert).get_input_embeddings().weight
    ours = merged.get_input_embeddings().weight
    for token, i in AutoTokenizer.from_pretrained(expert).get_vocab().items():
        # All of the expert's delta is added to the base: its own rows are the result.
        assert (ours[made.get_vocab()[token]] - theirs[i]).abs().max() < 1e-6
    assert merged(torch.tensor([made("ab<y>").input_ids])).logits.isfinite().all()


def test_a_post_processor_and_old_merges_survive(tmp_path):
    a = model(tmp_path / "a", 1, 6, PIECES, ["<x>"])
    made = Tokenizer.from_file(str(a / "tokenizer.json"))
    made.post_processor = TemplateProcessing("<x> $A", special_tokens=[("<x>", 5)])
    content = json.loads(made.to_str())
    content["model"]["merges"] = [" ".join(m) for m in content["model"]["merges"]]
    (a / "tokenizer.json").write_text(json.dumps(content))
    b = model(tmp_path / "b", 2, 5, PIECES[:4], ["<y>"])
    merge(tmp_path / "out", [b], base=a, tokenizer={})
    merged = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert merged("ab<y>").input_ids == [5, 4, 6]
