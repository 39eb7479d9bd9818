"""What an image file says of itself before it is decoded: format, size, orientation, levels.

Everything else that asks one of these asks here. Nothing here decodes pixels, or trusts a number of the file beyond the file's length.
"""
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from . import tiff
from .tiff import MAX_TEXT, file_length, orientation_of, read_part

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # that are read, whatever a file's name ends in
IMAGE_ENDINGS = (  # of images' names: those of the formats that are read, and of others, which are found to be named as not read
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".gif", ".avif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".tga",
    ".ppm", ".pgm", ".pbm", ".pnm",
)
OTHERS = (  # first bytes of images that are not read
    (rb"GIF8", "GIF"), (rb"....ftyp(avif|avis)", "AVIF"), (rb"....ftyp(hei|hev|mif|msf)", "HEIF"), (rb"....ftypcrx", "CR3"),
    (rb"\0\0\0\x0cjP  |\xffO\xffQ", "JPEG 2000"), (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"), (rb"P[1-7]\s", "PNM"),
)
MAX_SEGMENTS = 10_000  # of a file's parts, beyond one for each kilobyte
MARKER = re.compile(rb"\xff[^\x00\xff]")


class UnknownFormat(ValueError):
    """Bytes that are no image of the FORMATS."""


@dataclass(frozen=True)
class Header:
    """What a file says: its format, of FORMATS; size (width, height) of the pixels as they are stored; orientation, 1 to 8 as in EXIF;
    bits a channel. Of a TIFF whose gray values are not those of 8 bits, levels: the values that mean black and white."""

    format: str
    size: tuple[int, int]
    orientation: int = 1
    bits: int = 8
    levels: tuple[float, float] | None = None

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) of the image as it is shown, that is turned."""
        return self.size[::-1] if self.orientation > 4 else self.size


def read_header(file: BinaryIO) -> Header:
    """The Header of a file. Raises UnknownFormat, or another ValueError if it is damaged, or nobody knows what its pixels mean."""
    file.seek(0)
    start = file.read(64)
    kind = _format(start)
    try:
        header = {"JPEG": _read_jpeg, "PNG": _read_png, "WEBP": _read_webp, "BMP": _read_bmp, "TIFF": _read_tiff}[kind](file)
    except (struct.error, IndexError) as error:
        raise ValueError("its header is damaged, or not whole") from error
    if not all(0 < side for side in header.size):
        raise ValueError(f"its header says {header.size[0]}x{header.size[1]} pixels")
    return header


def _format(start):
    """The format, of FORMATS, of a file that starts with these bytes. Raises UnknownFormat."""
    if start.startswith(b"\xff\xd8"):
        return "JPEG"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start.startswith(b"BM"):
        return "BMP"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    for pattern, name in OTHERS:
        if re.match(pattern, start, re.DOTALL):
            raise UnknownFormat(f"a file of the format {name}, which is not read; convert it to JPEG or PNG")
    raise UnknownFormat("not an image of a known format")


def counted(parts: Iterator, file: BinaryIO) -> Iterator:
    """The parts of a file. Raises ValueError if they are many and tiny, which costs time alone."""
    most = MAX_SEGMENTS + file_length(file) // 1024
    for number, part in enumerate(parts):
        if number > most:
            raise ValueError(f"it has more than {most} parts")
        yield part


# ---------------------------------------------------------------- JPEG


def jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, int, int, int]]:
    """Yield (marker, start, start of the content, end) of a JPEG's segments up to that of its first scan. Raises ValueError."""
    length, end = file_length(file), 2
    while True:
        place = _next_marker(file, end)
        file.seek(place)
        head = file.read(2)
        if head[1:] in (b"", b"\xd8", b"\xd9"):
            raise ValueError("its header is damaged, or not whole")
        if 0xD0 <= head[1] <= 0xD7 or head[1] == 1:  # without content
            end = place + 2
            continue
        end = place + 2 + max(2, int.from_bytes(file.read(2), "big"))
        if end > length:
            raise ValueError("a part of it is longer than the file")
        yield head[1], place, place + 4, end
        if head[1] == 0xDA:
            return


def _next_marker(file, place):
    """Where the first marker from a place on is, as decoders skip whatever is between two segments; the file's end without one."""
    file.seek(place)
    rest = b""
    while part := file.read(1024):
        rest += part
        if found := MARKER.search(rest):
            return place + found.start()
        place, rest = place + len(rest) - 1, rest[-1:]
    return place + len(rest)


def _read_jpeg(file):
    frame, exif, xmp = None, None, None
    for marker, _, start, end in counted(jpeg_segments(file), file):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame:
                raise ValueError("it has two headers")
            frame = struct.unpack(">BHH", read_part(file, start, start + 5))
        elif marker == 0xE1 and end - start > 6:
            content = read_part(file, start, end)
            if content.startswith(b"Exif\0\0"):
                exif = exif or content
            elif content.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                xmp = content
    if not frame:
        raise ValueError("its header is damaged, or not whole")
    bits, height, width = frame
    return Header("JPEG", (width, height), orientation_of(exif, xmp), bits)


# ---------------------------------------------------------------- PNG, WebP, BMP


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of the content of a PNG's chunks. Raises ValueError if one is longer than the file, or no IEND ends it."""
    length, place, kind = file_length(file), 8, b""
    while kind != b"IEND" and place + 8 <= length:
        file.seek(place)
        size, kind = struct.unpack(">I4s", file.read(8))
        if place + 12 + size > length:
            raise ValueError("a part of it is longer than the file")
        yield kind, place + 8, place + 8 + size
        place += 12 + size
    if kind != b"IEND":
        raise ValueError("its end is missing")


def _read_png(file):
    frame, exif, profile, xmp = None, None, None, None
    for kind, start, end in counted(png_chunks(file), file):
        if frame is None:
            if kind != b"IHDR":
                raise ValueError("its header is damaged, or not whole")
            frame = struct.unpack(">IIBB", read_part(file, start, start + 10))
        elif kind == b"eXIf":
            exif = read_part(file, start, end)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, text = _png_text(kind, read_part(file, start, end))
            if keyword == b"XML:com.adobe.xmp":
                xmp = text
            elif keyword == b"Raw profile type exif":  # ImageMagick's: a name, a length, hexadecimal digits
                digits = b"".join(text.split(b"\n")[3:])
                profile = bytes.fromhex(digits.decode("ascii")) if re.fullmatch(rb"([0-9a-fA-F]{2})*", digits) else None
    width, height, bits, color = frame or (0, 0, 0, 0)
    return Header("PNG", (width, height), orientation_of(exif or profile, xmp), 8 if color == 3 else bits)


def _png_text(kind, content):
    """(keyword, text) of a text chunk's content, b"" for a text that cannot be read; of a long one the beginning."""
    keyword, _, text = content.partition(b"\0")
    if keyword not in (b"XML:com.adobe.xmp", b"Raw profile type exif"):
        return keyword, b""
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed, text = text[:1] == b"\1", b"\0".join(text[2:].split(b"\0", 2)[2:])
    elif packed:
        text = text[1:]
    try:
        return keyword, zlib.decompressobj().decompress(text, MAX_TEXT) if packed else text
    except zlib.error:
        return keyword, b""


def webp_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of the content of a WebP's chunks."""
    length, place = file_length(file), 12
    while place + 8 <= length:
        file.seek(place)
        kind, size = struct.unpack("<4sI", file.read(8))
        yield kind, place + 8, min(place + 8 + size, length)
        place += 8 + size + size % 2


def _read_webp(file):
    size, exif, xmp = None, None, None
    for kind, start, end in counted(webp_chunks(file), file):
        if size is None:
            size = _webp_size(kind, read_part(file, start, start + 10))
        elif kind == b"EXIF":
            exif = exif or read_part(file, start, end)
        elif kind == b"XMP ":
            xmp = xmp or read_part(file, start, end)
    return Header("WEBP", size or (0, 0), orientation_of(exif, xmp))


def _webp_size(kind, content):
    """(width, height) of the first chunk of a WebP: of the canvas, or of the only frame."""
    if kind == b"VP8X":
        return tuple(1 + int.from_bytes(content[place : place + 3], "little") for place in (4, 7))
    if kind == b"VP8 ":
        return tuple(side & 0x3FFF for side in struct.unpack("<HH", content[6:10]))
    if kind == b"VP8L":
        packed = int.from_bytes(content[1:5], "little")
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    raise ValueError("its header is damaged, or not whole")


def _read_tiff(file):
    return Header("TIFF", *tiff.read_tiff(file))


def _read_bmp(file):
    start = read_part(file, 0, 30)
    if struct.unpack("<I", start[14:18]) == (12,):  # OS/2
        width, height, _, bits = struct.unpack("<HHHH", start[18:26])
    else:
        width, height, _, bits = struct.unpack("<iiHH", start[18:30])
    return Header("BMP", (width, abs(height)), 1, min(bits, 8))
