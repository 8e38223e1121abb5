"""A trajectory as images: a labelled strip, a GIF, and an MP4 if ffmpeg is installed."""

import io
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddpm.errors import UserError
from ddpm.storage import files, images

COLUMNS = 12  # of the strip
SECONDS = 5.0  # length of a film, without HOLD
HOLD = 1.5  # seconds that the last image stays
FASTEST = 25  # most images per second
TIMEOUT = 120.0  # seconds for ffmpeg
SIDE = 256  # pixels to which a smaller image of a film is enlarged, by a whole factor
STRIP_SIDE = 96
TEXT, LINE, GAP = 13, 17, 6
PAPER, INK = "white", "#1f2328"
NO_WRITER = "No MP4 was written because ffmpeg was not found: install ffmpeg, or pip install imageio-ffmpeg."


class Frames(NamedTuple):
    """The images of a trajectory.

    x, x_start, eps: uint8 [K, H, W, C]; t: their timesteps, float64 [K].
    """

    x: np.ndarray
    x_start: np.ndarray
    eps: np.ndarray
    t: np.ndarray


ROWS = {"x": "x_t", "x_start": "clean", "eps": "noise"}


def enlarged(pixels: np.ndarray, side: int) -> np.ndarray:
    """Enlarges images to about `side` pixels by repeating each pixel; larger ones are returned unchanged.

    pixels: uint8 [N, H, W, C].  Returns uint8 [N, H k, W k, C] for a whole factor k.
    """
    factor = max(1, side // pixels.shape[1])
    return pixels.repeat(factor, axis=1).repeat(factor, axis=2)


def strip(frames: Frames) -> np.ndarray:
    """A strip of evenly spaced steps, uint8 [H, W, 3]: rows x_t, predicted clean image and noise; timesteps below."""
    count = len(frames.t)
    indices = np.unique(np.rint(np.linspace(0, count - 1, min(count, COLUMNS))).astype(int))
    font = ImageFont.load_default(TEXT)
    left = GAP * 2 + max(round(font.getlength(name)) for name in ROWS.values())
    rows = [enlarged(getattr(frames, name)[indices], STRIP_SIDE) for name in ROWS]
    side = rows[0].shape[1]
    canvas = Image.new("RGB", (left + len(indices) * (side + GAP), GAP + len(rows) * (side + GAP) + LINE), PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, (label, shown) in enumerate(zip(ROWS.values(), rows, strict=True)):
        top = GAP + row * (side + GAP)
        draw.text((GAP, top + side // 2 - TEXT // 2), label, INK, font)
        for column, pixels in enumerate(shown):
            canvas.paste(images.convert(images.from_pixels(pixels), 3), (left + column * (side + GAP), top))
    for column, k in enumerate(indices):
        text = ("t = " if column == 0 else "") + f"{frames.t[k]:.0f}"
        draw.text((left + column * (side + GAP), GAP + len(rows) * (side + GAP)), text, INK, font)
    return np.asarray(canvas)


def side_by_side(frames: Frames) -> np.ndarray:
    """x_t and the predicted clean image side by side, enlarged: uint8 [K, H, W, 3], H and W even as H.264 requires.

    Of more steps than can be shown within SECONDS, evenly spaced ones are used.
    """
    count = len(frames.t)
    kept = np.unique(np.rint(np.linspace(0, count - 1, min(count, round(SECONDS * FASTEST)))).astype(int))
    pair = np.concatenate([enlarged(frames.x[kept], SIDE), enlarged(frames.x_start[kept], SIDE)], axis=2)
    colour = np.stack([np.asarray(images.convert(images.from_pixels(pixels), 3)) for pixels in pair])
    return np.pad(colour, ((0, 0), (0, colour.shape[1] % 2), (0, colour.shape[2] % 2), (0, 0)))


def gif(frames: Frames) -> bytes:
    """A GIF of about SECONDS that holds its last image for HOLD and repeats."""
    film = [Image.fromarray(pixels) for pixels in side_by_side(frames)]
    pause = round(1000 * max(SECONDS / len(film), 1 / FASTEST) / 10) * 10  # a GIF counts in hundredths of a second
    buffer = io.BytesIO()
    film[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=film[1:],
        loop=0,
        duration=[*[pause] * (len(film) - 1), pause + round(1000 * HOLD)],
    )
    return buffer.getvalue()


def writer() -> str | None:
    """Path of ffmpeg: the system's, or that of the package imageio-ffmpeg; None if there is neither."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # the package was installed without its program
        return None


def mp4(frames: Frames) -> bytes:
    """The same film as an MP4 that browsers play (H.264).  Raises UserError if ffmpeg is missing or fails."""
    program = writer()
    if program is None:
        raise UserError(NO_WRITER, code="missing-package")
    film = side_by_side(frames)
    rate = min(FASTEST, max(1, round(len(film) / SECONDS)))
    film = np.concatenate([film, film[-1:].repeat(round(HOLD * rate), axis=0)])
    height, width = film.shape[1:3]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "film.mp4"  # writing an MP4 needs to seek, which a pipe cannot
        command = [
            program,
            "-loglevel",
            "error",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            f"{width}x{height}",
            "-r",
            str(rate),
            "-i",
            "-",
            "-an",
            "-c:v",
            "libx264",
            "-crf",
            "16",
            "-pix_fmt",
            "yuv420p",
            "-movflags",
            "+faststart",
            str(target),
        ]
        try:
            done = subprocess.run(command, input=film.tobytes(), capture_output=True, check=False, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise UserError(
                f"No MP4 was written because ffmpeg took more than {TIMEOUT:.0f} s: use the GIF, or another ffmpeg.",
                code="process-failed",
            ) from None
        if done.returncode or not target.exists():
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise UserError(
                f"No MP4 was written because ffmpeg failed ({lines[-1] if lines else done.returncode}): use the GIF, or"
                " another ffmpeg.",
                code="process-failed",
            )
        return target.read_bytes()


def write(folder: Path, frames: Frames) -> str:
    """Writes strip.png, trajectory.gif and trajectory.mp4; returns why there is no MP4, or an empty text."""
    images.save_png(folder / "strip.png", strip(frames))
    files.write_bytes(folder / "trajectory.gif", gif(frames))
    try:
        files.write_bytes(folder / "trajectory.mp4", mp4(frames))
    except UserError as error:
        return str(error)
    return ""
