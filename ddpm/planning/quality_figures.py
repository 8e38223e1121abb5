"""What the figures of sample quality mean, and which results may stand side by side.  No torch."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ddpm import formatting
from ddpm.config.quality import QualityConfig
from ddpm.errors import UserError
from ddpm.runs import near_copies
from ddpm.runs.results import quality_text


class Figure(NamedTuple):
    """A figure of a set of images against a reference."""

    title: str
    unit: str
    better: str  # lower, higher, or what it is compared with
    words: str  # what it means
    learned: bool  # True if it is measured in features that were learned from CIFAR-10


FIGURES = {
    "fd": Figure(
        "FD-c10v1",
        "",
        "lower",
        "Fréchet distance of the features of a small network from those of the reference. More images make it smaller:"
        " compare figures of as many.",
        True,
    ),
    "fd_infinity": Figure(
        "FD-c10v1, n → ∞",
        "",
        "lower",
        "The same, extrapolated to infinitely many images. 0 is the best there is, and chance may take it below.",
        True,
    ),
    "kd": Figure(
        "KD-c10v1",
        "",
        "lower",
        "Kernel distance in the same features, which does not depend on the number of images. 0 is the best there is,"
        " and chance may take it below.",
        True,
    ),
    "density": Figure(
        "Density",
        "",
        "near 1",
        "How closely samples lie to reference images, in the same features: low where they are unlike any of them.",
        True,
    ),
    "coverage": Figure(
        "Coverage",
        "",
        "higher",
        "Share of the reference images with a sample in their neighbourhood: low where samples lack variety. At most"
        " about 0.97.",
        True,
    ),
    "patches_fine": Figure(
        "Patches, fine",
        "levels",
        "lower",
        "How far patches of 7 x 7 pixels are from those of the reference, in the finest detail (sliced Wasserstein).",
        False,
    ),
    "patches_coarse": Figure(
        "Patches, coarse",
        "levels",
        "lower",
        "The same at half the size: edges and shapes.",
        False,
    ),
    "spectrum": Figure(
        "Spectrum",
        "dB",
        "lower",
        "How far the power of coarse to fine detail is from that of the reference: noise and blur show here.",
        False,
    ),
    "colour": Figure(
        "Mean colour", "levels", "lower", "How far the mean colour is from that of the reference, of 255.", False
    ),
    "spread": Figure(
        "Spread of colours",
        "",
        "near 1",
        "Standard deviation of the colours over that of the reference: above 1, they are too strong.",
        False,
    ),
    "blockiness": Figure(
        "Blockiness",
        "",
        "as real",
        "Steps between pixels at the edges of 2 x 2 blocks, over those inside: 1 without a grid. JPEG files have one.",
        False,
    ),
}

ROWS = {
    "samples": "Samples",
    "real": "Real images",
    "blurred": "Real images, blurred",
    "noise": "Noise",
}
"""Rows of a panel, as they are shown."""

# What two results must share to stand side by side, and how a sentence names it.
MATTERS = {
    "n": "the number of samples",
    "reference_digest": "the reference images",
    "reference_count": "the number of reference images",
    "half": "the half of the reference",
    "features": "the feature network",
    "version": "how figures are computed",
    "shape": "the size of the images",
}

# What may differ, as it is what is compared; it is said.
SAID = {
    "weights": "weights",
    "step": "training step",
    "sampler": "sampler",
    "nfe": "model evaluations",
    "guidance_scale": "guidance",
    "classes": "classes",
    "seed": "seed",
    "precision": "precision",
}


FEATURES = 128  # numbers in which images are compared
INCEPTION_FEATURES = 2048
LEAST = 256  # images of each set: a covariance of 128 features needs more than 128 images to have full rank


def check(settings: QualityConfig, has_model: bool = True) -> None:
    """Raises UserError for settings that cannot be measured."""
    if not has_model and not settings.samples:
        raise UserError(
            "Neither a model nor images are named: give --run NAME or --model_path FILE, or --samples with an .npz file"
            " or a folder.",
            code="missing-value",
        )
    if not has_model and not settings.reference:
        raise UserError(
            "No images to compare with are named: give --reference with a folder, an .npz file or a data set, or --run"
            " with the run whose data it is.",
            code="missing-value",
        )
    if settings.num_samples < LEAST:
        raise UserError(
            f"num_samples is {settings.num_samples}, and distances in {FEATURES} features need at least {LEAST} images:"
            " ask for more.",
            code="too-few-images",
        )
    if settings.inception:
        check_inception(settings.num_samples, "samples")


def check_inception(count: int, what: str) -> None:
    """Raises UserError for fewer images than FID is measured of.  what: the images, in words."""
    if count <= INCEPTION_FEATURES:
        raise UserError(
            f"There are {count:,} {what}, and FID is a distance in {INCEPTION_FEATURES:,} features, which takes more"
            f" images than that: use at least {INCEPTION_FEATURES + 1:,}, or leave out --inception.",
            code="too-few-images",
        )


def comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Says in what two results, as recorded under `about`, differ so that they cannot be compared; empty if they can.

    Each is like "the number of samples (2,000 and 500)".
    """
    found = []
    for name, words in MATTERS.items():
        a, b = one.get(name), other.get(name)
        if a != b:
            found.append(f"{words} ({_short(name, a)} and {_short(name, b)})")
    return found


def also_differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Says what else two results differ in, and may."""
    return [
        f"{words} ({_short(name, one.get(name))} and {_short(name, other.get(name))})"
        for name, words in SAID.items()
        if one.get(name) != other.get(name)
    ]


def check_comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raises UserError if two results differ in what matters."""
    if apart := comparable(one, other):
        raise UserError(
            f"These results differ in {', '.join(apart)}, so their figures say nothing about which is better: measure"
            " one of them again, with the settings of the other.",
            code="not-comparable",
        )


def _short(name: str, value: object) -> str:
    if name == "reference_digest":
        return str(value)[:8]
    if name == "shape" and isinstance(value, Sequence):
        return " x ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value in (None, "") else str(value)


def is_like_cifar10(result: Mapping[str, Any]) -> bool:
    """True if the reference is as near to CIFAR-10's test images as the farthest of their classes is."""
    return float(result["nearness"]) <= float(result["farthest_class"])


def applicability(result: Mapping[str, Any]) -> str:
    """Says which figures mean something for the reference of a result; empty where all do."""
    if is_like_cifar10(result):
        return ""
    return (
        "The reference is unlike the photographs of CIFAR-10 from which the features were learned (at a distance of"
        f" {formatting.number(result['nearness'], 3)}, and its farthest class is at"
        f" {formatting.number(result['farthest_class'], 3)}): FD, KD, density and coverage rank samples of this data"
        " roughly, at best; patches, spectrum and colours mean what they say."
    )


def described(about: Mapping[str, Any]) -> str:
    """What a result's figures were measured with, in one line."""
    part = {"train": "training images", "test": "held-out images"}.get(str(about["part"]), "images")
    half = f", {about['half']} half" if about["half"] else ""
    words = [
        f"{about['n']:,} samples against {about['reference_count']:,} {part}{half}",
        f"reference {str(about['reference_digest'])[:8]}",
    ]
    if about.get("sampler"):
        words += [
            f"step {about['step']:,}",
            f"{'raw weights' if about['weights'] == 'model' else about['weights']}",
            f"{about['sampler']} with {about['nfe']} model evaluations",
            f"guidance {formatting.number(about['guidance_scale'])}",
            f"seeds {about['seed']} to {about['seed'] + about['n'] - 1}",
            str(about["precision"]),
        ]
    words += [f"features {about['features']}", f"version {about['version']}"]
    return " · ".join(words)


def table(result: Mapping[str, Any], markdown: bool = False) -> str:
    """The panel as a table of text: a figure a line, a set of images a column."""
    rows = {row["name"]: row for row in result["rows"]}
    names = [name for name in ROWS if name in rows]
    head = ["", *(f"{ROWS[name]} ({rows[name]['n']:,})" for name in names), ""]
    body = [
        [
            f"{figure.title}{f' [{figure.unit}]' if figure.unit else ''}",
            *(quality_text(rows[name]["figures"][key]) for name in names),
            figure.better,
        ]
        for key, figure in FIGURES.items()
    ]
    return formatting.table(head, body, markdown)


def columns(
    names: Sequence[str], results: Sequence[Mapping[str, Any]]
) -> list[tuple[str, dict[str, list[float | None]]]]:
    """Figures of the samples of several results, and of the real images of the first, each with its name."""
    found = [(name, _row(result, "samples")) for name, result in zip(names, results, strict=True)]
    return [*found, (ROWS["real"], _row(results[0], "real"))]


def further(result: Mapping[str, Any]) -> list[str]:
    """What a result says of near-copies of training images, and of FID, a sentence each."""
    lines = []
    if found := result.get("copies"):
        lines.append(near_copies.in_words(found))
    if note := result.get("copies_note"):
        lines.append(note)
    if fid := result.get("inception"):
        values = ", ".join(f"{formatting.number(value)} ({name} resizing)" for name, value in fid["fid"].items())
        lines.append(f"FID: {values}, with Inception weights {fid['sha256'][:8]}.")
    return lines


def side_by_side(names: Sequence[str], results: Sequence[Mapping[str, Any]], markdown: bool = False) -> str:
    """The same as a table of text, a result a column."""
    found = columns(names, results)
    body = [
        [figure.title, *(quality_text(figures[key]) for _, figures in found), figure.better]
        for key, figure in FIGURES.items()
    ]
    return formatting.table(["", *(name for name, _ in found), ""], body, markdown)


def _row(result: Mapping[str, Any], name: str) -> dict[str, list[float | None]]:
    return next((row["figures"] for row in result["rows"] if row["name"] == name), {})


def meaning(result: Mapping[str, Any]) -> list[str]:
    """What the figures of the samples say, a sentence or two for each, the samples' values among the real images'."""
    samples, real = _row(result, "samples"), _row(result, "real")
    return [
        f"{figure.title}: {quality_text(samples[key])}, of real images {quality_text(real[key])}. {figure.words}"
        for key, figure in FIGURES.items()
    ]
