"""How many pictures can be drawn at once: as many as are fast, and no more than fit in the free memory.  No torch."""

import logging
import os

import psutil

from ddpm import architecture, words
from ddpm.config import Config, SampleConfig

log = logging.getLogger("ddpm")

FAST = 64  # pictures at once beyond which nothing gets faster
SHARE = 0.5  # of the memory that is available, for what is being drawn


def drawn_at_once(config: Config, sample: SampleConfig) -> int:
    """Pictures in a batch: at most `sample.batch_size` (0: FAST) and what is asked for, and at least 1.

    They take at most half of the memory that is available now, shared with the other processes on this machine.
    """
    asked = min(sample.batch_size or FAST, sample.num_samples)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free = psutil.virtual_memory().available * SHARE / processes
    fit = max(1, int(free // bytes_each(config, sample)))
    if fit < asked:
        log.warning("Drawing %s at once instead of %d, for which half of the free memory, %s, has no room.", words.plural(fit, "picture"), asked, f"{free / 1e6:,.0f} MB")  # fmt: skip
    return min(asked, fit)


def bytes_each(config: Config, sample: SampleConfig) -> float:
    """Bytes that each picture of a batch takes while it is drawn: of the network's pass, and of the sampler's step."""
    model = config.model
    guided = model.class_cond and sample.guidance_scale not in (0, 1)
    state = 4 * model.image_channels * model.image_size**2
    return architecture.forward_bytes(model) * (2 if guided else 1) + SAMPLER * state


SAMPLER = (
    16  # pictures' worth of numbers that a sampler holds of each: x, eps, x_start, earlier steps, float64 on the way
)
