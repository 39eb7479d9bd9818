"""TIFF tags, which EXIF uses, too: size, orientation, gray levels and tiles.

Numbers in a file are trusted only within the file's length.
"""
import io
import math
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

MAX_TEXT = 1 << 20  # bytes read of a section
MAX_TILE = 4096**2  # most pixels of all tiles, plus four times the image's
MAX_STRIPS = 1 << 16  # most strips or tiles, plus one per 1024 pixels

KIND, WIDTH, HEIGHT, BITS, WHITE_OR_BLACK, ORIENTATION, SAMPLES = 254, 256, 257, 258, 262, 274, 277
TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT, LEAST, MOST, XMP = 322, 323, 339, 340, 341, 700
STRIPS = (273, 324)  # offsets of the strips or tiles
ONCE = (WIDTH, HEIGHT, BITS, SAMPLES, TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT)  # decoders disagree on duplicates
NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q"}  # numeric types
BYTES = {2: 1, 5: 8, 7: 1, 10: 8, 18: 8, **{kind: struct.calcsize(f"={code}") for kind, code in NUMBERS.items()}}
MAX_VALUES = 16  # values read of an entry
DAMAGED = "its header is damaged or truncated"

Entry = tuple[int, int, int, int, int]  # of tiff_entries

TIFF_NAMESPACE = rb"""xmlns:([\w.-]+)\s*=\s*["']http://ns\.adobe\.com/tiff/1\.0/["']"""


def file_length(file: BinaryIO) -> int:
    """The length of a file in bytes."""
    return file.seek(0, io.SEEK_END)


def read_section(file: BinaryIO, start: int, end: int) -> bytes:
    """Return the bytes of a section of a file, at most the first MAX_TEXT."""
    file.seek(min(start, file_length(file)))
    return file.read(min(end - start, MAX_TEXT))


def tiff_entries(file: BinaryIO) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (tag, type, number of values, offset, offset of the values) of the entries of a TIFF's first directory."""
    order, big = _tiff_kind(file)
    offset, number, entry = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    file.seek(8 if big else 4)
    place, = struct.unpack(order + offset, file.read(struct.calcsize("=" + offset)))
    if place >= file_length(file):
        raise ValueError(DAMAGED)
    file.seek(place)
    count, = struct.unpack(order + number, file.read(struct.calcsize("=" + number)))
    if count >= 1 << 16:
        raise ValueError(DAMAGED)
    place, size = file.tell(), struct.calcsize("=" + entry)
    for _ in range(count):
        file.seek(place)
        tag, kind, values, value = struct.unpack(order + entry, file.read(size))
        inside = BYTES.get(kind, 1) * values <= len(value)
        yield tag, kind, values, place, place + size - len(value) if inside else struct.unpack(order + offset, value)[0]
        place += size


def _tiff_kind(file: BinaryIO) -> tuple[str, bool]:
    """(byte order as in struct, whether it is a BigTIFF)."""
    file.seek(0)
    start = file.read(4)
    return {b"II": "<", b"MM": ">"}[start[:2]], b"+" in start


def _tiff_values(file: BinaryIO, entry: Entry) -> tuple[float, ...]:
    """The first MAX_VALUES values of an entry of tiff_entries, or () if they are not numbers."""
    _, kind, count, _, place = entry
    if kind not in NUMBERS or not count or place >= file_length(file):
        return ()
    code = f"{_tiff_kind(file)[0]}{min(count, MAX_VALUES)}{NUMBERS[kind]}"
    file.seek(place)
    return struct.unpack(code, file.read(struct.calcsize(code)))


def read_tiff(file: BinaryIO) -> tuple[tuple[int, int], int, int, tuple[float, float] | None]:
    """Return the size, orientation, bits and levels of a headers.Header. Raises ValueError or struct.error."""
    entries: dict[int, Entry] = {}
    for entry in tiff_entries(file):
        if entry[0] in entries and entry[0] in ONCE:
            raise ValueError(f"its tag {entry[0]} appears twice")
        entries[entry[0]] = entry

    def number(tag: int, default: int) -> Any:
        values = _tiff_values(file, entries[tag]) if tag in entries else (default,)
        if not values or not math.isfinite(values[0]):
            raise ValueError(f"its tag {tag} is damaged")
        return values[0]

    if int(number(KIND, 0)) & 1:
        raise ValueError("its first image is a thumbnail, as in camera raw files; convert it to JPEG or PNG")
    size = width, height = int(number(WIDTH, 0)), int(number(HEIGHT, 0))
    if max((entries[tag][2] for tag in STRIPS if tag in entries), default=0) > MAX_STRIPS + width * height // 1024:
        raise ValueError("it has too many strips or tiles")
    if TILE_WIDTH in entries or TILE_HEIGHT in entries:
        _check_tiles(width, height, int(number(TILE_WIDTH, 0)), int(number(TILE_HEIGHT, 0)))
    bits, sample_format = number(BITS, 1), number(SAMPLE_FORMAT, 1)
    levels = None
    if sample_format not in (1, 4) or bits > 16 or (bits > 8 and number(SAMPLES, 1) == 1):
        stated = (number(LEAST, 0), number(MOST, 0)) if LEAST in entries and MOST in entries else None
        levels = _levels(bits, sample_format, stated)
        if number(WHITE_OR_BLACK, 1) == 0:
            levels = levels[::-1]
    xmp = read_section(file, entries[XMP][4], entries[XMP][4] + entries[XMP][2]) if XMP in entries else None
    return size, _tiff_orientation(file, entries) or _xmp_orientation(xmp), bits, levels


def _levels(bits: int, sample_format: int, stated: tuple[float, float] | None) -> tuple[float, float]:
    """(black, white) of gray values: as stated, else the range of unsigned values with these bits. Raises
    ValueError."""
    if stated and stated[0] < stated[1]:
        return stated
    if sample_format in (1, 4) and bits <= 16:
        return 0, 2**bits - 1
    kind = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(sample_format, "unknown")
    raise ValueError(f"its values are {kind} with {bits} bits, and black and white are not stated (tags "
                     "SMinSampleValue and SMaxSampleValue); convert it to 8 or 16 unsigned bits")


def _check_tiles(width: int, height: int, tile_width: int, tile_height: int) -> None:
    """Raise ValueError if the tiles, which are decoded completely, have far more pixels than the image."""
    if tile_width < 1 or tile_height < 1:
        raise ValueError(f"its tiles are {tile_width}x{tile_height}")
    across, down = -(-width // tile_width), -(-height // tile_height)
    if across * tile_width * down * tile_height > 4 * width * height + MAX_TILE:
        raise ValueError(f"it has {width}x{height} pixels, but {across * down} tiles of {tile_width}x{tile_height}, "
                         "which are far larger")


def orientation_of(exif: bytes | None, xmp: bytes | None) -> int:
    """Return the orientation, 1 to 8, of EXIF or else XMP data, in the order of Pillow; 1 if neither states one."""
    return _exif_orientation(exif) or _xmp_orientation(xmp)


def _exif_orientation(exif: bytes | None) -> int | None:
    """The orientation of EXIF data: 1 if the entry is not in 1 to 8, None if there is no entry."""
    while exif and exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    if not exif or exif[:4] not in (b"II*\0", b"MM\0*"):
        return None
    file, entries = io.BytesIO(exif), {}
    try:
        for entry in tiff_entries(file):
            entries[entry[0]] = entry
    except (struct.error, ValueError):  # the entries before the damage are valid
        pass
    return _tiff_orientation(file, entries)


def _tiff_orientation(file: BinaryIO, entries: dict[int, Entry]) -> int | None:
    """The orientation of a TIFF's entries {tag: entry of tiff_entries}, as _exif_orientation."""
    if ORIENTATION not in entries:
        return None
    try:
        values = _tiff_values(file, entries[ORIENTATION])
    except struct.error:
        values = ()
    return int(values[0]) if len(values) == 1 and values[0] in range(1, 9) else 1


def _xmp_orientation(xmp: bytes | None) -> int:
    """The orientation of an XMP packet, as attribute or element, in any Unicode encoding; 1 if it states none."""
    text = (xmp or b"").replace(b"\0", b"")  # between the characters in UTF-16 and UTF-32
    if b":Orientation" not in text:
        return 1
    prefixes = {b"tiff", *re.findall(TIFF_NAMESPACE, text)}
    pattern = rb"""\b(?:%s):Orientation\s*(?:=\s*["']|>)\s*([1-8])\s*["'<]""" % b"|".join(map(re.escape, prefixes))
    found = re.search(pattern, text)
    return int(found[1]) if found else 1


def without_orientation(data: bytes) -> bytes:
    """Return a TIFF's data with orientation 1 in place of its orientation and XMP tags."""
    file = io.BytesIO(data)
    order, big = _tiff_kind(file)
    upright = struct.pack(order + ("HHQHHI" if big else "HHIHH"), ORIENTATION, 3, 1, 1, *(0,) * (1 + big))
    changed = bytearray(data)
    for tag, _, _, place, _ in tiff_entries(file):
        if tag in (ORIENTATION, XMP):
            changed[place : place + len(upright)] = upright
    return bytes(changed)
