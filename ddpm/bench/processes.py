"""Processes that do the same work in different ways and take turns at it.

Each case has a process of its own, since what one asks of the machine, such as how memory is allocated, would change
the other.  Only one works at a time.

with BenchmarkProcess(config, plain=True) as baseline, BenchmarkProcess(config) as ours:
    ratios = [baseline.time_step() / ours.time_step() for _ in range(12)]
"""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple

from ddpm.config.training import Config
from ddpm.errors import Code, UserError
from ddpm.host import openmp

PATIENCE = 5.0  # seconds for a process to end by itself


class _Wrong(NamedTuple):
    """What went wrong in the other process."""

    words: str
    code: Code | None  # of a UserError; None where it is none


class BenchmarkProcess:
    """A process that trains with these settings, or as the baseline does (`plain`); it lives as long as the block.

    environment: variables set in that process alone.
    """

    def __init__(self, config: Config, plain: bool = False, environment: Mapping[str, str] = {}):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, config, plain, dict(environment)), daemon=True)
        self._began = time.perf_counter()
        self._process.start()
        theirs.close()

    def __enter__(self) -> "BenchmarkProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()  # which ends it
        if kind is None:
            self._process.join(PATIENCE)
        self._process.kill()
        self._process.join()
        self._process.close()

    def request(self, what: str, *arguments: Any) -> Any:
        """Calls a method of `ddpm.bench.worker.BenchmarkWorker`.  Raises UserError if it does or the process ended."""
        try:
            self._pipe.send((what, arguments))
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(PATIENCE)
            code = self._process.exitcode
            raise UserError(
                f"The process that measured has ended with code {code}, perhaps for lack of memory: close other"
                " programs, or measure less.",
                code="process-failed",
            ) from error
        if isinstance(answer, _Wrong):
            raise UserError(answer.words, code=answer.code) if answer.code else RuntimeError(answer.words)
        return answer

    def time_step(self) -> float:
        """Seconds of one training step in that process."""
        seconds: float = self.request("time_step")
        return seconds

    def time_forward(self, num_images: int) -> float:
        """Seconds of one model evaluation in that process."""
        seconds: float = self.request("time_forward", num_images)
        return seconds

    def first_step(self) -> float:
        """Seconds from the start of the process to the end of its first training step.  Must be called first."""
        self.time_step()
        return time.perf_counter() - self._began


def _serve(pipe: Connection, config: Config, plain: bool, environment: Mapping[str, str]) -> None:
    """Answers requests until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
    os.environ.update(environment)
    if plain:
        for name in openmp.variables():  # which the command line sets, and nothing in the baseline
            os.environ.pop(name, None)
    try:
        from ddpm.bench.worker import BenchmarkWorker  # and with it torch, which reads the environment

        worker = BenchmarkWorker(config, plain)
        while True:
            what, arguments = pipe.recv()
            pipe.send(_answer(worker, what, arguments))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def _answer(worker: Any, what: str, arguments: tuple[Any, ...]) -> Any:
    try:
        return getattr(worker, what)(*arguments)
    except UserError as error:
        return _Wrong(str(error), error.code)
    except Exception:
        return _Wrong(traceback.format_exc(), None)
