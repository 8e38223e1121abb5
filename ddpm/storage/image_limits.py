"""Limits of image files of strangers, judged on their headers before a decoder takes memory or time.

A few bytes may declare gigabytes: dimensions, tiles, compressed texts beside the pixels, thousands of scans.  Judging a
header takes some ten microseconds.  Decoders that keep to the dimensions which they declare, as those of the formats in
`image_files` do, then take no more than BYTES_PER_PIXEL.  Decoding in a process of its own, with a limit
of memory, needs RLIMIT_AS, which Windows lacks, and copies the pixels of each image once more.
"""

import os
from pathlib import Path
from typing import IO

import psutil
from PIL import Image

from ddpm.errors import UserError

MOST_PIXELS = 2**26  # of an image
VARIABLE = "DDPM_MAX_PIXELS"  # environment variable that sets another limit
LARGE = 2**24  # pixels above which an image is compared with the free memory
BYTES_PER_PIXEL = 12  # that decoding takes at most: the image, one in another mode, a reduced one
SPARSE = 200  # pixels of a large image for a byte of its file, beyond which it is refused: one of a single colour
BYTES_PER_FILE_PIXEL = 8  # of an uncompressed image of four channels of 16 bits: longer files hold something else
MOST_NOTES, MOST_NOTE_BYTES = 64, 2**22  # metadata chunks of a PNG that are read; each may unpack to a megabyte
MOST_CHUNKS = 2**17  # of a PNG; 64 million pixels need 25,000 of the usual size
MOST_SEGMENTS = 2000  # of a JPEG before its first scan
MOST_SCANS, MOST_SCANNED = 200, 2**31  # of a progressive JPEG: scans, and pixels of all of them; ten scans are usual
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
    """Raises UserError for an image that has more pixels than the limit, or that does not fit in the free memory.

    what: begins the sentence.
    """
    pixels = width * height
    if pixels > most_pixels():
        raise too_large(f"{what} has {width:,} x {height:,} pixels")
    if pixels > LARGE and BYTES_PER_PIXEL * pixels > (free := psutil.virtual_memory().available):
        raise UserError(
            f"{what} has {width:,} x {height:,} pixels, which take up to {BYTES_PER_PIXEL * pixels / 1e6:,.0f} MB, and"
            f" {free / 1e6:,.0f} MB are free: end other programs, make it smaller, or remove it.",
            code="out-of-memory",
        )


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
            f"{path} has {size / 1e6:,.0f} MB, and a file of an image may have {most / 1e6:,.0f}: remove it, or raise"
            f" the limit of pixels with the environment variable {VARIABLE}.",
            code="image-too-large",
        )


def check_header(image: Image.Image, file: IO[bytes], path: Path | str) -> None:
    """Raises UserError for an image whose header was read, if decoding it would take too much.  See the constants."""
    check_pixels(image.width, image.height, str(path))
    pixels, size = image.width * image.height, file.seek(0, os.SEEK_END)
    if pixels > max(LARGE, SPARSE * size) and not os.environ.get(VARIABLE, "").strip():
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
        case "JPEG" | "MPO":
            _check_scans(image, file, path)


def _check_ico_entry(file: IO[bytes], offset: int, path: Path | str) -> None:
    """Judges an image in an ICO file by its own header, whatever the directory says."""
    file.seek(offset)
    head = file.read(24)
    if head.startswith(PNG_MARK):
        check_pixels(int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"), f"An image in {path}")
    else:
        width, height = (abs(int.from_bytes(head[at : at + 4], "little", signed=True)) for at in (4, 8))
        check_pixels(width, height, f"An image in {path}")


def _check_scans(image: Image.Image, file: IO[bytes], path: Path | str) -> None:
    """Judges how often a JPEG has its pixels decoded: a few bytes make a scan over all of them."""
    if not _has_several_scans(image, file):
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
