"""Numbers, times and names as text for people.  Pure functions."""

import math
import re
import reprlib
import time
from collections.abc import Sequence
from datetime import datetime, tzinfo

from ddpm.errors import UserError

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms]\s*)+", re.ASCII)


def seconds_of(text: str) -> float:
    """Seconds of a duration such as 90s, 20m, 3h, 1h30m or 1.5h; more than 0.

    Raises UserError for anything else: a number without a unit could be any of them.
    """
    words = text.strip().lower()
    seconds = 0.0
    if _DURATION.fullmatch(words):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([\d.]+)([dhms])", words))
    if not 0 < seconds < math.inf:
        raise UserError(
            f"{text!r} is not a duration: write it as 90s, 20m, 3h or 1h30m, in days (d), hours, minutes and seconds.",
            code="bad-value",
        )
    return seconds


def duration(seconds: float | None) -> str:
    """12 s, 3 min 05 s, 2 h 05 min, 4 days 3 h; a dash for None and other unknown durations."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "–"
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    days = whole // 86400
    return f"{plural(days, 'day')} {whole % 86400 // 3600} h"


def speed(per_second: float | None) -> str:
    """Training steps a second, or seconds a step where one takes longer: 4 it/s, 2.5 s/it; a dash if unknown."""
    if not per_second or not math.isfinite(per_second):
        return "–"
    return f"{number(per_second, 3)} it/s" if per_second >= 1 else f"{number(1 / per_second, 3)} s/it"


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits: 0.03162, 12.5, 1,234, 3e-4; a dash for None, NaN and infinities."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if value == int(value) and size < 1e7:
        return f"{int(value):,}"
    if size < 1e-3 or size >= 1e7:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{_trimmed(mantissa)}e{int(exponent)}"
    if size >= 10**digits:
        return f"{value:,.0f}"
    places = max(0, digits - 1 - math.floor(math.log10(size)))
    return _trimmed(f"{value:,.{places}f}")


def percent(done: float, total: float) -> str:
    """Share that is done as 42 %, rounded down, so that 100 % is the end."""
    return f"{int(100 * done / total)} %" if total else "0 %"


def _trimmed(text: str) -> str:
    """Without zeros at the end of the decimals."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def amount(number: float) -> str:
    """950, 12.4 k, 1.9 M, 2.1 G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / min(size, 1e3 if letter == 'k' else size):.1f} {letter}"
    return f"{number:,.0f}"


def memory(bytes_: float) -> str:
    """12 kB, 340 MB, 1.2 GB, 1.0 TB."""
    if bytes_ < 1e6:
        return f"{math.ceil(bytes_ / 1e3)} kB"
    if bytes_ < 1e9:
        return f"{bytes_ / 1e6:.0f} MB"
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ < 1e12 else f"{bytes_ / 1e12:,.1f} TB"


def clock(when: float, now: float | None = None, zone: tzinfo | None = None) -> str:
    """Time of day, with the date unless it is today: 14:05, Tue 3 Nov, 14:05.  zone: None is that of this computer."""
    then, today = datetime.fromtimestamp(when, zone), datetime.fromtimestamp(time.time() if now is None else now, zone)
    if then.date() == today.date():
        return f"{then:%H:%M}"
    year = f" {then.year}" if then.year != today.year else ""
    return f"{then:%a} {then.day} {then:%b}{year}, {then:%H:%M}"


def plural(number: int, one: str, many: str = "") -> str:
    """1 image, 2,000 images; `many` is the plural if it is not formed with an s: 1 class, 2 classes."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def table(head: Sequence[str], body: Sequence[Sequence[str]], markdown: bool = False) -> str:
    """A table as text or Markdown: the first column is aligned left, the others right."""
    lines = [head, *body]
    if markdown:
        ruled = [head, ["---", *("---:" for _ in head[1:])], *body]
        return "\n".join("| " + " | ".join(line) + " |" for line in ruled)
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    )


def some(names: Sequence[str], most: int) -> str:
    """The first `most` names, separated by commas, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


CONTROLS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")


def printable(name: str) -> str:
    """`name` with undecodable bytes and control characters escaped as in \\x1b, to be shown and stored."""
    return CONTROLS.sub(_escaped, _BYTES.sub(_as_utf8, name))


def printable_lines(text: str) -> str:
    """The same for a text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


_BYTES = re.compile("[\\udc80-\\udcff]+")  # how Python represents bytes that cannot be decoded


def _as_utf8(found: re.Match[str]) -> str:
    """Letters in UTF-8 that a locale without them, such as C, could not decode."""
    return found[0].encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    byte = code - 0xDC00 if 0xDC80 <= code < 0xDD00 else code
    return f"\\x{byte:02x}" if byte < 256 else f"\\u{byte:04x}"


def brief(value: object) -> str:
    """A value of any type, size and depth, as an error shows it: 'lineqr', -9, [1, 2, 3, 4, ...]."""
    return _BRIEF.repr(value)


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxlist, _BRIEF.maxdict, _BRIEF.maxstring, _BRIEF.maxlong = 2, 4, 2, 100, 40
