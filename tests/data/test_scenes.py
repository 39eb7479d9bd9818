"""src/data/scenes.py and tools/make_scenes_dataset.py."""
import filecmp
import itertools
import json

import cv2
import numpy as np
import pytest

from src.data.scene_models import NEUTRAL
from src.data.scenes import SIZES, Thing, annotations_of, draw_scene, draw_thing, far_to_near, in_front
from tests.conftest import assert_user_error, call_script, load_golden

CALIB = np.array([[300.0, 0, 320, 0], [0, 300, 96, 0], [0, 0, 1, 0]])
SIZE = (640, 192)
SUN = np.array([0.0, -1, 0])


def thing(label="Car", x=2.0, z=10.0, rotation_y=0.0, dim=(1.5, 1.6, 4.0)):
    """An object on the ground."""
    colors = {**NEUTRAL, "paint": (200, 120, 60), "cloth": (90, 80, 80)}
    return Thing(label, np.array(dim), np.array([x, 1.65, z]), rotation_y, colors)


def annotated(*things, calib=CALIB, size=SIZE):
    """The annotations of objects that are drawn in this order."""
    return annotations_of([*things], [draw_thing(one, calib, size, SUN)[1] for one in things], calib, size)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The folder of a generated data set and the content of its file of 16 training images."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    done = call_script("tools/make_scenes_dataset.py", "--output", folder, "--train", 16, "--val", 2)
    content = json.loads((folder / "annotations" / "kitti_train.json").read_text())
    assert f"train: 16 images, {len(content['annotations'])} objects" in done.stdout and str(folder) in done.stdout
    return folder, content


def objects(content):
    """The annotations of objects, without DontCare regions, with the names of their classes and their images."""
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    images = {entry["id"]: entry for entry in content["images"]}
    return [(names[entry["category_id"]], images[entry["image_id"]], entry) for entry in content["annotations"]
            if names[entry["category_id"]] != "DontCare"]


def test_the_files_are_those_of_the_papers_kitti(scenes):
    folder, content = scenes
    assert [entry["name"] for entry in content["categories"]] == [
        "Pedestrian", "Car", "Cyclist", "Van", "Truck", "Person_sitting", "Tram", "Misc", "DontCare"]
    assert [entry["id"] for entry in content["categories"]] == list(range(1, 10))
    assert [entry["file_name"] for entry in content["images"]] == [f"{number:06d}.png" for number in range(16)]
    for entry in content["images"]:
        image = cv2.imread(str(folder / "images" / "train" / entry["file_name"]))
        assert image.shape == (entry["height"], entry["width"], 3) == (192, 640, 3)
        calib = np.array(entry["calib"])
        assert calib.shape == (3, 4) and calib[0, 0] == calib[1, 1] == pytest.approx(0.58 * 640)
        np.testing.assert_allclose(calib[:2, 2], [320, 96], atol=5)
        assert 10 < calib[0, 3] < 45 and calib[2].tolist() == [0, 0, 1, 0.005]
    counts = np.bincount([entry["image_id"] for entry in content["annotations"]], minlength=16)
    assert counts.min() >= 1 and counts.max() <= 5
    assert len({entry["id"] for entry in content["annotations"]}) == len(content["annotations"])
    assert {path.name for path in (folder / "images" / "val").iterdir()} == {"000000.png", "000001.png"}


def test_numbers_are_in_their_ranges(scenes):
    found = objects(scenes[1])
    assert {name for name, _, _ in found} == set(SIZES)
    for name, _, entry in found:
        np.testing.assert_allclose(np.divide(entry["dim"], SIZES[name]), 1, atol=0.081)
        assert 5 <= entry["depth"] <= 30 and entry["depth"] == entry["location"][2] and entry["location"][1] == 1.65
        assert 0 <= entry["truncated"] <= 0.5 and entry["occluded"] in (0, 1, 2) and entry["iscrowd"] == 0
        assert abs(entry["rotation_y"]) <= np.pi and abs(entry["alpha"]) <= np.pi


def test_boxes_are_the_limits_of_the_projected_corners(scenes):
    """With KITTI's formula for them, point by point."""
    for _, image, entry in objects(scenes[1]):
        (h, w, length), (x, y, z) = entry["dim"], entry["location"]
        cosine, sine = np.cos(entry["rotation_y"]), np.sin(entry["rotation_y"])
        pixels = []
        for along, up, across in itertools.product((-length / 2, length / 2), (0, -h), (-w / 2, w / 2)):
            point = [cosine * along + sine * across + x, up + y, cosine * across - sine * along + z, 1]
            u, v, depth = np.array(image["calib"]) @ point
            pixels.append((u / depth, v / depth))
        low, high = np.min(pixels, 0), np.max(pixels, 0)
        cut_low, cut_high = np.clip(low, 0, SIZE), np.clip(high, 0, SIZE)
        np.testing.assert_allclose(entry["bbox"], [*cut_low, *(cut_high - cut_low)], atol=1e-3)
        assert entry["area"] == pytest.approx(np.prod(cut_high - cut_low), abs=0.1)
        assert entry["truncated"] == pytest.approx(1 - np.prod(cut_high - cut_low) / np.prod(high - low), abs=1e-3)


def test_objects_do_not_touch_on_the_ground(scenes):
    rectangles: dict = {}
    for _, image, entry in objects(scenes[1]):
        (_, w, length), (x, _, z) = entry["dim"], entry["location"]
        # OpenCV's angle goes from x to the second axis, rotation_y from z to x.
        rectangles.setdefault(image["id"], []).append(((x, z), (length, w), -np.degrees(entry["rotation_y"])))
    pairs = [pair for own in rectangles.values() for pair in itertools.combinations(own, 2)]
    assert len(pairs) > 20
    assert all(cv2.rotatedRectangleIntersection(*pair)[0] == cv2.INTERSECT_NONE for pair in pairs)


def test_box_and_alpha_by_hand():
    """x from 0 to 4, y from 0.15 to 1.65 and z from 9.2 to 10.8: the right edge is x 4 at z 9.2, for example."""
    found, = annotated(thing())
    left, top, right, bottom = 320, 96 + 300 * 0.15 / 10.8, 320 + 300 * 4 / 9.2, 96 + 300 * 1.65 / 9.2
    np.testing.assert_allclose(found["bbox"], [left, top, right - left, bottom - top], atol=1e-4)
    assert (found["truncated"], found["occluded"], found["category_id"]) == (0, 0, 2)
    assert found["alpha"] == pytest.approx(-np.arctan(0.2), abs=1e-4)
    assert annotated(thing(x=-10, rotation_y=3.0))[0]["alpha"] == pytest.approx(3 + np.pi / 4 - 2 * np.pi, abs=1e-4)
    half, = annotated(thing(), size=(round((left + right) / 2), 192))
    assert half["truncated"] == pytest.approx(0.5, abs=0.01)


def test_points_of_the_box_are_the_originals_corners():
    golden = load_golden("tasks/ddd_geometry.npz")
    unit = np.array([(0.5, up, 0.5) for up in (0, 1)])
    corners = np.concatenate([unit * (x, 1, z) for x, z in ((1, 1), (1, -1), (-1, -1), (-1, 1))])
    for dim, location, angle, expected in zip(*(golden[name] for name in ("dim", "location", "rotation_y", "corners"))):
        placed = Thing("Car", dim, location, float(angle), NEUTRAL).place(corners)
        np.testing.assert_allclose(placed, expected[[0, 4, 1, 5, 2, 6, 3, 7]], atol=1e-4)


@pytest.mark.parametrize("label", SIZES)
def test_a_drawing_fills_its_box_and_shows_its_front(label):
    for angle in np.arange(-3, 3, 0.75):
        one, back = (thing(label, 1.0, 9.0, turned, SIZES[label]) for turned in (angle, angle + np.pi))
        (colors, coverage), (others, _) = (draw_thing(drawn, CALIB, SIZE, SUN) for drawn in (one, back))
        rows, columns = np.nonzero(coverage > 0.01)
        x, y, w, h = annotated(one)[0]["bbox"]
        inside = np.array([columns.min() - x, rows.min() - y, x + w - columns.max() - 1, y + h - rows.max() - 1])
        assert inside.min() >= -1 and (inside < [0.2 * w, 0.1 * h, 0.2 * w, 0.1 * h]).all()
        assert coverage.sum() > 0.35 * w * h
        assert abs(colors - others).sum() > 3 * 10 * coverage.sum()


def test_occlusion_is_the_share_that_nearer_objects_hide():
    """A far object of 10x10 pixels behind a near one that covers some of its columns."""
    far, near = np.zeros((192, 640)), np.zeros((192, 640))
    far[50:60, 100:110] = 1
    levels = []
    for hidden in (0, 1, 5, 6, 8, 9, 10):
        near[:, 80 : 100 + hidden], near[:, 100 + hidden :] = 1, 0
        found = annotations_of([thing(z=20), thing(z=10)], [far, near], CALIB, SIZE)
        levels.append(found[0]["occluded"])
        assert found[1]["occluded"] == 0
    assert levels == [0, 1, 1, 2, 2, -1, -1]


def test_an_object_behind_a_car_is_dont_care():
    person = thing("Pedestrian", 0, 20, 0, (1.2, 0.6, 0.8))  # its head is below the roof's line of sight
    ordered = far_to_near([thing(x=0), person])
    assert ordered[0] is person
    hidden, car = annotated(*ordered)
    assert (hidden["category_id"], hidden["dim"], hidden["location"]) == (9, [-1, -1, -1], [-1000, -1000, -1000])
    assert [hidden[name] for name in ("depth", "alpha", "rotation_y")] == [-1000, -10, -10] and hidden["bbox"][2] > 5
    assert car["occluded"] == 0
    assert annotated(thing("Pedestrian", 5, 20, 0, person.dim), thing(x=0))[0]["occluded"] == 0


def test_a_nearer_side_counts_not_a_nearer_center():
    """A car lies along z; a person beside its left side, at z 11, hides its far end, although its center is at 10."""
    car, person = thing("Car", 8.8, 10, np.pi / 2), thing("Pedestrian", 7.25, 11, 0, (1.75, 0.6, 0.8))
    assert far_to_near([person, car]) == far_to_near([car, person]) == [car, person]
    assert in_front(person.corners[:4], car.corners[:4]) == 1 == -in_front(car.corners[:4], person.corners[:4])
    (left, *_), (x, _, width, _) = (entry["bbox"] for entry in annotated(car, person))
    assert left < x + width  # they overlap in the image
    assert in_front(car.corners[:4], thing("Car", 7.0, 10, 0.0).corners[:4]) == 0


def test_sizes_in_the_image_follow_the_focal_length(tmp_path):
    long = CALIB * [[2, 2, 1, 2], [2, 2, 1, 2], [1, 1, 1, 1]]
    (short_box, long_box) = (annotated(thing(x=0, z=20), calib=calib)[0]["bbox"] for calib in (CALIB, long))
    np.testing.assert_allclose(long_box[2:], np.multiply(short_box[2:], 2), atol=1e-3)
    call_script("tools/make_scenes_dataset.py", "--output", tmp_path / "x", "--train", 1, "--val", 1, "--size", 320, 96,
                "--focal", 250)
    image, = json.loads((tmp_path / "x" / "annotations" / "kitti_val.json").read_text())["images"]
    assert (image["width"], image["height"], image["calib"][0][0], image["calib"][1][1]) == (320, 96, 250, 250)


def test_depths_and_numbers_of_objects_are_the_options(tmp_path):
    call_script("tools/make_scenes_dataset.py", "--output", tmp_path / "x", "--train", 12, "--val", 1, "--nearest", 9,
                "--farthest", 11, "--objects", 2)
    objects = json.loads((tmp_path / "x" / "annotations" / "kitti_train.json").read_text())["annotations"]
    of_images = [entry["image_id"] for entry in objects]
    assert max(map(of_images.count, of_images)) == 2
    assert 9 <= min(entry["depth"] for entry in objects) < max(entry["depth"] for entry in objects) <= 11


def test_an_image_depends_on_the_seed_and_its_number_alone(scenes, tmp_path):
    folder, content = scenes
    for seed in (1, 2):
        other = tmp_path / str(seed)
        call_script("tools/make_scenes_dataset.py", "--output", other, "--train", 2, "--val", 2, "--seed", seed)
        for name in ("images/train/000001.png", "images/val/000001.png", "annotations/kitti_val.json"):
            assert filecmp.cmp(folder / name, other / name, shallow=False) == (seed == 1)
        train = json.loads((other / "annotations" / "kitti_train.json").read_text())
        same = train["annotations"] == content["annotations"][: len(train["annotations"])]
        assert same == (seed == 1)
    assert not filecmp.cmp(folder / "images/train/000001.png", folder / "images/val/000001.png", shallow=False)


@pytest.mark.parametrize("size, factor", [((32, 32), 0.3), ((32, 32), 3), ((200, 40), 3), ((40, 200), 0.3)])
def test_extreme_sizes(size, factor):
    for seed in range(10):
        image, calib, found = draw_scene(np.random.default_rng(seed), size, factor * size[0])
        assert image.shape == (size[1], size[0], 3) and calib[0, 0] == pytest.approx(factor * size[0])
        assert all(min(entry["bbox"][2:]) > 0 for entry in found)


@pytest.mark.parametrize("args, parts", [
    (["--size", 640, 31], ["--size", "640 31"]), (["--size", 640, 9999], ["--size", "9999"]),
    (["--focal", 10], ["--focal", "10"]), (["--focal", "nan"], ["--focal", "nan"]), (["--train", 0], ["--train", "0"]),
    (["--seed", -1], ["--seed", "-1"]), (["--sise", 640, 192], ["--size"]), (["--size", 640], ["--size"]),
    (["--output", "."], [". exists", "--output"]),
])
def test_wrong_options_end_in_one_sentence(args, parts, tmp_path):
    done = call_script("tools/make_scenes_dataset.py", "--output", "x", *args, cwd=tmp_path, check=False)
    assert_user_error(done, *parts)
    assert done.stderr.count("\n") == 1 and not (tmp_path / "x").exists()
