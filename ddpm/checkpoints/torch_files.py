"""Judges files of torch before torch reads them: what they declare must be what they hold, and no more than fits.

torch.load(weights_only=True) runs no code of a file, and believes its sizes: a few megabytes that are compressed, that
are shared by thousands of tensors, or that are only declared become gigabytes.
"""

import io
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import IO, Any

from ddpm.errors import UserError
from ddpm.formatting import memory
from ddpm.host import memory as host_memory
from ddpm.storage import pickles, zip_files
from ddpm.storage.pickles import Call, Name, Persistent, Unreadable

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin
LEGACY = 4  # pickles in them before their storages' names; the last of these is the content
MOST_PICKLE = 2**26  # bytes of the description of all tensors; that of 1,000 tensors has 200,000
SHARED = 4  # tensors may have so many times the bytes that are stored, as several may share them
SMALL = 2**20  # bytes that may be shared in any case

ORDERED = Name("collections", "OrderedDict")
TENSOR = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
REBUILD = (*TENSOR, "_rebuild_parameter")
CALLS = {  # all that a pickle of tensors and plain values calls
    ORDERED,
    Name("collections", "Counter"),
    Name("torch", "Size"),
    Name("torch", "device"),
    *(Name(module, "set") for module in ("builtins", "__builtin__")),
    *(Name("torch._utils", name) for name in REBUILD),
}
STORAGES = {  # -> bytes of an element
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
DTYPES = {"uint16": 2, "uint32": 4, "uint64": 8}  # that have no storage class of their own


def check(file: IO[bytes], name: str) -> None:
    """Raises UserError if what a file declares is more than it holds or than fits into memory; leaves it at its start.

    name: that of the file, in messages.  Raises Unreadable, or an error of zip files, for what is no file of tensors.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(len(MAGIC))
    file.seek(0)
    if start[:4] == b"PK\x03\x04":
        stored = _check_zip(file, size, name)
    elif start == MAGIC:
        stored = _check_legacy(file, size)
    else:
        raise Unreadable("it is no file of torch")
    free = host_memory.available()
    if stored > free:
        raise UserError(
            f"{name} holds tensors of {memory(stored)}, and {memory(free)} of memory are free: end other"
            " programs, and try again.",
            code="out-of-memory",
        )
    file.seek(0)


def _check_zip(file: IO[bytes], size: int, name: str) -> int:
    """Judges a file of torch 1.6 or later; returns the bytes of its tensors."""
    _check_end(file, size)
    with zip_files.opened(file, name, "take another copy") as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        found = [entry for entry in entries if re.fullmatch(r"[^/]+/data\.pkl", entry)]
        if len(found) != 1 or any(entry.endswith("/constants.pkl") for entry in entries):
            raise Unreadable("it has no description of its tensors")
        if len({entry.lower() for entry in entries}) < len(entries):  # torch takes either for the other
            raise Unreadable("two of its entries differ by upper and lower case alone")
        packed = [entry.filename for entry in entries.values() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise UserError(
                f"{name} has {len(packed):,} compressed entries, first {packed[0]!r}, and torch compresses none:"
                " take another copy, or unpack it and pack it again without compression.",
                code="too-large",
            )
        if entries[found[0]].file_size > MOST_PICKLE:
            raise _too_long(name, entries[found[0]].file_size)
        content = archive.read(found[0])
        folder = found[0].removesuffix("data.pkl")
        stored = {
            entry.removeprefix(f"{folder}data/"): about.file_size
            for entry, about in entries.items()
            if entry.startswith(f"{folder}data/")
        }
    if min(entry.header_offset for entry in entries.values()) != 0:
        raise Unreadable("it begins with something else than its first entry")
    return _check_tensors(_read(io.BytesIO(content), len(content)), stored)


def _check_end(file: IO[bytes], size: int) -> None:
    """Raises Unreadable unless the directory is found at one place only, so that torch reads the one judged here."""
    file.seek(max(size - 98, 0))
    end = file.read()
    file.seek(0)
    if end[-22:-18] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        raise Unreadable("it has something behind its directory")
    if end[-42:-38] == b"PK\x06\x07" and (
        end[:4] != b"PK\x06\x06" or struct.unpack("<Q", end[-34:-26]) != (size - 98,)
    ):
        raise Unreadable("it has two directories")


def _check_legacy(file: IO[bytes], size: int) -> int:
    """Judges a file of torch before 1.6: pickles, then the storages, each with its length before it."""
    start = io.BytesIO(file.read(MOST_PICKLE))
    pickled = [_read(start, MOST_PICKLE) for _ in range(LEGACY + 1)]
    content, keys = pickled[-2:]
    if not isinstance(keys, list) or not all(isinstance(key, str | bytes) for key in keys):
        raise Unreadable("it does not name its storages")
    file.seek(start.tell())
    stored: dict[str, int] = {}
    widths = {_text(key): width for key, width in _widths(content)}
    for key in map(_text, keys):
        head = file.read(8)
        if len(head) < 8 or key not in widths or key in stored:
            raise Unreadable("its storages are not those of its tensors")
        stored[key] = int.from_bytes(head, "little") * widths[key]
        if stored[key] > size - file.tell():
            raise Unreadable("it is cut short")
        file.seek(stored[key], os.SEEK_CUR)
    return _check_tensors(content, stored)


def _too_long(name: str, size: int) -> UserError:
    return UserError(
        f"{name} describes its tensors in {memory(size)}, more than the limit of {memory(MOST_PICKLE)}:"
        " take another copy.",
        code="too-large",
    )


def _read(file: IO[bytes], most: int) -> Any:
    return pickles.read(file, most)


def parts(value: Any) -> Iterator[Any]:
    """Yields everything in what `pickles.read` returned: each list, dict, tuple, call and plain value once."""
    waiting, seen = [value], set[int]()
    while waiting:
        one = waiting.pop()
        inside: Sequence[Any] = ()
        match one:
            case Call(function, arguments, state, items, elements):
                inside = [function, arguments, state, *chain.from_iterable(items), *elements]
            case Persistent(key):
                inside = [key]
            case dict():
                inside = list(chain.from_iterable(one.items()))
            case list() | tuple() if not isinstance(one, Name):
                inside = one
        if inside:
            if id(one) in seen:
                continue
            seen.add(id(one))
            waiting += reversed(inside)
        yield one


def _widths(content: Any) -> Iterator[tuple[Any, int]]:
    """Yields (key, bytes of an element) of each storage that is named."""
    for one in parts(content):
        if isinstance(one, Persistent):
            key, width, _ = _storage(one)
            yield key, width


def _storage(found: Persistent) -> tuple[str, int, int]:
    """Returns (key, bytes of an element, elements) of a storage that is named.  Raises Unreadable for anything else."""
    match found.key:
        case (
            "storage" | b"storage",
            Name("torch" | "torch.cuda" | "torch.storage", kind),
            str() | bytes() as key,
            str() | bytes(),
            int() as count,
            *rest,
        ):
            if kind in STORAGES and rest in ([], [None]) and type(count) is int and count >= 0:
                return _text(key), STORAGES[kind], count
    raise Unreadable("it names something else than a storage")


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode("latin-1")


def _check_tensors(content: Any, stored: dict[str, int]) -> int:
    """Judges what a pickle builds from the stored bytes by key; returns the sum of these.  Raises Unreadable."""
    used = 0
    for one in parts(content):
        match one:
            case Persistent():
                key, width, count = _storage(one)
                if stored.get(key) != count * width:
                    raise Unreadable(f"storage {key} has {stored.get(key, 0):,} bytes instead of {count * width:,}")
            case Call(Name("torch._utils", "_rebuild_parameter")):
                match one.arguments:
                    case (Call(Name("torch._utils", name)), bool(), hooks) if name in TENSOR and _is_empty(hooks):
                        pass
                    case _:
                        raise Unreadable("it has a parameter that is no tensor")
            case Call(Name("torch._utils", name)) if name in TENSOR:
                used += _tensor_bytes(name, one.arguments)
            case Call(function) if function not in CALLS:
                raise Unreadable(f"it contains {function}")
        if isinstance(one, Call) and not (one.state is None or _is_metadata(one)):
            raise Unreadable(f"it sets attributes of {one.function}")
    total = sum(stored.values())
    if used > SHARED * total + SMALL:
        raise Unreadable(f"its tensors have {used:,} bytes, and {total:,} are stored")
    return total


def _is_metadata(call: Call) -> bool:
    """Returns whether a call makes a state_dict, which carries the versions of modules, and our settings."""
    return call.function == ORDERED and isinstance(call.state, dict) and set(call.state) <= {"_metadata"}


def _is_empty(hooks: Any) -> bool:
    """Returns whether there are no hooks, as in everything that is saved."""
    match hooks:
        case None | Call(Name("collections", "OrderedDict"), (), None, [], []):
            return True
    return isinstance(hooks, dict) and not hooks


def _tensor_bytes(name: str, arguments: Any) -> int:
    """Returns the bytes of a tensor's values.  Raises Unreadable if its storage has fewer."""
    match arguments:
        case (Persistent() as source, int() as offset, tuple() as size, tuple() as stride, *rest):
            key, width, count = _storage(source)
        case _:
            raise Unreadable("it has a tensor without a storage")
    if name == "_rebuild_tensor_v3":
        match rest:
            case [bool(), hooks, Name("torch", dtype), *metadata] if dtype in DTYPES:
                rest, width, count = [False, hooks, *metadata], DTYPES[dtype], count * width // DTYPES[dtype]
            case _:
                raise Unreadable("it has a tensor of an unknown type")
    match rest:
        case [] | [bool(), _] | [bool(), _, None]:
            pass
        case [bool(), _, dict() as about] if not about:
            pass
        case _:
            raise Unreadable(f"storage {key} is used in an unknown way")
    if rest and not _is_empty(rest[1]):
        raise Unreadable(f"a tensor of storage {key} has hooks")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > 64 or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise Unreadable(f"a tensor of storage {key} has an impossible shape")
    values = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if values else offset - 1
    if values > count or last >= count:
        raise Unreadable(f"a tensor {list(size)} has more values than the {count:,} of storage {key}")
    return values * width
