"""Limits of image files of strangers, judged on their headers before a decoder takes memory or time.

A few bytes may declare gigabytes: dimensions, tiles, compressed texts beside the pixels, thousands of scans.  Judging a
header takes some ten microseconds.  What a decoder takes beside the image was measured for each format (BESIDE), and an
image of which `memory` says that it takes more than MEMORY is refused.  Decoding in a process of its own, with a limit
of memory, needs RLIMIT_AS, which Windows lacks, and copies the pixels of each image once more.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import IO

import psutil
from PIL import ExifTags, Image

from ddpm import formatting
from ddpm.errors import UserError

MOST_PIXELS = 2**26  # of an image
VARIABLE = "DDPM_MAX_PIXELS"  # environment variable that sets another limit
SMALL, MOST_EACH = 2**20, 32  # pixels up to which a format takes what the worst takes for each, in bytes
LARGE = 2**24  # pixels above which an image is compared with the free memory
MEMORY = 300 * 10**6  # bytes that decoding and scaling an image may take, unless VARIABLE is set
ONE_BYTE, TWO_BYTES = ("1", "L", "P"), ("I;16", "I;16B", "I;16L", "I;16N")  # for a pixel in memory; the others have 4
BESIDE = {"WEBP": 15, "AVIF": 12, "ICO": 16}  # bytes for a pixel that a decoder takes beside the image
BESIDE_PER_BAND = {"JPEG2000": 5}
SCALED, SCALED_ODD, SCALED_TALL = 1.75, 3, 7  # bytes for a pixel that images.prepare takes, by how it may proceed
MOST_IN_PYTHON = 3 * 2**19  # pixels of an image that Pillow decodes in Python, in a microsecond each: QOI, some PPM
SPARSE = 200  # pixels of a large image for a byte of its file, beyond which it is refused: one of a single colour
BYTES_PER_FILE_PIXEL = 8  # of an uncompressed image of four channels of 16 bits: longer files hold something else
MOST_NOTES, MOST_NOTE_BYTES = 64, 2**22  # metadata chunks of a PNG that are read; each may unpack to a megabyte
MOST_CHUNKS = 2**17  # of a PNG; 64 million pixels need 25,000 of the usual size
MOST_SEGMENTS = 2000  # of a JPEG before its first scan
MOST_SCANS, MOST_SCANNED = 200, 2**31  # of a progressive JPEG: scans, and pixels of all of them; ten scans are usual
TURNED = re.compile(r'tiff:Orientation(="|>)[2-8]')  # in XMP
PNG_MARK = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # chunks that make up the pixels


def most_pixels() -> int:
    """Returns the limit of pixels of an image: MOST_PIXELS, or what DDPM_MAX_PIXELS says, up to Pillow's own limit."""
    text = os.environ.get(VARIABLE, "").strip()
    if text and not (text.isascii() and text.isdecimal() and len(text) < 16 and int(text)):
        raise UserError(
            f"The environment variable {VARIABLE} is {text[:80]!r}: set it to a number of pixels, such as"
            f" {2 * MOST_PIXELS}, or remove it.",
            code="bad-value",
        )
    own = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else None
    most = int(text) if text else MOST_PIXELS
    return min(most, own) if own else most


def is_too_large(image: Image.Image) -> bool:
    """Returns whether an image has more pixels than the limit."""
    return image.width * image.height > most_pixels()


def check_pixels(width: int, height: int, what: str) -> None:
    """Raises UserError for an image that has more pixels than the limit.  what: begins the sentence."""
    if width * height > most_pixels():
        raise too_large(f"{what} has {width:,} x {height:,} pixels")


def _check_memory(image: Image.Image, needed: int, path: Path | str) -> None:
    """Raises UserError for an image that takes more memory than it may, or than is free."""
    has = (
        f"{path} has {image.width:,} x {image.height:,} pixels, which take {formatting.memory(needed)} ({image.format})"
    )
    if needed > MEMORY and not _is_set():
        raise UserError(
            f"{has}, and an image may take {formatting.memory(MEMORY)}: make it smaller, save it in another format,"
            f" remove it, or set the environment variable {VARIABLE} to the pixels that an image may have.",
            code="image-too-large",
        )
    if image.width * image.height > LARGE and needed > (free := psutil.virtual_memory().available):
        raise UserError(
            f"{has}, and {formatting.memory(free)} are free: end other programs, make it smaller, or remove it.",
            code="out-of-memory",
        )


def memory(image: Image.Image, file: IO[bytes], coefficients: int = 0) -> int:
    """Returns about how many bytes decoding, turning and scaling an image take whose header was read.

    coefficients: see there.
    """
    pixels = image.width * image.height
    if pixels <= SMALL and image.format != "TIFF":
        return pixels * MOST_EACH
    own = 1 if image.mode in ONE_BYTE else 2 if image.mode in TWO_BYTES else 4
    each: float = own + (SCALED_TALL if is_tall(image) else SCALED_ODD if image.height % 2 else SCALED)
    each += BESIDE.get(image.format or "", 0) + BESIDE_PER_BAND.get(image.format or "", 0) * len(image.getbands())
    whole = coefficients
    if pixels > LARGE and _may_be_turned(image, file):
        each += own
    if image.format == "TIFF" and image.info.get("compression", "raw") != "raw":
        whole += file.seek(0, os.SEEK_END) + _strip_bytes(image)
    return int(pixels * each) + whole


def is_tall(image: Image.Image) -> bool:
    """Returns whether Pillow scales the rows of an image before its columns."""
    return image.height > 2 * image.width


def _may_be_turned(image: Image.Image, file: IO[bytes]) -> bool:
    """Returns whether an image has to be turned or mirrored to be upright, for which it is copied."""
    if image.format == "PNG":  # tells its orientation before the pixels, or behind them
        if _ends_in_notes(file):
            return True
        if not {"exif", "Raw profile type exif"} & set(image.info):  # Pillow would decode it to look behind the pixels
            return TURNED.search(str(image.info.get("XML:com.adobe.xmp", ""))) is not None
    with contextlib.suppress(Exception):  # an unreadable orientation is ignored when it is turned, too
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return False


def _ends_in_notes(file: IO[bytes]) -> bool:
    """Returns whether a PNG has chunks behind its pixels, or is not whole."""
    file.seek(8)
    seen = False
    for _ in range(MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or (seen and head[4:] not in (b"IDAT", b"IEND")):
            return True
        if head[4:] == b"IEND":
            return False
        seen = seen or head[4:] == b"IDAT"
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return True


def _strip_bytes(image: Image.Image) -> int:
    """Returns the bytes of a strip or tile of a TIFF, which is unpacked as a whole."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    width, rows = tags.get(322), tags.get(323)  # of a tile
    if not isinstance(width, int) or not isinstance(rows, int):
        width, rows = image.width, tags.get(278)  # of a strip
    if not isinstance(rows, int) or not 0 < rows <= image.height:
        rows = image.height
    samples, bits = tags.get(277), tags.get(258)
    samples = samples if isinstance(samples, int) and 0 < samples < 8 else 4
    depth = max(bits) if isinstance(bits, tuple) and bits and all(isinstance(part, int) for part in bits) else 16
    return width * rows * samples * -(-depth // 8)


def coefficients(image: Image.Image, file: IO[bytes]) -> int:
    """Returns the bytes of the coefficients of a JPEG of several scans, which are kept until the last; else 0."""
    if image.format not in ("JPEG", "MPO") or not _has_several_scans(image, file):
        return 0
    layers = [(across, down) for _, across, down, _ in image.layer]  # type: ignore[attr-defined]
    most = max(across for across, _ in layers) * max(down for _, down in layers)
    return 2 * image.width * image.height * sum(across * down for across, down in layers) // max(most, 1)


def too_large(what: str) -> UserError:
    """Returns the error for an image beyond the limit.  what: begins the sentence."""
    return UserError(
        f"{what}, and the limit is {most_pixels() / 1e6:,.0f} million: make it smaller, remove it, or raise the limit"
        f" with the environment variable {VARIABLE}.",
        code="image-too-large",
    )


def check_bytes(size: int, path: Path | str) -> None:
    """Raises UserError for a file too long for an image of the most pixels; some decoders read it as a whole."""
    most = BYTES_PER_FILE_PIXEL * most_pixels() + 2**20
    if size > most:
        raise UserError(
            f"{path} has {formatting.memory(size)}, and a file of an image may have {formatting.memory(most)}: remove"
            f" it, or raise the limit of pixels with the environment variable {VARIABLE}.",
            code="image-too-large",
        )


def check_header(image: Image.Image, file: IO[bytes], path: Path | str, needed: int) -> None:
    """Raises UserError for an image whose header was read, if decoding it would take too much.  See the constants.

    needed: what `memory` says.
    """
    check_pixels(image.width, image.height, str(path))
    _check_memory(image, needed, path)
    pixels, size = image.width * image.height, file.seek(0, os.SEEK_END)
    if pixels > MOST_IN_PYTHON and not _is_set() and _is_decoded_in_python(image):
        raise UserError(
            f"{path} has {image.width:,} x {image.height:,} pixels, and {MOST_IN_PYTHON / 1e6:,.1f} million are read of"
            f" a {image.format} of its kind, as that takes long: save it as PNG, or set the environment variable"
            f" {VARIABLE} to the pixels that an image may have.",
            code="image-too-large",
        )
    if pixels > max(LARGE, SPARSE * size) and not _is_set():
        raise UserError(
            f"{path} has {image.width:,} x {image.height:,} pixels in {size:,} bytes, and an image of more than"
            f" {LARGE / 1e6:,.0f} million has at least one for {SPARSE} pixels: make it smaller, remove it, or set"
            f" the environment variable {VARIABLE} to the pixels that an image may have.",
            code="image-too-large",
        )
    match image.format:
        case "TIFF":
            tags = image.tag_v2  # type: ignore[attr-defined]
            width, height = tags.get(322), tags.get(323)  # of a tile, which is decoded as a whole
            if isinstance(width, int) and isinstance(height, int):
                check_pixels(width, height, f"A tile of {path}")
        case "ICO":
            for entry in image.ico.entry:  # type: ignore[attr-defined]
                _check_ico_entry(file, entry.offset, path)


def _is_set() -> bool:
    """Returns whether the user decided on the pixels of an image."""
    return bool(os.environ.get(VARIABLE, "").strip())


def _is_decoded_in_python(image: Image.Image) -> bool:
    return any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", ()))


def _check_ico_entry(file: IO[bytes], offset: int, path: Path | str) -> None:
    """Judges an image in an ICO file by its own header, whatever the directory says."""
    file.seek(offset)
    head = file.read(24)
    if head.startswith(PNG_MARK):
        check_pixels(int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"), f"An image in {path}")
    else:
        width, height = (abs(int.from_bytes(head[at : at + 4], "little", signed=True)) for at in (4, 8))
        check_pixels(width, height, f"An image in {path}")


def check_scans(image: Image.Image, file: IO[bytes], path: Path | str) -> None:
    """Raises UserError for a JPEG whose pixels are decoded too often: a few bytes make a scan over all of them."""
    if image.format not in ("JPEG", "MPO") or not _has_several_scans(image, file):
        return
    file.seek(0)
    scans = sum(block.count(b"\xff\xda") for block in iter(lambda: file.read(2**20), b""))
    if scans > MOST_SCANS or scans * image.width * image.height > MOST_SCANNED:
        raise UserError(
            f"{path} has {scans:,} scans of {image.width:,} x {image.height:,} pixels, more than the limit of"
            f" {min(MOST_SCANS, MOST_SCANNED // (image.width * image.height)):,}: save it again, or remove it.",
            code="image-too-large",
        )


def _has_several_scans(image: Image.Image, file: IO[bytes]) -> bool:
    """Returns whether a JPEG is progressive, or its first scan holds some of its channels only."""
    if "progressive" in image.info:
        return True
    file.seek(2)
    for _ in range(MOST_SEGMENTS):
        mark = file.read(2)
        if len(mark) < 2 or mark[0] != 0xFF:
            return True  # not laid out as usual: count them
        if mark[1] == 0xDA:
            return file.read(3)[2:] != bytes([image.layers])  # type: ignore[attr-defined]
        if mark[1] == 0xFF:
            file.seek(-1, os.SEEK_CUR)
        else:
            file.seek(max(int.from_bytes(file.read(2), "big"), 2) - 2, os.SEEK_CUR)
    return True


def has_too_many_notes(file: IO[bytes], path: Path | str) -> bool:
    """Returns whether a PNG has more beside its pixels (texts, profiles) than is read; they are not needed.

    Raises UserError if it is in more pieces than any image.
    """
    file.seek(0)
    if file.read(8) != PNG_MARK:
        return False
    notes, size = 0, 0
    for _ in range(MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return False
        length = int.from_bytes(head[:4], "big")
        if head[4:] not in PNG_PIXELS:
            notes, size = notes + 1, size + length
            if notes > MOST_NOTES or size > MOST_NOTE_BYTES:
                return True
        file.seek(length + 4, os.SEEK_CUR)
    raise UserError(
        f"{path} consists of more than {MOST_CHUNKS:,} chunks: save it again, or remove it.", code="image-too-large"
    )
