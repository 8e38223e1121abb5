"""Data part of the Train form: a named data set or a path, and a description of its contents."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import streamlit as st
from PIL import Image

from ddpm import formatting
from ddpm.config import codec, fields
from ddpm.config.training import Config, DataConfig
from ddpm.config.validation import Problem
from ddpm.data import checked, datasets, sources
from ddpm.data.datasets import Description
from ddpm.data_sets import ARCHIVES, DATA_SETS
from ddpm.errors import Code, UserError
from ddpm.planning import training_cost
from ddpm.storage import images
from pages.ui.components import setting_widgets
from pages.ui.components.markdown import escape
from pages.ui.forms import image_check, obtain_data, setting_fields
from pages.ui.forms.setting_fields import Notes
from pages.ui.frame import layout

PATH = "path"  # the option for a folder or file of one's own
SHOWN = 24  # images shown, in three rows
TILE = 64  # pixels on screen, about
TILE_MOST = 96


class Contents(NamedTuple):
    """Description of a data set, or the error that prevents it."""

    description: Description | None
    error: str = ""  # why there is none
    code: Code = "unreadable-data"
    state: str = ""  # of the files of a folder, .npz file or shards, which are looked at in the background


def fill(form: str, data_dir: str) -> None:
    """Puts a data set into the fields."""
    named = data_dir in DATA_SETS
    setting_widgets.fill(
        form, {"source": data_dir if named else PATH, "path": "" if named else data_dir, "data_dir": data_dir}
    )


def take_over(form: str) -> None:
    """Sets data_dir from the two fields."""
    setting_widgets.fill(form, {"data_dir": _named(form)})


def settle(form: str) -> None:
    """Makes the two fields agree with data_dir, which may have been put back.  Call it before they are shown."""
    data_dir = st.session_state.get(setting_widgets.key(form, "data_dir")) or ""
    if _named(form) != data_dir:
        fill(form, data_dir)


def named_now(form: str) -> str:
    """The data_dir of a form as it is when a callback runs: a click may come before what was typed is shown."""
    return str(st.session_state.get(setting_widgets.key(form, "data_dir")) or "")


def _named(form: str) -> str:
    """The data_dir that the two fields say."""
    source = st.session_state.get(setting_widgets.key(form, "source"))
    typed = st.session_state.get(setting_widgets.key(form, "path")) or ""
    return source if source and source != PATH else fields.absolute(typed)


def inspect(data_dir: str) -> Contents:
    """Describes the contents of `data_dir`, or what is wrong with it."""
    try:
        return _inspect(data_dir, _stamp(data_dir)) if data_dir else Contents(None)
    except UserError as error:  # which the cache does not keep
        state = f"index-{sources.shards_state(data_dir)}"
        image_check.begin_index(data_dir, state)
        return Contents(None, str(error), error.code, state)


def problems(found: Contents) -> list[Problem]:
    """The problem of data that cannot be used."""
    if not found.error:
        return []
    remedies = ({"skip_broken": True},) if found.code == "broken-image" else ()
    return [Problem("data_dir", found.error, code=found.code, remedies=remedies)]


def costed(config: Config, found: Contents, archive: str = "") -> tuple[Config, int | None, int]:
    """`config` as a training of it is measured, the number of its training images, if known, and of held-out ones.

    The data need not be there yet.  archive: of ARCHIVES, what will be trained on where no data is named.
    """
    config = training_cost.with_steps(config)
    known = DATA_SETS.get(config.data.data_dir) or (None if config.data.data_dir else ARCHIVES.get(archive))
    classes, count = (known.classes, known.images) if known else (0, 0)
    if about := found.description:
        classes, count = len(about.class_names), about.count
    if config.model.class_cond and not config.model.num_classes:
        config = codec.replace(config, {"num_classes": max(1, classes)})
    held_out = datasets.held_out_count(count, config.data.hold_out) if count else 0
    own = found.description.test_count if found.description else 0
    return config, count - held_out if count else None, own or held_out


def resolved_now(config: Config, shown: Description | None) -> Config:
    """Resolves `config` against the data as it is now.

    Raises UserError where its classes are others than those `shown`; the page then shows the new ones.
    """
    found = datasets.resolve(training_cost.with_steps(config))
    if shown and found.class_names != shown.class_names:
        for known in (_inspect, _thumbnails):
            known.clear()
        raise UserError(
            f"The classes of {config.data.data_dir} are {formatting.some(found.class_names, 10) or 'none'} now, and"
            f" were {formatting.some(shown.class_names, 10) or 'none'} when they were shown: check the data and"
            " press Start again.",
            code="changed-classes",
        )
    return found


def show(form: str, config: Config, found: Contents, notes: Notes, archive: str = "") -> None:
    """Shows the fields for the data and its preparation.  archive: of ARCHIVES, where a preset trains on that."""
    about = found.description
    st.segmented_control(
        "Data",
        [*DATA_SETS, PATH],
        key=setting_widgets.key(form, "source"),
        required=True,
        label_visibility="collapsed",
        wrap=True,
        format_func=lambda name: DATA_SETS[name].title if name != PATH else "Folder or file",
        on_change=layout.callback(take_over),
        args=(form,),
        persist_state="session",
    )
    source = st.session_state[setting_widgets.key(form, "source")]
    if source == PATH:
        st.text_input(
            "Path",
            key=setting_widgets.key(form, "path"),
            placeholder="/home/me/images",
            on_change=layout.callback(take_over),
            args=(form,),
            persist_state="session",
            help=(
                "A folder of images, searched recursively, an .npz file with arr_0, or webdataset tar shards: their"
                " folder, or a pattern such as train-{000000..000099}.tar. Classes come from folders or"
                " from file names such as cat_001.png; folders named train and test are splits."
            ),
        )
    else:
        st.caption(DATA_SETS[source].description)
    if found.code == "not-downloaded":
        obtain_data.show(source)
    elif archive and not config.data.data_dir:
        obtain_data.show_archive(form, archive)
    else:
        setting_fields.show_problems(form, notes.problems.get("data_dir", ()))
    if found.code == "unindexed-data":
        image_check.show(config.data.data_dir, found.state, "index")
    if about is None:
        return
    st.caption(escape(_summary(about, config.model.image_size, source != PATH)))
    if found.state:
        image_check.show(config.data.data_dir, found.state)
    if about.left_out:
        st.caption(f":material/filter_alt_off: Left out: {escape(', '.join(about.left_out))}")
    for notice in about.notices:
        st.caption(f":orange[:material/info: {escape(notice)}]")
    small = about.size is not None and min(about.size) < config.model.image_size
    wanted = ["random_flip", "hold_out"]
    if source == PATH or config.data.crop != "center":
        wanted.append("crop")
    if small or config.data.enlarge or source == PATH:
        wanted.append("enlarge")
    if source == PATH or config.data.skip_broken:
        wanted.append("skip_broken")
    setting_fields.show(form, [s for s in fields.settings(DataConfig) if s.name in wanted], notes)


def show_images(config: Config) -> None:
    """Shows some of the images."""
    where, model = config.data.data_dir, config.model
    shown = _thumbnails(where, _stamp(where), min(model.image_size, 256), model.image_channels)
    if shown:
        st.image(shown, output_format="PNG", width="stretch", alt="Some of the images, as the network will see them")


def _summary(about: Description, size: int, named: bool) -> str:
    parts = [] if named else [about.kind, formatting.plural(about.count, "image")]
    if about.test_count:
        parts.append(f"{about.test_count:,} more for testing")
    if about.size and about.size != (size, size):
        parts.append(f"the first has {about.size[0]} × {about.size[1]} pixels, shown as {size} × {size}")
    count = len(about.class_names)
    if count:
        counted = [f"{name} ({n:,})" for name, n in zip(about.class_names, about.counts, strict=True)]
        parts.append(f"{formatting.plural(count, 'class', 'classes')}: {formatting.some(counted, 10)}")
    else:
        parts.append("no classes")
    return " · ".join(parts)


def _stamp(data_dir: str) -> int:
    """Modification time of the folder or file, as a cache key."""
    try:
        return (sources.cifar10_path() if data_dir == "cifar10" else Path(data_dir)).stat().st_mtime_ns
    except (OSError, ValueError):  # a name with a NUL is a ValueError
        return 0


@st.cache_data(hash_funcs=layout.PATHS, max_entries=32, ttl=60, show_spinner="Reading the data …")
def _inspect(data_dir: str, stamp: int) -> Contents:
    try:
        source = sources.open_source(data_dir, image_check.quick())
        state = "" if data_dir in DATA_SETS else checked.state_of(source, data_dir)
        return Contents(datasets.description_of(source), state=state)
    except UserError as error:
        if error.code == "unindexed-data":
            raise
        return Contents(None, str(error), error.code)


@st.cache_data(hash_funcs=layout.PATHS, max_entries=32, ttl=60, show_spinner="Reading the data …")
def _thumbnails(data_dir: str, stamp: int, size: int, channels: int) -> bytes | None:
    """Images from across the data, as far as it is within reach, as the network sees them; broken ones are left out."""
    source = sources.open_source(data_dir, image_check.quick())
    last = source.within_reach - 1
    wanted = np.unique(np.linspace(0, last, min(SHOWN, last + 1)).astype(int))
    tiles = []
    for item in source.some_items(wanted.tolist(), size, channels):
        try:
            with item.open() as read:
                tiles.append(_tile(read.image, size, channels))
        except UserError:
            continue
    if not tiles:
        return None
    return images.encode_png(images.grid(np.stack(tiles), columns=8, scale=max(1, TILE // size)))


def _tile(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Prepares `image` as the network sees it: uint8 [size, size, 4], so that gaps between tiles are transparent."""
    seen = images.from_pixels(images.prepare(image, size, channels))
    return images.prepare(seen, min(size, TILE_MOST), 4)
