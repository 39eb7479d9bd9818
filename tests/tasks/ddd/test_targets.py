"""src/tasks/ddd/targets.py and categories.py: annotations of 3D boxes as targets."""
import copy
import json
import math

import numpy as np
import pytest

from src.data.coco import check_coco
from src.imaging.drawing import class_color
from src.model_utils import combinations
from src.tasks import fitting_task
from src.tasks.augmentation import Placement, Ranges
from src.tasks.ddd import DDD, categories, preview, results, targets
from src.tasks.detection import preview as boxes_preview
from src.weights.side_file import evaluation_settings
from tests.conftest import lines_with, user_error
from tests.model_utils.test_combinations import assert_messages

CALIB = [[100.0, 0.0, 50.0, 0.0], [0.0, 100.0, 40.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
IMAGE = {"id": 1, "file_name": "1.png", "width": 100, "height": 80, "calib": CALIB}
METAINFO = {"classes": ["Pedestrian", "Car", "Cyclist"], "category_ids": [1, 2, 3], **targets.read_metainfo([])}
ALL = [{"id": number, "name": name} for number, name in enumerate(categories.KITTI, 1)]
VAN, DONT_CARE = 4, 9  # ids
SMALL = ("--net_config.task", "ddd", "--dataset_config.input_res_train", "[128, 96]")  # an output of 32x24
BOX = {"dim": [1.5, 1.6, 4.0], "location": [1.0, 1.0, 10.0], "depth": 10.0, "alpha": 0.25, "rotation_y": 0.5}


def entry_of(**fields):
    """An annotation, as after coco_entries.read_annotation; a field that is ... is left out."""
    entry = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [40, 30, 40, 20], "iscrowd": 0, "area": 800, **BOX}
    return {name: copy.deepcopy(value) for name, value in (entry | fields).items() if value is not ...}


def completed(**fields):
    """An annotation after check_annotation."""
    entry = entry_of(**fields)
    targets.check_annotation(entry, METAINFO, IMAGE)
    return entry


# ---------------------------------------------------------------- categories


def select(*names, categories=ALL, **fields):
    """(names of the classes, annotations) of select, for one annotation of each name; their ids count from 1."""
    ids = {entry["name"]: entry["id"] for entry in categories}
    entries = [{"id": number, "category_id": ids[name], "bbox": [number, 2, 3, 4], **fields}
               for number, name in enumerate(names, 1)]
    classes, kept = targets.select(categories, entries)
    return [entry["name"] for entry in classes], kept


def test_kittis_categories():
    """Three are classes; vans and trucks are ignored as cars, sitting people as pedestrians, DontCare as all; trams
    and the rest are background."""
    names, kept = select(*categories.KITTI)
    assert names == ["Pedestrian", "Car", "Cyclist"]
    found = [(entry["bbox"][0], entry["category_id"], entry.get("iscrowd", 0), entry.get("type")) for entry in kept]
    assert found == [(1, 1, 0, None), (2, 2, 0, None), (3, 3, 0, None), (4, 2, 1, "Van"), (5, 2, 1, "Truck"),
                     (6, 1, 1, "Person_sitting"), *((9, number, 1, "DontCare") for number in (1, 2, 3))]
    assert len({entry["id"] for entry in kept}) == len(kept)


def test_new_ids_are_unique():
    """A region for three classes becomes three annotations; the first keeps its id."""
    _, kept = select("DontCare", "Car", "DontCare")
    assert [entry["id"] for entry in kept] == [1, 4, 5, 2, 3, 6, 7]
    for ids in ([None, None], ["a", 3], [7, 7]):  # unclear ones are renumbered later (renumber_ids)
        entries = [{"id": number, "category_id": DONT_CARE, "bbox": [1, 2, 3, 4]} for number in ids]
        found = [entry["id"] for entry in targets.select(ALL, entries)[1]]
        assert len(found) == 6 and len(set(found) - set(ids)) == 4


def test_images_with_only_background_have_no_objects():
    """A tram is none; an image with a tram and a car that cannot be read may have one."""
    tram, behind = entry_of(category_id=7), entry_of(depth=-1)
    images = [{**IMAGE, "id": number, "file_name": f"{number}.png"} for number in range(6)]
    entries = [(0, entry_of()), (1, tram), (2, entry_of(category_id=DONT_CARE)), (3, tram), (3, behind), (4, tram),
               (4, entry_of(bbox=None))]
    annotations = [{**entry, "id": number, "image_id": image} for number, (image, entry) in enumerate(entries, 1)]
    coco = check_coco({"images": images, "annotations": annotations, "categories": ALL}, "x", task=DDD)
    assert sorted(coco.imgs) == [0, 1, 2, 5] and coco.imgToAnns[1] == [] and len(coco.imgToAnns[2]) == 3
    assert not lines_with(coco.skipped, "image 1") and lines_with(coco.skipped, "image 3 (", "2 annotations")


def test_the_annotations_of_the_file_stay_as_they_are():
    entries = [{"id": 1, "category_id": VAN, "bbox": [1, 2, 3, 4], "iscrowd": 0}]
    before = copy.deepcopy(entries)
    assert targets.select(ALL, entries)[1][0]["iscrowd"] == 1 and entries == before


def test_files_with_some_of_kittis_classes():
    """What is ignored as a missing class is background; further categories are classes."""
    some = [{"id": 7, "name": "Car"}, {"id": 3, "name": "Person_sitting"}, {"id": 5, "name": "DontCare"},
            {"id": 9, "name": "Bus"}]
    names, kept = select("Car", "Person_sitting", "DontCare", "Bus", categories=some)
    assert names == ["Car", "Bus"]
    assert [(entry["category_id"], entry.get("type")) for entry in kept] == [(7, None), (7, "DontCare"),
                                                                            (9, "DontCare"), (9, None)]


def test_other_files_are_unchanged():
    """Van and Misc are classes in a file without one of KITTI's."""
    others = [{"id": 1, "name": "Van"}, {"id": 2, "name": "Misc"}, {"id": 3, "name": "car"}]
    entries = [{"id": 1, "category_id": 1}, {"id": 1, "category_id": 2}]
    assert targets.select(others, entries) == (others, entries)


# ---------------------------------------------------------------- images and annotations


@pytest.mark.parametrize("calib", [CALIB, np.ravel(CALIB).tolist(), [100, 100, 50, 40]])
def test_images_are_completed(calib):
    entry = {"id": 3, "file_name": "a", "calib": calib}
    targets.check_image(entry, {3: (640, 480)}.get)
    assert entry == {"id": 3, "file_name": "a", "calib": CALIB, "width": 640, "height": 480}
    json.dumps(entry)


@pytest.mark.parametrize("calib, parts", [
    (..., ("no calib", "3x4")), (None, ("its calib", "3 rows")), ("x", ("its calib",)), (CALIB[:2], ("its calib",)),
    ([[math.nan] * 4] * 3, ("its calib", "finite")), ([["1"] * 4] * 3, ("its calib",)), ([], ("its calib",)),
    ([CALIB[0], CALIB[1], [0, 0, 0, 1]], ("its calib", "singular")), ([0, 0, 0, 0], ("its calib", "focal")),
    ([1e200, 1e200, 1, 1], ("its calib",))])
def test_images_without_a_calibration_are_refused(calib, parts):
    entry = {"id": 3, "file_name": "a", "width": 10, "height": 10} | ({} if calib is ... else {"calib": calib})
    with user_error(*parts):
        targets.check_image(entry, lambda _: (10, 10))


@pytest.mark.parametrize("size", [("640", 480), (None, None), (0, 480), ([640], 480), (True, True)])
def test_image_sizes_that_are_none(size):
    """The files' sizes take their place; without files, none does, and the data set's camera is computed without."""
    entry = {"id": 1, "file_name": "a", "calib": CALIB, "width": size[0], "height": size[1]}
    known, unknown = (check_coco({"images": [dict(entry)], "annotations": [], "categories": ALL}, "x", *place, task=DDD)
                      for place in ((), ("/nowhere",)))
    for coco in (known, unknown):
        assert "width" not in coco.imgs[1] and targets.read_metainfo(ALL, [coco.imgs[1]])["camera"]
    targets.check_image(entry, lambda _: (640, 480))
    assert (entry["width"], entry["height"]) == (640, 480)


def test_complete_annotations_stay_as_they_are():
    assert completed() == {**entry_of(), "calib": CALIB}


def test_depth_and_location_complete_each_other():
    """The box's center 60, 40 is 10 pixels beside the camera's: at 10 m, 1 m; the bottom is half the height below."""
    assert completed(depth=...)["depth"] == completed(depth=None)["depth"] == 10
    for missing in (..., None):
        np.testing.assert_allclose(completed(location=missing, depth=20)["location"], [2, 0.75, 20])


def test_angles_complete_each_other():
    """10 pixels beside the center, at a focal length of 100: an angle of atan(0.1)."""
    away = math.atan(0.1)
    for missing in (..., None):
        assert completed(alpha=missing)["alpha"] == pytest.approx(0.5 - away)
        assert completed(rotation_y=missing)["rotation_y"] == pytest.approx(0.25 + away)
    assert completed(rotation_y=..., alpha=3.1)["rotation_y"] == pytest.approx(3.1 + away - 2 * math.pi)


@pytest.mark.parametrize("angle, expected", [(4, 4 - 2 * math.pi), (-4, 2 * math.pi - 4), (6.2, 6.2 - 2 * math.pi),
                                             (3.1, 3.1), (2 * math.pi, 0), (0, 0)])
def test_angles_of_a_whole_turn_are_wrapped(angle, expected):
    """Or bins_of would put them into the wrong bins."""
    entry = completed(alpha=angle, rotation_y=angle)
    assert entry["alpha"] == pytest.approx(expected) and entry["rotation_y"] == pytest.approx(expected)


@pytest.mark.parametrize("fields, parts", [
    ({"dim": ...}, ("dim", "None", "height, width and length")), ({"dim": [1, 2]}, ("dim", "[1, 2]")),
    ({"dim": [1, 2, 3, 4]}, ("dim",)), ({"dim": [1, 2, 0]}, ("dim",)), ({"dim": [-1, -1, -1]}, ("dim", "-1")),
    ({"dim": ["1", "2", "3"]}, ("dim", "'1'")), ({"dim": [1, 2, math.nan]}, ("dim", "nan")),
    ({"dim": [1, 2, 1e300]}, ("dim",)), ({"dim": 3}, ("dim",)), ({"dim": {"h": 1}}, ("dim",)),
    ({"depth": -10}, ("depth", "-10", "above 0")), ({"depth": 0}, ("depth", "0")), ({"depth": "10"}, ("depth",)),
    ({"depth": math.nan}, ("depth", "nan")), ({"depth": math.inf}, ("depth",)), ({"depth": 1e9}, ("depth",)),
    ({"depth": [10]}, ("depth",)), ({"depth": ..., "location": ...}, ("depth", "None")),
    ({"location": [1, 2]}, ("location", "[1, 2]")), ({"location": [1, 2, "3"]}, ("location",)),
    ({"location": [1, math.nan, 3]}, ("location", "nan")), ({"location": []}, ("location",)),
    ({"location": "x"}, ("location",)), ({"location": [1, 1, -10]}, ("location", "-10")),
    ({"location": [1, 1, 0]}, ("location",)), ({"location": [1e300, 1, 10]}, ("location",)),
    ({"location": [-1000, -1000, -1000], "depth": -1000}, ("location", "-1000")),
    ({"location": [1, 1, -10], "depth": ...}, ("location",)),
    ({"alpha": ..., "rotation_y": ...}, ("alpha", "rotation_y", "radians")), ({"alpha": -10}, ("alpha", "-10")),
    ({"alpha": 90}, ("alpha", "90", "radians")), ({"rotation_y": -180}, ("rotation_y", "-180", "radians")),
    ({"alpha": ..., "rotation_y": 90}, ("rotation_y", "90")), ({"alpha": "x"}, ("alpha",)),
    ({"alpha": math.nan}, ("alpha", "nan")), ({"rotation_y": [1]}, ("rotation_y",)), ({"alpha": True}, ("alpha",)),
    ({"truncated": "no"}, ("truncated", "'no'")), ({"occluded": [0]}, ("occluded",)),
    ({"occluded": 1e300}, ("occluded",)), ({"truncated": math.nan}, ("truncated",)),
])
def test_annotations_without_a_3d_box_are_refused(fields, parts):
    """Each in a short sentence."""
    long = {name: value * 10_000 for name, value in fields.items() if isinstance(value, (list, str))}
    for values, named in ((fields, parts), (fields | long, parts[:1])):
        with user_error(*named) as raised:
            completed(**values)
        assert len(str(raised.value)) < 200 and str(raised.value).startswith("it")


def test_regions_to_ignore_need_no_3d_box():
    """But may have one, as KITTI's vans do; placeholders and damaged numbers are dropped."""
    for fields in (dict.fromkeys(BOX, ...), {"dim": [-1, -1, -1], "location": [-1000] * 3, "alpha": -10},
                   {"dim": "x"}, {"depth": -1}, {"truncated": "x"}, {"rotation_y": 90}):
        entry = completed(iscrowd=1, **fields)
        assert not set(entry) & set(targets.FIELDS) and entry["calib"] == CALIB
    assert completed(iscrowd=1, alpha=...)["alpha"] == pytest.approx(0.5 - math.atan(0.1))


def test_objects_are_read():
    """The columns of MindRecord files; lists, for a checksum of the ground truth."""
    found = targets.read_object(completed(truncated=0.5), METAINFO)
    assert {name: len(values) for name, values in found.items()} == targets.object_columns(METAINFO)
    assert found["depth"] == [10] and found["dim"] == [1.5, 1.6, 4] and found["ignored"] == [0]
    assert found["location"] == [1, 1, 10] and (found["alpha"], found["rotation_y"]) == ([0.25], [0.5])
    np.testing.assert_array_equal(found["calib"], np.ravel(CALIB))
    ignored = targets.read_object(completed(iscrowd=1), METAINFO)
    assert ignored["ignored"] == [1] and not any(np.any(ignored[name]) for name in BOX)
    np.testing.assert_array_equal(ignored["calib"], np.ravel(CALIB))
    json.dumps([found, ignored])


def test_data_without_a_3d_box_is_refused():
    """What an annotation file promises, and what its objects have."""
    columns = {"ignored": np.array([[1], [1]])}
    with user_error("no object has a 3D box", "detection", "net_config.task"):
        targets.observed(METAINFO, np.array([0, 1]), **columns)
    columns["ignored"][1] = 0
    assert targets.observed(METAINFO, np.array([0, 1]), **columns) is METAINFO


@pytest.mark.parametrize("annotations, expected", [
    ([{"depth": 1, "dim": 2}], "ddd"), ([{}, {"depth": None, "dim": None}], "ddd"), ([{"depth": 1}], "detection"),
    ([{"dim": [1, 2, 3]}, {"depth": 1}], "detection"), ([], "detection"), (None, "detection"), ("x", "detection"),
    ({"dim": 1, "depth": 1}, "detection"), ([3, None, "dim depth"], "detection"), ([["dim", "depth"]], "detection")])
def test_the_task_of_an_annotation_file(annotations, expected):
    """Which may be damaged."""
    assert fitting_task({"annotations": annotations, "categories": []}).name == expected


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize("degrees, bins", [
    (0, (1, 1)), (-90, (1, 0)), (90, (0, 1)), (180, (1, 1)), (-180, (1, 1)), (29.9, (1, 1)), (30.1, (0, 1)),
    (-29.9, (1, 1)), (-30.1, (1, 0)), (149.9, (0, 1)), (150.1, (1, 1)), (-149.9, (1, 0)), (-150.1, (1, 1))])
def test_bins_by_hand(degrees, bins):
    """Two halves of the circle around -90 and 90 degrees, with 30 more at each end."""
    holds, rests = targets.bins_of(math.radians(degrees))
    assert tuple(holds) == bins
    expected = [math.radians(degrees + 90) * bins[0], math.radians(degrees - 90) * bins[1]]
    assert rests == pytest.approx(expected)


CAR = (1, (4, 4, 12, 10), 20, 0, 0)


def objects_of(*rows, moved=False):
    """Objects in output pixels, of (label, box x1, y1, x2, y2, depth, alpha, ignored)."""
    table = np.array([[label, *box, *others] for label, box, *others in rows], np.float32).reshape(-1, 8)
    return {"labels": table[:, 0].astype(int), "boxes": table[:, 1:5], "depth": table[:, 5:6], "alpha": table[:, 6:7],
            "ignored": table[:, 7:8], "dim": np.tile([1.5, 1.6, 4], (len(table), 1)), "moved": moved}


def encoded(make_config, *rows, moved=False, args=()):
    """targets.encode for an output of 32x24."""
    config = make_config(*SMALL, *args)
    layout = targets.layout_of(config, METAINFO)
    heatmaps = {name: maps[0] for name, maps in targets.empty_heatmaps(1, layout).items()}
    return targets.encode(objects_of(*rows, moved=moved), layout, heatmaps)


def test_targets_by_hand(make_config):
    """Two objects, one of them cut off at the left, and one that is outside."""
    found = encoded(make_config, (1, (4, 4, 13, 10), 20, 0, 0), (0, (-4, 2, 6, 8), 8, -2, 0),
                    (2, (40, 2, 50, 8), 8, 0, 0))
    assert found["ind"][:3].tolist() == [7 * 32 + 8, 5 * 32 + 3, 0]
    np.testing.assert_array_equal(found["wh"][:3], [[9, 6], [6, 6], [0, 0]])
    np.testing.assert_array_equal(found["reg"][:3], [[0.5, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(found["dep"][:3, 0], [20, 8, 0])
    np.testing.assert_allclose(found["dim"][:3], [[1.5, 1.6, 4]] * 2 + [[0] * 3])
    np.testing.assert_array_equal(found["rotbin"][:3], [[1, 1], [1, 0], [0, 0]])
    np.testing.assert_allclose(found["rotres"][:3], [[np.pi / 2, -np.pi / 2], [np.pi / 2 - 2, 0], [0, 0]], atol=1e-6)
    for name in ("reg_mask", "rot_mask"):
        assert found[name].sum() == 2 and found[name][:2].all()
    assert np.argwhere(found["hm"] == 1).tolist() == [[0, 5, 3], [1, 7, 8]] and not found["hm"][2].any()
    assert set(targets.columns(True)) == {"image", "color", *found}


def test_ignored_regions_are_neither_centers_nor_background(make_config):
    """0.9999 at the center: almost no loss, whatever the network says; nothing is learned, and the next object takes
    the place."""
    found = encoded(make_config, (1, (18, 8, 28, 16), 0, 0, 1), CAR)
    assert found["hm"][1, 12, 23] == np.float32(0.9999) and 0 < found["hm"][1, 12, 24] < 1
    assert np.argwhere(found["hm"] == 1).tolist() == [[1, 7, 8]]
    assert found["rot_mask"].sum() == found["reg_mask"].sum() == 1 and found["ind"][0] == 7 * 32 + 8
    assert found["dep"][:2, 0].tolist() == [20, 0]


def test_objects_beyond_max_objs_are_ignored(make_config):
    found = encoded(make_config, CAR, (0, (16, 4, 26, 12), 9, 0, 0), (0, (4, 14, 12, 20), 9, 0, 0),
                    args=("--dataset_config.max_objs", 1))
    assert found["dep"].shape == (1, 1) and found["dep"][0, 0] == 20
    assert np.argwhere(found["hm"] == 1).tolist() == [[1, 7, 8]]
    assert [found["hm"][0, y, x] for x, y in ((21, 8), (8, 17))] == [np.float32(0.9999)] * 2


def test_depth_is_not_learned_of_moved_images(make_config):
    """Nor dimensions; size, offset and rotation are."""
    plain, moved = (encoded(make_config, CAR, moved=moved) for moved in (False, True))
    assert plain["reg_mask"].sum() == 1 and not moved["reg_mask"].any()
    for name in set(plain) - {"reg_mask"}:
        np.testing.assert_array_equal(plain[name], moved[name])


def test_boxes_are_warped_and_images_marked(make_config):
    matrix = np.array([[0.5, 0, 3], [0, 0.5, -2]])
    found = targets.warp(objects_of((1, (4, 8, 12, 20), 20, 0, 0)), Placement(matrix, matrix, moved=True), None)
    np.testing.assert_allclose(found["boxes"], [[5, 2, 9, 8]])
    assert found["moved"] and found["depth"] == 20


# ---------------------------------------------------------------- augmentation


def ranges(**changes):
    return Ranges(**{"rand_crop": True, "shift": 0.1, "scale": 0.4, "aug_rot": 1.0, "rotate": 30.0, "flip_prop": 1.0,
                     "color_aug": False, "aug_ddd": 0.5, **changes})


def draws(count, **changes):
    """Augmentations of an image of 200x100 for an input of 100x40."""
    return [targets.random_augmentation(np.random.default_rng([7, number]), (200, 100), (100, 40), ranges(**changes))
            for number in range(count)]


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 1.0])
def test_a_share_of_the_images_is_moved(probability):
    """The others are as in inference: the full width around the center. Nothing is mirrored or rotated."""
    found = draws(1500, aug_ddd=probability)
    share = sum(one.moved for one in found) / len(found)
    assert share == pytest.approx(probability, abs=4 * math.sqrt(probability * (1 - probability) / 1500))
    for one in found:
        assert not one.flip and one.rotation == 0 and not one.steps
        assert one.moved == (one.center.tolist() != [100, 50] or one.width != 200)


def test_augmentation_is_drawn_from_the_generator_alone():
    first, second = draws(5, color_aug=True), draws(5, color_aug=True)
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one.center, other.center)
        assert (one.width, one.moved, one.steps) == (other.width, other.moved, other.steps) and len(one.steps) == 3
    assert len({one.width for one in first}) > 1


def test_moves_by_hand():
    """20 % wider, 10 % to the left, and down by the limit of 20 %; the limits of the scale."""
    center = np.array([100, 50], np.float32)
    found, width = targets.moved_view(center, 200.0, (200, 100), (0.5, -1, 3), 0.4, 0.1)
    np.testing.assert_allclose(found, [80, 70])
    assert width == pytest.approx(240)
    for draw, factor in ((9, 1.4), (-9, 0.6)):
        assert targets.moved_view(center, 200.0, (200, 100), (draw, 0, 0), 0.4, 0.1)[1] == pytest.approx(200 * factor)


def test_moves_stay_in_their_limits():
    moved = draws(400, aug_ddd=1.0)
    centers, widths = np.array([one.center for one in moved]), np.array([one.width for one in moved])
    assert 120 - 1e-6 <= widths.min() < 125 and 275 < widths.max() <= 280 + 1e-6
    for sign in (-1, 1):
        farthest = (sign * (centers - [100, 50])).max(0)
        assert (farthest <= [40.01, 20.01]).all() and (farthest > [36, 18]).all()


# ---------------------------------------------------------------- settings

SOLID = ["net_config.task", "ddd"]


@pytest.mark.parametrize("args, expected", [
    ([], None), (["dataset_config.shift", 0.05, "dataset_config.scale", 0.2], None),
    (["dataset_config.aug_ddd", 0, "dataset_config.shift", 0.05, "dataset_config.scale", 0.2],
     "dataset_config.aug_ddd is 0: dataset_config.shift, dataset_config.scale"),
    (["net_config.reg_offset", "false", "net_config.off_weight", 2],
     "net_config.reg_offset is false: net_config.off_weight"),
    (["net_config.reg_bbox", "false", "net_config.wh_weight", 2], "net_config.reg_bbox is false: net_config.wh_weight"),
    (["net_config.wh_weight", 2, "net_config.dep_weight", 2, "net_config.dim_weight", 2], None),
    (["dataset_config.flip_prop", 0.1, "dataset_config.rand_crop", "false", "net_config.mse_loss", "true",
      "net_config.reg_loss", "sl1", "net_config.hm_hp", "false"],
     "task is ddd: dataset_config.flip_prop, dataset_config.rand_crop, net_config.mse_loss, net_config.reg_loss, "
     "net_config.hm_hp"),
    (["dataset_config.rotate", 10, "dataset_config.aug_rot", 0.5],
     "task is ddd: dataset_config.rotate, dataset_config.aug_rot"),
    (["dataset_config.heatmap_on", "device"], "host, heatmaps: dataset_config.heatmap_on"),
    (["dataset_config.color_aug", "false", "dataset_config.eig_val", "[1, 1, 1]"],
     "dataset_config.color_aug is false: dataset_config.eig_val"),
])
def test_parameters_without_effect(args, expected, make_config):
    options = [f"--{arg}" if index % 2 == 0 else arg for index, arg in enumerate(SOLID + args)]
    assert_messages(combinations.unused_in_training(make_config(*options)), expected)


@pytest.mark.parametrize("task", ["detection", "pose"])
def test_parameters_of_3d_boxes_have_no_effect_on_other_tasks(task, make_config):
    names = ["net_config.dep_weight", "net_config.dim_weight", "net_config.rot_weight", "dataset_config.aug_ddd"]
    config = make_config("--net_config.task", task, *(word for name in names for word in (f"--{name}", 0.75)),
                         "--net_config.reg_bbox", "false", "--eval_config.depth_by_focal", "true")
    assert_messages(combinations.unused_in_training(config),
                    f"task is {task}: {', '.join(names)}, net_config.reg_bbox, eval_config.depth_by_focal")


SINGLE = ["--net_config.task", "ddd", "--eval_config.keep_res", "false", "--dataset_config.input_res_test", "[128, 96]"]


@pytest.mark.parametrize("args, parts", [
    (["--eval_config.keep_res", "true"], ("eval_config.keep_res is true", "needs false")),
    (["--eval_config.flip_test", "true"], ("eval_config.flip_test is true", "needs false")),
    (["--eval_config.multi_scales", "[0.5, 1]"], ("eval_config.multi_scales is [0.5, 1", "[1.0]")),
    (["--eval_config.multi_scales", "[2]"], ("eval_config.multi_scales", "[1.0]")),
    (["--dataset_config.input_res_test", "[100, 96]"], ("dataset_config.input_res_test",)),
])
def test_settings_that_3d_boxes_need(args, parts, make_config):
    """Depth is learned at one scale."""
    facts = combinations.network_facts(make_config(*SINGLE).net_config.as_dict())
    combinations.check_evaluation(make_config(*SINGLE), facts)
    combinations.check_evaluation(make_config(*SINGLE, "--eval_config.multi_scales", "[1]"), facts)
    with user_error(*parts) as raised:
        combinations.check_evaluation(make_config(*SINGLE, *args), facts)
    assert "\n" not in str(raised.value)


def test_the_side_file_has_the_tasks_evaluation_settings(make_config):
    """Only this task's."""
    assert evaluation_settings(make_config(*SINGLE))["eval_config.depth_by_focal"] is False
    assert "eval_config.depth_by_focal" not in evaluation_settings(make_config())


def test_a_batch_is_previewed(make_config):
    """With depths, in parentheses if they are not learned; also of an image without objects."""
    config = make_config(*SMALL)
    layout = targets.layout_of(config, METAINFO)
    samples = [encoded(make_config, *[CAR] * count, moved=moved) for count, moved in ((1, False), (1, True), (0, True))]
    batch = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    batch["image"] = np.zeros((3, 3, 96, 128), np.float32)
    texts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes_preview, "put_labels", lambda tile, boxes, scores, labels, own: texts.append(own))
        drawn = preview.draw_batch(batch, ["a", "b", "c"], layout, config.net_config, METAINFO)
    assert texts == [["Car 20.0 m"], ["Car (20.0 m)"], []] and drawn.dtype == np.uint8 and min(drawn.shape[:2]) > 300
    # Of the same object, in the size of a tile with a gap and a caption: lines of a 3D box only if it is not moved.
    blue = (np.abs(drawn.astype(int) - class_color(1)).max(-1) < 40)
    assert blue[:, 10:480].sum() > 1.15 * blue[:, 500:970].sum() > 0


@pytest.mark.parametrize("degrees", [0, 100, -100, 170])
def test_3d_boxes_are_decoded_from_the_targets(degrees, make_config):
    """With the data set's camera, its focal length in proportion to the input's width: the middle of the 3D box is at
    the center of the object in the image and at its depth; its angle to the ray is alpha."""
    config = make_config(*SMALL)
    layout, alpha = targets.layout_of(config, METAINFO), math.radians(degrees)
    found = encoded(make_config, (1, (4, 4, 13, 10), 20, alpha, 0), (0, (14, 2, 20, 9), 8, 0, 0))
    decoded = boxes_preview.decode_targets({**found, "reg_mask": found["rot_mask"]}, layout)
    rows = preview.decode_boxes_3d(found, decoded, layout, METAINFO)
    box, zoom = results.boxes_3d_of(rows)[0], 128 / 1224
    calib = np.array(METAINFO["camera"]["matrix"]) * [[zoom], [zoom], [1]]
    x, y, depth = calib[:, :3] @ (box[:3] - [0, box[3] / 2, 0]) + calib[:, 3]
    low = (96 - 370 * zoom) / 2  # black above the image, whose width is shown in full
    assert (x / depth, y / depth + low, depth) == pytest.approx((8.5 * 4, 7 * 4, 20), abs=0.01)
    assert box[3:6].tolist() == pytest.approx([1.5, 1.6, 4]) and len(rows) == 2
    ray = math.atan2(x / depth - calib[0, 2], calib[0, 0])
    assert math.remainder(box[6] - alpha - ray, math.tau) == pytest.approx(0, abs=1e-5)
