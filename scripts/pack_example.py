"""Packs a finished run as the example that comes with the program: its log, one average of weights, and samples of its
checkpoints.

python -m scripts.pack_example RUN [WEIGHTS [DATA]]

WEIGHTS: which average, such as ema_0.99; by default the first.  DATA: the name of its data set, where the run has a
folder of this machine.
"""

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm.checkpoints import checkpoint_files, eight_bits, loading
from ddpm.config import codec
from ddpm.config.tasks import SampleConfig
from ddpm.errors import UserError
from ddpm.models import backend
from ddpm.planning import guidance
from ddpm.runs import example, manifests
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from ddpm.sampling import engine
from ddpm.sampling.request import resolve_request
from ddpm.storage import files, images

PREVIEWS = 6


def pack(run: Run, folder: Path, kind: str = "", data_dir: str = "") -> Checkpoint:
    """Replaces `folder` by a run with an average of the newest checkpoint, in 8 bits, its log, and samples.

    kind: which average; empty for the first.  data_dir: what the settings name as data; empty for what the run has.

    Raises UserError for a run that is not finished or keeps no average, and for a damaged checkpoint.
    """
    status, newest = run.status(), run.checkpoint()
    if not status or run.state() != "finished":
        raise UserError(
            f"{run.name} is {run.state()}, but an example needs a finished run: let it finish.", code="still-running"
        )
    averages = [name for name in newest.weights if name.startswith("ema")]
    if not averages:
        raise UserError(
            f"{run.name} has no average of its weights, which gives the best samples: train one with --ema_rate.",
            code="missing-weights",
        )
    kind = kind or averages[0]
    if kind not in averages:
        raise UserError(
            f"{run.name} has no weights {kind}: choose among {', '.join(averages)}.", code="missing-weights"
        )
    if wrong := checkpoint_files.damage(newest):
        raise UserError(f"{wrong} Pack another run.", code="damaged-checkpoint")
    weights = checkpoint_files.load_weights(newest.path(kind)).tensors
    made = folder.with_name(f"{folder.name}.new")  # takes the place of the old one when it is whole
    shutil.rmtree(made, ignore_errors=True)
    packed = Checkpoint(made, newest.step, {}, 0, newest.seconds)
    small = eight_bits.pack(weights)
    config = codec.replace(run.config, {"data_dir": data_dir} if data_dir else {})
    written = files.write(
        packed.path(kind), lambda file: checkpoint_files.save_weights(file, small, config, newest.step, kind)
    )
    packed.files[packed.path(kind).name] = written._asdict()
    files.write_json(made / "config.json", codec.to_json(config))
    log = files.copy(run.progress_path, made / "progress.csv")
    able = [checkpoint for checkpoint in run.checkpoints() if kind in checkpoint.weights]
    for checkpoint in _spread(able, PREVIEWS):
        images.save_png(made / "samples" / f"{checkpoint.step:06d}.png", images.grid(_sampled(run, checkpoint, kind)))
    nobody: dict[str, Any] = dict(
        pid=0, process_start=0.0, host="", boot="", start=0.0, message="", warning="", sharing=""
    )
    status = dataclasses.replace(status, **nobody)
    files.write_json(made / "status.json", dataclasses.asdict(status))
    packed = packed._replace(log_bytes=log.bytes)
    manifests.commit(packed)
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)
    return packed._replace(folder=folder)


def _spread(checkpoints: Sequence[Checkpoint], count: int) -> list[Checkpoint]:
    """At most `count` of the checkpoints, evenly from the first to the last."""
    numbers = np.linspace(0, len(checkpoints) - 1, min(count, len(checkpoints))).round().astype(int)
    return [checkpoints[number] for number in numbers]


def _sampled(run: Run, checkpoint: Checkpoint, kind: str) -> np.ndarray:
    """Samples of a checkpoint, always from the same noise, uint8 [N, H, W, C]: with guidance, which previews lack."""
    scale = example.SAMPLE.guidance_scale if guidance.is_supported(run.config.model) else 1.0
    wanted = SampleConfig(num_samples=16, steps=25, guidance_scale=scale, step=checkpoint.step, weights=kind)
    opened = loading.open_model(run, wanted)
    mode = backend.resolve_backend("auto", "auto", torch.device("cpu"))
    return engine.sample_images(mode.prepared(opened.network()), resolve_request(opened.config, wanted, mode))


def main(folder: str, kind: str = "", data_dir: str = "") -> int:
    """Replace the example by this run; returns the exit code."""
    try:
        packed = pack(Run(Path(folder)), example.ASSET, kind, data_dir)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in example.ASSET.rglob("*") if path.is_file())
    print(f"{example.ASSET}: step {packed.step:,}, {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
