"""Training by several machines with a core each, in network namespaces joined by a bridge.  Prints; asserts nothing.

python tests/bench/bench_machines.py [PROCESSES [STEPS]]    as root, on Linux, with `ip` and `tc` of iproute2

Each process trains the CPU preset's network on 8 images a step, pinned to a core: one of its own as long as there are
enough.  Every other step exchanges no gradients, which is what a process alone would take on that core: as both kinds
take turns, other work on the machine disturbs both, and hardly their ratio.  A link sends RATE in each direction, and
delays DELAY where the kernel can (netem); else the delay is left out.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.presets import PRESETS
from ddpm.data import datasets
from ddpm.training.trainer import Trainer

RATE, DELAY = "1gbit", "0.3ms"
NAME = "ddpm-bench"  # of bridge and namespaces
WARM_UP = 3  # steps that are not counted
CORES = sorted(os.sched_getaffinity(0))


def train(steps: int, compression: str) -> None:
    """Prints the median times of a step with and without an exchange of gradients, and of the ratio of the two."""
    settings = dict(data_dir="cifar10-mini", batch_size=8, threads=1, grad_compression=compression)
    config = datasets.resolve(codec.replace(PRESETS["cifar10-cpu"].config, settings))
    distributed.set_num_threads(1)
    trainer = Trainer(config, datasets.open_dataset(config.data, config.model))

    def seconds() -> float:
        began = time.perf_counter()
        trainer.update(trainer.next_batch())
        return time.perf_counter() - began

    together, apart = [], []
    for _ in range(WARM_UP + steps):
        together.append(seconds())
        with distributed.local_gradients(trainer.parallel):
            apart.append(seconds())
    ratios = [a / b for a, b in zip(together[WARM_UP:], apart[WARM_UP:], strict=True)]
    print(*map(statistics.median, (together[WARM_UP:], apart[WARM_UP:], ratios)))


def measured(count: int, steps: int, compression: str, network: bool) -> list[float]:
    """What `train` prints in the first of `count` processes, in network namespaces or over loopback."""
    processes = []
    for rank in range(count):
        inside = ["ip", "netns", "exec", f"{NAME}{rank}"] if network else []
        join = {
            "MASTER_ADDR": address(0) if network else "127.0.0.1",
            "MASTER_PORT": "29555",
            "RANK": str(rank),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(count),
            "GLOO_SOCKET_IFNAME": "eth0" if network else "lo",
        }
        own = ["taskset", "-c", str(CORES[rank % len(CORES)]), sys.executable, __file__, "train", str(steps)]
        processes.append(
            subprocess.Popen(
                [*inside, *own, compression],
                env={**os.environ, "OMP_NUM_THREADS": "1", **join},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    said = [process.communicate()[0] for process in processes]
    return list(map(float, said[0].split()))


def address(rank: int) -> str:
    return f"10.213.77.{rank + 1}"


def run(command: str, check: bool = True) -> bool:
    """Whether a command went well."""
    return subprocess.run(command.split(), check=check, capture_output=True).returncode == 0


@contextmanager
def machines(count: int) -> Iterator[str]:
    """Network namespaces with an address each, joined by a bridge; gives what the links are like, in words."""
    try:
        run(f"ip link add {NAME} type bridge")
        run(f"ip link set {NAME} up")
        delayed = True
        for rank in range(count):
            space, port = f"{NAME}{rank}", f"{NAME}-{rank}"
            run(f"ip netns add {space}")
            run(f"ip link add {port} type veth peer name eth0 netns {space}")
            run(f"ip link set {port} master {NAME} up")
            run(f"ip -n {space} addr add {address(rank)}/24 dev eth0")
            run(f"ip -n {space} link set eth0 up")
            run(f"ip -n {space} link set lo up")
            for tc, device in (("tc", port), (f"tc -n {space}", "eth0")):  # both directions
                shape = f"handle 1: tbf rate {RATE} burst 128kb latency 50ms"
                run(f"{tc} qdisc add dev {device} root {shape}")
            netem = f"tc -n {space} qdisc add dev eth0 parent 1: netem delay {DELAY} limit 10000"
            delayed = run(netem, check=False) and delayed
        yield f"{RATE}, {DELAY if delayed else 'no delay (no netem here)'}"
    finally:
        for rank in range(count):
            run(f"ip netns del {NAME}{rank}", check=False)  # with its link
        run(f"ip link del {NAME}", check=False)


def main(count: int, steps: int) -> None:
    print(f"{count} processes on {len(CORES)} cores, medians of {steps} steps after {WARM_UP}")
    with machines(count) as links:
        for network in (False, True):
            for compression in ("none", "bf16"):
                together, apart, ratio = measured(count, steps, compression, network)
                print(
                    f"{links if network else 'loopback':40} {compression:5} {1000 * together:6.0f} ms a step,"
                    f" {1000 * apart:6.0f} ms without exchange, ratio {ratio:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        with distributed.process_group():
            train(int(sys.argv[2]), sys.argv[3])
    else:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # which takes the namespaces away
        given = [int(text) for text in sys.argv[1:]]
        main(*(given + [2, 12][len(given) :]))
