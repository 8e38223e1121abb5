"""Pictures for the screen: enlarged without blur, so that every pixel that was drawn can be seen."""

import io
from pathlib import Path

import streamlit as st
from PIL import Image

from ddpm import images
from ddpm.errors import UserError


def fitted(image: Image.Image, side: int) -> Image.Image:
    """`image` at the largest whole multiple that fits into `side` pixels; reduced smoothly where it is too large."""
    times = side // max(image.size)
    if times >= 1:
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def shown(path: Path, side: int) -> bytes | None:
    """The picture in `path`, fitted to `side`, as a PNG; None where there is none yet."""
    try:
        return _shown(str(path), path.stat().st_mtime_ns, side)
    except (FileNotFoundError, UserError):
        return None


@st.cache_data(max_entries=256, show_spinner=False)
def _shown(path: str, mtime_ns: int, side: int) -> bytes:
    return png(fitted(images.load(Path(path)), side))
