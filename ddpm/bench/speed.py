"""Speed of training and sampling, as ratios to the baseline on the same machine at the same time.

Everything is measured in interleaved pairs: ours, baseline, baseline, ours, ours, ...; seconds alone mean little where
a machine's speed drifts.

for progress in measure(SpeedConfig()):
    print(progress.doing)
print(speed_tables.text(progress.result))
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from ddpm.bench.processes import BenchmarkProcess
from ddpm.config import codec
from ddpm.config.benchmarks import SpeedConfig
from ddpm.config.presets import PRESETS
from ddpm.config.training import Config
from ddpm.planning import architecture
from ddpm.reports import speed_tables

FORMAT = 1  # of the result
PRESET = "cifar10-cpu"
CALLS = (16, 64)  # images of a model evaluation
WARM_UP = 2  # measurements that do not count


class Progress(NamedTuple):
    """Progress of a benchmark; the last record has its result."""

    done: int
    total: int
    doing: str
    result: dict[str, Any] | None = None


class BenchmarkCase(NamedTuple):
    """A way to compute that is timed: its name, its description, and the settings in which it differs."""

    name: str
    words: str
    settings: dict[str, str]


DEFAULT = BenchmarkCase("default", "as it is by default", dict(precision="auto", kernels="auto"))
TORCH = BenchmarkCase("torch", "torch alone", dict(precision="auto", kernels="torch"))
CASES = (
    DEFAULT,
    BenchmarkCase("fp32", "fp32, native kernels", dict(precision="fp32", kernels="native")),
    BenchmarkCase("bf16", "bf16, native kernels", dict(precision="bf16", kernels="native")),
    TORCH,
)


def cpu_preset() -> Config:
    """Default settings of the benchmark: the CPU preset, its batch in one piece."""
    return codec.replace(PRESETS[PRESET].config, {"microbatch": -1})


def measure(settings: SpeedConfig, config: Config | None = None) -> Iterator[Progress]:
    """Runs the whole benchmark; the last record has the result, as it is saved in JSON."""
    config = codec.replace(config or cpu_preset(), {"threads": settings.threads})
    benchmark = _SpeedBenchmark(config, settings.rounds)
    for _ in benchmark.all():
        yield Progress(min(benchmark.done, benchmark.total), benchmark.total, benchmark.doing)
    benchmark.result["targets"] = speed_tables.figures(benchmark.result)
    yield Progress(benchmark.total, benchmark.total, "", benchmark.result)


class _SpeedBenchmark:
    """Runs the measurements and counts them.  Its generators yield after each one; `result` collects the figures."""

    def __init__(self, config: Config, rounds: int):
        self.config, self.rounds = config, rounds
        self.done, self.doing = 0, ""
        self.call_rounds = {num_images: max(1, rounds * CALLS[0] // num_images) for num_images in CALLS}
        self.starts = max(1, rounds // 4)
        self.share_steps = max(1, rounds // 5) * 10  # whole lines of the log
        self.total = 6 + 3 * (rounds + WARM_UP) + 2 * sum(n + 1 for n in self.call_rounds.values()) + 3 * self.starts
        self.computed: dict[str, dict[str, Any]] = {}  # precision and kernels of each case
        self.result: dict[str, Any] = {
            "format": FORMAT,
            "kind": "speed",
            "settings": {
                "rounds": rounds,
                "threads": config.train.threads,
                "network": codec.to_flags(config.model),
                "batch_size": config.train.batch_size,
                "microbatch": config.train.micro,
            },
            "flops": 3 * architecture.flops(config.model) * config.train.batch_size,
        }

    def all(self) -> Iterator[None]:
        """All measurements in turn."""
        for measurements in (self._machine, self._cases, self._starts):
            for _ in measurements():
                self.done += 1
                yield

    def _machine(self) -> Iterator[None]:
        """Measures the machine's peak rate, the compute mode and exactness of each case, and the parts of a step."""
        self.doing = "the machine"
        with BenchmarkProcess(self.config) as process:
            self.result["machine"] = process.request("machine")
            kinds = ("fp32", "bf16") if self.result["machine"]["bf16"] else ("fp32",)
            self.result["products"] = {kind: process.request("product_rate", kind) for kind in kinds}
            yield
            self.doing = "exactness"
            self.result["exactness"] = {}
            for case in CASES:
                config = codec.replace(self.config, case.settings)
                computed = process.request("compute_mode", config)._asdict()
                self.computed[case.name] = computed
                if not self._missing(case):
                    self.result["exactness"][case.name] = process.request("deviation", config)
                yield
            self.doing = "a training with log and status"
            parts = process.request("step_parts", self.share_steps)
            whole = sum(parts.values())
            self.result["parts"] = {**parts, "outside": (whole - parts["network"]) / whole}
            yield

    def _missing(self, case: BenchmarkCase) -> str:
        """Why a case cannot be measured here; empty where it can."""
        return str(self.computed[case.name]["why"])

    def _cases(self) -> Iterator[None]:
        """Times training steps and model evaluations of each case against the baseline; equal cases are timed once."""
        steps: dict[str, Any] = {}
        calls: dict[str, Any] = {}
        memory: dict[str, int] = {}
        self.result |= {"steps": steps, "calls": calls, "memory": memory, "left_out": {}}
        first: dict[tuple[str, str], str] = {}  # precision and kernels -> the case that was measured
        with BenchmarkProcess(self.config, plain=True) as baseline:
            for case in CASES:
                if why := self._missing(case):
                    self.result["left_out"][case.name] = why
                    continue
                computed = self.computed[case.name]
                same = first.setdefault((computed["precision"], computed["kernels"]), case.name)
                if same == case.name:
                    yield from self._case(case, baseline, steps, calls, memory)
                else:
                    for found in (steps, calls, memory):
                        found[case.name] = found[same]
                steps[case.name] = {
                    **steps[case.name],
                    "precision": computed["precision"],
                    "kernels": computed["kernels"],
                    "words": case.words,
                }
                self._share(steps[case.name])

    def _case(
        self,
        case: BenchmarkCase,
        baseline: BenchmarkProcess,
        steps: dict[str, Any],
        calls: dict[str, Any],
        memory: dict[str, int],
    ) -> Iterator[None]:
        with BenchmarkProcess(codec.replace(self.config, case.settings)) as ours:
            self.doing = f"training steps: {case.words}"
            pairs = yield from self._pairs(ours.time_step, baseline.time_step, self.rounds, WARM_UP)
            steps[case.name] = compared(pairs)
            memory[case.name] = ours.request("peak_bytes")
            memory.setdefault("yardstick", baseline.request("peak_bytes"))
        calls[case.name] = {}
        for num_images, rounds in self.call_rounds.items() if case != TORCH else ():
            self.doing = f"model evaluations on {num_images} images: {case.words}"
            # As sampling has: new processes, whose memory neither a training nor other batches have shaped.
            with (
                BenchmarkProcess(codec.replace(self.config, case.settings)) as ours,
                BenchmarkProcess(self.config, plain=True) as plain,
            ):
                pairs = yield from self._pairs(
                    partial(ours.time_forward, num_images), partial(plain.time_forward, num_images), rounds, 1
                )
            calls[case.name][str(num_images)] = compared(pairs)

    def _pairs(self, ours: Callable[[], float], plain: Callable[[], float], rounds: int, warm_up: int) -> Any:
        """(ours, plain) seconds of each round that counts; a generator that returns them."""
        pairs = []
        for pair in in_turn(ours, plain, rounds + warm_up):
            pairs.append(pair)
            yield
        return pairs[warm_up:]

    def _share(self, step: dict[str, Any]) -> None:
        """Share of the measured peak rate that a step reaches."""
        products = self.result["products"]  # the kernels multiply in fp32 what bf16 instructions are not there for
        peak = products.get(step["precision"], products["fp32"])
        step["rate"] = self.result["flops"] / step["seconds"]
        step["share_of_peak"] = step["rate"] / peak if peak else None

    def _starts(self) -> Iterator[None]:
        """Seconds from the start of a process to its first step: torch alone, kernels to be compiled, and compiled."""
        native = self.computed["default"]["kernels"] in ("native", "amx")
        seconds: dict[str, list[float]] = {name: [] for name in ("torch", *(("cold", "later") if native else ()))}
        for _ in range(self.starts):
            with tempfile.TemporaryDirectory() as cache:
                for name, times in seconds.items():
                    self.doing = f"starting: {name}"
                    case = TORCH if name == "torch" else DEFAULT
                    with BenchmarkProcess(
                        codec.replace(self.config, case.settings), environment={"DDPM_KERNEL_CACHE": cache}
                    ) as ours:
                        times.append(ours.first_step())
                    yield
        self.result["start"] = {name: statistics.median(times) for name, times in seconds.items()}
        if native:
            self.result["start"] |= {
                f"{name}_more": statistics.median(a - b for a, b in zip(seconds[name], seconds["torch"], strict=True))
                for name in ("cold", "later")
            }


def in_turn(ours: Callable[[], float], plain: Callable[[], float], rounds: int) -> Iterator[tuple[float, float]]:
    """(ours, plain) seconds of each round, in alternating order."""
    for number in range(rounds):
        if number % 2:
            second = plain()
            first = ours()
        else:
            first = ours()
            second = plain()
        yield first, second


def compared(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Medians of (ours, plain) seconds, and the speed-up: median and quartiles of the pairs' ratios."""
    ratios = sorted(plain / ours for ours, plain in pairs)
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {
        "seconds": statistics.median(ours for ours, _ in pairs),
        "yardstick": statistics.median(plain for _, plain in pairs),
        "ratio": ratio,
        "low": low,
        "high": high,
        "pairs": [list(pair) for pair in pairs],
    }
