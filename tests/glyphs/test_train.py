import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mda_jax.converters import formats
from mda_jax.glyphs import model, train, workshop
from mda_jax.glyphs.store import SHIPPED, Weights


TINY = train.Recipe(steps=50, rate=1e-3, batch=4)


class Interruption(Exception):
    pass


@pytest.fixture(autouse=True)
def standard_promotion():
    """optax's schedules multiply their integer count with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def start():
    return SHIPPED.base(), jnp.asarray(SHIPPED.head("digits"))


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), a, b))


def test_an_interrupted_training_resumes_to_the_same_numbers(
    start, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "_SAVE_EVERY", 1)

    def interrupt(done, total):
        if done > 25:
            raise Interruption

    def fine_tune(folder, watch):
        return train.fine_tune("digits", *start, tmp_path / folder, watch, TINY)

    seen = []
    straight = fine_tune("straight", lambda done, total: seen.append((done, total)))
    assert seen == [(25, 50), (50, 50)]
    with pytest.raises(Interruption):
        fine_tune("broken", interrupt)
    seen.clear()
    resumed = fine_tune("broken", lambda done, total: seen.append((done, total)))
    assert seen == [(50, 50)]
    assert same(straight, resumed)
    assert not same(straight, start[0])


def test_trained_numbers_fit_bfloat16(start, tmp_path):
    trained = train.fine_tune("digits", *start, tmp_path, lambda *_: None, TINY)
    assert same(trained, train.rounded(trained))


def test_saved_parameters_come_back(start, tmp_path):
    weights = Weights(tmp_path)
    params = train.rounded(model.initial(jax.random.key(0)))
    weights.save("digits", params, {"seed": "0"})
    assert same(weights.expert("digits"), params)
    weights.save("digits", start[0], {"seed": "1"})  # replaces
    assert same(weights.expert("digits"), start[0])
    assert formats.open_tensors(weights.file("digits")).metadata["seed"] == "1"


@pytest.mark.parametrize("name", ["heads", *workshop.EVERYTHING])
def test_shipped_files_say_how_they_were_made(name):
    file = formats.open_tensors(SHIPPED.file(name))
    made = "base" if name == "heads" else name
    assert file.metadata["command"] == f"mda-jax glyphs train {made}"
    assert file.metadata["seed"] == str(train.SEED)


def test_heads_are_unit_class_means_of_the_base(start):
    base, head = start
    np.testing.assert_allclose(jnp.linalg.norm(head, axis=1), 1, rtol=1e-6)
    again = train.class_mean_head("digits", base)
    np.testing.assert_allclose(again, head, atol=1e-4)  # float32 sums of 64 features


def test_the_order_of_work():
    assert workshop.wanted([])[0] == "base" and len(workshop.wanted([])) == 25
    assert workshop.wanted(["greek", "base"]) == ("base", "greek")
    with pytest.raises(ValueError, match="nothing called 'klingon'; there are: base"):
        workshop.wanted(["klingon"])


def test_missing_weights_say_how_to_make_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="mda-jax glyphs train greek --out"):
        Weights(tmp_path).expert("greek")
