"""The same YAML gives the same weights as mergekit 0.1.5 (tests/pipeline/golden).

The folder holds its tiny random models, and of each output the outer tensors and the
first layer. Entries marked in `ambiguous.npz` depend on mergekit's unstable sort.
"""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mda_jax import pipeline
from mda_jax.converters.formats import open_tensors


GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(p.name for p in (GOLDEN / "cases").iterdir())


@pytest.mark.parametrize("case", CASES)
def test_mergekit_agrees(case, tmp_path, monkeypatch):
    monkeypatch.chdir(GOLDEN)
    folder = GOLDEN / "cases" / case
    report = pipeline.run(folder / "config.yml", tmp_path / "out")
    actual, expected = open_tensors(tmp_path / "out"), open_tensors(folder / "expected")
    masks = folder / "ambiguous.npz"
    ambiguous = dict(np.load(masks)) if masks.exists() else {}
    assert expected.keys() <= actual.keys() == report.rules.keys()
    assert not report.warnings
    for name, want in expected.items():
        got = actual[name]
        assert got.dtype == want.dtype, name
        # A float32 result may be rounded to the neighbouring bfloat16.
        ulp = float(ml_dtypes.finfo(want.dtype).eps) if want.itemsize < 4 else 0
        error = np.abs(got.astype(np.float64) - want.astype(np.float64))
        error[ambiguous.get(name, np.zeros(error.shape, bool))] = 0
        assert (error <= 1e-6 + ulp * np.abs(want.astype(np.float64))).all(), name


@pytest.mark.parametrize("case", ["ties", "qwen_ties", "tied_task_arithmetic"])
def test_the_config_is_that_of_the_base(case, tmp_path, monkeypatch):
    monkeypatch.chdir(GOLDEN)
    pipeline.run(f"cases/{case}/config.yml", tmp_path / "out")
    expected = GOLDEN / "cases" / case / "expected" / "config.json"
    assert (tmp_path / "out" / "config.json").read_text() == expected.read_text()
