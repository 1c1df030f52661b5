import numpy as np
import pytest

from mda_jax.glyphs import images, scripts


def test_suites_are_the_first_tasks_in_order():
    tasks = tuple(scripts.TASKS)
    assert len(tasks) == 20 and len(scripts.UNSEEN) == 4
    for count in (8, 14, 20):
        assert scripts.SUITES[str(count)] == tasks[:count]


def test_no_character_serves_two_purposes():
    """Pretraining, tasks and unseen tasks are disjoint."""
    names = ["pretraining", *scripts.TASKS, *scripts.UNSEEN]
    characters = "".join(map(scripts.alphabet, names))
    assert len(set(characters)) == len(characters)
    assert 1400 <= len(scripts.alphabet("pretraining")) <= 1600


@pytest.mark.parametrize("task", ["upper", "arabic", "emoticons"])
def test_the_recorded_classes_are_those_of_the_ranges(task):
    ranges = (scripts.TASKS | scripts.UNSEEN)[task]
    assert scripts.distinct(ranges, most=36, alike=0.8) == scripts.alphabet(task)


def test_classes_that_look_alike_are_dropped():
    """Masters have one size, so a Cyrillic capital and its small twin are alike."""
    assert scripts.distinct([(0x421, 0x421), (0x441, 0x441)], 48, 0.8) == "С"
    pictures = images.masters(scripts.alphabet("cyrillic"), ("DejaVuSans",))
    flat = pictures.reshape(len(pictures), -1).astype(float)
    cosines = np.corrcoef(flat) - np.eye(len(flat))
    assert cosines.max() < 0.8


def test_an_unknown_task_is_named():
    with pytest.raises(ValueError, match="no task 'klingon'; there are: upper, digits"):
        scripts.alphabet("klingon")
