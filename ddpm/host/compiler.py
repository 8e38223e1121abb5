"""Finding the C++ compiler of this computer."""

import os
import shlex
import shutil

Command = tuple[str, ...]  # a program and its first arguments


def find_compiler() -> Command:
    """The C++ compiler: what CXX says if it is set, else the first that is installed; empty where there is none.

    CXX may hold a launcher and arguments, as for make: "ccache g++ -m64".
    """
    asked = os.environ.get("CXX", "").strip()
    return next((found for text in ([asked] if asked else ["g++", "clang++", "c++"]) if (found := _command(text))), ())


def _command(text: str) -> Command:
    """A command as its words, the first of them a path; empty where that is not there."""
    if path := shutil.which(text):  # one that has spaces, too
        return (path,)
    try:
        words = shlex.split(text, posix=os.name != "nt")
    except ValueError:  # a quotation that does not end
        return ()
    path = shutil.which(words[0]) if words else None
    return (path, *words[1:]) if path else ()
