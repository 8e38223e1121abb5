"""Where the time of a training step goes: each kernel on each shape, and how near it is to what the machine can do.

for progress in measure(KernelsConfig()):
    print(progress.doing)
print(table(progress.result))

A kernel that multiplies is compared with a product of two large matrices, any other with a copy of a large one, each by
torch on the same threads in the same process.
"""

import statistics
from collections.abc import Iterator
from typing import Any

from ddpm import formatting
from ddpm.bench.processes import BenchmarkProcess
from ddpm.bench.speed import Progress, cpu_preset
from ddpm.config import codec
from ddpm.config.benchmarks import KernelsConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.reports import speed_tables

FORMAT = 1  # of the result
SIZES = {  # the names of the whole numbers that a kernel is given first
    "winograd": ("tile", "images", "height", "width", "in", "out"),
    "strided": ("images", "height", "width", "in", "out"),
    "pointwise": ("pixels", "in", "out"),
    "norm": ("images", "pixels", "channels", "groups", "split", "again"),
    "attention": ("images", "pixels", "heads", "channels"),
    "linear": ("layers", "images", "in"),
    "update": ("weights", "averages"),
}
STEPS = 3  # measurements: the machine, warm-up, and the steps


def measure(settings: KernelsConfig, base: Config | None = None) -> Iterator[Progress]:
    """Times the kernels of a few training steps; the last record has the result, as it is saved in JSON.

    Raises UserError where there are no kernels.
    """
    wanted = {"threads": settings.threads, "precision": settings.precision, "kernels": "native"}
    config = codec.replace(base or cpu_preset(), wanted)
    with BenchmarkProcess(config) as process:
        yield Progress(0, STEPS, "the machine")
        machine = process.request("machine")
        if why := process.request("compute_mode", config).why:
            raise UserError(
                f"There are no kernels to measure, since {why}: install g++ or clang, and unset DDPM_KERNEL_ISA.",
                code="missing-package",
            )
        peaks = {"operations": process.request("product_rate", "fp32"), "bytes": process.request("copy_rate")}
        yield Progress(1, STEPS, "warm-up")
        process.request("time_steps", 2)
        yield Progress(2, STEPS, "training steps")
        seconds = statistics.median(process.request("time_steps", settings.steps))
        calls = process.request("kernel_calls", settings.steps)
    rows = [row(name, sizes, count, time, peaks, config) for (name, *sizes), count, time in calls]
    rows.sort(key=lambda row: -row["seconds"])
    result = {
        "format": FORMAT,
        "kind": "kernels",
        "machine": machine,
        "settings": {"precision": settings.precision, "steps": settings.steps, "network": codec.to_flags(config.model)},
        "peaks": peaks,
        "step_seconds": seconds,
        "rows": rows,
    }
    yield Progress(STEPS, STEPS, "", result)


def row(
    name: str, sizes: list[int], calls: int, seconds: float, peaks: dict[str, float], config: Config
) -> dict[str, Any]:
    """A kernel on a shape: `calls` in a step, `seconds` of them together, and rate and share of the peak."""
    named = dict(zip(SIZES[name.split("_")[0]], sizes, strict=False))
    operations = multiplications(name, named)
    kind = "operations" if operations else "bytes"
    work = 2.0 * operations or _bytes(name, named, 2 if config.train.precision == "bf16" else 4)
    rate = work * calls / seconds
    return {
        "kernel": name,
        "sizes": named,
        "calls": calls,
        "seconds": seconds,
        "work": work,
        "of": kind,
        "rate": rate,
        "share_of_peak": rate / peaks[kind],
    }


def multiplications(name: str, s: dict[str, int]) -> int:
    """Multiplications of a kernel, in Winograd's domain where it works there; 0 where memory is what it waits for."""
    match name.split("_")[0]:
        case "winograd":
            tiles = s["images"] * -(-s["height"] // s["tile"]) * -(-s["width"] // s["tile"])
            return tiles * (s["tile"] + 2) ** 2 * s["in"] * s["out"]
        case "strided":
            return s["images"] * -(-s["height"] // 2) * -(-s["width"] // 2) * 9 * s["in"] * s["out"]
        case "pointwise":
            return s["pixels"] * s["in"] * s["out"]
        case "attention":  # two products; the gradient has three more, and computes the first one again
            return (5 if name.endswith("gradient") else 2) * s["images"] * s["heads"] * s["pixels"] ** 2 * s["channels"]
    return 0


def _bytes(name: str, s: dict[str, int], width: int) -> int:
    """Bytes that a kernel reads and writes at least once; 0 where that is not known."""
    match name:
        case "norm" | "norm_gradient":  # the gradient reads two maps, writes one, and the normalised map again
            return (2 if name == "norm" else 3 + s["again"]) * width * s["images"] * s["pixels"] * s["channels"]
        case "update":  # reads gradients twice, reads and writes weights, both moments and the averages
            return 4 * s["weights"] * (8 + 2 * s["averages"])
    return 0


def table(result: dict[str, Any], markdown: bool = False) -> str:
    """A line for each kernel on each shape, slowest first, and what they come to."""
    head = ["", "shape", "calls", "a call", "a step", "rate", "of the peak"]
    body = [
        [
            row["kernel"],
            ", ".join(f"{name} {size}" for name, size in row["sizes"].items()),
            str(row["calls"]),
            f"{1000 * row['seconds'] / row['calls']:.3f} ms",
            f"{1000 * row['seconds']:.1f} ms",
            f"{row['rate'] / 1e9:.0f} {'GFLOP/s' if row['of'] == 'operations' else 'GB/s'}" if row["work"] else "",
            f"{row['share_of_peak']:.0%}" if row["work"] else "",
        ]
        for row in result["rows"]
    ]
    peaks, whole = result["peaks"], sum(row["seconds"] for row in result["rows"])
    at_peak = sum(row["seconds"] * row["share_of_peak"] for row in result["rows"])
    lines = [
        formatting.table(head, body, markdown),
        "",
        f"A step takes {1000 * result['step_seconds']:.0f} ms, its kernels {1000 * whole:.0f} ms. At the peaks,"
        f" {peaks['operations'] / 1e9:.0f} GFLOP/s of products, {peaks['bytes'] / 1e9:.0f} GB/s of memory, these would"
        f" take {1000 * at_peak:.0f} ms; maps that lie in a cache are read faster than that.",
        f"{speed_tables.about(result['machine'])}.",
    ]
    return "\n".join(lines)
