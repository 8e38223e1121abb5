"""What may lie in the folder of a run or of another job: the files, their sizes, and the types of what JSON holds.

The folder may be damaged, half copied or a stranger's: everything in it is opened through `folder_at`.
"""

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from ddpm.storage import files, folders
from ddpm.storage.untrusted import Folder

Request = Literal["stop", "save", "sample", "cooldown"]  # what a process can be asked for

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


class JobFolder:
    """The folder of a job, and the files in it.

    depth: how many folders it lies below that of a run, from where it is reached.
    """

    def __init__(self, folder: Path, depth: int = 0):
        self.folder = Path(folder)
        self._depth = depth

    @property
    def content(self) -> Folder:
        """The folder, as the one through which its files are opened."""
        if not self._depth:
            return folder_at(self.folder)
        top = self.folder.parents[self._depth - 1]
        return folder_at(top, *self.folder.parts[len(top.parts) :])

    def open_file(self, path: Path, most: int = MOST_IMAGE) -> io.BufferedReader:
        """Opens a file in the folder for reading.  Raises UserError unless it is a regular one of at most `most` bytes.

        Raises FileNotFoundError if there is none, and OSError.
        """
        return self._around(path).open_file(path.name, most)

    def read(self, path: Path, most: int = MOST_IMAGE) -> bytes:
        """The content of a file in the folder, which `open_file` opens."""
        return files.retry_on_windows(lambda: self._around(path).read(path.name, most))

    def write_json(self, path: Path, value: Any) -> None:
        """Writes a JSON file in the folder, as `files.write_json` does, through no link in it.

        Raises FileNotFoundError if the folder no longer exists.
        """
        with folders.kept(self.content):
            files.write_json(path, value)

    def has(self, path: Path) -> bool:
        """True if there is such a file in the folder.  Raises UserError if it is a link, or anything but a file."""
        return self._around(path).exists(path.name)

    def changed_at(self, path: Path) -> int:
        """Time of the last change of a file in the folder, in nanoseconds.  Raises as `open_file` does."""
        return self._around(path).stat(path.name).st_mtime_ns

    def _around(self, path: Path) -> Folder:
        return self.content.inside(*path.relative_to(self.folder).parts[:-1])

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def log_path(self) -> Path:
        return self.folder / "log.txt"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobFolder) and self.folder == other.folder

    def __hash__(self) -> int:
        return hash(self.folder)


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
    return {key: token for key, token in entries if key in get_args(Request) and isinstance(token, str)}


def _opened_in_place(folder: Folder) -> bool:
    """True for a folder of improved-diffusion that was opened in place: a manifest in it lists files as theirs."""
    saves = folder.inside("saves")
    for name in saves.files(".json"):
        manifest = files.json_in(saves, name, MOST_MANIFEST)
        if isinstance(manifest, dict) and manifest.get("theirs") is True:
            return True
    return False
