"""Input images of a sampling task and the mask of an inpainting: uploaded, earlier samples, or a path.

Uploaded, painted and rescaled images are kept in the run's folder, where the sampling process finds them.
"""

import hashlib
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import streamlit as st
from PIL import Image

from ddpm.config import fields
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.config.validation import Problem
from ddpm.errors import UserError
from ddpm.planning import inputs, metadata, resolve, summary
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import files, image_files, images
from pages.ui.components import mask_canvas, setting_widgets, thumbnails
from pages.ui.components.markdown import escape
from pages.ui.forms import checkpoint_form
from pages.ui.forms.sampler_form import FIELDS, FORM
from pages.ui.frame import job_progress, layout

TASKS = inputs.IMAGE_TASKS
SOURCES = {"drawn": "Earlier samples", "upload": "Upload", "path": "Path"}
MASKS = {"paint": "Paint", "upload": "Upload", "path": "Path"}
KINDS = [extension.removeprefix(".") for extension in image_files.EXTENSIONS]
PER_PAGE = 12  # thumbnails of a request
THUMB = 64
SHOWN_SIDE = 144  # pixels of the input image, on screen
NEWEST = 50  # samples offered

_key = partial(setting_widgets.key, FORM)
_options = partial(checkpoint_form.options, FORM)


class InputImage(NamedTuple):
    """An image or a folder of images, and how it was prepared."""

    path: str
    note: str = ""
    label: str = ""  # its class, as a request names it, where that is known


def fill(config: Config, sample: SampleConfig) -> None:
    """Puts the input image and mask of a request into the fields; the mask can be painted further."""
    setting_widgets.fill(
        FORM,
        {
            "picture_from": "path" if sample.picture else "drawn",
            "picture_path": sample.picture,
            "mask_from": "paint" if not sample.mask or _put_on_canvas(config, sample) else "path",
            "mask_path": sample.mask,
        },
    )


def _put_on_canvas(config: Config, sample: SampleConfig) -> bool:
    """Whether the mask fits the image; other problems are shown by the fields."""
    try:
        image, mask = load_first(config, sample.picture), _mask_of(config, sample.mask)
    except UserError:
        return False
    stamp = time.time_ns() // 10**6
    st.session_state[f"{_key('canvas')}-painted"] = mask_canvas.Painted(
        mask_canvas.name(image), stamp, mask_canvas.encode(mask)
    )
    return True


def is_single_image(path: str) -> bool:
    """Whether it is a single image, not a folder or .npz of several."""
    return Path(path).is_file() and Path(path).suffix.lower() != ".npz"


def show(run: Run, config: Config, task: str, problems: list[Problem]) -> dict[str, Any]:
    """Shows the fields `picture` and, for inpainting, `mask`.  Appends what is missing or wrong to `problems`.

    Returns their values, and `classes`, the class of the image, where it is known.
    """
    jobs = [job for job in listed(run.sample_jobs(), st.session_state.get(_key("picture_drawing"))) if job.images]
    sources = [source for source in SOURCES if jobs or source != "drawn"]
    checkpoint_form.drop_unknown(FORM, "picture_from", sources)
    source = _options("picture_from", "Input image", sources, FIELDS["picture"].help, SOURCES.__getitem__)
    try:
        match source:
            case "drawn":
                selected = _from_samples(jobs, config)
            case "path":
                selected = _from_path(run, config)
            case _:
                selected = _from_upload(run, config)
    except UserError as error:
        problems.append(Problem("picture", str(error), code=error.code))
        return {}
    if not selected.path:
        problems.append(
            Problem(
                "picture",
                "No input image is selected yet: upload one, type a path, or sample some first and begin with one of"
                " those.",
                code="missing-value",
            )
        )
        return {}
    try:
        image = load_first(config, selected.path)
    except UserError as error:
        problems.append(Problem("picture", str(error), code=error.code))
        return {"picture": selected.path}
    values = {"picture": selected.path, "classes": selected.label}
    if task == "inpaint":
        if selected.note:
            st.caption(escape(selected.note))
        values["mask"] = _mask(run, config, image, problems)
    else:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            enlarged = thumbnails.fitted(images.from_pixels(image), SHOWN_SIDE)
            st.image(thumbnails.png(enlarged), output_format="PNG", alt="The input image")
            if selected.note:
                st.caption(escape(selected.note), width="stretch")
    return values


def listed(jobs: Sequence[SampleJob], chosen: object) -> list[SampleJob]:
    """The newest samples, and those that were chosen, however old they are."""
    return [job for number, job in enumerate(jobs) if number < NEWEST or job.name == chosen]


def load_first(config: Config, path: str) -> np.ndarray:
    """Loads the image at a path, the first of several: uint8 [H, W, C].  Raises UserError where none fits."""
    return _first(config, path, _stamp(path)).copy()


def _stamp(path: str) -> int:
    """Modification time of the file or folder, as a cache key."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


@st.cache_data(hash_funcs=layout.PATHS, max_entries=32, show_spinner=False)
def _first(config: Config, path: str, stamp: int) -> np.ndarray:
    found = inputs.read(config, SampleConfig(task="vary", picture=path, num_samples=1))
    assert found is not None
    return found.images.pixels[0]


def _from_upload(run: Run, config: Config) -> InputImage:
    file = st.file_uploader("Image", KINDS, key=_key("picture_upload"), label_visibility="collapsed")
    kept = st.session_state.setdefault(_key("picture_kept"), {})  # an upload is forgotten when the page is left
    if file:
        kept[run.name] = store_rescaled(
            run, config, image_files.decode(file.getvalue(), file.name, config.model.image_size)
        )
    return kept.get(run.name, InputImage(""))


def _from_path(run: Run, config: Config) -> InputImage:
    text = st.text_input(
        "Path",
        key=_key("picture_path"),
        placeholder="/home/me/cat.png",
        persist_state="session",
        label_visibility="collapsed",
        help="An image, or a folder or .npz file of several, which are used in turn.",
    ).strip()
    if not text:
        return InputImage("")
    path = Path(fields.absolute(text))
    if is_single_image(str(path)):
        image = image_files.load(path, config.model.image_size)
        if image_files.full_size(image) != (config.model.image_size, config.model.image_size):
            return store_rescaled(run, config, image)
    return InputImage(str(path))


def _from_samples(jobs: list[SampleJob], config: Config) -> InputImage:
    by_name = {job.name: job for job in jobs}
    checkpoint_form.drop_unknown(FORM, "picture_drawing", list(by_name))
    name = st.selectbox(
        "Samples",
        list(by_name),
        key=_key("picture_drawing"),
        format_func=lambda name: _label(by_name[name], config),
        persist_state="session",
        label_visibility="collapsed",
    )
    job = by_name[name]
    found = job.images
    where = _key("picture_number")
    number = st.session_state[where] = min(st.session_state.get(where, 0), len(found) - 1)
    pages = -(-len(found) // PER_PAGE)
    page = st.pagination(pages, key=_key("picture_page")) if pages > 1 else 1
    with st.grid("auto", min_column_width=THUMB, gap="xsmall", key="numbers"):
        for k, path in list(enumerate(found))[(page - 1) * PER_PAGE : page * PER_PAGE]:
            with st.container(gap="xsmall", horizontal_alignment="center"):
                try:
                    st.image(thumbnails.shown(job, path, THUMB) or b"", output_format="PNG", alt=f"Image {k}")
                except UserError as error:  # the others can be chosen all the same
                    st.caption("Damaged", help=escape(str(error)))
                st.button(
                    f"{k:d}",
                    key=f"number_{k}",
                    type="primary" if k == number else "secondary",
                    width="stretch",
                    on_click=layout.callback(_select_number),
                    args=(k,),
                )
    return InputImage(str(found[number].absolute()), label=class_of(job, found[number], config))


def class_of(job: SampleJob, path: Path, config: Config) -> str:
    """Class of a sample, as a request names it, from the settings that its file carries; empty where there is none."""
    if not config.model.class_cond:
        return ""
    try:
        recipe = images.settings_in(job.read(path))
        labels = resolve.resolve_labels(config, metadata.sample_of(recipe, str(path))) if recipe else None
    except (UserError, OSError):  # an older version wrote it, or it is of a model with other classes
        return ""
    number = recipe.get("number", 0) if recipe else 0
    known = labels is not None and isinstance(number, int) and 0 <= number < len(labels)
    return metadata.label_text(config, int(labels[number])) if known and labels is not None else ""


def _label(job: SampleJob, config: Config) -> str:
    sample = job.sample_config
    return (
        f"{job_progress.started_at(job)} · {summary.describe(config, sample)}"
        if sample
        else job_progress.started_at(job)
    )


def _select_number(number: int) -> None:
    st.session_state[_key("picture_number")] = number


def store_rescaled(run: Run, config: Config, image: Image.Image) -> InputImage:
    """Rescales an image to the model's size as a PNG in the run's folder; returns it and what was done."""
    size = config.model.image_size
    content = images.encode_png(images.prepare(image, size, config.model.image_channels))
    width, height = image_files.full_size(image)
    cropped = "" if width == height else ", cropped at the centre"
    note = "" if width == height == size else f"Scaled from {width} x {height} to {size} x {size} pixels{cropped}."
    return InputImage(_store(run, "picture.png", content), note)


def _store(run: Run, name: str, content: bytes) -> str:
    folder = run.content.inside("uploads", hashlib.sha256(content).hexdigest()[:16]).make()
    if not folder.exists(name):
        files.write_bytes(folder.path / name, content)
    return str((folder.path / name).absolute())


# The mask


def _mask(run: Run, config: Config, image: np.ndarray, problems: list[Problem]) -> str:
    checkpoint_form.drop_unknown(FORM, "mask_from", list(MASKS))
    source = _options("mask_from", "Mask: the area to inpaint", list(MASKS), FIELDS["mask"].help, MASKS.__getitem__)
    try:
        match source:
            case "paint":
                mask = mask_canvas.paint(image, key=_key("canvas"), first=_half(image))
                if mask is None:
                    raise UserError("Nothing is painted yet: paint over the area to inpaint.", code="missing-value")
                return store_mask(run, config, mask)
            case "upload":
                path = _uploaded_mask(run, config)
            case _:
                text = st.text_input(
                    "Mask path",
                    key=_key("mask_path"),
                    placeholder="/home/me/mask.png",
                    persist_state="session",
                    label_visibility="collapsed",
                ).strip()
                path = fields.absolute(text)
        if not path:
            raise UserError(
                "No mask is selected yet: paint one, upload an image that is white in the area to inpaint, or type a"
                " path.",
                code="missing-value",
            )
        mask = _mask_of(config, path)
    except UserError as error:
        problems.append(Problem("mask", str(error), code=error.code))
        return ""
    over = thumbnails.fitted(images.from_pixels(_overlay(image, mask)), SHOWN_SIDE)
    st.image(thumbnails.png(over), output_format="PNG", alt="The area to inpaint is red")
    return path


def _half(image: np.ndarray) -> np.ndarray:
    """Mask of one half of an image, uint8 [H, W]: what is painted at first, so that the task can be tried."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask


def _mask_of(config: Config, path: str) -> np.ndarray:
    return _read(config, path, _stamp(path))


@st.cache_data(hash_funcs=layout.PATHS, max_entries=32, show_spinner=False)
def _read(config: Config, path: str, stamp: int) -> np.ndarray:
    return inputs.read_mask(config, path)


def _uploaded_mask(run: Run, config: Config) -> str:
    file = st.file_uploader("Mask", KINDS, key=_key("mask_upload"), label_visibility="collapsed")
    kept = st.session_state.setdefault(_key("mask_kept"), {})
    if file:
        size = config.model.image_size
        pixels = images.prepare(image_files.decode(file.getvalue(), file.name, size), size, 1)[..., 0]
        kept[run.name] = store_mask(run, config, (pixels > 127) * np.uint8(255))
    return kept.get(run.name, "")


def store_mask(run: Run, config: Config, mask: np.ndarray) -> str:
    """Path of a mask, uint8 [H, W] of 0 and 255, as a PNG: the one in earlier settings, or one in the run's folder."""
    named = st.session_state.get(_key("mask_path"), "")
    if named:
        try:
            if (_mask_of(config, named) == mask // 255).all():
                return str(named)
        except UserError:  # it was painted anew
            pass
    return _store(run, "mask.png", images.encode_png(mask))


def _overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`picture` in colour, uint8 [H, W, 3], with a red overlay where the mask is 1."""
    rgb = np.asarray(images.convert(images.from_pixels(image), 3)).astype(np.float32)
    red = np.array([230, 60, 60], np.float32)
    return np.where(mask[..., None], 0.4 * rgb + 0.6 * red, rgb).astype(np.uint8)
