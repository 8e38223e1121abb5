"""What the user says of a run: a title, tags, notes, a star, and whether it is archived, in its about.json.

The file is no part of a checkpoint, and the process that trains neither reads nor writes it.  Runs of earlier versions
have none.
"""

import dataclasses
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from ddpm.config import records
from ddpm.errors import UserError
from ddpm.runs.exclusive import guard
from ddpm.runs.run_folder import folder_at
from ddpm.storage import files, folders, untrusted
from ddpm.storage.untrusted import Folder

NAME = "about.json"
FORMAT = 1  # of the file
MOST = 2**19  # bytes of it
MOST_TITLE, MOST_TAG, MOST_TAGS, MOST_NOTES = 200, 50, 50, 20_000  # characters, and tags

Tag = Annotated[str, Meta(max_length=MOST_TAG)]


@dataclass(frozen=True)
class About:
    """What the user says of a run.  As read from a file, nothing in it is longer than its limit, or cannot be shown."""

    title: Annotated[str, Meta(max_length=MOST_TITLE)] = ""  # shown in place of the name; one line of any characters
    tags: Annotated[tuple[Tag, ...], Meta(max_length=MOST_TAGS)] = ()  # words without spaces and commas
    notes: Annotated[str, Meta(max_length=MOST_NOTES)] = ""  # several lines
    star: bool = False
    archived: bool = False  # left out of lists unless it is asked for
    format: Annotated[int, Meta(ge=1)] = FORMAT


def read(content: Folder) -> About:
    """Reads the file in the folder of a run; without one, nothing is said of it.

    Raises UserError if it is damaged, no regular file, or of a newer version; OSError.
    """
    data = files.json_in(content, NAME, MOST)
    if data is None:
        return About()
    path = os.path.join(content.path, NAME)
    number = data.get("format") if isinstance(data, dict) else None
    if type(number) is int and number > FORMAT:
        raise UserError(
            f"{path} was written by a newer version (format {number}, and this one reads {FORMAT}): update DDPM"
            " Workbench.",
            code="newer-format",
        )
    return _shown(records.read(About, data, path))


def change(
    folder: Path,
    *,
    title: str | None = None,
    notes: str | None = None,
    star: bool | None = None,
    archived: bool | None = None,
    tags: Iterable[str] | None = None,
    add: Iterable[str] = (),
    remove: Iterable[str] = (),
) -> About:
    """Changes what is said of the run in `folder`, also while it trains; what is None stays.  Returns what is said now.

    tags: all its tags; add, remove: tags to add and to remove.  Tags that differ in case alone are one.  Raises
    UserError if something is too long, the run does not exist, or its file is of a newer version; a damaged file is
    replaced.
    """
    with guard(folder.parent):
        content = folder_at(folder)
        try:
            content.check()
            before = read(content)
        except FileNotFoundError:
            raise UserError(f"{folder} no longer exists: choose another run.", code="not-found") from None
        except UserError as error:
            if error.code not in ("bad-value", "damaged-json"):
                raise
            before = About()
        gone = {_same(tag) for tag in map(clean_tag, remove)}
        kept = [tag for tag in (before.tags if tags is None else tags) if _same(clean_tag(tag)) not in gone]
        asked = {"title": title, "notes": notes, "star": star, "archived": archived}
        found = dataclasses.replace(
            before,
            **{name: value for name, value in asked.items() if value is not None},  # type: ignore[arg-type]
            tags=(*kept, *add),
        )
        found = _shown(found)
        _check(found)
        if found != before or not content.exists(NAME):
            with folders.kept(content):
                files.write_json(folder / NAME, to_json(found))
    return found


def to_json(about: About) -> dict[str, object]:
    """The content of about.json."""
    return {**dataclasses.asdict(about), "format": FORMAT, "tags": list(about.tags)}


def clean_line(text: str) -> str:
    """`text` on one line, without characters that a line cannot show; empty if it would show nothing."""
    return _visible(" ".join(_standard(text).split()), "").strip()


def clean_tag(text: str) -> str:
    """`text` as a tag, a word: spaces and commas in it become hyphens."""
    return "-".join(clean_line(text).lstrip("#").replace(",", " ").split())


def split_tags(text: str) -> list[str]:
    """The tags in a text that separates them by commas or spaces."""
    return [tag for tag in map(clean_tag, text.replace(",", " ").split()) if tag]


def clean_lines(text: str) -> str:
    """`text` of several lines, without characters that cannot be shown, and without empty lines around it."""
    return _visible("\n".join(_standard(text).splitlines()), "\n\t").strip()


def _shown(about: About) -> About:
    """What is said of a run, with nothing in it that cannot be shown, and every tag once."""
    tags: dict[str, str] = {}
    for tag in filter(None, map(clean_tag, about.tags)):
        tags.setdefault(_same(tag), tag)
    return dataclasses.replace(
        about, title=clean_line(about.title), tags=tuple(tags.values()), notes=clean_lines(about.notes)
    )


def _check(about: About) -> None:
    """Raises UserError for what is longer than its limit."""
    for what, size, most in (
        ("The title", len(about.title), MOST_TITLE),
        ("A tag", max(map(len, about.tags), default=0), MOST_TAG),
        ("The text of the notes", len(about.notes), MOST_NOTES),
    ):
        if size > most:
            raise UserError(f"{what} has {size:,} characters, and may have {most:,}: shorten it.", code="bad-value")
    if len(about.tags) > MOST_TAGS:
        raise UserError(
            f"There are {len(about.tags)} tags, and a run may have {MOST_TAGS}: remove some.", code="bad-value"
        )


def _same(tag: str) -> str:
    """What tags that differ in case alone have in common."""
    return tag.casefold()


def _standard(text: str) -> str:
    """`text` in Unicode's composed form, with halves of characters, which JSON can hold, replaced."""
    return unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())


def _visible(text: str, also: str) -> str:
    """`text` without control characters other than `also`, and without marks that have text run the other way."""
    kept = "".join(
        letter
        for letter in text
        if letter in also
        or (letter not in untrusted.TURNING and unicodedata.category(letter) not in untrusted.NO_LETTERS)
    )
    return kept if any(unicodedata.category(letter)[0] in "LNPS" for letter in kept) else ""
