"""Reads pickles without an unpickler: nothing that they name is imported, called or assigned to.

What a pickle would build is returned as plain values, and as `Call` and `Name` where it would call something.  Whoever
knows what a file may hold compares that with it.  pickle.Unpickler, even one with an allow-list of names, leaves to the
file how these are called: numpy.ndarray, for one, takes arguments that make it write outside of its memory.
"""

import pickletools
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from ddpm.formatting import printable

MOST_OPCODES = 2**19  # of one pickle; a batch of CIFAR-10 has 40,000, an optimizer of 1,000 tensors 100,000
PLAIN = (str, bytes, int, float, type(None))
ENCODINGS = ("latin1", "latin-1", "latin_1")  # in which protocols before 3 write bytes


class Unreadable(ValueError):
    """What is wrong with a pickle, or that it holds something else than plain values and calls."""


class Name(NamedTuple):
    """A global that a pickle looks up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Call:
    """A call that a pickle makes, and what it does with the result."""

    function: Any  # a Name in all whole pickles
    arguments: Any
    state: Any = None  # set by __setstate__ or in __dict__
    items: list[tuple[Any, Any]] = field(default_factory=list)  # set as in a dict
    elements: list[Any] = field(default_factory=list)  # appended as to a list


@dataclass(eq=False, slots=True)
class Persistent:
    """An object that the pickle leaves to its reader to find."""

    key: Any


def read(file: IO[bytes], most_bytes: int, allowed: Collection[Name] | None = None) -> Any:
    """Reads the pickle at the position of `file`, and leaves the file behind it.

    most_bytes: how much of it bytes and bytearrays may take that protocols before 3 write as calls.  allowed: names
    that it may look up; None: any, as none is looked up here.  Raises Unreadable.
    """
    try:
        return _Machine(most_bytes, allowed).run(file)
    except Unreadable:
        raise
    except Exception as error:  # of pickletools and of the stack, which hold anything
        raise Unreadable(f"it is no whole pickle ({error or type(error).__name__})") from error


class _Machine:
    """The stack machine of pickle, restricted to opcodes that build plain values."""

    def __init__(self, most_bytes: int, allowed: Collection[Name] | None):
        self.left, self.allowed = most_bytes, allowed
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count >= MOST_OPCODES:
                raise Unreadable(f"it has more than {MOST_OPCODES:,} opcodes")
            name = opcode.name
            if name == "STOP":
                break
            if name in VALUES:
                self.stack.append(VALUES[name](argument))
            elif handler := HANDLERS.get(name):
                handler(self, argument)
            else:
                raise Unreadable(f"it has the opcode {name}")
        (value,) = self.stack
        if self.marked:
            raise Unreadable("it ends within a tuple or a list")
        return value

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def put(self, number: Any) -> None:
        self.memo[number] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, number: Any) -> None:
        self.stack.append(self.memo[number])

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise Unreadable("it makes a tuple of more than it has")
        self.stack[len(self.stack) - count :] = [tuple(self.stack[len(self.stack) - count :])]

    def tuple_since_mark(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def list_since_mark(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(items)

    def dict_since_mark(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.set_items(items)

    def append(self, _: Any) -> None:
        self.extend([self.stack.pop()])

    def appends(self, _: Any) -> None:
        self.extend(self.since_mark())

    def extend(self, items: list[Any]) -> None:
        match self.stack[-1]:
            case list() as target:
                target += items
            case Call() as target:
                target.elements += items
            case other:
                raise Unreadable(f"it appends to {type(other).__name__}")

    def setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def setitems(self, _: Any) -> None:
        self.set_items(self.since_mark())

    def set_items(self, items: list[Any]) -> None:
        pairs = list(zip(items[::2], items[1::2], strict=True))
        match self.stack[-1]:
            case dict() as target:
                target.update((_key(key), value) for key, value in pairs)
            case Call() as target:
                target.items += ((_key(key), value) for key, value in pairs)
            case other:
                raise Unreadable(f"it sets items of {type(other).__name__}")

    def global_(self, text: Any) -> None:
        module, _, name = text.partition(" ")
        self.look_up(Name(module, name))

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Unreadable("it looks up a name that is no text")
        self.look_up(Name(module, name))

    def look_up(self, name: Name) -> None:
        if self.allowed is not None and name not in self.allowed:
            raise Unreadable(f"it contains {printable(str(name))}")
        self.stack.append(name)

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise Unreadable("it calls what is no name")
        made = self.bytes_of(function, arguments)
        self.stack.append(Call(function, arguments) if made is None else made)

    def bytes_of(self, function: Name, arguments: tuple[Any, ...]) -> bytes | None:
        """The bytes that a call stands for, as protocols before 3 have no other way to write them."""
        match function, arguments:
            case (("__builtin__" | "builtins", "bytes" | "bytearray"), ()):
                return b""
            case (("__builtin__" | "builtins", "bytearray"), (bytes() as content,)):
                return content
            case (("_codecs", "encode"), (str() as text, str() as encoding)) if encoding in ENCODINGS:
                self.left -= len(text)
                if self.left < 0:
                    raise Unreadable("it makes more bytes than it has itself")
                return text.encode("latin-1")
            case (("__builtin__" | "builtins", "bytearray"), (str() as text, str() as encoding)) if (
                encoding in ENCODINGS
            ):
                return self.bytes_of(Name("_codecs", "encode"), (text, encoding))
        return None

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Call):
            raise Unreadable(f"it sets the state of {type(target).__name__}")
        target.state = state

    def persistent(self, _: Any) -> None:
        self.stack.append(Persistent(self.stack.pop()))

    def ignore(self, _: Any) -> None:
        """Does nothing, for opcodes that change nothing."""


def _key(key: Any) -> Hashable:
    """`key` if it is plain: hashing nested tuples may exhaust the stack of the process."""
    if isinstance(key, Name):
        return str(key)
    if isinstance(key, PLAIN) or (isinstance(key, tuple) and all(isinstance(part, PLAIN) for part in key)):
        return key
    raise Unreadable(f"a key in it is {type(key).__name__}")


def _same(value: Any) -> Any:
    return value


def _text_bytes(text: Any) -> bytes:
    """The bytes of Python 2's strings, which pickletools gives as text."""
    return text.encode("latin-1") if isinstance(text, str) else bytes(text)


VALUES = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"), _same),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _same),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), bytes),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _text_bytes),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
}
HANDLERS = {
    **dict.fromkeys(("PROTO", "FRAME"), _Machine.ignore),
    "MARK": _Machine.mark,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "MEMOIZE": _Machine.memoize,
    "TUPLE": _Machine.tuple_since_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_since_mark,
    "DICT": _Machine.dict_since_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
