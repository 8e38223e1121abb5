"""How fast a training goes, and how long it still takes: one estimate for both."""

import math
import time

MEMORY = 120.0  # seconds


class Pace:
    """Steps a second of the last minutes, by the clock: with the time for previews, checkpoints and other work.

    memory: seconds after which what was measured counts for a third.
    """

    def __init__(self, memory: float = MEMORY) -> None:
        self._memory = memory
        self._last = time.monotonic()
        self._steps = self._seconds = 0.0

    def step(self) -> None:
        """Counts a step that has just ended."""
        now = time.monotonic()
        took, self._last = now - self._last, now
        fading = math.exp(-took / self._memory)
        self._steps = self._steps * fading + 1.0
        self._seconds = self._seconds * fading + took

    @property
    def per_second(self) -> float:
        """Steps a second."""
        return self._steps / max(self._seconds, 1e-9)

    def seconds_for(self, steps: int) -> float:
        """Seconds that so many steps take at this pace."""
        return steps / self.per_second
