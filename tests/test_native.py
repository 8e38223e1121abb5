"""Compiling the kernels: once, kept whole, and whatever goes wrong is told and costs only speed."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

from ddpm.host.compiler import find_compiler
from ddpm.models.native import build
from ddpm.runs.runs import Run
from ddpm.storage import files

ROOT = Path(__file__).resolve().parents[1]

# A compiler that takes no time: what it links is the library that the real one made.  Writes down what it is asked for.
FAKE = """#!/bin/sh
echo "$*" >> {log}
for last; do :; done
case "$*" in
    *--version) echo "fake 1.0" ;;
    *-shared*) sleep {seconds}; cp {real} "$last" ;;
    *) echo "an object" > "$last" ;;
esac
"""


class Compiler:
    """A script in the place of one, and how often it linked."""

    def __init__(self, path: Path, text: str):
        self.path, self.log = path, path.with_suffix(".log")
        path.write_text(text)
        path.chmod(0o755)

    @property
    def links(self) -> int:
        return sum("-shared" in line for line in self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of compiled kernels, not there yet."""
    folder = tmp_path / "compiled" / "here"
    monkeypatch.setenv("DDPM_KERNEL_CACHE", str(folder))
    return folder


@pytest.fixture
def compiler(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DDPM_KERNEL_CACHE")
        library, why = build.found()
    if library is None:
        pytest.skip(why)
    path = tmp_path / "fake-c++"
    made = Compiler(path, FAKE.format(log=path.with_suffix(".log"), real=library._name, seconds=0))
    monkeypatch.setenv("CXX", str(path))
    return made


def found() -> build.Found:
    """As a new process finds it."""
    return build.found.__wrapped__()


def the_library(folder: Path) -> Path:
    (path,) = folder.glob("*.so")
    return path


def test_no_compiler_is_reported(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    assert found() == (None, "CXX names /nonexistent/c++, which is not there")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    assert found() == (None, "there is no C++ compiler (g++ or clang++)")
    assert not kept.exists()


def test_it_is_compiled_once_and_kept(compiler: Compiler, kept: Path) -> None:
    library, why = found()
    assert library is not None, why
    assert library.winograd_block() in (16, 32)
    assert not why
    assert Path(library._name) == the_library(kept)
    assert found().library is not None
    assert compiler.links == 1
    names = {path.name for path in kept.iterdir()}
    assert names == {"lock", the_library(kept).name, the_library(kept).with_suffix(".json").name}, "nothing is left"


def test_another_compiler_or_other_flags_compile_anew(
    compiler: Compiler, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found()
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    found()
    compiler.path.write_text(compiler.path.read_text().replace("fake 1.0", "fake 2.0"))
    found()
    assert len(list(kept.glob("*.so"))) == compiler.links == 3


def test_it_is_compiled_for_what_the_environment_asks(
    compiler: Compiler, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found()
    monkeypatch.setenv("DDPM_KERNEL_ISA", "avx2")
    assert found().library is not None
    assert compiler.links == 2, "of the two neither replaces the other"
    compiled = [line for line in compiler.log.read_text().splitlines() if "-march=x86-64-v3" in line]
    assert len(compiled) == len(list(build.SOURCES.glob("*.cpp")))
    monkeypatch.setenv("DDPM_KERNEL_ISA", "mmx")
    assert found() == (None, "DDPM_KERNEL_ISA is mmx, and can be native or avx2")


SPOILT: dict[str, Callable[[Path], None]] = {
    "an eighth of it": lambda path: replace(path, path.read_bytes()[: path.stat().st_size // 8]),  # would kill: SIGBUS
    "all but its end": lambda path: replace(path, path.read_bytes()[:-1]),
    "nothing of it": lambda path: replace(path, b""),
    "it is gone": lambda path: path.unlink(),
    "no checksum": lambda path: path.with_suffix(".json").unlink(),
    "half a checksum": lambda path: replace(path.with_suffix(".json"), b'{"sha2'),
    "another's checksum": lambda path: replace(path.with_suffix(".json"), b"[]"),
}


def replace(path: Path, content: bytes) -> None:
    """By another file, as the first may be loaded."""
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_what_is_not_whole_is_compiled_again(compiler: Compiler, kept: Path, spoil: Callable[[Path], None]) -> None:
    found()
    spoil(the_library(kept))
    library, why = found()
    assert library is not None, why
    assert compiler.links == 2
    assert found().library is not None
    assert compiler.links == 2


def test_what_another_system_made_is_compiled_again(
    compiler: Compiler, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found()
    elsewhere = kept.with_name("elsewhere")  # a library that this process has loaded is not read again
    monkeypatch.setenv("DDPM_KERNEL_CACHE", str(elsewhere))
    path = elsewhere / the_library(kept).name
    elsewhere.mkdir()
    files.write_json(path.with_suffix(".json"), files.write_bytes(path, b"MZ of Windows")._asdict())
    assert found().library is not None
    assert compiler.links == 2


FAILING = {
    "an error after a while": (
        (
            'case "$*" in --version) echo 1 ;; *) sleep 0.1; echo "in file x:" >&2; echo "x.h:3: error: no such thing"'
            " >&2; exit 1 ;; esac"
        ),
        "failing-c++ failed (x.h:3: error: no such thing)",
    ),
    "without a word": ('test "$*" = --version', "failing-c++ failed (it said nothing)"),
    "only the linker": (
        'case "$*" in *-shared*) echo "ld: cannot find -lgomp" >&2; exit 1 ;; esac',
        "failing-c++ failed (ld: cannot find -lgomp)",
    ),
    "a broken file": (
        'for last; do :; done; case "$*" in --version) ;; *) echo rubbish > "$last" ;; esac',
        "what failing-c++ made cannot be loaded",
    ),
    "no file": ("exit 0", "the kernels could not be compiled"),
    "is none": ("exit 3", "failing-c++ failed (it said nothing)"),
    "without end": ('test "$*" = --version || exec sleep 3600', "failing-c++ took more than 0 s"),
}


@pytest.mark.parametrize(("script", "expected"), FAILING.values(), ids=FAILING.keys())
def test_a_compiler_that_fails_is_reported(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: str
) -> None:
    failing = Compiler(tmp_path / "failing-c++", f"#!/bin/sh\n{script}\n")
    monkeypatch.setenv("CXX", str(failing.path))
    if "sleep" in script:
        monkeypatch.setattr(build, "PATIENCE", 0.4)
    library, why = found()
    assert library is None
    assert expected in why
    assert "\n" not in why
    assert not list(kept.glob("*.json")), "and it is tried again"
    assert not [path for path in kept.iterdir() if path.is_dir()], "nothing is left"


def test_no_program_at_all(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rubbish"
    path.write_bytes(b"\x7fELF rubbish")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    library, why = found()
    assert library is None
    assert "rubbish cannot be run (" in why


@pytest.mark.parametrize("obstacle", ["a file in its place", "not writable"])
def test_where_nothing_can_be_kept_it_is_compiled_each_time(
    compiler: Compiler, kept: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    kept.parent.mkdir()
    if obstacle == "not writable":
        kept.mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    else:
        kept.write_text("a file")
    for links in (1, 2):
        library, why = found()
        assert library is not None, why
        assert library.winograd_block() in (16, 32)
        assert compiler.links == links
        assert not Path(library._name).parent.exists(), "the folder of its own is gone"


def test_no_room_and_others_at_work_are_reported(
    compiler: Compiler, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> Any:
        raise files.DiskFull(path)

    def busy(path: Path, seconds: float) -> Any:
        raise build.locks.Busy

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", full)
        library, why = found()
    assert library is None
    assert why.startswith("the kernels could not be compiled (No room to write ")
    with monkeypatch.context() as patch:
        patch.setattr(build.locks, "locked", busy)
        assert found() == (None, "another process is still compiling the kernels")
    assert found().library is not None, "and with room again they are"


@pytest.mark.slow
def test_two_that_start_together_compile_once(compiler: Compiler, kept: Path) -> None:
    compiler.path.write_text(compiler.path.read_text().replace("sleep 0;", "sleep 1;"))
    code = (
        "from ddpm.models.native import build; found = build.found(); print(found.why or"
        " found.library.winograd_block())"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    reported = [process.communicate(timeout=PATIENCE)[0].strip() for process in both]
    assert reported[0] == reported[1]
    assert reported[0] in ("16", "32")
    assert compiler.links == 1


def test_a_disk_without_locks_keeps_kernels_too(
    compiler: Compiler, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(path: Path) -> Any:
        raise build.locks.NoLocks(errno.ENOLCK, "No locks available", str(path))

    monkeypatch.setattr(build.locks, "hold", hold)
    assert found().library is not None
    assert len(list(kept.glob("*.so"))) == 1


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("{path}", ["{path}"]),
        ("'{path}' -m64 -DTWO='a b'", ["{path}", "-m64", "-DTWO=a b"]),
        ("env '{path}'", ["{env}", "{path}"]),
        ("{path}-not", []),
        ("'{path}", []),
        (" ", ["{usual}"]),
    ],
    ids=["path with spaces", "arguments", "launcher", "not there", "half a quotation", "nothing"],
)
@pytest.mark.skipif(os.name == "nt", reason="plays with programs of POSIX")
def test_compilers_with_launchers_and_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, expected: list[str]
) -> None:
    path = tmp_path / "my tools" / "c++"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", asked.format(path=path))
    words = dict(
        path=path, env=shutil.which("env"), usual=next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    )
    assert find_compiler() == tuple(word.format(**words) for word in expected if word.format(**words) != "None")


def test_a_launcher_compiles_what_the_compiler_would(
    compiler: Compiler, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found().library is not None
    monkeypatch.setenv("CXX", f"env '{compiler.path}' -DANOTHER")
    assert found().library is not None
    assert compiler.links == 2, "arguments make another file"


@pytest.mark.slow
@pytest.mark.parametrize("script", [None, "exit 3"], ids=["no compiler", "one that fails"])
def test_a_training_without_kernels_says_so_and_goes_on(tmp_path: Path, kept: Path, script: str | None) -> None:
    path = tmp_path / "poor-c++"
    if script is not None:
        Compiler(path, f"#!/bin/sh\n{script}\n")
    settings = dict(
        data_dir="shapes",
        image_size=8,
        num_channels=32,
        num_res_blocks=1,
        channel_mult="1",
        num_heads=1,
        attention_resolutions="",
        diffusion_steps=20,
        noise_schedule="cosine",
        total_steps=2,
        batch_size=2,
        ema_rate="0.9",
        sample_interval=0,
        kernels="native",
        threads=1,
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ddpm",
            "train",
            "--run",
            "slow",
            *(str(part) for name, value in settings.items() for part in (f"--{name}", value)),
        ],
        cwd=tmp_path,
        env={**os.environ, "CXX": str(path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run(tmp_path / "runs" / "slow")
    assert run.state() == "finished"
    why = f"CXX names {path}, which is not there" if script is None else "poor-c++ failed (it said nothing)"
    log = run.log_path.read_text()
    assert f"Torch alone computes, which takes about twice as long, since {why}." in log
    assert "by torch alone" in log
