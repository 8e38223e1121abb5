"""What the probe says of networks whose training is known: right, undetermined or wrong, setting by setting.

    python tests/bench/probe_set.py FOLDER [--only 'NAME;NAME']

Trains tiny networks of every prediction, schedule, T, number of heads and objective on the images that come with the
program, keeps each after 20, 60, 250 and 1,000 steps in FOLDER (those that are there are not trained again), and asks
the probe about every one of them without telling it anything.  A setting that is said to be found and is another is
wrong and makes the exit status 1.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ddpm.checkpoints import checkpoint_files, infer_config, probe
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.planning import architecture
from ddpm.training.trainer import Trainer

STEPS = (20, 60, 250, 1000)
BASE: dict[str, Any] = dict(
    data_dir="cifar10-mini",
    enlarge=True,
    image_size=16,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1,1",
    attention_resolutions="8",
    batch_size=8,
    lr=1e-3,
    ema_rate="0.99",
    threads=1,
    precision="fp32",
)
BOUND = dict(learn_sigma=True, use_kl=True)
WIDER = dict(channel_mult="1,2", attention_resolutions="16,8")  # for other numbers of heads at other levels
SET: dict[str, dict[str, Any]] = {
    "eps linear": dict(num_heads=4),
    "eps cosine": dict(noise_schedule="cosine", num_heads=1),
    "eps cosine 4000 hybrid": dict(noise_schedule="cosine", diffusion_steps=4000, learn_sigma=True, num_heads=2),
    "eps linear 4000 raw": dict(diffusion_steps=4000, rescale_timesteps=False, num_heads=8),
    "x_start linear": dict(prediction="x_start", num_heads=2),
    "x_start cosine 4000 raw": dict(
        prediction="x_start", noise_schedule="cosine", diffusion_steps=4000, rescale_timesteps=False, num_heads=4
    ),
    "x_prev linear": dict(prediction="x_prev", num_heads=4),
    "x_prev cosine": dict(prediction="x_prev", noise_schedule="cosine", num_heads=2),
    "eps cosine bound": dict(noise_schedule="cosine", num_heads=4, **BOUND),
    "eps linear 4000 bound": dict(diffusion_steps=4000, num_heads=1, schedule_sampler="loss-second-moment", **BOUND),
    "x_start linear bound": dict(prediction="x_start", num_heads=8, **BOUND),
    "x_prev cosine 100": dict(prediction="x_prev", noise_schedule="cosine", diffusion_steps=100, num_heads=4),
    "eps linear 100 raw": dict(diffusion_steps=100, rescale_timesteps=False, num_heads=1),
    "x_start cosine 50": dict(prediction="x_start", noise_schedule="cosine", diffusion_steps=50, num_heads=8),
    "eps cosine, 16 channels a head, new order": dict(
        noise_schedule="cosine", num_head_channels=16, use_new_attention_order=True, **WIDER
    ),
    "eps linear, slowly": dict(num_heads=4, lr=1e-4),
    "eps cosine of shapes": dict(noise_schedule="cosine", num_heads=2, data_dir="shapes"),
}


def train(folder: Path, name: str) -> None:
    """Train a network of the set, and keep it after each of STEPS."""
    config = datasets.resolve(codec.replace(Config(), {**BASE, **SET[name]}))
    trainer = Trainer(config, datasets.open_dataset(config.data, config.model))
    began = time.monotonic()
    for report in trainer.steps(STEPS[-1]):
        if report.step in STEPS:
            torch.save(trainer.weights()["model"], path_of(folder, name, report.step))
    print(f"{name}: trained in {time.monotonic() - began:.0f} s", flush=True)


def path_of(folder: Path, name: str, steps: int) -> Path:
    return folder / f"{name.replace(',', '').replace(' ', '_')}_{steps:04d}.pt"


def ask(folder: Path, name: str, steps: int) -> dict[str, str]:
    """Setting -> right, undetermined or wrong."""
    truth = codec.replace(Config(), {**BASE, **SET[name]})
    tensors = checkpoint_files.load_weights(path_of(folder, name, steps)).tensors
    shapes = {key: tuple(t.shape) for key, t in tensors.items()}
    model = infer_config.model_settings(shapes, name, image_size=truth.model.image_size)
    config = codec.replace(Config(), {**model, "data_dir": ""})
    found = probe.verdict(tensors, config, probe.images_for(config)).found
    return {
        setting: _judged(setting, found, truth)
        for setting in ("prediction", "noise_schedule", "timesteps", "attention")
    }


def _judged(setting: str, found: Mapping[str, Any], truth: Config) -> str:
    was = {name: getattr(truth.model if hasattr(truth.model, name) else truth.diffusion, name) for name in probe.NAMES}
    if setting == "timesteps":
        scale = 1000 if was["rescale_timesteps"] else was["diffusion_steps"]
        if "diffusion_steps" in found and found["diffusion_steps"] != was["diffusion_steps"]:
            return "wrong"
        if "rescale_timesteps" not in found:
            return "right" if "diffusion_steps" in found else "undetermined"
        T = found.get("diffusion_steps", was["diffusion_steps"])
        return "right" if scale == (1000 if found["rescale_timesteps"] else T) else "wrong"
    if setting == "attention":
        if "num_heads" not in found:
            return "undetermined"
        said = codec.replace(truth, {name: found[name] for name in probe.ATTENTION})
        heads = [
            [layer.heads for layer in architecture.plan(c.model, 3).layers if isinstance(layer, architecture.Attention)]
            for c in (said, truth)
        ]
        order = max(heads[1]) == 1 or found["use_new_attention_order"] == was["use_new_attention_order"]
        return "right" if heads[0] == heads[1] and order else "wrong"
    if setting not in found:
        return "undetermined"
    return "right" if found[setting] == was[setting] else "wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="names of networks, with semicolons between (default: all)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    counts: dict[str, Counter[str]] = {}
    print(
        "| network | steps | prediction | noise_schedule | timesteps | attention |\n| --- | ---: | --- | --- | --- |"
        " --- |"
    )
    for name in options.only.split(";") if options.only else SET:
        if not path_of(options.folder, name, STEPS[-1]).exists():
            train(options.folder, name)
        for steps in STEPS:
            judged = ask(options.folder, name, steps)
            print(f"| {name} | {steps} | {' | '.join(judged.values())} |", flush=True)
            for setting, verdict in judged.items():
                counts.setdefault(setting, Counter())[verdict] += 1
    for verdict in ("right", "undetermined", "wrong"):
        print(f"| all | {verdict} | {' | '.join(str(count[verdict]) for count in counts.values())} |")
    return int(any(count["wrong"] for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
