"""Paths: what users and environment variables name, and what there is without a home."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from raising import raises_error

from ddpm.storage import paths

VARIABLES = {
    "DDPM_CACHE": paths.cache_folder,
    "DDPM_SHARES": paths.shares_folder,
    "DDPM_KERNEL_CACHE": paths.kernel_folder,
    "DDPM_RUNS": paths.runs_folder,
    "OPENAI_LOGDIR": paths.log_folder,
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_whole_path(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.full("~/a/../b") == home / "b"
    assert paths.full("c/d") == tmp_path / "c" / "d"
    assert paths.full(home) == home
    assert paths.full("~$photo.png") == tmp_path / "~$photo.png", "the name of no user is a name like others"


@pytest.mark.skipif(os.name == "nt", reason="a folder that is in use stays there")
def test_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert paths.full("/a") == Path("/a")
    with raises_error("no-folder"):
        paths.full("a")


@pytest.mark.parametrize("variable", VARIABLES)
def test_every_variable_is_read_alike(variable: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = VARIABLES[variable]
    monkeypatch.setenv(variable, "")
    assert where() is None or where().is_absolute()
    monkeypatch.setenv(variable, " ~/here ")
    assert where() == home / "here"
    monkeypatch.setenv(variable, "here")
    assert where() == Path.cwd() / "here"
    monkeypatch.setenv(variable, "~nobody-of-that-name/here")
    with raises_error("no-folder", variable):
        where()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*arguments: object, **settings: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("DDPM_CACHE", raising=False)
    monkeypatch.setattr(paths.platformdirs, "user_cache_path", lost)
    assert paths.cache_folder() == paths.user_temp_folder("cache")
    monkeypatch.setattr(paths.platformdirs, "user_cache_path", lambda *_, **__: Path("~/.cache/ddpm-workbench"))
    assert paths.kernel_folder() == paths.user_temp_folder("cache") / "kernels", "no folder called ~ is made anywhere"


@pytest.mark.skipif(not hasattr(os, "setuid") or os.geteuid() != 0, reason="only root can play a user of no name")
def test_a_user_whom_the_system_does_not_know() -> None:
    code = (
        "import os, sys\nfrom ddpm.storage import paths\nos.setgid(54321);"
        " os.setuid(54321)\nprint(paths.cache_folder(), paths.shares_folder())"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HOME", "DDPM_", "XDG_", "TMP"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(paths.__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    there = Path(tempfile.gettempdir())
    assert done.stdout.split() == [f"{there}/ddpm-cache-54321", f"{there}/ddpm-shares-54321"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_dots_after_a_link_mean_what_the_system_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "inside")
    monkeypatch.chdir(tmp_path)
    assert paths.full("link/../data") == tmp_path / "real" / "data"
    assert paths.full("link/data") == tmp_path / "link" / "data"
