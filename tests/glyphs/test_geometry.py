"""Geometry of merges on the benchmark."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mda_jax.features import neural_collapse
from mda_jax.glyphs import geometry, scripts
from mda_jax.glyphs.score import exam, features_of
from mda_jax.glyphs.store import SHIPPED


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scripts.SUITES, "8", scripts.SUITES["8"][:2])
        settings = {"task_arithmetic": {"scale": 0.5}}
        return geometry.geometry(["task_arithmetic"], settings=settings, size=48)


def test_every_scale_has_its_measures(found):
    assert len(found["merges"]) == len(geometry.MULTIPLES)
    for merge, multiple in zip(found["merges"], geometry.MULTIPLES, strict=True):
        assert merge["hyper"] == {"scale": 0.5 * multiple}
        assert 0 <= merge["accuracy"] <= merge["normalised"] <= 1.1
        assert 0 < merge["etf_deviation"] < 2 and 0 < merge["energy"] < 1
        assert merge["turned_angle"] < merge["angle"] < 180


def test_correlations_are_those_of_numpy(found):
    accuracy = [merge["accuracy"] for merge in found["merges"]]
    for name in geometry.MEASURES:
        measure = [merge[name] for merge in found["merges"]]
        if name == "energy":  # of a sum it is the same at every scale
            assert np.ptp(measure) <= 1e-4
            continue
        each = found["correlations"][name]["pearson"]
        want = np.corrcoef(accuracy, measure)[0, 1]
        assert each["value"] == pytest.approx(want)
        assert each["low"] < each["value"] < each["high"]


def test_energy_is_the_share_inside_the_frame():
    """Experts of rank one and a merge half inside the span of their frame."""
    base = {"kernel": jnp.zeros((6, 6))}
    eye = jnp.eye(6)
    rows = [jnp.outer(eye[5], eye[t]) for t in range(2)]  # of outputs t, [in, out]
    experts = [{"kernel": row} for row in rows]
    # The frame of 2 vertices spans the difference of the outputs alone.
    inside, outside = rows[0] - rows[1], rows[0] + rows[1]
    for change, want in ((inside, 1.0), (outside, 0.0), (inside + outside, 0.5)):
        energy = geometry.frame_energy(base, experts, {"kernel": change})
        assert energy == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("task", ["upper", "digits"])
def test_experts_are_nearer_to_neural_collapse_than_the_base(task):
    """But not to duality (NC3): heads stay as they are while experts train."""
    test = exam([task], SHIPPED, jax.random.key(3), 200)
    labels, head = jnp.asarray(test.labels[0]), jnp.asarray(SHIPPED.head(task))

    def measured(params):
        z = features_of(params, test.pictures[0])
        return neural_collapse(jnp.asarray(z), labels, head)

    expert, base = measured(SHIPPED.expert(task)), measured(SHIPPED.base())
    assert expert.variability < base.variability / 5
    assert expert.frame < base.frame - 0.1
    assert expert.nearest_mean < base.nearest_mean / 10
