"""The search for a method's numbers."""

import math

import pytest

from mda_jax import methods
from mda_jax.glyphs import tune
from mda_jax.glyphs.score import methods_named


@pytest.mark.parametrize("name", methods_named("all"))
def test_every_number_of_every_method_is_tried(name):
    tried = {(name, *setting.items()) for setting in settings(name)}
    for number, default in tune.defaults(name).items():
        values = {dict(setting[1:])[number] for setting in tried}
        assert len(values) >= 4 and min(values) < default <= max(values)
    for setting in settings(name):
        getattr(methods, name)(**setting)


def settings(name):
    met = []

    def worth(hyper):
        met.append(hyper)
        return 0.0

    tune.tuned(name, tune.every_number(name), worth)
    return met


def test_the_best_setting_met_is_returned():
    def worth(hyper):  # best at ridge 0.1, scale 1.3
        return -abs(hyper["ridge"] - 0.1) - abs(hyper["scale"] - 1.3)

    lines = []
    found = tune.tuned("mda", tune.every_number("mda"), worth, lines.append)
    assert found == {"ridge": 0.1, "scale": 1.17}
    assert [line.split(" in ")[0] for line in lines] == [
        "mda: trying scale", "mda: trying ridge", "mda: trying scale",
    ]  # fmt: skip


@pytest.mark.parametrize("goal", [0.02, 5.0])
def test_a_round_goes_on_beyond_its_ends(goal):
    """The best scale is within one ratio of the grid of a goal outside the grid."""

    def worth(hyper):
        return -abs(math.log(hyper["scale"] / goal))

    (scale,) = tune.tuned("tsv", tune.scale_only("tsv"), worth).values()
    assert 1 / 1.7 < scale / goal < 1.7


def test_a_method_without_numbers_has_no_setting():
    assert tune.tuned("linear", tune.every_number("linear"), lambda h: 0.0) == {}


def test_fractions_end_at_one():
    assert max(s["common"] for s in settings("iso_cts")) == 1
    assert max(s["scale"] for s in settings("iso_cts")) > 1
