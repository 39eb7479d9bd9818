"""src/imaging/reading.py: orientation, sizes and limits of image files."""
import io
import json
import re
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from src.data import train_set
from src.data.coco import Split, image_size
from src.imaging import reading
from src.imaging.headers import read_header
from src.imaging.reading import TooManyPixels
from tests.conftest import bomb_tiff, convert, lines_with, noise_image, write_coco


def half_black(height, width):
    """An image with a white upper left quarter, black elsewhere, which differs in all orientations."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = 255
    return image


def encoded(image, ending, orientation):
    """An image encoded as a file with an EXIF orientation."""
    data = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {".jpg": {"format": "JPEG", "quality": 100}, ".webp": {"format": "WEBP", "lossless": True},
               ".png": {"format": "PNG"}}
    Image.fromarray(image[:, :, ::-1]).save(data, exif=exif, **options[ending])
    return data.getvalue()


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_in_pillow(ending, orientation):
    from PIL import ImageOps

    data = encoded(half_black(80, 120), ending, orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))[:, :, ::-1]
    np.testing.assert_allclose(reading.decode_whole_image(data).astype(int), expected, atol=3)
    if ending == ".jpg":
        np.testing.assert_array_equal(reading.decode_image(data),
                                      cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("stated", [None, (120, 80), (80, 120), (100, 100)])
def test_header_size_equals_the_decoded_size(ending, orientation, stated):
    data = encoded(half_black(80, 120), ending, orientation)
    try:
        expected = reading.decode_whole_image(data, stated).shape[1::-1]
    except reading.WrongSize as error:
        with pytest.raises(reading.WrongSize, match=re.escape(str(error))):
            reading.header_size(data, stated)
    else:
        assert reading.header_size(data, stated) == reading.header_size(io.BytesIO(data), stated) == expected
    with pytest.raises(TooManyPixels, match="120x80.*9599"):
        reading.header_size(data, max_pixels=9599)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
def test_the_annotated_size_decides_on_the_orientation(ending, tmp_path, make_config):
    """Orientation 6: stored as 120x80, displayed as 80x120. Boxes refer to one or the other."""
    data = encoded(half_black(80, 120), ending, 6)
    assert reading.decode_whole_image(data, (120, 80)).shape == (80, 120, 3)
    assert reading.decode_whole_image(data, (80, 120)).shape == (120, 80, 3)
    with pytest.raises(reading.WrongSize, match="80x120.*100x100"):
        reading.decode_whole_image(data, (100, 100))
    bare = reading.without_orientation(data)
    np.testing.assert_array_equal(reading.decode_whole_image(bare), reading.decode_whole_image(data, (120, 80)))

    # The same in conversion, records and training samples.
    path = write_coco(tmp_path, "train", {number: half_black(80, 120) for number in (1, 2, 3)},
                      [(n, 1, [0, 0, 60, 40]) for n in (1, 2, 3)])
    content = json.loads(open(path, encoding="utf-8").read())
    for entry, (width, height) in zip(content["images"], ((120, 80), (80, 120), (100, 100))):
        entry.update(width=width, height=height)
        (tmp_path / "train2017" / entry["file_name"]).write_bytes(data)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)
    manifest = convert(Split(path, str(tmp_path / "train2017")), tmp_path / "m", "p", tmp_path)
    assert manifest["images"] == 2 and len(manifest["skipped"]) == 1 and "image 3 (" in manifest["skipped"][0]
    args = ["--dataset_config.flip_prop", 0, "--dataset_config.color_aug", "false", "--dataset_config.rand_crop",
            "false", "--seed", 1, "--dataset_config.scale", 0, "--dataset_config.shift", 0, "--do_shuffle", "false",
            "--mindrecord_dir", tmp_path / "m", "--dataset_config.input_res_train", "[128, 128]", "--mindrecord_prefix",
            "p", "--train_config.batch_size", 2]
    pixels = train_set.TrainSet(make_config(*args)).make_batch(0)[0]
    for sample, (width, height) in zip(pixels, ((120, 80), (80, 120))):
        scale = 128 / 120
        shown = cv2.resize(reading.decode_whole_image(data, (width, height)), None, fx=scale, fy=scale)
        left, upper = (128 - shown.shape[1]) // 2, (128 - shown.shape[0]) // 2
        region = sample[upper : upper + shown.shape[0], left : left + shown.shape[1]]
        assert (np.abs(region.astype(int) - shown) > 60).mean() < 0.03  # except at the edges of the white quarter


XMP = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
       b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
       b'tiff:Orientation="6" exif:ExifVersion="0220"/></rdf:RDF></x:xmpmeta>')


def with_padding():
    """A rotated JPEG with a fill byte 255 before its EXIF segment, as the format allows."""
    data = encoded(half_black(80, 120), ".jpg", 6)
    place = data.index(b"Exif") - 4
    return data[:place] + b"\xff" + data[place:]


def with_xmp(exif=b""):
    """A JPEG that states its orientation in XMP, which Pillow follows."""
    data = io.BytesIO()
    Image.fromarray(half_black(80, 120)).save(data, "JPEG", quality=100, xmp=XMP, exif=exif)
    return data.getvalue()


@pytest.mark.parametrize("data", [with_padding(), with_xmp(), with_xmp(Image.Exif().tobytes())])
def test_without_orientation(data):
    assert read_header(io.BytesIO(data)).orientation == 6
    bare = reading.without_orientation(data)
    np.testing.assert_array_equal(reading.decode_image(bare), reading.decode_image(data, (120, 80)))


@pytest.mark.parametrize("kind, count, value", [(2, 2, b"6\0"), (3, 1, b"\x09\0"), (3, 1, b"\0\0"), (7, 4, b"abcd"),
                                                (5, 1, b"")])
def test_an_invalid_orientation_is_ignored(kind, count, value, tmp_path):
    """EXIF's entry is a string, a number beyond 8, bytes, or a fraction without data."""
    entry = struct.pack("<HHHI4s", 1, 0x0112, kind, count, value)
    data = io.BytesIO()
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry + bytes(4)
    Image.fromarray(half_black(80, 120)).save(data, "JPEG", exif=exif)
    path = write_coco(tmp_path, "train", {1: half_black(80, 120)}, [(1, 1, [0, 0, 60, 40])])
    (tmp_path / "train2017" / "000000000001.jpg").write_bytes(data.getvalue())
    assert reading.read_size(tmp_path / "train2017" / "000000000001.jpg") == (120, 80)
    assert convert(Split(path, str(tmp_path / "train2017")), tmp_path / "m", "p", tmp_path)["images"] == 1


def test_missing_sizes():
    assert image_size({"width": 3, "height": 4}) == (3, 4)
    for info in ({}, {"width": 0, "height": 0}, {"width": "3", "height": 4}, {"width": 3.5, "height": 4},
                 {"width": True, "height": True}):
        assert image_size(info) is None


def memory():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_a_file_with_two_sizes_is_not_decoded_at_the_larger():
    before = memory()
    try:
        assert reading.decode_whole_image(bomb_tiff(), max_pixels=1000).size <= 3000
    except ValueError:
        pass
    assert memory() - before < 100  # MB; 12000x12000 takes 432


def png_with_two_headers():
    """A PNG that states 12000x12000 first, then 1x1."""
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    headers = b"".join(chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) for side in (12000, 1))
    return b"\x89PNG\r\n\x1a\n" + headers + chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b"")


def test_a_png_is_judged_by_its_first_header():
    before = memory()
    with pytest.raises(TooManyPixels, match="12000x12000.*1000000"):
        reading.decode_whole_image(png_with_two_headers(), max_pixels=1_000_000)
    assert memory() - before < 100


def test_a_png_chunk_longer_than_the_file_is_refused():
    """OpenCV allocates the length that it states: 14 KB took 4 GB."""
    data = bytearray(cv2.imencode(".png", noise_image(1))[1].tobytes())
    data[33:37] = b"\xff\xff\x38\x87"  # the length of the first chunk after the header
    before = memory()
    with pytest.raises(ValueError) as raised:
        reading.decode_whole_image(bytes(data))
    assert raised.type is ValueError  # damaged, not unknown or too large
    assert memory() - before < 100


def test_the_pixel_limit_applies_to_conversion(tmp_path, make_config):
    path = write_coco(tmp_path, "val", {1: noise_image(1), 2: noise_image(2, 20, 20)}, [(2, 1, [1, 1, 9, 9])])
    manifest = convert(Split(path, str(tmp_path / "val2017")), tmp_path / "m", "p", tmp_path, max_pixels=1000)
    assert manifest["images"] == 1 and lines_with(manifest["skipped"], "image 1 ", "128x96", "1000")
    assert make_config("--dataset_config.max_pixels", 5).dataset_config.max_pixels == 5


@pytest.mark.parametrize("mode, dtype", [("I;16", np.uint16), ("I", np.int32)])
def test_sixteen_bits_are_scaled(mode, dtype):
    """The upper 8 of 16 bits are used, for Pillow images as for arrays."""
    from src.inference.predictor import as_image

    values = np.array([[0, 256 * 40, 256 * 200 + 7, 65535]], dtype)
    image = as_image(Image.frombytes(mode, (4, 1), values.tobytes()))
    assert image[0, :, 0].tolist() == [0, 40, 200, 255]
