"""Whole checkpoints: recognised, into every layout and format, and back."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity import in_memory
from safetensors.numpy import save_file
from torch_models import CASES, build, saved, slow_but

from mda_jax import converters
from mda_jax.converters.convert import in_dialect, leaves
from mda_jax.converters.errors import ConfigError
from mda_jax.converters.naming import family_of


ALWAYS = (
    "vit dinov2_swiglu clip clip_vision siglip bert_pretraining roberta_mlm distilbert"
    " gpt2_lm t5 t5_gated_untied llama_tied gemma3 phi3 mixtral qwen3_moe_dense_layer"
    " resnet_basic convnextv2".split()
)
cases = pytest.mark.parametrize("case", slow_but(*ALWAYS, of=CASES))
OTHERS = ("nnx", "msgpack"), ("scanned", "npz"), ("head_split", "safetensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def assert_same(one, other):
    assert set(one) == set(other)
    for name in other:
        a, b = np.asarray(one[name]), np.asarray(other[name])
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        assert a.tobytes() == b.tobytes(), name


def assert_same_folder(one, other):
    files = {p.name: p for p in one.iterdir()}
    assert files.keys() == {p.name for p in other.iterdir()}
    for name, file in files.items():
        assert file.read_bytes() == (other / name).read_bytes(), name


@cases
def test_every_layout_comes_back(case, folders):
    source = converters.load(saved(case, folders))
    assert CASES[case]["model_type"] in family_of(source.family).model_types
    for dialect in family_of(source.family).dialects:
        if dialect.is_torch or not _is_uniform(source, dialect.name):
            continue
        try:
            tree = converters.to_flax(source, dialect.name)
        except converters.ConversionError as e:
            assert "no rule" in str(e) and dialect.name not in ("nnx", "head_split")
            continue
        back = converters.to_torch(tree, source, layout=dialect.name)
        assert_same(back.tensors, source.tensors)


def _is_uniform(source, dialect):
    """Whether the layers of every stack have the same leaves."""
    if dialect != "scanned":
        return True
    try:
        in_dialect(source, dialect)
    except converters.ConversionError as e:
        return "missing" not in str(e) and "one shape" not in str(e)
    return True


@cases
def test_the_files_come_back_byte_for_byte(case, folders, tmp_path):
    folder = saved(case, folders)
    source = converters.load(folder)
    converters.save(in_dialect(source, "nnx"), tmp_path / "flax", "msgpack")
    flax = converters.load(tmp_path / "flax")
    assert (flax.dialect, flax.family) == ("nnx", source.family)
    converters.save(converters.to_torch(flax), tmp_path / "torch")
    assert_same_folder(tmp_path / "torch", folder)


@pytest.mark.parametrize(("dialect", "format"), OTHERS)
@pytest.mark.parametrize("kind", ["bin", "shards", "wrapped", "bfloat16"])
def test_other_files_come_back_too(kind, dialect, format, folders, tmp_path):
    model = build("bert_mlm")
    folder = tmp_path / "source"
    folder.mkdir()
    config = (saved("bert_mlm", folders) / "config.json").read_text()
    if kind == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    elif kind == "shards":
        model.save_pretrained(folder, max_shard_size="20KB")
    elif kind == "wrapped":
        torch.save(torch.nn.DataParallel(model).state_dict(), folder / "m.pt")
    else:
        model.bfloat16().save_pretrained(folder)
    (folder / "config.json").write_text(config)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/vocab.txt").write_text("a\nb\n")
    source = converters.load(folder)
    converters.save(in_dialect(source, dialect), tmp_path / "flax", format)
    back = converters.to_torch(converters.load(tmp_path / "flax"))
    converters.save(back, tmp_path / "torch")
    for file in ("tokenizer/vocab.txt", *(p.name for p in folder.glob("*.*"))):
        assert (tmp_path / "torch" / file).read_bytes() == (folder / file).read_bytes()


def test_a_header_in_any_order_and_buffers_come_back(folders, tmp_path):
    """As the real MiniLM has it: unsorted names, padding, an integer buffer."""
    held = converters.load(saved("bert", folders)).tensors
    tensors = {n: np.asarray(held[n]) for n in sorted(held, reverse=True)}
    tensors["embeddings.position_ids"] = np.arange(40)[None]
    entries, start = {}, 0
    for name, array in tensors.items():
        code = {"float32": "F32", "int64": "I64"}[array.dtype.name]
        end = start + array.nbytes
        offsets = [start, end]
        entries[name] = dict(dtype=code, shape=array.shape, data_offsets=offsets)
        start = end
    head = json.dumps({"__metadata__": {"who": "me"}} | entries).encode() + b" " * 13
    body = b"".join(a.tobytes() for a in tensors.values())
    (tmp_path / "source").mkdir()
    file = tmp_path / "source/model.safetensors"
    file.write_bytes(len(head).to_bytes(8, "little") + head + body)
    source = converters.load(file)
    assert list(source.source.stash) == ["embeddings.position_ids"]
    converters.save(in_dialect(source, "nnx"), tmp_path / "flax", "msgpack")
    flax = converters.load(tmp_path / "flax")
    assert "embeddings.position_ids" not in flax.tensors
    converters.save(converters.to_torch(flax), tmp_path / "torch")
    assert (tmp_path / "torch/model.safetensors").read_bytes() == file.read_bytes()


def test_a_trained_tree_goes_back_with_its_own_numbers_and_types(folders, tmp_path):
    source = converters.load(saved("bert_mlm", folders))
    tree = converters.to_flax(source)
    tree["mlm"]["bias"] = jnp.ones(tree["mlm"]["bias"].shape, jnp.bfloat16)
    back = converters.to_torch(tree, source)
    assert back.tensors.spec("cls.predictions.bias").dtype == jnp.bfloat16
    converters.save(back, tmp_path / "out")
    again = converters.load(tmp_path / "out").tensors
    assert np.all(np.asarray(again["cls.predictions.bias"], np.float32) == 1)
    rest = [name for name in source.tensors if name != "cls.predictions.bias"]
    assert_same({n: again[n] for n in rest}, {n: source.tensors[n] for n in rest})


def test_tied_tensors_are_one_leaf_and_are_stored_as_before(folders, tmp_path):
    words, decoder = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder"
    held = converters.load(saved("bert_mlm", folders)).tensors
    tensors = {n: np.ascontiguousarray(held[n]) for n in held}
    both = tensors | {f"{decoder}.weight": tensors[words]}
    alone = {n: a for n, a in both.items() if n != words}
    for stored in (both, alone):
        file = tmp_path / f"{len(stored)}.safetensors"
        save_file(stored, file)
        source = converters.load(file)
        assert source.ties == ({f"{decoder}.weight": words} if words in stored else {})
        tree = converters.to_flax(source)
        tree["embeddings"]["word"]["embedding"] = np.ones_like(tensors[words])
        back = converters.to_torch(tree, source).tensors
        assert set(back) == set(stored)
        assert np.all(back[f"{decoder}.weight"] == 1)
    both[f"{decoder}.weight"] = tensors[words] + 1
    save_file(both, tmp_path / "untied.safetensors")
    source = converters.load(tmp_path / "untied.safetensors")
    kernel = converters.to_flax(source)["mlm"]["decoder"]["kernel"]
    assert np.array_equal(kernel.T, tensors[words] + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("pooler.dense.bias"),
            "'pooler/bias' is missing, but the model",
        ),
        (
            lambda t: t.update({"pooler.dense.bias": np.ones(7)}),
            r"shape \(7,\), but the",
        ),
        (
            lambda t: t.update(odd=np.ones(2)),
            "no rule for the tensor 'odd'; the nearest",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(change, message, folders, tmp_path):
    folder = saved("bert", folders)
    held = converters.load(folder).tensors
    tensors = {n: np.asarray(held[n]) for n in held}
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(converters.ConversionError, match=message):
        converters.to_flax(converters.load(tmp_path))


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("gpt2_untied", "lm_head.weight"),
        ("gpt2_untied", "transformer.wte.weight"),
        ("t5_gated_untied", "lm_head.weight"),
        ("t5_gated_untied", "shared.weight"),
        ("distilbert_mlm_untied", "vocab_projector.weight"),
        ("bert_mlm_untied", "cls.predictions.decoder.weight"),
        ("clip", "logit_scale"),
        ("clip_vision_projection", "visual_projection.weight"),
        ("siglip", "logit_bias"),
    ],
)
def test_what_heads_need_must_be_there(case, name):
    """Also where another tensor could take its place, were the model tied."""
    held = {n: x.numpy() for n, x in build(case).state_dict().items()}
    tensors = {n: x for n, x in held.items() if "embed_tokens" not in n}
    rest = {n: x for n, x in tensors.items() if n != name}
    longer = np.concatenate([np.atleast_1d(tensors[name])] * 2)
    for wrong in (rest, rest | {name: longer}):
        with pytest.raises(converters.ConversionError, match=r"missing|shape|lacks"):
            leaves(in_memory(wrong, CASES[case]))


def test_an_untied_head_may_equal_the_embedding():
    """As after it was made from it, before training."""
    tensors = {n: x.numpy() for n, x in build("gpt2_untied").state_dict().items()}
    same = tensors | {"lm_head.weight": tensors["transformer.wte.weight"].copy()}
    opened = in_memory(same, CASES["gpt2_untied"])
    assert not opened.ties and "lm_head/kernel" in leaves(opened)


@pytest.mark.parametrize("case", ["bert", "gpt2", "vit", "siglip_text"])
def test_heads_share_a_width_evenly(case):
    heads = "n_head" if case == "gpt2" else "num_attention_heads"
    tensors = {n: x.numpy() for n, x in build(case).state_dict().items()}
    opened = in_memory(tensors, CASES[case] | {heads: 5})
    with (
        pytest.warns(UserWarning, match="not compared"),
        pytest.raises(converters.ConversionError, match="shared by 5 heads"),
    ):
        converters.build(opened)


def test_a_config_that_is_not_understood_only_stops_models(folders, tmp_path):
    source = converters.load(saved("bert", folders))
    odd = dict(source.config) | {"position_embedding_type": "relative_key"}
    converters.save(converters.to_flax(source), tmp_path / "weights", "npz")
    (tmp_path / "weights/config.json").write_text(json.dumps(odd))
    checkpoint = converters.load(tmp_path / "weights")
    with pytest.warns(UserWarning, match="not compared .* 'position_embedding_type'"):
        converters.to_flax(checkpoint)
    with (
        pytest.warns(UserWarning, match="not compared"),
        pytest.raises(converters.ConversionError, match="position_embedding_type"),
    ):
        converters.build(checkpoint)


def test_wrong_requests_are_refused(folders, tmp_path):
    source = converters.load(saved("bert", folders))
    with pytest.raises(
        converters.ConversionError, match="'timn' is no dialect of bert"
    ):
        converters.to_flax(source, "timn")
    with pytest.raises(ConfigError, match="no format to write; there are safetensors"):
        converters.save(source, tmp_path / "x", "gguf")
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        converters.save(source, tmp_path / "x")
    with pytest.raises(TypeError, match="needs `like`"):
        converters.to_torch(converters.to_flax(source))
    assert not list((tmp_path / "x").iterdir())


def test_a_failed_write_leaves_nothing(folders, tmp_path):
    source = converters.load(saved("bert", folders))
    tree = converters.to_flax(source)
    tree["pooler"]["bias"] = np.array(["text"] * 32)
    with pytest.raises(ValueError):
        converters.save(tree, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_leaves_of_one_model_are_the_same_from_every_layout(folders):
    source = converters.load(saved("bert", folders))
    ours = leaves(source)
    for dialect in ("scanned", "head_split", "hf_flax"):
        assert_same(leaves(in_dialect(source, dialect)), ours)


def test_of_a_file_the_config_alone_goes_along(folders, tmp_path):
    """What else lies beside a file that was downloaded is none of its business."""
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    (downloads / "letter.txt").write_text("private")
    for name in ("config.json", "model.safetensors"):
        (downloads / name).write_bytes((saved("bert", folders) / name).read_bytes())
    source = converters.load(downloads / "model.safetensors")
    converters.save(in_dialect(source, "nnx"), downloads / "flax", "npz")
    names = {path.name for path in (downloads / "flax").iterdir()}
    assert names == {"config.json", "conversion", "model.npz"}
    flax = converters.load(downloads / "flax")
    converters.save(converters.to_torch(flax), downloads / "torch")
    assert_same_folder(downloads / "torch", saved("bert", folders))
