"""The chat template of the output."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mda_jax.pipeline.config import Request
from mda_jax.pipeline.document import nearest
from mda_jax.pipeline.sidecars import holding, optional_json, read_json, write_json


FILE, OPTIONS, OLD = (
    "chat_template.jinja",
    "tokenizer_config.json",
    "chat_template.json",
)
_KEY = "chat_template"
_SHORTEST = 20  # characters that a template has at least

_SYSTEM_FIRST = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system, turns = messages[0]['content'], messages[1:] %}"
    "{% else %}"
    "{% set system, turns = '', messages %}"
    "{% endif %}"
)
_WRONG_ORDER = (
    "{% if (turn['role'] == 'user') != (loop.index0 is even) %}"
    "{{ raise_exception('user and assistant take turns; the user begins') }}"
    "{% endif %}"
)
BUILT_IN = {
    "alpaca": _SYSTEM_FIRST + "{{ bos_token or '' }}"
    "{% if system %}{{ system | trim + '\\n\\n' }}{% endif %}"
    "{% for turn in turns %}"
    "{% if turn['role'] == 'user' %}"
    "{{ '### Instruction:\\n' + turn['content'] | trim + '\\n\\n' }}"
    "{% elif turn['role'] == 'assistant' %}"
    "{{ '### Response:\\n' + turn['content'] | trim + (eos_token or '') + '\\n\\n' }}"
    "{% else %}"
    "{{ '### ' + turn['role'] | capitalize + ':\\n' + turn['content'] | trim"
    " + '\\n\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}",
    "chatml": "{% for turn in messages %}"
    "{{ '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "exaone": "{% for turn in messages %}"
    "{% if loop.first and turn['role'] != 'system' %}{{ '[|system|][|endofturn|]\\n' }}"
    "{% endif %}"
    "{{ '[|' + turn['role'] + '|]' + turn['content'] }}"
    "{% if turn['role'] != 'user' %}{{ '[|endofturn|]' }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}",
    "llama3": "{{ bos_token or '' }}"
    "{% for turn in messages %}"
    "{{ '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\\n\\n'"
    " + turn['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}",
    "mistral": _SYSTEM_FIRST + "{{ bos_token or '' }}"
    "{% for turn in turns %}" + _WRONG_ORDER + "{% if turn['role'] == 'user' %}"
    "{{ ' [INST] ' if not loop.first else '[INST] ' }}"
    "{% if loop.first and system %}{{ system | trim + '\\n\\n' }}{% endif %}"
    "{{ turn['content'] | trim + ' [/INST]' }}"
    "{% else %}"
    "{{ ' ' + turn['content'] | trim + (eos_token or '') }}"
    "{% endif %}"
    "{% endfor %}",
}


def template(request: Request) -> str | None:
    """Choose the chat template.

    Args:
      request: the merge.

    Returns:
      The template; None if none is asked for, or `auto` finds none.

    Raises:
      ConfigError: it is neither `auto`, nor built in, nor Jinja text.
      MergeError: a file of a model is damaged.
    """
    wanted = request.config.chat_template
    if wanted is None:
        return None
    if wanted == "auto":
        return _most_common(model.folder for model in request.models.values())
    if wanted in BUILT_IN:
        return BUILT_IN[wanted]
    if len(wanted) < _SHORTEST or "{" not in wanted:
        hint = nearest(wanted, ["auto", *BUILT_IN])
        problem = f"{wanted!r} is neither a name nor Jinja text; {hint}."
        raise request.document.error((_KEY,), f"{_KEY!r}: {problem}")
    return wanted


def write_template(text: str, to: Path) -> Path:
    """Write the chat template to a folder, in place of any that it has.

    Args:
      text: Jinja text.
      to: an existing folder.

    Returns:
      The file that has it; the tokenizer's options note it too, for older readers.
    """
    (to / FILE).write_text(text, encoding="utf-8")
    for name in (OPTIONS, OLD):
        if (to / name).is_file():
            write_json(to / name, read_json(to / name) | {_KEY: text})
    return Path(FILE)


def _most_common(folders: Iterable[Path]) -> str | None:
    """What most models have; of equally many the first."""
    found = Counter(filter(None, map(_of_model, folders)))
    return found.most_common(1)[0][0] if found else None


def _of_model(folder: Path) -> str:
    """A model's template without spaces around it; empty if it has none."""
    if (folder / FILE).is_file():
        return (folder / FILE).read_text(encoding="utf-8").strip()
    for name in (OPTIONS, OLD):
        noted = optional_json(folder / name).get(_KEY)
        if isinstance(noted, list):  # of several, by name
            with holding(folder / name, f"templates and their names as {_KEY!r}"):
                noted = {t["name"]: t["template"] for t in noted}.get("default")
        if noted:
            return str(noted).strip()
    return ""
