"""src/data/browse.py: the page of tools/check_dataset.py --browse, in a browser."""
import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest

from tests.conftest import assert_user_error, call_script, lines_with, noise_image, write_coco
from tests.data.test_check import rewrite

SCRIPT = "<script>alert(1)</script>"
NAMES = {1: "beyond 100% #1.png", 3: "<img src=x onerror=alert(2)>.png"}


def browse(folder, *args, check=True):
    places = ("--data_dir", folder, "--save_result_dir", folder.parent / "out")
    return call_script("tools/check_dataset.py", *places, "--quick", *args, check=check)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """(The data set's folder, the output of the check) of ten images with a fault each, two of them in val."""
    folder = tmp_path_factory.mktemp("browse") / "a data set"
    box = [10, 10, 60, 40]
    objects = [(1, 1, [100, 20, 60, 40]), (2, 2, box), (2, 2, [20, 20, 0, 5]), (3, 1, box), (3, 1, box), (4, 1, box),
               (5, 2, box), (6, 1, [30, 30, 3, 3]), (6, 2, box), (8, 1, [0, 0, 0, 0])]
    images = {number: noise_image(number) for number in range(1, 9)}
    path = write_coco(folder, "train", images, objects, [SCRIPT, "square"])
    os.remove(folder / "train2017" / f"{4:012d}.jpg")
    (folder / "train2017" / f"{8:012d}.jpg").rename(folder / "train2017" / "emptied.jpg")

    def change(content):
        for entry in content["images"]:
            entry.update(width=128, height=96)
            if entry["id"] in NAMES:
                os.rename(folder / "train2017" / entry["file_name"], folder / "train2017" / NAMES[entry["id"]])
                entry["file_name"] = NAMES[entry["id"]]
            if entry["id"] == 5:
                entry["width"] = 99
            if entry["id"] == 8:
                entry["file_name"] = "emptied.jpg"

    rewrite(path, change)
    path = write_coco(folder, "val", {number: noise_image(number) for number in (1, 2)}, [(1, 1, box), (2, 2, box)],
                      [SCRIPT, "square"])
    shared = folder / "val2017" / f"{2:012d}.jpg"
    shared.unlink()
    shared.symlink_to(folder / "train2017" / f"{2:012d}.jpg")
    done = browse(folder, "--dataset_config.input_res_train", "[128, 96]", "--browse", check=False)
    assert done.returncode == 1
    return folder, done.stdout


@pytest.fixture
def tab(browser):
    """A page of the browser; errors in it, and dialogs, fail the test."""
    tab, problems = browser.new_page(viewport={"width": 1100, "height": 800}), []
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    yield tab
    tab.close()
    assert problems == []


@pytest.fixture
def page(faulty, tab):
    """The page of the faulty data set, opened as a file."""
    tab.goto(f"file://{faulty[0].parent}/out/browse/index.html")
    return tab


def names(page):
    return page.locator(".card .name span:first-child").all_inner_texts()


def test_all_images_are_shown_with_their_boxes(page):
    """Also those that conversion skips; each object has its box, at its place in the image."""
    assert len(names(page)) == 10 and set(NAMES.values()) | {"emptied.jpg"} <= set(names(page))
    counts = {name: re.sub(r"\D", "", text.split(",")[1]) for name, text in zip(
        names(page), page.locator(".card .name span:last-child").all_inner_texts())}
    assert counts[NAMES[1]] == "1" and counts[f"{7:012d}.jpg"] == "0" and counts[f"{6:012d}.jpg"] == "2"
    first = page.locator(".card").first
    picture, rect = (first.locator(what).first.bounding_box() for what in ("svg", "rect"))
    scale = picture["width"] / 128
    assert rect["x"] - picture["x"] == pytest.approx(100 * scale, abs=3)
    assert rect["width"] == pytest.approx(60 * scale, abs=6)
    images = page.locator(".card img")
    assert images.count() == 9  # one file is missing
    images.first.evaluate("image => image.decode()")
    assert images.first.evaluate("image => image.naturalWidth") == 128


def test_what_is_suspicious_is_what_the_check_found(page, faulty):
    """Each kind of finding of an image is a choice that shows the images that the check names under it."""
    found, kind = {}, None
    for line in faulty[1].splitlines():
        if heading := re.fullmatch(r"\d+ (.*):", line):
            kind = heading[1]
        elif kind and (image := re.match(r"  (?:annotation .* of )?image (\d+)", line)):
            found.setdefault(kind, set()).add(image[1])
    assert len(found) >= 8
    options = page.locator("#finding option").all_inner_texts()
    for kind, images in found.items():
        option, = [text for text in options if text.startswith(f"{kind} (")]
        assert option == f"{kind} ({len(images)})"
        page.select_option("#finding", kind)
        assert page.locator(".card").count() == len(images)
    small, = [text for text in options if "shorter than 16 pixels" in text]
    page.select_option("#finding", label=small)
    assert names(page) == [f"{6:012d}.jpg"]
    page.select_option("#finding", label=[text for text in options if text.startswith("anything suspicious")][0])
    assert f"{1:012d}.jpg" not in names(page) and len(names(page)) == 9  # of val; the only one without a fault
    assert "further findings" not in page.locator("main").inner_text()


def test_the_class_filter_hides_the_others(page):
    """Class names are text, whatever they contain. Filters add up."""
    page.select_option("#class", label=[text for text in page.locator("#class option").all_inner_texts()
                                        if text.startswith(SCRIPT)][0])
    assert names(page).count(f"{6:012d}.jpg") == 1
    card = page.locator(".card", has_text=f"{6:012d}.jpg")
    assert card.locator("rect").count() == 2 and "1 object" in card.inner_text()  # outline and line of a box
    page.select_option("#split", "val")
    assert len(names(page)) == 1
    page.select_option("#class", "")
    page.select_option("#split", "")
    page.fill("#search", "BEYOND")
    assert names(page) == [NAMES[1]] and "1 of 10 images" in page.inner_text("#count")
    page.fill("#search", "")
    page.select_option("#class", label="images without objects (2)")
    assert set(names(page)) == {f"{7:012d}.jpg", "emptied.jpg"}


def test_an_image_in_full_by_keys(page):
    """The original file, with names and findings; arrows move through the chosen images, Esc returns to the last."""
    page.locator(".card").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('dialog img').complete")
    source = page.locator("dialog img")
    assert source.get_attribute("src").startswith("../../a%20data%20set/train2017/beyond%20100%25%20%231.png")
    assert page.locator("dialog text").all_text_contents() == [SCRIPT] and NAMES[1] in page.inner_text("#title")
    assert "extend beyond" in page.inner_text("#facts")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert NAMES[3] in page.inner_text("#title")
    page.keyboard.press("ArrowLeft")
    assert f"{2:012d}.jpg" in page.inner_text("#title")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert f"{2:012d}.jpg" in page.evaluate("document.activeElement.textContent")


@pytest.mark.slow
def test_thousands_of_images_are_shown_by_the_page(tab, tmp_path):
    """60 at a time; n and p turn pages, / goes to the search."""
    path = write_coco(tmp_path / "data", "train", {1: noise_image(1)}, [(1, 1, [10, 10, 60, 40])])

    def many(content):
        (entry,), (box,) = content["images"], content["annotations"]
        content["images"] = [{**entry, "id": number, "file_name": f"{number}.jpg"} for number in range(1, 1001)]
        content["annotations"] = [{**box, "id": number, "image_id": number} for number in range(1, 1001)]
        folder = tmp_path / "data" / "train2017"
        for number in range(1, 1001):
            os.link(folder / entry["file_name"], folder / f"{number}.jpg")

    rewrite(path, many)
    shutil.copytree(tmp_path / "data" / "train2017", tmp_path / "data" / "val2017", copy_function=os.link)
    shutil.copy(path, path.replace("train", "val"))
    browse(tmp_path / "data", "--browse", tmp_path / "the page")
    tab.goto(f"file://{tmp_path}/the page/index.html")
    assert tab.locator(".card").count() == 60 and "2,000 of 2,000 images, 1 to 60" in tab.inner_text("#count")
    for key, first in (("n", 61), ("n", 121), ("p", 61), ("p", 1), ("p", 1)):
        tab.keyboard.press(key)
        assert f"{first} to {first + 59}" in tab.inner_text("#count")
    tab.keyboard.press("/")
    tab.keyboard.type("999.j")
    assert tab.locator(".card").count() == 2 and tab.inner_text("#search") == ""
    tab.fill("#search", "nothing")
    assert tab.locator(".card").count() == 0 and tab.inner_text("#count").startswith("0 of ")


def test_a_phone_shows_one_image_beside_the_other(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator(".card").first.bounding_box()["width"] > 300


def test_images_of_another_orientation_and_format(tab, tmp_path):
    """Annotated as stored, although its metadata turn it; and one that browsers do not show: both from thumbnails."""
    image = noise_image(1)
    objects = [(1, 1, [10, 10, 60, 40]), (2, 1, [1, 1, 9, 9])]
    path = write_coco(tmp_path / "data", "train", {1: image, 2: image}, objects)
    write_coco(tmp_path / "data", "val", {3: image}, [(3, 1, [10, 10, 60, 40])])
    data = cv2.imencode(".jpg", image)[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    (tmp_path / "data" / "train2017" / f"{1:012d}.jpg").write_bytes(turned)
    cv2.imwrite(str(tmp_path / "data" / "train2017" / "b.tiff"), image)
    rewrite(path, lambda content: [content["images"][0].update(width=128, height=96),
                                   content["images"][1].update(width=128, height=96, file_name="b.tiff")])
    browse(tmp_path / "data", "--browse")
    tab.goto(f"file://{tmp_path}/out/browse/index.html")
    for number in range(2):
        tab.locator(".card").nth(number).click()
        tab.wait_for_function("document.querySelector('dialog img').src.includes('thumbnails')")
        tab.keyboard.press("Escape")


def test_keypoints_and_3d_boxes_are_drawn(tab, tmp_path):
    """Bones and keypoints as lines: 11 keypoints and their 10 bones; the 12 edges of a 3D box. Each has an outline."""
    for name, script, args, lines in (
            ("poses", "tools/make_shapes_dataset.py", ("--keypoints", "--size", 128, "--objects", 1), 21),
            ("scenes", "tools/make_scenes_dataset.py", ("--size", 128, 64, "--objects", 1, "--nearest", 12), 12)):
        call_script(script, "--output", tmp_path / name, "--train", 1, "--val", 1, *args)
        browse(tmp_path / name, "--browse", tmp_path / f"{name} page")
        tab.goto(f"file://{tmp_path}/{name} page/index.html")
        for card in tab.locator(".card").all():
            assert card.locator("line").count() == 2 * lines and card.locator("rect").count() == 2


def test_a_foreign_folder_is_left_alone(faulty, tmp_path):
    """Whatever is in it, before the images are read; an earlier page is backed up."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("<h1>mine</h1>")
    assert_user_error(browse(faulty[0], "--browse", folder, check=False), str(folder), "--browse")
    assert os.listdir(folder) == ["index.html"] and (folder / "index.html").read_text() == "<h1>mine</h1>"
    for _ in range(2):
        browse(faulty[0], "--browse", tmp_path / "page", check=False)
    assert sorted(os.listdir(tmp_path)) == ["page", "page.1", "site"]
    assert sorted(os.listdir(tmp_path / "page")) == ["index.html", "thumbnails"]


def test_a_split_that_cannot_be_read(tmp_path):
    """Its reason is on the page, with the images of the other one."""
    write_coco(tmp_path / "data", "train", {1: noise_image(1)}, [(1, 1, [10, 10, 60, 40])])
    done = browse(tmp_path / "data", "--browse", check=False)
    text = (tmp_path / "out" / "browse" / "index.html").read_text()
    content = json.loads(re.search(r'type="application/json">(.*)</script>', text)[1])
    assert len(content["images"]) == 1 and lines_with(content["others"], "val: refused: ", "val2017")
    assert done.returncode == 1 and np.all([entry["findings"] == [] for entry in content["images"]])
