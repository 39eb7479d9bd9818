"""src/imaging/headers.py: headers compared with Pillow's results, and files that are refused before decoding."""
import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from src.imaging import reading
from src.imaging.encoded import MAX_SCANS, count_scans, strip_metadata
from src.imaging.headers import IMAGE_ENDINGS, UnknownFormat, read_header
from src.imaging.reading import TooManyPixels


def picture():
    """A small image that differs in all orientations, in blocks that JPEG preserves."""
    y, x = np.mgrid[:48, :80]
    return np.stack([x * 3, y * 5, (x // 40 + y // 24) * 100], -1).astype(np.uint8)


def saved(kind, mode="RGB", **options):
    """The picture encoded as a file."""
    data = io.BytesIO()
    lossless = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    Image.fromarray(picture()).convert(mode).save(data, kind, **lossless, **options)
    return data.getvalue()


def exif(orientation, order="<"):
    """EXIF data with an orientation."""
    data = Image.Exif()
    data.endian = order
    data[0x0112] = orientation
    return data.tobytes()


ATTRIBUTE = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/>'
ELEMENT = ('<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"><tiff:Orientation>{}</tiff:Orientation>'
           '</rdf:Description>')
OTHER_PREFIX = "<rdf:Description xmlns:t='http://ns.adobe.com/tiff/1.0/' t:Orientation = '{}'/>"


def xmp(orientation, form=ATTRIBUTE, encoding="utf-8"):
    """An XMP packet with an orientation."""
    description = form.format(orientation)
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>{description}</rdf:RDF></x:xmpmeta>'.encode(encoding)


def chunk(kind, content):
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks, behind=()):
    """The picture as a PNG with chunks before its pixels, and others after them."""
    data = saved("PNG")
    return b"".join([data[:33], *(chunk(*content) for content in chunks), data[33:-12],
                     *(chunk(*content) for content in behind), data[-12:]])


def profile(orientation):
    """ImageMagick's form of EXIF in a PNG."""
    data = exif(orientation)
    return b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(data), data.hex().encode()))


def packed_xmp(orientation):
    return b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(orientation))


def mpo(orientation):
    """A JPEG that contains a second image."""
    data = io.BytesIO()
    image = Image.fromarray(picture())
    image.save(data, "MPO", save_all=True, append_images=[Image.new("RGB", (80, 48))], quality=100, subsampling=0,
               exif=exif(orientation))
    return data.getvalue()


FILES = {  # ways to state an orientation
    "jpeg": lambda n: saved("JPEG", exif=exif(n)),
    "jpeg, other byte order": lambda n: saved("JPEG", exif=exif(n, ">")),
    "jpeg, progressive": lambda n: saved("JPEG", exif=exif(n), progressive=True),
    "jpeg, gray": lambda n: saved("JPEG", "L", exif=exif(n)),
    "jpeg, cmyk": lambda n: saved("JPEG", "CMYK", exif=exif(n)),
    "jpeg, xmp": lambda n: saved("JPEG", xmp=xmp(n)),
    "jpeg, xmp element": lambda n: saved("JPEG", xmp=xmp(n, ELEMENT)),
    "jpeg, both": lambda n: saved("JPEG", exif=exif(n), xmp=xmp(9 - n)),
    "jpeg, exif without": lambda n: saved("JPEG", exif=Image.Exif().tobytes(), xmp=xmp(n)),
    "mpo": mpo,
    "png": lambda n: saved("PNG", exif=exif(n)),
    "png, palette": lambda n: saved("PNG", "P", exif=exif(n)),
    "png, behind its pixels": lambda n: png(behind=[(b"eXIf", exif(n)[6:])]),
    "png, imagemagick": lambda n: png((b"zTXt", profile(n))),
    "png, xmp": lambda n: png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(n))),
    "png, xmp element": lambda n: png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(n, ELEMENT))),
    "png, packed xmp": lambda n: png((b"iTXt", packed_xmp(n))),
    "webp": lambda n: saved("WEBP", exif=exif(n)),
    "webp, alpha": lambda n: saved("WEBP", "RGBA", exif=exif(n), exact=True),
    "webp, xmp": lambda n: saved("WEBP", xmp=xmp(n)),
    "tiff": lambda n: saved("TIFF", tiffinfo={274: n}),
    "tiff, packed": lambda n: saved("TIFF", tiffinfo={274: n}, compression="tiff_lzw"),
    "tiff, fax": lambda n: saved("TIFF", "1", tiffinfo={274: n}, compression="group4"),
    "tiff, jpeg": lambda n: saved("TIFF", tiffinfo={274: n}, compression="jpeg", quality=100),
    "tiff, big": lambda n: saved("TIFF", tiffinfo={274: n}, big_tiff=True),
    "tiff, xmp": lambda n: saved("TIFF", tiffinfo={700: xmp(n)}),
    "tiff, both": lambda n: saved("TIFF", tiffinfo={274: n, 700: xmp(9 - n)}),
}
UNLIKE_PILLOW = {  # ignored by Pillow, but not by other readers of XMP
    "jpeg, xmp in UTF-16": lambda n: saved("JPEG", xmp=xmp(n, encoding="utf-16")),
    "jpeg, xmp in UTF-16, element": lambda n: saved("JPEG", xmp=xmp(n, ELEMENT, "utf-16-be")),
    "webp, xmp in UTF-32": lambda n: saved("WEBP", xmp=xmp(n, encoding="utf-32-le")),
    "jpeg, xmp with another prefix": lambda n: saved("JPEG", xmp=xmp(n, OTHER_PREFIX)),
}


def shown(data):
    """An image as displayed by Pillow, BGR."""
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))[:, :, ::-1].astype(int)


@pytest.mark.parametrize("name", FILES)
def test_one_orientation_for_sizes_and_pixels(name, tmp_path):
    for orientation in range(1, 9):
        data = FILES[name](orientation)
        check(data, shown(data), orientation, tmp_path / "a")


@pytest.mark.parametrize("name", UNLIKE_PILLOW)
def test_orientations_that_pillow_ignores(name, tmp_path):
    for orientation in range(1, 9):
        as_exif = FILES[name.partition(",")[0]](orientation)
        check(UNLIKE_PILLOW[name](orientation), shown(as_exif), orientation, tmp_path / "a")


def check(data, expected, orientation, path):
    """All readers apply the orientation, and without_orientation leaves the stored image."""
    path.write_bytes(data)
    size = expected.shape[1::-1]
    assert read_header(io.BytesIO(data)).orientation == orientation
    for image in (reading.decode_whole_image(data), reading.decode_image(data), reading.read_image(path)):
        np.testing.assert_allclose(image.astype(int), expected, atol=3)
    assert reading.header_size(data) == reading.read_size(path) == size
    assert reading.read_sizes(path) == ([size, size[::-1]] if orientation > 4 else [size])
    if orientation > 4:
        stored = reading.decode_whole_image(data, size[::-1])
        assert reading.header_size(data, size[::-1]) == size[::-1]
        bare = reading.without_orientation(data)
        np.testing.assert_array_equal(reading.decode_whole_image(bare), stored)
        np.testing.assert_allclose(shown(bare), stored, atol=3)
        np.testing.assert_array_equal(reading.TURNS[orientation](stored), reading.decode_image(data))


def tiff(tags, order="<", pixels=b""):
    """A TIFF with entries {tag: (type, values)}, followed by its pixels, to which tag 273 or 324 points."""
    codes = {3: "H", 4: "I", 11: "f", 12: "d", 6: "b", 8: "h"}
    packed = {tag: (kind, len(values), struct.pack(f"{order}{len(values)}{codes[kind]}", *values))
              for tag, (kind, values) in tags.items()}
    behind = 8 + 2 + 12 * len(tags) + 4
    place = behind + sum(len(data) for *_, data in packed.values() if len(data) > 4)
    entries, far = b"", b""
    for tag, (kind, count, data) in sorted(packed.items()):
        if tag in (273, 324):
            data = struct.pack(f"{order}{count}I", *[place] * count)
        entries += struct.pack(order + "HHI", tag, kind, count)
        entries += data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", behind + len(far))
        far += data if len(data) > 4 else b""
    start = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return start + struct.pack(order + "IH", 8, len(tags)) + entries + bytes(4) + far + pixels


def gray_tiff(values, bits=None, sample_format=1, white_is_zero=False, least_most=None, order="<"):
    """A TIFF with gray values [H, W]."""
    height, width = values.shape
    tags = {256: (3, [width]), 257: (3, [height]), 258: (3, [bits or values.itemsize * 8]), 259: (3, [1]),
            262: (3, [1 - white_is_zero]), 273: (4, [0]), 277: (3, [1]), 278: (3, [height]), 279: (4, [values.nbytes]),
            339: (3, [sample_format])}
    if least_most:
        tags |= {340: (12, [least_most[0]]), 341: (12, [least_most[1]])}
    return tiff(tags, order, values.astype(values.dtype.newbyteorder(order)).tobytes())


@pytest.mark.parametrize("values, options, expected", [
    (np.array([[0, 256 * 40, 256 * 200 + 7, 65535]], np.uint16), {}, [0, 40, 200, 255]),
    (np.array([[0, 256 * 40, 256 * 200 + 7, 65535]], np.uint16), {"order": ">"}, [0, 40, 200, 255]),
    (np.array([[0, 256 * 40, 256 * 200 + 7, 65535]], np.uint16), {"white_is_zero": True}, [255, 215, 55, 0]),
    (np.array([[0, 16 * 40, 16 * 200 + 7, 4095]], np.uint16), {"least_most": (0, 4095)}, [0, 40, 200, 255]),
    (np.array([[-1000, 0, 1000, 3095, 9000]], np.int16), {"sample_format": 2, "least_most": (-1000, 3095)},
     [0, 62, 125, 255, 255]),
    (np.array([[0, 0.5, 1, 2, -1, np.nan, np.inf]], np.float32), {"sample_format": 3, "least_most": (0, 1)},
     [0, 128, 255, 255, 0, 0, 255]),
    (np.array([[0, 2**31, 2**32 - 1]], np.uint32), {"least_most": (0, 2**32 - 1)}, [0, 128, 255]),
    (np.array([[-2**31, 0, 2**31 - 1]], np.int32), {"sample_format": 2, "least_most": (-2**31, 2**31 - 1)},
     [0, 128, 255]),
    (np.array([[-128, 0, 127]], np.int8), {"sample_format": 2, "least_most": (-128, 127)}, [0, 128, 255]),
    (np.array([[0, 40, 255]], np.uint8), {"white_is_zero": True}, [255, 215, 0]),
])
def test_gray_values_as_stated_by_the_file(values, options, expected):
    image = reading.decode_whole_image(gray_tiff(values, **options))
    assert image[0].tolist() == [[value] * 3 for value in expected]


def test_twelve_bits():
    """Two 12-bit values in three bytes."""
    tags = {256: (3, [2]), 257: (3, [1]), 258: (3, [12]), 259: (3, [1]), 262: (3, [1]), 273: (4, [0]), 277: (3, [1]),
            278: (3, [1]), 279: (4, [3])}
    assert reading.decode_whole_image(tiff(tags, pixels=bytes([0x80, 0x0F, 0xFF])))[0, :, 0].tolist() == [128, 255]


@pytest.mark.parametrize("values, sample_format, what", [
    (np.ones((2, 2), np.float32), 3, "floating-point.* 32 "), (np.ones((2, 2), np.int16), 2, " signed.* 16 "),
    (np.ones((2, 2), np.uint32), 1, "unsigned.* 32 "), (np.ones((2, 2), np.int8), 2, " signed.* 8 "),
])
def test_undefined_gray_values_are_refused(values, sample_format, what):
    """By all readers, with the same message."""
    for least_most in (None, (5, 5)):
        data = gray_tiff(values, sample_format=sample_format, least_most=least_most)
        for read in (reading.decode_image, reading.decode_whole_image, reading.header_size):
            with pytest.raises(ValueError, match=f"{what}.* 8 or 16 "):
                read(data)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_colors_equal_pillows(kind, mode):
    try:
        data = saved(kind, mode)
    except OSError:  # not every format has every mode
        return
    np.testing.assert_allclose(reading.decode_whole_image(data).astype(int), shown(data), atol=2)


def os2_bitmap(bits, width=24, height=16):
    """An OS/2 bitmap, whose header has 12 bytes."""
    row, colors = (width * bits + 31) // 32 * 4, 1 << bits if bits <= 8 else 0
    pixels = np.random.default_rng(0).integers(0, 256, row * height, np.uint8).tobytes()
    palette = bytes(value % 256 for color in range(colors) for value in (color * 255 // (colors - 1), 10, 200 - color))
    offset = 26 + len(palette)
    start = struct.pack("<IHHI", offset + len(pixels), 0, 0, offset)
    header = start + struct.pack("<IHHHH", 12, width, height, 1, bits)
    return b"BM" + header + palette + pixels


@pytest.mark.parametrize("bits", [1, 4, 8, 24])
def test_bitmaps_of_os2(bits):
    data = os2_bitmap(bits)
    np.testing.assert_array_equal(reading.decode_whole_image(data), shown(data))
    assert reading.header_size(data) == (24, 16)
    with pytest.raises(TooManyPixels, match="24x16.* 100"):
        reading.decode_whole_image(data, max_pixels=100)


@pytest.mark.parametrize("start, name", [
    (b"GIF89a", "GIF"), (b"\0\0\0\x20ftypavif", "AVIF"), (b"\0\0\0\x18ftypheic", "HEIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"), (b"\xff\x0a", "JPEG XL"), (b"P6\n8 8\n255\n", "PNM"),
])
def test_unsupported_formats_are_named(start, name):
    for read in (reading.decode_image, reading.decode_whole_image, reading.header_size):
        with pytest.raises(UnknownFormat, match=f"{name}.* JPEG .*PNG"):
            read(start + bytes(100))
    assert {".jfif", ".mpo", ".gif", ".avif", ".heic", ".jp2", ".jxl", ".ppm"} < set(IMAGE_ENDINGS)


def test_one_list_of_extensions(tmp_path):
    """Import, evaluation and detection find the same files, including unsupported ones."""
    from src.commands.predict import find_sources
    from src.data.coco import Split, image_list
    from src.data.labels.formats import images_of, list_files

    names = ["a.JFIF", "b.gif", "c.mpo", "d.heic", "e.jpg", "f.tif"]
    for name in [*names, "g.txt", "h"]:
        (tmp_path / name).touch()
    found = [str(tmp_path / name) for name in names]
    assert [path for _, path in image_list(Split("", str(tmp_path)), None)] == found
    assert images_of(list_files(str(tmp_path))) == names
    assert find_sources(str(tmp_path)) == (found, str(tmp_path))


def test_the_first_of_several_images_is_read():
    """In an animation and a multi-page file; none is larger than the canvas stated in the header."""
    frames = [Image.fromarray(np.full((40, 60, 3), value, np.uint8)) for value in (200, 100, 0)]
    for kind, options in (("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        data = io.BytesIO()
        frames[0].save(data, kind, save_all=True, append_images=frames[1:], **options)
        assert reading.header_size(data.getvalue()) == (60, 40)
        for read in (reading.decode_image, reading.decode_whole_image):
            image = read(data.getvalue())
            assert image.shape == (40, 60, 3) and (image == 200).all()
    data = io.BytesIO()
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    canvas = bytearray(data.getvalue())
    canvas[24:30] = (16_000_000).to_bytes(3, "little") * 2
    with pytest.raises(ValueError, match="16000001x16000001"):
        reading.decode_whole_image(bytes(canvas))


def test_a_raw_file_is_not_its_thumbnail():
    data = saved("TIFF", tiffinfo={254: 1})
    with pytest.raises(ValueError, match="thumbnail"):
        reading.header_size(data)


# ---------------------------------------------------------------- files that are not decoded


def many_scans(count, width=64, height=64, between=b""):
    """A progressive JPEG with `count` scans, and data between them."""
    data = io.BytesIO()
    Image.new("L", (width, height), 90).save(data, "JPEG", progressive=True)
    data = data.getvalue()[:-2]
    last = data[data.rindex(b"\xff\xda") :]
    return data + (between + last) * (count - data.count(b"\xff\xda")) + b"\xff\xd9"


HIDING = b"\xff\xfe\0\x04\xff\xd9"  # a comment with an end marker


@pytest.mark.parametrize("between", [b"", HIDING, b"\xff\xff", b"\0\0"])
def test_scans_are_counted(between):
    for count in (10, MAX_SCANS, MAX_SCANS + 1):
        data = many_scans(count, between=between)
        assert count_scans(data, MAX_SCANS) == count
        assert reading.header_size(data) == (64, 64)
        if count <= MAX_SCANS:
            assert reading.decode_whole_image(data).shape == (64, 64, 3)
        else:
            with pytest.raises(ValueError, match="64x64.* 100 scans"):
                reading.decode_whole_image(data)
    with pytest.raises(ValueError, match="64x64.* 30 scans"):
        reading.decode_whole_image(many_scans(30, between=between), max_pixels=64 * 64)


def test_markers_inside_other_data_are_not_scans():
    """In a comment, such as a thumbnail, and in a second image."""
    data = many_scans(10)
    comment = b"\xff\xfe" + struct.pack(">H", 1002) + b"\xff\xda" * 500
    data = data[:2] + comment + data[2:] + many_scans(300)
    assert count_scans(data, MAX_SCANS) == 10
    assert reading.decode_whole_image(data).shape == (64, 64, 3)


def tiled(width, height, tile_width, tile_height, big=False):
    """A TIFF whose tiles all share one offset."""
    packed = zlib.compress(bytes(tile_width * tile_height if tile_width * tile_height < 1 << 20 else 16))
    tiles = -(-width // max(tile_width, 1)) * -(-height // max(tile_height, 1))
    tags = {256: (4, [width]), 257: (4, [height]), 258: (3, [8]), 259: (3, [8]), 262: (3, [1]), 277: (3, [1]),
            322: (4, [tile_width]), 323: (4, [tile_height]), 324: (4, [0] * tiles), 325: (4, [len(packed)] * tiles)}
    return tiff(tags, pixels=packed)


@pytest.mark.parametrize("size, tile, taken", [
    ((64, 64), (512, 512), True), ((100, 300), (16, 16), True), ((64, 64), (40000, 40000), False),
    ((64, 64), (16, 4_000_000), False), ((1, 65536), (4096, 4096), False), ((64, 64), (0, 16), False),
])
def test_tiles_are_not_larger_than_their_image(size, tile, taken):
    data = tiled(*size, *tile)
    if taken:
        assert reading.decode_whole_image(data).shape == (*size[::-1], 3)
    else:
        for read in (reading.decode_image, reading.decode_whole_image, reading.header_size):
            with pytest.raises(ValueError, match="tiles"):
                read(data)


@pytest.mark.parametrize("order", "<>")
def test_tiles_of_a_big_tiff(order):
    entries = [(256, 4, 64), (257, 4, 64), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1), (322, 16, 40000),
               (323, 16, 40000), (324, 16, 300), (325, 16, 16)]
    codes = {3: "H6x", 4: "I4x", 16: "Q"}
    body = b"".join(struct.pack(f"{order}HHQ{codes[kind]}", tag, kind, 1, value) for tag, kind, value in entries)
    start = {"<": b"II+\0", ">": b"MM\0+"}[order] + struct.pack(order + "HHQQ", 8, 0, 16, len(entries))
    with pytest.raises(ValueError, match="64x64.* 1 tiles.* 40000x40000"):
        reading.decode_whole_image(start + body + bytes(400))


@pytest.mark.parametrize("tag", [256, 257, 322, 323])
def test_a_duplicate_tag_is_refused(tag):
    data = tiled(64, 64, 64, 64)
    place = data.index(struct.pack("<HHI", 259, 3, 1))
    with pytest.raises(ValueError, match=f"tag {tag} .*twice"):
        reading.header_size(data[:place] + struct.pack("<HHII", tag, 4, 1, 9) + data[place + 12 :])


def seconds(data):
    """The processor time to read a file, which may be refused."""
    start = time.process_time()
    try:
        reading.decode_whole_image(data)
    except ValueError:
        pass
    return time.process_time() - start


def test_metadata_is_not_expensive():
    """Compressed text that expands, and thousands of tiny chunks, which Pillow and libpng read again and again."""
    text = zlib.compress(bytes(20_000_000), 9)
    jpeg, small = saved("JPEG"), zlib.compress(bytes(100))
    files = [
        png(*[(b"zTXt", b"k\0\0" + text)] * 50), png((b"iCCP", b"k\0\0" + text)),
        png((b"zTXt", b"Raw profile type exif\0\0" + text)), png((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + text)),
        png(*[(b"tEXt", b"k\0v")] * 50_000), png(*[(b"IDAT", b"")] * 50_000),
        png((b"acTL", struct.pack(">II", 9999, 0)), *[(b"fdAT", small)] * 5000),
        jpeg[:2] + b"\xff\xfe\0\2" * 50_000 + jpeg[2:], jpeg[:2] + b"\xff\xe1\0\x08Exif\0\0" * 9000 + jpeg[2:],
        jpeg[:2] + b"\xff\xed\0\x10Photoshop 3.0\0" * 9000 + jpeg[2:], jpeg[:2] + b"\xff" * 200_000 + jpeg[2:],
    ]
    assert max(map(seconds, files)) < 3


@pytest.mark.parametrize("name", FILES)
def test_stripped_files_decode_to_the_same_pixels(name):
    """Stripping is also idempotent."""
    data = FILES[name](1)
    header = read_header(io.BytesIO(data))
    bare = strip_metadata(data, header)
    assert strip_metadata(bare, read_header(io.BytesIO(bare))) == bare
    np.testing.assert_array_equal(reading.decode_whole_image(bare), reading.decode_whole_image(data))


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff", "tiff, big"])
def test_a_damaged_header_is_a_value_error(name):
    """Whatever is truncated or changed."""
    data, rng = FILES[name](6), np.random.default_rng(0)
    for place in range(min(len(data), 400)):
        for changed in (b"", bytes([rng.integers(256)]) + data[place + 1 :], b"\xff" * 8 + data[place + 8 :]):
            try:
                read_header(io.BytesIO(data[:place] + changed))
            except ValueError:
                pass


@pytest.mark.parametrize("junk", [bytes(3), b"ab\xff", b"\xff\x00" * 2000, b"\xff" * 30_000, bytes(range(254)) * 100])
def test_junk_between_segments_is_skipped(junk):
    """As OpenCV, Pillow and libjpeg do; a JPEG that ends in it is damaged."""
    data = saved("JPEG", exif=exif(6))
    place = 4 + int.from_bytes(data[4:6], "big")
    changed = data[:place] + junk + data[place:]
    assert read_header(io.BytesIO(changed)) == read_header(io.BytesIO(data))
    np.testing.assert_array_equal(reading.decode_whole_image(changed), reading.decode_whole_image(data))
    with pytest.raises(ValueError) as raised:
        read_header(io.BytesIO(data[:place] + junk))
    assert raised.type is ValueError  # damaged, not unknown


def test_a_tiff_with_unsupported_bands():
    """Its tags are not damaged; Pillow does not support its type."""
    data = io.BytesIO()
    values = struct.pack("<20H", *(16,) * 20)
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 20, 8), (262, 3, 1, 1), (277, 3, 1, 20)]
    data.write(struct.pack("<2sHI", b"II", 42, 8 + len(values)) + values + struct.pack("<H", len(entries)))
    data.write(b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4))
    header = read_header(data)
    assert (header.size, header.bits) == ((8, 8), 16)
    with pytest.raises(ValueError, match="Pillow"):
        reading.decode_whole_image(data.getvalue())


def test_a_png_needs_its_end_chunk():
    """Even if all pixels are present; OpenCV requires it, too. Data after it is ignored."""
    data = saved("PNG")
    np.testing.assert_array_equal(reading.decode_whole_image(data + b"more"), picture()[:, :, ::-1])
    for length in (*range(len(data) - 12, len(data)), 33):
        for read in (reading.decode_whole_image, reading.header_size):
            with pytest.raises(ValueError):
                read(data[:length])
