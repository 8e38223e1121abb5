"""Seconds from the start of `ddpm sample` to the first model evaluation, with a checkpoint of the size of
cifar10-paper.

python tests/bench/bench_first_call.py [ROUNDS [OTHER]]

OTHER is another checkout of this program, measured in turn with this one.  Printed are medians of the seconds, and
of the bytes that the process read until then; the run holds weights, averages, optimiser and state, of an untrained
network.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ddpm.checkpoints import checkpoint_files
from ddpm.config import codec
from ddpm.config.presets import PRESETS
from ddpm.models import unet
from ddpm.runs import runs

ROOT = Path(__file__).resolve().parents[2]

# Runs the command line, and leaves at the first model evaluation with what there is to say.
PROGRAM = """
import hashlib, importlib.util, os, runpy, sys, time
hashed, digest = [], hashlib.file_digest
def counted(file, name):
    hashed.append(os.fstat(file.fileno()).st_size)
    return digest(file, name)
hashlib.file_digest = counted
def first(*given, **more):
    read = next(int(line.split()[1]) for line in open("/proc/self/io") if line.startswith("rchar"))
    print("FIRST", time.time(), read, sum(hashed), flush=True)
    os._exit(0)
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name not in ("ddpm.models.unet", "ddpm.unet"):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def loaded(module):
            load(module)
            module.UNet.forward = first
        spec.loader.exec_module = loaded
        return spec
sys.meta_path.insert(0, Watch())
runpy.run_module("ddpm", run_name="__main__", alter_sys=True)
"""


def make_run(folder: Path) -> Path:
    """Saves a checkpoint of the preset's network."""
    config = codec.replace(PRESETS["cifar10-paper"].config, dict(data_dir="shapes"))
    run = runs.create_run(folder, "large", config)
    weights = unet.build(config.model).state_dict()
    moments = {
        k: {"step": torch.tensor(1.0), "exp_avg": w, "exp_avg_sq": w.square()} for k, w in enumerate(weights.values())
    }
    optimizer = {"state": moments, "param_groups": [{"params": list(moments)}]}
    kinds = ["model", *(f"ema_{rate}" for rate in config.train.ema_rates)]
    saved = checkpoint_files.save(run, 1, dict.fromkeys(kinds, weights), optimizer, {}, 0, 1.0)
    size = saved.files[saved.path(saved.weights[0]).name]["bytes"]
    print(
        f"a file of weights has {size / 1e6:.0f} MB, the checkpoint"
        f" {sum(f['bytes'] for f in saved.files.values()) / 1e6:.0f} MB"
    )
    return folder


def first_call(checkout: Path, folder: Path) -> tuple[float, float, float]:
    """Seconds, bytes read and bytes hashed until the first model evaluation."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", PROGRAM, "sample", "--run", "large", "--runs_dir", str(folder)]
        command += ["--num_samples", "1", "--steps", "10", "--out", f"{out}/samples"]
        began = time.time()
        done = subprocess.run(
            command, cwd=out, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True, text=True
        )
    found = re.search(r"FIRST (\S+) (\d+) (\d+)", done.stdout)
    if not found:
        raise SystemExit(done.stderr)
    return float(found[1]) - began, float(found[2]), float(found[3])


def main(rounds: int = 5, other: Path | None = None) -> None:
    """Measures this checkout, and the other one, in turn."""
    checkouts = {"this": ROOT, **({"other": other} if other else {})}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder))
        for number in range(rounds + 1):
            for name, checkout in checkouts.items():
                measured = first_call(checkout, Path(folder))
                if number:  # the first round compiles, and fills the disk's cache
                    found[name].append(measured)
    for name, measured in found.items():
        seconds, read, hashed = (statistics.median(column) for column in zip(*measured, strict=True))
        spread = [one[0] for one in measured]
        print(
            f"{name:6} {seconds:5.2f} s ({min(spread):.2f} to {max(spread):.2f}), {read / 1e6:5.0f} MB read,"
            f" {hashed / 1e6:5.0f} MB hashed"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5, Path(sys.argv[2]) if sys.argv[2:] else None)
