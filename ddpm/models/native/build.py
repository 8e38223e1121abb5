"""Our own kernels for the CPU: compiled on this machine at first use, kept, and loaded.  No torch.

The sources are `kernels/*.cpp`, plain C++ that the compiler turns into what this processor is best at.  Where
there is no compiler, or it fails, torch alone computes everything, slower.
"""

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.errors import UserError
from ddpm.host.compiler import Command, find_compiler
from ddpm.storage import files, locks, paths

log = logging.getLogger("ddpm")

SOURCES = Path(__file__).parent / "kernels"
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
ARM = platform.machine() in ("aarch64", "arm64")
# What to compile for, by the value of DDPM_KERNEL_ISA, and the compiler's flag for it.
ISAS = {
    "native": "-mcpu=native" if ARM else "-march=native",  # all that this processor has
    "avx2": "-march=x86-64-v3",
}
PATIENCE = 120.0  # seconds for the compiler, which takes two or three

# Each function's arguments, then what it returns: i int, l long, f float, d double, p pointer.
SIGNATURES = {
    "winograd_block": ("", "i"),
    "most_threads": ("", "i"),
    "use_threads": ("i", ""),
    "norm_fits": ("ii", "i"),
    "tensor": ("iilllli", "p"),
    "linear": ("iiippppp", ""),
    "linear_gradient": ("iiipppppppp", ""),
    "update_square": ("ipp", "d"),
    "update_adamw": ("ippppp" + "ipp" + "dddddddd", ""),
}
OF_EACH_TYPE = {  # these end in _float32 or _bfloat16, and return nothing
    "winograd": "iiiiii" + "ppipppp",
    "winograd_gradient": "iiiiii" + "ppppp",
    "strided": "iiiii" + "ppppp",
    "strided_back": "iiiii" + "pppp",
    "strided_gradient": "iiiii" + "ppppp",
    "pointwise": "iiii" + "ppppppp",
    "pointwise_back": "iiii" + "ppppp",
    "pointwise_gradient": "iiii" + "pppppp",
    "norm": "iiiii" + "pppppp" + "f" + "p" + "iiid",
    "norm_gradient": "iiiiii" + "pppppppppppppp" + "iiid",
    "attention": "iiii" + "ppp",
    "attention_gradient": "iiii" + "ppppp",
}
Addresses = ctypes.Array[ctypes.c_void_p]
TYPES = {"i": ctypes.c_int, "l": ctypes.c_long, "f": ctypes.c_float, "d": ctypes.c_double, "p": ctypes.c_void_p}


class Found(NamedTuple):
    """The library, or why there is none."""

    library: ctypes.CDLL | None
    why: str  # a clause: "there is no C++ compiler (g++ or clang++)"


class Failed(Exception):
    """The compiler could not do it; its text is a clause that says why."""


@cache
def found() -> Found:
    """The kernels, compiled if they are not yet; the same for the life of this process."""
    try:
        return Found(_loaded(), "")
    except Failed as error:
        return Found(None, str(error))
    except (OSError, UserError) as error:  # no room, no more processes
        return Found(None, f"the kernels could not be compiled ({error})")
    except locks.Busy:
        return Found(None, "another process is still compiling the kernels")


def _loaded() -> ctypes.CDLL:
    command, processor = find_compiler(), _processor_flag()
    if not command:
        asked = os.environ.get("CXX")
        raise Failed(f"CXX names {asked}, which is not there" if asked else "there is no C++ compiler (g++ or clang++)")
    with _folder() as folder:
        library = folder / f"{_fingerprint(command, processor)}.so"
        with locks.locked(
            folder / "lock", seconds=3 * PATIENCE
        ):  # a process that starts at the same time waits for the file
            if _whole(library):
                with contextlib.suppress(OSError, AttributeError):  # of another system: once more
                    return opened(library)
            made = compile_all(command, library, processor)
            try:
                loaded = opened(library)
            except (OSError, AttributeError) as error:
                raise Failed(f"what {Path(command[0]).name} made cannot be loaded ({error})") from error
            files.write_json(_of(library), made._asdict())
            return loaded


def _of(library: Path) -> Path:
    """The file next to it that holds its checksum."""
    return library.with_suffix(".json")


def _whole(library: Path) -> bool:
    """Whether it is there, as this user compiled it: to load one that is cut short could end this process (SIGBUS)."""
    with contextlib.suppress(UserError, FileNotFoundError):  # no checksum, or none that can be read
        made = files.read_json(_of(library))
        if not paths.is_own_file(library):
            return False
        return isinstance(made, dict) and made.get("sha256") == files.sha256(library)
    return False


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Where to compile: the cache, or a folder of this process' own where that cannot be written, or others can."""
    folder = paths.kernel_folder()
    try:
        made = not folder.exists()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
        private = paths.is_private(folder)
    except OSError:
        writable = private = made = False
    if writable and not private:
        log.warning(
            "%s %s, so no kernels are loaded from there and they are compiled anew: take the rights to write of others"
            " away from it and the folders above, or set DDPM_KERNEL_CACHE.",
            folder,
            "was made in a folder that other users can write" if made else "can be written by other users",
        )
    if writable and private:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="ddpm-kernels-", ignore_cleanup_errors=True) as own:
        yield Path(own)


def _processor_flag() -> str:
    """The compiler's flag for the instructions that DDPM_KERNEL_ISA asks for; by default all of this processor."""
    asked = os.environ.get("DDPM_KERNEL_ISA") or "native"
    if asked not in ISAS:
        raise Failed(f"DDPM_KERNEL_ISA is {asked}, and can be {' or '.join(ISAS)}")
    return ISAS[asked]


def _fingerprint(compiler: Command, processor: str) -> str:
    """What the compiled file depends on: sources, compiler, processor."""
    parts = [path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.suffix in (".cpp", ".h")]
    parts += [
        repr((FLAGS, processor, compiler[1:])).encode(),
        _run([*compiler, "--version"]).encode(),
        _processor().encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _processor() -> str:
    """What tells one processor's instructions from another's."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))
    return f"{platform.machine()} {platform.processor()}"


def compile_all(compiler: Command, library: Path, processor: str = ISAS["native"]) -> files.Written:
    """Every source by itself and side by side, then all together; the file appears whole or not at all.

    `processor` is the compiler's flag for what it will run on.  Raises Failed.
    """
    with tempfile.TemporaryDirectory(dir=library.parent, ignore_cleanup_errors=True) as work:
        sources = sorted(SOURCES.glob("*.cpp"))
        running: list[subprocess.Popen[str]] = []
        try:
            for source in sources:
                command = [*compiler, *FLAGS, processor, "-c", str(source), "-o", f"{work}/{source.stem}.o"]
                running.append(
                    subprocess.Popen(
                        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
                    )
                )
            for process in running:
                _, output = process.communicate(timeout=PATIENCE)
                if process.returncode:
                    raise Failed(f"{Path(compiler[0]).name} failed ({_gist(output)})")
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{Path(compiler[0]).name} took more than {PATIENCE:.0f} s") from error
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        whole = Path(work) / "whole.so"
        _run([*compiler, "-shared", "-fopenmp", *(f"{work}/{source.stem}.o" for source in sources), "-o", str(whole)])
        content = whole.read_bytes()
        # Not for a group to write, whatever the umask: such a library would not be loaded.
        return files.write(library, lambda file: file.write(content), mode=0o644)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=True)
    except subprocess.CalledProcessError as error:
        raise Failed(f"{Path(command[0]).name} failed ({_gist(error.stderr)})") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{Path(command[0]).name} cannot be run ({error})") from error
    return done.stdout


def _gist(output: str) -> str:
    """The line that says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it said nothing")


def signatures() -> dict[str, tuple[str, str]]:
    """Every function of the library by its name: its arguments, and what it returns."""
    each = {
        f"{name}_{dtype}": (arguments, "")
        for name, arguments in OF_EACH_TYPE.items()
        for dtype in ("float32", "bfloat16")
    }
    return {**SIGNATURES, **each}


def opened(path: Path) -> ctypes.CDLL:
    """The library in a file, its functions typed.  Raises OSError or AttributeError where it is none of ours."""
    library = ctypes.CDLL(str(path))
    for name, (arguments, result) in signatures().items():
        function = getattr(library, name)
        function.argtypes = [TYPES[letter] for letter in arguments]
        function.restype = TYPES[result] if result else None
    return library


def addresses(tensors: Sequence[Any]) -> Addresses:
    """Where the numbers of each tensor lie, as a kernel asks for it."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


@cache
def keep_large_allocations() -> None:
    """Have malloc keep what is freed instead of handing it back, where it is glibc's.

    Fresh pages for every large tensor of every step cost up to a tenth of it (PyTorch's tuning guide).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold = -1, -3  # M_ names of <malloc.h>
    # Older ones refuse more than 32 MB, and would map every tensor anew if only the other were set.
    if mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 32 << 20):
        mallopt(trim_threshold, 1 << 30)
