"""What a merge would do, told from the configuration and the headers of the files."""

import os
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from mda_jax import trees
from mda_jax.pipeline.adapters import Adapted
from mda_jax.pipeline.arithmetic import Arithmetic, in_float32
from mda_jax.pipeline.forecast import forecast
from mda_jax.pipeline.job import Job, settle
from mda_jax.pipeline.naming import Naming, Rules
from mda_jax.pipeline.parameters import Numbers, Signature


DIFFERENCES = {
    "arcee_fusion": "divergences are computed without cancellation, quantiles are"
    " exact, and the result has the models' type: mergekit's float32 divergences of"
    " near models are rounding noise, it draws a million entries of larger tensors, and"
    " writes float32",
    "breadcrumbs": "small tensors keep their deltas: mergekit before 0.1.5 drops them",
    "breadcrumbs_ties": "small tensors keep their deltas: mergekit before 0.1.5 drops"
    " them",
    "dare_linear": "masks are drawn from seed, tensor and model: not mergekit's draws",
    "dare_ties": "masks are drawn from seed, tensor and model: not mergekit's draws",
    "della": "masks are drawn from seed, tensor and model: not mergekit's draws",
    "della_linear": "masks are drawn from seed, tensor and model: not mergekit's draws",
    "karcher": "angles between nearly parallel weights are those of float32 cosines, in"
    " which mergekit's and these differ by rounding",
    "ramplus_tl": "the result has the models' type: mergekit writes float32",
    "sce": "of equal variances the earlier is kept: mergekit's choice is not defined",
    "ties": "of equal magnitudes the earlier is kept: mergekit's choice is not defined",
}
_ARITHMETIC = (
    "arithmetic is float32, rounded once at the end: mergekit computes in the models'"
    " type, or in dtype, and so does --compat mergekit"
)
_LAST_BITS = (
    "functions and sums over a tensor are not PyTorch's to the last bit of float32, so"
    " that a few entries may be rounded to the neighbour"
)
_ADAPTERS = (
    "adapters are added in float32: mergekit rounds a model with its adapter to the"
    " model's type before it merges"
)


class Row(NamedTuple):
    """Tensors that are treated alike."""

    tensors: str  # the name, with `*` for the numbers of layers, and how many
    shape: tuple[int, ...]
    read: str  # element type
    written: str
    rule: str  # and the parameters


class Plan(NamedTuple):
    """What a merge would do.

    Attributes:
      method: name of the merge method.
      rows: what happens to the tensors of the output.
      dropped: model -> tensor -> why the output lacks it.
      tied: model -> tensor -> the tied one that is used instead.
      bytes_read: of weights, each model's counted once.
      bytes_written: of weights.
      peak_memory: bytes that the merge is to hold at most, as the compiler predicts.
      seconds: the least that the merge takes once started: without reading files and
        without factorisations of matrices.
      differences: where the result differs from mergekit's, and why.
      names: how many tensors follow each rule for names, one line each.
      warnings: what deserves a second look, one line each.
    """

    method: str
    rows: list[Row]
    dropped: dict[str, dict[str, str]]
    tied: dict[str, dict[str, str]]
    bytes_read: int
    bytes_written: int
    peak_memory: int
    seconds: float
    differences: list[str]
    names: list[str]
    warnings: list[str]

    def summary(self) -> list[str]:
        """What is not in the rows, one line each."""
        lines = [
            f"reads {self.bytes_read / 1e9:.3g} GB, writes"
            f" {self.bytes_written / 1e9:.3g} GB",
            f"holds at most {self.peak_memory / 1e6:.0f} MB",
            f"takes at least {self.seconds:.2g} s once started, not counting files and"
            " factorisations of matrices",
        ]
        for model, names in self.dropped.items():
            for why, count in Counter(names.values()).items():
                lines.append(f"{model}: {count} tensors {why}")
        for model, names in self.tied.items():
            pairs = ", ".join(f"{name} from {other}" for name, other in names.items())
            lines.append(f"{model}: tied, read from their partner: {pairs}")
        lines += [f"by your rules for names: {line}" for line in self.names]
        return lines + [f"unlike mergekit: {line}" for line in self.differences]


def plan(
    config: str | os.PathLike[str] | Mapping[str, Any],
    *,
    layout: trees.Rules | None = None,
    truncate_embeddings: bool = False,
    arithmetic: Arithmetic = in_float32,
    names: Rules = MappingProxyType({}),
) -> Plan:
    """Say what `run` would do; only headers are read.

    Args:
      config: a YAML file in mergekit's schema, or its content as a dictionary.
      layout: rules for the roles of tensors; see `mda_jax.trees.layouts`.
      truncate_embeddings: cut all token tables to the shortest.
      arithmetic: as for `run`.
      names: rules for what names of tensors mean, as of `run`.

    Returns:
      The plan.

    Raises:
      ConfigError: the configuration makes no sense; `others` has the other problems
        that were found with it.
      FormatError: a weight file is damaged.
      MergeError: the models do not fit each other; `others` as above.
    """
    how = layout, arithmetic, names
    job = settle(config, *how, truncate_embeddings=truncate_embeddings)
    views = [v for part, _ in job.parts for v in (part.donor, *part.experts)]
    read = sum(
        view.on_disk(name).nbytes
        for view in {id(v): v for v in views}.values()
        for name in view
    )
    expected = forecast(job)
    return Plan(
        job.recipe.method,
        _rows(job),
        job.dropped,
        job.tied,
        read,
        sum(spec.nbytes for spec in job.specs.values()),
        expected.memory,
        expected.seconds,
        _differences(job),
        job.naming.lines(job.models.values()),
        job.tokens.warnings,
    )


def _rows(job: Job) -> list[Row]:
    """One row for all tensors that differ in the number of their layer alone."""
    rules, alike, signature = job.rules, Counter[Row](), job.recipe.signature
    for part, _ in job.parts:
        for name in part.donor:
            read, written = part.donor.on_disk(name), job.specs[name]
            given = (
                _words(part.numbers[name], signature) if name in part.numbers else ""
            )
            what = f"{rules[name]}{given}"
            types = str(read.dtype), str(written.dtype)
            alike[
                Row(
                    _template(part.donor.stored(name), job.naming),
                    read.shape,
                    *types,
                    what,
                )
            ] += 1
    return [
        row._replace(tensors=f"{row.tensors} ({n})" if n > 1 else row.tensors)
        for row, n in alike.items()
    ]


def _template(name: str, naming: Naming) -> str:
    """The name with `*` for the number of its layer.

    >>> from mda_jax.pipeline.naming import INFERRED
    >>> _template("model.layers.3.mlp.up_proj.weight", INFERRED)
    'model.layers.*.mlp.up_proj.weight'
    """
    found = naming.layer(name)
    return name if found is None else found.renumbered("*")


def _words(numbers: Numbers, signature: Signature) -> str:
    """The parameters of a tensor that are not the method's defaults, as text."""
    own = [(n, "/".join(f"{x:.4g}" for x in each), each) for n, each in numbers.own]
    common = [(n, f"{x:.4g}", (x,)) for n, x in numbers.items]
    return "".join(
        f", {name} {str(values[0]).lower() if signature[name].is_flag else text}"
        for name, text, values in own + common
        if set(values) != {signature[name].default}
    )


def _differences(job: Job) -> list[str]:
    found = [DIFFERENCES[m] for m in [job.recipe.method] if m in DIFFERENCES]
    if any(isinstance(model, Adapted) for model in job.models.values()):
        found.append(_ADAPTERS)
    if job.arithmetic != ["float32"]:
        found.append(_LAST_BITS)
    elif any(spec.dtype.itemsize < 4 for spec in job.specs.values()):
        found.append(_ARITHMETIC)
    return found
