"""What each option of training costs: a step with it, and a step of the preset `cifar10-cpu`, in turn.

for progress in measure(OptionsConfig()):
    print(progress.doing)
print(table(progress.result))
"""

import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from ddpm import formatting
from ddpm.bench.processes import BenchmarkProcess
from ddpm.bench.speed import WARM_UP, Progress, compared, cpu_preset, in_turn
from ddpm.config import codec
from ddpm.config.benchmarks import OptionsConfig
from ddpm.config.presets import PRESETS
from ddpm.config.training import Config
from ddpm.reports import speed_tables

FORMAT = 1  # of the result
STEP = "time_whole_step"  # of a BenchmarkWorker

V = dict(prediction="v")
OPTIONS: tuple[dict[str, Any], ...] = (
    V,
    dict(prediction="x_start"),
    V | dict(loss_weighting="alpha"),
    dict(loss_weighting="min-snr", weighting_gamma=5.0),
    dict(loss_weighting="soft-min-snr", weighting_gamma=5.0),
    dict(loss_weighting="p2", weighting_gamma=1.0),
    dict(noise_schedule="sigmoid"),
    V | dict(zero_terminal_snr=True),
    dict(schedule_sampler="stratified"),
    dict(noise_offset=0.1),
    dict(lr_schedule="warmup-stable-decay"),
    dict(ema_rate="power0.05,power0.1"),
    dict(class_cond=True, num_classes=10, cond_drop_prob=0.1),
    dict(augment=0.15),
    dict(dropout=0.1),
)
"""Settings in which a training differs from that of `cifar10-cpu`, all of its network's size."""

OTHERS = (dict(small_size=16), dict(image_size=64, patch_size=2))
"""Trainings that have a batch of their own: super-resolution, and larger images."""


class Case(NamedTuple):
    """A training that is compared with that of `cifar10-cpu`: its flags or its preset, and all settings."""

    words: str
    config: Config


def cases(base: Config, options: Sequence[dict[str, Any]] = OPTIONS) -> list[Case]:
    """Each option alone, the others, and the preset `cifar10-fast`."""
    found = []
    for option in (*options, *OTHERS):
        config = codec.replace(base, option)
        found.append(Case(" ".join(codec.to_flags(config, base)), config))
    fast = codec.replace(PRESETS["cifar10-fast"].config, {"threads": base.train.threads, "num_classes": 10})
    return [*found, Case("--preset cifar10-fast", fast)]


def measure(settings: OptionsConfig, base: Config | None = None, found: list[Case] | None = None) -> Iterator[Progress]:
    """Measures each case in a process of its own; the last record has the result, as it is saved in JSON."""
    base = codec.replace(base or cpu_preset(), {"threads": settings.threads})
    found = cases(base) if found is None else found
    rows: list[dict[str, Any]] = []
    done, total = 0, len(found) * (settings.rounds + WARM_UP)
    with BenchmarkProcess(base) as usual:
        result = {
            "format": FORMAT,
            "kind": "options",
            "machine": usual.request("machine"),
            "settings": {"rounds": settings.rounds, "network": codec.to_flags(base.model)},
            "rows": rows,
        }
        for case in found:
            yield Progress(done, total, case.words)
            with BenchmarkProcess(case.config) as ours:
                pairs = []
                turns = in_turn(partial(ours.request, STEP), partial(usual.request, STEP), settings.rounds + WARM_UP)
                for pair in turns:
                    pairs.append(pair)
                    done += 1
                    yield Progress(done, total, case.words)
                peak = ours.request("peak_bytes")
            rows.append({"words": case.words, **compared(pairs[WARM_UP:]), "peak_bytes": peak})
        result["peak_bytes"] = usual.request("peak_bytes")
    yield Progress(total, total, "", result)


def table(result: dict[str, Any], markdown: bool = False) -> str:
    """A line for each option: what a step takes, and its cost relative to a step without it."""
    body = [
        [
            row["words"],
            f"{1000 * row['seconds']:.0f} ms",
            f"{1 / row['ratio'] - 1:+.1%} ({1 / row['high'] - 1:+.1%} to {1 / row['low'] - 1:+.1%})",
            formatting.memory(row["peak_bytes"]),
        ]
        for row in result["rows"]
    ]
    usual = statistics.median(row["yardstick"] for row in result["rows"])
    sentence = (
        f"A step of cifar10-cpu, its batch in one piece, takes {1000 * usual:.0f} ms and"
        f" {formatting.memory(result['peak_bytes'])}. Medians of"
        f" {formatting.plural(result['settings']['rounds'], 'pair')} of steps, with the option and without it in turn,"
        f" from the next batch to the averages; in brackets the interquartile range."
        f" {speed_tables.about(result['machine'])}."
    )
    return "\n".join([formatting.table(["option", "a step", "costs", "peak memory"], body, markdown), "", sentence])
