"""Settings as JSON and as flags, and settings replaced by name."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from ddpm.config import reference_names
from ddpm.config.fields import Setting, settings
from ddpm.config.model import DiffusionConfig, ModelConfig
from ddpm.config.training import Config, DataConfig, TrainConfig
from ddpm.errors import UserError
from ddpm.formatting import brief

FORMAT = 1  # of config.json; raise it when an old file needs translating
SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "diffusion": DiffusionConfig,
    "data": DataConfig,
    "train": TrainConfig,
}
MOST_CLASSES = 100_000
MOST_NAME = 4096  # characters of the name of a class
T = TypeVar("T")


def to_flags(config: Any, base: Any = None, always: Collection[str] = ()) -> list[str]:
    """Flags that turn `base` (by default the default settings) into `config`, for a Config or one section.

    Settings named in `always` are included even where the two are equal.
    """
    if isinstance(config, Config):
        base = base or Config()
        return [flag for name in SECTIONS for flag in to_flags(getattr(config, name), getattr(base, name), always)]
    base = base or type(config)()
    flags = []
    for s in settings(type(config)):
        if s.name == "total_steps" and config.train_for:
            continue  # it follows from the time
        value = getattr(config, s.name)
        if s.name in always or value != getattr(base, s.name):
            text = str(value)  # one that begins with a dash would be taken for a flag
            flags += [f"--{s.name}={text}"] if s.type is str and text.startswith("-") else [f"--{s.name}", text]
    return flags


def replace(config: Config, values: Mapping[str, Any]) -> Config:
    """Returns `config` with settings replaced by name, across sections; improved-diffusion's names are understood.

    Raises UserError for an unknown name, and for names that contradict each other.
    """
    values = reference_names.to_own(values)
    known = {name: {s.name for s in settings(cls)} for name, cls in SECTIONS.items()}
    sections = {
        name: dataclasses.replace(getattr(config, name), **{k: v for k, v in values.items() if k in names})
        for name, names in known.items()
    }
    unknown = set(values).difference(*known.values(), {"class_names"})
    if unknown:
        raise UserError(
            f"Unknown settings {', '.join(sorted(unknown))}: see `ddpm train --help` for the list.",
            code="unknown-setting",
        )
    return Config(**sections, class_names=tuple(values.get("class_names", config.class_names)))


def differences(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Settings that are not the same in both: name -> (before, after), in the order of the sections; class_names last.

    `replace(before, {name: new for name, (_, new) in ...})` makes `after` of `before`.
    """
    pairs = [
        (getattr(before, part), getattr(after, part), s.name) for part, cls in SECTIONS.items() for s in settings(cls)
    ]
    pairs.append((before, after, "class_names"))
    values = {name: (getattr(old, name), getattr(new, name)) for old, new, name in pairs}
    return {name: (old, new) for name, (old, new) in values.items() if old != new}


def resolved(config: Config) -> Config:
    """Returns `config` with total_steps filled in where it is 0."""
    return replace(config, {"total_steps": config.train.total_steps or config.train.lr_anneal_steps or 30_000})


def with_absolute_paths(section: T) -> T:
    """Returns one dataclass of settings, such as a SampleConfig, with absolute paths."""
    return dataclasses.replace(
        section, **{s.name: s.normalize(getattr(section, s.name)) for s in settings(type(section)) if s.path}
    )  # type: ignore[type-var]


def to_json(config: Config) -> dict[str, Any]:
    """The content of config.json."""
    return {"format": FORMAT, **dataclasses.asdict(config), "class_names": list(config.class_names)}


def from_json(data: Any, where: str = "the configuration") -> Config:
    """Settings from config.json; missing ones take their defaults.

    where: what errors call it.  Raises UserError for a setting that is unknown, of another type, outside its limits or
    none of its choices.
    """
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        found = brief(data.get("format", "none")) if isinstance(data, Mapping) else type(data).__name__
        raise UserError(
            f"The format of {where} is {found}, and this version reads {FORMAT}: update DDPM Workbench.",
            code="newer-format",
        )
    names = data.get("class_names", [])
    if (
        not isinstance(names, list)
        or len(names) > MOST_CLASSES
        or not all(isinstance(name, str) and len(name) <= MOST_NAME for name in names)
    ):
        raise UserError(f"class_names in {where} is {brief(names)}, not a list of names: correct it.", code="bad-value")
    values: dict[str, Any] = {"class_names": names}
    for name, cls in SECTIONS.items():
        section = data.get(name, {})
        if not isinstance(section, Mapping):
            raise UserError(
                f"{name} in {where} is {brief(section)}, not a group of settings: correct it.",
                code="bad-value",
            )
        values |= _typed(cls, reference_names.to_own(section) if name == "diffusion" else section, where)
    return replace(Config(), values)


def checked(config: Config) -> Config:
    """The same settings.  Raises UserError as `from_json` does, for what could be written and not read again."""
    return from_json(to_json(config), "what was given")


def section_from_json(cls: type[T], data: Any, where: str = "the configuration") -> T:
    """One dataclass of settings, such as a SampleConfig, from its JSON.  Raises UserError as `from_json` does."""
    if not isinstance(data, Mapping):
        raise UserError(f"{where} holds {brief(data)}, not a group of settings: correct it.", code="bad-value")
    return cls(**_typed(cls, data, where))


def _typed(cls: type, section: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = {s.name: s for s in settings(cls)}
    found = {}
    for key, value in section.items():
        if key not in known:
            raise UserError(
                f"Unknown setting {brief(key)} in {where}: it was written by a newer version: update DDPM Workbench.",
                code="unknown-setting",
            )
        found[key] = value = _typed_value(known[key], value, where)
        if value is not None and (wrong := known[key].problem(value)):
            raise UserError(f"In {where}, {wrong[0]}", code=wrong[1])
    return found


def _typed_value(s: Setting, value: Any, where: str) -> Any:
    if value is None and s.default is None:
        return None
    if isinstance(value, str) and value in s.aliases:
        return s.aliases[value]
    if s.type is float and type(value) is int:
        return float(value)
    if type(value) is not s.type:
        raise UserError(
            f"{s.name} in {where} is {brief(value)}, which is not {s.type.__name__}: correct it.", code="bad-value"
        )
    return value
