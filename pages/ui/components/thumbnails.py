"""Images for the screen, enlarged without blur so that every pixel can be seen."""

import io
import math
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from ddpm.errors import as_user_error
from ddpm.runs.jobs import Job
from ddpm.storage import image_files

KEPT = 2**26  # bytes of PNGs in memory
_kept: OrderedDict[tuple[str, int, int, bool], bytes] = OrderedDict()
_lock = threading.Lock()


def fitted(image: Image.Image, side: int) -> Image.Image:
    """Scales `image` so that its longer side has `side` pixels; enlarged pixels stay sharp squares."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if scale < 1:
        return image.resize(size, Image.Resampling.LANCZOS)
    times = 1 if side % max(image.size) == 0 else 2  # twice too large first, so that squares stay even
    whole = math.ceil(times * scale)
    return image.resize((image.width * whole, image.height * whole), Image.Resampling.NEAREST).resize(
        size, Image.Resampling.BOX
    )


def repeated(image: Image.Image, times: int) -> Image.Image:
    """Enlarges each pixel to a square of `times` x `times`."""
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST) if times > 1 else image


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def load(job: Job, path: Path) -> Image.Image:
    """The image in a file of a job.  Raises UserError if it is anything else or cannot be read; FileNotFoundError."""
    try:
        content = job.read(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise as_user_error(error) from error
    return image_files.decode(content, str(path))


def shown(job: Job, path: Path, side: int, enlarge: bool = True) -> bytes | None:
    """Image in a file of a job, fitted to `side`, as a PNG; None where there is none yet.  Raises UserError.

    enlarge: False if a smaller one stays as it is.
    """
    try:
        key = (str(path), job.changed_at(path), side, enlarge)
        made = _kept.get(key)
        if made is None:
            image = load(job, path)
            made = png(fitted(image, side if enlarge else min(side, max(image.size))))
    except FileNotFoundError:
        return None
    with _lock:
        for old in [one for one in _kept if one[0] == key[0] and one[1] != key[1]]:
            del _kept[old]  # of the file as it was before
        _kept[key] = made
        _kept.move_to_end(key)
        while len(_kept) > 1 and sum(map(len, _kept.values())) > KEPT:
            _kept.popitem(last=False)
    return made
