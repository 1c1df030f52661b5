"""Write `hf_flax.json`: what Hugging Face's own Flax models make of PyTorch weights.

Run by hand in an environment of its own, as transformers 5 has no Flax models:

    pip install transformers==4.57.6 jax==0.10.2 flax==0.12.8 torch==2.13.0
    PYTHONPATH=tests/converters python tests/converters/golden/make_hf_flax.py

Of each model the file has the config, the dtype and shape of each tensor on disk, the
shape and the first 16 hex digits of the SHA-256 of the row-major bytes of each leaf of
the Flax tree, and the outputs of the Flax forward. ResNets of basic blocks are not
here: that Flax class leaves their weights at random.
"""

import hashlib
import json
import tempfile
from pathlib import Path

from stored import inputs, store, table
from torch_models import CASES, fill_model


IDS = [[5, 17, 42, 9, 33, 60], [58, 3, 24, 11, 7, 60]]
IMAGES = {"pixel_values": {"shape": [2, 3, 16, 16]}}
TEXT = {"input_ids": IDS}
ARGUMENTS = {
    "bert": TEXT | {"token_type_ids": [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]]},
    "bert_mlm": {"input_ids": [IDS[0]]},
    "roberta": TEXT,
    "distilbert": TEXT,
    "vit": IMAGES,
    "dinov2_classifier": IMAGES,
    "clip": TEXT | IMAGES,
    "gpt2_lm": {"input_ids": [IDS[0]]},
    "t5": {"input_ids": [IDS[0]], "decoder_input_ids": [[0, 12, 50, 31]]},
    "t5_gated_untied": {"input_ids": [IDS[0]], "decoder_input_ids": [[0, 12, 50, 31]]},
    "llama": {"input_ids": [IDS[0]]},
    "mistral": {"input_ids": [IDS[0]]},
    "gemma": {"input_ids": [IDS[0]]},
    "resnet_bottleneck": {"pixel_values": {"shape": [2, 3, 32, 32]}},
}
OUTPUTS = (
    "logits",
    "last_hidden_state",
    "pooler_output",
    "text_embeds",
    "image_embeds",
    "logits_per_image",
)


def older(fields):
    """The fields of a config, less what the Flax models do otherwise.

    FlaxLlama always has the default theta; the window of FlaxMistral is one wider.
    """
    others = {
        name: value for name, value in fields.items() if name != "rope_parameters"
    }
    return others | {"sliding_window": 40} if "sliding_window" in fields else others


def leaf(x):
    """The shape and the digest of one leaf."""
    return [list(x.shape), hashlib.sha256(x.tobytes()).hexdigest()[:16]]


def entry(case, folder):
    """All that is stored of one model."""
    import numpy as np
    import torch
    import transformers
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import load_file

    fields, given = older(CASES[case]), {"inputs": ARGUMENTS[case]}
    kind = getattr(transformers, fields["architectures"][0])
    model = fill_model(kind(kind.config_class.from_dict(fields)))
    model.save_pretrained(folder)
    flax = getattr(transformers, f"Flax{kind.__name__}")
    flax = flax.from_pretrained(folder, from_pt=True)

    arguments = inputs(given)
    found = flax(**arguments)
    found = {name: np.asarray(found[name]) for name in OUTPUTS if name in found}
    with torch.no_grad():
        wanted = model(**{k: torch.from_numpy(v) for k, v in arguments.items()})
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name].numpy(), atol=2e-5, rtol=0)
    leaves = flatten_dict(flax.params, sep="/")
    return given | {
        "config": json.loads((Path(folder) / "config.json").read_text()),
        "tensors": table(load_file(Path(folder) / "model.safetensors")),
        "flax": {path: leaf(np.asarray(x)) for path, x in leaves.items()},
        "outputs": {name: value.tolist() for name, value in found.items()},
    }


def main():
    import jax.numpy as jnp

    clip = jnp.clip  # FlaxT5 calls it by the names that it had before
    jnp.clip = lambda x, a_min=None, a_max=None: clip(x, a_min, a_max)
    models = {}
    for case in ARGUMENTS:
        with tempfile.TemporaryDirectory() as folder:
            models[case] = entry(case, folder)
    store("hf_flax", models)


if __name__ == "__main__":
    main()
