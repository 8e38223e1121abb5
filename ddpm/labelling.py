"""What the places and names of files say about images: which belong to the test part, and which class each is of.

Pure functions of names.  One rule is taken for all, the first that fits nearly all of them; what is outside of it is told.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation", "dev", "eval", "holdout")  # the first that is there

NO_CLASSES, BY_FOLDER, BY_NAME = "without classes", "classes by folder", "classes by file name"

Names = tuple[str, ...]  # of the folders on the way to a file, and its own


class Labelling(NamedTuple):
    """Which files are learnt from and tested on, and their classes."""

    rule: str  # "without classes", "classes by folder", "classes by file name"
    train: dict[int, str]  # place of a file -> its class; empty without classes
    test: dict[int, str]  # the same of the data's own test part
    train_name: str = ""  # the folder of what is learnt from; empty where that is no part
    test_name: str = ""  # the folder of the test part; empty where there is none
    unused: tuple[str, ...] = ()  # folders that are neither of the two: a second test part
    outside: tuple[int, ...] = ()  # places of files that the rule does not fit
    beside: int = 0  # files beside folders, so many that the folders are no classes


def label(files: Sequence[Names]) -> Labelling:
    """Sort files by these rules.

    Folders that hold all, or nearly all, are passed through first.  `train` and `test` (or `val`, ...) side by side, also
    as `cifar_train` and `cifar_test` or in each class's folder, are parts.  Then:
    1. Images lie in two or more folders, and nearly none beside them: the name of the folder is the class of an image,
       the outermost one where there is another in it.
    2. The part of each file name up to the first `_` is the class, as improved-diffusion has it, when nearly every
       name has one, there are two or more, and some images share one.
    Nearly all: all but one of five or more, or all but a tenth.
    """
    every = list(range(len(files)))
    inside, depth = _descend(files, every, 0)
    for level in (depth, depth + 1):
        if parts := _parts(files, inside, level):
            return _in_parts(files, every, level, parts)
    rule, classes = _classes(files, inside, depth)
    if not classes:
        return Labelling(rule, dict.fromkeys(every, ""), {}, beside=_beside(files, every, depth))
    return Labelling(rule, classes, {}, outside=tuple(place for place in every if place not in classes))


def _few(count: int, of: int) -> bool:
    """Whether so many files may be left out for a rule to fit nearly all."""
    return count <= (max(1, of // 10) if of >= 5 else 0)


def _tops(files: Sequence[Names], places: Sequence[int], depth: int) -> Counter[str]:
    """How many of these files lie in each folder at this depth."""
    return Counter(files[place][depth] for place in places if len(files[place]) > depth + 1)


def _descend(files: Sequence[Names], places: list[int], depth: int) -> tuple[list[int], int]:
    """Through folders that hold nearly all of these files: those in the innermost, and its depth."""
    while True:
        tops = _tops(files, places, depth)
        if len(tops) != 1 or not _few(len(places) - tops.total(), len(places)):
            return places, depth
        places = [place for place in places if len(files[place]) > depth + 1]
        depth += 1


class _Parts(NamedTuple):
    train: str  # the folder's name
    tests: list[str]  # the same, the best first


def _parts(files: Sequence[Names], places: list[int], depth: int) -> _Parts | None:
    """The folders at this depth that are parts; None where there are not both, or two sets of them."""
    folders = _tops(files, places, depth)
    trains: dict[Names, list[str]] = {}
    tests: dict[Names, list[tuple[int, str]]] = {}
    for folder in sorted(folders):
        found = re.findall(r"[a-z]+", folder.lower())
        for word in found:
            rest = tuple(other for other in found if other != word)
            if word in TRAIN:
                trains.setdefault(rest, []).append(folder)
            elif word in TEST:
                tests.setdefault(rest, []).append((TEST.index(word), folder))
    pairs = [(trains[rest], tests[rest]) for rest in trains if rest in tests]
    if len(pairs) != 1 or len(pairs[0][0]) != 1:
        return None
    (train,), found_tests = pairs[0]
    return _Parts(train, [folder for _, folder in sorted(found_tests)])


def _in_parts(files: Sequence[Names], every: list[int], level: int, parts: _Parts) -> Labelling:
    """Sort files of which those in a folder at this level are learnt from, and those in another are tested on."""

    def of(part: str) -> tuple[list[int], list[Names]]:
        """The places of its files, and their names without the part's."""
        places = [place for place in every if len(files[place]) > level + 1 and files[place][level] == part]
        return places, [files[place][:level] + files[place][level + 1 :] for place in places]

    places, names = of(parts.train)
    within, depth = _descend(names, list(range(len(names))), 0)
    rule, found = _classes(names, within, depth)
    train = {places[k]: name for k, name in found.items()} if found else dict.fromkeys(places, "")
    known = set(train.values())
    test: dict[int, str] = {}
    test_name = ""
    for part in parts.tests:
        if not test:
            places, names = of(part)
            test = {place: name for place, file in zip(places, names, strict=True) if (name := _class(rule, file, known)) is not None}  # fmt: skip
            test_name = part if test else ""
    unused = tuple(part for part in parts.tests if part != test_name)
    of_unused = {place for part in unused for place in of(part)[0]}
    outside = tuple(place for place in every if place not in train and place not in test and place not in of_unused)
    return Labelling(rule, train, test, parts.train, test_name, unused, outside)


def _class(rule: str, file: Names, known: set[str]) -> str | None:
    """The class of a file to test on, among those that are learnt; None where it has none of them."""
    if rule == NO_CLASSES:
        return ""
    names = file[:-1] if rule == BY_FOLDER else _prefixes([file], [0]).values()
    return next((name for name in names if name in known), None)


def _classes(files: Sequence[Names], places: list[int], depth: int) -> tuple[str, dict[int, str]]:
    """The rule that fits these files, and the class of each that it fits."""
    tops = _tops(files, places, depth)
    if len(tops) > 1 and _few(len(places) - tops.total(), len(places)):
        return BY_FOLDER, {place: files[place][depth] for place in places if len(files[place]) > depth + 1}
    found = _prefixes(files, places)
    if 1 < len(set(found.values())) < len(found) and _few(len(places) - len(found), len(places)):
        return BY_NAME, found
    return NO_CLASSES, {}


def _prefixes(files: Sequence[Names], places: Sequence[int]) -> dict[int, str]:
    """What stands before the first `_` in each name that has something there."""
    found = {place: files[place][-1].partition("_")[0] for place in places if "_" in files[place][-1]}
    return {place: name for place, name in found.items() if name}


def _beside(files: Sequence[Names], places: Sequence[int], depth: int) -> int:
    """Files beside two or more folders of others, which keep those from being classes."""
    tops = _tops(files, places, depth)
    return len(places) - tops.total() if len(tops) > 1 else 0
