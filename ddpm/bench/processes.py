"""Processes that do the same work in different ways, and take turns at it.

A process each, since what one way asks of the machine, such as how memory is kept, would change the other too.  None
works while another does.

with Rival(config, plain=True) as yardstick, Rival(config) as ours:
    ratios = [yardstick.step() / ours.step() for _ in range(12)]
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

SPINNING = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # what the command line asks of OpenMP, which the plain way does not
PATIENCE = 5.0  # seconds for a process to end by itself


class _Wrong(NamedTuple):
    """What went wrong in the other process."""

    words: str
    code: Code | None  # of a UserError; None where it is none


class Rival:
    """A process that trains with these settings; `plain`: the yardstick's way.  It begins at once, and ends with the block.

    environment: variables that it has, and this process has not.
    """

    def __init__(self, config: Config, plain: bool = False, environment: Mapping[str, str] = {}):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, config, plain, dict(environment)), daemon=True)
        self._began = time.perf_counter()
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Rival":
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

    def ask(self, what: str, *arguments: Any) -> Any:
        """What a method of `ddpm.bench.worker.Laps` gives there.  Raises UserError where it does, or where the process is gone."""
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

    def step(self) -> float:
        """Seconds of one training step there."""
        seconds: float = self.ask("step")
        return seconds

    def call(self, pictures: int) -> float:
        """Seconds of one network call there."""
        seconds: float = self.ask("call", pictures)
        return seconds

    def first_step(self) -> float:
        """Seconds from the start of the process to the end of its first training step.  To be asked first."""
        self.step()
        return time.perf_counter() - self._began


def _serve(pipe: Connection, config: Config, plain: bool, environment: Mapping[str, str]) -> None:
    """Answer until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this decides
    os.environ.update(environment)
    if plain:
        for name in SPINNING:
            os.environ.pop(name, None)
    try:
        from ddpm.bench.worker import Laps  # and with it torch, which reads the environment

        laps = Laps(config, plain)
        while True:
            what, arguments = pipe.recv()
            pipe.send(_answer(laps, what, arguments))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def _answer(laps: Any, what: str, arguments: tuple[Any, ...]) -> Any:
    try:
        return getattr(laps, what)(*arguments)
    except UserError as error:
        return _Wrong(str(error), error.code)
    except Exception:
        return _Wrong(traceback.format_exc(), None)
