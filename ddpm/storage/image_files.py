"""Opens and decodes image files from any source, upright and within bounded memory."""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin

from ddpm.errors import UserError
from ddpm.storage import image_limits, untrusted
from ddpm.storage.image_limits import PNG_MARK, PNG_PIXELS

# Detected by content; no other format is ever tried.  TGA has no signature and is detected by its extension.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "QOI": (".qoi",),
    "PCX": (".pcx",),
    "SGI": (".sgi",),
    "ICO": (".ico",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
EXTENSIONS = tuple(extension for extensions in FORMATS.values() for extension in extensions)
SHARED = 800 * 10**6  # bytes that decoding takes in all threads together; a larger image is decoded alone
FULL_SIZE = "full_size"  # in Image.info of a JPEG that was decoded at reduced size
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
TIFF_BITS, TIFF_PHOTOMETRIC = 258, 262  # tags
MOST_EXIF = 2**16  # bytes that tell how an image was held, and are kept where other notes are dropped

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # image_limits are lower
warnings.filterwarnings("ignore", message="Corrupt EXIF data")  # the pixels are intact


class Header(NamedTuple):
    """An image that is not decoded yet."""

    image: Image.Image
    size: tuple[int, int]  # width and height in the file, which those of `image` may be a half to an eighth of
    memory: int  # bytes that decoding it takes, about


def load(path: Path, least: int = 0) -> Image.Image:
    """Loads the image in a file, fully decoded and upright; of an animation, the first frame.

    least: see `read`.  Raises UserError if the file is missing, not an image, truncated or too large.
    """
    with opened(path) as file, read(file, path, least) as image:
        return image


def decode(content: bytes, name: str, least: int = 0) -> Image.Image:
    """Decodes the bytes of an image file, like `load`.  name: its name in error messages."""
    with read(io.BytesIO(content), name, least) as image:
        return image


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Opens a regular file.  Raises UserError if that fails, or if it is not a regular file."""
    try:
        file = untrusted.open_regular(path)
        image_limits.check_bytes(os.fstat(file.fileno()).st_size, path)
    except FileNotFoundError:
        raise UserError(f"There is no image {path}: check the name.", code="not-found") from None
    except PermissionError:
        raise UserError(f"This user may not read {path}: change its permissions.", code="unreadable-file") from None
    except (OSError, ValueError) as error:  # ValueError: a name that is not valid for a file
        raise UserError(
            f"{path} cannot be read ({error}): check the name, or the disk.", code="unreadable-file"
        ) from error
    with file:
        yield file


class _Budget:
    """Limits how much memory all threads take for decoding at once; a thread waits until enough is left."""

    def __init__(self) -> None:
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, memory: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + memory <= SHARED)
            self._taken += memory
        try:
            yield
        finally:
            with self._changed:
                self._taken -= memory
                self._changed.notify_all()


_budget = _Budget()


@contextlib.contextmanager
def read(file: IO[bytes], path: Path | str, least: int = 0) -> Iterator[Image.Image]:
    """Decodes the image in an open file, like `load`; inside the block its memory counts towards the shared budget.

    path: its name in error messages.  least: a JPEG that is too large may be decoded at reduced size, with at least
    2 * least pixels on the shorter side, see `full_size`; 0: never.
    """
    with _as_user_errors(path):
        header = _header(file, path, least)
    if header.image.size != header.size:
        header.image.info[FULL_SIZE] = header.size
    with _budget.take(header.memory):
        with _as_user_errors(path):
            image = _pixels(header.image, file, path)
        yield image


def full_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an image that was read, before it was reduced while it was decoded."""
    width, height = image.info.get(FULL_SIZE, image.size)
    turned = (width > height) != (image.width > image.height)
    return (height, width) if turned else (width, height)


@contextlib.contextmanager
def _as_user_errors(path: Path | str) -> Iterator[None]:
    """Turns exceptions of the decoders into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        raise UserError(
            f"{path} is not an image in a supported format ({', '.join(FORMATS)}): remove it or replace it.",
            code="not-an-image",
        ) from None
    except Image.DecompressionBombError:
        raise image_limits.too_large(f"{path} has more pixels than Pillow opens") from None
    except MemoryError:
        raise UserError(
            f"{path} does not fit in the free memory: make it smaller, or remove it.", code="out-of-memory"
        ) from None
    except Exception as error:  # the decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        raise UserError(
            f"{path} is broken or truncated ({error}): remove it or replace it.", code="broken-image"
        ) from error


@cache
def _registered() -> frozenset[str]:
    """The formats of FORMATS that this build of Pillow supports."""
    Image.init()
    return frozenset(FORMATS) & frozenset(Image.OPEN)


def _formats(path: Path | str) -> list[str]:
    """Formats to try for a file of this name."""
    by_name = str(path).lower().endswith(FORMATS["TGA"])
    return [name for name in FORMATS if name in _registered() and (by_name or name != "TGA")]


def _header(file: IO[bytes], path: Path | str, least: int) -> Header:
    """Reads the header of an image without decoding it.  Raises UserError if decoding it would take too much."""
    if image_limits.has_too_many_notes(file, path) and (bare := _bare_png(file)) is not None:
        file = bare
    file.seek(0)
    image = _opened(file, path)
    image_limits.check_scans(image, file, path)
    size, coefficients = image.size, image_limits.coefficients(image, file)
    needed = image_limits.memory(image, file, coefficients)
    too_many = image_limits.is_too_large(image)
    if least and image.format in ("JPEG", "MPO") and (too_many or needed > image_limits.MEMORY):
        if not (too_many and coefficients):  # they are those of the whole image
            image.draft(None, (2 * least, 2 * least))  # a half to an eighth of its size
        needed = image_limits.memory(image, file, coefficients)
    image_limits.check_header(image, file, path, needed)
    return Header(image, size, needed)


def _opened(file: IO[bytes], path: Path | str) -> Image.Image:
    try:
        return Image.open(file, formats=_formats(path))
    except Image.DecompressionBombError:
        file.seek(0)
        if file.read(2) != b"\xff\xd8":
            raise
        file.seek(0)
        return JpegImagePlugin.JpegImageFile(file)  # which may be reduced
    except Exception:
        if (bare := _bare_png(file)) is None:
            raise
        return Image.open(bare, formats=["PNG"])


def _pixels(image: Image.Image, file: IO[bytes], path: Path | str) -> Image.Image:
    """Decodes `image` and turns it upright."""
    _scale_transparency(image)
    try:
        image.load()
    except Exception:
        if image.format != "PNG" or (bare := _bare_png(file)) is None:
            raise
        image = Image.open(bare, formats=["PNG"])
        _scale_transparency(image)
        image.load()
    if image.mode in ("P", "PA") and image.palette is None:
        raise UserError(f"{path} is broken, as its colours are missing: remove it or replace it.", code="broken-image")
    if image.mode == "F" or (image.mode.startswith("I") and not _is_16_bit(image)):
        raise UserError(
            f"{path} has values of more than 16 bits: convert it to 8 or 16 bits.",
            code="unsupported-image",
        )
    if image.mode not in MODES and not image.mode.startswith("I"):
        raise UserError(
            f"{path} has the colour mode {image.mode}, which is not supported: convert it to RGB.",
            code="unsupported-image",
        )
    bits, turned = _grey_tiff(image)
    # An unreadable orientation is ignored: the pixels are intact.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    if bits < 16 or turned:
        values = np.asarray(image).astype(np.uint32) * 65535 // (2**bits - 1)
        image = Image.fromarray((65535 - values if turned else values).astype(np.uint16))
    return image


def _grey_tiff(image: Image.Image) -> tuple[int, bool]:
    """Bits of a grey TIFF that Pillow reads as one of 16 bits, and whether 0 is white in it; (16, False) of others."""
    if image.format != "TIFF" or not image.mode.startswith("I;16"):
        return 16, False
    tags = image.tag_v2  # type: ignore[attr-defined]  # of a TIFF
    bits = min(tags.get(TIFF_BITS, (16,))[0], 16)
    return bits, tags.get(TIFF_PHOTOMETRIC) == 0


def _is_16_bit(image: Image.Image) -> bool:
    """True if all values fit in 16 bits."""
    if image.mode.startswith("I;16"):
        return True
    least, most = image.getextrema()
    return 0 <= least <= most <= 65535  # type: ignore[operator]  # of a single channel


def _scale_transparency(image: Image.Image) -> None:
    """Converts the transparent grey level or colour of a PNG to 8 bits, like its pixels."""
    found, tile = image.info.get("transparency"), getattr(image, "tile", None)
    if image.format != "PNG" or found is None or not tile:
        return
    match tile[0][3]:
        case "L;2":
            image.info["transparency"] = found * 85
        case "L;4":
            image.info["transparency"] = found * 17
        case "RGB;16B":
            image.info["transparency"] = tuple(value >> 8 for value in found)


def _bare_png(file: IO[bytes]) -> io.BytesIO | None:
    """Copies a PNG without texts and colour profiles; None if it is not a PNG, or is truncated."""
    file.seek(0)
    kinds = set[bytes]()
    kept = [file.read(8)]
    if kept[0] != PNG_MARK:
        return None
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind in PNG_PIXELS or (kind == b"eXIf" and length <= MOST_EXIF and kind not in kinds):
            kinds.add(kind)
            rest = file.read(length + 4)
            if len(rest) < length + 4:
                return None
            kept += [head, rest]
        else:
            file.seek(length + 4, io.SEEK_CUR)
        if kind == b"IEND":
            return io.BytesIO(b"".join(kept))
    return None


def size(path: Path) -> tuple[int, int] | None:
    """(width, height) of the image in a file, from its header; None if it cannot be read."""
    try:
        with opened(path) as file:
            return _header(file, path, least=4).size
    except Exception:  # `load` reports what is wrong
        return None


def size_in(content: bytes, name: str) -> tuple[int, int] | None:
    """As `size`, of the bytes of an image file of that name."""
    try:
        return _header(io.BytesIO(content), name, least=4).size
    except Exception:  # `decode` reports what is wrong
        return None
