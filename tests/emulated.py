"""The kernels as compiled for another processor, run by an emulator: `Emulated(folder)` stands in for the library.

The kernels are cross-compiled together with a program that reads calls from its standard input: a function's number,
its arguments, and the memory behind each pointer, which it sends back when the function has returned.
"""

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.models.native import build
from ddpm.models.native.ops import NativeOps

COMPILER, EMULATOR, SYSTEM = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"
TYPES = {"i": "int", "l": "long", "f": "float", "d": "double", "p": "void *"}  # in C++

PROGRAM = """
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>
%(declarations)s
template <class T> T number() {
    T value;
    if (fread(&value, sizeof value, 1, stdin) != 1) exit(0);
    return value;
}
struct Memory {
    std::vector<char> held;
    std::vector<std::unique_ptr<Memory>> parts;
    std::vector<void *> addresses;
    // Behind a pointer: nothing (-1), bytes (their number, then they), or pointers (-2, their number, then each).
    void *read() {
        long size = number<long>();
        if (size == -1) return nullptr;
        if (size == -2) {
            parts.resize(number<long>());
            for (auto &part : parts) part.reset(new Memory), addresses.push_back(part->read());
            return addresses.data();
        }
        held.resize(size);
        if (fread(held.data(), 1, size, stdin) != (size_t)size) exit(1);
        return held.data();
    }
    void write() const {
        fwrite(held.data(), 1, held.size(), stdout);
        for (auto &part : parts) part->write();
    }
};
int main() {
    for (;;) switch (number<int>()) {
%(cases)s
    default: return 1;
    }
}
"""


def program() -> str:
    """The source of the program that is emulated."""
    declarations, cases = [], []
    for number, (name, (arguments, result)) in enumerate(build.signatures().items()):
        returned = TYPES.get(result, "void")
        declarations.append(f'extern "C" {returned} {name}({", ".join(TYPES[letter] for letter in arguments)});')
        read = "".join(
            f"Memory m{k}; auto a{k} = m{k}.read(); " if letter == "p" else f"auto a{k} = number<{TYPES[letter]}>(); "
            for k, letter in enumerate(arguments)
        )
        call = f"{name}({', '.join(f'a{k}' for k in range(len(arguments)))}); "
        call = f"auto result = {call}fwrite(&result, sizeof result, 1, stdout); " if result else call
        back = "".join(f"m{k}.write(); " for k, letter in enumerate(arguments) if letter == "p")
        cases.append(f"    case {number}: {{ {read}{call}{back}fflush(stdout); break; }}")
    return PROGRAM % {"declarations": "\n".join(declarations), "cases": "\n".join(cases)}


def missing() -> str:
    """Which program for this is missing; empty where all are there."""
    return ", ".join(name for name in (COMPILER, EMULATOR) if not shutil.which(name))


class Emulated:
    """A library whose functions run in the emulator; pointers are tensors, ctypes arrays, lists of tensors or None."""

    def __init__(self, folder: Path, processor: str = "-march=armv8-a"):
        library, source, binary = folder / "libkernels.so", folder / "program.cpp", folder / "program"
        build.compile_all((COMPILER,), library, processor)
        source.write_text(program())
        made = [COMPILER, "-O1", "-std=c++17", str(source), str(library), "-fopenmp", f"-Wl,-rpath,{folder}"]
        subprocess.run([*made, "-o", str(binary)], check=True)
        self._process = subprocess.Popen(
            [EMULATOR, "-L", SYSTEM, str(binary)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._numbers = {name: number for number, name in enumerate(build.signatures())}

    def close(self) -> None:
        self._process.communicate()

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.run(name, arguments)

    def run(self, name: str, arguments: Sequence[Any]) -> Any:
        """Calls a function, writes what it did into the memory of its arguments, and returns its result."""
        letters, result = build.signatures()[name]
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        sent = [struct.pack("i", self._numbers[name])]
        for letter, argument in zip(letters, arguments, strict=True):
            sent += _behind(argument) if letter == "p" else [struct.pack(letter.replace("l", "q"), argument)]
        to.write(b"".join(sent))
        to.flush()
        returned = None
        if result:
            (returned,) = struct.unpack(result, back.read(struct.calcsize(result)))
        for memory in _memories([a for letter, a in zip(letters, arguments, strict=True) if letter == "p"]):
            memory[:] = back.read(len(memory))
        return returned


def _bytes(argument: Any) -> memoryview:
    """The memory of a tensor or of a ctypes array."""
    if isinstance(argument, Tensor):
        argument = (ctypes.c_char * argument.nbytes).from_address(argument.data_ptr())
    return memoryview(argument).cast("B") if len(argument) else memoryview(bytearray())


def _behind(argument: Any) -> list[bytes]:
    if argument is None:
        return [struct.pack("q", -1)]
    if isinstance(argument, (list, tuple)):
        return [struct.pack("qq", -2, len(argument)), *(part for tensor in argument for part in _behind(tensor))]
    memory = _bytes(argument)
    return [struct.pack("q", len(memory)), bytes(memory)]


def _memories(arguments: Sequence[Any]) -> Iterator[memoryview]:
    for argument in arguments:
        if isinstance(argument, (list, tuple)):
            yield from _memories(argument)
        elif argument is not None:
            yield _bytes(argument)


class EmulatedOps(NativeOps):
    """Whatever kernels are called, the emulator computes."""

    def call(self, name: str, *arguments: Any, dtype: torch.dtype | None = None) -> None:
        self.threads()
        self.library.run(name + (f"_{str(dtype).removeprefix('torch.')}" if dtype else ""), arguments)
