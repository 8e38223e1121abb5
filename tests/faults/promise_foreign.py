"""Strangers' files: each reader gives a right result or a UserError within 2 s and 300 MB, whatever they hold.

Files are mutated at random here; `make fuzz` is guided by coverage.
"""

import random
import time
from collections.abc import Iterator

from faults import fuzz
from faults.fuzz import Child
from faults.readers import READERS, mended
from faults.table import Row

EXAMPLES = 10
GROUPS = {
    "images": (
        *("png", "jpeg", "gif", "webp", "tiff", "bmp", "avif", "jpeg2000", "ico", "tga", "others"),
        *("settings-text",),
    ),
    "arrays and archives": ("npz", "npy", "cifar10", "cifar10-pickle", "lsun"),
    "weights": ("weights", "weights-old"),
    "records of a run": ("config", "sample-settings", "status", "progress"),
}


def tried(name: str, seconds: float, child: Child) -> tuple[int, list[str]]:
    """Has mutated files read for this long; returns how many, and what was wrong with some."""
    reader, pick, end = READERS[name], random.Random(name), time.monotonic() + seconds
    seeds, count, wrong = reader.seeds(), 0, []
    while not count or time.monotonic() < end:
        content = fuzz.apply(pick.choice(seeds), fuzz.random_edits(pick), pick.choice(seeds))
        outcome = child.read(name, mended(content, reader.inside) if pick.random() < 0.5 else content)
        count += 1
        if not outcome.is_good:
            wrong.append(f"{name}, file {count}: {outcome}")
    return count, wrong


def rows(seconds: float) -> Iterator[Row]:
    """A row for each group of readers, which share the time equally."""
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(READERS), "each is in one group"
    child = Child()
    for group, names in GROUPS.items():
        found = [tried(name, seconds / len(READERS), child) for name in names]
        wrong = [line for _, lines in found for line in lines]
        count = sum(count for count, _ in found)
        yield Row(
            f"Mutated {group}: a result or a sentence, in 2 s and 300 MB", count, len(wrong), tuple(wrong[:EXAMPLES])
        )
    child.close()
