"""A damaged file beside the weights is an error that names it, whatever it holds."""

import json
from pathlib import Path

import numpy as np
import pytest
from folders import save, task_arithmetic, tensors

from mda_jax import pipeline
from mda_jax.converters.formats import write_file
from mda_jax.pipeline import MergeError
from mda_jax.pipeline.output import Output


UP = "model.layers.0.mlp.up_proj"
FILES = {
    "base/config.json": {"dtype": "float32", "text_config": {"vocab_size": 12}},
    "base/modules.json": [{"path": ""}, {"path": "1_Pooling"}],
    "base/tokenizer.json": {
        "model": {
            "type": "WordLevel",
            "vocab": {str(i): i for i in range(11)},
            "unk_token": "0",
        },
        "added_tokens": [{"id": 11, "content": "<s>", "special": True}],
    },
    "base/tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": [{"name": "default", "template": "x"}],
        "added_tokens_decoder": {"11": {"content": "<s>", "special": True}},
        "bos_token": "<s>",
    },
    "base/special_tokens_map.json": {
        "bos_token": {"content": "<s>"},
        "additional_special_tokens": ["0"],
    },
    "base/added_tokens.json": {"<s>": 11},
    "lora/adapter_config.json": {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "rank_pattern": {"up_proj": 2},
    },
}
ODD = (None, 3, -1.5, True, "x", [], {}, [1], ["x"], {"content": [1]}, {"x": None})


@pytest.fixture
def config(tmp_path):
    base, one = (save(tmp_path / n, tensors(s)) for s, n in enumerate(["base", "a"]))
    (tmp_path / "lora").mkdir()
    factors = {"A": np.ones((2, 8), np.float32), "B": np.ones((16, 2), np.float32)}
    names = {f"base_model.model.{UP}.lora_{n}.weight": x for n, x in factors.items()}
    write_file(tmp_path / "lora" / "adapter_model.safetensors", names)
    for file, content in FILES.items():
        (tmp_path / file).write_text(json.dumps(content))
    (one / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    return task_arithmetic(
        base,
        f"{one}+{tmp_path / 'lora'}",
        dtype="bfloat16",
        chat_template="auto",
        tokenizer={"source": "union", "pad_to_multiple_of": 8},
    )


def spoilt(content):
    """The content with something odd in place of each of its parts."""
    yield from ODD
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        parts = spoilt(value) if isinstance(value, dict | list) else ODD
        for part in parts:
            copy = content.copy()
            copy[key] = part
            yield copy


@pytest.mark.parametrize("file", FILES)
def test_other_content(config, tmp_path, file, monkeypatch):
    monkeypatch.setattr(Output, "put", _stop)
    for content in spoilt(FILES[file]):
        (tmp_path / file).write_text(json.dumps(content))
        with pytest.raises((_Reached, MergeError)) as caught:
            pipeline.run(config, tmp_path / "out")
        if caught.type is MergeError:
            assert str(tmp_path / Path(file).parent) in str(caught.value)
        assert not list(tmp_path.glob("out*"))


class _Reached(Exception):
    """The files beside the weights were fine."""


def _stop(*arguments):
    raise _Reached
