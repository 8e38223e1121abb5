"""How fast a training is, measured against the plain network on the same machine at the same time.

Everything is a ratio of interleaved pairs: ours, plain, plain, ours, ours, ...: seconds alone mean little where a
machine's speed drifts.

for progress in measure(SpeedConfig()):
    print(progress.doing)
print(targets.text(progress.result))
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from ddpm.bench.processes import Rival
from ddpm.config import codec
from ddpm.config.presets import PRESETS
from ddpm.config.tasks import SpeedConfig
from ddpm.config.training import Config
from ddpm.planning import architecture
from ddpm.reports import speed_tables

FORMAT = 1  # of the result
PRESET = "cifar10-cpu"
CALLS = (16, 64)  # pictures of a network call
WARM_UP = 2  # laps that do not count


class Progress(NamedTuple):
    """So many laps are done; after the last one, what came of them."""

    done: int
    total: int
    doing: str
    result: dict[str, Any] | None = None


class Way(NamedTuple):
    """A way to train: its name, and the settings that it differs by."""

    name: str
    words: str
    settings: dict[str, str]


DEFAULT = Way("default", "as it is by default", dict(precision="auto", kernels="auto"))
TORCH = Way("torch", "torch alone", dict(precision="auto", kernels="torch"))
WAYS = (
    DEFAULT,
    Way("fp32", "fp32, native kernels", dict(precision="fp32", kernels="native")),
    Way("bf16", "bf16, native kernels", dict(precision="bf16", kernels="native")),
    TORCH,
)


def cpu_preset() -> Config:
    """What is measured unless told otherwise: the CPU preset, its batch in one piece."""
    return codec.replace(PRESETS[PRESET].config, {"microbatch": -1})


def measure(settings: SpeedConfig, config: Config | None = None) -> Iterator[Progress]:
    """Measure; the last record has the result, as it is kept in JSON."""
    config = codec.replace(config or cpu_preset(), {"threads": settings.threads})
    laps = _Laps(config, settings.rounds)
    for _ in laps.all():
        yield Progress(min(laps.done, laps.total), laps.total, laps.doing)
    laps.result["targets"] = speed_tables.judged(laps.result)
    yield Progress(laps.total, laps.total, "", laps.result)


class _Laps:
    """Counts what is done.  Its generators yield after each lap; what comes of them is in `result`."""

    def __init__(self, config: Config, rounds: int):
        self.config, self.rounds = config, rounds
        self.done, self.doing = 0, ""
        self.call_rounds = {pictures: max(1, rounds * CALLS[0] // pictures) for pictures in CALLS}
        self.starts = max(1, rounds // 4)
        self.share_steps = max(1, rounds // 5) * 10  # whole lines of the log
        self.total = 6 + 3 * (rounds + WARM_UP) + 2 * sum(n + 1 for n in self.call_rounds.values()) + 3 * self.starts
        self.computed: dict[str, dict[str, Any]] = {}  # what each way comes to: precision, kernels
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
        """Everything, in turn."""
        for laps in (self._machine, self._ways, self._starts):
            for _ in laps():
                self.done += 1
                yield

    def _machine(self) -> Iterator[None]:
        """What the machine has, the peak of its products, what the ways come to, how exact they are, and what a step consists of."""
        self.doing = "the machine"
        with Rival(self.config) as surveyor:
            self.result["machine"] = surveyor.ask("machine")
            kinds = ("fp32", "bf16") if self.result["machine"]["bf16"] else ("fp32",)
            self.result["products"] = {kind: surveyor.ask("product_rate", kind) for kind in kinds}
            yield
            self.doing = "exactness"
            self.result["exactness"] = {}
            for way in WAYS:
                config = codec.replace(self.config, way.settings)
                computed = surveyor.ask("computed", config)._asdict()
                self.computed[way.name] = computed
                if not self._missing(way):
                    self.result["exactness"][way.name] = surveyor.ask("deviation", config)
                yield
            self.doing = "a training with log and status"
            parts = surveyor.ask("parts", self.share_steps)
            whole = sum(parts.values())
            self.result["parts"] = {**parts, "outside": (whole - parts["network"]) / whole}
            yield

    def _missing(self, way: Way) -> str:
        """Why a way cannot be measured here; empty where it can."""
        return str(self.computed[way.name]["why"])

    def _ways(self) -> Iterator[None]:
        """Training steps and network calls of each way against the yardstick's.  Ways that come to the same are measured once."""
        steps: dict[str, Any] = {}
        calls: dict[str, Any] = {}
        memory: dict[str, int] = {}
        self.result |= {"steps": steps, "calls": calls, "memory": memory, "left_out": {}}
        first: dict[tuple[str, str], str] = {}  # precision and kernels -> the way that was measured
        with Rival(self.config, plain=True) as yardstick:
            for way in WAYS:
                if why := self._missing(way):
                    self.result["left_out"][way.name] = why
                    continue
                computed = self.computed[way.name]
                same = first.setdefault((computed["precision"], computed["kernels"]), way.name)
                if same == way.name:
                    yield from self._way(way, yardstick, steps, calls, memory)
                else:
                    for found in (steps, calls, memory):
                        found[way.name] = found[same]
                steps[way.name] = {
                    **steps[way.name],
                    "precision": computed["precision"],
                    "kernels": computed["kernels"],
                    "words": way.words,
                }
                self._share(steps[way.name])

    def _way(
        self, way: Way, yardstick: Rival, steps: dict[str, Any], calls: dict[str, Any], memory: dict[str, int]
    ) -> Iterator[None]:
        with Rival(codec.replace(self.config, way.settings)) as ours:
            self.doing = f"training steps: {way.words}"
            pairs = yield from self._pairs(ours.step, yardstick.step, self.rounds, WARM_UP)
            steps[way.name] = compared(pairs)
            memory[way.name] = ours.ask("peak")
            memory.setdefault("yardstick", yardstick.ask("peak"))
        calls[way.name] = {}
        for pictures, rounds in self.call_rounds.items() if way != TORCH else ():
            self.doing = f"network calls on {pictures} pictures: {way.words}"
            # As drawing has: new processes, whose memory neither a training nor other batches have shaped.
            with Rival(codec.replace(self.config, way.settings)) as ours, Rival(self.config, plain=True) as plain:
                pairs = yield from self._pairs(partial(ours.call, pictures), partial(plain.call, pictures), rounds, 1)
            calls[way.name][str(pictures)] = compared(pairs)

    def _pairs(self, ours: Callable[[], float], plain: Callable[[], float], rounds: int, warm_up: int) -> Any:
        """(ours, plain) seconds of each round, who goes first changing in turn; a generator that returns them."""
        pairs = []
        for number in range(rounds + warm_up):
            if number % 2:
                second = plain()
                first = ours()
            else:
                first = ours()
                second = plain()
            if number >= warm_up:
                pairs.append((first, second))
            yield
        return pairs

    def _share(self, step: dict[str, Any]) -> None:
        """How much of the measured peak of products a step reaches."""
        products = self.result["products"]  # the kernels multiply in fp32 what bf16 instructions are not there for
        peak = products.get(step["precision"], products["fp32"])
        step["rate"] = self.result["flops"] / step["seconds"]
        step["share_of_peak"] = step["rate"] / peak if peak else None

    def _starts(self) -> Iterator[None]:
        """From the start of a process to its first step: torch alone, with kernels to be compiled, and when they are there."""
        native = self.computed["default"]["kernels"] == "native"
        seconds: dict[str, list[float]] = {name: [] for name in ("torch", *(("cold", "later") if native else ()))}
        for _ in range(self.starts):
            with tempfile.TemporaryDirectory() as cache:
                for name, times in seconds.items():
                    self.doing = f"starting: {name}"
                    way = TORCH if name == "torch" else DEFAULT
                    with Rival(
                        codec.replace(self.config, way.settings), environment={"DDPM_KERNEL_CACHE": cache}
                    ) as ours:
                        times.append(ours.first_step())
                    yield
        self.result["start"] = {name: statistics.median(times) for name, times in seconds.items()}
        if native:
            self.result["start"] |= {
                f"{name}_more": statistics.median(a - b for a, b in zip(seconds[name], seconds["torch"], strict=True))
                for name in ("cold", "later")
            }


def compared(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Medians of (ours, plain) seconds, and how many times as fast ours is: median and quartiles of the pairs' ratios."""
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
