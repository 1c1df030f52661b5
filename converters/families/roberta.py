"""RoBERTa and XLM-R: the encoder of BERT with other heads."""

from dataclasses import replace

from mda_jax.converters.dialects import Family, linear, linen, norm, param
from mda_jax.converters.families import bert


HUB = replace(
    bert.HUB,
    prefixes=("roberta.", ""),
    heads=(
        linear("lm_head.dense", "mlm/dense"),
        norm("lm_head.layer_norm", "mlm/norm"),
        param("lm_head.bias", "mlm/bias"),
        linear("lm_head.decoder", "mlm/decoder"),
        linear("classifier", "classifier"),
        linear("classifier.dense", "classifier/dense"),
        linear("classifier.out_proj", "classifier/out"),
        linear("qa_outputs", "span"),
    ),
    ties=(
        ("^embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
        ("lm_head.bias", "lm_head.decoder.bias"),
    ),
)

FAMILY = Family("roberta", ("roberta", "xlm-roberta"), (HUB, linen(HUB)))
