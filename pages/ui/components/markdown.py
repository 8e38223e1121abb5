"""Text from data and files on the screen.

Streamlit shows most texts as Markdown: captions, messages, labels, tooltips, cells of tables.  There a class named
`![x](http://...)` is an image that the browser fetches.  So whatever the program does not say itself goes through
`escape`; tests/test_markdown.py reads this off the source.
"""

import re

from ddpm.formatting import printable

_MEANINGFUL = re.compile(
    r"[\\`*_{}\[\]<>$~#|:^&@]"  # anywhere
    r"|(?<=\bwww)\."  # makes an address a link
    r"|^[-+=]|(?<=^\d)[.)]|(?<=^\d\d)[.)]",  # makes a line a list or a heading
    re.ASCII | re.IGNORECASE,
)


def escape(text: object) -> str:
    """`text` as Markdown that shows it literally, on one line; control characters are shown as in \\x1b."""
    line = " ".join(str(text).split())
    return _MEANINGFUL.sub(r"\\\g<0>", printable(line))


def with_code(text: object) -> str:
    """The same for a message, in which commands stand between backticks: these are shown as code."""
    line = printable(" ".join(str(text).split()))
    parts = re.split(r"`([^`]+)`", line)  # those with odd numbers stood between backticks
    return "".join(f"`{part}`" if k % 2 else _MEANINGFUL.sub(r"\\\g<0>", part) for k, part in enumerate(parts))
