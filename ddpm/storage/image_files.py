"""Image files that anyone may have written: opened, decoded and turned upright, within bounded memory."""

import contextlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps, JpegImagePlugin

from ddpm.errors import UserError

# By content nothing else is ever tried on a file, except TGA, which has no mark of its own and goes by its name.
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
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # of an image; Pillow opens no larger one
ROOM = 2**26  # pixels decoded at once by all threads together; a larger image is decoded alone
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
PNG_MARK = b"\x89PNG\r\n\x1a\n"

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # _Room sees to the memory
warnings.filterwarnings("ignore", message="Corrupt EXIF data")  # the pixels are whole


def load(path: Path) -> Image.Image:
    """The image in a file, decoded whole and upright; the first frame of a moving one.

    Raises UserError when it is missing, no image, cut short or too large to be meant seriously.
    """
    with opened(path) as file, read(file, path) as image:
        return image


def decode(content: bytes, name: str) -> Image.Image:
    """The image in the bytes of a file, as `load` gives it.  name: what errors call it."""
    with read(io.BytesIO(content), name) as image:
        return image


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """A file, open.  Raises UserError where that is not possible, or it is no file at all."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # one must not even open a pipe
            raise UserError(f"{path} is a folder, a pipe or a device and no picture: name a file.", code="not-a-file")
        file = open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"There is no picture {path}: check the name.", code="not-found") from None
    except PermissionError:
        raise UserError(
            f"{path} may not be read by this user: change its permissions.", code="unreadable-file"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UserError(
            f"{path} cannot be read ({error}): check the name, or the disk.", code="unreadable-file"
        ) from error
    with file:
        yield file


class _Room:
    """How many pixels may be decoded at once: whoever wants more than are left waits."""

    def __init__(self) -> None:
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + pixels <= ROOM)
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()


_room = _Room()


@contextlib.contextmanager
def read(file: IO[bytes], path: Path | str, least: int = 0) -> Iterator[Image.Image]:
    """The image in an open file, as `load` gives it; while it is held, others wait that would not fit in memory beside
    it.

    path: what errors call it.  least: an image that is too large to be decoded may come reduced, to no less than
    twice so many pixels on the shorter side; 0: it may not.
    """
    with _sentences(path):
        image = _header(file, path, least)
    with _room.take(image.width * image.height):
        with _sentences(path):
            image = _pixels(image, file, path)
        yield image


@contextlib.contextmanager
def _sentences(path: Path | str) -> Iterator[None]:
    """Turns what a decoder raises into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        raise UserError(
            f"{path} is not a picture ({', '.join(FORMATS)}): remove it or replace it.", code="not-an-image"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{path} has more than {MOST_PIXELS // 10**6} million pixels: make it smaller, or remove it.",
            code="image-too-large",
        ) from None
    except MemoryError:
        raise UserError(
            f"{path} does not fit in the free memory: make it smaller, or remove it.", code="out-of-memory"
        ) from None
    except Exception as error:  # the decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        raise UserError(
            f"{path} is broken or cut short ({error}): remove it or replace it.", code="broken-image"
        ) from error


@cache
def _registered() -> frozenset[str]:
    """The formats that this build of Pillow has."""
    Image.init()
    return frozenset(FORMATS) & frozenset(Image.OPEN)


def _formats(path: Path | str) -> list[str]:
    """What is tried on a file of this name."""
    by_name = str(path).lower().endswith(FORMATS["TGA"])
    return [name for name in FORMATS if name in _registered() and (by_name or name != "TGA")]


def _header(file: IO[bytes], path: Path | str, least: int) -> Image.Image:
    """The image, not decoded yet."""
    try:
        return Image.open(file, formats=_formats(path))
    except Image.DecompressionBombError:
        return _reduced(file, least)
    except Exception:
        if (bare := _bare_png(file)) is None:
            raise
        return Image.open(bare, formats=["PNG"])


def _reduced(file: IO[bytes], least: int) -> Image.Image:
    """A JPEG that is too large, to be decoded at a half to an eighth of its size.
    Raises DecompressionBombError otherwise.
    """
    file.seek(0)
    if least and file.read(2) == b"\xff\xd8":
        file.seek(0)
        image = JpegImagePlugin.JpegImageFile(file)
        image.draft(None, (2 * least, 2 * least))
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        if (
            image.width * image.height <= most and "progressive" not in image.info
        ):  # such a one is decoded whole all the same
            return image
    raise Image.DecompressionBombError


def _pixels(image: Image.Image, file: IO[bytes], path: Path | str) -> Image.Image:
    """`image` decoded and upright."""
    _scale_transparency(image)
    try:
        image.load()
    except Exception:
        if image.format != "PNG" or (bare := _bare_png(file)) is None:
            raise
        image = Image.open(bare, formats=["PNG"])
        _scale_transparency(image)
        image.load()
    if image.mode == "F" or (image.mode.startswith("I") and not _is_16_bit(image)):
        raise UserError(
            f"{path} has numbers beyond 16 bits and no shades of grey: convert it to 8 or 16 bits.",
            code="unsupported-image",
        )
    if image.mode not in MODES and not image.mode.startswith("I"):
        raise UserError(
            f"{path} has colours of the kind {image.mode}, which are not read: convert it to RGB.",
            code="unsupported-image",
        )
    # What cannot be read as the way it is held leaves it as it is: the pixels are whole.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _is_16_bit(image: Image.Image) -> bool:
    """Whether all its numbers are what 16 bits can hold."""
    least, most = image.getextrema()
    return 0 <= least <= most <= 65535  # type: ignore[operator]  # of a single channel


def _scale_transparency(image: Image.Image) -> None:
    """Make the grey or colour of a PNG that stands for transparent what it becomes when the pixels have 8 bits."""
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
    """A PNG without all that is no pixels: texts, profiles, cameras' notes; None where it is no PNG, or not whole."""
    file.seek(0)
    kept = [file.read(8)]
    if kept[0] != PNG_MARK:
        return None
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
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
    """(width, height) of the picture in a file, from its header; None when it cannot be read."""
    try:
        with opened(path) as file:
            return _header(file, path, least=4).size
    except Exception:  # whoever needs the pixels calls `load`, which says what is wrong
        return None
