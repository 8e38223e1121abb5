"""The Train form as it was left, on disk: it is there again after a reload, in a new tab, and after a restart."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st

from ddpm.config import wording
from ddpm.data_sets import ARCHIVES
from ddpm.errors import UserError
from ddpm.storage import files, paths
from pages.ui.components import setting_widgets
from pages.ui.forms import run_name

MOST = 2**20  # bytes of such a file
MOST_NUMBER = 2**53  # which a browser holds exactly
FORMAT = 1
LAST = "train_draft"  # in the session: what was written last
EXTRA = {"source": str, "path": str, "name": str, "archive": str} | {
    f"{field}-{name}": str for field in ("archive", "images") for name in ARCHIVES
}
"""Fields that are no settings."""


class Draft(NamedTuple):
    """A form as it was left."""

    base: str  # the preset or run that it began with
    values: dict[str, Any]  # by field; without settings that did not exist when it was written


def load(runs_dir: Path) -> Draft | None:
    """Reads the form as it was left; None where there is no draft."""
    path = _path(runs_dir)
    try:
        data = files.read_json(path, MOST) if path else None
    except (UserError, OSError):  # damaged: whoever changes the form next writes it anew
        return None
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("base"), str):
        return None
    values = data.get("values")
    known = {name: s.type for name, s in wording.by_name().items()} | EXTRA
    if not isinstance(values, dict) or not all(_fits(known.get(name), value) for name, value in values.items()):
        return None
    return Draft(str(data["base"]), {name: _held(known[name], value) for name, value in values.items()})


def keep(runs_dir: Path, form: str, base: str) -> None:
    """Writes the form to disk if it was changed since it was filled or written.  Raises UserError, OSError."""
    where = {name: setting_widgets.key(form, name) for name in [*wording.by_name(), *EXTRA]}
    values = {name: st.session_state[key] for name, key in where.items() if key in st.session_state}
    if values.get("name") == st.session_state.get(run_name.SUGGESTION):
        values.pop("name", None)  # it is suggested again, as long as it is free
    now = (base, values)
    before = st.session_state.setdefault(LAST, now)
    path = _path(runs_dir)
    if now == before or path is None:
        return
    st.session_state[LAST] = now
    files.write_json(path, {"format": FORMAT, "base": base, "values": values})


def _path(runs_dir: Path) -> Path | None:
    folder = paths.state_folder()
    name = hashlib.sha256(str(runs_dir.absolute()).encode(errors="surrogatepass")).hexdigest()[:16]
    return folder / "drafts" / f"{name}.json" if folder else None


def _held(kind: type, value: Any) -> Any:
    return float(value) if kind is float and value is not None else value


def _fits(kind: type | None, value: Any) -> bool:
    """Whether a field of that type can hold the value."""
    if type(value) is int and abs(value) > MOST_NUMBER:
        return False
    if kind is float:
        return value is None or type(value) in (int, float)
    return kind is not None and (value is None or type(value) is kind)
