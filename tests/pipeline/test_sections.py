"""Slices, modules, and values that vary over depth and names."""

import json

import numpy as np
import pytest
from folders import read, save

from mda_jax import pipeline
from mda_jax.pipeline import ConfigError, MergeError


LAYERS = 4
Q, MLP, EMBED, NORM = "attn.q.weight", "mlp.up.weight", "wte.weight", "ln_f.weight"


def model(value, layers=LAYERS):
    """Every tensor full of one number, which tells where it came from."""
    names = {EMBED: (5, 3), NORM: (3,)}
    for i in range(layers):
        names |= {f"h.{i}.{Q}": (3, 3), f"h.{i}.{MLP}": (4, 3)}
    return {n: np.full(shape, value, np.float32) for n, shape in names.items()}


@pytest.fixture
def folders(tmp_path):
    values = {"base": 0.0, "one": 1.0, "two": 2.0}
    return {
        name: save(tmp_path / name, model(value), n_layer=LAYERS)
        for name, value in values.items()
    }


def merged(config, tmp_path, out="out"):
    pipeline.run(config, tmp_path / out)
    found = {name: np.unique(x) for name, x in read(tmp_path / out).items()}
    assert all(len(values) == 1 for values in found.values())
    return {name: float(values[0]) for name, values in found.items()}


def arithmetic(folders, weight, **top):
    models = [{"model": str(folders["one"]), "parameters": {"weight": weight}}]
    config = {"merge_method": "task_arithmetic", "base_model": str(folders["base"])}
    return config | {"models": models} | top


def source(folder, start, end, **parameters):
    ranged = {"model": str(folder), "layer_range": [start, end]}
    return ranged | ({"parameters": parameters} if parameters else {})


def test_a_gradient_runs_over_the_layers(folders, tmp_path):
    found = merged(arithmetic(folders, [0, 0.6, 0.9]), tmp_path)
    # Depths 0, 1/3, 2/3, 1; outside the layers the first value counts.
    for i, want in enumerate([0, 0.4, 0.7, 0.9]):
        assert found[f"h.{i}.{Q}"] == pytest.approx(want, abs=1e-6)
    assert found[EMBED] == found[NORM] == 0


def test_the_first_filter_that_matches_counts(folders, tmp_path):
    weight = [{"filter": "attn", "value": 0.5}, {"filter": "1.attn", "value": 9}]
    config = arithmetic(folders, [*weight, {"filter": "*", "value": [0.1, 0.4]}])
    found = merged(config, tmp_path)
    assert found[f"h.1.{Q}"] == 0.5
    assert found[f"h.3.{MLP}"] == pytest.approx(0.4)
    assert found[EMBED] == pytest.approx(0.1)


def test_what_no_filter_covers_falls_through(folders, tmp_path):
    own = [{"filter": "attn", "value": 0.5}]
    config = arithmetic(folders, own, parameters={"weight": 0.25})
    found = merged(config, tmp_path)
    assert found[f"h.0.{Q}"] == 0.5 and found[f"h.0.{MLP}"] == 0.25
    del config["parameters"]
    with pytest.raises(ConfigError, match=r"one: parameter 'weight' is required"):
        merged(config, tmp_path, "again")


def test_layers_are_stacked_from_slices(folders, tmp_path):
    slices = [
        {"sources": [source(folders["one"], 0, 3)]},
        {"sources": [source(folders["two"], 2, 4, scale=[1, 10])]},
    ]
    report_config = {"merge_method": "passthrough", "slices": slices}
    found = merged(report_config, tmp_path)
    assert [found[f"h.{i}.{Q}"] for i in range(5)] == [1, 1, 1, 2, 20]
    assert found[EMBED] == 1 and found[NORM] == 2 and len(found) == 12
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["n_layer"] == 5


def test_every_tensor_of_a_sliced_model_is_accounted_for(folders, tmp_path):
    slices = [{"sources": [source(folders["one"], 1, 2)]}]
    config = {"merge_method": "passthrough", "slices": slices}
    report = pipeline.run(config, tmp_path / "out")
    left = report.dropped[str(folders["one"])]
    assert set(left.values()) == {"left out: no part of the output takes it"}
    used = {f"h.1.{Q}", f"h.1.{MLP}", EMBED, NORM}
    assert left.keys() == model(0).keys() - used


def test_parameters_of_a_slice_stand_before_the_common_ones(folders, tmp_path):
    def both(start, end, **parameters):
        of_one = source(folders["one"], start, end)
        of_base = source(folders["base"], start, end)
        return {"sources": [of_base, of_one], "parameters": parameters}

    config = {
        "merge_method": "task_arithmetic",
        "base_model": str(folders["base"]),
        "slices": [both(0, 2, **{"lambda": 0.5}), both(2, 4)],
        "parameters": {"lambda": 0.25, "weight": 1},
    }
    found = merged(config, tmp_path)
    assert [found[f"h.{i}.{Q}"] for i in range(4)] == [0.5, 0.5, 0.25, 0.25]
    assert found[EMBED] == 0.5 and found[NORM] == 0.25


def test_modules_are_merged_in_their_own_ways(tmp_path):
    def two(value):
        names = ("encoder.h.0.a", "encoder.h.0.b", "decoder.h.0.a", "decoder.h.0.b")
        return {f"{n}.weight": np.full((2, 2), value, np.float32) for n in names}

    base, one = save(tmp_path / "b", two(0)), save(tmp_path / "o", two(1))
    expert = {"model": str(one), "parameters": {"weight": 1}}
    modules = {
        name: {"models": [expert], "parameters": {"lambda": value}}
        for name, value in (("encoder", 0.5), ("decoder", 0.25))
    }
    config = {"merge_method": "task_arithmetic", "base_model": str(base)}
    found = merged(config | {"modules": modules}, tmp_path)
    assert found["encoder.h.0.a.weight"] == 0.5
    assert found["decoder.h.0.b.weight"] == 0.25
    del modules["decoder"]
    modules["vision"] = modules["encoder"]
    with pytest.raises(ConfigError, match=r"no tensor of .* belongs to 'vision'"):
        merged(config | {"modules": modules}, tmp_path, "again")


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([("one", 0, 5)], "one has 4 layers; got \\[0, 5\\]"),
        ([("one", 2, 2)], "expected \\[first, end\\] with 0 <= first < end"),
        ([("one", -1, 2)], "expected \\[first, end\\] with 0 <= first < end"),
        ([("base", 0, 2), ("one", 0, 3)], "sources of a slice differ in their lengths"),
        (
            [("base", 0, 2), ("one", 0, 2)],
            "exactly 1 model\\(s\\) in each slice, got 2",
        ),
    ],
)
def test_slices_that_make_no_sense(folders, tmp_path, sources, expected):
    listed = [source(folders[name], *layers) for name, *layers in sources]
    config = {"merge_method": "passthrough", "slices": [{"sources": listed}]}
    with pytest.raises(ConfigError, match=expected):
        merged(config, tmp_path)


def test_a_slice_needs_its_base_among_the_sources(folders, tmp_path):
    config = arithmetic(folders, 1)
    del config["models"]
    slices = [{"sources": [source(folders["one"], 0, 4, weight=1)]}]
    with pytest.raises(ConfigError, match="needs the base among the sources"):
        merged(config | {"slices": slices}, tmp_path)


def test_layers_that_differ_do_not_fit(folders, tmp_path):
    other = model(1.0)
    del other[f"h.2.{MLP}"]
    other = {
        n.replace(MLP, "mlp.down.weight") if "h.3" in n else n: x
        for n, x in other.items()
    }
    folder = save(tmp_path / "other", other)
    listed = [source(folders["base"], 1, 3), source(folder, 1, 3)]
    config = {
        "merge_method": "slerp",
        "base_model": str(folders["base"]),
        "slices": [{"sources": listed}],
        "parameters": {"t": 0.5},
    }
    with pytest.raises(MergeError, match=r"'h.1.mlp.up.weight' \(4, 3\) is missing"):
        merged(config, tmp_path)


def test_two_stacks_of_layers_cannot_be_sliced(tmp_path):
    two = {
        f"{s}.{i}.{n}": np.ones(2, np.float32) for s in "ab" for i in "01" for n in "xy"
    }
    folder = save(tmp_path / "two", two)
    slices = [{"sources": [source(folder, 0, 1)]}]
    config = {"merge_method": "passthrough", "slices": slices}
    with pytest.raises(ConfigError, match=r"one stack of layers, found 2 \('a.', 'b"):
        merged(config, tmp_path)
