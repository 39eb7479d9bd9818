"""src/runs/report.py, tools/report.py, and the functions of scores.py and drawing.py that they use."""
import html
import json
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from src.core.errors import UserError
from src.core.files import read_json
from src.data.coco import read_coco
from src.imaging import drawing
from src.imaging.view import View
from src.runs import class_scores, report
from src.runs.record import TrainingLog
from src.tasks.detection import DETECTION, scores
from src.tasks.detection.results import draw
from tests.conftest import (
    TINY,
    assert_user_error,
    call_script,
    contents,
    lines_with,
    noise_image,
    replace_resdcn_18,
    step_results,
    write_coco,
)


def coco_of(tmp_path, objects):
    """A data set of two 100x100 images with classes disc (id 1) and square (id 2)."""
    images = {number: noise_image(number, 100, 100) for number in (1, 2)}
    return read_coco(write_coco(str(tmp_path), "val", images, objects))


def record(image_id, category_id, bbox, score):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


OBJECTS = [(1, 1, [10, 10, 20, 20]), (1, 2, [60, 60, 20, 20]), (2, 2, [30, 30, 40, 40])]
RECORDS = [
    record(1, 1, [10, 10, 20, 20], 0.9),   # correct
    record(1, 1, [60, 62, 20, 20], 0.8),   # a square detected as a disc: IoU 360 / 440
    record(1, 2, [0, 80, 10, 10], 0.7),    # background
    record(2, 2, [30, 30, 40, 20], 0.25),  # correct, half of the object, with a low score
]


def test_confusion_by_hand(tmp_path):
    coco = coco_of(tmp_path, OBJECTS)
    np.testing.assert_array_equal(scores.confusion_matrix(coco, RECORDS, 0.3), [[1, 0, 0], [1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(scores.confusion_matrix(coco, RECORDS, 0.2), [[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(scores.confusion_matrix(coco, RECORDS, 0.2, 0.9), [[1, 0, 0], [0, 0, 2], [1, 2, 0]])


def test_quality_by_hand(tmp_path):
    """Image 1: one match with IoU 1 of two objects and three detections; image 2: IoU 1/2, or none above the score."""
    coco = coco_of(tmp_path, OBJECTS)
    assert scores.image_quality(coco, RECORDS, 0.2) == pytest.approx({1: 1 / 2.5, 2: 0.5})
    assert scores.image_quality(coco, RECORDS, 0.3) == pytest.approx({1: 1 / 2.5, 2: 0})
    assert scores.image_quality(coco_of(tmp_path, OBJECTS[:2]), RECORDS[:1], 0.3) == pytest.approx({1: 1 / 1.5})


def test_crowds_are_neither_missed_nor_false_positives(tmp_path):
    coco = coco_of(tmp_path, OBJECTS)
    coco.dataset["annotations"][2]["iscrowd"] = 1
    records = [record(2, 1, [32, 32, 5, 5], 0.9)]
    np.testing.assert_array_equal(scores.confusion_matrix(coco, records, 0.3), [[0, 0, 1], [0, 0, 1], [0, 0, 0]])


def boxes_of(*boxes):
    """Detections of these boxes with decreasing scores."""
    return [{"bbox": box, "score": 1 - index / 100} for index, box in enumerate(boxes)]


def test_a_detection_matches_one_object():
    truth = [{"bbox": [0, 0, 10, 10]}, {"bbox": [0, 1, 10, 10]}]
    assert scores.match(truth, boxes_of([0, 1, 10, 10])) == [(1, 0, 1.0)]
    assert scores.match(truth, []) == [] and scores.match([], boxes_of([0, 1, 10, 10])) == []


def test_detections_after_a_duplicate_are_matched():
    """A second detection of the first object stays unmatched, although it is better than those of other objects."""
    truth = [{"bbox": [0, 0, 10, 10]}, {"bbox": [50, 0, 10, 10]}, {"bbox": [0, 50, 10, 10]}]
    found = boxes_of([0, 0, 10, 10], [0, 0, 10, 10], [50, 0, 10, 8], [0, 50, 10, 6])
    assert scores.match(truth, found) == [(0, 0, 1.0), (1, 2, pytest.approx(0.8)), (2, 3, pytest.approx(0.6))]
    found[1]["score"] = 1.5  # at equal overlap, the higher score
    assert scores.match(truth, found)[0] == (0, 1, 1.0)


def overlap(one, other):
    """IoU of two boxes x, y, width, height."""
    sides = [max(0, min(one[axis] + one[axis + 2], other[axis] + other[axis + 2]) - max(one[axis], other[axis]))
             for axis in (0, 1)]
    inside = sides[0] * sides[1]
    return inside / (one[2] * one[3] + other[2] * other[3] - inside)


@pytest.mark.parametrize("seed", range(30))
def test_pairs_are_stable(seed):
    """The defining property: of two boxes that overlap enough, one has a partner that overlaps it at least as much."""
    rng = np.random.default_rng(seed)
    boxes = np.hstack([rng.integers(0, 25, (16, 2)), rng.integers(15, 40, (16, 2))]).tolist()
    truth, found = [{"bbox": box} for box in boxes[:7]], boxes_of(*boxes[7:])
    pairs = scores.match(truth, found, 0.3)
    of_target, of_detection = ({pair[index]: pair[2] for pair in pairs} for index in (0, 1))
    assert len(of_target) == len(of_detection) == len(pairs) > 2
    for target, one in enumerate(truth):
        for detection, other in enumerate(found):
            shared = overlap(one["bbox"], other["bbox"])
            if (target, detection) in {pair[:2] for pair in pairs}:
                assert of_target[target] == pytest.approx(shared) and shared >= 0.3
            elif shared >= 0.3:
                assert max(of_target.get(target, 0), of_detection.get(detection, 0)) >= shared - 1e-9


def test_duplicates_do_not_hide_objects_of_a_data_set(tmp_path):
    """Every object detected, the first one twice: all are on the diagonal; qualities 2 / (2 + 1 / 2) and 1."""
    coco = coco_of(tmp_path, OBJECTS)
    records = [record(*OBJECTS[0], 0.9), *(record(*entry, 0.8) for entry in OBJECTS)]
    np.testing.assert_array_equal(scores.confusion_matrix(coco, records, 0.3), [[1, 0, 0], [0, 2, 0], [1, 0, 0]])
    assert scores.image_quality(coco, records, 0.3) == pytest.approx({1: 2 / 2.5, 2: 1})


# ---------------------------------------------------------------- page

METRICS = {**dict.fromkeys(DETECTION.metrics, 0.5), "AP_per_class": {"disc": 0.5}, "AP50_per_class": {"disc": 0.5}}

@pytest.fixture(scope="module")
def result(least_run, tiny_data, tmp_path_factory):
    """A result folder with a training record and an evaluation of the same run."""
    folder = tmp_path_factory.mktemp("result")
    for name in ("train_record.jsonl", "train_batch.jpg"):
        shutil.copy(least_run / name, folder)
    shutil.copytree(least_run / "ckpt_0", folder / "ckpt_0")
    args = ["--data_dir", tiny_data, "--load_checkpoint_path", least_run / "ckpt_0" / "centernet-2_7.ckpt"]
    with replace_resdcn_18("LEAST"):
        call_script("eval.py", *TINY, *args, "--eval_config.keep_res", "false", "--save_result_dir", folder)
    return folder


class Page(HTMLParser):
    """Collects a page's references, text and unclosed tags."""

    VOID = {"meta", "link", "img", "br", "input"}

    def __init__(self, text):
        super().__init__()
        self.references, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.slow
def test_one_self_contained_page(result, tmp_path):
    done = call_script("tools/report.py", result, "--output", tmp_path / "r.html", "--title", "<Tiny & run>")
    assert "without" not in done.stdout
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert page.open == [] and "<Tiny & run>" in page.text
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert "url(http" not in text and "<script" not in text
    metrics = json.loads((result / "val" / "metrics.json").read_text())
    for name in ("AP", "AP50", "AR_100"):
        assert f"{metrics[name]:.3f}" in page.text
    for shown in ("Training", "Scores", "Errors", "Images", "Speed", "rectangle", "triangle", "7 steps"):
        assert shown in page.text
    # Two drawings of each of the six images, none of which is good after 7 steps, and the first batch; charts of four
    # losses, the learning rate and the speed, two of precision over recall, three over the threshold, and the confusion
    # matrix.
    assert text.count("data:image/jpeg;base64,") == 2 * 6 + 1 and text.count("<svg") == 12
    assert lines_with(page.text, "No image has a quality of 0.5") and "prediction: nothing found" in page.text
    assert lines_with(page.text, "data set shapes", "trained until 20", "evaluated 20")
    rows = re.findall(r"<tr><td>([^<]*)</td><td><div[^>]*>([^<]*)</div></td><td><div[^>]*>([^<]*)</div>", text)
    values = {name: value for name, value, _ in rows}
    assert values["train_config.batch_size"] == "4" and values["dataset_config.input_res_train"] == "[96, 96]"
    assert all(value != default for _, value, default in rows) and "train_config.optimizer" not in values


NAMES = ["_hidden", "$a^{$", "5$ or 6$_", "100 %\\x", "<b>&-->"]  # special characters of mathtext and HTML


@pytest.mark.slow
def test_names_appear_verbatim_on_the_page(tmp_path):
    """In charts, where matplotlib writes text as comments next to its shapes, in legends, tables and under images."""
    objects = [(1, number, [10 * number, 10, 9, 9]) for number in range(1, 6)]
    coco = read_coco(write_coco(str(tmp_path), "val", {1: noise_image(1, 100, 100)}, objects, NAMES))
    records = [record(1, number % 5 + 1, box, 0.9) for _, number, box in objects]
    records += [record(*entry, 0.8) for entry in objects]
    name = "<img src=x>.jpg"
    os.rename(tmp_path / "val2017" / f"{1:012d}.jpg", tmp_path / name)
    metrics = {**scores.score(coco, records)[1], "images": 1}
    run = report.Run(metrics=metrics, coco=coco, records=records, images={1: str(tmp_path / name)})
    report.write_report(str(tmp_path / "r.html"), "<Tiny & run>", run)
    text = (tmp_path / "r.html").read_text()
    comments = [html.unescape(comment) for comment in re.findall("<!-- (.*?) -->", text, re.S)]
    page = Page(text)
    assert page.open == [] and all(shown in page.text for shown in [*NAMES, name, "<Tiny & run>"])
    for shown in NAMES:
        assert comments.count(shown.replace("--", "- -")) == 2, shown  # both axes of the confusion matrix
    assert all(reference.startswith(("data:", "#")) for reference in page.references)


def test_missing_files_are_named(result, tmp_path):
    shutil.copy(result / "train_record.jsonl", tmp_path)
    done = call_script("tools/report.py", tmp_path)
    assert lines_with(done.stdout, "without ", tmp_path / "metrics.json")
    page = Page((tmp_path / "report.html").read_text())
    assert "7 steps" in page.text and "Scores" not in page.text
    call_script("tools/report.py", tmp_path)
    assert (tmp_path / "report.1.html").exists()


@pytest.mark.slow
def test_scores_during_training_and_the_best(tmp_path):
    log = TrainingLog(str(tmp_path / "train_record.jsonl"), 0, interval=100)
    for step in range(1, 16):
        log.step(step, 5, step_results(2.0, 1.0, 5.0, 0.5, False, 1.0, 1e-4), 8.0)
        if step % 5 == 0:
            log.scores(step, 5, {"AP": (0.1, 0.3, 0.2)[step // 5 - 1], "AP50": 0.41 + step / 1000, "AP75": -1.0})
    log.close()
    call_script("tools/report.py", tmp_path)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    rows = [" ".join(row.split()) for row in re.findall(r"<tr>(.*?)</tr>", text, re.S)]
    rows = [re.sub(r"\s*<[^>]*>\s*", " ", row).split() for row in rows]
    assert [row for row in rows if row[-1:] != ["AP75"] and len(row) > 4] == [
        ["1", "5", "0.100", "0.415", "–"], ["2", "10", "0.300", "0.420", "–", "best", "AP"],
        ["3", "15", "0.200", "0.425", "–"]]
    assert lines_with(page.text, "best AP", "0.300", "2 epochs") and page.open == []


def test_a_moved_data_set(result, tiny_data, tmp_path):
    shutil.copytree(result, tmp_path / "r")
    path = tmp_path / "r" / "val" / "val_pred_result.json"
    content = json.loads(path.read_text())
    content["annotation"] = "/gone/instances_val2017.json"
    path.write_text(json.dumps(content))
    assert_user_error(call_script("tools/report.py", tmp_path / "r", check=False), "/gone/instances_val2017.json",
                      "--data_dir")
    call_script("tools/report.py", tmp_path / "r", "--data_dir", tiny_data)
    assert (tmp_path / "r" / "report.html").stat().st_size > 100_000


def test_nothing_to_show_is_an_error(tmp_path):
    (tmp_path / "train_record.jsonl").touch()
    assert_user_error(call_script("tools/report.py", tmp_path, check=False), f"{tmp_path}/train_record.jsonl: ")
    assert_user_error(call_script("tools/report.py", tmp_path, tmp_path / "..", "--output", tmp_path / "r.html",
                                  check=False),
                      f"{tmp_path}/.. ", "train_record.jsonl", "val/")
    assert os.listdir(tmp_path) == ["train_record.jsonl"]


def test_a_report_backs_up_the_earlier_page_only_on_success(tmp_path, monkeypatch):
    """And never another program's page."""
    def fail(*args):
        raise KeyError("no font")

    page = str(tmp_path / "report.html")
    run = report.Run(metrics=METRICS)
    report.write_report(page, "first", run)
    before = contents(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(report, "class_bars", fail)
        report.write_report(page, "second", run)
    assert contents(tmp_path) == before
    report.write_report(page, "second", run)
    assert "first" in (tmp_path / "report.1.html").read_text() and "second" in (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").write_text("<h1>My findings</h1>")
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    done = call_script("tools/report.py", tmp_path, check=False)
    assert_user_error(done, f"{tmp_path}/report.html ")
    assert (tmp_path / "report.html").read_text() == "<h1>My findings</h1>"


@pytest.mark.parametrize("place, parts", [("/nowhere", ["/nowhere"]), (".", ["train_record.jsonl", "val/"])])
def test_mistakes(place, parts, tmp_path):
    assert_user_error(call_script("tools/report.py", place, cwd=tmp_path, check=False), *parts)
    assert os.listdir(tmp_path) == []


def test_a_damaged_training_record_is_named(tmp_path):
    (tmp_path / "train_record.jsonl").write_text('{"step": 1}\nnot json\n')
    assert_user_error(call_script("tools/report.py", tmp_path, check=False), "train_record.jsonl", "line 1")


# ---------------------------------------------------------------- drawing


def contrast(one, other):
    """Contrast ratio (WCAG 2) of two BGR colors."""
    light = []
    for color in (one, other):
        linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4
                  for value in np.asarray(color) / 255]
        light.append(0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("background", [0, 127, 255, "noise"])
def test_labels_are_legible_on_any_background(background):
    """Text and its field have WCAG's contrast of 4.5, for 80 classes, on any background."""
    image = noise_image(0, 240, 320) if background == "noise" else np.full((240, 320, 3), background, np.uint8)
    for label in range(80):
        drawn = draw(image, np.array([[100, 100, 200, 200, 0.5, label]], np.float32), {"classes": ["W"] * 80})
        mask = drawing.text_mask("W 0.50", drawing.SMALLEST_TEXT)
        field = drawn[100 - mask.shape[0] : 100, 100 : 100 + mask.shape[1]]
        assert mask.max() > 200
        # anti-aliased text is not fully opaque
        assert contrast(field[np.unravel_index(mask.argmax(), mask.shape)], field[0, 0]) >= 4.4, label


def test_labels_avoid_each_other():
    image = np.zeros((300, 300, 3), np.uint8)
    boxes = np.array([[50, 100, 200, 250, 0.9, 0], [52, 101, 202, 252, 0.8, 1], [51, 99, 198, 249, 0.7, 2]], np.float32)
    drawn = draw(image, boxes, {"classes": ["first", "second", "third"]})
    for label, name in enumerate(["first", "second", "third"]):
        area = drawing.text_mask(f"{name} 0.{9 - label}0", drawing.SMALLEST_TEXT)
        visible = (np.abs(drawn.astype(int) - drawing.class_color(label)).max(2) <= 1).sum()
        assert visible > 0.5 * (area < 30).sum(), name  # of each label's field


def test_boxes_far_outside_and_one_pixel_images():
    boxes = np.array([[-1e9, -5, 1e9, 5, 0.9, 0], [0, 0, 1, 1, 0.9, 0]], np.float32)
    for shape in ((1, 1, 3), (1, 300, 3), (300, 1, 3)):
        assert draw(np.zeros(shape, np.uint8), boxes, {"classes": ["a"]}).shape == shape


def test_the_heatmap_overlays_its_object():
    """One hot cell in the 24x32 map of a 96x128 input of a 192x256 image: the brightest spot is at the cell."""
    heat = np.zeros((2, 24, 32), np.float32)
    heat[1, 5, 20] = 1
    view = View(np.array([128, 96], np.float32), 256.0, (24, 32), 1.0)
    drawn = drawing.overlay_heatmap(np.full((192, 256, 3), 100, np.uint8), heat, view).astype(int).sum(2)
    rows, columns = np.where(drawn > 0.95 * drawn.max())
    assert (rows.mean(), columns.mean()) == pytest.approx((5.5 * 8 - 0.5, 20.5 * 8 - 0.5), abs=1)
    assert 30 < drawn[150, 50] < 300  # elsewhere the image is visible


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "\udcff", "\u202eabc"])
def test_control_characters_are_not_drawn(text):
    assert drawing.text_mask(text, 12).max() == (0 if text == "\udcff" else 255)


def test_chinese_names_are_drawn():
    assert drawing.text_mask("猫 0.5", 20).max() == 255


@pytest.mark.parametrize("name, change", [
    ("metrics.json", lambda content: content["AP_per_class"].update(disc="high")),
    ("metrics.json", lambda content: content.update(AP=None)),
    ("metrics.json", lambda content: content.pop("AR_10")),
    ("metrics.json", lambda content: content.update(stage_seconds=[1])),
    ("val_pred_result.json", lambda content: content.update(annotations=["x"])),
    ("val_pred_result.json", lambda content: content["annotations"][0].update(bbox=[1, 2, "3", 4])),
    ("val_pred_result.json", lambda content: content["annotations"][0].update(image_id=[1])),
])
def test_files_with_other_content_are_named(name, change, tmp_path):
    from src.commands.report import read_metrics
    from src.evaluation.results import FOUND
    from src.tasks.detection import DETECTION

    content = {
        **dict.fromkeys(DETECTION.metrics, 0.5), "AP_per_class": {"disc": 0.5}, "AP50_per_class": {"disc": None},
        "annotation": "a.json",
        "images_per_second": 1.0,
        "stage_seconds": dict.fromkeys(("images", "preparing", "computing", "finishing"), 1.0),
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
    }
    read = read_metrics if name == "metrics.json" else lambda path: read_json(path, "results of eval.py", FOUND)
    path = tmp_path / name
    path.write_text(json.dumps(content))
    assert read(str(path)) == content
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{name}: .* of eval.py"):
        read(str(path))


def test_names_without_a_font_are_logged_once(tmp_path, monkeypatch, console, recwarn):
    """One line for all charts and drawings, and none of matplotlib's warnings."""
    from matplotlib import font_manager

    ours = [font for font in font_manager.fontManager.ttflist if "DejaVu" in font.name]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", ours)
    drawing.east_asian_font.cache_clear()
    for _ in range(2):
        report.confusion_chart(np.ones((2, 2), int), ["红框"])
        drawing.text_mask("红框 0.5", 20)
    drawing.east_asian_font.cache_clear()
    assert len(lines_with(console.readouterr().out, "font", "Chinese")) == 1
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_curves_over_the_threshold(tmp_path):
    """By hand: see RECORDS; discs and squares, and both together, at thresholds between the scores."""
    together, classes = scores.threshold_curves(scores.evaluate(coco_of(tmp_path, OBJECTS), RECORDS))
    shown = class_scores.shown_curves(together, classes)
    expected = {  # of square, disc, both: precision, recall, F1
        0.1: ([1 / 2, 1 / 2, 1 / 2], [1 / 2, 1, 2 / 3], [1 / 2, 2 / 3, 4 / 7]),
        0.5: ([0, 1 / 2, 1 / 3], [0, 1, 1 / 3], [0, 2 / 3, 2 / 6]),
        0.85: ([np.nan, 1, 1], [0, 1, 1 / 3], [0, 1, 2 / 4]), 0.95: ([np.nan] * 3, [0] * 3, [0] * 3),
    }
    for threshold, of_panels in expected.items():
        for score, values in zip(("precision", "recall", "F1"), of_panels):
            at = [curve[score][np.isclose(class_scores.GRID, threshold)].item() for _, curve, _ in shown]
            disc, square, both = at  # the best F1 first
            np.testing.assert_allclose([square, disc, both], values, atol=1e-9)
    assert [name for name, *_ in shown] == ["disc", "square", "all classes"]
    charts, legend = class_scores.threshold_charts(together, classes)
    assert len(charts) == 3 and [name for name, *_ in legend] == ["disc", "square", "all classes"]
