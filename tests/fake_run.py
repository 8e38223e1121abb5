"""A training that only pretends: the run folder it writes is what pages and their tests are built on.

    python tests/fake_run.py NAME --runs_dir runs --steps 2000 --rate 20 --log_interval 1

As a process it holds the lock, beats, appends to progress.csv, samples previews and hears requests, at `rate` steps
a second.  `write` makes the folder of one that has already ended.
"""

import argparse
import io
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from waiting import until

from ddpm.config import codec
from ddpm.config.presets import PRESETS
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.runs import progress_log, runs
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files

NAMES = ("circle", "square", "triangle", "star")


def config(steps: int, **settings: Any) -> Config:
    base = codec.replace(PRESETS["quick-start"].config, dict(class_names=NAMES, num_classes=4))
    return codec.replace(base, dict(total_steps=steps, **settings))


def row(step: int, rng: random.Random, rate: float = 10.0, batch: int = 16) -> dict[str, float]:
    """A line of progress.csv as a small network on easy images would write it."""
    loss = (0.035 + 0.95 * math.exp(-step / 60) + 0.12 * math.exp(-step / 700)) * math.exp(rng.gauss(0, 0.13))
    quarters = {f"q{q}": loss * (1.9, 1.1, 0.6, 0.4)[q] * math.exp(rng.gauss(0, 0.1)) for q in range(4)}
    return {
        "grad_norm": (0.12 + 1.6 * math.exp(-step / 90)) * math.exp(rng.gauss(0, 0.25)),
        "loss": loss,
        "mse": loss,
        **{f"loss_{q}": v for q, v in quarters.items()},
        **{f"mse_{q}": v for q, v in quarters.items()},
        "samples": step * batch,
        "step": step,
        "lr": 1e-3,
        "seconds": step / rate,
        "steps_per_second": rate,
        "param_norm": 60 + step / 500,
        "memory_mb": 412.5,
    }


def image(step: int, total: int, tile: int = 32, side: int = 4) -> bytes:
    """A grid of coloured discs that come out of the noise, as PNG."""
    rng = np.random.default_rng(7)
    clear = min(1.0, 1.4 * step / max(total, 1))
    grid = np.zeros((side * tile, side * tile, 3))
    for k in range(side * side):
        y, x = np.mgrid[:tile, :tile]
        centre, radius = rng.uniform(tile * 0.35, tile * 0.65, 2), rng.uniform(tile * 0.2, tile * 0.32)
        inside = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2)[..., None]
        shape = np.where(inside, rng.uniform(60, 255, 3), rng.uniform(0, 90, 3))
        noise = rng.normal(127, 70, (tile, tile, 3))
        r, c = divmod(k, side)
        grid[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile] = clear * shape + (1 - clear) * noise
    buffer = io.BytesIO()
    Image.fromarray(grid.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def save_preview(run: Run, step: int, total: int) -> None:
    files.write_bytes(run.folder / "samples" / f"{step:06d}.png", image(step, total))


def save_checkpoint(run: Run, step: int, log_bytes: int) -> None:
    """A committed set whose files hold nothing that could be loaded."""
    names = [f"model{step:06d}.pt", f"ema_0.995_{step:06d}.pt", f"opt{step:06d}.pt", f"state{step:06d}.pt"]
    written = {name: files.write_bytes(run.folder / name, b"nothing")._asdict() for name in names}
    manifest = dict(step=step, files=written, log_bytes=log_bytes, seconds=step / 10)
    files.write_json(run.folder / "saves" / f"{step:06d}.json", manifest)


def write(
    runs_dir: Path,
    name: str,
    steps: int = 400,
    state: str = "finished",
    total: int = 0,
    log_interval: int = 1,
    message: str = "",
    warning: str = "",
    nan_from: int = 0,
) -> Run:
    """The folder of a run that has ended in `state`; "running" without a process is one that was lost."""
    total = total or steps
    run = runs.create_run(runs_dir, name, config(total, log_interval=log_interval))
    rng = random.Random(name)
    writer = progress_log.MetricWriter(run.progress_path)
    values: dict[str, float] = {}
    for step in range(log_interval, steps + 1, log_interval):
        values = row(step, rng)
        if nan_from and step >= nan_from:
            values |= dict(loss=math.nan, mse=math.nan, grad_norm=math.nan)
        writer.write(values)
    for step in {steps // 4, steps // 2, steps} - {0}:
        save_preview(run, step, total)
    if steps:
        save_checkpoint(run, steps, writer.sync())
    writer.close()
    last = {k: v if math.isfinite(v) else None for k, v in values.items()}
    status = dict(
        state=state,
        step=steps,
        total_steps=total,
        metrics=last,
        steps_per_second=10.0,
        message=message,
        warning=warning,
        pid=2**22 + 1,
        process_start=1.0,
        updated_at=time.time() - 60,
        beat=steps,
    )
    files.write_json(run.folder / "status.json", status)
    log = [f"step {s}: loss {0.04 + math.exp(-s / 60):.4f}" for s in range(0, steps + 1, max(1, steps // 40))]
    if state == "failed":
        log += ["Traceback (most recent call last):", f"RuntimeError: {message}"]
    run.log_path.write_text("\n".join(log) + "\n", encoding="utf-8")
    return run


def big(runs_dir: Path, name: str, lines: int = 1_000_000) -> Run:
    """A finished run with a long log and one spike, written in blocks."""
    run = write(runs_dir, name, steps=1, total=lines)
    rng = random.Random(0)
    block = [metrics_line(row(k, rng)) for k in range(1000)]
    with open(run.progress_path, "wb") as file:
        file.write((",".join(progress_log.COLUMNS) + "\n").encode())
        for start in range(0, lines, len(block)):
            shifted = (
                values.format(step=start + k + 1, samples=(start + k + 1) * 16, seconds=(start + k + 1) / 10)
                for k, values in enumerate(block)
            )
            file.write(("\n".join(shifted) + "\n").encode())
    status = json.loads((run.folder / "status.json").read_text())
    files.write_json(run.folder / "status.json", {**status, "step": lines, "total_steps": lines})
    return run


def metrics_line(values: dict[str, float]) -> str:
    """A row as text with places for what counts up."""
    return ",".join(
        f"{{{c}}}" if c in ("step", "samples", "seconds") else repr(values[c]) for c in progress_log.COLUMNS
    )


def train(run: Run, rate: float, stop_slowly: bool = False, fail_at: int = 0, stamps: Path | None = None) -> None:
    """Pretend to train, until the end or until asked to stop.  `stamps` takes "step time" a line, for measuring."""
    total, interval = run.config.train.total_steps, run.config.train.log_interval
    rng = random.Random(run.name)
    step = max((c.step for c in run.checkpoints()), default=0)
    with Worker(run.folder, total) as worker:
        writer = progress_log.MetricWriter(run.progress_path)
        worker.beat(state="running", step=step)
        stamp = open(stamps, "a", buffering=1) if stamps else None
        print(f"Pretending to train from step {step} to {total}", flush=True)
        while step < total:
            time.sleep(1 / rate)
            step += 1
            worker.beat(step=step, steps_per_second=rate, seconds_left=(total - step) / rate)
            if step % interval == 0:
                values = row(step, rng, rate)
                writer.write(values)
                if stamp:
                    stamp.write(f"{step} {time.time()}\n")
                worker.beat(metrics=values)
            if step % max(1, int(rate) * 2) == 0:
                print(f"step {step}: loss {row(step, rng)['loss']:.4f}", flush=True)
            heard = worker.poll_requests()
            if "sample" in heard or step % run.config.train.sample_interval == 0:
                save_preview(run, step, total)
            if "save" in heard or step % run.config.train.save_interval == 0:
                save_checkpoint(run, step, writer.sync())
                print(f"saved step {step}", flush=True)
            if fail_at and step >= fail_at:
                raise UserError(
                    "The loss is not a number since step 30: lower lr, or set grad_clip to 1.", code="diverged"
                )
            if "stop" in heard and not stop_slowly:
                worker.beat(message="saving", now=True)
                time.sleep(0.3)
                break
        save_checkpoint(run, step, writer.sync())
        worker.beat(state="finished" if step >= total else "stopped", seconds_left=None, message="", now=True)


@contextmanager
def running(runs_dir: Path, name: str, steps: int = 100_000, rate: float = 20.0, *flags: str) -> Iterator[Run]:
    """The run while a process of its own pretends to train it."""
    arguments = [name, "--runs_dir", str(runs_dir), "--steps", str(steps), "--rate", str(rate), *flags]
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.DEVNULL)
    run = Run(runs_dir / name)
    try:
        until(
            lambda: process.poll() is not None or ((run.folder / "progress.csv").exists() and run.state() == "running")
        )
        assert process.poll() is None, "the fake training ended at once"
        yield run
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=20.0, help="steps a second")
    parser.add_argument("--log_interval", type=int, default=1)
    parser.add_argument("--stop_slowly", action="store_true", help="hear a request to stop, and go on")
    parser.add_argument("--fail_at", type=int, default=0)
    parser.add_argument("--stamps", type=Path)
    options = parser.parse_args()
    run = Run(options.runs_dir / options.name)
    if not run.folder.exists():
        settings = dict(log_interval=options.log_interval, sample_interval=100, save_interval=500)
        run = runs.create_run(options.runs_dir, options.name, config(options.steps, **settings))
    sys.stdout = open(run.log_path, "a", buffering=1, encoding="utf-8")
    train(run, options.rate, options.stop_slowly, options.fail_at, options.stamps)


if __name__ == "__main__":
    main()
