"""Several merges in one file."""

import json

import numpy as np
import pytest
from folders import read, save, task_arithmetic, tensors

from mda_jax import pipeline
from mda_jax.pipeline import ConfigError


@pytest.fixture
def models(tmp_path):
    return [save(tmp_path / n, tensors(s)) for s, n in enumerate(["base", "a", "b"])]


def write(tmp_path, *documents):
    file = tmp_path / "several.yml"
    file.write_text("\n---\n".join(json.dumps(each) for each in documents))
    return file


def chain(models):
    """The output needs `second`, which needs `first`; written backwards."""
    base, a, b = models
    first = task_arithmetic(base, a) | {"name": "first"}
    second = task_arithmetic(base, b, "first") | {"name": "second"}
    return task_arithmetic(base, "second"), second, first


def test_named_merges_serve_the_others(models, tmp_path):
    reports = pipeline.run_all(write(tmp_path, *chain(models)), tmp_path / "out")
    assert [r.out.name for r in reports] == ["first", "second", "out"]
    base, a, b = (read(m) for m in models)
    for name, x in read(tmp_path / "out").items():
        # base + (b - base) / 4 + (a - base) / 8: a dozen roundings of values below 8.
        want = base[name] + (b[name] - base[name]) / 4 + (a[name] - base[name]) / 8
        np.testing.assert_allclose(x, want, atol=12 * 8 * 2.0**-24)
    assert not (tmp_path / "out.intermediate").exists()


def test_intermediate_results_may_stay(models, tmp_path):
    kept = tmp_path / "kept"
    file = write(tmp_path, *chain(models))
    pipeline.run_all(file, tmp_path / "out", intermediate=kept)
    assert sorted(p.name for p in kept.iterdir()) == ["first", "second"]


def test_one_document_is_one_merge(models, tmp_path):
    file = write(tmp_path, task_arithmetic(*models))
    (report,) = pipeline.run_all(file, tmp_path / "out")
    assert report.out == tmp_path / "out"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((None, None), "two lack a name"),
        (("x", "x"), "two are called 'x'"),
        (("x", "y"), "the last merge has no name"),
        (("a/b", None), "'a/b' is no name of a folder"),
    ],
)
def test_names_that_make_no_sense(models, tmp_path, names, expected):
    named = [{} if name is None else {"name": name} for name in names]
    documents = [task_arithmetic(*models) | each for each in named]
    with pytest.raises(ConfigError, match=expected):
        pipeline.run_all(write(tmp_path, *documents), tmp_path / "out")


def test_merges_that_need_each_other(models, tmp_path):
    base = models[0]
    x = task_arithmetic(base, "y") | {"name": "x"}
    y = task_arithmetic(base, "x") | {"name": "y"}
    file = write(tmp_path, x, y, task_arithmetic(*models))
    with pytest.raises(ConfigError, match="merges need each other: "):
        pipeline.run_all(file, tmp_path / "out")
