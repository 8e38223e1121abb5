"""Every setting, said once: from these fields follow the JSON, the command line and the forms.

A setting is a field of a frozen dataclass with its default, its help and its limits.  Names and defaults
are improved-diffusion's wherever it has the flag.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from ddpm import schedules
from ddpm.errors import UserError

FORMAT = 1  # of config.json; raise it when an old file needs translating


def setting(
    default: Any,
    help: str,
    *,
    label: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    unit: str = "",
    basic: bool = False,
) -> Any:
    """A field with what forms and flags need to know.  `basic` ones are shown without being asked for."""
    return field(
        default=default,
        metadata=dict(help=help, label=label, low=low, high=high, choices=choices, unit=unit, basic=basic),
    )


@dataclass(frozen=True)
class ModelConfig:
    """The U-Net.  It is improved-diffusion's: same flags, same tensors."""

    image_size: int = setting(64, "Width and height of the pictures. Each level but the last halves it, so it must divide that often.", label="Image size", low=4, high=1024, unit="pixels", basic=True)  # fmt: skip
    image_channels: int = setting(3, "Channels of a picture: 3 is colour, 1 is grey, 4 is colour with transparency.", label="Image channels", low=1, high=4)  # fmt: skip
    num_channels: int = setting(128, "Width of the network at full resolution. Twice as many make a step about four times as slow, and pictures better.", label="Channels", low=32, high=1024, basic=True)  # fmt: skip
    num_res_blocks: int = setting(2, "Residual blocks per level. More of them make a deeper, slower network.", label="Residual blocks", low=1, high=8, basic=True)  # fmt: skip
    channel_mult: str = setting("", "Width of each level as a multiple of Channels, such as 1,2,2,2. Empty: chosen by image size.", label="Channel multipliers")  # fmt: skip
    num_heads: int = setting(4, "Attention heads. They must divide the channels wherever there is attention.", label="Attention heads", low=1, high=64)  # fmt: skip
    num_heads_upsample: int = setting(-1, "Attention heads in the second half of the network; -1 is as many as in the first.", label="Heads, upsampling", low=-1, high=64)  # fmt: skip
    attention_resolutions: str = setting("16,8", "Sizes of the feature map at which attention is used, such as 16,8. Empty: only in the middle.", label="Attention at")  # fmt: skip
    dropout: float = setting(0.0, "Share of activations dropped while training. 0.1 to 0.3 keeps small data sets from being learnt by heart.", label="Dropout", low=0.0, high=0.95)  # fmt: skip
    class_cond: bool = setting(False, "Learn the classes of the data too, so that one can be asked for when sampling.", label="Class-conditional", basic=True)  # fmt: skip
    num_classes: int = setting(0, "Number of classes when class-conditional; 0 is as many as the data has.", label="Classes", low=0, high=100000)  # fmt: skip
    learn_sigma: bool = setting(False, "The network also predicts the variance of each step; its output has twice the channels.", label="Learned variance")  # fmt: skip
    use_checkpoint: bool = setting(False, "Recompute activations in the backward pass: less memory, about a third slower.", label="Save memory")  # fmt: skip
    use_scale_shift_norm: bool = setting(True, "The timestep scales and shifts each normalisation, rather than being added before it.", label="Scale-shift norm")  # fmt: skip

    @property
    def multipliers(self) -> tuple[int, ...]:
        """Width of each level as a multiple of num_channels."""
        return ints("channel_mult", self.channel_mult) or default_multipliers(self.image_size)

    @property
    def attention_sizes(self) -> tuple[int, ...]:
        return ints("attention_resolutions", self.attention_resolutions)

    @property
    def heads_up(self) -> int:
        return self.num_heads if self.num_heads_upsample == -1 else self.num_heads_upsample

    @property
    def out_channels(self) -> int:
        return self.image_channels * (2 if self.learn_sigma else 1)


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process, and what the network predicts about it."""

    diffusion_steps: int = setting(1000, "Timesteps T of the diffusion process.", label="Diffusion steps", low=1, high=100000, basic=True)  # fmt: skip
    noise_schedule: str = setting("linear", "How noise grows over the timesteps. Cosine keeps more of the picture for longer, which helps at 64 pixels and below.", label="Noise schedule", choices=tuple(schedules.BETAS), basic=True)  # fmt: skip
    timestep_respacing: str = setting("", "Train on a shortened process: 250, 10,15,20 or ddim50. Empty: all timesteps.", label="Respacing")  # fmt: skip
    sigma_small: bool = setting(False, "Sample with the smaller of the two fixed variances (the posterior's) rather than the larger (beta).", label="Small variance")  # fmt: skip
    predict_xstart: bool = setting(False, "The network predicts the clean picture rather than the noise.", label="Predict x_start")  # fmt: skip
    rescale_timesteps: bool = setting(True, "Show the network timesteps on a scale of 0 to 1000, whatever T is.", label="Rescale timesteps")  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from."""

    data_dir: str = setting("", "A folder of images (searched recursively), an .npz file, or one of shapes, cifar10-mini, cifar10.", label="Data", basic=True)  # fmt: skip
    random_flip: bool = setting(False, "Mirror half of the pictures left to right: more variety from little data, wrong for text.", label="Random flips", basic=True)  # fmt: skip
    enlarge: bool = setting(False, "Enlarge images that are smaller than the image size instead of refusing them.", label="Enlarge small images")  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """How it is learnt, and what is written down on the way."""

    total_steps: int = setting(0, "Training steps in all. 0: as many as lr_anneal_steps, or 30,000.", label="Training steps", low=0, high=10**9, basic=True)  # fmt: skip
    batch_size: int = setting(1, "Pictures per training step.", label="Batch size", low=1, high=65536, basic=True)  # fmt: skip
    microbatch: int = setting(-1, "Pictures in memory at once; -1 is the whole batch. Smaller saves memory and changes nothing else.", label="Microbatch", low=-1, high=65536)  # fmt: skip
    lr: float = setting(1e-4, "Learning rate of AdamW.", label="Learning rate", low=0.0, high=1.0, basic=True)  # fmt: skip
    lr_warmup_steps: int = setting(0, "Let the learning rate rise from 0 over so many steps.", label="Warm-up", low=0, high=10**9, unit="steps")  # fmt: skip
    lr_anneal_steps: int = setting(0, "Let the learning rate fall to 0 at this step; 0 keeps it constant.", label="Anneal over", low=0, high=10**9, unit="steps")  # fmt: skip
    weight_decay: float = setting(0.0, "AdamW's weight decay.", label="Weight decay", low=0.0, high=1.0)  # fmt: skip
    grad_clip: float = setting(0.0, "Scale gradients down to this norm when they exceed it; 0 never does.", label="Gradient clipping", low=0.0, high=10**6)  # fmt: skip
    ema_rate: str = setting("0.9999", "Moving averages of the weights to keep, as rates with commas between. Samples are best from an average.", label="EMA rates")  # fmt: skip
    ema_warmup: bool = setting(True, "Let each average begin fast and slow down to its rate, so that it is worth looking at after a hundred steps.", label="EMA warm-up")  # fmt: skip
    seed: int = setting(0, "Everything random follows from it: the same seed and settings give the same run.", label="Seed", low=0, high=2**32 - 1)  # fmt: skip
    log_interval: int = setting(10, "Steps between two lines of progress.csv; each holds the means since the last.", label="Log every", low=1, high=10**9, unit="steps")  # fmt: skip
    save_interval: int = setting(10000, "Steps between two checkpoints.", label="Save every", low=1, high=10**9, unit="steps", basic=True)  # fmt: skip
    keep_checkpoints: int = setting(0, "Checkpoints to keep, newest first; 0 keeps all.", label="Checkpoints kept", low=0, high=10**6)  # fmt: skip
    sample_interval: int = setting(1000, "Steps between two preview grids; 0 draws none.", label="Preview every", low=0, high=10**9, unit="steps", basic=True)  # fmt: skip
    preview_samples: int = setting(16, "Pictures in a preview grid, always from the same noise.", label="Preview pictures", low=1, high=256)  # fmt: skip
    preview_steps: int = setting(25, "DDIM steps per preview picture: more are better and slower.", label="Preview steps", low=1, high=1000)  # fmt: skip
    threads: int = setting(0, "CPU threads to train with; 0 is one per physical core.", label="Threads", low=0, high=1024)  # fmt: skip

    @property
    def ema_rates(self) -> tuple[str, ...]:
        """The rates in the spelling in which they name files."""
        rates = (rate.strip() for rate in self.ema_rate.split(",") if rate.strip())
        return tuple(str(float(rate)) if _is_number(rate) else rate for rate in rates)

    @property
    def micro(self) -> int:
        return min(self.microbatch if self.microbatch > 0 else self.batch_size, self.batch_size)


@dataclass(frozen=True)
class Config:
    """Enough to build a run again."""

    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    class_names: tuple[str, ...] = ()  # of the data, in label order


@dataclass(frozen=True)
class SampleConfig:
    """What to draw, and how."""

    weights: str = setting("", "Which weights: model for the raw ones, ema_0.9999 for an average. Empty: the first average there is.", label="Weights")  # fmt: skip
    step: int = setting(0, "Checkpoint to draw from, by its training step; 0 is the newest.", label="Checkpoint", low=0, high=10**9)  # fmt: skip
    num_samples: int = setting(10000, "How many pictures to draw.", label="Pictures", low=1, high=10**7, basic=True)  # fmt: skip
    batch_size: int = setting(16, "Pictures drawn at once; it changes speed and memory, never a picture.", label="Batch size", low=1, high=4096)  # fmt: skip
    use_ddim: bool = setting(False, "DDIM: good pictures in few steps, and with eta 0 fully set by the starting noise. Otherwise ancestral DDPM.", label="DDIM", basic=True)  # fmt: skip
    timestep_respacing: str = setting("", "How many steps: 250, 10,15,20 or ddim50. Empty: as in training.", label="Steps", basic=True)  # fmt: skip
    eta: float = setting(0.0, "Fresh noise in each DDIM step: 0 none, 1 as much as DDPM.", label="eta", low=0.0, high=1.0, basic=True)  # fmt: skip
    sigma_small: bool | None = setting(None, "Which fixed variance ancestral sampling uses. Empty: as in training.", label="Small variance")  # fmt: skip
    clip_denoised: bool = setting(True, "Keep the predicted clean picture within the range of pixels at every step.", label="Clip")  # fmt: skip
    classes: str = setting("", "Classes to draw, by name or number with commas between. Empty: all in turn.", label="Classes", basic=True)  # fmt: skip
    seed: int = setting(0, "Picture k is drawn from seed + k, whatever the batch.", label="Seed", low=0, high=2**32 - 1, basic=True)  # fmt: skip
    threads: int = setting(0, "CPU threads to draw with; 0 is one per physical core.", label="Threads", low=0, high=1024)  # fmt: skip


def sampling_timesteps(config: Config, sample: SampleConfig) -> list[int]:
    """The timesteps that pictures are drawn over, increasing.  Raises UserError for an impossible respacing."""
    spec = sample.timestep_respacing or config.diffusion.timestep_respacing
    return schedules.space_timesteps(config.diffusion.diffusion_steps, spec)


class Setting(NamedTuple):
    """A field as forms and flags see it."""

    name: str
    type: type
    default: Any
    help: str
    label: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    unit: str
    basic: bool


SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "diffusion": DiffusionConfig,
    "data": DataConfig,
    "train": TrainConfig,
}

T = TypeVar("T")


def settings(section: type) -> list[Setting]:
    """The settings of one dataclass, in order.  An optional bool has type bool and default None."""
    types = typing.get_type_hints(section)
    found = []
    for f in dataclasses.fields(section):
        kind = types[f.name]
        plain = next((a for a in typing.get_args(kind) if a is not type(None)), kind)
        found.append(Setting(f.name, plain, f.default, **f.metadata))
    return found


def ints(name: str, text: str) -> tuple[int, ...]:
    """'16,8' as (16, 8).  Raises UserError for anything else than positive whole numbers."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{name} {text!r} is not a list of positive whole numbers: write them with commas, as in 16,8.")
    return tuple(int(part) for part in parts)


def default_multipliers(image_size: int) -> tuple[int, ...]:
    """improved-diffusion's at 32, 64 and 256; elsewhere the nearest smaller size's, cut to levels that divide."""
    known = {1: (1, 2, 2, 2), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
    mult = known[max(size for size in known if size <= image_size)]
    while len(mult) > 1 and (image_size % 2 ** (len(mult) - 1) or image_size // 2 ** (len(mult) - 1) < 4):
        mult = mult[:-1]
    return mult


def parse(kind: type, text: str) -> Any:
    """A flag's text as a value.  Raises ValueError with what was expected."""
    if kind is bool:
        word = text.lower()
        if word in ("true", "yes", "t", "y", "1"):
            return True
        if word in ("false", "no", "f", "n", "0"):
            return False
        raise ValueError("expected True or False")
    if kind is int:
        return int(text)
    if kind is float:
        return float(text)
    return text


def to_flags(config: Any, base: Any = None) -> list[str]:
    """The flags that turn `base` (default: the defaults) into `config`, for a Config or one section."""
    if isinstance(config, Config):
        base = base or Config()
        return [flag for name in SECTIONS for flag in to_flags(getattr(config, name), getattr(base, name))]
    base = base or type(config)()
    flags = []
    for s in settings(type(config)):
        value = getattr(config, s.name)
        if value != getattr(base, s.name):
            text = str(value)  # one that begins with a dash would be taken for a flag
            flags += [f"--{s.name}={text}"] if s.type is str and text.startswith("-") else [f"--{s.name}", text]
    return flags


def replace(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with settings changed by their flat names, whatever section they are in."""
    sections = {
        name: dataclasses.replace(
            getattr(config, name), **{k: v for k, v in values.items() if k in {s.name for s in settings(cls)}}
        )
        for name, cls in SECTIONS.items()
    }
    unknown = set(values) - {s.name for cls in SECTIONS.values() for s in settings(cls)} - {"class_names"}
    if unknown:
        raise UserError(f"Unknown settings {', '.join(sorted(unknown))}: see `ddpm train --help` for the known ones.")
    return Config(**sections, class_names=tuple(values.get("class_names", config.class_names)))


def resolved(config: Config) -> Config:
    """`config` with its open ends settled: how many steps there will be."""
    steps = config.train.total_steps or config.train.lr_anneal_steps or 30_000
    return replace(config, {"total_steps": steps})


def to_json(config: Config) -> dict[str, Any]:
    """What config.json holds."""
    return {"format": FORMAT, **dataclasses.asdict(config), "class_names": list(config.class_names)}


def from_json(data: Mapping[str, Any]) -> Config:
    """Settings that are missing take their defaults.  Raises UserError for what this version does not know."""
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        found = data.get("format", "none") if isinstance(data, Mapping) else type(data).__name__
        raise UserError(f"The configuration has format {found}, this version reads {FORMAT}: update DDPM Workbench.")
    names = data.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"class_names in the configuration is {names!r}, which is no list of names: correct it.")
    values: dict[str, Any] = {"class_names": names}
    for name, cls in SECTIONS.items():
        section = data.get(name, {})
        if not isinstance(section, Mapping):
            raise UserError(f"{name} in the configuration is {section!r}, which is no group of settings: correct it.")
        values |= {key: _typed(cls, key, value) for key, value in section.items()}
    return replace(Config(), values)


def section_from_json(cls: type[T], data: Mapping[str, Any]) -> T:
    """One dataclass of settings, such as a SampleConfig, from its JSON."""
    return cls(**{key: _typed(cls, key, value) for key, value in data.items()})


def _typed(cls: type, key: str, value: Any) -> Any:
    known = {s.name: s for s in settings(cls)}
    if key not in known:
        raise UserError(f"Unknown setting {key!r} in the configuration: it was written by a newer version; update.")
    s = known[key]
    if value is None and s.default is None:
        return None
    if s.type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not s.type:
        raise UserError(f"{key} in the configuration is {value!r}, which is not {s.type.__name__}: correct it.")
    return value


class Problem(NamedTuple):
    """What is wrong with a setting: one sentence with a remedy."""

    name: str
    sentence: str


def check(config: Config) -> None:
    """Raises UserError with the first problem."""
    for problem in problems(config):
        raise UserError(problem.sentence)


def problems(config: Config) -> Iterator[Problem]:
    """Everything that would keep a training from starting, without looking at the data."""
    yield from _look(config, tuple(SECTIONS), (_model_problems, _diffusion_problems, _train_problems))


def network_problems(config: Config) -> Iterator[Problem]:
    """Everything that would keep the network from being built and drawn from."""
    yield from _look(config, ("model", "diffusion"), (_model_problems, _diffusion_problems))


def _look(config: Config, sections: tuple[str, ...], looks: tuple[Callable[[Config], Iterator[Problem]], ...]) -> Iterator[Problem]:  # fmt: skip
    limits = [p for name in sections for p in limit_problems(getattr(config, name))]
    yield from limits
    if limits:
        return  # what follows computes with these numbers
    for look in looks:
        try:
            yield from look(config)
        except UserError as error:  # a text that could not be read as numbers
            yield Problem(str(error).split()[0], str(error))


def limit_problems(section: Any) -> Iterator[Problem]:
    """Values outside the limits that their fields state."""
    for s in settings(type(section)):
        value = getattr(section, s.name)
        if s.choices and value not in s.choices:
            yield Problem(
                s.name, f"{s.name} is {value!r}, which is none of {', '.join(s.choices)}: choose one of them."
            )
        if s.type in (int, float) and not s.low <= value <= s.high:  # as a NaN is not, either
            yield Problem(s.name, f"{s.name} is {value}: set it between {s.low:.15g} and {s.high:.15g}.")


def _model_problems(config: Config) -> Iterator[Problem]:
    model = config.model
    halvings = len(model.multipliers) - 1
    if model.image_size % 2**halvings:
        fits = ", ".join(str(n) for n in _nearby_sizes(model.image_size, 2**halvings))
        yield Problem(
            "image_size",
            f"image_size {model.image_size} cannot be halved {halvings} times, as {halvings + 1} levels "
            f"(channel_mult {','.join(map(str, model.multipliers))}) need: use {fits}, or fewer channel_mult entries.",
        )
    if model.image_channels not in (1, 3, 4):
        yield Problem("image_channels", f"image_channels is {model.image_channels}: use 1 (grey), 3 (colour) or 4 (with transparency).")  # fmt: skip
    if model.num_channels % 32:
        low = max(32, model.num_channels // 32 * 32)
        yield Problem("num_channels", f"num_channels {model.num_channels} is no multiple of 32, the number of normalisation groups: use {low} or {low + 32}.")  # fmt: skip
    for flag, heads in (("num_heads", model.num_heads), ("num_heads_upsample", model.heads_up)):
        widths = {m * model.num_channels for i, m in enumerate(model.multipliers) if model.image_size >> i in model.attention_sizes}  # fmt: skip
        if flag == "num_heads_upsample" and model.num_heads_upsample == -1:
            continue  # what is wrong with num_heads was said
        if flag == "num_heads":
            widths.add(model.multipliers[-1] * model.num_channels)  # the middle always has attention
        bad = sorted(w for w in widths if heads < 1 or w % heads)
        if bad:
            fits = ", ".join(str(n) for n in (1, 2, 4, 8) if all(w % n == 0 for w in widths))
            yield Problem(flag, f"{flag} {heads} does not divide the {bad[0]} channels where attention is used: use {fits}.")  # fmt: skip


def _nearby_sizes(size: int, unit: int) -> list[int]:
    below = size // unit * unit
    return [n for n in (below, below + unit) if n >= unit]


def _diffusion_problems(config: Config) -> Iterator[Problem]:
    diffusion = config.diffusion
    try:
        schedules.named(diffusion.noise_schedule, diffusion.diffusion_steps)
    except UserError as error:
        yield Problem("diffusion_steps", str(error))
    try:
        schedules.space_timesteps(diffusion.diffusion_steps, diffusion.timestep_respacing)
    except UserError as error:
        yield Problem("timestep_respacing", str(error))


def _train_problems(config: Config) -> Iterator[Problem]:
    train = config.train
    if config.model.learn_sigma:
        yield Problem("learn_sigma", "learn_sigma True cannot be trained with the simple loss, which gives the variance no gradient: set it to False.")  # fmt: skip
    if not config.data.data_dir:
        yield Problem("data_dir", "data_dir is empty: name a folder of images, an .npz file, shapes, cifar10-mini or cifar10.")  # fmt: skip
    if train.microbatch == 0:
        yield Problem("microbatch", "microbatch is 0: use -1 for the whole batch, or how many pictures to hold in memory at once.")  # fmt: skip
    if train.lr == 0:
        yield Problem("lr", "lr is 0, so nothing would be learnt: 0.0001 is a good start.")
    for rate in train.ema_rates:
        try:
            good = 0 <= float(rate) < 1
        except ValueError:
            good = False
        if not good:
            yield Problem("ema_rate", f"ema_rate {rate!r} is not between 0 and 1: write rates such as 0.999,0.9999.")
    if len(set(train.ema_rates)) < len(train.ema_rates):
        yield Problem("ema_rate", f"ema_rate {train.ema_rate!r} names a rate twice: name each once.")
    if 0 < train.lr_anneal_steps < train.total_steps:
        yield Problem("total_steps", f"total_steps {train.total_steps} goes on after the learning rate has reached 0 at lr_anneal_steps {train.lr_anneal_steps}: make them equal.")  # fmt: skip


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
