"""Small model folders made on the spot."""

import json

import numpy as np

from mda_jax.converters.formats import open_tensors, write_folder


SHAPES = {
    "model.embed_tokens.weight": (12, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.mlp.up_proj.weight": (16, 8),
    "model.norm.weight": (8,),
    "lm_head.weight": (12, 8),
}


def tensors(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=shape).astype(dtype) for n, shape in SHAPES.items()}


def save(path, content, **config):
    path.mkdir()
    write_folder(path, content)
    (path / "config.json").write_text(json.dumps({"dtype": "float32"} | config))
    return path


def read(path):
    return {n: np.array(a) for n, a in open_tensors(path).items()}


def task_arithmetic(base, *experts, **top):
    models = [{"model": str(e), "parameters": {"weight": 0.5}} for e in experts]
    config = {"merge_method": "task_arithmetic", "base_model": str(base)}
    return config | {"models": models} | top
