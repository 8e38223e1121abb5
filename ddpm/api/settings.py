"""Settings given as keywords, and progress bars."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ddpm.config import codec, fields, validation
from ddpm.errors import UserError

T = TypeVar("T")


def absolute_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with absolute paths, as they are kept."""
    known = {s.name: s for section in codec.SECTIONS.values() for s in fields.settings(section)}
    values = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    return {name: known[name].normalize(value) if name in known else value for name, value in values.items()}


def parse_section(section: type[T], values: Mapping[str, Any]) -> T:
    """Settings of one dataclass.  Raises UserError for settings that are unknown, of a wrong type or out of range."""
    known = {s.name: s for s in fields.settings(section)}
    flags = {s.flag: s.name for s in known.values() if s.flag}
    values = {flags.get(name, name): value for name, value in values.items()}
    if unknown := sorted(set(values) - set(known)):
        raise UserError(f"There is no setting {unknown[0]!r}: choose among {', '.join(known)}.", code="unknown-setting")
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    wanted = codec.section_from_json(section, {name: known[name].normalize(value) for name, value in plain.items()})
    for problem in validation.limit_problems(wanted):
        raise UserError(problem.sentence, code=problem.code)
    return wanted


def check_not_loading(settings: Mapping[str, Any]) -> None:
    """Raises UserError for settings that choose the weights, where these are loaded already."""
    if chosen := [name for name in ("weights", "step") if name in settings]:
        raise UserError(
            f"{chosen[0]} was given, and this model is loaded already: give it to load() instead.",
            code="settings-are-fixed",
        )


@contextlib.contextmanager
def progress_bar(shown: bool) -> Iterator[Any]:
    """A function of (done, total) that shows a progress bar on stderr."""
    from tqdm.auto import tqdm

    with tqdm(unit="step", leave=False, disable=not shown, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
