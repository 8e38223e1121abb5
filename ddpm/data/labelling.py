"""Infers from the paths of image files which belong to the test split, and the class of each.

Pure functions of names.  One rule applies to all files: the first that fits nearly all of them.  Files that it does not
fit are reported.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation", "dev", "eval", "holdout")  # the first that exists

NO_CLASSES, BY_FOLDER, BY_NAME = "without classes", "classes by folder", "classes by file name"

Names = tuple[str, ...]  # relative path of a file: its folders and its name


class Labelling(NamedTuple):
    """Training and test files by index, and their classes."""

    rule: str  # "without classes", "classes by folder", "classes by file name"
    train: dict[int, str]  # index of a file -> its class; empty without classes
    test: dict[int, str]  # the same of the test split of the data
    train_name: str = ""  # folder of the training split; empty if there are no splits
    test_name: str = ""  # folder of the test split; empty if there is none
    unused: tuple[str, ...] = ()  # folders of further test splits
    outside: tuple[int, ...] = ()  # indices of files that the rule does not fit
    unlabelled: tuple[int, ...] = ()  # of these, training files that can be used without classes
    outside_folders: int = 0  # files outside of folders, too many for the folders to be classes
    unclear: tuple[str, ...] = ()  # folders of splits that do not form one pair; then nothing is labelled


def label(files: Sequence[Names]) -> Labelling:
    """Labels files, given as relative paths, by these rules.

    Folders that hold all, or nearly all, files are descended into first.  Sibling folders `train` and `test` (or `val`,
    ...), also named `cifar_train` and `cifar_test` or inside each class folder, are splits if they hold nearly all
    files.  If they hold only half or more, would otherwise be classes, or if there are several training folders
    (`trainA`, `trainB`), the splits are unclear.  Then:
    1. Class folders: with two or more folders and nearly no images outside of them, the name of the (outermost) folder
       is the class.
    2. File names: the part before the first `_` is the class, as in improved-diffusion, if nearly every name has one,
       there are two or more classes, and some images share one.
    Nearly all: all but one of five or more, or all but a tenth.
    """
    every = list(range(len(files)))
    inside, depth = _descend(files, every, 0)
    for level in (depth, depth + 1):
        splits = _splits(files, inside, level, level == depth)
        if splits and splits.are_clear:
            return _label_splits(files, every, depth, level, splits)
        if splits:
            return Labelling(NO_CLASSES, {}, {}, unclear=(*splits.trains, *splits.tests))
    rule, classes = _classes(files, inside, depth)
    if not classes:
        return Labelling(rule, dict.fromkeys(every, ""), {}, outside_folders=_count_outside(files, every, depth))
    outside = tuple(index for index in every if index not in classes)
    return Labelling(rule, classes, {}, outside=outside, unlabelled=outside)


def _few(count: int, of: int) -> bool:
    """True if a rule that misses `count` of `of` files still fits nearly all of them."""
    return count <= (max(1, of // 10) if of >= 5 else 0)


def _tops(files: Sequence[Names], indices: Sequence[int], depth: int) -> Counter[str]:
    """Number of files in each folder at this depth."""
    return Counter(files[index][depth] for index in indices if len(files[index]) > depth + 1)


def _descend(files: Sequence[Names], indices: list[int], depth: int) -> tuple[list[int], int]:
    """Descends into folders that hold nearly all files; returns the files in the innermost, and its depth."""
    while True:
        tops = _tops(files, indices, depth)
        if len(tops) != 1 or not _few(len(indices) - tops.total(), len(indices)):
            return indices, depth
        indices = [index for index in indices if len(files[index]) > depth + 1]
        depth += 1


WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W0-9A-Za-z_]+")  # trainA, train2017 and CIFARTrain have two


class _Splits(NamedTuple):
    """Folders of training and test splits at one depth."""

    trains: list[str]  # folder names
    tests: list[str]  # folder names, best match first
    are_clear: bool  # True with one training folder, and nearly no files outside of the splits


def _splits(files: Sequence[Names], indices: list[int], depth: int, outermost: bool) -> _Splits | None:
    """Finds the folders of splits at this depth; None if there are not both, or if most files are in neither.

    outermost: True if folders at this depth would otherwise be classes, which test folders must never be.
    """
    folders = _tops(files, indices, depth)
    trains: dict[Names, list[tuple[Names, str]]] = {}  # by the words that distinguish several data sets
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
    splits = _Splits([folder for _, folder in found_trains], [folder for *_, folder in found_tests], False)
    held = sum(folders[folder] for folder in {*splits.trains, *splits.tests})
    would_be_classes = _few(len(indices) - folders.total(), len(indices)) and outermost
    if not both or (2 * held < len(indices) and not would_be_classes):
        return None
    return splits._replace(are_clear=len(splits.trains) == 1 and _few(len(indices) - held, len(indices)))


def _label_splits(files: Sequence[Names], every: list[int], depth: int, level: int, splits: _Splits) -> Labelling:
    """Labels files with a training and a test folder at this level.  depth: folders above, which hold all files."""

    def of(split: str) -> tuple[list[int], list[Names]]:
        """Indices of the files of a split, and their paths without its folder."""
        indices = [index for index in every if len(files[index]) > level + 1 and files[index][level] == split]
        return indices, [files[index][depth:level] + files[index][level + 1 :] for index in indices]

    (train_name,) = splits.trains
    indices, names = of(train_name)
    rule, found = _classes(names, *_descend(names, list(range(len(names))), 0))
    train = {indices[k]: name for k, name in found.items()} if found else dict.fromkeys(indices, "")
    unlabelled = tuple(index for index in indices if index not in train)
    known = set(train.values())
    test: dict[int, str] = {}
    test_name = ""
    for split in splits.tests:
        if not test:
            indices, names = of(split)
            test = {
                index: name
                for index, file in zip(indices, names, strict=True)
                if (name := _class(rule, file, known)) is not None
            }
            test_name = split if test else ""
    unused = tuple(split for split in splits.tests if split != test_name)
    of_unused = {index for split in unused for index in of(split)[0]}
    outside = tuple(index for index in every if index not in train and index not in test and index not in of_unused)
    return Labelling(rule, train, test, train_name, test_name, unused, outside, unlabelled)


def _class(rule: str, file: Names, known: set[str]) -> str | None:
    """Class of a test file among the known classes of the training files; None if it has none of them."""
    if rule == NO_CLASSES:
        return ""
    names = file[:-1] if rule == BY_FOLDER else _prefixes([file], [0]).values()
    return next((name for name in names if name in known), None)


def _classes(files: Sequence[Names], indices: list[int], depth: int) -> tuple[str, dict[int, str]]:
    """The rule that fits these files, and the classes by file index."""
    tops = _tops(files, indices, depth)
    if len(tops) > 1 and _few(len(indices) - tops.total(), len(indices)):
        return BY_FOLDER, {index: files[index][depth] for index in indices if len(files[index]) > depth + 1}
    found = _prefixes(files, indices)
    if 1 < len(set(found.values())) < len(found) and _few(len(indices) - len(found), len(indices)):
        return BY_NAME, found
    return NO_CLASSES, {}


def _prefixes(files: Sequence[Names], indices: Sequence[int]) -> dict[int, str]:
    """Non-empty prefixes of file names before the first `_`, by file index."""
    found = {index: files[index][-1].partition("_")[0] for index in indices if "_" in files[index][-1]}
    return {index: name for index, name in found.items() if name}


def _count_outside(files: Sequence[Names], indices: Sequence[int], depth: int) -> int:
    """Number of files outside of two or more folders, which keep those from being classes."""
    tops = _tops(files, indices, depth)
    return len(indices) - tops.total() if len(tops) > 1 else 0
