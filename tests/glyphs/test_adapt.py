"""Adaptive merging on the benchmark."""

import numpy as np
import pytest

from mda_jax.glyphs import adapt, scripts


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scripts.SUITES, "8", scripts.SUITES["8"][:2])
        patch.setattr(adapt, "RATES", (1e-3,))
        patch.setattr(adapt, "BASES", ("task_arithmetic",))
        return adapt.adapt(steps=3, draws=2, test_size=48, validation_size=48)


def test_every_way_to_learn_is_scored(found):
    losses = [each["loss"] for each in found["learned"]]
    assert len(set(losses)) == len(losses) == 4
    for each in found["learned"]:
        assert each["deltas"] == "task_arithmetic"
        assert each["rate"] == 1e-3 and each["seconds"] > 0
        assert each["absolute"] == pytest.approx(np.mean(each["draws"]))
        assert (
            np.abs(np.subtract(each["draws"], each["before"])).max() < 0.1
        )  # 3 small steps


def test_every_head_is_scored(found):
    heads = {each["head"]: each["absolute"] for each in found["aligned"]}
    assert set(heads) == {"as it is", "experts' means", "own labels", "experts' labels"}
    assert heads["as it is"] == np.mean(found["learned"][0]["before"])
    assert min(heads.values()) > 0.3  # chance is 0.1 at most
