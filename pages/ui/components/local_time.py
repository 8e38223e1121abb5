"""Times as the browser's clock has them, which may be in another time zone than the server's."""

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from ddpm import formatting


def clock(when: float) -> str:
    """Time of day, with the date unless it is today: 14:05, Tue 3 Nov, 14:05."""
    return formatting.clock(when, zone=zone())


def zone() -> ZoneInfo | None:
    """The browser's time zone; None where it is not known, or where nothing here knows it."""
    try:
        name = st.context.timezone
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
