"""Trains the network whose features images are compared in (`ddpm.quality.feature_net`), on CIFAR-10's training half.

python -m scripts.train_feature_net OUT.npz --data DIR [DIR ...] --test DIR [--epochs 20] [--seed 0] [--threads 1]

DIR: a folder with a folder of images for each class, or an .npz file, of the ten classes of CIFAR-10.  One that comes
with the program is in ddpm/assets/feature_net.npz, and is frozen: every figure that was ever measured with it names its
checksum.  It was trained on the 50,000 training images as JPEG files (quality 75, colour at half the resolution)
together with 5,085 of them without loss, as the official files could not be had, for 20 epochs; it names the class of
87.1 % of the 10,000 test images, which are JPEG files too.  So that features tell little of JPEG, images are mirrored
and shifted by up to four pixels, which moves its blocks; a quarter of them are compressed once more, at a quality of 50
to 95, and an eighth blurred, by less than a pixel.

The test images serve for the accuracy that is printed, and for mean and covariance of their features, which are in the
file.  The same arguments give the same file on the same machine with the same number of threads.
"""

import argparse
import io
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from ddpm.config.model import ModelConfig
from ddpm.config.training import DataConfig
from ddpm.data import datasets
from ddpm.errors import UserError
from ddpm.quality import feature_net
from ddpm.quality.distances import Gaussian, frechet, gaussian
from ddpm.quality.features import FeatureNet
from ddpm.storage import arrays, files

BATCH = 128
PEAK_LR, MOMENTUM, DECAY, SMOOTHING = 0.1, 0.9, 5e-4, 0.1
WARM_UP = 0.2  # share of the steps
SHIFT = 4  # pixels
RECOMPRESSED, BLURRED = 1 / 4, 1 / 8  # shares of the images


def read(paths: list[str], split: datasets.Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images uint8 [N, 32, 32, 3] of some data sets, and their classes int64 [N]."""
    model = ModelConfig(image_size=feature_net.SIZE)
    images, labels = [], []
    for path in paths:
        data = datasets.open_dataset(DataConfig(data_dir=path), model, split=split)
        if data.labels is None or len(data.class_names) != feature_net.CLASSES:
            raise UserError(
                f"{path} has {len(data.class_names)} classes, and CIFAR-10 has {feature_net.CLASSES}: name its images.",
                code="no-classes",
            )
        numbers = np.arange(len(data))
        images.append(data.take(numbers)[0])
        labels.append(data.labels[numbers if data.indices is None else data.indices])
    return np.concatenate(images), np.concatenate(labels)


def augment(pixels: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Returns images uint8 [N, 32, 32, 3] as float32 [N, 3, 32, 32] in [-1, 1], changed as the module says."""
    chance = rng.random(len(pixels))
    pixels = pixels.copy()
    for k in np.flatnonzero(chance < RECOMPRESSED):
        file = io.BytesIO()
        Image.fromarray(pixels[k]).save(file, "JPEG", quality=int(rng.integers(50, 96)))
        pixels[k] = np.asarray(Image.open(file))
    x = to_float(pixels)
    blurred = np.flatnonzero(chance > 1 - BLURRED)
    weight = torch.from_numpy(rng.uniform(0, 0.15, (len(blurred), 1, 1, 1)).astype(np.float32))
    part = functional.pad(x[blurred], (1, 1, 1, 1), mode="reflect")
    for dim in (2, 3):  # [w, 1 - 2 w, w] along each axis
        rest = part.shape[dim] - 2
        left, middle, right = (part.narrow(dim, k, rest) for k in range(3))
        part = weight * (left + right) + (1 - 2 * weight) * middle
    x[blurred] = part
    x = functional.pad(x, (SHIFT,) * 4, mode="reflect")
    size = feature_net.SIZE
    moves = rng.integers(0, 2 * SHIFT + 1, (len(x), 2))
    mirrored = rng.random(len(x)) < 0.5
    cut = [
        x[k, :, down : down + size, right : right + size].flip(2 if mirrored[k] else ())
        for k, (down, right) in enumerate(moves)
    ]
    return torch.stack(cut)


def to_float(pixels: np.ndarray) -> torch.Tensor:
    """Returns images uint8 [N, H, W, C] as float32 [N, C, H, W] in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> feature_net.TrainedNet:
    """Trains the network with stochastic gradient descent, and prints the loss of each epoch."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = feature_net.TrainedNet()
    optimizer = torch.optim.SGD(net.parameters(), PEAK_LR, MOMENTUM, weight_decay=DECAY, nesterov=True)
    per_epoch = len(images) // BATCH
    steps = epochs * per_epoch
    for epoch in range(epochs):
        began, losses = time.monotonic(), 0.0
        order = rng.permutation(len(images))
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            share = (step + 1) / steps
            for group in optimizer.param_groups:
                group["lr"] = PEAK_LR * min(share / WARM_UP, (1 - share) / (1 - WARM_UP))
            chosen = order[step % per_epoch * BATCH :][:BATCH]
            x = augment(images[chosen], rng)
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(x)
            loss = functional.cross_entropy(logits.float(), torch.from_numpy(labels[chosen]), label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item()
        print(f"epoch {epoch + 1}: loss {losses / per_epoch:.4f}, {time.monotonic() - began:.0f} s", flush=True)
    return net.eval()


@torch.no_grad()
def accuracy(weights: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of images uint8 [N, 32, 32, 3] whose class the network in a file names."""
    held = {name: torch.from_numpy(values).float() for name, values in weights.items()}
    right = 0
    for start in range(0, len(images), 500):
        found = feature_net.features(held, to_float(images[start : start + 500]))
        logits = found @ held["classifier.weight"].T + held["classifier.bias"]
        right += int((logits.argmax(1).numpy() == labels[start : start + 500]).sum())
    return right / len(images)


def with_statistics(weights: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Adds the scale of the features, and what test images uint8 [N, 32, 32, 3] have: mean, covariance, and how far
    the farthest of their classes is from all of them.
    """
    found = FeatureNet(packed(weights)).features(images)
    scale = np.float32(1 / np.sqrt(np.diag(gaussian(found).covariance).mean()))
    found = scale * found
    whole = gaussian(found)
    kept = Gaussian(*(values.astype(np.float32) for values in whole))
    farthest = max(frechet(gaussian(found[labels == label]), whole) for label in range(feature_net.CLASSES))
    more = {"scale": scale, "mean": kept.mean, "covariance": kept.covariance, "farthest_class": np.float32(farthest)}
    return {**weights, **{name: np.asarray(value) for name, value in more.items()}}


def packed(held: dict[str, np.ndarray]) -> bytes:
    """Returns the content of an .npz file of these arrays."""
    file = io.BytesIO()
    np.savez(file, **held)  # type: ignore[arg-type]
    return file.getvalue()


def main() -> int:
    """Trains the network and writes its file; returns the exit code."""
    parser = argparse.ArgumentParser(description="Train the feature network.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", type=Path, help="an .npz of a trained network, in place of training one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        test = read([options.test], "all")
        if options.weights:
            weights = {name: values for name, values in arrays.read_npz(options.weights).items() if "." in name}
        else:
            weights = feature_net.folded(train(*read(options.data, "train"), options.epochs, options.seed))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    content = packed(with_statistics(weights, *test))
    written = files.write_bytes(options.out, content)
    print(f"{100 * accuracy(weights, *test):.2f} % of {len(test[0]):,} test images right")
    print(f"{options.out}: {written.bytes:,} bytes, sha256 {written.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
