import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mda_jax.glyphs import model, report, score, scripts
from mda_jax.glyphs.store import SHIPPED


@pytest.fixture(scope="module")
def scores():
    lines = []
    names = ("linear", "task_arithmetic")
    sizes = {"test_size": 48, "validation_size": 24, "draws": 2}
    return score.score("8", names, seed=3, report=lines.append, **sizes), lines


def test_scores_have_the_promised_form(scores):
    found, lines = scores
    assert found["suite"] == "8" and found["tasks"] == list(scripts.SUITES["8"])
    assert set(found) == {"suite", "tasks", "individual", "pretrained", "methods"}
    for name in ("linear", "task_arithmetic"):
        each = found["methods"][name]
        keys = {"absolute", "normalised", "per_task", "draws", "seconds", "hyper"}
        assert set(each) == keys and len(each["draws"]) == 2
        assert each["absolute"] == pytest.approx(np.mean(each["draws"]))
        own = [found["individual"][task] for task in found["tasks"]]
        accuracy = [each["per_task"][task] for task in found["tasks"]]
        assert each["absolute"] == pytest.approx(np.mean(accuracy))
        assert each["normalised"] == pytest.approx(np.mean(np.divide(accuracy, own)))
    assert found["methods"]["linear"]["hyper"] == {}
    assert set(found["methods"]["task_arithmetic"]["hyper"]) == {"scale"}
    assert any("trying" in line and "scale" in line for line in lines)


def test_the_benchmark_discriminates(scores):
    """The base is half way, the experts are good, and merging is in between."""
    found, _ = scores
    means = {k: np.mean(list(found[k].values())) for k in ("pretrained", "individual")}
    assert 0.45 < means["pretrained"] < 0.65
    assert means["individual"] > 0.93
    best = max(each["absolute"] for each in found["methods"].values())
    assert means["pretrained"] < best < means["individual"] - 0.03


def test_test_and_validation_pictures_differ_and_depend_on_the_seed():
    keys = [*jax.random.split(jax.random.key(0)), *jax.random.split(jax.random.key(1))]
    drawn = [score.exam(["digits"], SHIPPED, key, 20).pictures for key in keys]
    for i in range(4):
        for j in range(i):
            assert not np.allclose(drawn[i], drawn[j])


def test_classes_come_about_equally_often():
    for size in (20, 52, 100):
        labels = score.exam(["upper"], SHIPPED, jax.random.key(0), size).labels[0]
        counts = np.bincount(labels, minlength=24)
        assert labels.size == size and np.ptp(counts) <= 1


def test_a_task_has_the_same_pictures_in_any_company():
    key = jax.random.key(0)
    alone = score.exam(["greek"], SHIPPED, key, 60)
    both = score.exam(["digits", "greek"], SHIPPED, key, 60)
    np.testing.assert_array_equal(alone.pictures[0], both.pictures[1])


def test_padding_classes_are_never_chosen():
    """An encoder whose features oppose every row still answers with a real class."""
    test = score.exam(["digits"], SHIPPED, jax.random.key(0), 40)
    heads = -np.abs(test.heads)
    flipped = test._replace(heads=heads, labels=test.labels + 10)
    assert score.accuracies(SHIPPED.base(), flipped).sum() == 0


def test_accuracy_is_that_of_the_plain_model():
    test = score.exam(["upper"], SHIPPED, jax.random.key(0), 52)
    base, head = SHIPPED.base(), jnp.asarray(SHIPPED.head("upper"))
    plain = model.logits(base, head, jnp.asarray(test.pictures[0])).argmax(-1)
    want = np.mean(np.asarray(plain) == test.labels[0])
    np.testing.assert_allclose(score.accuracies(base, test), [want], atol=1e-6)


@pytest.mark.parametrize(
    "suite, names, text",
    [
        ("9", ["linear"], "no suite '9'; there are: 8, 14, 20, unseen"),
        ("8", ["tiess"], "no method 'tiess' for many experts; there are: "),
    ],
)
def test_unknown_names_are_errors(suite, names, text):
    with pytest.raises(ValueError, match=text):
        score.score(suite, names)


def test_the_report_holds_every_number_and_needs_no_other_file(scores, tmp_path):
    found, _ = scores
    paths = report.write(found, tmp_path)
    assert {path.name for path in paths} == {
        "pictures.png", "methods.png", "tasks.png", "report.html",
    }  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    for row in report.rows(found):
        assert all(cell in page for cell in row)
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
