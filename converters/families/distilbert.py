"""DistilBERT: the leaves of BERT under other names, without segments and pooler."""

from mda_jax.converters.dialects import (
    TORCH,
    Dialect,
    Family,
    buffer,
    embed,
    linear,
    linen,
    norm,
    param,
)
from mda_jax.converters.rules import Rule
from mda_jax.converters.transforms import permute


HUB = Dialect(
    "hub",
    TORCH,
    prefixes=("distilbert.", ""),
    backbone=(
        embed("embeddings.{a:word|position}_embeddings", "embeddings/{a}"),
        norm("embeddings.LayerNorm", "embeddings/norm"),
        buffer("embeddings.position_ids"),
        linear(
            "transformer.layer.{i}.attention.{a:q|k|v|out}_lin",
            "layers/{i}/attention/{a:query|key|value|out}",
        ),
        norm("transformer.layer.{i}.sa_layer_norm", "layers/{i}/attention_norm"),
        linear("transformer.layer.{i}.ffn.lin1", "layers/{i}/mlp/up"),
        linear("transformer.layer.{i}.ffn.lin2", "layers/{i}/mlp/down"),
        norm("transformer.layer.{i}.output_layer_norm", "layers/{i}/mlp_norm"),
    ),
    heads=(
        linear("vocab_transform", "mlm/dense"),
        norm("vocab_layer_norm", "mlm/norm"),
        param("vocab_projector.bias", "mlm/bias"),
        Rule(("vocab_projector.weight",), ("mlm/decoder/kernel",), permute(1, 0)),
        linear("pre_classifier", "pre_classifier"),
        linear("classifier", "classifier"),
        linear("qa_outputs", "span"),
    ),
    ties=(("^embeddings.word_embeddings.weight", "vocab_projector.weight"),),
)

FAMILY = Family("distilbert", ("distilbert",), (HUB, linen(HUB)))
