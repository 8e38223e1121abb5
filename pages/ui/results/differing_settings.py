"""Settings in which runs differ, as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from ddpm.config import codec, wording
from ddpm.config.training import Config
from ddpm.formatting import printable
from pages.ui.components.markdown import escape

MOST = 80  # characters of a value; the rest is left out


def show(configs: Mapping[str, Config]) -> None:
    """The settings that are not the same in all of these runs: a row for each, a column for each run."""
    found = rows([*configs.values()])
    if not found:
        st.caption("They have the same settings." if len(configs) > 1 else "There is nothing to compare it with.")
        return
    st.table(
        {
            "Setting": [escape(label) for label, _ in found],
            **{escape(name): [escape(values[k]) for _, values in found] for k, name in enumerate(configs)},
        },
        hide_index=True,
        width="stretch",
    )


def rows(configs: Sequence[Config]) -> list[tuple[str, list[str]]]:
    """(label, its value in each configuration) of each setting that is not the same in all, in their order."""
    if not configs:
        return []
    names = {name for other in configs[1:] for name in codec.differences(configs[0], other)}
    found = []
    for section in codec.SECTIONS:
        for setting in wording.settings_of(section):
            if setting.name in names and setting.name != "num_classes":  # which follows from the names of the classes
                label = f"{setting.label} ({setting.unit})" if setting.unit else setting.label
                values = [getattr(getattr(config, section), setting.name) for config in configs]
                found.append((label, [text(wording.shown(setting, value)) for value in values]))
    if "class_names" in names:
        found.append(("Names of the classes", [text(config.class_names) for config in configs]))
    return found


def text(value: Any) -> str:
    """A value of a setting on one line."""
    written = (", ".join(map(str, value)) or "none") if isinstance(value, tuple | list) else str(value)
    found = printable(" ".join(written.split()))
    return found if len(found) <= MOST else f"{found[: MOST - 1]}…"
