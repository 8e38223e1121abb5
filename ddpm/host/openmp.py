"""How long OpenMP's threads spin for each other before they sleep: GNU's and LLVM's read it when torch is imported."""

from ddpm.host import hardware

BLOCK_MILLISECONDS = 1  # LLVM's

# GNU's, in turns of a loop.  Endless spins take cores from other programs, and then from the threads that are waited
# for: next to one with two threads a step takes 4 to 10 times as long.  Where waking a thread is dear, as in many
# virtual machines, a step takes 12 % longer with a fifth of these, and twice as long without any.
TURNS = 10_000
# A turn is a PAUSE, which takes Intel's processors since Skylake 140 cycles and others up to 65.  Measured there with
# two threads on two cores: beside a busy process a step takes 1.9 times as long with 2,000 turns and 2.6 times with
# 10,000; alone it takes 2 % longer with 1,000.
LONG_TURNS = 2_500


def variables() -> dict[str, str]:
    """The environment variables, and what they are set to where they are not set yet."""
    turns = LONG_TURNS if _has_long_pause() else TURNS
    return {"GOMP_SPINCOUNT": str(turns), "KMP_BLOCKTIME": str(BLOCK_MILLISECONDS)}


def _has_long_pause() -> bool:
    return "Intel" in hardware.processor() and "clflushopt" in hardware.instructions()  # which came with Skylake
