"""What the places and names of files say about images: which belong to the test part, and which class each is of.

Pure functions of names.  One rule is taken for all, the first that fits nearly all of them; what is outside of it is
told.
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
    unlabelled: tuple[int, ...] = ()  # of these, what can be learnt from without classes
    beside: int = 0  # files beside folders, so many that the folders are no classes
    unclear: tuple[str, ...] = ()  # folders of parts that do not pair; then nothing is sorted


def label(files: Sequence[Names]) -> Labelling:
    """Sort files by these rules.

    Folders that hold all, or nearly all, are passed through first.  `train` and `test` (or `val`, ...) side by side,
    also as `cifar_train` and `cifar_test` or in each class's folder, are parts when they hold nearly all.  Where they
    hold half and more, or would be classes, or several could be what is learnt from (`trainA`, `trainB`), it is unclear
    what to test on.  Then:
    1. Images lie in two or more folders, and nearly none beside them: the name of the folder is the class of an image,
       the outermost one where there is another in it.
    2. The part of each file name up to the first `_` is the class, as improved-diffusion has it, when nearly every
       name has one, there are two or more, and some images share one.
    Nearly all: all but one of five or more, or all but a tenth.
    """
    every = list(range(len(files)))
    inside, depth = _descend(files, every, 0)
    for level in (depth, depth + 1):
        parts = _parts(files, inside, level, level == depth)
        if parts and parts.are_clear:
            return _in_parts(files, every, level, parts)
        if parts:
            return Labelling(NO_CLASSES, {}, {}, unclear=(*parts.trains, *parts.tests))
    rule, classes = _classes(files, inside, depth)
    if not classes:
        return Labelling(rule, dict.fromkeys(every, ""), {}, beside=_beside(files, every, depth))
    outside = tuple(place for place in every if place not in classes)
    return Labelling(rule, classes, {}, outside=outside, unlabelled=outside)


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


WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W0-9A-Za-z_]+")  # trainA, train2017 and CIFARTrain have two


class _Parts(NamedTuple):
    trains: list[str]  # the names of folders
    tests: list[str]  # the same, the best first
    are_clear: bool  # whether there is one to learn from, and nearly nothing beside them


def _parts(files: Sequence[Names], places: list[int], depth: int, outermost: bool) -> _Parts | None:
    """The folders at this depth that are parts; None where there are not both, or most files are in neither.

    outermost: whether folders at this depth would be classes, which those to test on must never be.
    """
    folders = _tops(files, places, depth)
    trains: dict[Names, list[tuple[Names, str]]] = {}  # by the words that set several data sets apart
    tests: dict[Names, list[tuple[Names, int, str]]] = {}
    for folder in sorted(folders):
        found = [word.lower() for word in WORD.findall(folder)]
        for word in found:
            others = tuple(other for other in found if other != word)
            data_set = tuple(other for other in others if len(other) > 1 and not other.isdigit())
            if word in TRAIN:
                trains.setdefault(data_set, []).append((others, folder))
            elif word in TEST:
                tests.setdefault(data_set, []).append((others, TEST.index(word), folder))
    both = [name for name in trains if name in tests]
    found_trains = [pair for name in both for pair in trains[name]]
    found_tests = [found for name in both for found in tests[name]]
    if found_trains:
        found_tests.sort(key=lambda found: (found[0] != found_trains[0][0], *found[1:]))  # val2017 is with train2017
    parts = _Parts([folder for _, folder in found_trains], [folder for *_, folder in found_tests], False)
    held = sum(folders[folder] for folder in {*parts.trains, *parts.tests})
    would_be_classes = _few(len(places) - folders.total(), len(places)) and outermost
    if not both or (2 * held < len(places) and not would_be_classes):
        return None
    return parts._replace(are_clear=len(parts.trains) == 1 and _few(len(places) - held, len(places)))


def _in_parts(files: Sequence[Names], every: list[int], level: int, parts: _Parts) -> Labelling:
    """Sort files of which those in a folder at this level are learnt from, and those in another are tested on."""

    def of(part: str) -> tuple[list[int], list[Names]]:
        """The places of its files, and their names without the part's."""
        places = [place for place in every if len(files[place]) > level + 1 and files[place][level] == part]
        return places, [files[place][:level] + files[place][level + 1 :] for place in places]

    (train_name,) = parts.trains
    places, names = of(train_name)
    within, depth = _descend(names, list(range(len(names))), 0)
    rule, found = _classes(names, within, depth)
    train = {places[k]: name for k, name in found.items()} if found else dict.fromkeys(places, "")
    unlabelled = tuple(place for place in places if place not in train)
    known = set(train.values())
    test: dict[int, str] = {}
    test_name = ""
    for part in parts.tests:
        if not test:
            places, names = of(part)
            test = {
                place: name
                for place, file in zip(places, names, strict=True)
                if (name := _class(rule, file, known)) is not None
            }
            test_name = part if test else ""
    unused = tuple(part for part in parts.tests if part != test_name)
    of_unused = {place for part in unused for place in of(part)[0]}
    outside = tuple(place for place in every if place not in train and place not in test and place not in of_unused)
    return Labelling(rule, train, test, train_name, test_name, unused, outside, unlabelled)


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
