"""Collective operations of the processes that torchrun started; without torchrun they do nothing.

Processes exchange values by gloo, and average gradients by torch's DistributedDataParallel, over NCCL on GPUs.  When
one ends, the others notice at their next exchange, which raises PeerLost.  `run_on_all_ranks` is by hand, since torch
has nothing that waits however long the slowest takes and passes on its exception.
"""

import contextlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Its functions have the process group of that moment as a default, and would keep its threads to the end if torch
# imported it later, with the first network.
import torch.distributed.nn
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from ddpm.errors import UserError
from ddpm.host import cpu_threads

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)  # of one exchange; a process that ends is noticed at once, an unplugged cable is not
ANSWER_SECONDS = 2  # for an answer of the main process to another, which then looks whether it was the main one
HEARTBEAT_SECONDS = 30.0  # between two messages of a process that still works in `run_on_all_ranks`
BUCKET_MB = 2  # of gradients sent at once by gloo: what the backward pass cannot hide is the last; torch's 25 suit NCCL


class PeerLost(UserError):
    """Another process has ended or cannot be reached."""

    def __init__(self) -> None:
        super().__init__(
            "Another process of this work ended, or could not be reached: start all of them again.", code="peer-lost"
        )


_peer_errors: list[Exception] = []  # raised in any process during the current `run_on_all_ranks`
_nccl: dist.ProcessGroup | None = None  # the NCCL group, where every process has a GPU of its own


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the process group of torchrun's processes for the length of the block.

    Each process takes its share of this machine's cores.  Raises PeerLost when they do not meet within TIMEOUT.
    """
    global _nccl
    local_rank = int(os.environ["LOCAL_RANK"])
    torch.set_num_threads(cpu_threads.before_start())
    with _exchange():
        store, own_rank, size = next(rendezvous("env://", timeout=TIMEOUT))
        store = dist.PrefixStore(_name_of_start(store, own_rank, size), store)
        dist.init_process_group("gloo", store=store, rank=own_rank, world_size=size, timeout=TIMEOUT)
    if all(all_gather_object(torch.cuda.is_available() and local_rank < torch.cuda.device_count())):
        torch.cuda.set_device(local_rank)
        _nccl = dist.new_group(backend="nccl", timeout=TIMEOUT)
    try:
        yield
    finally:
        # Left to the interpreter's end, gloo's threads may abort the process.  NCCL would wait for those that are gone.
        if _nccl is None or sys.exc_info()[0] is None:
            dist.destroy_process_group()
            _nccl = None


def _name_of_start(store: dist.Store, own_rank: int, size: int) -> str:
    """A name of this start of `size` processes, the same in all of them.

    torchrun keeps one store when it starts all of them again, and torch would wait there for the addresses of those
    that are gone.  The main process names each start; what another reads may be the name of an earlier start, and is
    believed once the main process answers its question.
    """
    if own_rank == 0:
        name = uuid.uuid4().hex
        store.set("start", name)
        for other in range(1, size):
            question = store.get(f"{name}/question/{other}").decode()  # waits for it
            store.set(f"{name}/answer/{question}", "")
        return name
    last = time.monotonic() + TIMEOUT.total_seconds()
    name = question = ""
    while True:
        before, name = name, store.get("start").decode()
        if name != before:  # asked once: the main process reads one question of each, when it comes to that
            question = uuid.uuid4().hex
            store.set(f"{name}/question/{own_rank}", question)
        try:
            store.wait([f"{name}/answer/{question}"], timedelta(seconds=ANSWER_SECONDS))
            return name
        except dist.DistStoreError:
            if time.monotonic() > last:
                raise


def set_num_threads(threads: int) -> str:
    """Sets torch's number of threads for a job that starts: `threads`, or its share of the cores (0); cpu_threads.take.

    Returns a warning where more were asked for than there are, else "".
    """
    share = cpu_threads.take(threads)
    torch.set_num_threads(share.threads)
    return share.warning


def is_initialized() -> bool:
    """True if there are several processes."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Rank of this process, 0 .. world_size() - 1."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_initialized() else 1


def is_main() -> bool:
    """True in the process of rank 0, which writes files and the status and answers requests."""
    return rank() == 0


def device() -> torch.device:
    """Device of this process: a GPU where there is one; with several processes, where each has its own."""
    if _nccl is not None:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cuda" if torch.cuda.is_available() and not is_initialized() else "cpu")


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """Turns what torch raises when another process is gone into PeerLost."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed's own errors are such, and gloo's are nothing more
        raise PeerLost from error


def broadcast_object(value: T) -> T:
    """The main process's value, returned in every process.  `value` is pickled."""
    if not is_initialized():
        return value
    box: list[Any] = [value if is_main() else None]
    with _exchange():
        dist.broadcast_object_list(box)
    return box[0]


def all_gather_object(value: T) -> list[T]:
    """Every process's value in the order of ranks, returned in every process.  `value` is pickled."""
    if not is_initialized():
        return [value]
    found: list[Any] = [None] * world_size()
    with _exchange():
        dist.all_gather_object(found, value)
    return found


def all_gather(tensor: Tensor) -> Tensor:
    """Concatenates every process's tensor [..., n], in the order of ranks, to [..., world_size * n].

    tensor: any dtype, on the CPU, of the same shape in every process.
    """
    if not is_initialized():
        return tensor
    found = [torch.empty_like(tensor) for _ in range(world_size())]
    with _exchange():
        dist.all_gather(found, tensor)
    return torch.cat(found, dim=-1)


def data_parallel(network: nn.Module, compression: str) -> nn.Module:
    """Gives each process the main one's weights, and wraps the network so that its backward pass averages gradients.

    Gradients [...] are sent in buckets, while the backward pass computes those of earlier layers, and are the mean over
    all processes, bit by bit the same in all of them.  Which are summed together, and in which order, is decided by the
    first backward pass of all: one that does not count makes later ones the same in every training.
    compression: none, or bf16, in which they are sent and summed.
    """
    if not is_initialized():
        return network
    with _exchange():
        parallel = DistributedDataParallel(
            network,
            process_group=_nccl,
            bucket_cap_mb=None if _nccl else BUCKET_MB,
            gradient_as_bucket_view=True,
        )
    if compression == "bf16":
        parallel.register_comm_hook(_nccl, _average_in_bf16)
    return parallel


def _average_in_bf16(group: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """torch's own, under another name: by that name it is refused without NCCL, though gloo can sum bf16."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks  # takes a while, and is rarely needed

    return default_hooks.bf16_compress_hook(group, bucket)


def local_gradients(network: nn.Module) -> contextlib.AbstractContextManager[None]:
    """While this lasts, gradients of a network from `data_parallel` stay here, to be averaged with those that follow.

    It is for the forward pass too.
    """
    return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()


def average_gradients(loss: Tensor) -> None:
    """The backward pass of a scalar loss, with its exchange of gradients.  Raises PeerLost if a process is gone."""
    try:
        loss.backward()
    except RuntimeError as error:  # it may be of the computation itself, such as one for lack of memory
        if isinstance(error, dist.DistError) or (is_initialized() and "gloo" in str(error)):
            raise PeerLost from error
        raise


def run_on_all_ranks(make: Callable[[], T]) -> T:
    """Calls `make` in every process and returns its own result once all are done, however long the slowest takes.

    An exception in one is raised in all of them; a long `make` calls `raise_peer_error` to learn of it meanwhile.
    """
    if not is_initialized():
        return make()
    done = threading.Event()
    outcome: list[Exception | None] = []  # of this process, once there is one
    outcomes: list[list[Exception | None]] = []  # of all processes
    _peer_errors.clear()

    def exchange() -> None:
        """Keeps saying that this process still works, and at last how it went."""
        try:
            while not outcomes or not all(outcomes):
                done.wait(HEARTBEAT_SECONDS)
                outcomes[:] = all_gather_object(list(outcome))
                _peer_errors[:] = [error for one in outcomes for error in one if error is not None]
        except PeerLost as error:
            _peer_errors.append(error)

    exchanging = threading.Thread(target=exchange, daemon=True)
    exchanging.start()
    made: list[T] = []
    try:
        made.append(make())
        outcome.append(None)
    except Exception as error:
        # What is raised is sent to the others; a subclass of UserError may not be unpickled from its sentence alone.
        outcome.append(UserError(str(error), code=error.code) if isinstance(error, UserError) else error)
        done.set()
        exchanging.join()
        raise
    done.set()
    exchanging.join()
    raise_peer_error()
    return made[0]


def raise_peer_error() -> None:
    """Raises the exception of another process, if one is known during `run_on_all_ranks`."""
    if _peer_errors:
        raise _peer_errors[0]


def run_on_main(make: Callable[[], T]) -> T:
    """Calls `make` in the main process alone and returns its result in all of them, however long it takes.

    An exception is raised in all of them.
    """
    if not is_initialized():
        return make()
    made: list[T] = []
    run_on_all_ranks(lambda: made.append(make()) if is_main() else None)
    return broadcast_object(made)[0]
