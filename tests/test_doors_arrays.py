"""Watches over the door for arrays: every form comes in right, or is told why not."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import seqdream as sd

rng = np.random.default_rng(0)
FLAT = rng.normal(size=(4, 9)).round(3)  # univariate
DEEP = rng.normal(size=(4, 2, 9)).round(3)  # two channels
Y = [0, 1, 0, 1]


def multi_index(times) -> pd.DataFrame:
    "DEEP as sktime keeps it: an index of instance and time, a column a channel."
    names = ["d", "b", "a", "c"]  # not in the order of the alphabet
    index = pd.MultiIndex.from_product([names, times], names=["instance", "time"])
    return pd.DataFrame(DEEP.transpose(0, 2, 1).reshape(-1, 2), index=index, columns=["u", "v"])


def nested(make) -> pd.DataFrame:
    "DEEP as a table whose cells hold series."
    return pd.DataFrame({f"dim_{c}": [make(row[c]) for row in DEEP] for c in range(2)})


def objects(rows) -> np.ndarray:
    "A one-dimensional array of objects."
    out = np.empty(len(rows), dtype=object)
    out[:] = rows
    return out


def ragged_objects(x) -> np.ndarray:
    "As sktime's nested frame gives as an array: (n, channels), each cell a series."
    out = np.empty(x.shape[:2], dtype=object)
    for i, c in np.ndindex(out.shape):
        out[i, c] = x[i, c]
    return out


days = pd.date_range("2024-01-01", periods=9, freq="D")
UNIVARIATE = {
    "numpy": FLAT,
    "float32": FLAT.astype(np.float32),
    "float16": FLAT.astype(np.float16),
    "Fortran order": np.asfortranarray(FLAT),
    "big endian": FLAT.astype(">f8"),
    "read only": np.broadcast_to(FLAT, FLAT.shape),
    "objects": FLAT.astype(object),
    "nested lists": FLAT.tolist(),
    "tuples": tuple(map(tuple, FLAT.tolist())),
    "tensor": torch.tensor(FLAT),
    "tensor that wants a gradient": torch.tensor(FLAT, requires_grad=True),
    "bfloat16": torch.tensor(FLAT).bfloat16(),
    "half": torch.tensor(FLAT).half(),
    "sparse": torch.tensor(FLAT).to_sparse(),
    "list of tensors": [torch.tensor(row, requires_grad=True) for row in FLAT],
    "nested tensor": torch.nested.nested_tensor([torch.tensor(row) for row in FLAT]),
    "lists of single tensors": [[torch.tensor(v) for v in row] for row in FLAT],
    "list of arrays": list(FLAT),
    "list of (1, points)": [row[None] for row in FLAT],
    "array of arrays": objects(list(FLAT)),
    "generator": (row for row in FLAT),
    "wide frame": pd.DataFrame(FLAT, index=[7, 3, 5, 1]),
    "wide frame, dates": pd.DataFrame(FLAT, columns=days),
    "nullable frame": pd.DataFrame(FLAT).convert_dtypes(),
    "Series of arrays": pd.Series(list(FLAT), index=[7, 3, 5, 1]),
    "Series of Series": pd.Series([pd.Series(row, index=days) for row in FLAT]),
    "list of Series": [pd.Series(row, index=days) for row in FLAT],
    "masked, nothing hidden": np.ma.masked_array(FLAT),
}
MULTIVARIATE = {
    "numpy": DEEP,
    "tensor": torch.tensor(DEEP),
    "np-list": list(DEEP),
    "list of lists of arrays": [list(row) for row in DEEP],
    "lists of tensors": [[torch.tensor(c, requires_grad=True) for c in row] for row in DEEP],
    "df-list": [pd.DataFrame(row) for row in DEEP],
    "array of arrays": objects(list(DEEP)),
    "nested frame": nested(pd.Series),
    "nested frame of arrays": nested(np.array),
    "nested frame of lists": nested(list),
    "nested array": ragged_objects(DEEP),
    "multi-index": multi_index(range(9)),
    "multi-index of dates": multi_index(days),
}


@pytest.mark.parametrize("form", UNIVARIATE)
def test_univariate_forms(form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = sd.check_series(UNIVARIATE[form])
    assert x.dtype == torch.float32
    assert not x.requires_grad
    tolerance = 2e-2 if form == "bfloat16" else 2e-3
    np.testing.assert_allclose(x[:, 0], FLAT, rtol=0, atol=tolerance)


@pytest.mark.parametrize("form", MULTIVARIATE)
def test_multivariate_forms(form):
    x = sd.check_series(MULTIVARIATE[form])
    np.testing.assert_allclose(x, DEEP, atol=1e-6)
    data = sd.Dataset.from_arrays(MULTIVARIATE[form], Y, MULTIVARIATE[form], Y)
    assert torch.equal(data.X_train, x)
    assert torch.equal(data.X_test, x)


def test_the_users_array_is_not_touched():
    x = torch.tensor(FLAT, dtype=torch.float32)
    out = sd.check_series(x[:, None])
    out += 1
    assert np.array_equal(x, FLAT.astype(np.float32))


def test_polars_frames():
    pl = pytest.importorskip("polars")
    wide = pl.DataFrame(FLAT)
    np.testing.assert_allclose(sd.check_series(wide)[:, 0], FLAT, atol=1e-6)
    np.testing.assert_allclose(sd.check_series(wide.lazy())[:, 0], FLAT, atol=1e-6)
    cells = pl.DataFrame({f"c{c}": DEEP[:, c].tolist() for c in range(2)})
    np.testing.assert_allclose(sd.check_series(cells), DEEP, atol=1e-6)
    rows = pl.Series(FLAT.tolist())
    np.testing.assert_allclose(sd.check_series(rows)[:, 0], FLAT, atol=1e-6)
    with pytest.raises(TypeError, match="column 'label': expected numbers, got text"):
        sd.check_series(wide.with_columns(label=pl.Series(list("abcd"))))
    with pytest.raises(ValueError, match="1 of 4 labels missing"):
        sd.check_labels(pl.Series(["a", None, "b", "a"]))
    assert (
        sd.check_labels(pl.Series(["b", "a"] * 3, dtype=pl.Categorical))[0].tolist() == [1, 0] * 3
    )
    one_hot = pl.DataFrame({"down": [0, 1] * 3, "up": [1, 0] * 3})
    assert sd.check_labels(one_hot)[1] == ("down", "up")


def test_aeon_converts_to_forms_that_come_in():
    convert = pytest.importorskip("aeon.utils.conversion").convert_collection
    for form in ("numpy3D", "np-list", "df-list", "pd-multiindex", "nested_univ"):
        try:
            x = convert(DEEP, form)
        except (TypeError, ValueError):
            continue  # a later aeon may know fewer
        np.testing.assert_allclose(sd.check_series(x), DEEP, atol=1e-6)


# --- unequal lengths and padding ------------------------------------------------------------------

RAGGED = [np.arange(5.0) ** 2, np.arange(9.0) ** 2]
padded = np.full((2, 1, 9), np.nan)
padded[0, 0, :5] = RAGGED[0]
padded[1, 0] = RAGGED[1]
UNEQUAL = {
    "list": RAGGED,
    "lists": [list(row) for row in RAGGED],
    "objects": objects(RAGGED),
    "nested tensor": torch.nested.nested_tensor([torch.tensor(row) for row in RAGGED]),
    "Series": pd.Series([pd.Series(row) for row in RAGGED]),
    "nested frame": pd.DataFrame({"dim_0": [pd.Series(row) for row in RAGGED]}),
    "padded": padded,
    "padded lists": [[*RAGGED[0], *[None] * 4], list(RAGGED[1])],
    "padded frame": pd.DataFrame(padded[:, 0]),
    "padded list": list(padded[:, 0]),
}


@pytest.mark.parametrize("form", UNEQUAL)
def test_unequal_lengths_need_a_length(form):
    with pytest.raises(ValueError, match="length="):
        sd.check_series(UNEQUAL[form])
    x = sd.check_series(UNEQUAL[form], length=5)
    np.testing.assert_allclose(x[0, 0], RAGGED[0])  # untouched: it has five points
    np.testing.assert_allclose(x[1, 0], RAGGED[1][::2])  # every second of nine


def test_missing_values_are_named_with_their_place():
    x = DEEP.copy()
    x[1, 1, 3] = np.nan
    x[2, 0, 0] = np.nan  # at the beginning: no padding
    for form in (x, torch.tensor(x), list(x), ragged_objects(x)):
        for length in (None, 5):
            message = "2 values are not finite, the first is nan in series 1, channel 1, point 3"
            with pytest.raises(ValueError, match=message):
                sd.check_series(form, length=length)
    x = DEEP.copy()
    x[1, 1, 8] = np.nan  # one channel ends earlier: no padding either
    with pytest.raises(ValueError, match="series 1, channel 1, point 8"):
        sd.check_series(x, length=5)
    x[3] = np.nan
    with pytest.raises(ValueError, match="series 3|series 1, channel 1, point 8"):
        sd.check_series(x, length=5)
    with pytest.raises(ValueError, match="series 0 has no values"):
        sd.check_series(np.stack([FLAT[0] * np.nan, FLAT[1]]), length=5)
    with pytest.raises(ValueError, match="is inf in series 0, channel 0, point 8"):
        sd.check_series([[*FLAT[0, :8], np.inf]], length=5)


# --- what is refused ------------------------------------------------------------------------------

label_frame = pd.DataFrame(FLAT).assign(label=list("abab"))
gap = multi_index([0, 1, 2, 3, 4, 5, 6, 7, 9])
REFUSED = {
    "masked": (np.ma.masked_greater(FLAT, 1), "points are masked, the first at"),
    "masked row": ([np.ma.masked_greater(FLAT[0], 0), FLAT[1]], "points are masked"),
    "complex": (FLAT + 0j, "expected numbers, got complex.*channels"),
    "complex tensor": (torch.tensor(FLAT + 0j), "expected numbers, got complex"),
    "complex objects": ((FLAT + 1j).astype(object), "expected numbers"),
    "text": (FLAT.astype(str), "expected numbers, got text"),
    "text of numbers in objects": (FLAT.astype(str).astype(object), "expected numbers, got text"),
    "bytes": (FLAT.astype("S"), "expected numbers, got text"),
    "dates": (np.array([days] * 2), "expected numbers, got dates"),
    "time differences": (np.array([days - days[0]] * 2), "got time differences"),
    "dates in a frame": (pd.DataFrame({"a": days, "b": days}), "column 'a'.*dates|Timestamp"),
    "records": (np.zeros(4, dtype=[("a", float), ("b", float)]), "got records"),
    "a label among the columns": (label_frame, "column 'label': expected numbers, got text"),
    "an index among the columns": (pd.DataFrame({"Unnamed: 0": [1], "1": [2]}), "index_col=0"),
    "half a nested frame": (nested(np.array).assign(age=[1, 2, 3, 4]), "'age' holds no series"),
    "channels of unequal length": (
        pd.DataFrame({"a": [[1, 2]], "b": [[1, 2, 3]]}),
        "2 to 3 points",
    ),
    "a gap in time": (gap, "series 'd' do not rise in equal steps"),
    "time out of order": (multi_index(range(9))[::-1], "do not rise"),
    "a set": ({1.0, 2.0}, "expected numbers, got set"),
    "a dictionary": ({"a": [1, 2]}, "expected numbers, got dict"),
    "a tensor without values": (torch.empty(4, 9, device="meta"), "device 'meta'"),
    "a word": ("series", "expected numbers, got str"),
    "None": (None, "expected numbers, got NoneType"),
    "an object": (object(), "expected numbers"),
    "a function": (print, "expected numbers"),
    "large integers": (np.array([[2**60, 2**60 + 1]]), "more than a float"),
    "four axes": (np.zeros((1, 1, 2, 2)), "got 4 with shape"),
    "rows of three axes": ([np.zeros((1, 2, 2))], "one or two dimensions"),
    "empty list": ([], "no values"),
    "empty frame": (pd.DataFrame(), "no values"),
    "empty series": ([[], []], "no points"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_series_is_refused_with_a_remedy(what):
    x, message = REFUSED[what]
    with pytest.raises((ValueError, TypeError), match=message):
        sd.check_series(x)
    with pytest.raises((ValueError, TypeError), match=message):
        sd.Dataset.from_arrays(x, [0] * (len(x) if hasattr(x, "__len__") else 1))


@pytest.mark.parametrize("length", [1, 0, -3, 2.5, "7", True, float("nan")])
def test_lengths_that_are_none(length):
    with pytest.raises(ValueError, match="length=.*whole number"):
        sd.check_series(FLAT, length=length)


# --- which axis is time ---------------------------------------------------------------------------


def test_axis_asks_where_there_are_more_channels_than_points():
    last = DEEP.transpose(0, 2, 1)
    frames = [pd.DataFrame(row, index=days) for row in last]
    for x in (last, torch.tensor(last.copy()), list(last), frames, FLAT[:, :, None]):
        with pytest.raises(ValueError, match="channels_last'.*channels_first'"):
            sd.check_series(x)
        with pytest.raises(ValueError, match="channels_last'.*channels_first'"):
            sd.Dataset.from_arrays(x, Y)
        data = sd.Dataset.from_arrays(x, Y, x, Y, axis="channels_last")
        expected = FLAT[:, None] if np.shape(x)[2:] == (1,) else DEEP
        np.testing.assert_allclose(data.X_train, expected, atol=1e-6)
        np.testing.assert_allclose(data.X_test, expected, atol=1e-6)
        assert sd.check_series(x, axis="channels_first").shape[1] == 9
    with pytest.raises(ValueError, match="axis='time': there are auto, channels_first"):
        sd.check_series(DEEP, axis="time")


def test_axis_of_ragged_series():
    rows = [np.arange(10.0).reshape(5, 2), np.arange(18.0).reshape(9, 2)]
    with pytest.raises(ValueError, match="channels_last"):
        sd.check_series(rows, length=5)
    x = sd.check_series(rows, length=5, axis="channels_last")
    assert x[0].tolist() == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
    assert x[1, 0].tolist() == [0, 4, 8, 12, 16]


def test_axis_is_not_asked_about_where_the_form_says_it():
    "Nine instances of nine channels and two points: the index says which is which."
    wide = multi_index(range(9))
    index = pd.MultiIndex.from_product([range(4), range(2)])
    few = pd.DataFrame(DEEP.reshape(8, 9), index=index)
    assert sd.check_series(wide).shape == (4, 2, 9)
    assert sd.check_series(few).shape == (4, 9, 2)
    assert sd.check_series(few, axis="channels_last").shape == (4, 9, 2)
    assert sd.check_series(FLAT[:, :1]).shape == (4, 1, 1)


def test_axis_is_asked_about_once():
    "A set with more channels than points goes through every room that takes its series."
    x = rng.normal(size=(12, 9, 5))
    data = sd.Dataset.from_arrays(x, [0, 1] * 6, axis="channels_first")
    model = sd.ResNet.preset("paper", 9, 2, 0)
    sd.fit(model, data, epochs=1, progress=False)
    ref = sd.Reference.from_data(model, data.X_train, data.y_train)
    d = sd.dream(model, data.X_train[:1], sd.score(0), steps=2)
    assert ref.distance(d.x, 0).shape == (1,)
    assert sd.check_series(x, 9, 5).shape == (12, 9, 5)  # expected so
    with pytest.raises(ValueError, match="5 channels where 9 are expected.*swap the last two"):
        sd.check_series(x.transpose(0, 2, 1), 9, 5)


# --- offset and scale -----------------------------------------------------------------------------


def levels(x) -> int:
    "How many different values the first series has."
    return len(np.unique(np.asarray(x)[0]))


@pytest.mark.parametrize("offset, ripple", [(101325, 0.02), (1e9, 1.0), (-1e9, 1e-2), (1e12, 50.0)])
def test_an_offset_is_subtracted_and_kept(offset, ripple):
    x = offset + ripple * rng.normal(size=(6, 40)).cumsum(1)
    y = [0, 1] * 3
    with pytest.raises(ValueError, match="lose their shape in float32.*Dataset.from_arrays"):
        sd.check_series(x)
    with pytest.warns(UserWarning, match="offset was subtracted.*physical.mean") as said:
        data = sd.Dataset.from_arrays(x, y, x[:3] + ripple, y[:3])
    assert [w.filename for w in said] == [__file__]
    assert levels(data.X_train) == levels(x) == 40
    assert data.physical.restore(data.X_train).dtype == torch.float64
    np.testing.assert_allclose(
        data.physical.restore(data.X_train)[:, 0], x, atol=1e-5 * ripple + 1e-4 * ripple
    )
    np.testing.assert_allclose(
        data.physical.restore(data.X_test)[:, 0], x[:3] + ripple, atol=2e-4 * ripple
    )
    shift = (data.X_test - data.X_train[:3]).numpy()
    np.testing.assert_allclose(shift, ripple, rtol=1e-2)  # the same offset for both parts


def test_an_offset_is_added_to_what_is_known():
    x = np.stack([1e9 + FLAT, FLAT], axis=1)
    known = sd.Physical(2.0, ("p", "q"), ("Pa", "K"), (7.0, 1.0), (4.0, 0.5))
    with pytest.warns(UserWarning, match="channel 0 lies at"):
        data = sd.Dataset.from_arrays(x, Y, physical=known)
    assert torch.equal(data.X_train[:, 1], torch.tensor(FLAT, dtype=torch.float32))
    expected = x * np.array([[4.0], [0.5]]) + np.array([[7.0], [1.0]])
    np.testing.assert_allclose(data.physical.restore(data.X_train), expected, rtol=0, atol=1e-5)
    assert (data.physical.channels, data.physical.sampling_rate) == (("p", "q"), 2.0)


def test_offsets_of_each_series_are_refused():
    x = FLAT + 1e9 * np.arange(4)[:, None]
    with (
        pytest.warns(UserWarning, match="offset"),
        pytest.raises(ValueError, match="each series' own mean"),
    ):
        sd.Dataset.from_arrays(x, Y)


def test_ordinary_offsets_stay():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (300 + FLAT, 1e6 + np.arange(36).reshape(4, 9), np.float32(1e9) + FLAT * 1e7):
            data = sd.Dataset.from_arrays(x, Y)
            assert np.array_equal(data.X_train[:, 0], x.astype(np.float32))
            assert data.physical is None


@given(st.floats(-12, 12), st.floats(-6, 6), st.booleans())
def test_levels_are_kept_or_refused(offset, ripple, negative):
    x = (-1 if negative else 1) * 10**offset + 10**ripple * FLAT
    if levels(x) < 9:
        return  # float64 lost them before
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = sd.Dataset.from_arrays(x, Y)
    except ValueError:
        return
    assert levels(data.X_train) == 9
    physical = data.physical or sd.Physical()
    np.testing.assert_allclose(physical.restore(data.X_train)[:, 0], x, atol=1e-3 * 10**ripple)


@pytest.mark.parametrize("scale", [1e-40, 1e-300, 1e32, 1e200])
def test_sizes_beyond_float32(scale):
    with pytest.raises(ValueError, match="too (small|large) for float32.*standardise=True"):
        sd.check_series(scale * FLAT)
    with pytest.raises(ValueError, match="too (small|large) for float32.*standardise=True"):
        sd.Dataset.from_arrays(scale * FLAT, Y)
    data = sd.Dataset.from_arrays(scale * FLAT, Y, scale * FLAT, Y, standardise=True)
    np.testing.assert_allclose(data.X_train.mean((0, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(data.X_train.std((0, 2), correction=0), 1, atol=1e-6)
    assert torch.equal(data.X_train, data.X_test)
    back = data.physical.restore(data.X_train)[:, 0].numpy()
    np.testing.assert_allclose(back / scale, FLAT, atol=1e-6)


def test_standardised_sets():
    x = DEEP * np.array([[1e-6], [1e6]]) + np.array([[3.0], [0.0]])
    data = sd.Dataset.from_arrays(x, Y, x[:2], Y[:2], axis="channels_first")
    again = data.standardised()
    direct = sd.Dataset.from_arrays(x, Y, x[:2], Y[:2], standardise=True)
    for one in (again, direct):
        np.testing.assert_allclose(one.X_train.std((0, 2), correction=0), 1, atol=1e-2)
        restored = one.physical.restore(one.X_test)
        np.testing.assert_allclose(restored[:, 0], x[:2, 0], rtol=0, atol=1e-8)
        np.testing.assert_allclose(restored[:, 1], x[:2, 1], rtol=1e-5, atol=0.5)
    flat = np.stack([FLAT, np.full_like(FLAT, 5.0)], axis=1)  # a dead channel
    still = sd.Dataset.from_arrays(flat, Y, standardise=True)
    assert torch.equal(still.X_train[:, 1], torch.zeros(4, 9))
    np.testing.assert_allclose(still.physical.restore(still.X_train), flat, atol=1e-6)


class Plain(nn.Module):
    "Two convolutions and no normalisation, as in a first tutorial."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        parts = [nn.Conv1d(1, 16, 7, padding=3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
        self.layers = nn.Sequential(*parts, nn.Linear(16, 2))

    def forward(self, x):
        return self.layers(x)


def waves():
    "Two frequencies, 40 series of 36 points."
    draw = np.random.default_rng(0)
    y = np.arange(40) % 2
    phase = np.linspace(0, 6, 36) * (1 + y[:, None]) + draw.uniform(0, 1, (40, 1))
    return np.sin(phase) + 0.1 * draw.normal(size=(40, 36)), y


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("make", [lambda: sd.ResNet.preset("paper", 1, 2, 0), Plain])
def test_a_scale_that_nobody_learns_on_is_warned_of_and_mended(make, scale):
    x, y = waves()

    def learn(data):
        model = make()
        how = {"epochs": 25, "lr": 5e-3, "batch_size": 8, "progress": False}
        sd.fit(model, data, **how)
        return sd.accuracy(model, data.X_train, data.y_train)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = learn(sd.Dataset.from_arrays(x, y))
        remedies = [
            sd.Dataset.from_arrays(scale * x, y).standardised(),
            sd.Dataset.from_arrays(scale * x, y, standardise=True),
        ]
        assert all(learn(data) >= expected - 0.05 for data in remedies)
    assert expected > 0.9
    with pytest.warns(UserWarning, match=r"standard deviation .*standardised\(\)") as said:
        sd.fit(make(), (scale * x, y), epochs=1, progress=False)
    assert [w.filename for w in said] == [__file__]


def test_no_heavy_package_is_imported_for_an_array():
    code = (
        "import sys, numpy as np, seqdream as sd; sd.check_series(np.eye(3)); "
        "sd.check_labels(['a', 'b']); "
        "print([m for m in ('pandas', 'polars', 'aeon', 'scipy') if m in sys.modules])"
    )
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, env={**os.environ}, capture_output=True, text=True).stdout == "[]\n"
