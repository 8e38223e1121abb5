"""Opens a model: from a run, from anyone's checkpoint file, or from what a sample records of its checkpoint."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddpm.checkpoints import checkpoint_files, fitting, identify, probe
from ddpm.checkpoints.checkpoint_files import LoadedCheckpoint, Weights
from ddpm.checkpoints.weights import FileState
from ddpm.compute import distributed
from ddpm.config import codec, fields
from ddpm.config.tasks import FromCheckpoint
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.models import unet
from ddpm.models.unet import UNet
from ddpm.planning.metadata import RecordedCheckpoint
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from ddpm.storage import files

Source = Run | Path | RecordedCheckpoint


@dataclass(frozen=True)
class OpenedModel:
    """A model that was read from a file: its weights, its settings, and the file they came from."""

    weights: Weights
    config: Config
    """Settings that the model was trained with, from its file or as identified."""
    path: Path
    """Absolute path of the file."""
    sha256: str
    """Checksum of the bytes that were read."""
    state: FileState
    """Size and time of the file that was read."""

    @property
    def origin(self) -> dict[str, Any]:
        """Where the weights came from, as it is recorded with every result."""
        weights = self.weights
        return {"path": str(self.path), "step": weights.step, "weights": weights.kind, "sha256": self.sha256}

    def network(self, device: torch.device | str = "cpu") -> UNet:
        """Builds the U-Net with these weights, in evaluation mode.  Raises UserError where they do not fit."""
        return build_network(self.weights.tensors, self.config, self.path.name, device)

    def flags(self, section: type[FromCheckpoint]) -> list[str]:
        """Flags that make a command read a file without settings as `config`; none where the file holds its own.

        All that shapes do not determine is written out, and the probe is switched off: another time it might find
        something else.  Settings that `section` has too are left to its own flags.
        """
        if self.weights.config is not None:
            return []
        flags = ["--probe", "False"]
        for part in (self.config.model, self.config.diffusion):
            own = {s.name: getattr(part, s.name) for s in fields.settings(type(part))}
            shared = {s.name: own[s.name] for s in fields.settings(section) if s.name in own}
            base = dataclasses.replace(type(part)(), **shared)
            flags += codec.to_flags(part, base, always=("image_size", *probe.NAMES))
        return flags

    def file_change(self) -> str:
        """Returns what became of the file since it was read: "removed", "replaced", or "" where it is the same.

        It is hashed again only where its size or time is another.
        """
        if not self.path.is_file():
            return "removed"
        if FileState.of(self.path.stat()) == self.state or files.sha256(self.path) == self.sha256:
            return ""
        return "replaced"


def open_model(
    source: Source,
    wanted: FromCheckpoint,
    flags: Mapping[str, Any] | None = None,
    base: Config | None = None,
    run_probe: bool = True,
) -> OpenedModel:
    """Reads the weights that are wanted and their settings; of several processes, the main one reads for all.

    The file is hashed once, and compared with the checksum of the run's manifest or of the record.  No other file of a
    checkpoint of this program is read.  flags, base, run_probe: see `resolve_config`.  Raises UserError.
    """
    return distributed.run_on_main(lambda: _open(source, wanted, flags or {}, base, run_probe))


def _open(
    source: Source, wanted: FromCheckpoint, flags: Mapping[str, Any], base: Config | None, run_probe: bool
) -> OpenedModel:
    match source:
        case Run():
            path, loaded = checkpoint_files.with_checkpoint(
                source, wanted.step, lambda found: _read(source, found, wanted.weights)
            )
        case RecordedCheckpoint():
            path, loaded = source.path, checkpoint_files.load_checkpoint(source.path, source.check)
        case Path():
            path = Path(fields.absolute(str(source)))
            loaded = checkpoint_files.load_checkpoint(path)
            _check_same(path, loaded.weights, wanted)
    recorded = source.config if isinstance(source, RecordedCheckpoint) else None
    config = recorded or resolve_config(loaded.weights, flags, path, base, run_probe)
    return OpenedModel(loaded.weights, config, path, loaded.sha256, loaded.state)


def _check_same(path: Path, weights: Weights, wanted: FromCheckpoint) -> None:
    """Raises UserError where other weights, or those of another step, are asked for than a file holds."""
    for name, asked, held in (("weights", wanted.weights, weights.kind), ("step", wanted.step, weights.step)):
        if asked and held and asked != held:  # other programs say neither
            raise UserError(
                f"{path} holds {name} {held}, but {name} {asked} was asked for: leave that out, or name another file.",
                code="settings-are-fixed",
            )


def _read(run: Run, checkpoint: Checkpoint, kind: str) -> tuple[Path, LoadedCheckpoint]:
    kind = kind or checkpoint.weights[0]
    if kind not in checkpoint.weights:
        raise UserError(
            f"{run.name} has no weights {kind!r}: choose among {', '.join(checkpoint.weights)}.", code="missing-weights"
        )
    path = Path(fields.absolute(str(checkpoint.path(kind))))
    remedy = "Use another checkpoint, with --step."
    try:
        size = run.content.stat(path.name).st_size  # raises UserError if it is a link, or anything but a file
    except FileNotFoundError:
        raise UserError(
            f"{path.name} of step {checkpoint.step} is missing. {remedy}", code="damaged-checkpoint"
        ) from None

    def check(sha256: str, size: int) -> None:
        if wrong := checkpoint_files.mismatch(checkpoint, path.name, size, sha256):
            raise UserError(f"{wrong} {remedy}", code="damaged-checkpoint")

    if size != checkpoint.files[path.name]["bytes"]:
        check("", size)  # before all of it is read
    return path, checkpoint_files.load_checkpoint(path, check)


def resolve_config(
    weights: Weights, flags: Mapping[str, Any], source: Path, base: Config | None = None, run_probe: bool = True
) -> Config:
    """Returns the settings of a file of weights: its own, or where it holds none, identified ones.

    flags: model and diffusion settings that were given.  base: gives the sizes of a super-resolution model where
    `flags` do not.  run_probe: whether denoising a few images checks what shapes do not determine.  Raises UserError
    where flags contradict the file.
    """
    if weights.config is None:
        sizes = (
            {n: getattr(base.model, n) for n in ("image_size", "small_size")} if base and base.model.super_res else {}
        )
        return identify.settings_of(weights.tensors, {**sizes, **flags}, source, run_probe)
    same = codec.replace(weights.config, flags)
    if same != weights.config:
        changed = codec.differences(weights.config, same).items()
        other = [f"--{name} {new} (trained with {old})" for name, (old, new) in changed]
        raise UserError(
            f"{source.name} was trained with other settings than {', '.join(other)}: leave these flags out, it knows"
            " its own.",
            code="settings-are-fixed",
        )
    return weights.config


def build_network(
    tensors: Mapping[str, torch.Tensor], config: Config, source: str, device: torch.device | str = "cpu"
) -> UNet:
    """Builds the U-Net around `tensors`, which it shares where they are float32, in evaluation mode.

    tensors: name -> [...].  source: the file's name, for the UserError that is raised where they do not fit.
    """
    with torch.device("meta"):
        network = unet.build(config.model)
    fitting.compare(network, tensors, source)
    network.load_state_dict({name: t.float().contiguous() for name, t in tensors.items()}, assign=True)
    return network.to(device).eval()
