"""Images for the screen, enlarged without blur so that every pixel can be seen."""

import io
import math
from pathlib import Path

import streamlit as st
from PIL import Image

from ddpm.errors import UserError
from ddpm.storage import images


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


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def shown(path: Path, side: int) -> bytes | None:
    """Image in `path`, fitted to `side`, as a PNG; None where there is none yet."""
    try:
        return _shown(str(path), path.stat().st_mtime_ns, side)
    except (FileNotFoundError, UserError):
        return None


@st.cache_data(max_entries=256, show_spinner=False)
def _shown(path: str, mtime_ns: int, side: int) -> bytes:
    return png(fitted(images.load(Path(path), side), side))
