"""Which classes and parts follow from the places and names of files."""

import pytest

from ddpm.data.labelling import BY_FOLDER, BY_NAME, NO_CLASSES, Labelling, label


def sorted_(*paths: str) -> Labelling:
    return label([tuple(path.split("/")) for path in paths])


def many(count: int, *places: str) -> list[str]:
    return [f"{place}/{k}.png" for place in places for k in range(count)]


CLASSES = many(2, "cat", "dog")


@pytest.mark.parametrize(
    ("paths", "rule", "classes", "outside"),
    [
        (CLASSES, BY_FOLDER, ["cat", "dog"], 0),
        ([*CLASSES, "sheet_1.png"], BY_FOLDER, ["cat", "dog"], 1),
        ([*CLASSES, "a.png", "b.png"], NO_CLASSES, [], 0),  # two of six are not nearly none
        ([*many(20, "cat", "dog"), "a.png", "b.png", "c.png", "d.png"], BY_FOLDER, ["cat", "dog"], 4),
        (["cat/1.png", "dog/1.png", "1.png"], NO_CLASSES, [], 0),  # of so few, one is a third
        ([f"all/deeper/{path}" for path in CLASSES], BY_FOLDER, ["cat", "dog"], 0),
        ([*(f"all/{path}" for path in CLASSES), "stray.png"], BY_FOLDER, ["cat", "dog"], 1),
        (many(2, "dogs/small", "dogs/large", "cats/small", "cats/large"), BY_FOLDER, ["cats", "dogs"], 0),
        (many(2, "a/x", "b/y/z"), BY_FOLDER, ["a", "b"], 0),
        (["cat_1", "cat_2", "dog_1", "dog_2", "logo"], BY_NAME, ["cat", "dog"], 1),
        (["cat_1", "cat_2", "dog_1", "logo"], NO_CLASSES, [], 0),
        (["sub/cat_1", "sub/cat_2", "other/dog_1", "1", "2"], NO_CLASSES, [], 0),
        (["1_a", "2_a", "3_a"], NO_CLASSES, [], 0),
        (["only.png"], NO_CLASSES, [], 0),
        ([*many(9, "sub"), "stray.png"], NO_CLASSES, [], 0),  # where there are no classes, no image is outside of them
    ],
)
def test_a_rule_fits_nearly_all(paths: list[str], rule: str, classes: list[str], outside: int) -> None:
    found = sorted_(*paths)
    assert (found.rule, sorted(set(found.train.values()) - {""}), len(found.outside)) == (rule, classes, outside)
    assert len(found.train) == len(paths) - outside
    assert not found.test


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Training", "Validation"),
        ("cifar_train", "cifar_test"),
        ("bedroom_train", "bedroom_val"),
        ("training_set", "test_set"),
        ("train2017", "val2017"),
        ("data/train", "data/valid"),
    ],
)
def test_parts_are_no_classes(train: str, test: str) -> None:
    found = sorted_(*many(2, f"{train}/cat", f"{train}/dog"), *many(1, f"{test}/dog", f"{test}/cat"))
    assert (found.rule, list(found.train.values())) == (BY_FOLDER, ["cat", "cat", "dog", "dog"])
    assert found.test == {4: "dog", 5: "cat"}
    plain = sorted_(*many(2, train, test))
    assert (plain.rule, plain.train, plain.test) == (NO_CLASSES, {0: "", 1: ""}, {2: "", 3: ""})


def test_parts_within_each_class() -> None:
    found = sorted_("cat/test/1", "cat/train/1", "cat/train/2", "dog/test/1", "dog/train/1", "dog/train/2")
    assert found.train == {1: "cat", 2: "cat", 4: "dog", 5: "dog"}
    assert found.test == {0: "cat", 3: "dog"}


def test_a_second_test_part_and_what_lies_beside_parts() -> None:
    found = sorted_(*many(8, "train/cat", "train/dog"), "val/cat/1", "test/cat/1", "extra/1", "1")
    assert found.test == {17: "cat"}
    assert found.unused == ("val",)
    assert found.outside == (18, 19)
    unlabelled = sorted_(*many(2, "train/cat", "train/dog"), "test/1", "val/cat/1", "val/cow/1")
    assert (unlabelled.test_name, unlabelled.test) == ("val", {5: "cat"}), "the part that has classes"
    assert unlabelled.outside == (6,), "a class that none learns"
    single = sorted_(*many(2, "train/cat", "train/dog"), "test/images/cat/1")
    assert single.test == {4: "cat"}


def test_classes_that_are_called_like_parts() -> None:
    assert set(sorted_(*many(2, "train", "bus", "car")).train.values()) == {"train", "bus", "car"}
    assert set(sorted_(*many(2, "train_station", "test_tube")).train.values()) == {"train_station", "test_tube"}


@pytest.mark.parametrize(
    ("paths", "rule", "trained_on"),
    [
        ([*(f"{k}.png" for k in range(1000)), *many(2, "train"), "test/a.png"], NO_CLASSES, 1003),
        ([*many(300, "cat", "dog", "car"), "cat/train/a.png", "dog/val/c.png"], BY_FOLDER, 902),
        ([*many(50, "two"), *many(5, "one/train", "one/test")], BY_FOLDER, 60),
    ],
)
def test_a_few_images_in_folders_called_like_parts_do_not_hide_the_others(
    paths: list[str], rule: str, trained_on: int
) -> None:
    found = sorted_(*paths)
    assert (found.rule, len(found.train), found.test, found.unclear) == (rule, trained_on, {}, ())


def test_nearly_all_are_counted_with_a_second_test_part() -> None:
    found = sorted_(*many(10, "train"), *many(3, "test", "val"), "stray.png")
    assert (len(found.train), len(found.test), found.unused, found.outside) == (10, 3, ("val",), (16,))


@pytest.mark.parametrize(
    "folders",
    [
        ["trainA", "trainB", "testA", "testB"],
        ["train2014", "train2017", "val2014", "val2017"],
        ["train1", "train2", "test"],
        ["bedroom_train", "church_train", "bedroom_val", "church_val"],
    ],
)
def test_several_folders_to_learn_from_are_never_mixed_with_those_to_test_on(folders: list[str]) -> None:
    found = sorted_(*many(4, *folders))
    assert (set(found.unclear), found.train) == (set(folders), {})
    within = sorted_(*many(4, *(f"{name}/{folder}" for name in ("cat", "dog") for folder in folders)))
    assert (set(within.unclear), within.train) == (set(folders), {})


def test_many_images_beside_parts_make_it_unclear_what_to_test_on() -> None:
    assert sorted_(*many(20, "train"), *many(10, "test", "extra")).unclear == ("train", "test")
    few = sorted_(*many(5, "train", "test"), *many(50, "unlabelled"))
    assert few.unclear == ("train", "test"), "what is to be tested on is no class"


@pytest.mark.parametrize(
    "names", [("CIFARTrain", "CIFARTest"), ("catsTrain", "catsVal"), ("train2014", "val2017"), ("TRAIN", "TEST")]
)
def test_parts_in_names_of_several_words(names: tuple[str, str]) -> None:
    found = sorted_(*many(2, *names))
    assert (found.train_name, found.test_name, len(found.train), len(found.test)) == (*names, 2, 2)


def test_of_several_test_parts_the_one_of_the_same_name_is_taken() -> None:
    found = sorted_(*many(2, "train2017", "val2017", "test2014"))
    assert (found.test_name, found.unused) == ("val2017", ("test2014",))


def test_a_folder_above_the_parts_is_called_like_a_class() -> None:
    files = [
        ("hotdog", part, name, f"{k}.png")
        for part in ("train", "test")
        for name in ("hotdog", "other")
        for k in range(4)
    ]
    found = label(files)
    assert (found.train_name, found.test_name) == ("train", "test")
    assert {files[k][2]: name for k, name in found.test.items()} == {"hotdog": "hotdog", "other": "other"}
    assert {files[k][2]: name for k, name in found.train.items()} == {"hotdog": "hotdog", "other": "other"}
