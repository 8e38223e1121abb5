"""Checks of settings: each problem in one sentence with a remedy, the same for the shell and the pages."""

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from ddpm import formatting, schedules, weightings
from ddpm.config import codec, ema_rates, learning_rate
from ddpm.config.codec import SECTIONS
from ddpm.config.fields import Setting, settings
from ddpm.config.model import ModelConfig
from ddpm.config.training import COOLED, LOG_FORMATS, Config, TrainConfig
from ddpm.errors import Code, UserError

Remedy = Mapping[str, Any]  # settings by name, with which a problem is gone


class Problem(NamedTuple):
    """A problem with a setting: one sentence with a remedy."""

    name: str
    sentence: str
    code: Code
    remedies: tuple[Remedy, ...] = ()  # as forms offer them, the best first
    keep: str = ""  # training works, though hardly as intended: the button of whoever insists on it


def check(config: Config) -> None:
    """Raises UserError with the first problem."""
    for problem in problems(config):
        raise UserError(problem.sentence, code=problem.code)


def problems(config: Config) -> Iterator[Problem]:
    """All problems that prevent a training from starting, without reading the data."""
    yield from _problems_in(config, tuple(SECTIONS), (_model_problems, _diffusion_problems, _train_problems))


def network_problems(config: Config) -> Iterator[Problem]:
    """All problems that prevent the network from being built and sampled from."""
    yield from _problems_in(config, ("model", "diffusion"), (_model_problems, _diffusion_problems))


def _problems_in(
    config: Config, sections: tuple[str, ...], checks: tuple[Callable[[Config], Iterator[Problem]], ...]
) -> Iterator[Problem]:
    limits = [p for name in sections for p in limit_problems(getattr(config, name))]
    yield from limits
    if limits:
        return  # the other checks compute with these numbers
    for check in checks:
        try:
            yield from check(config)
        except UserError as error:  # a list of numbers that cannot be parsed
            name = str(error).split()[0]
            yield Problem(name, str(error), code=error.code, remedies=({name: ""},))


def limit_problems(section: Any) -> Iterator[Problem]:
    """Values that are not among the choices or outside the limits of their fields."""
    for s in settings(type(section)):
        yield from _limit_problems(s, getattr(section, s.name))


def _limit_problems(s: Setting, value: Any) -> Iterator[Problem]:
    if found := s.problem(value):
        yield Problem(s.name, *found, remedies=({s.name: _nearest(s, value)},))


def _nearest(s: Setting, value: Any) -> Any:
    """The value within the limits of a setting that is nearest to one outside of them."""
    if s.type in (int, float) and s.low is not None and s.high is not None and value == value:  # not NaN
        return s.type(min(max(value, s.low), s.high))
    return s.default


def _model_problems(config: Config) -> Iterator[Problem]:
    model = config.model
    if model.augment == 1:
        yield Problem(
            "augment",
            "augment is 1, so every image would be mirrored and shifted, and samples are neither: use 0.15, or at most"
            " 0.5.",
            code="conflicting-settings",
            remedies=({"augment": 0.15}, {"augment": 0.0}),
        )
    if model.class_cond and model.cond_drop_prob == 1:
        yield Problem(
            "cond_drop_prob",
            "cond_drop_prob is 1, so every class label would be dropped: use 0.1, or set class_cond to False.",
            code="nothing-learnt",
            remedies=({"cond_drop_prob": 0.1}, {"class_cond": False}),
        )
    if model.class_cond and len(config.class_names) > model.num_classes > 0:
        yield Problem(
            "num_classes",
            f"num_classes is {model.num_classes}, and class_names has {len(config.class_names):,} names: use"
            f" {len(config.class_names)}.",
            code="bad-value",
            remedies=({"num_classes": len(config.class_names)},),
        )
    if model.image_size % model.patch_size:
        fitting = [n for n in (2, 4) if model.image_size % n == 0]
        yield Problem(
            "patch_size",
            f"patch_size {model.patch_size} does not divide image_size {model.image_size}: use"
            f" {''.join(f'{n}, ' for n in fitting)}{'or ' if fitting else ''}1 for no patches.",
            code="bad-value",
            remedies=(*({"patch_size": n} for n in fitting), {"patch_size": 1}),
        )
        return  # all else is about the feature maps
    halvings = len(model.multipliers) - 1
    if model.map_size % 2**halvings:
        patches = f" in patches of patch_size {model.patch_size}" if model.patch_size > 1 else ""
        nearby = _nearby_sizes(model.image_size, model.patch_size * 2**halvings)
        fits = "".join(f"{n}, " for n in nearby)
        yield Problem(
            "image_size",
            f"image_size {model.image_size}{patches} cannot be halved {halvings} times, which {halvings + 1} levels"
            f" (channel_mult {','.join(map(str, model.multipliers))}) need: use {fits}{'or ' if fits else ''}fewer"
            " channel_mult entries.",
            code="bad-value",
            remedies=tuple({"image_size": n} for n in nearby),
        )
    if model.small_size >= model.image_size:
        yield Problem(
            "small_size",
            f"small_size {model.small_size} is not below image_size {model.image_size}, so there is nothing to"
            f" upsample: use {max(model.image_size // 2, 1)} or less, or 0 for no super-resolution.",
            code="bad-value",
            remedies=({"small_size": max(model.image_size // 2, 1)},),
        )
    if model.image_channels not in (1, 3, 4):
        yield Problem(
            "image_channels",
            f"image_channels is {model.image_channels}: use 1 (grey), 3 (colour) or 4 (with transparency).",
            code="bad-value",
            remedies=({"image_channels": 3}, {"image_channels": 1}),
        )
    if model.num_channels % 32:
        low = max(32, model.num_channels // 32 * 32)
        yield Problem(
            "num_channels",
            f"num_channels {model.num_channels} is not a multiple of 32, the number of normalisation groups: use {low}"
            f" or {low + 32}.",
            code="bad-value",
            remedies=({"num_channels": low}, {"num_channels": low + 32}),
        )
    attended = {
        m * model.num_channels for i, m in enumerate(model.multipliers) if model.map_size >> i in model.attention_sizes
    }
    everywhere = {*attended, model.multipliers[-1] * model.num_channels}  # the middle always has attention
    each = model.num_head_channels
    if each != -1:
        if bad := sorted(w for w in everywhere if each < 1 or w % each):
            good = [n for n in (32, 64, 128) if all(w % n == 0 for w in everywhere)]
            fits = ", ".join(map(str, good))
            yield Problem(
                "num_head_channels",
                f"num_head_channels {each} does not divide the {bad[0]} channels where attention is used: use {fits},"
                " or -1 for num_heads at every level.",
                code="bad-value",
                remedies=(*({"num_head_channels": n} for n in good), {"num_head_channels": -1}),
            )
        return
    for flag, heads, widths in (
        ("num_heads", model.num_heads, everywhere),
        ("num_heads_upsample", model.heads_up, attended),
    ):
        if flag == "num_heads_upsample" and model.num_heads_upsample == -1:
            continue  # num_heads is reported already
        bad = sorted(w for w in widths if heads < 1 or w % heads)
        if bad:
            good = [n for n in (1, 2, 4, 8) if all(w % n == 0 for w in widths)]
            fits = ", ".join(map(str, good))
            yield Problem(
                flag,
                f"{flag} {heads} does not divide the {bad[0]} channels where attention is used: use {fits}.",
                code="bad-value",
                remedies=tuple({flag: n} for n in reversed(good)),
            )


def _nearby_sizes(size: int, unit: int) -> list[int]:
    field = next(s for s in settings(ModelConfig) if s.name == "image_size")
    below = size // unit * unit
    return [n for n in (below, below + unit) if n >= unit and not list(_limit_problems(field, n))]


def _diffusion_problems(config: Config) -> Iterator[Problem]:
    diffusion = config.diffusion
    try:
        schedules.named(diffusion.noise_schedule, diffusion.diffusion_steps)
    except UserError as error:
        others = [name for name in schedules.BETAS if schedules.possible(name, diffusion.diffusion_steps)]
        remedies: list[Remedy] = [{"diffusion_steps": 1000}, *({"noise_schedule": name} for name in others)]
        yield Problem("diffusion_steps", str(error), code=error.code, remedies=tuple(remedies))
    if diffusion.zero_terminal_snr and (diffusion.prediction == "eps" or diffusion.diffusion_steps == 1):
        eps = diffusion.prediction == "eps"
        why = "prediction is eps, which says nothing of the image" if eps else "diffusion_steps is 1, which leaves none"
        mends = "set prediction to v" if eps else "use more diffusion steps"
        yield Problem(
            "zero_terminal_snr",
            f"zero_terminal_snr is True and {why} where there is only noise: {mends}, or set zero_terminal_snr to"
            " False.",
            code="conflicting-settings",
            remedies=({"prediction": "v"} if eps else {"diffusion_steps": 1000}, {"zero_terminal_snr": False}),
        )
    if config.model.learn_sigma and not diffusion.learned_range and diffusion.timestep_respacing:
        yield Problem(
            "learned_range",
            "learned_range is False, and a network that states its log variance itself cannot be trained on a shortened"
            " process: set learned_range to True, or leave timestep_respacing empty.",
            code="conflicting-settings",
            remedies=({"learned_range": True}, {"timestep_respacing": ""}),
        )
    if diffusion.prediction == "x_prev" and diffusion.timestep_respacing:
        yield Problem(
            "prediction",
            "prediction is x_prev, which cannot be trained on a shortened process, where the previous image is a"
            " different one: leave timestep_respacing empty.",
            code="conflicting-settings",
            remedies=({"timestep_respacing": ""}, {"prediction": "eps"}),
        )
    if diffusion.loss_weighting != weightings.NONE and (diffusion.use_kl or diffusion.prediction == "x_prev"):
        why = "use_kl" if diffusion.use_kl else "prediction"
        other = "the variational bound has weights of its own" if diffusion.use_kl else "that of x_prev has none"
        yield Problem(
            "loss_weighting",
            f"loss_weighting is {diffusion.loss_weighting} and {why} is {getattr(diffusion, why)}, but {other}: set"
            f" loss_weighting to {weightings.NONE}, or change {why}.",
            code="conflicting-settings",
            remedies=({"loss_weighting": weightings.NONE}, {why: False if diffusion.use_kl else "v"}),
        )
    try:
        schedules.space_timesteps(diffusion.diffusion_steps, diffusion.timestep_respacing)
    except UserError as error:
        yield Problem("timestep_respacing", str(error), code=error.code, remedies=({"timestep_respacing": ""},))


def _train_problems(config: Config) -> Iterator[Problem]:
    train = config.train
    if not config.data.data_dir:
        yield Problem(
            "data_dir",
            "data_dir is empty: name a folder of images, an .npz file, shapes, cifar10-mini or cifar10.",
            code="no-data-named",
        )
    if train.microbatch == 0:
        yield Problem(
            "microbatch",
            "microbatch is 0: use -1 for the whole batch, or the number of images per forward pass.",
            code="bad-value",
            remedies=({"microbatch": -1},),
        )
    if train.precision == "fp32" and train.use_fp16:
        yield Problem(
            "use_fp16",
            "use_fp16 is True and precision is fp32, which contradict each other: set use_fp16 to False, or set"
            " precision to auto, bf16 or fp16.",
            code="conflicting-settings",
            remedies=({"use_fp16": False}, {"precision": "auto"}),
        )
    if train.noise_offset and config.diffusion.use_kl:
        yield Problem(
            "noise_offset",
            f"noise_offset is {train.noise_offset:g} and use_kl is True, whose bound holds for plain noise alone: set"
            " noise_offset to 0, or use_kl to False.",
            code="conflicting-settings",
            remedies=({"noise_offset": 0.0}, {"use_kl": False}),
        )
    if train.lr == 0:
        yield Problem(
            "lr",
            "lr is 0, so the weights would not change: start with 0.0001.",
            code="nothing-learnt",
            remedies=({"lr": 1e-4},),
        )
    for rate in train.ema_rates:
        if not ema_rates.is_valid(rate):
            yield Problem(
                "ema_rate",
                f"ema_rate {rate!r} is neither a rate between 0 and 1 nor a width from {ema_rates.NARROWEST} to"
                f" {ema_rates.WIDEST}: write 0.999,0.9999 or power0.05,power0.1.",
                code="bad-value",
                remedies=({"ema_rate": "0.9999"},),
            )
    if len(set(train.ema_rates)) < len(train.ema_rates):
        yield Problem(
            "ema_rate",
            f"ema_rate {train.ema_rate!r} has the same rate twice: give each once.",
            code="bad-value",
            remedies=({"ema_rate": ",".join(dict.fromkeys(train.ema_rates))},),
        )
    for name in train.log_formats:
        if name not in LOG_FORMATS:
            yield Problem(
                "log_format",
                f"log_format {name!r} is unknown: choose among {', '.join(LOG_FORMATS)}, separated by commas.",
                code="bad-value",
                remedies=({"log_format": "csv"},),
            )
    if "tensorboard" in train.log_formats and find_spec("tensorboard") is None:
        yield Problem(
            "log_format",
            "log_format tensorboard needs a package that is not installed: run pip install tensorboard, install"
            " 'ddpm-workbench[tensorboard]', or leave it out.",
            code="missing-package",
            remedies=({"log_format": ",".join(name for name in train.log_formats if name != "tensorboard") or "csv"},),
        )
    yield from _learning_rate_problems(codec.resolved(config).train)
    if 0 < train.lr_anneal_steps < train.total_steps and not train.train_for:
        yield Problem(
            "total_steps",
            f"total_steps {train.total_steps} exceeds the training step at which the learning rate reaches 0,"
            f" lr_anneal_steps {train.lr_anneal_steps}: make them equal.",
            code="conflicting-settings",
            remedies=({"total_steps": train.lr_anneal_steps}, {"lr_anneal_steps": train.total_steps}),
        )


def _learning_rate_problems(train: TrainConfig) -> Iterator[Problem]:
    """Problems of a schedule of the learning rate; `train` has its total_steps."""
    if train.train_for:
        yield from _time_problems(train)
        return
    if train.lr_schedule == "constant":
        return
    if train.lr_anneal_steps:
        yield Problem(
            "lr_schedule",
            f"lr_schedule is {train.lr_schedule} and lr_anneal_steps is {train.lr_anneal_steps}, which both say how the"
            " learning rate falls: set lr_anneal_steps to 0, or lr_schedule to constant.",
            code="conflicting-settings",
            remedies=({"lr_anneal_steps": 0}, {"lr_schedule": "constant"}),
        )
        return
    falls = train.total_steps
    if train.lr_schedule == COOLED:
        falls = learning_rate.cooldown_start(train.total_steps, train.lr_cooldown)
    if train.lr_warmup_steps > falls:
        yield Problem(
            "lr_warmup_steps",
            f"lr_warmup_steps {train.lr_warmup_steps} is not over when the learning rate is to fall, at step {falls} of"
            f" {train.total_steps}: make it at most {falls}, or raise total_steps.",
            code="conflicting-settings",
            remedies=({"lr_warmup_steps": falls},),
        )


def _time_problems(train: TrainConfig) -> Iterator[Problem]:
    """Problems of a training for a time, whose number of steps is not known before it ends."""
    try:
        formatting.seconds_of(train.train_for)
    except UserError as error:
        yield Problem("train_for", f"train_for {error}", code=error.code, remedies=({"train_for": "1h"},))
        return
    falling = "lr_anneal_steps" if train.lr_anneal_steps else "lr_schedule" if train.lr_schedule == "cosine" else ""
    if falling:
        yield Problem(
            "train_for",
            f"train_for is {train.train_for} and {falling} is {getattr(train, falling)}, which has to know the number"
            f" of steps from the beginning: set lr_schedule to {COOLED}, or say how many steps with total_steps.",
            code="conflicting-settings",
            remedies=({"lr_schedule": COOLED, "lr_anneal_steps": 0}, {"train_for": ""}),
        )
