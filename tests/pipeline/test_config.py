"""Every key is understood or refused, with its line."""

import itertools

import pytest
from folders import save, task_arithmetic, tensors

from mda_jax.pipeline import ConfigError
from mda_jax.pipeline.config import load
from mda_jax.pipeline.recipe import MERGEKIT_ONLY, recipe


COMPLETE = """\
merge_method: ties
base_model: {0}/base
dtype: float32
out_dtype: bfloat16
parameters:
  normalize: true
  int8_mask: true
  rescale: false
  lambda: 0.9
models:
- model: {0}/a
  parameters:
    weight: 0.5
    density: 0.4
- model:
    path: {0}/b
  parameters:
    weight: 0.5
"""
KEYS = (
    "merge_method base_model dtype out_dtype parameters normalize int8_mask rescale"
    " lambda models model weight density path".split()
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(["base", "a", "b"]):
        save(folder / name, tensors(seed))
    return folder


def settle(path, text):
    path.write_text(text)
    return recipe(load(path))


def message(path, text):
    with pytest.raises(ConfigError) as caught:
        settle(path, text)
    return str(caught.value)


def test_all_forms_are_understood(models, tmp_path):
    done = settle(tmp_path / "c.yml", COMPLETE.format(models))
    assert [p.name for p in done.experts] == ["a", "b"]
    assert done.donor.name == "base" and done.trim.densities == (0.4, 1.0)


def typos():
    for key in KEYS:
        for i in range(len(key)):
            yield key, key[:i] + key[i + 1 :]
        for i in range(len(key) - 1):
            if key[i] != key[i + 1]:
                yield key, key[:i] + key[i + 1] + key[i] + key[i + 2 :]


@pytest.mark.parametrize(("key", "typo"), list(typos()))
def test_every_typo_is_an_error(models, tmp_path, key, typo):
    lines = COMPLETE.format(models).splitlines()
    number = next(
        i for i, line in enumerate(lines) if line.lstrip("- ").startswith(key)
    )
    lines[number] = lines[number].replace(key, typo, 1)
    text = message(tmp_path / "c.yml", "\n".join(lines))
    assert "\n" not in text
    assert text.startswith(f"{tmp_path / 'c.yml'}:")
    # A key of the top level that is missing by its right name is reported as that.
    assert key in text


def test_a_misspelt_required_key_is_not_merely_missing(models, tmp_path):
    text = f"merge_method: linear\nmodls: [{models}/a]\n"
    assert "c.yml:2: unknown key 'modls'; did you mean 'models'?" in message(
        tmp_path / "c.yml", text
    )


def test_an_unknown_key_has_its_line_and_its_neighbour(models, tmp_path):
    text = COMPLETE.format(models).replace("out_dtype", "outdtype")
    assert "c.yml:4: unknown key 'outdtype'; did you mean 'out_dtype'?" in message(
        tmp_path / "c.yml", text
    )
    text = COMPLETE.format(models).replace("  density", "  densty")
    assert (
        "c.yml:14: ties has no parameter 'densty'; did you mean 'density'?"
        in message(tmp_path / "c.yml", text)
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("merge_method: ties", "slices: []", "layer slices is not supported yet"),
        ("merge_method: ties", "tokenizer: {}", "'tokenizer': building a tokenizer"),
        ("merge_method: ties", "modules: {}", "per-module merges is not"),
        ("merge_method: ties", "tokenizer_source: base", "'tokenizer_source': build"),
        ("merge_method: ties", "chat_template: auto", "'chat_template': choosing"),
        ("merge_method: ties", "merge_method: slerp", "method of mergekit that is not"),
        ("merge_method: ties", "merge_method: teis", "did you mean 'ties'?"),
        ("merge_method: ties", "", "'merge_method' is missing"),
        ("merge_method: ties", "merge_method: 3", "Input should be a valid string"),
        ("weight: 0.5\n    d", "weight: [0, 1]\n    d", "gradient over the layers"),
        (
            "weight: 0.5\n    d",
            "weight: [{value: 1}]\n    d",
            "conditional is not supp",
        ),
        ("weight: 0.5\n    d", "weight: {value: 1}\n    d", "conditional is not supp"),
        ("weight: 0.5\n    d", "weight: true\n    d", "got True; expected a number"),
        ("weight: 0.5\n    d", "weight: much\n    d", "expected a number or a boolean"),
        ("weight: 0.5\n    d", "weight: .nan\n    d", "expected a number or a boolean"),
        ("weight: 0.5\n    d", "d", "'weight' is required by ties"),
        ("density: 0.4", "density: 40", "got 40; expected a fraction in (0, 1]"),
        ("density: 0.4", "density: 0", "got 0; expected a fraction in (0, 1]"),
        ("density: 0.4", "lambda: 0.4", "'lambda' is one for all models"),
        ("density: 0.4", "gamma: 0.4", "ties has no parameter 'gamma'"),
        ("normalize: true", "normalize: 1", "got 1.0; expected true or false"),
        ("normalize: true", "t: 0.5", "ties has no parameter 't'"),
        ("dtype: float32", "dtype: int64", "Input should be 'bfloat16', 'float16' or"),
        ("/a\n", "/a+lora\n", "merging an adapter (model+adapter) is not supported"),
        ("/a\n", "/a@main\n", "hub revisions (model@revision) are not supported"),
        ("/a\n", "/missing\n", "no such folder; models are local folders"),
        ("path: ", "lora: x\n    path: ", "'lora': merging adapters is not"),
        ("path: ", "revision: x\n    path: ", "'revision': hub revisions are not"),
        ("models:\n", "models:\n- 3\n", "Input should be a valid dictionary"),
        ("base_model", "'x", "no valid YAML"),
        ("base_model", "dtype", "no valid YAML: found duplicate key"),
        ("- model:\n", "- {model: [}\n", "no valid YAML"),
    ],
)
def test_what_is_refused_and_how(models, tmp_path, old, new, expected):
    text = COMPLETE.format(models)
    assert old in text
    found = message(tmp_path / "c.yml", text.replace(old, new, 1))
    assert expected in found and "\n" not in found


def test_lines_are_those_of_the_file(models, tmp_path):
    text = COMPLETE.format(models)
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("    weight"):
            wrong = text.splitlines()
            wrong[number - 1] = "    weight: x"
            assert f"c.yml:{number}:" in message(tmp_path / "c.yml", "\n".join(wrong))


@pytest.mark.parametrize("text", ["", "[]", "a: &x [*x]", "\0", "3", "--- {}\n--- {}"])
def test_no_mapping_at_all(tmp_path, text):
    assert "c.yml" in message(tmp_path / "c.yml", text)


def test_no_such_file(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file"):
        load(tmp_path / "c.yml")


def test_yaml_merge_keys_and_anchors(models, tmp_path):
    text = f"""\
merge_method: task_arithmetic
base_model: {models}/base
models:
- model: {models}/a
  parameters: &own
    weight: 0.5
- model: {models}/b
  parameters:
    <<: *own
"""
    assert len(settle(tmp_path / "c.yml", text).experts) == 2
    text = text.replace("    weight: 0.5", "    weights: 0.5")
    assert "has no parameter 'weights'" in message(tmp_path / "c.yml", text)


def test_the_base_among_the_models_is_no_expert(models):
    config = task_arithmetic(models / "base", models / "base", models / "a")
    assert [e.name for e in recipe(load(config)).experts] == ["a"]
    alone = task_arithmetic(models / "base", models / "base" / ".")
    with pytest.raises(ConfigError, match="no model besides base_model"):
        recipe(load(alone))


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "tsv", "iso_c", "mda"])
def test_a_base_is_required(models, method):
    config = task_arithmetic(models / "base", models / "a", merge_method=method)
    del config["base_model"]
    with pytest.raises(ConfigError, match=f"{method} needs 'base_model'"):
        recipe(load(config))


def test_linear_averages_the_base_too(models):
    config = task_arithmetic(models / "base", models / "a", merge_method="linear")
    with pytest.raises(ConfigError, match=r"linear averages base_model too"):
        recipe(load(config))
    done = recipe(load(config | {"parameters": {"weight": 1}}))
    assert [e.name for e in done.experts] == ["a", "base"]
    listed = task_arithmetic(models / "base", models / "base", models / "a")
    done = recipe(load(listed | {"merge_method": "linear"}))
    assert [e.name for e in done.experts] == ["base", "a"]


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_weights_that_cancel_cannot_be_normalised(models, method):
    config = task_arithmetic(models / "base", models / "a", models / "b")
    config["models"][1]["parameters"] = {"weight": -0.5}
    config |= {"merge_method": method, "parameters": {"normalize": True}}
    if method == "linear":
        del config["base_model"]
    with pytest.raises(ConfigError, match="the weights sum to 0"):
        recipe(load(config))


def test_lambda_is_scale(models):
    config = task_arithmetic(models / "base", models / "a", merge_method="tsv")
    for name, other in itertools.permutations(["lambda", "scale"]):
        done = recipe(load(config | {"parameters": {name: 0.25}}))
        assert "0.25" in repr(done.stage)
        with pytest.raises(ConfigError, match="same number: give one"):
            recipe(load(config | {"parameters": {name: 0.25, other: 0.25}}))


def test_no_method_is_both_ours_and_not_yet():
    from mda_jax import methods

    assert not MERGEKIT_ONLY & set(methods.names)
