"""Form of the Evaluate page for sample quality: weights, samples, and the images that they are compared with."""

import streamlit as st

from ddpm.config import fields
from ddpm.config.quality import QualityConfig
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.errors import UserError
from ddpm.planning import quality_figures
from ddpm.runs.manifests import Checkpoint
from pages.ui.forms import checkpoint_form, image_check, setting_fields

FORM = "quality"
FIELDS = {s.name: s for s in fields.settings(QualityConfig)}
FIRST_FIELDS = ("num_samples", "steps", "sampler", "seed", "classes", "guidance_scale", "split", "half")
OF_CHECKPOINT = ("step", "weights")


def show(config: Config, checkpoints: list[Checkpoint]) -> tuple[QualityConfig, list[str]]:
    """Shows the fields.  Returns their values, and what is wrong with them as sentences."""
    setting_fields.fill_first(FORM, QualityConfig)
    left_out = set() if config.model.class_cond else {"classes"}
    if not config.model.cond_drop_prob:
        left_out.add("guidance_scale")
    checkpoint_form.both(FORM, checkpoints)
    setting_fields.show(FORM, [FIELDS[name] for name in FIRST_FIELDS if name not in left_out], columns=2)
    rest = [s for name, s in FIELDS.items() if name not in (*FIRST_FIELDS, *left_out, *OF_CHECKPOINT)]
    with st.expander("More"):
        setting_fields.show(FORM, rest, columns=2)
    settings, wrong = setting_fields.read(FORM, QualityConfig, skip=left_out)
    if not wrong:
        wrong = _problems(config, settings)
    return settings, wrong


def _problems(config: Config, settings: QualityConfig) -> list[str]:
    """What prevents the evaluation, as far as it can be seen before it starts."""
    try:
        quality_figures.check(settings)
        if not settings.reference:
            datasets.describe(config.data.data_dir, image_check.quick())
    except UserError as error:
        return [str(error)]
    return []


def compared_with(config: Config, settings: QualityConfig) -> str:
    """Says which images the samples are compared with, as plain text."""
    where = settings.reference or config.data.data_dir
    held_out = {"train": "the training images", "test": "the held-out images"}.get(
        settings.split, "the held-out images, or the training images where fewer than 256 are held out,"
    )
    return f"Compared with {held_out} of {where}."
