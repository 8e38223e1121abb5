"""Several processes that work as one: who this one is, and how they share.  Without torchrun there is just one.

torchrun tells each process its rank and how many there are; they talk by gloo, and on GPUs add up by NCCL.  When
one of them ends, the others notice at their next exchange, which raises Lost.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ddpm.errors import UserError
from ddpm.host import cpu_threads

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)  # of one exchange; a process that ends is noticed at once, a cable pulled out is not
PULSE = 30.0  # seconds after which who waits hears that the other still works


class Lost(UserError):
    """Another process has ended, or cannot be reached any more."""

    def __init__(self) -> None:
        super().__init__(
            "Another process of this work ended, or could not be reached: start all of them again.", code="peer-lost"
        )


_wrong: list[Exception] = []  # what is known to have failed elsewhere, in the present `by_all`
_gpus: dist.ProcessGroup | None = None  # where every process has a GPU of its own


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Meet the other processes that torchrun started, for as long as the block lasts.

    Each takes its share of this machine's cores.  Raises Lost when they do not meet within TIMEOUT.
    """
    global _gpus
    place = int(os.environ["LOCAL_RANK"])
    torch.set_num_threads(cpu_threads.first_share())
    with _exchange():
        dist.init_process_group("gloo", timeout=TIMEOUT)
    if all(gathered(torch.cuda.is_available() and place < torch.cuda.device_count())):
        torch.cuda.set_device(place)
        _gpus = dist.new_group(backend="nccl", timeout=TIMEOUT)
    try:
        yield
    finally:
        # Left to the interpreter's end, gloo's threads may abort the process.  NCCL would wait for those that are gone.
        if _gpus is None or sys.exc_info()[0] is None:
            dist.destroy_process_group()
            _gpus = None


def compute_with(threads: int, doing: str, fixed: bool = False) -> str:
    """Compute with so many threads, or with this process's share of the cores (0); see cores.take.

    Returns a sentence where more were asked for than there are.
    """
    return cpu_threads.take(threads, doing, torch.set_num_threads, fixed)


def active() -> bool:
    """Whether there are several processes."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Which of them this one is, from 0 on."""
    return dist.get_rank() if active() else 0


def size() -> int:
    """How many there are."""
    return dist.get_world_size() if active() else 1


def is_main() -> bool:
    """Whether this is the one that writes files, beats and answers requests."""
    return rank() == 0


def device() -> torch.device:
    """Where this process computes: a GPU where there is one; with several processes, where each has its own."""
    if _gpus is not None:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cuda" if torch.cuda.is_available() and not active() else "cpu")


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """What torch raises when another process is gone, as Lost."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed's own errors are such, and gloo's are nothing more
        raise Lost from error


def told(value: T) -> T:
    """The main process's value, in all of them.  Anything that can be pickled."""
    if not active():
        return value
    box: list[Any] = [value if is_main() else None]
    with _exchange():
        dist.broadcast_object_list(box)
    return box[0]


def gathered(value: T) -> list[T]:
    """Every process's value, in the order of ranks, in all of them.  Anything that can be pickled."""
    if not active():
        return [value]
    found: list[Any] = [None] * size()
    with _exchange():
        dist.all_gather_object(found, value)
    return found


def side_by_side(tensor: Tensor) -> Tensor:
    """Tensors [..., n] on the CPU, one a process and all of one shape, as [..., size * n] in the order of ranks."""
    if not active():
        return tensor
    found = [torch.empty_like(tensor) for _ in range(size())]
    with _exchange():
        dist.all_gather(found, tensor)
    return torch.cat(found, dim=-1)


def sum_in_place(tensors: Sequence[Tensor]) -> None:
    """Make each the sum over all processes, the same to the last bit in all of them.  One exchange."""
    _in_place(tensors, lambda flat: dist.all_reduce(flat, group=_gpus))


def copy_in_place(tensors: Sequence[Tensor]) -> None:
    """Make each the main process's.  One exchange."""
    _in_place(tensors, lambda flat: dist.broadcast(flat, 0, group=_gpus))


@torch.no_grad()
def _in_place(tensors: Sequence[Tensor], exchange: Callable[[Tensor], Any]) -> None:
    if not active():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    with _exchange():
        exchange(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(like) for part, like in zip(parts, tensors, strict=True)])


def by_all(make: Callable[[], T]) -> T:
    """What `make` gives here, once it is done in every process; they wait for the slowest for as long as it lives.

    An exception in one is raised in all of them; a `make` that takes long and calls `check` learns of it on the way.
    """
    if not active():
        return make()
    done = threading.Event()
    outcome: list[Exception | None] = []  # once there is one
    everyone: list[list[Exception | None]] = []
    _wrong.clear()

    def exchange() -> None:
        """Keep telling the others that this one still works, and at last how it went."""
        try:
            while not everyone or not all(everyone):
                done.wait(PULSE)
                everyone[:] = gathered(list(outcome))
                _wrong[:] = [error for one in everyone for error in one if error is not None]
        except Lost as error:
            _wrong.append(error)

    exchanging = threading.Thread(target=exchange, daemon=True)
    exchanging.start()
    made: list[T] = []
    try:
        made.append(make())
        outcome.append(None)
    except Exception as error:
        # What is raised elsewhere travels; a subclass of UserError may not be made from its sentence alone.
        outcome.append(UserError(str(error), code=error.code) if isinstance(error, UserError) else error)
        done.set()
        exchanging.join()
        raise
    done.set()
    exchanging.join()
    check()
    return made[0]


def check() -> None:
    """Raise what is known to have failed in another process, during `by_all`: there is no use in working on."""
    if _wrong:
        raise _wrong[0]


def from_main(make: Callable[[], T]) -> T:
    """What `make` gives in the main process, which alone calls it, in all of them; for as long as it takes.

    An exception is raised in all of them.
    """
    if not active():
        return make()
    made: list[T] = []
    by_all(lambda: made.append(make()) if is_main() else None)
    return told(made)[0]
