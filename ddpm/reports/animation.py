"""A trajectory as pictures: a labelled strip, a GIF, and an MP4 where there is a writer.  No torch."""

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

COLUMNS = 12  # of a strip
SECONDS = 5.0  # that a film takes, but for the end
HOLD = 1.5  # seconds that its last picture stays
FASTEST = 25  # pictures a second
PATIENCE = 120.0  # seconds for ffmpeg
SIDE = 256  # pixels that a picture of a film has at least, by whole multiples
STRIP_SIDE = 96
TEXT, LINE, GAP = 13, 17, 6
PAPER, INK = "white", "#1f2328"
NO_WRITER = "There is no MP4, as no ffmpeg was found: install ffmpeg, or pip install imageio-ffmpeg."


class Frames(NamedTuple):
    """What was seen, uint8 [K, H, W, C] each, and at which timesteps [K]."""

    x: np.ndarray
    x_start: np.ndarray
    eps: np.ndarray
    t: np.ndarray


ROWS = {"x": "x_t", "x_start": "clean", "eps": "noise"}


def enlarged(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N, H, W, C], each pixel a square, so that a picture has about `side` pixels or as many as it had."""
    times = max(1, side // pixels.shape[1])
    return pixels.repeat(times, axis=1).repeat(times, axis=2)


def strip(frames: Frames) -> np.ndarray:
    """Rows x_t, clean picture and noise, evenly over the steps, their timesteps below: uint8 [H, W, 3]."""
    count = len(frames.t)
    chosen = np.unique(np.rint(np.linspace(0, count - 1, min(count, COLUMNS))).astype(int))
    font = ImageFont.load_default(TEXT)
    left = GAP * 2 + max(round(font.getlength(name)) for name in ROWS.values())
    rows = [enlarged(getattr(frames, name)[chosen], STRIP_SIDE) for name in ROWS]
    side = rows[0].shape[1]
    canvas = Image.new("RGB", (left + len(chosen) * (side + GAP), GAP + len(rows) * (side + GAP) + LINE), PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, (label, pictures) in enumerate(zip(ROWS.values(), rows, strict=True)):
        top = GAP + row * (side + GAP)
        draw.text((GAP, top + side // 2 - TEXT // 2), label, INK, font)
        for column, picture in enumerate(pictures):
            canvas.paste(images.convert(images.from_pixels(picture), 3), (left + column * (side + GAP), top))
    for column, k in enumerate(chosen):
        text = ("t = " if column == 0 else "") + f"{frames.t[k]:.0f}"
        draw.text((left + column * (side + GAP), GAP + len(rows) * (side + GAP)), text, INK, font)
    return np.asarray(canvas)


def side_by_side(frames: Frames) -> np.ndarray:
    """x_t and the clean picture beside each other, enlarged: uint8 [K, H, W, 3], of even sizes as films need them.

    Of many steps so many, evenly, as can be shown within SECONDS.
    """
    count = len(frames.t)
    kept = np.unique(np.rint(np.linspace(0, count - 1, min(count, round(SECONDS * FASTEST)))).astype(int))
    pair = np.concatenate([enlarged(frames.x[kept], SIDE), enlarged(frames.x_start[kept], SIDE)], axis=2)
    colour = np.stack([np.asarray(images.convert(images.from_pixels(picture), 3)) for picture in pair])
    return np.pad(colour, ((0, 0), (0, colour.shape[1] % 2), (0, colour.shape[2] % 2), (0, 0)))


def gif(frames: Frames) -> bytes:
    """A GIF that runs for about SECONDS, holds its end, and begins again."""
    film = [Image.fromarray(picture) for picture in side_by_side(frames)]
    pause = round(1000 * max(SECONDS / len(film), 1 / FASTEST) / 10) * 10  # a GIF counts hundredths of a second
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
    """The program that writes MP4: ffmpeg of the system, or that of the package imageio-ffmpeg; None without."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # the package came without its program
        return None


def mp4(frames: Frames) -> bytes:
    """The same as an MP4 that browsers play (H.264).  Raises UserError where there is no writer, or it fails."""
    program = writer()
    if program is None:
        raise UserError(NO_WRITER, code="missing-package")
    film = side_by_side(frames)
    rate = min(FASTEST, max(1, round(len(film) / SECONDS)))
    film = np.concatenate([film, film[-1:].repeat(round(HOLD * rate), axis=0)])
    height, width = film.shape[1:3]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "film.mp4"  # an MP4 is written back and forth, so not into a pipe
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
            done = subprocess.run(command, input=film.tobytes(), capture_output=True, check=False, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise UserError(
                f"There is no MP4, as ffmpeg took more than {PATIENCE:.0f} s: use the GIF, or another ffmpeg.",
                code="process-failed",
            ) from None
        if done.returncode or not target.exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise UserError(
                f"There is no MP4, as ffmpeg failed ({said[-1] if said else done.returncode}): use the GIF, or another"
                " ffmpeg.",
                code="process-failed",
            )
        return target.read_bytes()


def write(folder: Path, frames: Frames) -> str:
    """strip.png, trajectory.gif and where it can be trajectory.mp4; returns what is to be said, if anything."""
    images.save_png(folder / "strip.png", strip(frames))
    files.write_bytes(folder / "trajectory.gif", gif(frames))
    try:
        files.write_bytes(folder / "trajectory.mp4", mp4(frames))
    except UserError as error:
        return str(error)
    return ""
