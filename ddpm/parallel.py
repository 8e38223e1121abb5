"""Several processes that work as one: who this one is, and how they share.  Without torchrun there is just one.

torchrun tells each process its rank and how many there are; they talk by gloo on CPUs and NCCL on GPUs.
"""

from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


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


def told(value: T) -> T:
    """The main process's value, in all of them.  Plain picklable values only."""
    if not active():
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gathered(value: T) -> list[T]:
    """Every process's value, in the order of ranks, in all of them.  Plain picklable values only."""
    if not active():
        return [value]
    found: list[Any] = [None] * size()
    dist.all_gather_object(found, value)
    return found


def sum_in_place(tensor: torch.Tensor) -> None:
    """The sum over all processes, in all of them."""
    if active():
        dist.all_reduce(tensor)
