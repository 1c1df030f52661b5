"""Rules say what names mean, where that is inferred wrongly."""

import numpy as np
import pytest
from folders import read, save, task_arithmetic

from mda_jax import pipeline, trees
from mda_jax.pipeline import ConfigError, MergeError
from mda_jax.pipeline.naming import load_naming


def full(value, **shapes):
    return {n: np.full(s, value, np.float32) for n, s in shapes.items()}


def odd(value, layers=4):
    """Numbers of layers behind an underscore, from 1, with two digits."""
    names = {"in.table": (5, 3), "norm/scale": (3,), "out.table": (5, 3)}
    for i in range(1, layers + 1):
        names |= {f"blk_{i:02}/q": (3, 3), f"blk_{i:02}/up": (4, 3)}
    return full(value, **names)


LAYERS = {"layers": [r"blk_(\d+)/.*"]}


@pytest.fixture
def folders(tmp_path):
    return [save(tmp_path / n, odd(v)) for n, v in [("base", 0.0), ("one", 1.0)]]


def merged(tmp_path, config, names):
    pipeline.run(config, tmp_path / "out", names=names)
    return read(tmp_path / "out")


def gradient(folders):
    config = task_arithmetic(*folders)
    config["models"][0]["parameters"]["weight"] = [0.0, 0.6, 0.9]
    return config


def sliced(folder, *ranges):
    sources = [{"model": str(folder), "layer_range": list(r)} for r in ranges]
    slices = [{"sources": [each]} for each in sources]
    return {"merge_method": "passthrough", "slices": slices}


def test_layers_for_a_gradient(folders, tmp_path):
    found = merged(tmp_path, gradient(folders), LAYERS)
    # Depths 0, 1/3, 2/3, 1; outside the layers the first value counts.
    for i, want in enumerate([0, 0.4, 0.7, 0.9], start=1):
        assert found[f"blk_{i:02}/q"] == pytest.approx(want, abs=1e-6)
    assert (found["in.table"] == 0).all()


def test_a_gradient_needs_layers(folders, tmp_path):
    for weight in ([0.0, 0.6], [{"filter": "q", "value": [0.0, 1.0]}, {"value": 1}]):
        config = gradient(folders)
        config["models"][0]["parameters"]["weight"] = weight
        with pytest.raises(ConfigError, match="'weight' runs over the layers, and no"):
            pipeline.plan(config)
        pipeline.plan(config, names=LAYERS)


def test_layers_for_slices(folders, tmp_path):
    config = sliced(folders[1], (3, 4), (0, 2))
    with pytest.raises(ConfigError, match=r"found 0 \(none\); 'layers' in a file of"):
        pipeline.run(config, tmp_path / "out")
    one = odd(0.0)
    for i in range(1, 5):
        one[f"blk_{i:02}/q"] += i
    folder = save(tmp_path / "counted", one)
    found = merged(tmp_path, sliced(folder, (3, 4), (0, 2)), LAYERS)
    numbers = [found[f"blk_{i:02}/q"][0, 0] for i in (1, 2, 3)]
    assert numbers == [4, 1, 2] and len(found) == 9


def test_what_is_no_layer(tmp_path):
    two = {f"{s}.{i}.{n}": (2,) for s in ("h", "moe") for i in "01" for n in "xy"}
    folder = save(tmp_path / "two", full(1.0, **two))
    config = sliced(folder, (1, 2), (1, 2), (0, 1))
    with pytest.raises(ConfigError, match=r"found 2 \('h.', 'moe.'\)"):
        pipeline.run(config, tmp_path / "out")
    found = merged(tmp_path, config, {"layers": [r"h\.(\d+)\..*"]})
    assert len(found) == 10 and "h.2.x" in found and "moe.2.x" not in found


def test_before_the_layers(tmp_path):
    layers = {f"h.{i}.{n}": (2,) for i in "01" for n in "xy"}
    first = save(tmp_path / "first", full(1.0, stem=(3,), postbox=(2,), **layers))
    last = save(tmp_path / "last", full(2.0, stem=(3,), postbox=(2,), **layers))
    config = sliced(first, (0, 1))
    config["slices"] += sliced(last, (1, 2))["slices"]
    pipeline.run(config, tmp_path / "inferred")
    inferred = read(tmp_path / "inferred")
    assert [inferred[n][0] for n in ("stem", "postbox")] == [1, 2]
    found = merged(tmp_path, config, {"before": ["postbox"]})
    assert [found[n][0] for n in ("stem", "postbox")] == [2, 1]


def test_a_tie_that_is_not_inferred(tmp_path):
    base, expert = odd(0.0), odd(1.0)
    del expert["out.table"]
    folders = save(tmp_path / "base", base), save(tmp_path / "one", expert)
    config = task_arithmetic(*folders)
    with pytest.raises(MergeError, match=r"'out.table' \(5, 3\) is missing"):
        pipeline.run(config, tmp_path / "out")
    names = {"ties": {"out.table": "in.table"}}
    assert (merged(tmp_path, config, names)["out.table"] == 0.5).all()


def test_a_tie_that_is_none(tmp_path):
    tables = {"lm_head.weight": (5, 3), "wte.weight": (5, 3)}
    base, expert = full(0.0, **tables), full(1.0, **tables)
    del expert["lm_head.weight"]
    config = task_arithmetic(
        save(tmp_path / "base", base), save(tmp_path / "one", expert)
    )
    pipeline.plan(config)  # inferred to be tied
    with pytest.raises(MergeError, match=r"'lm_head.weight' \(5, 3\) is missing"):
        pipeline.run(config, tmp_path / "out", names={"ties": {}})


def test_tables_of_tokens(tmp_path):
    base, expert = odd(0.0), odd(1.0)
    for name in ("in.table", "out.table"):
        expert[name] = expert[name][:4]
    folders = save(tmp_path / "base", base), save(tmp_path / "one", expert)
    config, cut = task_arithmetic(*folders), {"truncate_embeddings": True}
    with pytest.raises(MergeError, match=r"has shape \(4, 3\), not \(5, 3\)"):
        pipeline.run(config, tmp_path / "out", **cut)
    names = {"tokens": [r"(in|out)\.table"]}
    pipeline.run(config, tmp_path / "out", **cut, names=names)
    found = read(tmp_path / "out")
    assert found["in.table"].shape == found["out.table"].shape == (4, 3)


def test_what_is_no_table_of_tokens(tmp_path):
    tables = {"lm_head.weight": (2, 3), "wte.weight": (5, 3)}
    base, expert = full(0.0, **tables), full(1.0, **tables)
    expert["wte.weight"] = expert["wte.weight"][:4]
    folders = save(tmp_path / "base", base), save(tmp_path / "one", expert)
    config, cut = task_arithmetic(*folders), {"truncate_embeddings": True}
    with pytest.raises(MergeError, match="seems to be a table of tokens"):
        pipeline.run(config, tmp_path / "out", **cut)
    names = {"tokens": ["wte.*"]}
    pipeline.run(config, tmp_path / "out", **cut, names=names)
    assert read(tmp_path / "out")["lm_head.weight"].shape == (2, 3)


def test_roles(folders):
    config = task_arithmetic(*folders) | {"merge_method": "tsv"}

    def rule(names):
        rows = pipeline.plan(config, names=names).rows
        (found,) = (row.rule for row in rows if row.tensors.startswith("in.table"))
        return found

    assert (
        rule({}) == rule({"roles": {".*/q": "vector"}}) == "merged by tsv, weight 0.5"
    )
    assert rule({"roles": {"in.*": "embedding"}}).startswith("entry by entry")
    with pytest.raises(ConfigError, match="exclude each other"):
        pipeline.plan(
            config, names={"roles": {"in.*": "vector"}}, layout=trees.every_2d
        )


def test_the_plan_shows_the_rules(folders):
    names = LAYERS | {
        "ties": {"out.table": "in.table"},
        "tokens": [],
        "before": ["in.*"],
    }
    assert pipeline.plan(gradient(folders), names=names).names == [
        r"layers: 8 tensors match 'blk_(\\d+)/.*'",
        "before: 1 tensors match 'in.*'",
        "ties: 'out.table' equals 'in.table'",
        "tokens: none",
    ]
    assert pipeline.plan(task_arithmetic(*folders)).names == []


def test_rules_decide_the_result_and_are_noted(folders, tmp_path):
    merged(tmp_path, gradient(folders), LAYERS)
    manifest = (tmp_path / "out" / "merge_manifest.json").read_text()
    assert r'"blk_(\\d+)/.*"' in manifest

    def stop(done, total):
        if done == total:
            raise OSError("stop")

    small = {"shard_size": 40, "names": LAYERS}
    with pytest.raises(OSError, match="stop"):
        pipeline.run(task_arithmetic(*folders), tmp_path / "new", **small, watch=stop)
    with pytest.raises(ConfigError, match="unfinished merge of another"):
        small["names"] = {}
        pipeline.run(task_arithmetic(*folders), tmp_path / "new", **small, resume=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layer:\n- x", r"2: unknown key 'layer'; did you mean 'layers'? Known: "),
        ("layers: x", "2: 'layers': got 'x'; expected a list of regular expressions"),
        ("layers:\n- h.*", "3: 'h.*' has 0 groups; expected one, as (\\d+), for"),
        ("layers:\n- (h)(.*)", "3: '(h)(.*)' has 2 groups"),
        ("layers:\n- '(h'", "3: '(h' is no regular expression (missing )"),
        ("tokens:\n- 3", "3: 3 is no regular expression"),
        (
            "layers:\n- bkl_(.*)/q",
            "3: no tensor has a name that 'bkl_(.*)/q' matches as a whole; the nearest"
            " is 'blk_04/q'.",
        ),
        ("tokens:\n- in.table\n- in", "4: no tensor has a name that 'in' matches"),
        ("before:\n- in", "3: no tensor has a name"),
        ("layers:\n- blk_01/(.*)", "2: the group is 'q' in 'blk_01/q', which is no"),
        ("layers:\n- blk_0([134])/q", "'blk_0' has layers 1 to 4, but no 2; expected"),
        ("ties: [a]", "2: 'ties': got ['a']; expected a mapping from tensors to those"),
        ("ties: {in.table: 3}", "2: 'in.table': got 3; expected a mapping"),
        (
            "ties:\n  out.table: in.tabel",
            "3: no model has a tensor 'in.tabel'; the nearest is 'in.table'.",
        ),
        (
            "ties:\n  in.table: out.table\n  out.table: norm/scale",
            "3: 'in.table': 'out.table' is tied itself; name what both equal.",
        ),
        ("roles: {.*: matrx}", "2: no role 'matrx'; did you mean 'matrix'? Known: "),
        ("roles: {norm.*: matrix}", "2: layouts: "),
        ("roles: {nrm: vector}", "2: no tensor has a name that 'nrm' matches"),
        ("roles: 3", "2: 'roles': got 3; expected a mapping from regular"),
        ("- layers", "1: rules for names are a mapping of keys: layers, ties, tokens"),
    ],
)
def test_what_is_refused_and_how(folders, tmp_path, text, expected):
    file = tmp_path / "names.yml"
    file.write_text(f"# rules\n{text}")
    with pytest.raises(ConfigError) as caught:
        pipeline.plan(task_arithmetic(*folders), names=file)
    assert expected in f"{caught.value}".removeprefix(f"{file}:")


def test_a_rule_that_fits_only_the_old_names(folders, tmp_path):
    names = {"layers": [r"blk_(0[1-4])/.*"]}
    with pytest.raises(
        ConfigError, match="becomes 'blk_05/q', which the rule does not"
    ):
        pipeline.plan(sliced(folders[0], (0, 4), (0, 1)), names=names)


def test_ties_of_three():
    naming = load_naming({"ties": {"b": "a", "c": "a"}})
    assert naming.partners("c", {"b"}) == ["b"]
    assert naming.partners("a", {"b", "c"}) == ["b", "c"]
    assert naming.partners("lm_head.weight", {"wte.weight"}) == []
