"""The notes beside a converted checkpoint, damaged and hostile."""

import copy
import json
import shutil

import pytest
from torch_models import saved

from mda_jax import converters
from mda_jax.converters import ConversionError, FormatError


FILE = "source", "outlines", "model.safetensors"
NAMING = "source", "naming"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    source = converters.load(saved("resnet_basic", folder))
    converters.save(converters.in_dialect(source, "nnx"), folder / "flax", "msgpack")
    return folder / "flax"


def changed(notes, steps, value):
    notes = copy.deepcopy(notes)
    *path, last = steps
    node = notes
    for step in path:
        node = node[step]
    node[last] = value
    return json.dumps(notes)


def convert_back(converted, text, folder):
    """Everything in `folder` afterwards, but the source."""
    source = folder / "inner/source"
    shutil.copytree(converted, source)
    (source / "conversion/notes.json").write_text(text)
    try:
        back = converters.to_torch(converters.load(source))
        converters.save(back, folder / "inner/out")
    finally:
        shutil.rmtree(source)
        assert set(folder.rglob("*")) == {folder / "inner"}


@pytest.mark.parametrize(
    "name", ["../stolen.txt", "{}/stolen.txt", "a/b", "..", ".", "", "a\0b"]
)
@pytest.mark.parametrize("is_text", [True, False])
def test_no_file_is_written_elsewhere(name, is_text, converted, tmp_path):
    notes = json.loads((converted / "conversion/notes.json").read_text())
    outlines = notes["source"]["outlines"]
    file = {"text": "mine"} if is_text else outlines["model.safetensors"]
    text = changed(notes, FILE[:2], {name.format(tmp_path): file})
    with pytest.raises(FormatError, match="a file's name has no folders"):
        convert_back(converted, text, tmp_path)


@pytest.mark.parametrize(
    ("steps", "value"),
    [
        ((*FILE, "outline", "size"), 2**62),
        ((*FILE, "outline", "size"), -1),
        ((*FILE, "outline", "size"), "9"),
        ((*FILE, "outline", "kept"), [[2**70, "a"]]),
        ((*FILE, "outline", "kept"), [[160892, "a"]]),
        ((*FILE, "outline", "kept"), [[-5, "a"]]),
        ((*FILE, "outline", "kept"), [[0, "\u20ac"]]),
        ((*FILE, "outline", "kept"), []),
        ((*FILE, "outline"), None),
        ((*FILE, "specs"), {"a": 1}),
        (FILE, {"text": 3}),
        (FILE[:2], []),
        (("source",), None),
        (("naming",), []),
        (("naming", "family"), [1]),
        (("naming", "more"), 1),
        ((*NAMING, "family"), "bert"),
        ((*NAMING, "dialect"), "nothing"),
        ((*NAMING, "prefix"), "other."),
        ((*NAMING, "wrapper"), "other."),
        ((*NAMING, "ties"), {"classifier.1.weight": []}),
        ((*NAMING, "ties"), {"classifier.1.weight": ["resnet.x"]}),
        (("source", "sizes"), {"heads": 0}),
        (("version",), 2),
    ],
)
def test_notes_that_make_no_sense_are_refused(steps, value, converted, tmp_path):
    notes = json.loads((converted / "conversion/notes.json").read_text())
    with pytest.raises((FormatError, ConversionError)):
        convert_back(converted, changed(notes, steps, value), tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"a":' * 100_000, "9" * 6000, "\0"])
def test_damaged_notes_are_refused(text, converted, tmp_path):
    with pytest.raises(FormatError, match="Convert the checkpoint again"):
        convert_back(converted, text, tmp_path)


def test_links_to_folders_are_not_followed(converted, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(converted, source)
    (tmp_path / "private").mkdir()
    (tmp_path / "private/key.txt").write_text("secret")
    (source / "away").symlink_to(tmp_path / "private")
    (source / "itself").symlink_to(source)
    converters.save(converters.load(source), tmp_path / "out", "npz")
    assert [p.name for p in tmp_path.glob("out/**/*.txt")] == []
    assert not (tmp_path / "out/itself").exists()
