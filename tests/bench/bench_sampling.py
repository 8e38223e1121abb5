"""How long sampling takes: 64 images at 32 x 32 with the CPU preset's network at 10 calls, and what the sampler adds.

The images' goal is 12 s on two cores; the sampler's own share, beyond the network's calls, below 3 %.
"""

import statistics
import time
from collections.abc import Iterator

import torch

from ddpm.compute import precision
from ddpm.config.presets import PRESETS
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.diffusion.denoiser import Network
from ddpm.models import backend, unet
from ddpm.sampling import engine
from ddpm.sampling.request import resolve_request
from ddpm.solvers import SOLVERS

PICTURES, CALLS, ROUNDS = 64, 10, 3


class Timed:
    """A network, and the seconds spent in it."""

    def __init__(self, network: Network):
        self.network, self.seconds = network, 0.0

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        output = self.network(x, t)
        self.seconds += time.perf_counter() - began
        return output


def timed(unprepared: unet.UNet, config: Config, settings: SampleConfig) -> Iterator[tuple[float, float]]:
    """(seconds in all, those beyond the network) of each round."""
    compute = backend.resolve_backend(settings.kernels, settings.precision, torch.device("cpu"))
    network = compute.prepared(unprepared)
    resolved = resolve_request(config, settings, compute)
    for _ in range(ROUNDS):
        watched = Timed(network)
        began = time.perf_counter()
        for _ in engine.sample(watched, resolved):
            pass
        took = time.perf_counter() - began
        yield took, took - watched.seconds


def main() -> None:
    config = PRESETS["cifar10-cpu"].config
    torch.manual_seed(0)
    unprepared = unet.build(config.model).eval()
    print(f"{torch.get_num_threads()} threads, bf16 in the processor: {precision.has_bf16()}")
    list(timed(unprepared, config, SampleConfig(num_samples=8, steps=2)))  # warm
    for kind in ("fp32", "bf16") if precision.has_bf16() else ("fp32",):
        for batch in (16, 32, 64):
            settings = SampleConfig(num_samples=PICTURES, steps=CALLS, batch_size=batch, precision=kind)
            took = [seconds for seconds, _ in timed(unprepared, config, settings)]
            print(
                f"{PICTURES} pictures, {CALLS} calls, {kind}, {batch} at a time: {statistics.median(took):.2f} s"
                f" ({min(took):.2f} to {max(took):.2f})"
            )
    print("the sampler's share beyond the network's calls:")
    for name, row in SOLVERS.items():
        settings = SampleConfig(num_samples=16, steps=CALLS, sampler=name, batch_size=16, precision="fp32")
        shares = [100 * beyond / took for took, beyond in timed(unprepared, config, settings)]
        print(f"  {row.label:20} {statistics.median(shares):.2f} %")


if __name__ == "__main__":
    main()
