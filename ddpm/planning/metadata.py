"""The recipe of drawn pictures: what is written beside them and into each, and read back to draw them again.  No torch."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm.config import codec, validation
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import classes
from ddpm.storage import files, images

FORMAT = 1  # of a recipe; raise it when an old version would draw something else from a new one
MOST_SEED = 2**32 - 1


def command(checkpoint: Path | str, sample: SampleConfig, told: Sequence[str] = ()) -> str:
    """What draws the same in a shell; `told`: flags of a file without settings."""
    return shlex.join(["ddpm", "sample", "--model_path", str(checkpoint), *codec.to_flags(sample), *told])


def of_picture(
    recipe: Mapping[str, Any],
    config: Config,
    sample: SampleConfig,
    number: int,
    label: int | None,
    given: Path | None,
    told: Sequence[str] = (),
) -> dict[str, Any]:
    """The recipe of one of the pictures alone; where it cannot be drawn alone, that of all with its `number`.

    given: the file of the picture that it begins with.
    """
    seed = sample.seed + number
    if sample.task == "interpolate" or sample.base_samples or seed > MOST_SEED:
        return {**recipe, "number": number}
    one = dataclasses.replace(
        sample,
        num_samples=1,
        seed=seed,
        classes="" if label is None else label_text(config, label),
        picture=str(given) if given else sample.picture,
    )
    return {**recipe, "sample": dataclasses.asdict(one), "command": command(recipe["checkpoint"]["path"], one, told)}


def label_text(config: Config, label: int) -> str:
    """What asks for this class: its number, as a range where a number is another's name."""
    text = str(label)
    return f"{text}-{text}" if text in classes.names(config) and classes.names(config).index(text) != label else text


def in_picture(path: Path) -> dict[str, Any]:
    """The recipe that a picture carries.  Raises UserError where it carries none."""
    found = images.settings_in(path)
    if found is None:
        if not path.is_file():
            raise UserError(f"There is no picture {path}: check the name.", code="not-found")
        raise UserError(
            f"{path} carries no settings: name a PNG file that `ddpm sample` drew, as it wrote it.", code="no-metadata"
        )
    return found


def sample_of(recipe: Mapping[str, Any], name: str) -> SampleConfig:
    """Its sample settings; those that an older version did not know have their defaults.

    name: what errors call the file.  Raises UserError for those of a newer version, and for what is wrong.
    """
    number, data = recipe.get("format", FORMAT), recipe.get("sample")
    if not isinstance(number, int) or number > FORMAT:
        raise UserError(
            f"The settings in {name} were written by a newer version (format {number}, and this one reads {FORMAT}):"
            " update DDPM Workbench.",
            code="newer-format",
        )
    if not isinstance(data, Mapping):
        raise UserError(f"{name} holds no settings of a drawing: name another file.", code="no-metadata")
    before = {"precision": "fp32", "kernels": "torch"}  # all that older versions drew with
    sample = codec.section_from_json(SampleConfig, {**before, **data})
    for problem in validation.limit_problems(sample):
        raise UserError(f"In {name}, {problem.sentence}", code=problem.code)
    return sample


def config_of(recipe: Mapping[str, Any]) -> Config | None:
    """The model's settings, where its file does not hold them."""
    return codec.from_json(recipe["config"]) if "config" in recipe else None


def checkpoint_of(recipe: Mapping[str, Any], name: str, remedy: str, near: Path | None = None) -> Path:
    """The file that was drawn from, with the content that it had.

    near: a folder where it may be too, after a run was moved.  remedy: ends the sentences.  Raises UserError.
    """
    about = recipe.get("checkpoint")
    if not isinstance(about, Mapping) or not isinstance(about.get("path"), str):
        raise UserError(f"{name} does not say which checkpoint it was drawn from: {remedy}.", code="no-metadata")
    path = Path(about["path"])
    if near and not path.is_file() and (near / path.name).is_file():
        path = near / path.name
    if not path.is_file():
        raise UserError(f"{path}, from which {name} was drawn, is not there any more: {remedy}.", code="not-found")
    if files.sha256(path) != about.get("sha256"):
        raise UserError(
            f"{path} is not the file from which {name} was drawn, its checksum is another: {remedy}.",
            code="changed-file",
        )
    return path
