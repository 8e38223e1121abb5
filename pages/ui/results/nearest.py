"""The training images that are nearest to a sample: whether the model has learnt one by heart.

They are looked for by a thread of the server, as all training images are compared; the page shows how far it is.
"""

import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import streamlit as st

from ddpm import formatting
from ddpm.config.training import Config
from ddpm.data import datasets, distances
from ddpm.errors import UserError, as_user_error
from ddpm.runs.results import SampleJob
from ddpm.storage import images
from pages.ui.components import thumbnails
from pages.ui.components.markdown import escape
from pages.ui.frame import layout

SHOWN = "sample_nearest"  # in the session: name of the job and number of the image that is looked at
ANEW = "sample_nearest_anew"  # in the session: it was asked for just now, so that one that failed is tried again
COUNT = 7
SIDE = 96


class Found(NamedTuple):
    """Training images that are near to a sample, nearest first: pixels uint8 [n, H, W, C], and the class of each."""

    pixels: np.ndarray
    neighbours: list[distances.Neighbour]
    classes: list[str]
    searched: int  # images that were compared
    total: int  # training images


class Search:
    """A search of the training images of a run, in a thread of its own."""

    def __init__(self, config: Config, image: np.ndarray):
        self._config, self._image = config, image
        self.found: Found | None = None
        self.error = ""
        self.done, self.total, self.reading = 0, 0, True
        self._thread = threading.Thread(target=self._run, name="ddpm-nearest", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def _progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def _run(self) -> None:
        try:
            self.found = self._search()
        except UserError as error:
            self.error = str(error)
        except OSError as error:
            self.error = str(as_user_error(error))

    def _search(self) -> Found:
        config = self._config
        data = datasets.open_dataset(config.data, config.model, self._progress, seed=config.train.seed)
        self.reading = False
        found = distances.nearest(data, self._image, COUNT, self._progress)
        pixels, labels = data.take(np.array([one.number for one in found]))
        names = data.class_names
        known = [] if labels is None else [names[label] if 0 <= label < len(names) else "" for label in labels]
        return Found(pixels, found, known, distances.searched(data), len(data))


@st.cache_resource(show_spinner=False, max_entries=8)
def _search(path: str, changed_at: int, data_dir: str, _config: Config, _image: np.ndarray) -> Search:
    return Search(_config, _image)


def begin_with(job: SampleJob, number: int) -> None:
    """Asks for the training images that are nearest to a sample."""
    st.session_state[SHOWN] = job.name, number
    st.session_state[ANEW] = True


def show(job: SampleJob, config: Config) -> None:
    """Shows the images that were asked for, if it was for a sample of this job."""
    name, number = st.session_state.get(SHOWN, ("", 0))
    if name != job.name or number >= len(job.images):
        return
    path = job.images[number]
    with st.container(border=True, key="nearest"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Training images nearest to image {number:d}**", width="stretch")
            st.button(
                "",
                icon=":material/close:",
                key="nearest_close",
                type="tertiary",
                help="Close",
                on_click=layout.callback(_close),
            )
        with layout.errors():
            pixels = _pixels(job, path, config)
            asked = str(path), job.changed_at(path), config.data.data_dir, config, pixels
            search = _search(*asked)
            if st.session_state.pop(ANEW, False) and search.ended and search.found is None:
                _search.clear(*asked)
                search = _search(*asked)
            layout.fragment(run_every=None if search.ended else 0.5)(_show)(search, pixels, not search.ended)


def _close() -> None:
    st.session_state.pop(SHOWN, None)


def _pixels(job: SampleJob, path: Path, config: Config) -> np.ndarray:
    """The sample, uint8 [H, W, C].  Raises UserError if it is damaged, or of another size."""
    size, channels = config.model.image_size, config.model.image_channels
    return images.decode_pixels(job.read(path), path, (size, size, channels))


def _show(search: Search, pixels: np.ndarray, was_active: bool) -> None:
    if was_active and search.ended:
        st.rerun()  # once, so that the polling stops
    if not search.ended:
        doing = "Reading the training images" if search.reading else "Comparing"
        text = (
            f"{doing}: {search.done:,} of {formatting.plural(search.total, 'image')}" if search.total else "Starting …"
        )
        st.progress(search.done / search.total if search.total else 0.0, text)
        return
    found = search.found
    if found is None:
        st.error(escape(search.error or "The search broke off: see the log of the server."), icon=":material/error:")
        return
    with st.grid("auto", min_column_width=SIDE, gap="small"):
        with st.container(gap="xsmall"):
            _image(pixels, "The sample")
            st.caption("The sample")
        for k, neighbour in enumerate(found.neighbours):
            with st.container(gap="xsmall"):
                shown = found.pixels[k][:, ::-1] if neighbour.flipped else found.pixels[k]
                _image(np.ascontiguousarray(shown), f"Training image {neighbour.number}")
                parts = [f"{neighbour.distance:,.1f}", *([found.classes[k]] if found.classes else [])]
                st.caption(escape(" · ".join([*parts, *(["mirrored"] if neighbour.flipped else [])])))
    st.caption(
        f"The nearest of {formatting.plural(found.searched, 'training image')}"
        f"{f' (of {found.total:,})' if found.searched < found.total else ''}, as they are or mirrored. The number is"
        " the root mean square difference of their pixel values, 0 to 255: near 0 it is a copy."
    )


def _image(pixels: np.ndarray, alt: str) -> None:
    enlarged = thumbnails.fitted(images.from_pixels(pixels), SIDE)
    st.image(thumbnails.png(enlarged), output_format="PNG", alt=alt)
