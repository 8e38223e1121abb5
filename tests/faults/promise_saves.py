"""What is saved stays saved: kills, errors of the disk, a full disk, damaged files."""

import contextlib
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from faults import harness
from faults.harness import Point, Server
from faults.table import Row, tried

SERVERS = min(2, os.cpu_count() or 1)  # at once
MOST_DAMAGES, MOST_LOOKS = 10_000, 20_000  # where there is all the time
GOLDEN = 0.6180339887498949
ONCE = ("EIO", "ENOSPC", "EDQUOT", "EROFS")

# promise, share of the time, what becomes of the k-th of a training's calls that change something
POINTS = (
    ("Killed at any call: resumed to the bit as if undisturbed", 0.25, "kill", ("EIO",)),
    ("Killed half way through a write: likewise", 0.1, "cut", ("EIO",)),
    ("One call fails (EIO, ENOSPC, EDQUOT, EROFS): goes on or says so, and is resumed to the bit", 0.15, "once", ONCE),
    ("A write takes a part only: likewise", 0.05, "short", ("EIO",)),
    ("All calls fail from then on: likewise once the disk is back", 0.1, "lasting", ("EIO", "EROFS")),
    ("The disk is full from then on: the status says so; likewise", 0.15, "full", ("ENOSPC", "EDQUOT")),
)
POWER = 0.1  # share of the time for power cuts
CUTS = 5  # disks that are tried after each call
DAMAGE = 0.05  # share of the time for damaged files


def spread(count: int) -> Iterator[int]:
    """The numbers 0 .. count - 1, each once, spread evenly however many of them are taken."""
    seen: set[int] = set()
    turn = 0
    while len(seen) < count:
        turn += 1
        number = int(turn * GOLDEN % 1 * count)
        if turn > 20 * count:  # what is left
            number = next(k for k in range(count) if k not in seen)
        if number not in seen:
            seen.add(number)
            yield number


def points(
    how: str, errors: tuple[str, ...], changes: int, seconds: float
) -> Iterator[tuple[str, Callable[[Server], str]]]:
    """A case for each call that changes something, and each error; with all the time, one error for each call."""
    each = 1 if math.isinf(seconds) else len(errors)
    for number in spread(changes * each):
        point = Point(how, number // each + 1, errors[number % len(errors)])
        yield str(tuple(point)), lambda server, point=point: server.point(point)  # type: ignore[misc]


def power_cuts(calls: int) -> Iterator[tuple[str, Callable[[Server], str]]]:
    """Several disks that a power cut after each call may leave; one in CUTS is also gone on from."""
    for one in spread(calls * CUTS):
        k, number = one // CUTS + 1, one % CUTS
        resumed = (k + number) % CUTS == 0
        yield f"power cut {k} {number}", lambda server, cut=(k, number, resumed): server.power_cut(*cut)  # type: ignore[misc]


Damage = tuple[str, int, int]  # file, byte, bit; bit -1: the file ends there


def damages(server: Server) -> Iterator[Damage]:
    """Each bit of each file that counts, and each length to which it may be cut."""
    names = ("config.json", "progress.csv", "saves/000004.json")
    sizes = {n: size for n, size in server.sizes().items() if n in names or n.endswith("000004.pt")}
    orders = {name: (spread(size * 8), spread(size)) for name, size in sizes.items()}
    while orders:
        for name, (bits, cuts) in list(orders.items()):
            bit, cut = next(bits, None), next(cuts, None)
            if bit is None and cut is None:
                del orders[name]
            if bit is not None:
                yield name, bit // 8, bit % 8
            if cut is not None:
                yield name, cut, -1


def in_place(run: Path, damage: Damage) -> str:
    """Damages a file of a stopped run, asks whether that shows, and mends it; empty where it shows."""
    from ddpm.checkpoints import checkpoint_files
    from ddpm.runs.runs import Run

    name, offset, bit = damage
    path, before = run / name, Run(run).checkpoints()
    whole = path.read_bytes()
    changed = bytearray(whole[:offset] if bit < 0 else whole)
    if bit >= 0:
        changed[offset] ^= 1 << bit
    path.write_bytes(changed)
    try:
        if name.startswith("saves"):  # white space may be another
            return "" if Run(run).manifests().wrong or Run(run).checkpoints() == before else "it is read as another"
        shows = checkpoint_files.damage(before[-1], name) or (
            checkpoint_files.log_damage(before[-1]) if name == "progress.csv" else ""
        )
        return "" if shows else "nobody notices"
    finally:
        path.write_bytes(whole)


def rows(seconds: float, count: int = SERVERS) -> Iterator[Row]:
    """Yields a row for each promise; nothing where the shim cannot be built.  count: servers that try them at once."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        library = harness.shim(place)
        if library is None:
            return
        servers = [stack.enter_context(Server(library, place / f"server {k}")) for k in range(count)]
        changes = min(server.changes() for server in servers)
        for promise, share, how, errors in POINTS:
            yield tried(promise, share * seconds, points(how, errors, changes, seconds), servers, changes)
        calls = min(server.power_cuts() for server in servers)
        cut = "The power is cut after any call; what was not flushed is lost, cut or zeros: the old set or the new"
        yield tried(cut, POWER * seconds, power_cuts(calls), servers, CUTS * calls)
        for server in servers:
            server.sizes()
        damaged = "A bit of a file flips, or the file is cut short: said, and gone back from"
        cases = ((str(one), lambda server, one=one: server.damage(*one)) for one in damages(servers[0]))  # type: ignore[misc]
        yield tried(damaged, DAMAGE * seconds, itertools.islice(cases, MOST_DAMAGES), servers, MOST_DAMAGES)
        looked = (
            (str(one), lambda server, one=one: in_place(server.stopped, one))  # type: ignore[misc]
            for one in damages(servers[0])
            if one[0] != "config.json"
        )
        most = itertools.islice(looked, MOST_LOOKS)
        yield tried("The same, by its checksum alone: noticed", DAMAGE * seconds, most, servers[:1], MOST_LOOKS)
