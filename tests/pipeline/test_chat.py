"""The chat template of the output."""

import json

import pytest
from folders import save, task_arithmetic, tensors
from transformers import AutoTokenizer

from mda_jax import pipeline
from mda_jax.pipeline import ConfigError
from mda_jax.pipeline.chat import BUILT_IN


ONE, TWO = "{{ messages[0].content }} one", "{{ messages[0].content }} two"
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]
# By the formats' public definitions; <s> and </s> stand for begin and end.
WANTED = {
    "alpaca": "<s>Be kind.\n\n### Instruction:\nHi\n\n### Response:\nHello</s>\n\n"
    "### Instruction:\nBye\n\n### Response:\n",
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\n",
    "exaone": "[|system|]Be kind.[|endofturn|]\n[|user|]Hi\n"
    "[|assistant|]Hello[|endofturn|]\n[|user|]Bye\n[|assistant|]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Be kind.\n\nHi [/INST] Hello</s> [INST] Bye [/INST]",
}
VOCAB = {"<s>": 0, "</s>": 1}
TOKENIZER = {"added_tokens": [], "model": {"type": "WordLevel", "vocab": VOCAB}}


@pytest.fixture
def folders(tmp_path):
    """Three models with a tokenizer each."""
    found = []
    for seed, name in enumerate(["base", "a", "b"]):
        folder = save(tmp_path / name, tensors(seed), vocab_size=12)
        whole = TOKENIZER | {"version": "1.0", "normalizer": None, "decoder": None}
        whole |= dict.fromkeys(["pre_tokenizer", "post_processor", "padding"])
        whole["model"] = TOKENIZER["model"] | {"unk_token": "<s>"}
        (folder / "tokenizer.json").write_text(json.dumps(whole))
        note(folder)
        found.append(folder)
    return found


def note(folder, **options):
    roles = {"bos_token": "<s>", "eos_token": "</s>"}
    roles |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles | options))


def merge(folders, template, **top):
    out = folders[0].parent / "out"
    config = task_arithmetic(*folders, chat_template=template, **top)
    return pipeline.run(config, out, force=True), out


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_templates_give_their_format(folders, name):
    report, out = merge(folders, name)
    loaded = AutoTokenizer.from_pretrained(out)
    options = {"tokenize": False, "add_generation_prompt": True}
    assert loaded.apply_chat_template(TALK, **options) == WANTED[name]
    options["add_generation_prompt"] = False
    assert WANTED[name].startswith(loaded.apply_chat_template(TALK, **options))
    assert any(f.name == "chat_template.jinja" for f in report.files)
    assert loaded.apply_chat_template(TALK[1:3], **options)


def test_exaone_begins_with_an_empty_system_turn(folders):
    _, out = merge(folders, "exaone")
    loaded = AutoTokenizer.from_pretrained(out)
    found = loaded.apply_chat_template(TALK[1:2], tokenize=False)
    assert found == "[|system|][|endofturn|]\n[|user|]Hi\n"


def test_mistral_takes_turns(folders):
    _, out = merge(folders, "mistral")
    loaded = AutoTokenizer.from_pretrained(out)
    with pytest.raises(Exception, match="take turns"):
        loaded.apply_chat_template([*TALK, TALK[-1]], tokenize=False)


def test_every_note_of_the_template_is_replaced(folders):
    note(folders[0], chat_template=ONE)
    (folders[0] / "chat_template.json").write_text(json.dumps({"chat_template": ONE}))
    _, out = merge(folders, TWO)
    assert AutoTokenizer.from_pretrained(out).chat_template == TWO
    for name in ("tokenizer_config.json", "chat_template.json"):
        assert json.loads((out / name).read_text())["chat_template"] == TWO
    assert (out / "chat_template.jinja").read_text() == TWO


def test_auto_takes_what_most_models_have(folders):
    base, a, b = folders
    (base / "chat_template.jinja").write_text(ONE)
    note(base, chat_template=TWO)  # the other file counts
    note(a, chat_template=f"  {TWO}\n")
    several = [{"name": "tool", "template": ONE}, {"name": "default", "template": TWO}]
    note(b, chat_template=several)
    _, out = merge(folders, "auto")
    assert (out / "chat_template.jinja").read_text() == TWO
    note(b)
    (b / "chat_template.json").write_text(json.dumps({"chat_template": f"{ONE} "}))
    _, out = merge(folders, "auto")
    assert (out / "chat_template.jinja").read_text() == ONE


def test_auto_without_any_template_says_so(folders):
    report, out = merge(folders, "auto")
    assert "no model has a chat template" in report.warnings[0]
    assert not (out / "chat_template.jinja").exists()


@pytest.mark.parametrize("wrong", ["chatlm", "{{ messages }}", "x" * 99, ""])
def test_what_is_no_template(folders, wrong):
    with pytest.raises(ConfigError, match=r"is neither a name nor Jinja text; did you"):
        merge(folders, wrong)


def test_a_tokenizer_and_a_template_at_once(folders):
    note(folders[1], chat_template=ONE)
    top = {"tokenizer": {"tokens": {"<|im_start|>": {}, "<|im_end|>": {}}}}
    _, out = merge(folders, "chatml", **top)
    loaded = AutoTokenizer.from_pretrained(out)
    assert loaded.chat_template == BUILT_IN["chatml"]
    assert loaded.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [2, 3]


def test_it_is_written_without_the_other_files_of_the_tokenizer(folders):
    config = task_arithmetic(*folders, chat_template="chatml")
    pipeline.run(config, folders[0].parent / "out", tokenizer=False)
    found = {p.name for p in (folders[0].parent / "out").iterdir()}
    assert "chat_template.jinja" in found and "tokenizer.json" not in found
