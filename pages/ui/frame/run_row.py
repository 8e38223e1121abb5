"""A run as a row of the table: plain values for the browser, none of them longer than a row can show."""

import json
import math
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ddpm import formatting
from ddpm.config import codec, fields
from ddpm.config.training import Config
from ddpm.errors import UserError, as_user_error
from ddpm.formatting import printable
from ddpm.runs import jobs, progress_log
from ddpm.runs.footprint import Stamp
from ddpm.runs.jobs import ACTIVE, Pulse
from ddpm.runs.log_summary import SummaryReader
from ddpm.runs.runs import Run
from ddpm.storage import folders

Row = dict[str, Any]

MOST_TEXT = 300  # characters of a message or a setting
MOST_METRICS = 60


class Entry:
    """What is known of a run: what one look tells, and what takes longer to find out."""

    def __init__(self, run: Run, created: float):
        self.run = run
        self.created = created
        self.base: Row = {}
        self.log: Row = {}
        self.disk: int | None = None
        self.text = ""  # the row as JSON
        self.revision = 0
        self.active = False
        self.stamp: Stamp = ()
        self.summed_at = self.weighed_at = float("-inf")
        self._reader = SummaryReader(run.progress_path)

    def look(self, pulse: Pulse) -> None:
        """Finds out what one look at its files tells.  Raises FileNotFoundError if it is gone."""
        try:
            self.base = base_row(self.run, self.created, pulse)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except (UserError, OSError) as error:  # it changed since its files were checked
            said = error if isinstance(error, UserError) else as_user_error(error)
            self.base = problem_row(self.run, self.created, self.run.state(pulse), str(said))
        self.active = self.base["state"] in ACTIVE

    def sum_up(self) -> None:
        """Reads its log.  Raises UserError, OSError."""
        self.summed_at = time.monotonic()
        found = self._reader.read()
        shown = list(found.last)[:MOST_METRICS]
        self.log = {
            "last": {_text(name): number(found.last[name]) for name in shown},
            "lowest": {
                _text(name): [number(lowest.value), lowest.step]
                for name, lowest in found.lowest.items()
                if name in shown
            },
            "curve": found.curve,
            "curve_of": _text(found.curve_of),
        }

    def weigh(self) -> None:
        """Sums what it takes of the disk."""
        self.weighed_at = time.monotonic()
        self.disk = folders.size(self.run.folder)

    def write(self) -> bool:
        """Writes the row; False if it is the same as before."""
        row = self.base
        if "problem" not in row:
            row = {**self.log, **row, "last": {**self.log.get("last", {}), **row["last"]}}
        weight = {} if self.disk is None else {"disk": self.disk, "disk_text": formatting.memory(self.disk)}
        before, self.text = self.text, json.dumps({**row, **weight}, allow_nan=False, separators=(",", ":"))
        return self.text != before


def base_row(run: Run, created: float, pulse: Pulse) -> Row:
    """What one look at the files of a run tells.  Raises UserError, OSError."""
    problem, state = run.problem(), run.state(pulse)
    if problem:
        return problem_row(run, created, state, problem)
    status = run.status()
    if status is not None and status.state not in jobs.FINAL:
        status = jobs.settled(status, state)
    previews = run.previews()[-1:]
    row = {
        **_named(run, created, state),
        "settings": settings_of(run.config),
        "preview": [previews[0][0], str(run.changed_at(previews[0][1]))] if previews else None,
        "total": run.config.train.total_steps,
        "last": {},
    }
    if status is None:
        return row
    return {
        **row,
        "step": status.step,
        "total": status.total_steps or row["total"],
        "message": _text(status.message),
        "warning": _text(status.warning),
        "computed": _text(" ".join(filter(None, (status.computed, status.sharing)))),
        "speed": number(status.steps_per_second),
        "left": number(status.seconds_left) if state in ACTIVE else None,
        "trained": number(status.metrics.get("seconds")),
        "updated": number(status.updated_at),
        "texts": {
            "speed": formatting.speed(status.steps_per_second),
            "left": formatting.duration(status.seconds_left),
            "trained": formatting.duration(status.metrics.get("seconds")),
        },
        "last": {_text(name): number(status.metrics[name]) for name in list(status.metrics)[:MOST_METRICS]},
    }


def problem_row(run: Run, created: float, state: jobs.State, problem: str) -> Row:
    """A run with a file that is not what it should be."""
    return {**_named(run, created, state), "problem": printable(problem)[:1000]}


def _named(run: Run, created: float, state: jobs.State) -> Row:
    about = run.about()
    said = {
        "title": about.title,
        "tags": list(about.tags),
        "notes": about.notes[:MOST_TEXT],
        "star": about.star,
        "archived": about.archived,
    }
    named = {"name": run.name, "shown": printable(run.name), "created": round(created, 3), "state": state}
    return {**named, **{name: value for name, value in said.items() if value}}


@cache
def _defaults() -> dict[str, Any]:
    return {s.name: getattr(getattr(Config(), section), s.name) for section, s in _all_settings()}


@cache
def _all_settings() -> list[tuple[str, fields.Setting]]:
    return [(section, s) for section, cls in codec.SECTIONS.items() for s in fields.settings(cls)]


def settings_of(config: Config) -> Row:
    """The settings of a run that are not the defaults."""
    found = {s.name: getattr(getattr(config, section), s.name) for section, s in _all_settings()}
    return {name: _value(value) for name, value in found.items() if value != _defaults()[name]}


def legend() -> Mapping[str, Any]:
    """What the columns are: the settings with label and default, in order, and explanations of the metrics."""
    return {
        "settings": [
            [s.name, s.label or s.name, _value(_defaults()[s.name]), bool(s.basic)] for _, s in _all_settings()
        ],
        "metrics": progress_log.HELP,
    }


def _value(value: Any) -> Any:
    return _text(value) if isinstance(value, str | Path) else number(value) if isinstance(value, float) else value


def _text(text: object) -> str:
    return printable(str(text))[:MOST_TEXT]


def number(value: float | None) -> float | None:
    """A number with as many digits as anything shows, without the noise of the others; None unless it is finite."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(format(value, ".10g"))
