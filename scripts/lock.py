"""Writes requirements.lock: the exact version of each package that is installed for requirements*.txt, and of what
these need.

    make lock

With it as its constraint, as in .ci/run, pip installs these versions of what it names.
"""

from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LISTS = ("requirements.txt", "requirements-dev.txt")
HEAD = "# Written by `make lock`: the versions that the tests run with.  What is allowed stands in requirements*.txt.\n"


def asked_for() -> Iterator[Requirement]:
    """What the lists of requirements name."""
    for name in LISTS:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            text = line.partition("#")[0].strip()
            if text and not text.startswith("-"):
                yield Requirement(text)


def installed() -> dict[str, str]:
    """Name -> version of these, and of all that they need on this system, as they are installed."""
    waiting = [(wanted, frozenset(wanted.extras)) for wanted in asked_for()]
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted, extras = waiting.pop()
        name = canonicalize_name(wanted.name)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        package = distribution(name)
        found[name] = Version(package.version).public  # not the build, such as +cpu
        for line in package.requires or ():
            needed = Requirement(line)
            if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in (extras or {""})):
                waiting.append((needed, frozenset(needed.extras)))
    return found


if __name__ == "__main__":
    pins = "".join(f"{name}=={version}\n" for name, version in sorted(installed().items()))
    (ROOT / "requirements.lock").write_text(HEAD + pins, encoding="utf-8")
