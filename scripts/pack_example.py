"""Packs a finished run as the example that comes with the program: its log, previews, and one average of weights.

python scripts/pack_example.py RUN [WEIGHTS]

WEIGHTS: which average, such as ema_0.99; by default the first.
"""

import dataclasses
import shutil
import sys
from pathlib import Path

from ddpm.checkpoints import checkpoint_files, eight_bits
from ddpm.errors import UserError
from ddpm.runs import example, manifests
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from ddpm.storage import files

PREVIEWS = 6


def pack(run: Run, folder: Path, kind: str = "") -> Checkpoint:
    """Replaces `folder` by a run with an average of the newest checkpoint, in 8 bits, the log and previews.

    kind: which average; empty for the first.

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
    shutil.rmtree(folder, ignore_errors=True)
    packed = Checkpoint(folder, newest.step, {}, 0, newest.seconds)
    small = eight_bits.pack(weights)
    written = files.write(
        packed.path(kind), lambda file: checkpoint_files.save_weights(file, small, run.config, newest.step, kind)
    )
    packed.files[packed.path(kind).name] = written._asdict()
    files.copy(run.folder / "config.json", folder / "config.json")
    log = files.copy(run.progress_path, folder / "progress.csv")
    previews = run.previews()[-PREVIEWS:]
    for _, path in previews:
        files.copy(path, folder / "samples" / path.name)
    status = dataclasses.replace(status, pid=0, process_start=0.0, message="", warning="")
    files.write_json(folder / "status.json", dataclasses.asdict(status))
    packed = packed._replace(log_bytes=log.bytes)
    manifests.commit(packed)
    return packed


def main(folder: str, kind: str = "") -> int:
    """Replace the example by this run; returns the exit code."""
    try:
        packed = pack(Run(Path(folder)), example.ASSET, kind)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in example.ASSET.rglob("*") if path.is_file())
    print(f"{example.ASSET}: step {packed.step:,}, {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
