"""src/imaging/drawing.py and tools/contact_sheet.py."""
import json
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from src.core.backups import MARK, contains_mark
from src.core.errors import UserError
from src.imaging import drawing
from src.tasks.detection import DETECTION
from src.tasks.pictures import compare, draw, panels
from tests.conftest import NARROW, call_script, lines_with, noise_image, write_coco


def test_contact_sheet(export_mindir, tiny_data, tmp_path):
    exported = export_mindir("floats_one", *NARROW[:2])
    call_script("tools/contact_sheet.py", "--mindir", exported, "--data_dir", tiny_data, "--output", tmp_path / "s.png",
                "--count", 4, "--columns", 2, "--width", 300)
    sheet = cv2.imread(str(tmp_path / "s.png"))
    assert sheet.shape[1] == 2 * 300 + 3 * 8 and sheet.std() > 10


def test_contact_sheet_of_damaged_data(export_mindir, tmp_path):
    """Unreadable images are reported and skipped, and category ids in another order keep their names."""
    exported = export_mindir("floats_one", *NARROW[:2])
    images = {1: noise_image(1), 2: b"no image", 3: noise_image(3)}
    path = write_coco(tmp_path, "val", images, [(1, 5, [1, 1, 50, 50])], ("triangle", "rectangle", "ellipse"),
                      ids=(5, 7, 9))
    content = json.loads(open(path, encoding="utf-8").read())
    content["images"][2].update(width=7, height=7)
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    args = ["--mindir", exported, "--data_dir", tmp_path, "--output", tmp_path / "s.png"]
    done = call_script("tools/contact_sheet.py", *args)
    assert lines_with(done.stdout, "1 images", str(tmp_path / "s.png"))
    assert lines_with(done.stdout, "image 2 (") and lines_with(done.stdout, "image 3 (", "128x96", "7x7")


@pytest.mark.parametrize("ending, key", [(".jpg", "comment"), (".jpeg", "comment"), (".png", "Software"),
                                         (".webp", None)])
def test_written_images_carry_the_mark(ending, key, tmp_path):
    """If the format has a field for it; Pillow finds it there, and the pixels are the same as without."""
    image = cv2.GaussianBlur(noise_image(3), (0, 0), 3)
    path = tmp_path / f"a{ending}"
    drawing.save_image(str(path), image)
    np.testing.assert_array_equal(cv2.imread(str(path)), cv2.imdecode(cv2.imencode(ending, image)[1], cv2.IMREAD_COLOR))
    with Image.open(path) as read:
        read.load()
        found = read.info.get(key)
    assert key is None or found in (MARK, MARK.encode())
    assert contains_mark()(str(path)) == (key is not None)
    cv2.imwrite(str(path), image)  # a user's file
    with pytest.raises(UserError, match=str(path)):
        drawing.save_image(str(path), image, contains_mark())


def test_boxes_are_drawn_in_place():
    image = np.full((400, 480, 3), 127, np.uint8)
    detections = np.array([[80, 120, 320, 360, 0.9, 0], [4, 4, 20, 20, 0.1, 1]], np.float32)
    drawn = compare(DETECTION, image, detections, None, {"classes": ["a", "b"]}, 0.5)[-400:]
    assert (image == 127).all()
    for y, x in ((240, 80), (360, 200), (240, 320)):
        np.testing.assert_allclose(drawn[y, x], drawing.class_color(0), atol=20)  # the lines are smoothed
    np.testing.assert_array_equal(drawn[12, 4], [127] * 3)  # below the threshold


@pytest.mark.parametrize("size, factor", [((128, 128), 4), ((399, 20), 2), ((400, 300), 1), ((1, 1), 400)])
def test_small_images_are_enlarged_before_drawing(size, factor):
    """By a whole number, with their boxes; a label of an object in the middle of a small image does not hide it."""
    image = np.full((size[1], size[0], 3), 127, np.uint8)
    box = np.array([0.4 * size[0], 0.4 * size[1], 0.6 * size[0], 0.6 * size[1], 0.9, 0], np.float32)
    drawn = draw(DETECTION, image, box[None], {"classes": ["triangle"]})
    assert drawn.shape == (size[1] * factor, size[0] * factor, 3) and (image == 127).all()
    if size == (128, 128):
        x1, y1, x2, y2 = (box[:4] * factor).astype(int)
        assert (drawn[y1 + 5 : y2 - 5, x1 + 5 : x2 - 5] == 127).all()
        np.testing.assert_allclose(drawn[(y1 + y2) // 2, x1], drawing.class_color(0), atol=20)


def test_what_is_not_found_is_written():
    """In the captions; with nothing to draw."""
    image, box = np.full((400, 400, 3), 127, np.uint8), np.array([[80, 120, 320, 360, 0.2, 0]], np.float32)
    captions = [caption for caption, _ in panels(DETECTION, image, box, box, {"classes": ["a"]}, 0.3)]
    assert captions == ["prediction: nothing found", "ground truth"]
    captions = [caption for caption, _ in panels(DETECTION, image, box, box[:0], {"classes": ["a"]}, 0.1)]
    assert captions == ["prediction", "ground truth: no objects"]
    strip = drawing.captioned(image, "prediction")[:-400]
    ink = np.flatnonzero((strip < 128).any((1, 2)))
    assert 9 <= np.ptp(ink) < 20  # from the d's tip to the p's: at least 12 pixels of text


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (110, 90, 205), (230, 220, 235)])
def test_heat_differs_from_boxes_and_images(background):
    """On red cells and on any other background, a peak is far from it, and weak heat is visible; a peak has the color
    of none of 80 classes."""
    image = np.full((40, 40, 3), background, np.uint8)
    heat = np.zeros((40, 40), np.float32)
    heat[20, 20], heat[5, 5] = 1, 0.2
    lit = drawing.light_up(image, heat).astype(int)
    assert np.abs(lit[20, 20] - lit[30, 30]).max() > 90 and np.abs(lit[5, 5] - lit[30, 30]).max() > 20
    assert min(np.abs(lit[20, 20] - drawing.class_color(label)).max() for label in range(80)) > 150


@pytest.mark.parametrize("box", [[-50, -50, 500, 500], [119, 0, 140, 30], [0, 99, 10, 140], [60, 60, 60, 60]])
def test_labels_of_boxes_at_the_edges_stay_inside(box):
    drawn = drawing.draw_boxes(np.zeros((100, 120, 3), np.uint8), np.array([box]), np.array([0.9]),
                               np.array([0]), ["name"])
    assert (drawn == drawing.class_color(0)).all(-1).sum() > 200  # the label's filled rectangle


@pytest.mark.parametrize("height, width", [(1, 1), (1, 30000), (30000, 1), (61, 6500), (2000, 50), (100, 100)])
def test_images_of_any_shape_are_drawn_in_time(height, width, tmp_path):
    """With 100 labels; the text is small compared with the image, and the file can be written."""
    image, rng = np.full((height, width, 3), 127, np.uint8), np.random.default_rng(0)
    corners = rng.uniform(0, 1, (100, 4)) * [width, height, width, height]
    detections = np.hstack([np.sort(corners.reshape(-1, 2, 2), 1).reshape(-1, 4), rng.uniform(0.3, 1, (100, 1)),
                            np.zeros((100, 1))])
    start = time.process_time()
    drawn = compare(DETECTION, image, detections, detections[:5], {"classes": ["x" * 10_000]}, 0.3)
    shown = drawing.contact_sheet([drawn, drawing.fit(image, 300, 300)], 2, 200)
    for ending in (".jpg", ".webp", ".png"):
        drawing.save_image(str(tmp_path / f"a{ending}"), drawn)
        assert cv2.imread(str(tmp_path / f"a{ending}")) is not None
    assert time.process_time() - start < 8
    assert max(drawn.shape[:2]) < 2 * max(height, width, 800) + 60 and max(shown.shape[:2]) < 500
    assert height < 50 or drawing.text_mask("x", max(12, round(drawing.drawing_side(image) / 55))).shape[0] < height / 3


def test_images_beyond_a_formats_limit_are_downscaled(tmp_path):
    image = np.zeros((40, 70_000, 3), np.uint8)
    image[:, 35_000:] = 255
    for ending, longest in ((".jpg", 65500), (".webp", 16383), (".png", 70_000)):
        drawing.save_image(str(tmp_path / f"a{ending}"), image)
        written = cv2.imread(str(tmp_path / f"a{ending}"))
        assert written.shape == (round(40 * longest / 70_000), longest, 3)
        assert written[:, longest // 4].max() < 10 and written[:, -longest // 4].min() > 245


def test_scale_of_drawings_on_usual_images():
    """Text and lines scale with the longer side."""
    for height, width in ((480, 640), (640, 480), (3000, 4000), (500, 2000), (2000, 500)):
        assert drawing.drawing_side(np.empty((height, width, 0))) == max(height, width)


@pytest.mark.parametrize("names, paths", [
    (["a.jpg", "b/a.PNG", "c/b/a.webp"], ["a.jpg", "b/a.PNG", "c/b/a.webp"]),
    (["a", "a.gif", "a.png"], ["a.png", "a.gif.png", "a.1.png"]), (["a.jpg"] * 3, ["a.jpg", "a.1.jpg", "a.2.jpg"]),
    (["a.1.jpg", "a.jpg", "a.jpg"], ["a.1.jpg", "a.jpg", "a.2.jpg"]),
    (["../../a.jpg", "/a.jpg", "./b//../a.jpg", "..", ""], ["a.jpg", "a.1.jpg", "b/a.jpg", "image.png", "image.1.png"]),
    (["a.jpg", "a.jpg/b.jpg"], ["a.jpg", "a.jpg_/b.jpg"]),
    (["x" * 250 + ".jpg"] * 2, ["x" * 200 + ".jpg", "x" * 200 + ".1.jpg"]),
    (["猫" * 84 + ".jpg"], ["猫" * 66 + ".jpg"]),
    (["a\udcff.jpg", ".jpg"], ["a\udcff.jpg", ".jpg.png"]),
])
def test_names_of_drawings(names, paths):
    assert drawing.drawing_paths(names) == paths
