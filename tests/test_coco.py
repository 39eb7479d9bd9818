"""Reading annotation files that others wrote: what is mended, what is refused."""
import io
import json
import struct

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src import dataset, evaluation, image_files
from src.coco import Split, find_split, image_list, image_size, read_coco
from src.errors import UserError
from tests.conftest import bomb_tiff, convert, noise_image, write_coco

BOXES = [[10, 20, 30, 25], [60, 40, 25, 30], [5, 50, 20, 30]]


@pytest.fixture
def rewrite(tmp_path):
    """Call it with a function that changes the file's content: the path of an annotation file of two images and four objects."""
    def call(change=lambda content: None):
        objects = [(1, 1, BOXES[0]), (1, 2, BOXES[1]), (2, 1, BOXES[2]), (2, 2, BOXES[0])]
        path = write_coco(tmp_path, "val", {1: noise_image(1), 2: noise_image(2)}, objects)
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        change(content)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file)
        return path

    return call


def perfect(coco):
    """Records that repeat the ground truth."""
    return [{"image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": entry["bbox"], "score": 0.9}
            for entry in coco.dataset["annotations"]]


def set_all(name, values):
    def change(content):
        for entry, value in zip(content["annotations"], values):
            entry[name] = value
    return change


def remove(*names):
    def change(content):
        for entry in content["annotations"]:
            for name in names:
                entry.pop(name)
    return change


@pytest.mark.parametrize("change, note", [
    (set_all("id", [0, 1, 2, 3]), "counted anew"), (set_all("id", [7] * 4), "counted anew"),
    (set_all("id", ["a", None, 1.5, True]), "counted anew"), (set_all("id", [1, 2, 3, 10**400]), "counted anew"),
    (remove("id"), "counted anew"), (remove("iscrowd"), "4 annotations lack iscrowd or area"), (remove("area"), "4 annotations lack"),
    (remove("iscrowd", "area"), "4 annotations lack"), (set_all("area", ["wide", None, float("nan"), 3]), "3 annotations lack"),
])
def test_perfect_records_score_one_whatever_the_ids(change, note, rewrite):
    """pycocotools reads the id 0 as no match, and of equal ids only one."""
    coco = read_coco(rewrite(change))
    assert len(coco.notes) == 1 and note in coco.notes[0], coco.notes
    assert evaluation.score(coco, perfect(coco))[1]["AP"] == pytest.approx(1.0)
    assert [entry["area"] for entry in coco.dataset["annotations"]][:3] == [750, 750, 600]


def test_a_file_without_mistakes_stays_as_it_is(rewrite):
    path = rewrite()
    coco, plain = read_coco(path), COCO(path)
    assert coco.notes == coco.skipped == [] and coco.dataset["annotations"] == plain.dataset["annotations"] and coco.imgs == plain.imgs
    for reader in (coco, plain):
        reader.evaluation = COCOeval(reader, plain.loadRes(perfect(plain)), "bbox")
        reader.evaluation.evaluate()
        reader.evaluation.accumulate()
    np.testing.assert_array_equal(coco.evaluation.eval["precision"], plain.evaluation.eval["precision"])


def test_new_ids_are_not_the_names_of_annotations(rewrite, tmp_path):
    """What is said of an annotation names the file's id."""
    def change(content):
        set_all("id", [0, 0, 0, 41])(content)
        content["annotations"][3]["bbox"] = [1, 1, 0, 5]

    split = Split(rewrite(change), str(tmp_path / "val2017"))
    manifest = convert(split, tmp_path / "m", "p", tmp_path)
    assert manifest["skipped"] == ["annotation 41 of image 2: box without area [1, 1, 0, 5]"]


@pytest.mark.parametrize("box", [None, "x", [1, 2, 3], [1, 2, "3", 4], [1, 2, float("nan"), 4], [1e300, 0, 1e300, 5], {"x": 1}, [True] * 4])
def test_what_is_no_box_is_left_out_and_named(box, rewrite):
    path = rewrite(lambda content: content["annotations"][1].update(bbox=box))
    coco = read_coco(path)
    assert len(coco.dataset["annotations"]) == 3
    assert coco.skipped[0].startswith("annotation 2 of image 1: ") and "no box of four numbers" in coco.skipped[0]
    assert evaluation.score(coco, perfect(coco))[1]["AP"] == pytest.approx(1.0)


def test_an_image_listed_twice_counts_once(rewrite, tmp_path):
    path = rewrite(lambda content: content["images"].append(dict(content["images"][0])))
    coco = read_coco(path)
    assert [image_id for image_id, _ in image_list(Split(path, ""), coco)] == [1, 2]
    assert coco.notes == ["1 images are listed more than once; each counts once"]
    assert convert(Split(path, str(tmp_path / "val2017")), tmp_path / "m", "p", tmp_path)["images"] == 2


@pytest.mark.parametrize("change, part", [
    (lambda c: c["images"][0].update(id="../../../x"), "the id of image entry 1 is '../../../x'; expected a whole number from 0"),
    (lambda c: c["images"][0].update(id=-3), "-3"), (lambda c: c["images"][0].update(id=2**63), "9223372036854775808"),
    (lambda c: c["images"][0].update(id=None), "None"), (lambda c: c["images"][1].pop("id"), "image entry 2"),
    (lambda c: c["images"][0].update(file_name=5), "file_name is 5"), (lambda c: c["images"][0].update(file_name="a\0b"), "file_name"),
    (lambda c: c["categories"][0].update(id="one"), "the id of category 1 is 'one'"),
    (lambda c: c["categories"][0].update(name=["disc"]), "the name of category 1 is ['disc']; expected a text"),
    (lambda c: c["categories"][0].update(name=""), "expected a text"),
    (lambda c: c["categories"][0].update(name="\ud800"), "expected a text"),
    (lambda c: c["categories"][1].update(name="disc"), "two categories have the name 'disc'"),
    (lambda c: c["categories"][1].update(id=1), "two categories have the id 1"),
    (lambda c: c.update(categories=[]), "names no categories"), (lambda c: c.update(images={}), "no list 'images'"),
    (lambda c: c.update(annotations=[[1]]), "annotations, entry 1: [1] is no dictionary"), (lambda c: c.pop("categories"), "'categories'"),
])
def test_what_cannot_be_scored_is_refused_before_it_is_trained_on(change, part, rewrite, tmp_path):
    path = rewrite(change)
    with pytest.raises(UserError) as raised:
        read_coco(path)
    assert part in str(raised.value) and path in str(raised.value)
    with pytest.raises(UserError):
        convert(Split(path, str(tmp_path / "val2017")), tmp_path / "m", "p", tmp_path)
    assert not (tmp_path / "m").exists()


def test_whole_numbers_may_be_written_as_floats_and_info_as_anything(rewrite):
    def change(content):
        content["info"] = ["a", "list"]
        for entry in content["annotations"]:
            entry["image_id"] = float(entry["image_id"])

    coco = read_coco(rewrite(change))
    assert evaluation.score(coco, perfect(coco))[1]["AP"] == pytest.approx(1.0) and coco.notes == []


def test_annotations_of_unknown_images_and_categories(rewrite):
    def change(content):
        content["annotations"] += [{"id": 9, "image_id": 77, "category_id": 1, "bbox": [1, 1, 2, 2]},
                                   {"id": 10, "image_id": 1, "category_id": [1], "bbox": [1, 1, 2, 2]},
                                   {"id": 11, "image_id": 1, "category_id": 99, "bbox": [1, 1, 2, 2]}]

    coco = read_coco(rewrite(change))
    assert len(coco.dataset["annotations"]) == 4
    assert "annotation 9 of image 77: the file lists no such image" in coco.skipped[0] and "category_id" in coco.skipped[1]
    assert coco.skipped[2] == "annotation 11 of image 1: unknown category id 99"
    evaluation.confusion_matrix(coco, perfect(coco), 0.5)


@pytest.mark.parametrize("text", ["", "[", "[]", "3", "{\"images\": " + "[" * 100_000, "\xff"])
def test_what_is_no_annotation_file(text, tmp_path):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="a.json: not a COCO annotation file"):
        read_coco(str(tmp_path / "a.json"))


# ---------------------------------------------------------------- orientation


def half_black(height, width):
    """An image whose upper left quarter is white and the rest black, so that each turn looks different."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = 255
    return image


def encoded(image, ending, orientation):
    """The bytes of a file of an image with an EXIF orientation."""
    data = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {".jpg": {"format": "JPEG", "quality": 100}, ".webp": {"format": "WEBP", "lossless": True}, ".png": {"format": "PNG"}}
    Image.fromarray(image[:, :, ::-1]).save(data, exif=exif, **options[ending])
    return data.getvalue()


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_pillow_turns_them(ending, orientation):
    from PIL import ImageOps

    data = encoded(half_black(80, 120), ending, orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))[:, :, ::-1]
    np.testing.assert_allclose(image_files.decode_whole_image(data).astype(int), expected, atol=3)
    if ending == ".jpg":
        np.testing.assert_array_equal(image_files.decode_image(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
def test_the_annotation_files_size_says_how_an_image_is_meant(ending, tmp_path, make_config):
    """Orientation 6: 120x80 as it is stored, 80x120 turned. Boxes are of one or the other."""
    data = encoded(half_black(80, 120), ending, 6)
    assert image_files.decode_whole_image(data, (120, 80)).shape == (80, 120, 3)
    assert image_files.decode_whole_image(data, (80, 120)).shape == (120, 80, 3)
    with pytest.raises(ValueError, match="the image is 80x120, its entry in the annotation file says 100x100"):
        image_files.decode_whole_image(data, (100, 100))
    bare = image_files.without_orientation(data)
    np.testing.assert_array_equal(image_files.decode_whole_image(bare), image_files.decode_whole_image(data, (120, 80)))

    # Conversion, records and the training samples alike.
    path = write_coco(tmp_path, "train", {number: half_black(80, 120) for number in (1, 2, 3)}, [(n, 1, [0, 0, 60, 40]) for n in (1, 2, 3)])
    content = json.loads(open(path, encoding="utf-8").read())
    for entry, (width, height) in zip(content["images"], ((120, 80), (80, 120), (100, 100))):
        entry.update(width=width, height=height)
        (tmp_path / "train2017" / entry["file_name"]).write_bytes(data)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)
    manifest = convert(Split(path, str(tmp_path / "train2017")), tmp_path / "m", "p", tmp_path)
    assert manifest["images"] == 2 and len(manifest["skipped"]) == 1 and "image 3 (" in manifest["skipped"][0]
    words = ["--dataset_config.flip_prop", 0, "--dataset_config.color_aug", "false", "--dataset_config.rand_crop", "false", "--seed", 1,
             "--dataset_config.scale", 0, "--dataset_config.shift", 0, "--do_shuffle", "false", "--mindrecord_dir", tmp_path / "m",
             "--dataset_config.input_res_train", "[128, 128]", "--mindrecord_prefix", "p", "--train_config.batch_size", 2]
    pixels = dataset.TrainSet(make_config(*words)).make_batch(0)[0]
    for sample, (width, height) in zip(pixels, ((120, 80), (80, 120))):
        scale = 128 / 120
        shown = cv2.resize(image_files.decode_whole_image(data, (width, height)), None, fx=scale, fy=scale)
        left, upper = (128 - shown.shape[1]) // 2, (128 - shown.shape[0]) // 2
        part = sample[upper : upper + shown.shape[0], left : left + shown.shape[1]]
        assert (np.abs(part.astype(int) - shown) > 60).mean() < 0.03  # but for the edges of the white quarter


XMP = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
       b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" tiff:Orientation="6" '
       b'exif:ExifVersion="0220"/></rdf:RDF></x:xmpmeta>')


def with_padding():
    """A turned JPEG that has a byte 255 before its EXIF segment, as the format allows."""
    data = encoded(half_black(80, 120), ".jpg", 6)
    place = data.index(b"Exif") - 4
    return data[:place] + b"\xff" + data[place:]


def with_xmp(exif=b""):
    """A JPEG that says its orientation in XMP, which Pillow follows."""
    data = io.BytesIO()
    Image.fromarray(half_black(80, 120)).save(data, "JPEG", quality=100, xmp=XMP, exif=exif)
    return data.getvalue()


@pytest.mark.parametrize("data", [with_padding(), with_xmp(), with_xmp(Image.Exif().tobytes())])
def test_no_orientation_is_left(data):
    assert image_files.read_orientation(data) == 6
    bare = image_files.without_orientation(data)
    np.testing.assert_array_equal(image_files.decode_image(bare), image_files.decode_image(data, (120, 80)))


@pytest.mark.parametrize("kind, count, value", [(2, 2, b"6\0"), (3, 1, b"\x09\0"), (3, 1, b"\0\0"), (7, 4, b"abcd"), (5, 1, b"")])
def test_an_orientation_that_is_none_turns_nothing(kind, count, value, tmp_path):
    """EXIF's entry is a text, a number beyond 8, bytes, a fraction that is not there."""
    entry = struct.pack("<HHHI4s", 1, 0x0112, kind, count, value)
    data = io.BytesIO()
    Image.fromarray(half_black(80, 120)).save(data, "JPEG", exif=b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry + bytes(4))
    path = write_coco(tmp_path, "train", {1: half_black(80, 120)}, [(1, 1, [0, 0, 60, 40])])
    (tmp_path / "train2017" / "000000000001.jpg").write_bytes(data.getvalue())
    assert image_files.read_size(tmp_path / "train2017" / "000000000001.jpg") == (120, 80)
    assert convert(Split(path, str(tmp_path / "train2017")), tmp_path / "m", "p", tmp_path)["images"] == 1


def test_sizes_that_are_not_stated():
    assert image_size({"width": 3, "height": 4}) == (3, 4)
    for info in ({}, {"width": 0, "height": 0}, {"width": "3", "height": 4}, {"width": 3.5, "height": 4}, {"width": True, "height": True}):
        assert image_size(info) is None


# ---------------------------------------------------------------- pixels


def memory():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_a_file_that_shows_two_sizes_is_not_decoded_at_the_larger():
    before = memory()
    try:
        assert image_files.decode_whole_image(bomb_tiff(), max_pixels=1000).size <= 3000
    except ValueError:
        pass
    assert memory() - before < 100  # MB; 12000x12000 takes 432


def png_with_two_headers():
    """A PNG that says 12000x12000 first, then 1x1."""
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    headers = b"".join(chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) for side in (12000, 1))
    return b"\x89PNG\r\n\x1a\n" + headers + chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b"")


def test_a_png_is_judged_by_its_first_header():
    before = memory()
    with pytest.raises(ValueError, match="12000x12000 pixels, more than 1000000"):
        image_files.decode_whole_image(png_with_two_headers(), max_pixels=1_000_000)
    assert memory() - before < 100


def test_a_png_with_a_part_longer_than_the_file_is_not_decoded():
    """OpenCV makes room for what its length says: 14 KB took 4 GB."""
    data = bytearray(cv2.imencode(".png", noise_image(1))[1].tobytes())
    data[33:37] = b"\xff\xff\x38\x87"  # the length of the first chunk behind the header
    before = memory()
    with pytest.raises(ValueError, match="longer than the file|truncated|broken"):
        image_files.decode_whole_image(bytes(data))
    assert memory() - before < 100


def test_the_pixel_limit_holds_where_images_are_read(tmp_path, make_config):
    path = write_coco(tmp_path, "val", {1: noise_image(1), 2: noise_image(2, 20, 20)}, [(2, 1, [1, 1, 9, 9])])
    manifest = convert(Split(path, str(tmp_path / "val2017")), tmp_path / "m", "p", tmp_path, max_pixels=1000)
    assert manifest["images"] == 1 and "128x96 pixels, more than 1000" in manifest["skipped"][0]
    assert make_config("--dataset_config.max_pixels", 5).dataset_config.max_pixels == 5


@pytest.mark.parametrize("mode, dtype", [("I;16", np.uint16), ("I", np.int32)])
def test_sixteen_bits_are_not_white(mode, dtype):
    """Of 16 bits the upper 8 count, in a Pillow image as in an array."""
    from src.predictor import as_image

    values = np.array([[0, 256 * 40, 256 * 200 + 7, 65535]], dtype)
    image = as_image(Image.frombytes(mode, (4, 1), values.tobytes()))
    assert image[0, :, 0].tolist() == [0, 40, 200, 255]


@pytest.mark.parametrize("folder", ["train2017", "images/train/images", "images/train", "images"])
def test_where_images_may_lie(folder, tmp_path, make_config):
    """The first of these that is there, with the more particular ones before."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").touch()
    (tmp_path / folder).mkdir(parents=True)
    assert find_split(str(tmp_path), "train", make_config().dataset_config).image_dir == str(tmp_path / folder)
