"""The pages of src/runs/pages in a browser: on a desk and on a phone."""
import json

import cv2
import numpy as np
import pytest

from src.runs import report
from src.runs.charts import TEXT
from src.runs.comparison import COLORS
from src.tasks.detection import scores
from tests.conftest import call_script
from tests.runs.test_comparison import METRICS, make_run
from tests.runs.test_report import OBJECTS, RECORDS, coco_of

pytestmark = pytest.mark.slow
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1200, "height": 800}
BOX = "node => { const box = node.getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]; }"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder with report.html of a run, and comparison.html of four runs with the same values."""
    folder = tmp_path_factory.mktemp("pages")
    coco = coco_of(folder, OBJECTS)
    run = make_run(folder / "run", scores=(0.1, 0.3))
    metrics = {**scores.score(coco, RECORDS)[1], "images": 2}
    paths = {number: str(folder / "val2017" / f"{number:012d}.jpg") for number in (1, 2)}
    report.write_report(str(folder / "report.html"), "a run", report.Run(
        str(run / "train_record.jsonl"), metrics, coco, RECORDS, paths, settings={"seed": "9" * 300}))
    runs = [make_run(folder / name, metrics=METRICS) for name in "abcd"]
    call_script("tools/report.py", *runs, "--output", folder / "comparison.html")
    return folder


@pytest.fixture
def tab(browser):
    """A page of the browser; errors in it fail the test."""
    tab, problems = browser.new_page(), []
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    yield tab
    tab.close()
    assert problems == []


def boxes(tab, selector):
    """left, top, right, bottom [M, 4] of the elements."""
    return np.array([node.evaluate(BOX) for node in tab.locator(selector).element_handles()])


@pytest.mark.parametrize("name, charts", [("report", 12), ("comparison", 5)])
def test_on_a_phone_each_chart_is_an_image_of_its_own(name, charts, pages, tab):
    """Below each other, in the page's width, with text of 12 pixels or more; beside each other on a desk. Nothing is
    wider than the page."""
    tab.set_viewport_size(PHONE)
    tab.goto(f"file://{pages}/{name}.html")
    found = boxes(tab, ".charts svg")
    assert len(found) == charts and (found[1:, 1] >= found[:-1, 3]).all() and (found[:, 2] <= 390).all()
    widths = tab.evaluate("[...document.querySelectorAll('.charts svg')].map(svg => svg.viewBox.baseVal.width)")
    assert (TEXT * (found[:, 2] - found[:, 0]) / widths).min() >= 12
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    sizes = tab.evaluate("[...document.querySelectorAll('figcaption, h4, .legend, td, th, p, span')]"
                         ".map(node => parseFloat(getComputedStyle(node).fontSize))")
    assert min(sizes) >= 12
    tab.set_viewport_size(DESK)
    found = boxes(tab, ".charts svg")
    assert found[1, 1] == found[0, 1] and found[1, 0] > found[0, 2]


def test_legends_are_beside_the_charts(pages, tab):
    for size in (PHONE, DESK):
        tab.set_viewport_size(size)
        tab.goto(f"file://{pages}/report.html")
        charts, legends = boxes(tab, "svg"), boxes(tab, ".legend")
        assert len(legends) == 4
        for left, top, right, bottom in legends:
            apart = (charts[:, 3] <= top) | (charts[:, 1] >= bottom) | (charts[:, 2] <= left) | (charts[:, 0] >= right)
            assert apart.all()
    assert "legend_" not in (pages / "report.html").read_text()  # matplotlib's


def test_drawings_are_beside_each_other_on_a_desk(pages, tab):
    """Detections and ground truth, each with its caption below; on a phone below each other."""
    for size, beside in ((DESK, True), (PHONE, False)):
        tab.set_viewport_size(size)
        tab.goto(f"file://{pages}/report.html")
        one, other = boxes(tab, ".pair img")[:2]
        assert (one[1] == other[1] and one[2] < other[0]) == beside and (one[3] < other[1]) != beside
        assert tab.locator(".pair figcaption").all_inner_texts()[:2] == ["prediction: nothing found", "ground truth"]


def test_runs_with_the_same_values_stay_visible(pages, tab):
    """Each run's color is in each chart, of all four."""
    tab.set_viewport_size(DESK)
    tab.goto(f"file://{pages}/comparison.html")
    for chart in tab.locator(".charts svg").all():
        pixels = pixels_of(chart.screenshot())
        for color in COLORS[:4]:
            wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
            assert (np.abs(pixels - wanted).max(-1) < 30).sum() > 100, color


def pixels_of(png):
    """int [H, W, 3], RGB, of an encoded image."""
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)


def test_settings_that_differ_are_shown(tmp_path):
    """Of settings.yaml, which wins over the side file; a comment is no value. Without either, there is no section."""
    run = make_run(tmp_path / "run")
    call_script("tools/report.py", run)
    assert 'id="settings"' not in (run / "report.html").read_text()
    (run / "settings.yaml").write_text(json.dumps({"epoch_size": 140}) + "\n")
    call_script("tools/report.py", run)
    assert "All settings are the defaults" in (run / "report.html").read_text()
    (run / "settings.yaml").write_text("seed: 5  # the command line\ntrain_config:\n  batch_size: 3  # mine.yaml\n")
    call_script("tools/report.py", run)
    text = (run / "report.html").read_text()
    assert "train_config.batch_size</td><td><div class=\"value\">3</div>" in text and "mine.yaml" not in text
