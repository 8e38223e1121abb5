"""Pictures: files <-> uint8 pixels <-> what the network sees; grids and strips.

Here, and only here, pictures are uint8 [N, H, W, C].  Everywhere else they are float32 [N, C, H, W] in [-1, 1].
"""

import io
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, PngImagePlugin

from ddpm.errors import UserError
from ddpm.storage import files
from ddpm.storage.image_files import PNG_MARK, load

SETTINGS = "ddpm"  # keyword of the text in a PNG that says how it was drawn
MOST_SETTINGS = 2**20  # bytes of such a text that are read
NARROW = 64  # times as long as wide
GAP = 128  # grey between the pictures of a grid, at home on light and on dark pages


def prepare(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """`image` as uint8 [size, size, channels], scaled and cropped exactly as improved-diffusion does.

    Halved with a box filter while twice too large, then bicubic to `size` on the shorter side, then the centre.
    channels: 1 grey, 3 colour, 4 colour with transparency; what is transparent becomes white in the first two.
    """
    image = convert(image, channels)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return _cover(image, size, Image.Resampling.BICUBIC).reshape(size, size, channels)


def boxed(image: Image.Image, size: int) -> np.ndarray:
    """`image` as uint8 [size, size, 3]: box-scaled to `size` on the shorter side, then the centre.

    As improved-diffusion prepares LSUN.
    """
    return _cover(convert(image, 3), size, Image.Resampling.BOX)


def _cover(image: Image.Image, size: int, filter: Image.Resampling) -> np.ndarray:
    """Scaled to `size` on the shorter side, then the centre."""
    if max(image.size) > NARROW * min(image.size):  # scaled as a whole it might not fit in memory
        image = _middle(image)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), filter)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _middle(image: Image.Image) -> Image.Image:
    """The middle of a very narrow image, many times as long as it is wide."""
    width, height = (min(side, NARROW * min(image.size) // 4) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def convert(image: Image.Image, channels: int) -> Image.Image:
    """`image` in mode L, RGB or RGBA, from any mode."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if is_deep(image):
        values, clear = np.asarray(image).astype(np.int64).clip(0, 65535), image.info.get("transparency")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))  # rounds, so that 65535 becomes 255
        if clear is not None:
            image.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    if image.has_transparency_data and channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def is_deep(image: Image.Image) -> bool:
    """Whether it has 16 bits of grey, of which 8 are kept."""
    return image.mode.startswith("I")


def is_transparent(image: Image.Image) -> bool:
    """Whether it can be seen through anywhere."""
    if not image.has_transparency_data:
        return False
    least, _ = convert(image, 4).getchannel("A").getextrema()
    return least < 255  # type: ignore[operator]  # of a single channel


def from_pixels(pixels: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] (or [H, W]) as a picture."""
    return Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W] in [-1, 1]."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / 127.5 - 1


def to_uint8(x: np.ndarray) -> np.ndarray:
    """float [N, C, H, W] in [-1, 1] -> uint8 [N, H, W, C], cut off and rounded down as improved-diffusion does.

    What is not a number becomes black.
    """
    values = np.nan_to_num((np.asarray(x, dtype=np.float32) + 1) * 127.5, nan=0.0).clip(0, 255)
    return np.ascontiguousarray(values.astype(np.uint8).transpose(0, 2, 3, 1))


def grid(pixels: np.ndarray, columns: int | None = None, gap: int = 2, scale: int = 1) -> np.ndarray:
    """Pictures uint8 [N, H, W, C] side by side in one, uint8 [H', W', C], row by row.

    columns: None makes it about as wide as high.  gap: pixels between pictures.  scale: each pixel becomes a
    square of so many (the gap too).  Gap and empty places are grey, or transparent with 4 channels.
    """
    count, height, width, channels = pixels.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + gap), columns * (width + gap), channels), GAP, np.uint8)
    if channels == 4:
        canvas[..., 3] = 0
    for k, picture in enumerate(pixels):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    canvas = canvas[: canvas.shape[0] - gap, : canvas.shape[1] - gap]
    return canvas.repeat(scale, axis=0).repeat(scale, axis=1)


def shrunk(pixels: np.ndarray, size: int) -> np.ndarray:
    """Pictures uint8 [N, H, W, C] as uint8 [N, size, size, C]: each pixel the mean of the area that it covers.

    The areas are those of torch's area interpolation, with which a super-resolution model is trained.
    """
    _, height, width, _ = pixels.shape
    rows, columns = _areas(height, size), _areas(width, size)
    means = np.einsum("ih,nhwc,jw->nijc", rows, pixels.astype(np.float32), columns, optimize=True)
    return np.rint(means).astype(np.uint8)


def _areas(length: int, parts: int) -> np.ndarray:
    """[parts, length]: the share of each of `length` pixels in each of `parts` means, which may overlap by a pixel."""
    first = np.arange(parts) * length // parts
    end = -(-np.arange(1, parts + 1) * length // parts)
    places = np.arange(length)
    inside = (places >= first[:, None]) & (places < end[:, None])
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def pairs(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """A grid of pairs: each of the pictures small, uint8 [N, h, w, C], enlarged to squares, and large, [N, H, W, C]."""
    _, height, width, _ = large.shape
    rows, columns = np.arange(height) * small.shape[1] // height, np.arange(width) * small.shape[2] // width
    beside = np.concatenate([small[:, rows][:, :, columns], large], axis=2)
    return grid(beside, columns=math.ceil(math.sqrt(len(beside) / 2)))


def strip(pixels: np.ndarray, gap: int = 2, scale: int = 1) -> np.ndarray:
    """Pictures uint8 [N, H, W, C] in one row: uint8 [H', W', C]."""
    return grid(pixels, columns=len(pixels), gap=gap, scale=scale)


def encode_png(pixels: np.ndarray, settings: Mapping[str, Any] | None = None) -> bytes:
    """uint8 [H, W, C] as the bytes of a PNG file; `settings`, as JSON, are what `settings_in` finds in it."""
    text = None
    if settings is not None:
        text = PngImagePlugin.PngInfo()
        text.add_text(
            SETTINGS, json.dumps(settings, allow_nan=False)
        )  # JSON of ASCII alone, as PNG's texts are Latin-1
    buffer = io.BytesIO()
    from_pixels(pixels).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def save_png(path: Path, pixels: np.ndarray, settings: Mapping[str, Any] | None = None, durable: bool = True) -> None:
    """Write uint8 [H, W, C] as a PNG file, with the settings that made it.  durable: see files.write.
    Raises DiskFull.
    """
    files.write_bytes(path, encode_png(pixels, settings), durable)


def read_pixels(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [H, W, C] of a PNG file that `save_png` wrote.  Raises UserError where it is another's, or not whole."""
    height, width, channels = shape
    image = load(path)
    if image.size != (width, height) or image.mode != {1: "L", 3: "RGB", 4: "RGBA"}[channels]:
        raise UserError(
            f"{path} has {image.width} x {image.height} pixels of {image.mode} and is no picture of this drawing: move"
            " it away.",
            code="wrong-file",
        )
    return np.asarray(image).reshape(shape)


def settings_in(source: Path | bytes) -> dict[str, Any] | None:
    """The settings that a PNG file carries; None for a file without, broken, or of another kind."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            text = _text_of(file, SETTINGS.encode())
        found = json.loads(text) if text is not None else None
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text_of(file: IO[bytes], keyword: bytes) -> bytes | None:
    """The text under `keyword`: of the tEXt chunks (PNG specification, 11.3.3) no other is read,
    nor a very long one.
    """
    if file.read(8) != PNG_MARK:
        return None
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"tEXt" and length <= MOST_SETTINGS:
            content, check = file.read(length), file.read(4)
            name, _, text = content.partition(b"\0")
            if name == keyword:
                return text if zlib.crc32(kind + content).to_bytes(4, "big") == check else None
        elif kind == b"IEND":
            return None
        else:
            file.seek(length + 4, io.SEEK_CUR)
    return None
