"""src/data/stick_figures.py and tools/make_shapes_dataset.py --keypoints."""
import filecmp
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from src.data.stick_figures import CATEGORY, NAMES, draw_figure
from tests.conftest import call_script

PAIRS = [("left_elbow", "right_elbow"), ("left_hand", "right_hand"), ("left_knee", "right_knee"),
         ("left_foot", "right_foot")]


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """The folder of a generated data set."""
    folder = tmp_path_factory.mktemp("figures") / "data"
    call_script("tools/make_shapes_dataset.py", "--output", folder, "--keypoints", "--train", 20, "--val", 3)
    return folder


def test_the_files_are_coco_keypoints(figures):
    coco = COCO(str(figures / "annotations" / "person_keypoints_train2017.json"))
    category = coco.cats[1]
    assert category["name"] == "figure" and len(category["keypoints"]) == 11 and len(coco.imgs) == 20
    bones = {frozenset(category["keypoints"][number - 1] for number in bone) for bone in category["skeleton"]}
    assert len(bones) == 10 and {frozenset(("head", "neck")), frozenset(("left_knee", "left_foot"))} < bones
    for annotation in coco.anns.values():
        x, y, width, height = annotation["bbox"]
        joints = np.reshape(annotation["keypoints"], (11, 3))
        assert annotation["num_keypoints"] == 11 and annotation["iscrowd"] == 0 and set(joints[:, 2]) <= {1, 2}
        assert (joints[:, :2] > [x, y]).all() and (joints[:, :2] < [x + width, y + height]).all()
        assert 64 <= max(width, height) <= 104 and 0 <= min(x, y) and max(x + width, y + height) <= 128
    for info in coco.imgs.values():
        image = cv2.imread(str(figures / "train2017" / info["file_name"]))
        assert image.shape == (info["height"], info["width"], 3) == (128, 128, 3)
        assert 1 <= len(coco.imgToAnns[info["id"]]) <= 2


def test_the_same_seed_gives_the_same_files(figures, tmp_path):
    args = ["--keypoints", "--train", 20, "--val", 3, "--seed"]
    for seed in (1, 2):
        call_script("tools/make_shapes_dataset.py", "--output", tmp_path / str(seed), *args, seed)
        for name in ("annotations/person_keypoints_val2017.json", "train2017/000020.jpg"):
            assert filecmp.cmp(figures / name, tmp_path / str(seed) / name, shallow=False) == (seed == 1)


def test_joints_that_a_later_figure_covers_are_hidden(figures):
    """They are inside the box of a later figure; a figure that nothing covers has no hidden joint."""
    content = json.loads((figures / "annotations" / "person_keypoints_train2017.json").read_text())
    hidden = 0
    for annotation in content["annotations"]:
        later = [other["bbox"] for other in content["annotations"]
                 if other["image_id"] == annotation["image_id"] and other["id"] > annotation["id"]]
        for x, y, flag in np.reshape(annotation["keypoints"], (11, 3)):
            inside = any(left <= x <= left + width and top <= y <= top + height for left, top, width, height in later)
            assert flag == 2 or inside
            hidden += flag == 1
    assert hidden
    figure = draw_figure(np.random.default_rng(0), 128, 100, 100)
    x, y = figure.joints[0]
    visible = figure.mask.copy()
    cv2.circle(visible, (round(x), round(y)), 4, 0, -1)  # the head's center
    assert figure.annotation(visible)["keypoints"][2::3] == [1] + 10 * [2]


@pytest.mark.parametrize("seed", range(20))
def test_box_and_area_are_those_of_the_drawing(seed):
    rng = np.random.default_rng(seed)
    figure = draw_figure(rng, 128, 60, 110)
    annotation = figure.annotation(figure.mask)
    drawn = 1 - figure.paint(np.full((128, 128, 3), 1e6, np.float32)).max(-1) / 1e6  # the figure's part of each pixel
    ys, xs = np.nonzero(drawn > 0.01)
    x, y, width, height = annotation["bbox"]
    bounds = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    np.testing.assert_allclose([x, y, x + width, y + height], bounds, atol=1.2)
    assert annotation["area"] == pytest.approx((drawn > 0.5).sum(), rel=0.03)
    image = figure.paint(np.full((128, 128, 3), 127, np.float32))
    head, foot = (image[int(y), int(x)] for x, y in figure.joints[[NAMES.index("head"), NAMES.index("left_foot")]])
    assert head.mean() > 140 and foot.max() < 80  # skin and shoes


@pytest.mark.parametrize("mirrored", [False, True])
def test_left_and_right_are_told_by_the_body_alone(mirrored):
    """A figure faces the viewer: seen from the neck, its left elbow and knee are on the right of its hip's direction.
    It is the same in a mirror image, where left and right change names."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        named = dict(zip(NAMES, draw_figure(rng, 128, 100, 100).joints * ([-1, 1] if mirrored else [1, 1])))
        if mirrored:
            named |= {one: named[other] for pair in PAIRS for one, other in (pair, pair[::-1])}
        down = named["hip"] - named["neck"]
        for (left, right), start in ((PAIRS[0], "neck"), (PAIRS[2], "hip")):
            for name, sign in ((left, 1), (right, -1)):
                arm = named[name] - named[start]
                assert sign * (arm[0] * down[1] - arm[1] * down[0]) > 0


def test_sides_follow_from_the_names():
    pose = pytest.importorskip("src.tasks.pose.keypoints")
    found = pose.read_metainfo([CATEGORY])["keypoints"]
    assert [tuple(found["names"][index] for index in pair) for pair in found["flip_idx"]] == PAIRS


@pytest.mark.parametrize("size, smallest, largest", [(8, 1, 8), (1, 1, 1), (300, 290, 300)])
def test_extreme_sizes(size, smallest, largest):
    rng = np.random.default_rng(0)
    for _ in range(20):
        figure = draw_figure(rng, size, smallest, largest)
        annotation = figure.annotation(figure.mask)
        assert annotation["area"] > 0 and len(annotation["keypoints"]) == 33
