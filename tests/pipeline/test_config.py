"""Every key is understood or refused, with its line."""

import itertools

import pytest
from folders import save, task_arithmetic, tensors

from mda_jax.converters.formats import open_tensors
from mda_jax.pipeline import ConfigError
from mda_jax.pipeline.config import load
from mda_jax.pipeline.parts import parts
from mda_jax.pipeline.recipe import recipe


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


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(["base", "a", "b"]):
        save(folder / name, tensors(seed))
    return folder


def settled(source):
    """The only part of a merge."""
    request = load(source)
    folders = [each.folder for each in request.sections[0].ingredients]
    models = {folder: open_tensors(folder) for folder in folders}
    (part,) = parts(request, recipe(request), models)
    return part


def settle(path, text):
    path.write_text(text)
    return settled(path)


def experts(part):
    return [each.path.name for each in part.experts]


def step(part):
    """What happens to every tensor alike."""
    (found,) = {id(each): each for each in part.steps.values()}.values()
    return found


def message(path, text):
    with pytest.raises(ConfigError) as caught:
        settle(path, text)
    return str(caught.value)


def test_all_forms_are_understood(models, tmp_path):
    done = settle(tmp_path / "c.yml", COMPLETE.format(models))
    assert experts(done) == ["a", "b"] and done.donor.path.name == "base"
    assert step(done).trim.densities == (0.4, 1.0)


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
        ("merge_method: ties", "slices: []", "'models' and 'slices' exclude each"),
        (
            "dtype: float32",
            "tokenizer: {sauce: base}",
            "c.yml:3: unknown key 'tokenizer.sauce'; did you mean 'source'?",
        ),
        (
            "dtype: float32",
            "tokenizer:\n  tokens:\n    sources:\n      sorce: x",
            "c.yml:6: unknown key 'tokenizer.tokens.sources.sorce'; did you mean 's",
        ),
        (
            "dtype: float32",
            "tokenizer: {tokens: {parameters: {source: {kind: zero, x: 1}}}}",
            "c.yml:3: unknown key 'tokenizer.tokens.parameters.source.x'; did you",
        ),
        (
            "dtype: float32",
            "tokenizer: {tokens: {x: {source: {kind: zero, token: y}}}}",
            "kind: zero takes nothing else",
        ),
        (
            "dtype: float32",
            "tokenizer: {tokens: {x: {source: {kind: model_token, model: y}}}}",
            "kind: model_token takes 'model' and one of 'token' and 'token_id'",
        ),
        (
            "dtype: float32",
            "tokenizer: {tokens: {x: {source: {kind: zeros}}}}",
            "Input should be 'zero' or 'model_token', got 'zeros'",
        ),
        (
            "dtype: float32",
            "tokenizer: {tokens: {x: {source: {token: y}}}}",
            "a token of a model takes 'kind: model_token'",
        ),
        (
            "dtype: float32",
            "tokenizer: {pad_to_multiple_of: 0}",
            "'tokenizer.pad_to_multiple_of': Input should be greater than 0, got 0",
        ),
        (
            "dtype: float32",
            "tokenizer: {source: nowhere/else/at all}",
            "c.yml:3: model 'nowhere/else/at all': no such folder",
        ),
        (
            "dtype: float32",
            "tokenizer: {}\ntokenizer_source: base",
            "'tokenizer' and 'tokenizer_source' exclude each other; give 'tokenizer'",
        ),
        ("merge_method: ties", "modules: {}", "'models' and 'modules' exclude each"),
        ("dtype: float32", "tokenizer_source: 3", "'tokenizer_source': Input should"),
        ("dtype: float32", "chat_template: 3", "'chat_template': Input should be a"),
        ("merge_method: ties", "merge_method: slrp", "did you mean 'slerp'?"),
        ("merge_method: ties", "merge_method: teis", "did you mean 'ties'?"),
        ("merge_method: ties", "", "'merge_method' is missing"),
        ("merge_method: ties", "merge_method: 3", "Input should be a valid string"),
        ("weight: 0.5\n    d", "weight: []\n    d", "expected a number or a boolean"),
        ("weight: 0.5\n    d", "weight: [1, x]\n    d", "a list of numbers (over the"),
        (
            "weight: 0.5\n    d",
            "weight: [{vale: 1}]\n    d",
            "unknown key 'vale'; did you mean 'value'?",
        ),
        (
            "weight: 0.5\n    d",
            "weight: [0, .inf]\n    d",
            "expected a number or a bool",
        ),
        (
            "weight: 0.5\n    d",
            "weight: [{filter: atn, value: 1}, {value: 2}]\n    d",
            "c.yml:13: filter 'atn' is in the name of no tensor",
        ),
        (
            "weight: 0.5\n    d",
            "weight: {filter: mlp, value: 1}\n    d",
            "parameter 'weight' is required by ties",
        ),
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
        ("/a\n", "/a+./x\n", "c.yml:11: adapter './x': no such folder"),
        ("/a\n", "/a@main\n", "/a' is a folder here, which has no revisions"),
        ("/a\n", "/missing\n", "no such folder; give a folder, or a repository"),
        ("path: ", "lora: ./x\n    path: ", "adapter './x': no such folder"),
        ("path: ", "revision: 3\n    path: ", "'revision': got 3; expected text"),
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
    assert experts(settled(config)) == ["a"]
    alone = task_arithmetic(models / "base", models / "base" / ".")
    with pytest.raises(ConfigError, match="no model besides base_model"):
        settled(alone)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "tsv", "iso_c", "mda"])
def test_a_base_is_required(models, method):
    config = task_arithmetic(models / "base", models / "a", merge_method=method)
    del config["base_model"]
    with pytest.raises(ConfigError, match=f"{method} needs 'base_model'"):
        settled(config)


def test_linear_averages_the_base_too(models):
    config = task_arithmetic(models / "base", models / "a", merge_method="linear")
    with pytest.raises(
        ConfigError, match=r"base: parameter 'weight' is required by linear"
    ):
        settled(config)
    done = settled(config | {"parameters": {"weight": 1}})
    assert experts(done) == ["a", "base"]
    listed = task_arithmetic(models / "base", models / "base", models / "a")
    done = settled(listed | {"merge_method": "linear"})
    assert experts(done) == ["a", "base"]  # by name, however they are listed


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_weights_that_cancel_cannot_be_normalised(models, method):
    config = task_arithmetic(models / "base", models / "a", models / "b")
    config["models"][1]["parameters"] = {"weight": -0.5}
    config |= {"merge_method": method, "parameters": {"normalize": True}}
    if method == "linear":
        del config["base_model"]
    with pytest.raises(ConfigError, match="the weights sum to 0"):
        settled(config)


def test_lambda_is_scale(models):
    config = task_arithmetic(models / "base", models / "a", merge_method="tsv")
    for name, other in itertools.permutations(["lambda", "scale"]):
        done = settled(config | {"parameters": {name: 0.25}})
        assert "0.25" in repr(step(done).method)
        with pytest.raises(ConfigError, match="same number: give one"):
            settled(config | {"parameters": {name: 0.25, other: 0.25}})
