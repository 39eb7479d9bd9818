"""Encoded image data before decoding: limits on the effort, removal of metadata."""
import io
import re
import struct
from typing import BinaryIO

from . import tiff
from .headers import Header, counted, jpeg_segments, png_chunks, webp_chunks

MAX_SCANS = 100  # of a JPEG, libtiff's limit: progressive files have about 10, and each costs as much as a full image
MAX_PASSES = 20  # over the largest number of pixels allowed
# Markers of segments that no decoder needs; JFIF's and Adobe's define the color space.
METADATA_MARKERS = {0xFE, *range(0xE0, 0xF0)} - {0xE0, 0xEE}
NEXT_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # after the pixels of a scan


def check_effort(data: bytes, header: Header, max_pixels: int) -> None:
    """Raise ValueError if decoding takes far longer than for an image of max_pixels: a JPEG with many scans."""
    def is_slow_to_decode(scans: int) -> bool:
        return scans > MAX_SCANS or scans * header.size[0] * header.size[1] > MAX_PASSES * max_pixels

    # The fast count may include these two bytes inside other data, but it misses no scan.
    if (header.format == "JPEG" and is_slow_to_decode(data.count(b"\xff\xda"))
            and is_slow_to_decode(scans := count_scans(data, MAX_SCANS))):
        many = f"more than {MAX_SCANS}" if scans > MAX_SCANS else scans
        raise ValueError(f"it has {header.size[0]}x{header.size[1]} pixels in {many} scans, which take too long; "
                         "save it as a JPEG that is not progressive")


def count_scans(data: bytes, most: int) -> int:
    """Return the number of scans of a JPEG file, or most + 1 if there are more."""
    *_, (_, _, _, place) = jpeg_segments(io.BytesIO(data))
    markers = counted(iter(lambda: NEXT_MARKER.search(data, place), None), io.BytesIO(data))
    scans = 1
    while scans <= most and (found := next(markers, None)) and found[1] != b"\xd9":
        scans += found[1] == b"\xda"
        place = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
    return scans


def strip_metadata(data: bytes, header: Header) -> bytes:
    """Return a file's data without the metadata that does not affect its pixels, most importantly the orientation.

    So no decoder rotates the image, all decoders agree on its pixels, and none spends time on metadata.
    """
    file = io.BytesIO(data)
    if header.format == "JPEG":
        segments = list(jpeg_segments(file))
        kept = [data[start:end] for marker, start, _, end in segments if marker not in METADATA_MARKERS]
        return b"".join([data[:2], *kept, data[segments[-1][-1] :]])
    if header.format == "PNG":
        chunks = list(png_chunks(file))
        kept = [data[start - 8 : end + 4] for number, (kind, start, end) in enumerate(chunks)
                if kind in (b"PLTE", b"tRNS", b"IDAT", b"IEND") or number == 0]
        return b"".join([data[:8], *kept])
    if header.format == "WEBP":
        return _webp_pixels(data, file)
    if header.format == "TIFF":
        return tiff.without_orientation(data)
    return data


def _webp_pixels(data: bytes, file: BinaryIO) -> bytes:
    kept = []
    for kind, start, end in webp_chunks(file):
        if kind == b"VP8X":
            flags = data[start] & ~0x2C  # no ICC profile, EXIF or XMP
            kept.append(data[start - 8 : start] + bytes([flags]) + data[start + 1 : end])
        elif kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            kept.append(data[start - 8 : end + (end - start) % 2])
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body
