"""Every typo of one character in a key is an error with its line and the right name."""

import json
import re

import numpy as np
import pytest
from folders import save, tensors

from mda_jax.pipeline import ConfigError
from mda_jax.pipeline.config import load
from mda_jax.pipeline.dialect import MERGEKIT
from mda_jax.pipeline.job import settle
from mda_jax.pipeline.recipe import recipe


# Keys in angle brackets are those to misspell; each stands alone in its line.
SECTIONS = {
    "models": """\
<merge_method>: ties
<base_model>: {0}/base
<dtype>: float32
<out_dtype>: bfloat16
<chat_template>: auto
<parameters>:
  <normalize>: true
  <int8_mask>: true
  <rescale>: false
  <lambda>: 0.9
  weight: 1
<models>:
- <model>: {0}/a
  <parameters>:
    <weight>:
    - <filter>: mlp
      <value>: 0.5
    - <value>: 0.3
    <density>:
      <value>: [0.4, 0.5]
- <model>:
    <path>: {0}/b
    <revision>: null
- <model>:
    <model>: {0}/b
    <lora>: null
""",
    "slices": """\
merge_method: slerp
base_model: {0}/base
<slices>:
- <sources>:
  - <model>: {0}/base
    <layer_range>: [0, 1]
  - model: {0}/a
    layer_range: [0, 1]
  <base_model>: {0}/base
  <residual_weight>: 0.5
  <parameters>:
    <t>:
      <filter>: mlp
      value: 0.3
parameters:
  t: 0.5
""",
    "modules": """\
<name>: merged
merge_method: passthrough
<tokenizer_source>: base
base_model: {0}/base
<modules>:
  all:
    <slices>:
    - sources:
      - model: {0}/base
        layer_range: [0, 1]
        <parameters>:
          <scale>: 2
    <parameters>:
      scale: 0.5
""",
    "tokenizer": """\
merge_method: linear
base_model: {0}/base
models: [{0}/a]
parameters:
  <weight>: 0.5
<tokenizer>:
  <source>: union
  <pad_to_multiple_of>: 8
  <tokens>:
    a:
      <source>: {0}/a
      <force>: true
    b:
      source:
        <kind>: zero
    c:
      source:
        <kind>: model_token
        <model>: {0}/a
        <token>: d
    d:
      source:
        kind: model_token
        model: {0}/a
        <token_id>: 1
""",
}
_TOKENIZER = {"type": "WordLevel", "vocab": dict(zip("abcd", range(4), strict=True))}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(["base", "a", "b"]):
        content = tensors(seed)
        content["model.layers.0.mlp.down.weight"] = np.ones((8, 16), np.float32)
        save(folder / name, content, vocab_size=12)
        tokenizer = {"model": _TOKENIZER | {"unk_token": "a"}, "added_tokens": []}
        (folder / name / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def typos(key):
    """Each letter left out, doubled, replaced, or swapped with the next."""
    for i, letter in enumerate(key):
        before, after = key[:i], key[i + 1 :]
        yield before + after
        yield before + letter + letter + after
        yield before + "x" + after
        yield before + after[:1] + letter + after[1:]


def spelt(models, section):
    return re.sub("[<>]", "", SECTIONS[section].format(models))


def keys():
    for section, text in SECTIONS.items():
        for number, line in enumerate(text.splitlines(), start=1):
            for key in re.findall("<(.+)>", line):
                yield section, number, key


@pytest.mark.parametrize("section", SECTIONS)
def test_without_typos_they_are_fine(models, tmp_path, section):
    (tmp_path / "c.yml").write_text(spelt(models, section))
    settle(tmp_path / "c.yml", None)


@pytest.mark.parametrize(("section", "number", "key"), list(keys()))
def test_every_typo_is_an_error(models, tmp_path, section, number, key):
    lines, file = spelt(models, section).splitlines(), tmp_path / "c.yml"
    for typo in {*typos(key)} - {key}:
        spoilt = lines[number - 1].replace(key, typo, 1)
        file.write_text("\n".join([*lines[: number - 1], spoilt, *lines[number:]]))
        with pytest.raises(ConfigError) as caught:
            settle(file, None)
        text = str(caught.value)
        assert text.startswith(f"{file}:{number}: ") and "\n" not in text
        assert not typo or f"did you mean '{key}'?" in text or f" {key}" in text


@pytest.mark.parametrize("method", [m for m in MERGEKIT if MERGEKIT[m].signature])
def test_every_typo_of_a_parameter_is_an_error(models, method):
    for name in MERGEKIT[method].signature:
        for typo in {*typos(name)} - {name, *MERGEKIT[method].signature}:
            request = load(
                {
                    "merge_method": method,
                    "base_model": f"{models}/base",
                    "models": [f"{models}/a"],
                    "parameters": {typo: None},
                }
            )
            with pytest.raises(ConfigError, match=rf"parameter '{typo}';.* {name}\b"):
                recipe(request)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("dtype: ", "null: ", "3: the key None is no text; expected a name, maybe in"),
        ("  normalize: ", "  1: ", "7: the key 1 is no text"),
        ("    weight:\n", "    true: 3\n    weight:\n", "15: the key True is"),
        (
            "dtype: float32",
            "dtpye: null",
            "3: unknown key 'dtpye'; did you mean 'dtype'",
        ),
        ("rescale: false", "rescael: null", "9: ties has no parameter 'rescael'"),
    ],
)
def test_keys_that_are_no_names(models, tmp_path, old, new, expected):
    file = tmp_path / "c.yml"
    text = spelt(models, "models")
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        settle(file, None)
    assert str(caught.value).startswith(f"{file}:{expected}")


def test_keys_without_a_value_are_as_good_as_absent(models):
    config = {
        "merge_method": "linear",
        "models": [{"model": f"{models}/a", "parameters": {"weight": None}}],
        "slices": None,
        "dtype": None,
        "parameters": {"weight": 2, "normalize": None},
    }
    (part,) = (part for part, _ in settle(config, None).parts)
    (numbers,) = {*part.numbers.values()}
    assert numbers.each("weight") == (2,) and numbers.common["normalize"] is True
