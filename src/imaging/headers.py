"""Headers of image files: format, size, orientation and gray levels, without decoding.

The only place that parses headers. Numbers in a file are trusted only within the file's length.
"""
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from . import tiff
from .tiff import DAMAGED, MAX_TEXT, file_length, orientation_of, read_section

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # supported, whatever the extension of the file name
IMAGE_ENDINGS = (  # extensions, also of unsupported formats, so that those images are found and reported
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".gif", ".avif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx", ".dng", ".cr2", ".cr3", ".nef", ".arw",
    ".tga", ".ppm", ".pgm", ".pbm", ".pnm",
)
_UNSUPPORTED = (  # (pattern of the first bytes, format)
    (rb"GIF8", "GIF"), (rb"....ftyp(avif|avis)", "AVIF"), (rb"....ftyp(hei|hev|mif|msf)", "HEIF"),
    (rb"....ftypcrx", "CR3"), (rb"\0\0\0\x0cjP  |\xffO\xffQ", "JPEG 2000"), (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"P[1-7]\s", "PNM"),
)
MAX_SEGMENTS = 10_000  # most segments or chunks of a file, plus one per kilobyte
MARKER = re.compile(rb"\xff[^\x00\xff]")


class UnknownFormat(ValueError):
    """Data in none of the FORMATS."""


@dataclass(frozen=True)
class Header:
    """A file's header.

    format, one of FORMATS; size (width, height) of the stored pixels; orientation, 1 to 8 as in EXIF; bits per channel;
    levels, the values of black and white, for TIFF files whose gray values are not 8-bit.
    """

    format: str
    size: tuple[int, int]
    orientation: int = 1
    bits: int = 8
    levels: tuple[float, float] | None = None

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) of the image after its orientation is applied."""
        return self.size[::-1] if self.orientation > 4 else self.size


def read_header(file: BinaryIO) -> Header:
    """Return the Header of a file. Raises UnknownFormat, or another ValueError if it is damaged or ambiguous."""
    file.seek(0)
    start = file.read(64)
    kind = _format(start)
    try:
        readers = {"JPEG": _read_jpeg, "PNG": _read_png, "WEBP": _read_webp, "BMP": _read_bmp, "TIFF": _read_tiff}
        header = readers[kind](file)
    except (struct.error, IndexError) as error:
        raise ValueError(DAMAGED) from error
    if not all(0 < side for side in header.size):
        raise ValueError(f"its header states {header.size[0]}x{header.size[1]} pixels")
    return header


def _format(start: bytes) -> str:
    """Return the format, one of FORMATS, from the first bytes of a file. Raises UnknownFormat."""
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
    for pattern, name in _UNSUPPORTED:
        if re.match(pattern, start, re.DOTALL):
            raise UnknownFormat(f"the format {name} is not supported; convert the file to JPEG or PNG")
    raise UnknownFormat("not an image of a known format")


def counted(parts: Iterator[Any], file: BinaryIO) -> Iterator[Any]:
    """Yield the segments or chunks of a file. Raises ValueError if there are too many, which would only cost time."""
    most = MAX_SEGMENTS + file_length(file) // 1024
    for number, part in enumerate(parts):
        if number > most:
            raise ValueError(f"it has more than {most} segments")
        yield part


# ---------------------------------------------------------------- JPEG


def jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, int, int, int]]:
    """Yield (marker, start, start of content, end) of the segments up to that of the first scan. Raises ValueError."""
    length, end = file_length(file), 2
    while True:
        place = _next_marker(file, end)
        file.seek(place)
        head = file.read(2)
        if head[1:] in (b"", b"\xd8", b"\xd9"):
            raise ValueError(DAMAGED)
        if 0xD0 <= head[1] <= 0xD7 or head[1] == 1:  # without content
            end = place + 2
            continue
        end = place + 2 + max(2, int.from_bytes(file.read(2), "big"))
        if end > length:
            raise ValueError("a segment extends beyond the end of the file")
        yield head[1], place, place + 4, end
        if head[1] == 0xDA:
            return


def _next_marker(file: BinaryIO, place: int) -> int:
    """Return the position of the first marker from `place` on, or the end of the file.

    Decoders, too, skip data between segments.
    """
    file.seek(place)
    rest = b""
    while part := file.read(1024):
        rest += part
        if found := MARKER.search(rest):
            return place + found.start()
        place, rest = place + len(rest) - 1, rest[-1:]
    return place + len(rest)


def _read_jpeg(file: BinaryIO) -> Header:
    frame, exif, xmp = None, None, None
    for marker, _, start, end in counted(jpeg_segments(file), file):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame:
                raise ValueError("it has two headers")
            frame = struct.unpack(">BHH", read_section(file, start, start + 5))
        elif marker == 0xE1 and end - start > 6:
            content = read_section(file, start, end)
            if content.startswith(b"Exif\0\0"):
                exif = exif or content
            elif content.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                xmp = content
    if not frame:
        raise ValueError(DAMAGED)
    bits, height, width = frame
    return Header("JPEG", (width, height), orientation_of(exif, xmp), bits)


# ---------------------------------------------------------------- PNG, WebP, BMP


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of the content of a PNG's chunks.

    Raises ValueError if a chunk exceeds the file or IEND is missing.
    """
    length, place, kind = file_length(file), 8, b""
    while kind != b"IEND" and place + 8 <= length:
        file.seek(place)
        size, kind = struct.unpack(">I4s", file.read(8))
        if place + 12 + size > length:
            raise ValueError("a chunk extends beyond the end of the file")
        yield kind, place + 8, place + 8 + size
        place += 12 + size
    if kind != b"IEND":
        raise ValueError("its end chunk is missing")


def _read_png(file: BinaryIO) -> Header:
    frame, exif, profile, xmp = None, None, None, None
    for kind, start, end in counted(png_chunks(file), file):
        if frame is None:
            if kind != b"IHDR":
                raise ValueError(DAMAGED)
            frame = struct.unpack(">IIBB", read_section(file, start, start + 10))
        elif kind == b"eXIf":
            exif = read_section(file, start, end)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, text = _png_text(kind, read_section(file, start, end))
            if keyword == b"XML:com.adobe.xmp":
                xmp = text
            elif keyword == b"Raw profile type exif":  # ImageMagick: a name, a length, hexadecimal digits
                digits = b"".join(text.split(b"\n")[3:])
                is_hex = re.fullmatch(rb"([0-9a-fA-F]{2})*", digits)
                profile = bytes.fromhex(digits.decode("ascii")) if is_hex else None
    width, height, bits, color = frame or (0, 0, 0, 0)
    return Header("PNG", (width, height), orientation_of(exif or profile, xmp), 8 if color == 3 else bits)


def _png_text(kind: bytes, content: bytes) -> tuple[bytes, bytes]:
    """(keyword, text) of a text chunk's content; the text is b"" if it cannot be read, and truncated if it is long."""
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


def _read_webp(file: BinaryIO) -> Header:
    size, exif, xmp = None, None, None
    for kind, start, end in counted(webp_chunks(file), file):
        if size is None:
            size = _webp_size(kind, read_section(file, start, start + 10))
        elif kind == b"EXIF":
            exif = exif or read_section(file, start, end)
        elif kind == b"XMP ":
            xmp = xmp or read_section(file, start, end)
    return Header("WEBP", size or (0, 0), orientation_of(exif, xmp))


def _webp_size(kind: bytes, content: bytes) -> tuple[int, int]:
    """(width, height) from the first chunk of a WebP: of the canvas, or of the only frame."""
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", content[6:10])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        packed = int.from_bytes(content[1:5], "little")
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    raise ValueError(DAMAGED)


def _read_tiff(file: BinaryIO) -> Header:
    return Header("TIFF", *tiff.read_tiff(file))


def _read_bmp(file: BinaryIO) -> Header:
    start = read_section(file, 0, 30)
    if struct.unpack("<I", start[14:18]) == (12,):  # OS/2
        width, height, _, bits = struct.unpack("<HHHH", start[18:26])
    else:
        width, height, _, bits = struct.unpack("<iiHH", start[18:30])
    return Header("BMP", (width, abs(height)), 1, min(bits, 8))
