"""Write `big_vision.json`: vision transformers in the layouts of Google's npz files.

Run by hand in the environment of the tests:

    PYTHONPATH=tests/converters python tests/converters/golden/make_big_vision.py

There is no package to import. The names and the order of the computation are those of
`big_vision/models/vit.py` (github.com/google-research/big_vision), of its form with
scanned blocks, and of the older `vit_jax` (github.com/google-research/
vision_transformer); the modules are Linen's own. GELU is Linen's default, by tanh.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from stored import inputs, store, table, weights
from torch_models import CASES


CONFIG = CASES["vit"] | {"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"}
GIVEN = {"inputs": {"pixel_values": {"shape": [2, 3, 16, 16]}}}
NEW = "LayerNorm_0 MultiHeadDotProductAttention_0 LayerNorm_1 MlpBlock_0".split()
OLD = "LayerNorm_0 MultiHeadDotProductAttention_1 LayerNorm_2 MlpBlock_3".split()


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(48)(x))
        return nn.Dense(x.shape[-1])(y)


class Block(nn.Module):
    names: list[str]

    @nn.compact
    def __call__(self, x, _):
        norm, attention, second, mlp = self.names
        y = nn.LayerNorm(name=norm)(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=4, name=attention)(y, y)
        return x + Mlp(name=mlp)(nn.LayerNorm(name=second)(x)), None


class Positions(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + self.param("pos_embedding", nn.initializers.zeros, (1, *x.shape[1:]))


class Encoder(nn.Module):
    """The blocks; in the older form also the positions, with one of the class token."""

    old: bool
    scanned: bool

    @nn.compact
    def __call__(self, x):
        if self.old:
            x = Positions(name="posembed_input")(x)
        names = OLD if self.old else NEW
        if self.scanned:
            block = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=2,
            )
            x, _ = block(names, name="encoderblock")(x, None)
        else:
            for i in range(2):
                x, _ = Block(names, name=f"encoderblock_{i}")(x, None)
        return nn.LayerNorm(name="encoder_norm")(x)


class Vit(nn.Module):
    token: bool = True
    old: bool = False
    scanned: bool = False

    @nn.compact
    def __call__(self, image):
        x = nn.Conv(32, (4, 4), (4, 4), padding="VALID", name="embedding")(image)
        x = x.reshape(len(x), -1, 32)
        if not self.old:
            shape = (1, *x.shape[1:])
            x = x + self.param("pos_embedding", nn.initializers.zeros, shape)
        if self.token:
            token = self.param("cls", nn.initializers.zeros, (1, 1, 32))
            x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
        x = Encoder(self.old, self.scanned, name="Transformer")(x)
        return nn.Dense(3, name="head")(x[:, 0] if self.token else x.mean(1))


def entry(**arguments):
    """All that is stored of one model."""
    image = inputs(GIVEN)["pixel_values"].transpose(0, 2, 3, 1)
    model = Vit(**arguments)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    stored = GIVEN | {"tensors": table(flatten_dict(shapes, sep="/"))}
    params = unflatten_dict(weights(stored), sep="/")
    outputs = {"logits": model.apply({"params": params}, image).tolist()}
    return {"arguments": arguments, "config": CONFIG} | stored | {"outputs": outputs}


if __name__ == "__main__":
    store(
        "big_vision",
        {
            "token": entry(),
            "mean": entry(token=False),
            "scanned": entry(scanned=True),
            "old": entry(old=True),
        },
    )
