"""What many images cost: python tests/bench/bench_many_images.py [--images 5000000] [--folder DIR]

Makes tar shards of tiny images, and measures in processes of their own the making of the index, opening the data with
it, a first batch and a batch from the middle of an epoch, with and without held-out images: seconds, and the most
memory of the process.  The shards take 2 KB an image, in a temporary folder or in --folder, where they stay.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
EACH = 10_000  # images of a shard
KINDS = 2000  # different images; a number behind the last byte makes each file another one
CLASSES = 1000


def entry(name: str, content: bytes, known: dict[tuple[int, int], bytes] = {}) -> bytes:  # noqa: B006
    """An entry of a tar archive: header, content, and zeros up to the next block."""
    alike = (len(name), len(content))
    if alike not in known:
        member = tarfile.TarInfo("0" * len(name))
        member.size = len(content)
        known[alike] = member.tobuf(tarfile.USTAR_FORMAT)
    header = bytearray(known[alike])
    total = int(bytes(header[148:154]), 8) - sum(header[: len(name)]) + sum(name.encode())
    header[: len(name)], header[148:156] = name.encode(), b"%06o\0 " % total
    return bytes(header) + content + bytes(-len(content) % 512)


def make(folder: Path, count: int) -> None:
    """Writes `count` images of 8 x 8 pixels, with labels."""
    rng = np.random.default_rng(0)
    images = []
    for pixels in rng.integers(0, 256, (KINDS, 8, 8, 3), np.uint8):
        Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
        images.append(buffer.getvalue())
    for shard, first in enumerate(range(0, count, EACH)):
        with open(folder / f"train-{shard:06d}.tar", "wb") as file:
            for k in range(first, min(first + EACH, count)):
                file.write(entry(f"{k:09d}.png", images[k % KINDS] + k.to_bytes(8, "little")))
                file.write(entry(f"{k:09d}.cls", b"%d" % (k * 7919 % CLASSES)))
            file.write(bytes(1024))


def measure(data_dir: str, share: float) -> dict[str, float]:
    """Seconds of each part of a start of a training, and the most memory of this process in MB."""
    began = time.perf_counter()
    sys.path.insert(0, str(ROOT))
    import torch  # noqa: F401  # as a training does

    from ddpm.config.model import ModelConfig
    from ddpm.config.training import DataConfig
    from ddpm.data.datasets import open_dataset
    from ddpm.data.stream import Stream

    found, last = {}, time.perf_counter()
    found["imports"], found["memory before"] = last - began, memory()
    data = open_dataset(DataConfig(data_dir, hold_out=share), ModelConfig(image_size=8), seed=1)
    found["opening"], last = time.perf_counter() - last, time.perf_counter()
    Stream(data, 1).next(128)
    found["first batch"], last = time.perf_counter() - last, time.perf_counter()
    Stream(data, 1, position=len(data) // 2).next(128)
    found["resumed batch"] = time.perf_counter() - last
    return {**found, "most memory": memory(), "images": len(data)}


def memory() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("DATA", "SHARE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], float(options.measure[1]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "shards"
        if not folder.exists():
            folder.mkdir(parents=True)
            make(folder, options.images)
        for what, share in (("first time", 0.0), ("again", 0.0), ("held out, first time", 0.1), ("held out", 0.1)):
            command = [sys.executable, __file__, "--measure", str(folder), str(share)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
            print(
                f"{what}: {found['images']:,.0f} images; imports {found['imports']:.1f} s, opening"
                f" {found['opening']:.2f} s, first batch {found['first batch']:.3f} s, resumed batch"
                f" {found['resumed batch']:.3f} s; {found['memory before']:.0f} MB before, at most"
                f" {found['most memory']:.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
