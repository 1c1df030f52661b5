"""Local folders first; what is not here comes from the hub, or is an error."""

import os
import subprocess
import sys
import types
from fnmatch import fnmatch
from pathlib import Path

import pytest
from folders import read, save, tensors
from ruamel.yaml import YAML

from mda_jax.pipeline import ConfigError
from mda_jax.pipeline.config import load
from mda_jax.pipeline.references import Located, locate


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that gives every repository but `lost/...`, and notes what it gave.

    Those of `old/` have PyTorch's files, the others safetensors.
    """
    given = []

    def snapshot_download(name, *, revision, allow_patterns, ignore_patterns):
        if name.startswith("lost"):
            raise OSError("401 Client Error.\n\nThe repository is gated.\n")
        given.append((name, revision, allow_patterns))
        assert ignore_patterns == ["consolidated*.safetensors"]
        folder = tmp_path / "cache" / name / (revision or "main")
        folder.mkdir(parents=True, exist_ok=True)
        suffix = ".bin" if name.startswith("old/") else ".safetensors"
        for file in (f"pytorch_model{suffix}", f"adapter_model{suffix}"):
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                (folder / file).touch()
        return str(folder)

    fake = types.ModuleType("huggingface_hub")
    fake.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return given


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def make(*names):
    for name in names:
        Path(name).mkdir(parents=True)


def test_a_folder_of_the_name_comes_first(here, hub):
    names = ["a", "a@main", "a+b", "a+b@main", "org/a", "a+b+c", "@", "+", "a b"]
    make("b", *names)
    for name in names:
        assert locate(name) == Located(Path(name))
    assert not hub


@pytest.mark.parametrize(
    ("reference", "model", "adapter"),
    [
        ("m+x", "m", "x"),
        ("m+x+y", "m", "x+y"),
        ("m+n+x", "m+n", "x"),
        ("m+n+x+y", "m+n", "x+y"),
        ("m@1+x@2", "m@1", "x@2"),
    ],
)
def test_names_with_signs_in_them(here, hub, reference, model, adapter):
    make("m", "x", "m+n", "x+y", "m@1", "x@2")
    assert locate(reference) == Located(Path(model), Path(adapter))
    assert not hub


def test_home_is_expanded(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    make("m", "x")
    assert locate("~/m+~/x") == Located(here / "m", here / "x")


def test_a_file_may_be_a_model(here):
    Path("m.safetensors").touch()
    assert locate("m.safetensors") == Located(Path("m.safetensors"))


@pytest.mark.parametrize(
    ("reference", "fetched"),
    [
        ("org/name", [("org/name", None)]),
        ("name", [("name", None)]),
        ("name@v1.0", [("name", "v1.0")]),
        ("org/na.me_2-b@refs/pr/3", [("org/na.me_2-b", "refs/pr/3")]),
        ("org/name+org/lora@0a1b", [("org/name", None), ("org/lora", "0a1b")]),
        ("org/name@x+lora", [("org/name", "x"), ("lora", None)]),
        ("m+org/lora", [("org/lora", None)]),
        ("org/name+x", [("org/name", None)]),
        ("org/name+x+y", [("org/name", None)]),
    ],
)
def test_what_is_fetched(here, hub, reference, fetched):
    make("m", "x", "x+y")
    found = locate(reference)
    assert [(name, revision) for name, revision, _ in hub] == fetched
    for each in filter(None, found):
        assert each.is_dir()
    assert (found.adapter is None) == ("+" not in reference)
    for name, _, files in hub:
        assert ("adapter_config.json" in files) == ("lora" in name)
        assert ("*.json" in files) != ("lora" in name)
        assert not any(pattern.endswith(".bin") for pattern in files)


def test_pytorchs_files_are_fetched_where_there_are_no_others(here, hub):
    found = locate("old/name@v1+old/lora")
    held = [[f.name for f in folder.iterdir()] for folder in found]
    assert held == [["pytorch_model.bin"], ["adapter_model.bin"]]
    assert [name for name, *_ in hub] == ["old/name"] * 2 + ["old/lora"] * 2


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("m@main", r"^model 'm@main': 'm' is a folder here, which has no revisions"),
        ("m+x@main", r"^adapter 'x@main': 'x' is a folder here.*leave out '@main'"),
        ("./missing", r"^model './missing': no such folder; give a folder, or a repos"),
        ("/a/b/c", "no such folder; give"),
        ("a/b/c", "no such folder; give"),
        ("../b", "no such folder; give"),
        ("a b", "no such folder; give"),
        ("", "no such folder; give"),
        ("@main", "no such folder; give"),
        ("org/name@", "no such folder; give"),
        ("org/name@a@b", "no such folder; give"),
        ("m+", r"^adapter '': no such folder; give"),
        ("+x", r"^model '': no such folder; give"),
        ("m+./z", r"^adapter './z': no such folder; give"),
        ("m+x+z", r"'x\+z' is no folder, and a model takes one adapter"),
        ("a+b+c", r"'b\+c' is no folder, and a model takes one adapter"),
        ("lost/one", r"no such folder, and the hub does not give it: 401 Client Error"),
        (
            "m+lost/one",
            r"^adapter 'lost/one': .* 401 Client Error. The repo.* gated\.$",
        ),
    ],
)
def test_what_is_refused(here, hub, reference, expected):
    make("m", "x")
    with pytest.raises(ConfigError, match=expected) as caught:
        locate(reference)
    assert "\n" not in str(caught.value) and not hub


def test_without_the_hubs_package(here, no_hub):
    make("m")
    for name, kind in {"org/name@1": "model", "m+org/name": "adapter"}.items():
        with pytest.raises(ConfigError, match="^" + kind) as caught:
            locate(name)
        text = str(caught.value)
        assert "pip install 'mda-jax[hub]', or download it" in text
        assert "\n" not in text and "no such folder" in text
    assert locate("m") == Located(Path("m"))


def test_what_is_one_model(here):
    make("m", "x", "y")
    one = Located(Path("m"), Path("x"))
    assert one.is_same(Located(Path("./m/../m"), here / "x"))
    assert Located(Path("m")).is_same(Located(here / "m"))
    for other in (Located(Path("m")), Located(Path("m"), Path("y"))):
        assert not one.is_same(other) and not other.is_same(one)
    assert not one.is_same(Located(Path("y"), Path("x")))
    assert len({str(each.path) for each in (one, Located(Path("m")))}) == 2


# ---- in a configuration ----


def config(model, **top):
    return {"merge_method": "linear", "models": [{"model": model}], **top}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"path": "m"}, ("m", None)),
        ({"model": "m"}, ("m", None)),
        ({"model": {"path": "m"}}, ("m", None)),
        ({"model": "m", "lora": "x"}, ("m", "x")),
        ({"model": "m", "lora": {"path": "x"}}, ("m", "x")),
        ({"model": {"path": "m", "revision": None}, "lora": None}, ("m", None)),
        ({"path": "m", "lora": "x"}, ("m", "x")),
    ],
)
def test_mappings(here, hub, model, expected):
    make("m", "x")
    (ingredient,) = load(config(model)).sections[0].ingredients
    assert ingredient.name == "+".join(filter(None, expected))
    assert ingredient.model == Located(*(each and Path(each) for each in expected))
    assert ingredient.folder == Path("m") and not hub


def test_mappings_with_revisions(here, hub):
    model = {"path": "org/m", "revision": "v1"}
    lora = {"path": "org/x", "revision": "v2"}
    (found,) = load(config({"model": model, "lora": lora})).sections[0].ingredients
    assert [given[:2] for given in hub] == [("org/m", "v1"), ("org/x", "v2")]
    assert found.name == "org/m@v1+org/x@v2"
    cache = here / "cache/org"
    assert found.model == Located(cache / "m/v1", cache / "x/v2")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"path": "m", "model": "m"}, "a model is a name, {path, revision} or {model,"),
        ({"lora": "m"}, r"not a mapping of \['lora'\]"),
        (
            {"path": "m", "reversion": "1"},
            "unknown key 'reversion' of a model; did you",
        ),
        ({"path": "m", "revision": 1.5}, r"'revision': got 1\.5; expected text"),
        ({"path": 3}, r"'path': got 3; expected text"),
        ({"path": "m", "lora": ["x"]}, r"'lora': got \['x'\]; expected text"),
        ({"path": "m", "revision": "main"}, "'m' is a folder here, which has no rev"),
        ({"model": "m", "lora": "./y"}, "adapter './y': no such folder"),
    ],
)
def test_mappings_that_are_refused(here, model, expected):
    make("m", "x")
    file = here / "c.yml"
    with file.open("w") as opened:
        YAML(typ="safe").dump(config(model), opened)
    with pytest.raises(ConfigError, match=r"c\.yml:\d+: .*" + expected) as caught:
        load(file)
    assert "\n" not in str(caught.value)


def test_the_base_is_found_among_the_models(here):
    make("m", "x")
    models = [{"model": name, "parameters": {"weight": 1}} for name in ("m+x", "m")]
    for base, place in {"m": 1, "./m+./x": 0}.items():
        request = load(config("m", models=models, base_model=base))
        (section,) = request.sections
        assert (len(section.ingredients), section.base) == (2, place)
    models = models[:1]
    (section,) = load(config("m", models=models, base_model="m")).sections
    assert (len(section.ingredients), section.base) == (2, 1)


# ---- the hub's own package, offline ----

OFFLINE = """
import sys
from mda_jax.pipeline.errors import ConfigError
from mda_jax.pipeline.references import locate

try:
    print(locate(sys.argv[1]).folder)
except ConfigError as e:
    print(e)
"""


@pytest.fixture
def offline(tmp_path):
    """What a process says that has the cache only."""
    pytest.importorskip("huggingface_hub")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    environment.pop("HF_HUB_CACHE", None)

    def said(reference):
        command = [sys.executable, "-c", OFFLINE, reference]
        options = {"capture_output": True, "text": True, "check": True}
        done = subprocess.run(command, env=environment, cwd=tmp_path, **options)
        return done.stdout.strip()

    return said


def test_offline_the_cache_is_used(tmp_path, offline):
    repository = tmp_path / "hf/hub/models--org--name"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/v1").write_text(commit)
    model = save(repository / "snapshots" / commit, tensors(0))
    assert offline("org/name@v1") == offline(f"org/name@{commit}") == str(model)
    assert read(Path(offline("org/name@v1"))).keys() == tensors(0).keys()
    text = offline("org/name")  # of which no main branch is here
    assert text.startswith("model 'org/name': no such folder, and the hub does not")
    assert "\n" not in text
