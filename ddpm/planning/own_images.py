"""Which preset fits a folder of one's own images, by how many there are and how large they are."""

import math
from typing import Any, NamedTuple

from ddpm.config import codec
from ddpm.config.presets import OWN_IMAGES, OWN_SIZES, PRESETS, own_name
from ddpm.config.training import Config
from ddpm.data.datasets import Description, held_out_count
from ddpm.formatting import plural

PER_CLASS = 50  # images, with fewer of which a class is learnt by heart
DROPPED = 0.1  # share of images whose class is hidden, which guidance needs


class Proposal(NamedTuple):
    """A preset that fits some images, with what their classes add to it."""

    preset: str
    config: Config  # all settings, the data of the description excepted
    sentence: str  # what it is, and why

    @property
    def flags(self) -> list[str]:
        """Flags of the preset, and of what classes and a test split add to it."""
        return ["--preset", self.preset, *codec.to_flags(self.config, PRESETS[self.preset].config)]

    def is_taken(self, config: Config) -> bool:
        """Whether a configuration has these settings already, whatever its data."""
        return codec.resolved(self.config) == codec.replace(codec.resolved(config), {"data_dir": "", "class_names": ()})


def propose(about: Description, least: int = 0) -> Proposal | None:
    """Proposes the preset nearest to the number of images, at the largest of its sizes that they have.

    least: shorter side in pixels of the smallest image, where all were looked at; 0: that of the first.  Classes are
    used where there are several, of PER_CLASS images on average.  None where the images have no size of their own.
    """
    if about.size is None:
        return None
    row = min(OWN_IMAGES, key=lambda row: abs(math.log(row.number / about.count)))
    size = max((size for size in OWN_SIZES if size <= (least or min(about.size))), default=min(OWN_SIZES))
    name, extra = own_name(row.number, size), _of_classes(about)
    own_test = {"hold_out": 0.0} if about.test_count else {}  # what was held out as well would be used for nothing
    config = codec.replace(PRESETS[name].config, {**extra, **own_test})
    train = config.train
    held_out = about.test_count or held_out_count(about.count, config.data.hold_out)
    trained = about.count if about.test_count else about.count - held_out
    against = [
        f"{label} {value:g}"
        for label, value in (("dropout", config.model.dropout), ("augmentation", config.model.augment))
        if value
    ]
    times = round(train.total_steps * train.batch_size / trained)
    parts = [
        *against,
        f"{plural(train.total_steps, 'step')}, in which each is seen {plural(times, 'time')}",
        f"{held_out:,} held out, to see when the others are learnt by heart",
    ]
    what = f"For {plural(about.count, 'image')} at {size} pixels{', with classes' if extra else ''}"
    return Proposal(name, config, f"{what}: {', '.join(parts)}.")


def _of_classes(about: Description) -> dict[str, Any]:
    enough = len(about.class_names) > 1 and about.count >= PER_CLASS * len(about.class_names)
    return dict(class_cond=True, cond_drop_prob=DROPPED) if enough else {}
