"""What would make a training fail, or give nothing, although its settings go together: found before it starts.

The command line and the Train page say the same.  `ddpm.config.validation` has what settings say by themselves.
"""

from collections.abc import Iterator
from pathlib import Path

from ddpm.config import ema_rates
from ddpm.config.training import Config
from ddpm.config.validation import Problem
from ddpm.data.checked import Checked
from ddpm.data.datasets import Description, held_out_count
from ddpm.errors import UserError
from ddpm.formatting import memory as size_of
from ddpm.formatting import plural, some
from ddpm.host import hardware
from ddpm.planning import architecture, held_out, training_cost
from ddpm.planning.memory import check_network
from ddpm.runs import openai_folder
from ddpm.storage import files

FEW = 20  # timesteps below which the reverse steps are no longer small
RATES = (0.9999, 0.9995, 0.999, 0.995, 0.99, 0.95, 0.9)  # offered in place of one that is too slow
COPIES = 3  # of the weights in a checkpoint besides the averages: the weights, and AdamW's two moments
NAMED = 5  # broken images that a sentence lists
SPARE = 2 * 10**8  # bytes left to everything else that a run writes


def problems(
    config: Config, folder: Path, about: Description | None = None, seen: Checked | None = None
) -> Iterator[Problem]:
    """All such problems of a training with valid settings and total_steps filled in.

    folder: where the run will be.  about: its data, where that is known.  seen: what every image of it is like.
    """
    yield from _of_network(config)
    yield from _of_diffusion(config)
    yield from _of_length(config)
    yield from _of_machine(config, folder)
    yield from _of_start(config)
    if about:
        yield from _of_data(config, about, seen)
    if seen:
        yield from _of_images(config, seen)


def _of_network(config: Config) -> Iterator[Problem]:
    try:
        check_network(config.model)
    except UserError as error:
        yield Problem("num_channels", str(error), code=error.code, remedies=({"num_channels": 128},))


def _of_diffusion(config: Config) -> Iterator[Problem]:
    T = config.diffusion.diffusion_steps
    if T < FEW:
        yield Problem(
            "diffusion_steps",
            f"diffusion_steps {T} {'is' if T == 1 else 'are'} too few for a reverse process in small steps, so samples"
            " stay blurred: use 1000.",
            code="few-timesteps",
            remedies=({"diffusion_steps": 1000},),
            keep="Keep it",
        )


def _of_length(config: Config) -> Iterator[Problem]:
    train, total = config.train, config.train.total_steps
    slow = [r for r in train.ema_rates if ema_rates.width_of(r) is None and 1 - float(r) < 1 / total]
    if slow:
        good = [rate for rate in train.ema_rates if rate not in slow]
        other = next((str(rate) for rate in RATES if 1 / (1 - rate) <= total / 4), "")
        offered = [*good, *([other] if other and other not in good else [])]
        effect = "never settles" if train.ema_warmup else "stays near the first weights"
        length = f"{round(1 / (1 - float(slow[0]))):,}" if float(slow[0]) < 1 - 1e-12 else "countless"
        yield Problem(
            "ema_rate",
            f"ema_rate {','.join(slow)} averages over {length} steps, and the run has {total:,}"
            f", so its average {effect}: use {','.join(offered) or 'more steps'}.",
            code="long-average",
            remedies=({"ema_rate": ",".join(offered)},) if offered else (),
            keep="Keep it",
        )
    if sentence := training_cost.too_short(config):
        yield Problem(
            "train_for",
            sentence,
            code="conflicting-settings",
            remedies=({"lr_warmup_steps": total // 4}, {"train_for": ""}),
        )
    if train.save_interval > total:
        often = max(1, total // 4)
        yield Problem(
            "save_interval",
            f"save_interval {train.save_interval} is more than the {plural(total, 'step')} of the run, which would be"
            f" saved only at its end: use {often}.",
            code="rare-checkpoints",
            remedies=({"save_interval": often},),
            keep="Keep it",
        )


def _of_machine(config: Config, folder: Path) -> Iterator[Problem]:
    train, cores = config.train, hardware.logical()
    if train.threads > cores:
        yield Problem(
            "threads",
            f"threads is {train.threads}, and this computer has {plural(cores, 'core')}: use {cores} at most.",
            code="too-many-threads",
            remedies=({"threads": 0}, {"threads": cores}),
            keep="Keep it",
        )
    each, free = checkpoint_bytes(config), files.free_bytes(folder) - SPARE
    count = checkpoints(config)
    if each * count > free:
        kept = int(free // each) - 1  # one more is there while the newest is written
        yield Problem(
            "keep_checkpoints",
            f"{plural(count, 'checkpoint')} of {size_of(each)} need {size_of(each * count)}, and"
            f" {size_of(max(0, free))} of the disk of {folder} are free: "
            + (f"keep the newest {kept}, or free some space." if kept > 0 else "free some space."),
            code="disk-full",
            remedies=({"keep_checkpoints": kept},) if kept > 0 else (),
            keep="Keep it",
        )


def checkpoint_bytes(config: Config) -> int:
    """Bytes of one checkpoint: the weights, their averages, and the state of the optimiser."""
    return 4 * architecture.parameters(config.model) * (COPIES + len(config.train.ema_rates))


def checkpoints(config: Config) -> int:
    """The most checkpoints that the run has at a time."""
    train = config.train
    count = -(-train.total_steps // train.save_interval) - training_cost.steps_before(train) // train.save_interval
    return min(count, train.keep_checkpoints + 1) if train.keep_checkpoints else count


def _of_start(config: Config) -> Iterator[Problem]:
    name, total = config.train.resume_checkpoint, config.train.total_steps
    if not name:
        return
    path = Path(name)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
        inside = sorted(path.glob("model*.pt")) if is_folder else []
    except (OSError, ValueError):  # a path that no system has
        is_file, inside, is_folder = False, [], False
    if not is_file:
        found = "is a folder" if is_folder else "does not exist"
        offered = f"name {inside[-1].name} in it" if inside else "check the path"
        yield Problem(
            "resume_checkpoint",
            f"resume_checkpoint {name} {found}: {offered}, or leave it empty to start from random weights.",
            code="not-a-file" if is_folder else "not-found",
            remedies=(*([{"resume_checkpoint": str(inside[-1])}] if inside else []), {"resume_checkpoint": ""}),
        )
        return
    done = openai_folder.step_of(path)
    if done >= total:
        more = done + total
        yield Problem(
            "total_steps",
            f"total_steps {total} {'was' if total == 1 else 'were'} done when {path.name} was saved, so nothing would"
            f" be left to do: use more, {more} for as many again.",
            code="nothing-left",
            remedies=({"total_steps": more, **({"lr_anneal_steps": more} if config.train.lr_anneal_steps else {})},),
        )


def _of_images(config: Config, seen: Checked) -> Iterator[Problem]:
    size = config.model.image_size
    if seen.broken and (seen.broken == seen.total or not config.data.skip_broken):
        if seen.broken == seen.total:
            what, remedy = f"None of the {plural(seen.total, 'image')} can be read", "replace them"
        else:
            named = some(seen.names, NAMED)
            what = f"{seen.broken:,} of {plural(seen.total, 'image')} cannot be read ({named})"
            remedy = "remove or replace them, or set skip_broken to True"
        yield Problem(
            "data_dir",
            f"{what}: {remedy}; the first: {seen.reasons[0]}",
            code="broken-image",
            remedies=({"skip_broken": True},) if seen.broken < seen.total else (),
        )
    if (count := seen.smaller(size)) and not config.data.enlarge:
        least = min(seen.sides)
        yield _small_images(
            f"{count:,} of {plural(seen.total, 'image')} have fewer than {size} pixels on their shorter side, the"
            f" smallest {least}",
            least,
        )


def _of_data(config: Config, about: Description, seen: Checked | None) -> Iterator[Problem]:
    model, data = config.model, config.data
    side = min(about.size) if about.size else 0
    if about.size and side < model.image_size and not data.enlarge and not seen:
        yield _small_images(f"The first image has only {about.size[0]} x {about.size[1]} pixels", side)
    if model.class_cond and not about.class_names:
        yield Problem(
            "class_cond",
            "The data has no classes: set class_cond to False, or sort the images into one folder per class.",
            code="no-classes",
            remedies=({"class_cond": False},),
        )
    elif model.class_cond and 0 < model.num_classes < len(about.class_names):
        yield Problem(
            "num_classes",
            f"num_classes is {model.num_classes}, and the data has {len(about.class_names):,} classes: use at least as"
            " many.",
            code="bad-value",
            remedies=({"num_classes": 0},),
        )
    if data.hold_out and about.count < 2 and not about.test_count:
        yield Problem(
            "hold_out",
            "The data has one image, so none can be held out: set hold_out to 0, or add images.",
            code="too-few-images",
            remedies=({"hold_out": 0.0},),
        )
    yield from _of_held_out(config, about)


def _of_held_out(config: Config, about: Description) -> Iterator[Problem]:
    train, data = config.train, config.data
    there = about.test_count or held_out_count(about.count, data.hold_out)
    if train.eval_interval and train.eval_images and not there:
        yield Problem(
            "eval_interval",
            f"eval_interval is {train.eval_interval}, but the data has no test split and no held-out images: set"
            " hold_out to 0.1, or eval_interval to 0.",
            code="no-test-part",
            remedies=({"hold_out": 0.1}, {"eval_interval": 0}),
        )
    elif there:
        try:
            held_out.images(train, there)
        except UserError as error:
            yield Problem("eval_images", str(error), code=error.code, remedies=({"eval_images": there},))


def _small_images(found: str, side: int) -> Problem:
    """The problem of images, as `found` says, whose shorter side is below the image size."""
    smaller = side // 8 * 8
    return Problem(
        "image_size",
        f"{found}: use a smaller image_size, or set enlarge to True.",
        code="small-images",
        remedies=({"enlarge": True}, *([{"image_size": smaller}] if smaller >= 8 else [])),
    )
