"""Watches over labels: nothing merged, nothing lost, no class that nobody meant."""

import enum
import os
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import seqdream as sd
from seqdream.classes import check_indices, list_classes, plain_text, short_text

rng = np.random.default_rng(0)
X = rng.normal(size=(12, 30)).cumsum(1)
y = np.arange(12) % 2
up = ["up", "down"] * 6


class Column:
    "A column that only a library knows, as polars has it: a list of its values, and no more."

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.values)

    def to_list(self):
        return self.values


Column.__module__ = "polars.series"


def classes_of(labels):
    return sd.check_labels(labels)[1]


# --- missing --------------------------------------------------------------------------------------

MISSING = {
    "NaN": np.where(np.arange(12) == 4, np.nan, y),
    "NaN, float32": torch.tensor(np.where(np.arange(12) == 4, np.nan, y), dtype=torch.float32),
    "NaN in a list": [*up[:4], float("nan"), *up[5:]],
    "None": np.array([*up[:4], None, *up[5:]], dtype=object),
    "None among numbers": [0, 1, 0, 1, None, *y[5:]],
    "pd.NA": pd.Series([*y[:4], pd.NA, *y[5:]], dtype="Int64"),
    "pd.NA in text": pd.Series([*up[:4], pd.NA, *up[5:]], dtype="string"),
    "categories": pd.Categorical([*up[:4], None, *up[5:]]),
    "NaT": pd.Series([*up[:4], pd.NaT, *up[5:]], dtype=object),
    "masked": np.ma.masked_array(y, np.arange(12) == 4),
    "empty text": [*up[:4], "", *up[5:]],
    "what numpy makes of NaN": np.array([*up[:4], np.nan, *up[5:]]),
    "Decimal": [*map(Decimal, map(int, y[:4])), Decimal("nan"), *map(Decimal, map(int, y[5:]))],
    "polars": Column([*up[:4], None, *up[5:]]),
}


@pytest.mark.parametrize("what", MISSING)
def test_a_missing_label_is_named_with_its_place(what):
    for door in (lambda v: sd.check_labels(v, 12), lambda v: sd.Dataset.from_arrays(X, v)):
        with pytest.raises(ValueError, match=r"1 of 12 labels missing.*label 4 "):
            door(MISSING[what])
    with pytest.raises(ValueError, match=r"test labels: 1 of 12 labels missing.*label 4 "):
        sd.Dataset.from_arrays(X, ["a", "b"] * 6, X, MISSING[what])


def test_the_first_of_several_missing_labels_is_named():
    with pytest.raises(ValueError, match="3 of 12 labels missing, the first is label 2 "):
        sd.check_labels([1, 0, None, 1, float("nan"), 0, 1, pd.NA, 1, 0, 1, 0])


# --- what is the same label -----------------------------------------------------------------------

SAME = {
    "leading zeros": (["01", "1", "2"] * 4, ("01", "1", "2")),
    "case": (["A", "a"] * 6, ("A", "a")),
    "a word that holds nan": (["banana", "nano"] * 6, ("banana", "nano")),
    "a class called None": (["None", "worn"] * 6, ("None", "worn")),
    "spaces": ([" a", "a"] * 6, (" a", "a")),
    "whole floats": (np.array([1.0, -1.0] * 6), ("-1", "1")),
    "float32": (np.array([0.1, 0.2] * 6, np.float32), ("0.1", "0.2")),
    "text of floats": (["1.0", "1"] * 6, ("1", "1.0")),
    "neighbours of 2**53": (np.array([2**53 + 1, 2**53] * 6), (str(2**53), str(2**53 + 1))),
    "beyond 64 bits": ([2**70 + 1, 2**70] * 6, (str(2**70), str(2**70 + 1))),
    "bytes": ([b"walk", b"run"] * 6, ("run", "walk")),
    "numpy bytes": (np.array([b"walk", b"run"] * 6), ("run", "walk")),
    "truth values": (np.array([True, False] * 6), ("False", "True")),
    "int and float": ([1, 1.0, 2] * 4, ("1", "2")),
    "order of numbers": ([10, 9, -1] * 4, ("-1", "9", "10")),
    "order of numbers as text": (["10", "9", "1e1"] * 4, ("9", "10", "1e1")),
    "order of words": (["10", "9", "x"] * 4, ("10", "9", "x")),
    "grades": ([0.5, 1.5] * 6, ("0.5", "1.5")),
    "unsigned": (np.array([3, 250] * 6, np.uint8), ("3", "250")),
    "a text enumeration": ([enum.StrEnum("K", "b a").b, "a"] * 6, ("a", "b")),
    "emoji": (["😀", "日本"] * 6, ("日本", "😀")),
}


@pytest.mark.parametrize("what", SAME)
def test_labels_are_what_people_wrote(what):
    labels, classes = SAME[what]
    data = sd.Dataset.from_arrays(X, labels, X, labels)
    assert data.classes == classes
    assert sd.check_labels(labels)[1] == classes
    own = [plain_text(v) for v in labels]
    back = [data.classes[i] for i in data.y_train]
    if what not in ("whole floats", "float32", "int and float"):
        assert back == own
    assert torch.equal(data.y_train, data.y_test)


FORMS = {
    "Series": pd.Series(up, index=np.arange(12)[::-1]),
    "string Series": pd.Series(up, dtype="string"),
    "Categorical": pd.Categorical(up, categories=["up", "down", "never"]),
    "Index": pd.Index(up),
    "frame of one column": pd.DataFrame({"label": up}),
    "column vector": np.array(up)[:, None],
    "row vector": np.array(up)[None],
    "tuple": tuple(up),
    "generator": (v for v in up),
    "objects": np.array(up, dtype=object),
    "polars": Column(up),
    "one-hot frame": pd.DataFrame({"down": [0, 1] * 6, "up": [1, 0] * 6}),
    "one-hot of truths": pd.get_dummies(pd.Series(up)),
}


@pytest.mark.parametrize("what", FORMS)
def test_forms_of_labels(what):
    codes, classes = sd.check_labels(FORMS[what], 12)
    assert classes == ("down", "up")
    assert codes.dtype == torch.int64
    assert codes.tolist() == [1, 0] * 6


@pytest.mark.parametrize("make", [torch.tensor, np.array, list])
def test_one_hot(make):
    table = make(np.eye(3, dtype=int)[[2, 0, 1, 0]].tolist())
    codes, classes = sd.check_labels(table, 4)
    assert (codes.tolist(), classes) == ([2, 0, 1, 0], ("0", "1", "2"))
    columns = pd.DataFrame(np.eye(2)[[1, 0, 1]], columns=["z", "a"])
    assert sd.check_labels(columns)[1] == ("z", "a")  # a model's outputs are in this order


def test_tensors_as_labels():
    for dtype in (torch.int8, torch.float16, torch.bfloat16, torch.float64):
        labels = torch.tensor([3, 1] * 6, dtype=dtype)
        assert sd.check_labels(labels)[1] == ("1", "3")
    assert sd.check_labels([torch.tensor(3), torch.tensor(1)] * 6)[1] == ("1", "3")
    labels = torch.tensor([3.0, 1.0], requires_grad=True)
    assert sd.check_labels(labels)[1] == ("1", "3")


# --- what is refused ------------------------------------------------------------------------------

REFUSED = {
    "continuous": (rng.normal(20, 3, 12).round(2), "12 different numbers.*regression"),
    "continuous, float32": (torch.rand(12), "regression"),
    "continuous whole numbers": (rng.permutation(12) + 20, "12 different labels.*regression"),
    "names of series": ([f"patient {i}" for i in range(12)], "names of the series"),
    "text and number": (np.array(["a", 1] * 6, dtype=object), "label 0 is 'a'.*label 1 is 1"),
    "truth and number": ([True, 2] * 6, "a truth value, but label 1 is 2, a number"),
    "bytes and text": ([b"a", "a"] * 6, "label 0 is b'a', a bytes"),
    "dates": (np.array(["2024-01-01", "2024-01-02"] * 6, "M8[D]"), "a datetime64"),
    "complex": ([1j, 2.0] * 6, "a complex"),
    "lists of lists": ([["a"], ["a", "b"]] * 6, "a list"),
    "infinity": ([1, float("inf")] * 6, "a label is inf"),
    "many ones": (np.ones((12, 3)), "single 1 in each row"),
    "probabilities": (np.full((12, 2), 0.5), "single 1 in each row"),
    "three axes": (np.ones((12, 2, 2)), "one label for each series"),
    "a set": ({*range(12)}, "not set"),
    "a dictionary": ({i: i for i in range(12)}, "not dict"),
    "a word": ("ababababababa", "not str"),
    "a number": (3, "not int"),
    "None": (None, "not NoneType"),
    "too few": (y[:5], "12 series but 5 labels"),
    "too many": (range(10**9), "12 series but 1000000000 labels"),
    "floats that were integers": (np.array([2.0**53, 1.0] * 6), "no longer told apart"),
    "half floats": (np.array([2048, 1.0] * 6, np.float16), "no longer told apart"),
    "one class": (["a"] * 12, "one class only"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_labels_that_are_none(what):
    labels, message = REFUSED[what]
    with pytest.raises((ValueError, TypeError), match=message):
        sd.Dataset.from_arrays(X, labels)
    if what != "one class":
        with pytest.raises((ValueError, TypeError), match="labels"):
            sd.check_labels(labels, 12)


def test_a_whole_column_of_names_is_refused():
    with pytest.raises(ValueError, match="100000 different labels for 100000 series"):
        sd.check_labels(np.arange(100_000) * 1000)


def test_few_large_numbers_cost_nothing():
    codes, classes = sd.check_labels([10**9, 0] * 6)
    assert (codes.tolist(), classes) == ([1, 0] * 6, ("0", "1000000000"))


def test_sets_of_one_series_a_class_exist():
    "UCR's Fungi: 18 training series, 18 classes."
    many = rng.normal(size=(204, 20))
    labels = np.arange(204) % 18
    data = sd.Dataset.from_arrays(many[:18], labels[:18], many[18:], labels[18:])
    assert data.n_classes == 18


def test_both_parts_have_labels_or_none():
    with pytest.raises(ValueError, match="X_test without y_test"):
        sd.Dataset.from_arrays(X, y, X[:5])
    with pytest.raises(ValueError, match="y_test without X_test"):
        sd.Dataset.from_arrays(X, y, None, y)
    with pytest.raises(ValueError, match="5 series but 12 labels"):
        sd.Dataset.from_arrays(X, y, X[:5], y)


def test_both_parts_speak_of_the_same_labels():
    data = sd.Dataset.from_arrays(X, [1, 2, 3] * 4, X[:4], [2, 1, 2, 1])
    assert data.y_test.tolist() == [1, 0, 1, 0]  # labels, not indices
    with pytest.raises(TypeError, match="a training label is a number.*a test label a text"):
        sd.Dataset.from_arrays(X, y, X, [str(v) for v in y])
    with pytest.raises(ValueError, match="class '7' has no training series"):
        sd.Dataset.from_arrays(X, y, X[:4], [0, 1, 7, 1])


# --- classes that are known -----------------------------------------------------------------------


def test_known_classes_index_before_label():
    assert sd.check_labels([1, 0, 1], 3, ("-1", "1"))[0].tolist() == [1, 0, 1]
    assert sd.check_labels([-1, 1, -1], 3, ("-1", "1"))[0].tolist() == [0, 1, 0]
    assert sd.check_labels(["1", "-1"], 2, ("-1", "1"))[0].tolist() == [1, 0]
    assert sd.check_labels([1, 3, 2], 3, ("1", "2", "3"))[0].tolist() == [0, 2, 1]
    assert sd.check_labels([True, False], 2, ("a", "b"))[0].tolist() == [1, 0]
    for wrong in ([0, 2], [0.5, 1], ["x", "-1"], [-2, 1]):
        with pytest.raises(
            ValueError, match=r"class indices from 0 to 1.*0 \(label -1\).*from_arr"
        ):
            sd.check_labels(wrong, 2, ("-1", "1"))


@pytest.mark.parametrize("target", [1, np.int64(1), np.uint8(1), torch.tensor(1), 1.0, "1", "go"])
def test_class_index(target):
    if target == 1.0 and isinstance(target, float):
        with pytest.raises(ValueError, match=r"0 \(label stop\), 1 \(label go\)"):
            sd.class_index(target, ("stop", "go"))
    else:
        assert sd.class_index(target, ("stop", "go")) == 1


def test_class_index_of_labels_that_are_numbers():
    classes = ("-1", "1", "10")
    assert sd.class_index(1, classes) == 1
    assert sd.class_index(-1, classes) == 0
    assert sd.class_index(10, classes) == 2
    assert sd.class_index("10", classes) == 2
    assert sd.class_index("0", classes) == 0  # no label: an index
    assert sd.class_index("1", ("1", "2")) == 0  # text is a label first
    assert sd.class_index(1, ("1", "2")) == 1  # a number is an index first
    assert sd.class_index(True, ("False", "True")) == 1


@pytest.mark.parametrize(
    "target", [2, -1, 1.5, float("nan"), float("inf"), None, True, "jump", "", [1], 2**70, 1j, "2"]
)
def test_no_such_class(target):
    with pytest.raises(ValueError, match=r"chosen=.*0 \(label a\), 1 \(label b\)"):
        sd.class_index(target, ("a", "b"), name="chosen")


def test_indices_for_fit():
    assert check_indices([True, False]).tolist() == [1, 0]
    assert check_indices(torch.tensor([2.0, 0.0])).tolist() == [2, 0]
    for wrong in ([0, 0.5] * 6, ["a", "b"] * 6, [0, 2**70] * 6, [0, 1, -1] * 4):
        with pytest.raises(ValueError, match="class indices.*Dataset.from_arrays"):
            check_indices(wrong)
    below = np.tile([0, 1, -1], 4)  # every class occurs, and one that is none
    for ask in (sd.accuracy, lambda m, x, y: sd.train_judges(x, y, x, np.abs(y), epochs=1)):
        with pytest.raises(ValueError, match="not labels such as '-1'"):
            ask(sd.ResNet.preset("paper", 1, 2, 0), X, below)
    model = sd.ResNet.preset("paper", 1, 2, 0)
    for wrong in (np.where(y == 1, np.nan, 0.0), y + 0.5, np.array(["a", "b"])[y]):
        with pytest.raises(ValueError, match="label"):
            sd.fit(model, (X, wrong), epochs=1, progress=False)


# --- any text, in any order -----------------------------------------------------------------------

any_text = st.text(st.characters(), min_size=1, max_size=12)
usable = any_text.filter(lambda t: t.strip() and t not in ("nan", "NaN", "NaT", "<NA>"))


@given(st.lists(usable, min_size=2, max_size=5, unique_by=plain_text), st.randoms())
def test_any_text_stays_itself_in_any_order(labels, random):
    many = labels * 4
    random.shuffle(many)
    codes, classes = sd.check_labels(many)
    assert [classes[i] for i in codes] == [plain_text(v) for v in many]
    assert set(classes) == {plain_text(v) for v in labels}
    assert classes == sd.check_labels(labels * 3)[1]
    for text in classes:
        text.encode("utf-8")  # any file and terminal takes it
        assert sd.class_index(text, classes) == classes.index(text)


@given(st.lists(st.integers(), min_size=2, max_size=5, unique=True), st.randoms())
def test_integers_are_ordered_as_integers(labels, random):
    many = labels * 4
    random.shuffle(many)
    codes, classes = sd.check_labels(many)
    assert [int(v) for v in classes] == sorted(labels)
    assert [int(classes[i]) for i in codes] == many


def test_order_does_not_depend_on_the_process():
    code = "import seqdream as sd; print(sd.check_labels(list('qwertyuiop') * 3)[1])"
    said = set()
    for seed in ("0", "1"):
        run = [sys.executable, "-c", code]
        env = {**os.environ, "PYTHONHASHSEED": seed}
        said.add(subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout)
    assert said == {f"{tuple(sorted('qwertyuiop'))}\n"}


def test_two_labels_that_print_alike_are_refused():
    with pytest.raises(ValueError, match="both written"):
        sd.check_labels(["\ud800", "\\ud800"] * 6)


def test_texts_on_a_line():
    assert short_text("a\x1b[31mb\u2028c\u202ed") == "a\\x1b[31mb\\u2028c\\u202ed"
    assert short_text("👩\u200d🔬") == "👩\u200d🔬"
    assert len(short_text("x" * 300)) == 60
    assert list_classes(["\n" * 300] * 20).count("label") == 12
    data = sd.Dataset.from_arrays(X, ["a\nb", "\ud800" * 300] * 6, name="my\nset \ud83d")
    assert "\n" not in repr(data)
    assert len(repr(data)) < 250
    repr(data).encode("utf-8")
