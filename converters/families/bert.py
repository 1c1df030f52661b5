"""BERT and MiniLM: one encoder with several heads."""

from dataclasses import replace

from mda_jax.converters.dialects import (
    OLD_NORMS,
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


HUB = Dialect(
    "hub",
    TORCH,
    prefixes=("bert.", ""),
    backbone=(
        embed("embeddings.{a:word|position|token_type}_embeddings", "embeddings/{a}"),
        norm("embeddings.LayerNorm", "embeddings/norm"),
        buffer("embeddings.{a:position_ids|token_type_ids}"),
        linear(
            "encoder.layer.{i}.attention.self.{a:query|key|value}",
            "layers/{i}/attention/{a}",
        ),
        linear("encoder.layer.{i}.attention.output.dense", "layers/{i}/attention/out"),
        norm(
            "encoder.layer.{i}.attention.output.LayerNorm", "layers/{i}/attention_norm"
        ),
        linear("encoder.layer.{i}.intermediate.dense", "layers/{i}/mlp/up"),
        linear("encoder.layer.{i}.output.dense", "layers/{i}/mlp/down"),
        norm("encoder.layer.{i}.output.LayerNorm", "layers/{i}/mlp_norm"),
        linear("pooler.dense", "pooler"),
    ),
    heads=(
        linear("cls.predictions.transform.dense", "mlm/dense"),
        norm("cls.predictions.transform.LayerNorm", "mlm/norm"),
        param("cls.predictions.bias", "mlm/bias"),
        linear("cls.predictions.decoder", "mlm/decoder"),
        linear("cls.seq_relationship", "next_sentence"),
        linear("classifier", "classifier"),
        linear("qa_outputs", "span"),
    ),
    ties=(
        ("^embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ),
)
OLD = replace(HUB, name="hub_old_norms", flavour=OLD_NORMS)

FAMILY = Family("bert", ("bert",), (HUB, OLD, linen(HUB)))
