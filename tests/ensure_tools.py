"""Finds what tests need beside Python's packages, or gets it; `python tests/ensure_tools.py` does both.

Where no Chromium can be had it says in one line what to do, and the browser tests fail with the same line.  Tests of
other compilers, and of the kernels for other processors, are skipped where Debian's packages of these are not there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "google-chrome-stable", "chrome")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
)
MISSING = "The browser tests need a Chromium: install one, and put its path into the environment variable CHROMIUM."
# Programs for the tests of kernels, by Debian's package; OpenMP for clang is another package.
COMPILERS = {
    "g++-aarch64-linux-gnu": "aarch64-linux-gnu-g++",
    "qemu-user": "qemu-aarch64",
    "clang": "clang++",
    "libomp-dev": "clang++",
}
PATIENCE = 600  # seconds for an installation


def find() -> str | None:
    """The program to start: what the environment variable CHROMIUM names, an installed one, or Playwright's own."""
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), *PLACES, _playwrights()]
    return next((c for c in candidates if c and Path(c).is_file() and _starts(c)), None)


def _starts(program: str) -> bool:
    """Whether it is a browser, and not a hint at how to install one."""
    if os.name == "nt":
        return True  # --version opens a window there
    try:
        return not subprocess.run([program, "--version"], capture_output=True, timeout=30).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def _playwrights() -> str | None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def install_chromium() -> None:
    """Tries Debian's packages, then the browser test tool's own download."""
    print("No Chromium found: installing one ...", flush=True)
    if not (_install_packages("chromium", "fonts-liberation") and find()):
        _run([sys.executable, "-m", "playwright", "install", "chromium"])


def _install_packages(*packages: str) -> bool:
    """Installs packages of Debian, where it can be done without a password; returns whether they are there."""
    sudo = [] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["sudo", "-n"]
    if not shutil.which("apt-get") or (sudo and not _run([*sudo, "true"])):
        return False
    _run([*sudo, "apt-get", "update", "-qq"])
    quiet = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-qq", "-y"]
    return _run([*quiet, "--no-install-recommends", *packages])


def _run(command: list[str]) -> bool:
    try:
        return not subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> None:
    if not find():
        install_chromium()
    found = find()
    print(f"Browser tests use {found}." if found else MISSING)
    if missing := [package for package, program in COMPILERS.items() if not shutil.which(program)]:
        print(f"Installing {', '.join(missing)} ...", flush=True)
        if not _install_packages(*missing):
            print("They cannot be installed here: their tests are skipped.")


if __name__ == "__main__":
    main()
