"""Pascal VOC: download, conversion, merging, VOC's average precision, loss-curve check, training in four processes."""
import configparser
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from src.commands import loss, merge_pascal_json, voc_to_coco
from src.core.errors import UserError
from src.data.coco import find_split
from src.model_utils.config import get_config
from src.tasks.detection import voc_scores
from tests.conftest import (
    ROOT,
    TINY,
    assert_user_error,
    call_script,
    copy_project,
    noise_image,
    run_script,
    small_project,
)
from tools import train_full

TEMPLATE = """<annotation><filename>{name}.jpg</filename>
<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><truncated>{truncated}</truncated><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""


def write_voc(folder, lists, objects, size=(100, 80)):
    """Write a VOC folder.

    lists {split: [names]}; objects {name: [(class, box, difficult, truncated)]}, or bytes for a broken XML file.
    """
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    for split, names in lists.items():
        with open(os.path.join(folder, "ImageSets", "Main", f"{split}.txt"), "w") as file:
            file.writelines(f"{name}\n" for name in names)
    for seed, (name, entries) in enumerate(objects.items()):
        path = os.path.join(folder, "Annotations", f"{name}.xml")
        if isinstance(entries, bytes):
            text = entries.decode()
        else:
            texts = [OBJECT.format(name=entry[0], box=entry[1], difficult=entry[2], truncated=entry[3])
                     for entry in entries]
            text = TEMPLATE.format(name=name, width=size[0], height=size[1], objects="\n".join(texts))
        with open(path, "w") as file:
            file.write(text)
        cv2.imwrite(os.path.join(folder, "JPEGImages", f"{name}.jpg"), noise_image(seed, size[1], size[0]))


def convert(folder, split, *args):
    """The COCO dictionary that tools/voc_to_coco.py writes."""
    output = os.path.join(folder, f"{split}.json")
    voc_to_coco.main(["--voc_dir", str(folder), "--split", split, "--output", output, *map(str, args)])
    with open(output) as file:
        return json.load(file)


@pytest.fixture
def top(tmp_path):
    """A copy of the project's top folder, for the document's commands as written."""
    folder = copy_project(tmp_path / "top")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def as_written(command, folder, **environment):
    """Run a command of the document in the top folder with the environment's `python`."""
    environment = {**os.environ, "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}", **environment}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=900)


# ---------------------------------------------------------------- conversion


def test_boxes_count_from_one_and_include_their_last_pixel(tmp_path):
    """The box of the entire 100x80 image is 1, 1, 100, 80 in VOC, and 0, 0, 100, 80 in COCO."""
    objects = [("dog", (1, 1, 100, 80), 0, 1), ("person", (11, 21, 30, 50.5), 1, 0)]
    write_voc(tmp_path, {"test": ["2008_000008"]}, {"2008_000008": objects})
    content = convert(tmp_path, "test")
    assert content["images"] == [{"id": 2008000008, "file_name": "2008_000008.jpg", "width": 100, "height": 80}]
    whole, partial = content["annotations"]
    assert whole["bbox"] == [0, 0, 100, 80] and whole["area"] == 8000
    assert (whole["difficult"], whole["truncated"]) == (0, 1)
    assert partial["bbox"] == [10, 20, 20, 30.5]
    assert (partial["difficult"], partial["truncated"], partial["ignore"]) == (1, 0, 1)
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert len(names) == 20 and names[1] == "aeroplane" and names[20] == "tvmonitor"
    assert names[whole["category_id"]] == "dog"


def test_ids_do_not_depend_on_the_split(tmp_path):
    objects = {f"photo_{number}": [("cell", (1, 1, 50, 50), 0, 0), ("other", (2, 2, 60, 60), 0, 0)]
               for number in (7, 12, 3)}
    write_voc(tmp_path, {"a": ["photo_7", "photo_12"], "b": ["photo_12"], "c": ["photo_3"]}, objects)
    one, other, third = (convert(tmp_path, split) for split in "abc")
    assert [image["id"] for image in one["images"]] == [7, 12] and third["images"][0]["id"] == 3
    assert other["annotations"] == [annotation for annotation in one["annotations"]
                                    if annotation["image_id"] == 12]
    assert [category["name"] for category in one["categories"]] == ["cell", "other"]
    assert len({annotation["id"] for annotation in one["annotations"] + third["annotations"]}) == 6


def test_names_with_ambiguous_digits_get_ids_too():
    ids = voc_to_coco.image_ids(["a_1", "b_1", "plain"])
    assert ids == voc_to_coco.image_ids(["plain", "b_1", "a_1"]) and len(set(ids.values())) == 3
    assert all(0 <= number * voc_to_coco.MAX_OBJECTS < 2**53 for number in ids.values())


def test_nothing_is_lost_silently(tmp_path, console):
    boxes = [("cat", (5, 5, 5, 5)), ("unicorn", (1, 1, 9, 9)), ("dog", ("x", 1, 9, 9)), ("dog", (1, 1, 9, 9)),
             ("dog", (1, 1, 9, 9))]
    objects = {"1": [(name, box, 0, 0) for name, box in boxes], "2": b"<annotation><size>", "3": [],
               "5": [(*boxes[0], 0, 0)]}
    write_voc(tmp_path, {"train": ["1", "2", "3", "4", "5", "1"]}, objects)
    os.remove(tmp_path / "Annotations" / "3.xml")
    content = convert(tmp_path, "train", "--classes", "cat,dog")
    output = console.readouterr().out
    for text in ("object 1 of Annotations/1.xml: box without area [5.0, 5.0, 5.0, 5.0]",
                 "an object of JPEGImages/1.jpg: unknown class 'unicorn'",
                 "object 3 of Annotations/1.xml: no box of four numbers",
                 "object 5 of Annotations/1.xml: the same box and class as object 4 of",
                 "Annotations/2.xml: no element found", "Annotations/3.xml: No such file",
                 "Annotations/4.xml: No such file",
                 "image JPEGImages/5.jpg: none of its 1 annotations can be used",
                 "1 images, 1 objects (0 difficult), 2 classes, 9 images or objects skipped"):
        assert text in output, text
    assert len(content["info"]["skipped"]) == 9 and content["annotations"][0]["id"] == 10002


def test_chosen_classes_and_zero_based_boxes(tmp_path, console):
    write_voc(tmp_path, {"t": ["1"]}, {"1": [("b", (0, 0, 9, 9), 0, 0), ("a", (0, 5, 9, 9), 0, 0)]})
    assert convert(tmp_path, "t")["annotations"][0]["bbox"] == [-1, -1, 10, 10]
    assert "2 boxes " in console.readouterr().out
    content = convert(tmp_path, "t", "--zero_based", "--classes", "b, a")
    assert content["annotations"][0]["bbox"] == [0, 0, 10, 10]
    assert [category["name"] for category in content["categories"]] == ["b", "a"]
    assert (tmp_path / "t.1.json").exists() and "begin before" not in console.readouterr().out
    (tmp_path / "t.json").write_text('{"images": []}')
    with pytest.raises(UserError, match="t.json .*--output"):
        convert(tmp_path, "t")


def test_the_images_are_linked_and_training_reads_them(tmp_path):
    write_voc(tmp_path / "v", {"trainval": ["000001", "000002"], "test": ["000003"]},
              {f"00000{n}": [("dog", (10, 10, 60, 60), 0, 0)] for n in (1, 2, 3)})
    for split, name in (("trainval", "pascal_trainval0712"), ("test", "pascal_test2017")):
        call_script("tools/voc_to_coco.py", "--voc_dir", tmp_path / "v", "--split", split,
                    "--image_dir", tmp_path / "d" / "images",
                    "--output", tmp_path / "d" / "annotations" / f"{name}.json")
    options = get_config("", []).dataset_config
    split = find_split(str(tmp_path / "d"), "val", options)
    assert split.annotation.endswith("pascal_test2017.json")
    assert os.path.isfile(os.path.join(split.image_dir, "000003.jpg"))
    done = call_script("src/dataset.py", "--coco_data_dir", tmp_path / "d", "--mindrecord_dir", tmp_path / "m")
    assert "2 images (0 without objects), 2 objects, 20 classes" in done.stdout


@pytest.mark.parametrize("args, expected", [
    (["--voc_dir", "/nowhere", "--split", "x"], "/nowhere/Annotations"),
    (["--voc_dir", "v", "--split", "x"], "Main/x.txt"),
    (["--voc_dir", "v", "--split", "none"], " none "),
    (["--voc_dir", "v", "--split", "t", "--classes", "cat"], " JPEGImages/1.jpg: "),
])
def test_conversion_mistakes(args, expected, tmp_path):
    write_voc(tmp_path / "v", {"t": ["1"], "none": []}, {"1": [("dog", (1, 1, 9, 9), 0, 0)]})
    done = call_script("tools/voc_to_coco.py", *args, "--output", "o.json", cwd=tmp_path, check=False)
    assert_user_error(done, expected)
    assert not (tmp_path / "o.json").exists()


def coco_content(images, objects, classes=("a", "b")):
    """A COCO dictionary: images {id: file name}, objects [(id, image id)]."""
    return {"images": [{"id": number, "file_name": name} for number, name in images.items()],
            "annotations": [{"id": number, "image_id": image, "category_id": 1, "bbox": [0, 0, 5, 5]}
                            for number, image in objects],
            "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)]}


def test_merged_ids_do_not_collide():
    first = coco_content({1: "a.jpg", 2: "b.jpg"}, [(1, 1), (2, 2), (3, 2)])
    second = coco_content({2: "c.jpg", 7: "d.jpg"}, [(2, 2), (9, 7)])
    merged, renumbered = merge_pascal_json.merge([("first", first), ("second", second)])
    files = {image["id"]: image["file_name"] for image in merged["images"]}
    assert files == {1: "a.jpg", 2: "b.jpg", 7: "d.jpg", 8: "c.jpg"} and renumbered == 2
    owners = {annotation["id"]: files[annotation["image_id"]] for annotation in merged["annotations"]}
    assert owners == {1: "a.jpg", 2: "b.jpg", 3: "b.jpg", 10: "c.jpg", 9: "d.jpg"}


@pytest.mark.parametrize("second, expected", [
    (coco_content({3: "c.jpg"}, [], ("a", "c")), "other classes"),
    (coco_content({3: "a.jpg"}, []), "a.jpg .*first .*second"),
    (coco_content({3: "c.jpg"}, [(1, 4)]), "of image 4"),
])
def test_files_that_cannot_be_merged(second, expected):
    with pytest.raises(UserError, match=expected):
        merge_pascal_json.merge([("first", coco_content({1: "a.jpg"}, [])), ("second", second)])


def test_merging_reports_skipped_annotations(tmp_path, console):
    content = coco_content({1: "a.jpg"}, [(1, 1), (2, 1)])
    (tmp_path / "a.json").write_text(json.dumps(content))
    merge_pascal_json.main(["--inputs", str(tmp_path / "a.json"), "--output", str(tmp_path / "m.json")])
    output = console.readouterr().out
    assert re.search("annotation 2 of image 1: .*annotation 1 of image 1", output)
    assert "1 images, 1 objects" in output


@pytest.mark.parametrize("sides", [("30", "40", "11", "21"), ("11", "40.0", "3e1", "21"), (" 11 ", "21", "30", "40")])
def test_swapped_corners_and_numbers_in_any_notation(sides, tmp_path, console):
    write_voc(tmp_path, {"t": ["1"]}, {"1": [("dog", sides, 0, 0)]})
    assert convert(tmp_path, "t")["annotations"][0]["bbox"] == [10, 20, 20, 20]
    assert ("1 boxes have their corners swapped" in console.readouterr().out) == (float(sides[1]) == 40)


@pytest.mark.parametrize("box, expected", [
    ("<bndbox><xmin>29</xmin><ymin>28</ymin><xmax>68</xmax><ymax>37</ymax></bndbox>"
     "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>", [43, 12, 10, 40]),
    ("<robndbox><cx>48</cx><cy>32</cy><w>40</w><h>10</h><angle>1.5707963</angle></robndbox>", [43, 12, 10, 40]),
    ("<robndbox><cx>48</cx><cy>32</cy><w>40</w><h>10</h><angle>0</angle></robndbox>", [28, 27, 40, 10]),
])
def test_rotated_boxes_of_cvat_and_rolabelimg(box, expected, tmp_path):
    """The box 28, 27, 40, 10, rotated by 90 degrees about its center 48, 32."""
    write_voc(tmp_path, {"t": ["1"]}, {"1": TEMPLATE.format(
        name="1", width=100, height=80, objects=f"<object><name>dog</name>{box}</object>").encode()})
    assert convert(tmp_path, "t")["annotations"][0]["bbox"] == pytest.approx(expected, abs=1e-4)


# ---------------------------------------------------------------- download

ARCHIVES = ("voc2007/VOCtrainval_06-Nov-2007.tar", "voc2007/VOCtest_06-Nov-2007.tar",
            "voc2012/VOCtrainval_11-May-2012.tar")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """A folder with the layout of the VOC site: three small archives and sums.txt, their MD5."""
    folder = tmp_path_factory.mktemp("mirror")
    contents = [("VOC2007", "trainval", ["000001", "000002"]), ("VOC2007", "test", ["000003"]),
                ("VOC2012", "trainval", ["2008_000001"])]
    sums = []
    for path, (year, split, names) in zip(ARCHIVES, contents):
        source = folder / "work" / os.path.basename(path)
        objects = {name: [("dog", (10, 10, 60, 60), number % 2, 0)] for number, name in enumerate(names)}
        write_voc(source / "VOCdevkit" / year, {split: names}, objects)
        (folder / path).parent.mkdir(exist_ok=True)
        with tarfile.open(folder / path, "w") as archive:
            archive.add(source / "VOCdevkit", "VOCdevkit")
        sums.append(f"{hashlib.md5((folder / path).read_bytes()).hexdigest()}  {os.path.basename(path)}\n")
    (folder / "sums.txt").write_text("".join(sums))
    return folder


def get_voc(destination, mirror, **environment):
    """Run tools/get_pascal_voc.sh as in docs/voc.md."""
    environment = {**os.environ, "VOC_BASE_URL": f"file://{mirror}", "VOC_MD5SUMS": str(mirror / "sums.txt"),
                   **environment}
    return subprocess.run(["bash", "get_pascal_voc.sh", str(destination)], cwd=os.path.join(ROOT, "tools"),
                          env=environment, capture_output=True, text=True, timeout=300)


def check_voc(folder):
    """Check that a folder has the layout that the training expects."""
    assert sorted(os.listdir(folder / "images")) == ["000001.jpg", "000002.jpg", "000003.jpg", "2008_000001.jpg"]
    train, test = (json.loads((folder / "annotations" / f"pascal_{name}.json").read_text())
                   for name in ("trainval0712", "test2007"))
    assert [image["id"] for image in train["images"]] == [1, 2, 2008000001]
    assert [image["id"] for image in test["images"]] == [3]
    assert len(train["annotations"]) == 3
    assert sum(annotation["difficult"] for annotation in train["annotations"]) == 1
    assert (folder / "VOCdevkit" / "VOC2012" / "JPEGImages").is_dir()


def test_the_official_archives_are_expected():
    with open(os.path.join(ROOT, "tools", "names", "voc_md5.txt")) as file:
        sums = dict(reversed(line.split()) for line in file)
    assert sums == {
        "VOCtrainval_06-Nov-2007.tar": "c52e279531787c972589f7e41ab4ae64",
        "VOCtest_06-Nov-2007.tar": "b6e924de25625d8de591ea690078ad9f",
        "VOCtrainval_11-May-2012.tar": "6cd6e144f989b92b3379bac3b3de84fd",
    }


@pytest.mark.slow
def test_from_download_to_annotations(mirror, tmp_path):
    done = get_voc(tmp_path, mirror)
    assert done.returncode == 0, done.stderr + done.stdout
    check_voc(tmp_path / "voc")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "voc").rglob("*.json")}
    again = get_voc(tmp_path, mirror, VOC_BASE_URL="file:///nowhere")  # all files exist: none is fetched or changed
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "voc").rglob("*.json")}
    assert again.returncode == 0 and before == after


@pytest.mark.slow
def test_the_documents_command_makes_data_voc(mirror, top):
    done = as_written("cd ./src/tools/; bash get_pascal_voc.sh", top, VOC_BASE_URL=f"file://{mirror}",
                      VOC_MD5SUMS=str(mirror / "sums.txt"))
    assert done.returncode == 0, done.stderr
    check_voc(top / "data" / "voc")
    done = as_written("cd ./src/tools/; bash get_pascal_voc.sh too many", top)
    assert done.returncode == 2 and "usage: " in done.stderr


@pytest.mark.slow
def test_a_broken_download_resumes(mirror, tmp_path):
    """The first bytes are kept: the mirror's are destroyed, and the MD5 is still right."""
    shutil.copytree(mirror, tmp_path / "m")
    archives = tmp_path / "voc" / "archives"
    archives.mkdir(parents=True)
    whole = (mirror / ARCHIVES[0]).read_bytes()
    (archives / (os.path.basename(ARCHIVES[0]) + ".part")).write_bytes(whole[:5000])
    (tmp_path / "m" / ARCHIVES[0]).write_bytes(bytes(5000) + whole[5000:])
    done = get_voc(tmp_path, tmp_path / "m", VOC_MD5SUMS=str(mirror / "sums.txt"))
    assert done.returncode == 0, done.stderr
    check_voc(tmp_path / "voc")


@pytest.mark.slow
def test_existing_archives_need_no_network(mirror, tmp_path):
    (tmp_path / "a").mkdir()
    for path in ARCHIVES:
        shutil.copy(mirror / path, tmp_path / "a")
    done = get_voc(tmp_path / "d", mirror, VOC_BASE_URL="file:///nowhere", VOC_ARCHIVES=str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    check_voc(tmp_path / "d" / "voc")


def test_existing_annotations_are_kept(mirror, tmp_path):
    (tmp_path / "voc" / "annotations").mkdir(parents=True)
    for name in ("pascal_trainval0712.json", "pascal_test2017.json"):
        (tmp_path / "voc" / "annotations" / name).write_text("mine")
    assert get_voc(tmp_path, mirror).returncode == 0
    contents = {path.name: path.read_text() for path in (tmp_path / "voc" / "annotations").iterdir()}
    assert contents == {"pascal_test2017.json": "mine", "pascal_trainval0712.json": "mine"}


@pytest.mark.slow
def test_an_existing_folder_is_not_overwritten(mirror, tmp_path):
    """Unlike one that an interrupted call left unfinished."""
    path = tmp_path / "voc" / "VOCdevkit" / "VOC2007" / "Annotations" / "000001.xml"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    done = get_voc(tmp_path, mirror)
    assert done.returncode == 2 and "VOCdevkit " in done.stderr
    assert path.read_text() == "mine" and not (tmp_path / "voc" / "VOCdevkit" / "VOC2012").exists()
    (tmp_path / "voc" / "VOCdevkit" / ".unpacking").touch()
    assert get_voc(tmp_path, mirror).returncode == 0
    check_voc(tmp_path / "voc")


def test_failed_downloads(mirror, tmp_path):
    done = get_voc(tmp_path / "a", mirror, VOC_BASE_URL="file:///nowhere")
    assert done.returncode == 2 and os.path.basename(ARCHIVES[0]) in done.stderr and "VOC_BASE_URL" in done.stderr
    shutil.copytree(mirror, tmp_path / "m")
    (tmp_path / "m" / ARCHIVES[1]).write_bytes(b"another file")
    done = get_voc(tmp_path / "b", tmp_path / "m", VOC_MD5SUMS=str(mirror / "sums.txt"))
    assert done.returncode == 2 and "another MD5" in done.stderr
    assert (tmp_path / "b" / "voc" / "archives" / "VOCtest_06-Nov-2007.tar.damaged").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / os.path.basename(ARCHIVES[0])).write_bytes(b"mine")
    done = get_voc(tmp_path / "c", mirror, VOC_ARCHIVES=str(tmp_path / "mine"))
    assert done.returncode == 2 and "remove it" in done.stderr
    assert (tmp_path / "mine" / os.path.basename(ARCHIVES[0])).read_bytes() == b"mine"
    script = os.path.join(ROOT, "tools", "get_pascal_voc.sh")
    done = subprocess.run(["bash", script, "a", "b"], capture_output=True, text=True)
    assert done.returncode == 2 and "usage: " in done.stderr


# ---------------------------------------------------------------- VOC's average precision


def coco_of(truths, classes=("a",)):
    """A COCO object of [(image id, class, bbox, difficult)]."""
    annotations = [
        {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
         "difficult": flag}
        for number, (image, label, box, flag) in enumerate(truths, 1)
    ]
    coco = COCO()
    coco.dataset = {"images": [{"id": image} for image in sorted({image for image, *_ in truths})],
                    "annotations": annotations,
                    "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)]}
    coco.createIndex()
    return coco


def found(image, box, score, label=1):
    return {"image_id": image, "category_id": label, "bbox": box, "score": score}


BOX, FAR = [10, 10, 20, 20], [60, 60, 20, 20]


@pytest.mark.parametrize("truths, records, eleven, area", [
    # One of two objects is found: precision 1 up to recall 0.5, at 6 of 11 levels.
    ([(1, 1, BOX, 0), (1, 1, FAR, 0)], [found(1, BOX, 0.9)], 6 / 11, 0.5),
    # A false positive first, then both: precision 1/2 at recall 1/2, 2/3 at recall 1. It is made non-increasing: 2/3.
    ([(1, 1, BOX, 0), (1, 1, FAR, 0)],
     [found(1, [0, 90, 5, 5], 0.9), found(1, BOX, 0.8), found(1, FAR, 0.7)], 2 / 3, 2 / 3),
    # The second detection of an object is a false positive: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    ([(1, 1, BOX, 0), (1, 1, FAR, 0)],
     [found(1, BOX, 0.9), found(1, BOX, 0.8), found(1, FAR, 0.7)], (6 + 5 * 2 / 3) / 11, 5 / 6),
    # Neither a difficult object nor its two detections count.
    ([(1, 1, BOX, 0), (1, 1, FAR, 1)], [found(1, FAR, 0.9), found(1, FAR, 0.8), found(1, BOX, 0.7)], 1, 1),
    # An overlap of exactly 1/2 counts (10x20 of 20x20); in another image, it does not.
    ([(1, 1, BOX, 0)], [found(1, [10, 10, 10, 20], 0.9)], 1, 1),
    ([(1, 1, BOX, 0), (2, 1, FAR, 1)], [found(2, BOX, 0.9)], 0, 0),
    # The object with the largest overlap decides, although it is already matched and the other one is not.
    ([(1, 1, [0, 0, 20, 20], 0), (1, 1, [4, 0, 20, 20], 0)],
     [found(1, [0, 0, 20, 20], 0.9), found(1, [1, 0, 20, 20], 0.8)], 6 / 11, 0.5),
    ([(1, 1, BOX, 0)], [], 0, 0),
])
def test_average_precision_by_hand(truths, records, eleven, area):
    result, objects = voc_scores.score(coco_of(truths), records)
    assert result["11 points"]["a"] == pytest.approx(eleven) and result["area"]["a"] == pytest.approx(area)
    assert objects == {"a": sum(not flag for *_, flag in truths)}


def test_crowds_are_not_objects_and_detections_in_them_not_false_positives():
    """Detections count as in the crowd if at least half of their area is."""
    coco = coco_of([(1, 1, BOX, 0), (1, 1, FAR, 0)])
    coco.dataset["annotations"][1]["iscrowd"] = 1
    inside, by_half, outside = [62, 62, 4, 4], [50, 60, 20, 20], [49, 60, 20, 20]
    assert voc_scores.score(coco, [found(1, inside, 0.9), found(1, by_half, 0.8), found(1, BOX, 0.7)]) == (
        {"11 points": {"a": 1.0}, "area": {"a": 1.0}}, {"a": 1})
    result, _ = voc_scores.score(coco, [found(1, outside, 0.9), found(1, BOX, 0.7)])
    assert result["area"]["a"] == pytest.approx(0.5)


def test_a_class_without_objects_has_no_score():
    coco = coco_of([(1, 1, BOX, 0), (1, 2, FAR, 1)], ("a", "b", "c"))
    result, objects = voc_scores.score(coco, [found(1, BOX, 0.9), found(1, FAR, 0.9, 2)])
    assert result["area"] == {"a": 1, "b": None, "c": None} and voc_scores.mean(result["area"]) == 1
    text = voc_scores.table(result, objects).splitlines()
    assert text[0].split() == ["class", "objects", "AP", "11", "points", "AP", "area"]
    assert text[2].split() == ["b", "0", "-", "-"]
    assert text[-1].split() == ["mAP", "1", "1.000", "1.000"]


def test_average_precision_against_another_implementation():
    """The package mean-average-precision: its boxes include their last pixel; it lacks VOC's difficult objects."""
    rng = np.random.default_rng(5)
    truths, records = [], []
    from mean_average_precision import MetricBuilder  # loads pandas

    metric = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=3)
    for image in range(1, 31):
        boxes = [[*map(int, rng.integers(0, 60, 2)), *map(int, rng.integers(15, 40, 2))]
                 for _ in range(rng.integers(1, 5))]
        of_image = [(image, int(rng.integers(1, 4)), box, 0) for box in boxes]
        detections = []
        for _, label, (x, y, w, h), _ in of_image * 2:
            if rng.random() < 0.8:
                dx, dy = rng.integers(-8, 9, 2)
                label = label if rng.random() < 0.9 else int(rng.integers(1, 4))
                box = [float(x + dx), float(y + dy), float(w), float(h)]
                detections.append(found(image, box, float(rng.random()), label))
        truths += of_image
        records += detections
        corners = [[x, y, x + w - 1, y + h - 1, label - 1, 0, 0] for _, label, (x, y, w, h), _ in of_image]
        predictions = [[x, y, x + w - 1, y + h - 1, r["category_id"] - 1, r["score"]]
                       for r in detections for x, y, w, h in [r["bbox"]]]
        metric.add(np.array(predictions, float).reshape(-1, 6), np.array(corners, float))
    result, objects = voc_scores.score(coco_of(truths, ("a", "b", "c")), records)
    for rule, options in (("11 points", {"recall_thresholds": np.linspace(0, 1, 11) - 1e-9}), ("area", {})):
        theirs = metric.value(iou_thresholds=0.5, **options)[0.5]
        for label, name in enumerate("abc"):
            assert result[rule][name] == pytest.approx(float(theirs[label]["ap"]), abs=1e-6)
            assert 0.1 < result[rule][name] < 0.99 and objects[name] > 10


def test_other_files_mark_difficult_objects_as_ignored():
    assert voc_scores.is_difficult({"ignore": 1})
    assert not voc_scores.is_difficult({"ignore": 1, "difficult": 0}) and not voc_scores.is_difficult({})


# ---------------------------------------------------------------- the loss-curve check


def write_log(path, losses, kind):
    """Write a log of losses {step: loss} as train.py's output, train_record.jsonl, or the original's log.txt."""
    lines = {
        "lines": "epoch: 0 | current epoch percent: 0.5 | step: {} | loss {} | overflow False | "
                 "scaling_sens 1.0 | lr 0.1",
        "jsonl": '{{"epoch": 0, "step": {}, "loss": {}}}',
        "vendor": "TCAPPDLL step {} rank : 0 train.loss : {} train.ips : 3.5",
        "original": "2019-06-01-12-{}: epoch: 1 |loss {} | hm_loss 1.0 | wh_loss 2.0 | off_loss 0.2 | time 1.5 | ",
    }[kind]
    path.write_text("loading\n" + "".join(lines.format(step, value) + "\n" for step, value in losses.items()))
    return path


def check_losses(tmp_path, candidate, reference, *args, kinds=("lines", "jsonl")):
    paths = [write_log(tmp_path / f"{name}.txt", losses, kind)
             for name, losses, kind in zip("ab", (candidate, reference), kinds)]
    logs = ["--candidate-log", str(paths[0]), "--reference-log", str(paths[1])]
    return loss.main([*logs, "--output", str(tmp_path / "loss.png"), *map(str, args)])


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("lines", "jsonl"), ("original", "lines"), ("jsonl", "original"),
                                   ("lines", "vendor")])
def test_the_errors_by_hand(kinds, tmp_path, console):
    """c - r = 0.2, -0.1, 0.2, r = 2, 1, 4: signed means 0.1 and (0.1 - 0.1 + 0.05) / 3, unsigned 1/6 and 0.25 / 3."""
    assert check_losses(tmp_path, {1: 2.2, 2: 0.9, 3: 4.2}, {1: 2.0, 2: 1.0, 3: 4.0}, kinds=kinds) == 0
    lines = console.readouterr().out.splitlines()
    assert " only 3 " in lines[0]
    values = {line.split()[0]: float(line.split()[-1]) for line in lines if line.startswith(("Mean", "Rule"))}
    assert values == pytest.approx({"MeanRelativeError:": 0.05 / 3, "MeanAbsoluteError:": 0.1,
                                    "Rule,mean_relative_error": 0.05 / 3})
    unsigned = re.search(r"unsigned differences: relative (\S+), absolute (\S+)", "\n".join(lines))
    assert [float(value) for value in unsigned.groups()] == pytest.approx([0.25 / 3, 1 / 6])
    assert re.fullmatch(r"pass mean_relative_error=0\.0166\d+ <= 0\.05 or "
                        r"mean_absolute_error=0\.(1|0999)\d* <= 0\.0002", lines[-1])
    assert cv2.imread(str(tmp_path / "loss.png")).std() > 5


def test_a_drift_fails_and_tiny_losses_pass_by_the_absolute_rule(tmp_path, console):
    assert check_losses(tmp_path, {1: 1.1, 2: 1.1}, {1: 1.0, 2: 1.0}) == 1
    assert console.readouterr().out.splitlines()[-1].startswith("fail mean_relative_error=0.1")
    assert check_losses(tmp_path, {1: 0.0012, 2: 0.0012}, {1: 0.0011, 2: 0.0011}) == 0
    output = console.readouterr().out
    assert float(re.search(r"Rule,mean_absolute_error (\S+)", output)[1]) == pytest.approx(1e-4)
    assert "pass mean_relative_error=0.0909" in output


def test_only_the_first_common_steps_count(tmp_path, console):
    candidate = {step: 1.0 if step <= 30 else 10.0 for step in range(11, 200)}
    reference = dict.fromkeys(range(1, 150), 1.0)
    assert check_losses(tmp_path, candidate, reference, "--steps", 20) == 0
    assert "only" not in console.readouterr().out
    assert check_losses(tmp_path, candidate, reference, "--steps", 21) == 1
    assert (tmp_path / "loss.1.png").exists()


def test_a_diverged_run_fails_with_the_step(tmp_path, console):
    assert check_losses(tmp_path, {1: 1.0, 2: math.nan}, {1: 1.0, 2: 1.0}) == 1
    assert "fail the loss is nan at step 2" in console.readouterr().out


@pytest.mark.parametrize("candidate, reference, expected", [
    ({}, {1: 1.0}, "a.txt "), ({1: 1.0}, {}, "b.txt "), ({1: 1.0}, {1: math.nan}, "b.txt.* reference"),
    ({1: 1.0}, {1: 0.0}, "b.txt.* reference"), ({1: 1.0}, {5: 1.0}, "no step in common"),
    ({1: "x"}, {1: 1.0}, "line 2: the loss is 'x'"),
])
def test_logs_that_cannot_be_compared(candidate, reference, expected, tmp_path):
    with pytest.raises(UserError, match=expected):
        check_losses(tmp_path, candidate, reference, kinds=("lines", "lines"))
    assert not (tmp_path / "loss.png").exists()


def test_the_logs_of_a_real_run_agree_with_each_other(least_run, tmp_path):
    """train.py prints and records the same losses; the tool is called as a user does."""
    args = ["--candidate-log", least_run / "stdout.txt", "--reference-log", least_run / "train_record.jsonl",
            "--steps", 7]
    done = call_script("tools/loss.py", *args, cwd=tmp_path)
    assert "pass mean_relative_error=" in done.stdout and "only" not in done.stdout
    assert (tmp_path / "loss.png").exists()
    assert float(re.search(r"MeanRelativeError: (\S+)", done.stdout)[1]) < 1e-6
    missing = call_script("tools/loss.py", "--candidate-log", "/nowhere", "--reference-log", "x", check=False)
    assert_user_error(missing, "/nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("command, code", [
    ("./loss.py", 0), ("python ./loss.py", 0), ("python ./loss.py --sdaa-log sdaa.log --cuda-log cuda.log", 0),
    ("./loss.py --cuda-log far.log", 1),
])
def test_the_documents_loss_check(command, code, top):
    for name, kind, factor in (("sdaa", "lines", 1.015625), ("cuda", "vendor", 1.0), ("far", "original", 0.5)):
        write_log(top / f"{name}.log", dict.fromkeys(range(1, 101), 4.0 * factor), kind)
    done = as_written(command, top)
    assert done.returncode == code, done.stderr
    relative, absolute = ("0.015625", "0.0625") if code == 0 else ("1.03125", "2.0625")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("mean ")]
    assert lines == [
        f"MeanRelativeError: {relative}", f"MeanAbsoluteError: {absolute}", f"Rule,mean_relative_error {relative}",
        f"{'fail' if code else 'pass'} mean_relative_error={relative} <= 0.05 or "
        f"mean_absolute_error={absolute} <= 0.0002",
    ]
    assert (top / "loss.png").exists()


def test_a_missing_log_is_named_with_its_option(tmp_path):
    assert_user_error(run_script("loss.py", cwd=tmp_path, check=False), "(--candidate-log) not found: sdaa.log")


# ---------------------------------------------------------------- training in four processes


def test_the_recipes_match_the_paper(make_config):
    for name, side in (("voc", 384), ("voc_512", 512)):
        config = make_config("--config_path", os.path.join(ROOT, "configs", f"{name}.yaml"))
        options, schedule = config.dataset_config, config.train_config.MultiDecay
        assert options.input_res_train == options.input_res_test == [side, side] and config.epoch_size == 70
        assert schedule.multi_epochs == [45, 60] and schedule.learning_rate == 1.25e-4
        assert config.train_config.batch_size == 32
        assert config.eval_config.flip_test and config.eval_config.voc_metric and config.conv_allow_hf32 is False


def test_performance():
    records = [{"images_per_second": 0.1}, {"images_per_second": 10.0}, {"images_per_second": 30.0}]
    logs = ["x\npeak memory: 1.50 GB\n", "peak memory: 2.25 GB, 3.00 GB of the device\n", ""]
    measured = train_full.performance(records, logs, 300)
    assert measured == pytest.approx({"images_per_second": 15.0, "seconds_per_epoch": 20.0, "peak_memory_gb": 3.75})


def full(*args, cwd):
    command = ["bash", os.path.join(ROOT, "scripts", "train_full_4p.sh"), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)


def test_relative_paths_of_a_recipe_are_relative_to_the_caller(tmp_path, monkeypatch):
    """Training runs in exp/<run>/, its processes in subfolders LOG0, LOG1, ..."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("net_config:\n  load_backbone_path: weights/b.ckpt\nsave_result_dir: here\n")
    for name in ("script", "run"):
        monkeypatch.setattr(train_full, name, lambda *args, **options: None)
    args = ["--config_path", str(tmp_path / "recipe.yaml"), "--load_checkpoint_path=c.ckpt",
            "--train_config.batch_size", "6"]
    (tmp_path / "run").mkdir()
    train_full.train(str(tmp_path / "run"), "records", args, get_config("", args), "CPU", 2)
    ini = configparser.ConfigParser()
    ini.optionxform = str
    ini.read(tmp_path / "run" / "hyper_parameters.ini")
    assert dict(ini["config"]) == {
        "config_path": str(tmp_path / "recipe.yaml"), "load_checkpoint_path": str(tmp_path / "c.ckpt"),
        "train_config.batch_size": "3",
        "net_config.load_backbone_path": str(tmp_path / "weights" / "b.ckpt")}


@pytest.mark.slow
def test_four_processes_from_voc_files_to_scores(tiny_data, tmp_path):
    """The document's command on a data set in VOC's layout; four processes on the CPU, the smallest network, two steps.

    It is slow because eight processes load MindSpore, and five compile.
    """
    top = small_project(tmp_path / "top")
    shutil.copytree(tiny_data / "train2017", tmp_path / "voc" / "images")
    for split, name in (("train", "trainval0712"), ("val", "test2007")):
        annotation = json.loads((tiny_data / "annotations" / f"instances_{split}2017.json").read_text())
        for image in annotation["images"]:
            source = tiny_data / f"{split}2017" / image["file_name"]
            image["file_name"] = f"{split}_{image['file_name']}"
            shutil.copy(source, tmp_path / "voc" / "images" / image["file_name"])
        (tmp_path / "voc" / "annotations").mkdir(exist_ok=True)
        (tmp_path / "voc" / "annotations" / f"pascal_{name}.json").write_text(json.dumps(annotation))
    options = [f"{name}={value}" for name, value in zip(TINY[2::2], TINY[3::2]) if "batch_size" not in name]
    args = ["--device_target=CPU", "--epochs=1", "--run=tiny", *options, "--train_config.batch_size=8"]
    command = f"bash ./train_full_4p.sh --data_path={tmp_path} {shlex.join(args)}"
    done = as_written(command, top)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = top / "exp" / "tiny"
    records = [json.loads(line) for line in (folder / "LOG0" / "train_record.jsonl").read_text().splitlines()]
    assert len(records) == 2 and (folder / "LOG0" / "ckpt_0" / "centernet-1_2.ckpt").exists()
    # Logged paths are relative to the folder of the call.
    text = (folder / "LOG0" / "training_log.txt").read_text()
    for name, path in (("checkpoint", "ckpt_0/centernet-1_2.ckpt"), ("record", "train_record.jsonl"),
                       ("loss curve", "loss.png")):
        assert f"\n{name}: exp/tiny/LOG0/{path}\n" in text
    assert " --load_checkpoint_path exp/tiny/LOG0\n" in text
    for rank in range(4):
        assert "peak memory: " in (folder / f"LOG{rank}" / "training_log.txt").read_text()
    assert "overall performance on voc validation dataset" in done.stdout
    assert "Pascal VOC, IoU 0.5, without difficult objects" in done.stdout
    metrics = json.loads((folder / "val" / "metrics.json").read_text())
    assert set(metrics["VOC_AP_07_per_class"]) == {"rectangle", "ellipse", "triangle"}
    assert 0 <= metrics["VOC_mAP_07"] <= 1
    measured = json.loads((folder / "performance.json").read_text())
    assert measured["peak_memory_gb"] > 1
    assert measured["seconds_per_epoch"] == pytest.approx(16 / measured["images_per_second"])
    for text in ("images per second", "seconds per epoch", "peak memory", "VOC_mAP_07"):
        assert text in done.stdout
    again = as_written(command, top)
    assert again.returncode == 2 and "--run" in again.stderr


@pytest.mark.parametrize("args, expected", [
    ([], "usage: "), (["--data_path=/nowhere"], "/nowhere"), (["--data_path=empty"], "empty/annotations"),
    (["--data_path=half"], "pascal_test2007.json"), (["--data_path=half", "--epoch=3"], "did you mean"),
    (["--data_path=half", "--train_config.batch_size=30"], "train_config.batch_size"),
    (["--data_path=half", "--config_path=x.yaml"], "x.yaml"),
])
def test_a_wrong_path_is_an_error_that_names_the_missing_file(args, expected, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / "annotations").mkdir(parents=True)
    (tmp_path / "half" / "images").mkdir()
    annotation = tmp_path / "half" / "annotations" / "pascal_trainval0712.json"
    annotation.write_text(json.dumps(coco_content({1: "a.jpg"}, [])))
    if args:
        done = call_script("tools/train_full.py", *args, "--device_target=CPU", cwd=tmp_path, check=False)
        assert_user_error(done, expected)
    else:
        done = full("--device_target=CPU", cwd=tmp_path)
        assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "exp").exists()
