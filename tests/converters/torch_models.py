"""Small models of every family, built by transformers from `golden/configs.json`."""

import json
from pathlib import Path

import pytest
from fill import fill


CASES = json.loads((Path(__file__).parent / "golden/configs.json").read_text())


def slow_but(*always, of):
    """Cases for `parametrize`, of which all but some are left to the slow tests."""
    return [pytest.param(c, marks=[] if c in always else pytest.mark.slow) for c in of]


def fill_model(model):
    """Give each tensor of a torch module the weights that follow from its name."""
    import torch

    kept = model.state_dict()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name in kept:
                values = fill(name, tuple(tensor.shape), tensor.numpy().dtype)
                tensor.copy_(torch.from_numpy(values))
    return model.eval()


def build(case):
    """The model of `case` in eval mode, with weights that follow from their names."""
    import torch
    import transformers

    fields = CASES[case]
    kind = getattr(transformers, fields["architectures"][0])
    model = kind(kind.config_class.from_dict(fields))
    if fields["model_type"] == "t5" and not fields.get("tie_word_embeddings", True):
        # The class always ties; from_pretrained unties where a file has both tensors.
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return fill_model(model)


def saved(case, folder):
    """The folder below `folder` with the files of `case`, written at the first call."""
    from transformers.utils import logging

    target = Path(folder) / case
    if not target.exists():
        logging.disable_progress_bar()
        build(case).save_pretrained(target)
    return target
