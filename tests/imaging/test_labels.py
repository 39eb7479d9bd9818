"""src/imaging/labels.py: places for labels next to boxes."""
import itertools

import numpy as np
import pytest

from src.imaging.labels import place_labels

SIZE = (90, 17)  # of a label


def shared(one, other):
    """The area that two rectangles share."""
    width, height = (min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1))
    return max(0, width) * max(0, height)


def placed(boxes, size=SIZE, canvas=(400, 300)):
    return place_labels([size] * len(boxes), np.array(boxes).reshape(-1, 4), canvas)


@pytest.mark.parametrize("seed", range(5))
def test_twenty_labels_do_not_overlap(seed):
    """Of boxes that do, in the middle of a small image; each is entire and inside the image."""
    rng = np.random.default_rng(seed)
    centers, sides = rng.integers((120, 100), (280, 200), (20, 2)), rng.integers(15, 60, (20, 2))
    places = placed(np.hstack([centers - sides, centers + sides]))
    assert None not in places and all(shared(*pair) == 0 for pair in itertools.combinations(places, 2))
    for x1, y1, x2, y2 in places:
        assert (x2 - x1, y2 - y1) == SIZE and 0 <= x1 <= x2 <= 400 and 0 <= y1 <= y2 <= 300


def test_a_label_hides_no_object_if_there_is_room():
    """A small object alone, three in a row, and one in another one's corner, whose label is outside of both."""
    for boxes in ([(200, 100, 212, 110)], [(100, 100, 120, 120), (125, 100, 145, 120), (150, 100, 170, 120)],
                  [(100, 100, 300, 250), (100, 100, 130, 120)]):
        for place, box in itertools.product(placed(boxes), boxes):
            assert shared(place, box) == 0


def test_a_label_is_above_its_box_or_at_it():
    assert placed([(150, 100, 250, 200)]) == [(150, 100 - 17, 150 + 90, 100)]
    (x1, y1, x2, y2), = placed([(150, 5, 250, 200)])  # no room above
    assert (y1 == 200 or y2 == 200 or x1 == 250 or x2 == 150) and shared((x1, y1, x2, y2), (150, 5, 250, 200)) == 0


def test_a_label_that_hides_is_better_than_one_far_away():
    """A box that fills the image has its label inside."""
    assert placed([(0, 0, 400, 300)])[0] is not None


def test_labels_without_room_are_left_out():
    """The first ones, which are the best, have a place: four labels fit below each other, also where boxes are far
    outside or wider than the canvas."""
    places = placed([(0, 0, 90, 68)] * 9, canvas=(90, 68))
    assert sorted(place[1] for place in places[:4]) == [0, 17, 34, 51] and places[4:] == [None] * 5
    assert placed([(-900, -900, -800, -800)], (500, 17), (400, 10)) == [(0, 0, 400, 10)]
    assert placed([]) == []
