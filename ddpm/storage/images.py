"""Images as files, as uint8 [N, H, W, C] and as the network sees them, float32 [N, C, H, W] in [-1, 1]; image grids."""

import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, PngImagePlugin

from ddpm.errors import UserError
from ddpm.storage import files, strict_json, untrusted
from ddpm.storage.image_files import decode
from ddpm.storage.image_limits import PNG_MARK, is_tall

SETTINGS = "ddpm"  # keyword of the PNG text that holds the settings of a sample
MOST_SETTINGS = 2**20  # bytes of that text that are read at most
NARROW = 64  # aspect ratio above which an image is cropped before it is scaled
BAND = 2**20  # pixels that are converted at once
WHOLE = 2**24  # pixels above which an image is scaled in bands, which takes longer, and a third of the memory
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by the number of channels
GAP = 128  # grey level between the images of a grid, for light and dark pages


def prepare(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Scales and crops `image` exactly as improved-diffusion does; uint8 [size, size, channels].

    Halves it with a box filter while it is at least twice too large, resizes it (bicubic) to `size` on the shorter
    side and crops the centre.  channels: 1 grey, 3 RGB, 4 RGBA; with 1 and 3, transparent areas become white.
    """
    return _cover(_near(image, size, channels), size, Image.Resampling.BICUBIC).reshape(size, size, channels)


def scaled(image: Image.Image, least: int, most: int, widest: float, channels: int) -> np.ndarray:
    """Scales `image` as `prepare` does, but does not crop it to a square: uint8 [h, w, channels].

    Its shorter side has `most` pixels, or if it has fewer, as many as there are, but no fewer than `least`.  Of one
    that is more than `widest` times as long as wide the middle is kept.
    """
    size = min(max(min(image.size), least), most)
    image = _middle(_near(image, size, channels))
    scale = size / min(image.size)
    if scale != 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    width, height = (min(side, round(widest * size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height))).reshape(height, width, channels)


def _near(image: Image.Image, size: int, channels: int) -> Image.Image:
    """Converts an image, and halves it with a box filter while it is at least twice too large."""
    image = _halved(image, channels) if min(image.size) >= 2 * size else convert(_middle(image), channels)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image


def boxed(image: Image.Image, size: int) -> np.ndarray:
    """Scales `image` with a box filter to `size` on the shorter side and crops the centre; uint8 [size, size, 3].

    The preprocessing of LSUN in improved-diffusion.
    """
    return _cover(convert(_middle(image), 3), size, Image.Resampling.BOX)


def _halved(image: Image.Image, channels: int) -> Image.Image:
    """Converts an image and scales it to half its size with a box filter, rounded down; each band by itself.

    The result is that of converting and scaling it as a whole, which takes several times its memory: the filter covers
    two rows at a time if their number is even, and columns are scaled first.  Of a tall image rows may be: that is done
    as a whole.
    """
    width, height = image.width // 2, image.height // 2
    if image.width * image.height <= WHOLE or is_tall(image):
        return convert(image, channels).resize((width, height), Image.Resampling.BOX)
    mode = "RGBa" if channels == 4 else MODES[channels]  # Pillow, too, scales colours times alpha
    down = 1 if image.height % 2 else 2
    scaled = Image.new(mode, (width, image.height // down))
    for top, bottom in _bands(image):
        part = convert(image.crop((0, top, image.width, bottom)), channels).convert(mode)
        scaled.paste(part.resize((width, (bottom - top) // down), Image.Resampling.BOX), (0, top // down))
    if scaled.size != (width, height):
        scaled = scaled.resize((width, height), Image.Resampling.BOX)
    return scaled if scaled.mode == MODES[channels] else scaled.convert(MODES[channels])


def _cover(image: Image.Image, size: int, filter: Image.Resampling) -> np.ndarray:
    """Scales to `size` on the shorter side and crops the centre: uint8 [size, size] or [size, size, C]."""
    image = _middle(image)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), filter)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _middle(image: Image.Image) -> Image.Image:
    """Crops the middle of an image of extreme aspect ratio, which might not fit in memory once it is enlarged."""
    if max(image.size) <= NARROW * min(image.size):
        return image
    width, height = (min(side, NARROW * min(image.size) // 4) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def convert(image: Image.Image, channels: int) -> Image.Image:
    """Converts an image of any mode to L (1 channel), RGB (3) or RGBA (4)."""
    mode = MODES[channels]
    if image.mode == mode and not (image.has_transparency_data and channels != 4):
        return image
    bands = list(_bands(image))
    if len(bands) == 1:
        return _converted(image, mode)
    whole = Image.new(mode, image.size)
    for top, bottom in bands:  # what lies between two modes takes several times the memory of the image
        whole.paste(_converted(image.crop((0, top, image.width, bottom)), mode), (0, top))
    return whole


def _bands(image: Image.Image) -> Iterator[tuple[int, int]]:
    """Yields (top, bottom) of bands of at most about BAND pixels, of an even number of rows, that cover an image."""
    rows = max(2, BAND // image.width // 2 * 2)
    return ((top, min(top + rows, image.height)) for top in range(0, image.height, rows))


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if is_deep(image):
        values, clear = np.asarray(image).astype(np.int64).clip(0, 65535), image.info.get("transparency")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))  # rounds: 65535 becomes 255
        if clear is not None:
            image.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    if image.has_transparency_data and mode != "RGBA":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def is_deep(image: Image.Image) -> bool:
    """True for 16-bit grey, of which 8 bits are kept."""
    return image.mode.startswith("I")


def is_transparent(image: Image.Image) -> bool:
    """True if any pixel is not fully opaque."""
    if not image.has_transparency_data:
        return False
    parts = (image.crop((0, top, image.width, bottom)) for top, bottom in _bands(image))
    alphas = (_converted(part, "RGBA").getchannel("A").getextrema() for part in parts)
    return any(least < 255 for least, _ in alphas)  # type: ignore[operator]  # of a single channel


def from_pixels(pixels: np.ndarray) -> Image.Image:
    """Converts uint8 [H, W, C] or [H, W] to a Pillow image."""
    return Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Converts uint8 [N, H, W, C] to float32 [N, C, H, W] in [-1, 1]."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / 127.5 - 1


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Converts float [N, C, H, W] in [-1, 1] to uint8 [N, H, W, C], clipped and rounded down as in improved-diffusion.

    NaN becomes black.
    """
    values = np.nan_to_num((np.asarray(x, dtype=np.float32) + 1) * 127.5, nan=0.0).clip(0, 255)
    return np.ascontiguousarray(values.astype(np.uint8).transpose(0, 2, 3, 1))


def grid(pixels: np.ndarray, columns: int | None = None, gap: int = 2, scale: int = 1) -> np.ndarray:
    """Arranges images uint8 [N, H, W, C] in a grid, row by row: uint8 [H', W', C].

    columns: None for a grid about as wide as high.  gap: pixels between images.  scale: integer enlargement, of the
    gap too.  Gaps and empty cells are grey, or transparent with 4 channels.
    """
    count, height, width, channels = pixels.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + gap), columns * (width + gap), channels), GAP, np.uint8)
    if channels == 4:
        canvas[..., 3] = 0
    for k, image in enumerate(pixels):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    canvas = canvas[: canvas.shape[0] - gap, : canvas.shape[1] - gap]
    return canvas.repeat(scale, axis=0).repeat(scale, axis=1)


def shrunk(pixels: np.ndarray, size: int) -> np.ndarray:
    """Downsamples images uint8 [N, H, W, C] to uint8 [N, size, size, C]: each pixel is the mean of the area it covers.

    The same areas as in torch's area interpolation, with which super-resolution models are trained.
    """
    _, height, width, _ = pixels.shape
    rows, columns = _areas(height, size), _areas(width, size)
    means = np.einsum("ih,nhwc,jw->nijc", rows, pixels.astype(np.float32), columns, optimize=True)
    return np.rint(means).astype(np.uint8)


def _areas(length: int, parts: int) -> np.ndarray:
    """Weights float32 [parts, length] of `length` pixels in `parts` means; neighbours may overlap by one pixel."""
    first = np.arange(parts) * length // parts
    end = -(-np.arange(1, parts + 1) * length // parts)
    index = np.arange(length)
    inside = (index >= first[:, None]) & (index < end[:, None])
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def pairs(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Grid of pairs: images `small`, uint8 [N, h, w, C], enlarged, next to `large`, uint8 [N, H, W, C]."""
    _, height, width, _ = large.shape
    rows, columns = np.arange(height) * small.shape[1] // height, np.arange(width) * small.shape[2] // width
    paired = np.concatenate([small[:, rows][:, :, columns], large], axis=2)
    return grid(paired, columns=math.ceil(math.sqrt(len(paired) / 2)))


def strip(pixels: np.ndarray, gap: int = 2, scale: int = 1) -> np.ndarray:
    """Arranges images uint8 [N, H, W, C] in one row: uint8 [H', W', C]."""
    return grid(pixels, columns=len(pixels), gap=gap, scale=scale)


def encode_png(pixels: np.ndarray, settings: Mapping[str, Any] | None = None) -> bytes:
    """Encodes uint8 [H, W, C] as PNG; `settings` are stored as JSON, for `settings_in`."""
    text = None
    if settings is not None:
        text = PngImagePlugin.PngInfo()
        text.add_text(SETTINGS, json.dumps(settings, allow_nan=False))  # ASCII only: texts in PNG are Latin-1
    buffer = io.BytesIO()
    from_pixels(pixels).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def save_png(path: Path, pixels: np.ndarray, settings: Mapping[str, Any] | None = None, durable: bool = True) -> None:
    """Writes uint8 [H, W, C] as a PNG file, with its settings.  durable: see files.write.  Raises DiskFull."""
    files.write_bytes(path, encode_png(pixels, settings), durable)


def decode_pixels(content: bytes, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Decodes the content of a PNG file of `save_png` to uint8 [H, W, C].

    path: its name in error messages.  Raises UserError if it has another shape, or is broken.
    """
    height, width, channels = shape
    image = decode(content, str(path))
    if image.size != (width, height) or image.mode != MODES[channels]:
        raise UserError(
            f"{path} has {image.width} x {image.height} pixels of {image.mode} and is not one of these samples: move"
            " it away.",
            code="wrong-file",
        )
    return np.asarray(image).reshape(shape)


def settings_in(source: Path | bytes) -> dict[str, Any] | None:
    """The settings stored in a PNG file; None if there are none, the file is broken, or is not a PNG."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else untrusted.open_regular(source) as file:
            text = _text_of(file, SETTINGS.encode())
        found = strict_json.parse(text) if text is not None else None
    except (OSError, UserError, strict_json.Invalid):
        return None
    return found if isinstance(found, dict) else None


def _text_of(file: IO[bytes], keyword: bytes) -> bytes | None:
    """The text under `keyword` in the tEXt chunks (PNG specification, 11.3.3), up to MOST_SETTINGS bytes long."""
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
