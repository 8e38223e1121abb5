"""The samples that are nearest to a training image, each beside it: whether the model has learnt some by heart."""

import contextlib

import numpy as np
import streamlit as st

from ddpm.errors import UserError
from ddpm.runs import near_copies
from ddpm.runs.near_copies import NearCopies, Pair
from ddpm.runs.run_folder import JobFolder
from ddpm.runs.runs import Run
from ddpm.storage import images
from pages.ui.components import thumbnails
from pages.ui.components.markdown import escape
from pages.ui.frame import layout

ANCHOR = "near-copies"
SIDE = 96
SHOWN = 16

HELP = (
    "Distance: 0 for a copy, 1.4 for images that have nothing in common, whatever their brightness and contrast, with"
    " shifts by a pixel allowed. Ratio: this distance as a part of that from the second nearest training image, near 1"
    " where no training image stands out."
)


def link_to_previews(run: Run) -> None:
    """A link to the previews that are near-copies, where there are some."""
    with contextlib.suppress(UserError, OSError):  # which `of_previews` reports
        found = near_copies.read(run)
        if found and found.copied:
            st.markdown(f":material/content_copy: [Previews that are near-copies of training images](#{ANCHOR})")


def of_previews(run: Run) -> None:
    """The newest comparison of the previews of a training, if there was one."""
    with layout.errors():
        found = near_copies.read(run)
        if found is None:
            return
        st.header("Near-copies", anchor=ANCHOR, help=HELP)
        st.markdown(escape(f"{near_copies.words(found)} {unseen(found)}"))
        pairs = st.expander(
            "Closest pairs", bool(found.copied), icon=":material/compare:", key="near_copies", on_change="rerun"
        )
        if pairs.open:
            with pairs:
                show(run, found, "Preview")


def unseen(found: NearCopies) -> str:
    """A sentence on the real images that the threshold comes from."""
    if found.held_out:
        return f"Of {found.unseen:,} held-out images {found.unseen_copied:,} would count as near-copies."
    return (
        f"For comparison, {found.unseen:,} training images were compared with the others: {found.unseen_copied:,} of"
        " them would count as near-copies."
    )


def show(folder: JobFolder, found: NearCopies, what: str) -> None:
    """The closest pairs: sample on the left, training image on the right.  what: the name of a sample."""
    if not found.pairs:
        return
    pixels = near_copies.pairs_in(folder, len(found.pairs))
    with st.grid("auto", min_column_width=2 * SIDE + 8, gap="small"):
        for pair, (sample, training) in zip(found.pairs[:SHOWN], pixels, strict=False):
            with st.container(gap="xsmall"):
                _pair(pair, sample, training, what)


def _pair(pair: Pair, sample: np.ndarray, training: np.ndarray, what: str) -> None:
    """One image of both, as what is beside each other is compared best."""
    gap = np.full((sample.shape[0], max(1, sample.shape[1] // 16), sample.shape[2]), 255, np.uint8)
    shown = training[:, ::-1] if pair.mirrored else training
    both = images.from_pixels(np.ascontiguousarray(np.concatenate([sample, gap, shown], axis=1)))
    mirrored = ", mirrored" if pair.mirrored else ""
    alt = f"{what} {pair.sample} beside training image {pair.training}{mirrored}"
    st.image(thumbnails.png(thumbnails.fitted(both, 2 * SIDE + 6)), output_format="PNG", alt=alt)
    if pair.copied:
        st.badge("near-copy", icon=":material/content_copy:", color="orange")
    numbers = f"distance {pair.distance:,.2f}, ratio {pair.ratio:,.2f}"
    st.caption(escape(f"{pair.sample} · training image {pair.training}{mirrored}: {numbers}"))
