"""The recipe of samples: the settings that are saved with them and inside each image, to sample the same again.
No torch.
"""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.config import codec, validation
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import classes
from ddpm.planning.resolve import ResolvedSampling
from ddpm.storage import images

FORMAT = 1  # of a recipe; raise it when an old version would sample something else from a new one
MOST_SEED = 2**32 - 1


def command(checkpoint: Path | str, sample: SampleConfig, flags: Sequence[str] = ()) -> str:
    """Returns the shell command that samples the same.  flags: of a file without settings."""
    return shlex.join(["ddpm", "sample", "--model_path", str(checkpoint), *codec.to_flags(sample), *flags])


def of_samples(resolved: ResolvedSampling, weights_config: Config | None, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the recipe of all images of a request.

    weights_config: settings that the file of weights holds; where it holds none, they are in the recipe.  flags: of
    such a file.
    """
    checkpoint = resolved.checkpoint
    return {
        "format": FORMAT,
        "sample": dataclasses.asdict(resolved.request),
        "checkpoint": dict(checkpoint),
        "class_names": list(resolved.config.class_names),
        "command": command(checkpoint["path"], resolved.request, flags),
        **({"config": codec.to_json(resolved.config)} if weights_config is None else {}),
    }


def of_image(
    recipe: Mapping[str, Any],
    config: Config,
    sample: SampleConfig,
    number: int,
    label: int | None,
    given: Path | None,
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the recipe of one image alone; where it cannot be sampled alone, that of all with its `number`.

    given: the file of the image that it begins with.
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
    return {**recipe, "sample": dataclasses.asdict(one), "command": command(recipe["checkpoint"]["path"], one, flags)}


def label_text(config: Config, label: int) -> str:
    """Returns the text that asks for this class: its number, as a range where a number is another's name."""
    text = str(label)
    return f"{text}-{text}" if text in classes.names(config) and classes.names(config).index(text) != label else text


def in_image(path: Path) -> dict[str, Any]:
    """Reads the recipe inside an image.  Raises UserError where it holds none."""
    found = images.settings_in(path)
    if found is None:
        if not path.is_file():
            raise UserError(f"There is no image {path}: check the name.", code="not-found")
        raise UserError(f"{path} holds no settings: name a PNG file as `ddpm sample` wrote it.", code="no-metadata")
    return found


def sample_of(recipe: Mapping[str, Any], name: str) -> SampleConfig:
    """Reads the request of a recipe; settings that an older version did not know have their defaults.

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
        raise UserError(f"{name} holds no settings of samples: name another file.", code="no-metadata")
    before = {"precision": "fp32", "kernels": "torch", "guidance_scale": 1.0}  # all that older versions drew with
    sample = codec.section_from_json(SampleConfig, {**before, **data})
    for problem in validation.limit_problems(sample):
        raise UserError(f"In {name}, {problem.sentence}", code=problem.code)
    return sample


def config_of(recipe: Mapping[str, Any]) -> Config | None:
    """Reads the settings of the model, which a recipe holds where the file of weights does not; else None."""
    return codec.from_json(recipe["config"]) if "config" in recipe else None


class RecordedCheckpoint(NamedTuple):
    """The checkpoint that a recipe names: where it is, and what it must hold."""

    path: Path
    sha256: str
    config: Config | None  # of the model, where its file does not hold it
    name: str  # what errors call the recipe
    remedy: str  # with which they end

    def check(self, sha256: str, size: int) -> None:
        """Raises UserError where a file with this checksum is not the one that was sampled from."""
        if sha256 != self.sha256:
            raise UserError(
                f"{self.path} is not the file that {self.name} was sampled from, as its checksum is another:"
                f" {self.remedy}.",
                code="changed-file",
            )


def checkpoint_of(recipe: Mapping[str, Any], name: str, remedy: str, near: Path | None = None) -> RecordedCheckpoint:
    """Finds the checkpoint that was sampled from.  Its checksum is compared when it is read.

    near: a folder where it may be too, after a run was moved.  remedy: ends the sentences.  Raises UserError.
    """
    about = recipe.get("checkpoint")
    if not isinstance(about, Mapping) or not isinstance(about.get("path"), str):
        raise UserError(f"{name} does not name the checkpoint it was sampled from: {remedy}.", code="no-metadata")
    path = Path(about["path"])
    if near and not path.is_file() and (near / path.name).is_file():
        path = near / path.name
    if not path.is_file():
        raise UserError(f"{path}, which {name} was sampled from, does not exist any more: {remedy}.", code="not-found")
    return RecordedCheckpoint(path, str(about.get("sha256")), config_of(recipe), name, remedy)
