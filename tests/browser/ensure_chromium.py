"""Finds a Chromium for the browser tests, or gets one; `python tests/browser/ensure_chromium.py` does both.

Where none can be had it says in one line what to do, and the browser tests fail with the same line.
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


def install() -> None:
    """Try Debian's packages, then the browser test tool's own download."""
    sudo = [] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") and (not sudo or _run([*sudo, "true"])):
        print("No Chromium found: installing Debian's ...", flush=True)
        _run([*sudo, "apt-get", "update", "-qq"])
        packages = ["chromium", "fonts-liberation"]
        quiet = ["env", "DEBIAN_FRONTEND=noninteractive"]
        if _run([*sudo, *quiet, "apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages]) and find():
            return
    print("No Chromium found: downloading one ...", flush=True)
    _run([sys.executable, "-m", "playwright", "install", "chromium"])


def _run(command: list[str]) -> bool:
    try:
        return not subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> None:
    if not find():
        install()
    found = find()
    print(f"Browser tests use {found}." if found else MISSING)


if __name__ == "__main__":
    main()
