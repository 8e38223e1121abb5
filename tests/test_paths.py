"""Paths: what users and environment variables name, and what there is without a home."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from raising import raises_error

from ddpm.runs import manifests, run_names, runs
from ddpm.storage import paths, untrusted

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


BAD_NAMES = [
    "", ".", "..", "a/b", "a\\b", "../a", "a\0b", "a\nb", "a\x1b[2Jb", "a\x85b", "x" * 300, "\u00e4" * 200,
    "a\u202egnp.exe", "a\u2066b", "a\u2028b", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_names_that_no_file_of_a_run_has(name: str, tmp_path: Path) -> None:
    """One function judges them: of runs, of files, of those in manifests, and of what is listed."""
    assert not untrusted.is_part(name)
    assert not run_names.is_name(name)
    assert not manifests.is_file_of(f"ema_{name}_000040.pt", 40) or name in ("", ".", "..")
    with raises_error("bad-name"):
        untrusted.Folder(tmp_path).read(name, 9)
    with raises_error("bad-name"):
        runs.find_run(tmp_path, name)


@pytest.mark.parametrize("name", ["-rf", "a b", "\u00e4\u0308", "\udc80", "run.1", "\u4e2d\u6587"])
def test_names_that_a_folder_may_have(name: str) -> None:
    assert run_names.is_name(name)


@pytest.mark.parametrize(
    "name", ["con", "NUL.txt", "a.png:b", "a.", "a ", "com1", "lpt9.pt", "conin$", "CON .txt", "com\u00b9"]
)
def test_names_that_windows_takes_for_something_else(name: str) -> None:
    assert untrusted._is_of_windows(name)
    assert untrusted.is_part(name) == (os.name != "nt")
    assert not untrusted._is_of_windows("model000040.pt")


def test_folders_of_strange_names_are_no_runs(tmp_path: Path) -> None:
    for name in ("a\nb", "a\u202eb", ".hidden", "plain"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert [run.name for run in runs.list_runs(tmp_path)] == ["plain"]
