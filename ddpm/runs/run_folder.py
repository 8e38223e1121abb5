"""What may lie in the folder of a run or of another job: the files, their sizes, and the types of what JSON holds.

The folder may be damaged, half copied or a stranger's: everything in it is opened through `folder_at`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from ddpm.storage import files
from ddpm.storage.untrusted import Folder

# Most bytes of each file; the largest real ones have a tenth of that at most.
MOST_CONFIG = 2**24  # it names the classes
MOST_STATUS = 2**20
MOST_CONTROL = 2**16
MOST_MANIFEST = 2**20
MOST_SETTINGS = 2**24
MOST_RESULT = 2**26
MOST_NOTE = 2**16
MOST_IMAGE = 2**28  # also of an animation
MOST_ARRAYS = 2**32
MOST_LOG = 2**32  # progress.csv

# Folders that the process of a job writes into, next to those of its results.
FOLDERS = ("saves", "tb", "images", "given", "small", "noise")
PREVIEW_NAME = re.compile(r"[0-9]{1,15}\.png")


def folder_at(path: Path, *parts: str) -> Folder:
    """The folder of a run or another job at `path`, or one inside it.

    It is no link, unless the folder that the link leads to was opened in place, by importing it.
    """
    return Folder(path, *parts, may_link=_opened_in_place)


def check_folders(folder: Folder, results: Iterable[str]) -> None:
    """Raises UserError if a folder that the process of a job writes into is a link, or anything but a folder.

    results: names of the folders of its results.
    """
    for name in (*FOLDERS, *results):
        folder.inside(name).files()


def open_log(path: Path) -> BinaryIO:
    """Opens the progress.csv of a run for reading.  Raises UserError if it is a link, or anything but a file."""
    return folder_at(path.parent).open_file(path.name, MOST_LOG)


def requests_in(data: Any) -> dict[str, str]:
    """The requests in a control.json: request -> token; none for anything else."""
    entries = data.items() if isinstance(data, dict) else ()
    return {key: token for key, token in entries if key in ("stop", "save", "sample") and isinstance(token, str)}


def _opened_in_place(folder: Folder) -> bool:
    """True for a folder of improved-diffusion that was opened in place: a manifest in it lists files as theirs."""
    saves = folder.inside("saves")
    for name in saves.files(".json"):
        manifest = files.json_in(saves, name, MOST_MANIFEST)
        if isinstance(manifest, dict) and manifest.get("theirs") is True:
            return True
    return False
