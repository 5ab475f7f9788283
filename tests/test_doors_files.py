"""Watches over the readers: files that others wrote come in right, or one sentence says why not.

Each format is written here by somebody else (numpy, pandas, scipy, the standard library, or by
hand) and its values are compared with what was written.
"""

import io
import json
import re
import subprocess
import sys
import time
import wave
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import seqdream as sd
from seqdream import formats, readers, texts
from seqdream.cli import main
from seqdream.readers import available_datasets, has_dataset, load_dataset
from seqdream.texts import Asked

rng = np.random.default_rng(0)
X = rng.normal(size=(8, 12)).round(3)
Y = ["no", "yes"] * 4
DIGITS = [1, 2] * 4
BUNDLED = readers._bundled()


def close(data, want, classes=None, **tolerance):
    got = data.X_train.numpy()
    want = np.asarray(want)
    want = want[:, None] if want.ndim == 2 else want
    np.testing.assert_allclose(got, want, **{"rtol": 1e-5, "atol": 1e-9} | tolerance)
    if classes is not None:
        assert data.classes == tuple(classes)


def put(root, text, ext=".tsv", name="Mine", encoding="utf-8", nested=True):
    "Both parts of a set."
    folder = root / name if nested else root
    folder.mkdir(exist_ok=True)
    for part in ("TRAIN", "TEST"):
        (folder / f"{name}_{part}{ext}").write_bytes(text.encode(encoding))


def archive(values=X, labels=DIGITS, between="\t", end="\n", form="{}"):
    rows = [between.join([str(c), *map(form.format, x)]) for c, x in zip(labels, values)]
    return end.join(rows) + end


def frame(values=X, labels=Y, label="fault"):
    table = pd.DataFrame(values, columns=[f"t{j}" for j in range(values.shape[1])])
    return table.assign(**{label: labels})


# --- the archive's text files ---------------------------------------------------------------------


@pytest.mark.parametrize("between", ["\t", ",", "  ", ", "], ids=["tab", "comma", "space", "both"])
@pytest.mark.parametrize("ext", [".tsv", ".txt", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_doors_archive_text(tmp_path, between, ext, end):
    put(tmp_path, archive(between=between, end=end), ext)
    close(load_dataset("Mine", tmp_path), X, "12")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_doors_byte_order_mark_is_no_label(tmp_path, encoding):
    put(tmp_path, archive(), encoding=encoding)
    close(load_dataset("Mine", tmp_path), X, "12")


def test_labels_with_exponents_are_plain(tmp_path):
    put(tmp_path, archive(labels=[f"{v:.7e}" for v in DIGITS], form="{:.7e}", between="  "), ".txt")
    close(load_dataset("Mine", tmp_path), X, "12")


def test_labels_stay_as_written(tmp_path):
    put(tmp_path, archive(labels=["01", "1", "A", "a"] * 2))
    assert load_dataset("Mine", tmp_path).classes == ("01", "1", "A", "a")


@pytest.mark.parametrize("tail", ["\t", "\t\t\t"])
@pytest.mark.parametrize("every", [1, 2])
def test_doors_trailing_separators_are_padding(tmp_path, tail, every):
    lines = archive().splitlines()
    text = "\n".join(line + tail * (i % every == 0) for i, line in enumerate(lines))
    put(tmp_path, text)
    close(load_dataset("Mine", tmp_path), X)


@pytest.mark.parametrize("missing", ["", "NaN", "?", "nan"])
def test_doors_missing_tails_are_padding(tmp_path, missing):
    ragged = X.astype(object)
    for i in range(8):
        ragged[i, 12 - i :] = missing
    put(tmp_path, archive(ragged))
    with pytest.raises(
        ValueError, match=r"from 5 to 12 points.*missing values at their ends.*leng"
    ):
        load_dataset("Mine", tmp_path)
    data = load_dataset("Mine", tmp_path, length=9)
    for i in range(8):
        want = np.interp(np.linspace(0, 11 - i, 9), np.arange(12 - i), X[i, : 12 - i])
        np.testing.assert_allclose(data.X_train[i, 0], want, rtol=1e-5)


def test_doors_missing_inside_is_named(tmp_path):
    holed = X.astype(object)
    holed[3, 5] = "?"
    put(tmp_path, archive(holed))
    with pytest.raises(ValueError, match="train: series 3: missing values inside.*channel 0, poin"):
        load_dataset("Mine", tmp_path)


def test_doors_decimal_comma_in_an_archive_file(tmp_path):
    put(tmp_path, archive().replace(".", ","))
    close(load_dataset("Mine", tmp_path), X)


# --- where a set lies -----------------------------------------------------------------------------


def test_doors_flat_nested_and_own_folder(tmp_path):
    put(tmp_path, archive())
    put(tmp_path, archive(X + 1), name="Flat", nested=False)
    (tmp_path / "Univariate_ts" / "more").mkdir(parents=True)
    put(tmp_path / "Univariate_ts", archive(X + 2), name="Deep")
    close(load_dataset("Mine", tmp_path), X)
    close(load_dataset("Mine", tmp_path / "Mine"), X)
    close(load_dataset("Flat", tmp_path), X + 1)
    close(load_dataset("Deep", tmp_path), X + 2)
    close(load_dataset(tmp_path / "Mine"), X)
    close(load_dataset(str(tmp_path / "Mine" / "Mine_TRAIN.tsv")), X)
    listed = available_datasets(tmp_path)
    assert set(listed) == {"Mine", "Flat", "Deep"}  # what lies here, and not what aeon brings along


def test_doors_a_set_with_dots_spaces_and_umlauts(tmp_path):
    for name in ("my.set.v2", "mein Gerät 2", "日本"):
        put(tmp_path, archive(), name=name)
        data = load_dataset(name, tmp_path)
        close(data, X)
        assert data.name == name


def test_doors_found_but_unreadable_names_the_files(tmp_path):
    (tmp_path / "Mine").mkdir()
    (tmp_path / "Mine" / "Mine_TRAIN.dat").write_text("1 2 3")
    with pytest.raises(FileNotFoundError, match=r"no Mine_TRAIN with Mine_TEST.*Mine_TRAIN\.dat"):
        load_dataset("Mine", tmp_path)


def test_doors_listed_loads():
    for name in available_datasets(BUNDLED):
        try:
            data = load_dataset(name, BUNDLED)
        except ValueError as e:
            assert "length=" in str(e), name
            data = load_dataset(name, BUNDLED, length=20)
        assert data.n_classes > 1
    assert not has_dataset("UnitTestTimeStamps")  # its test part is not there
    assert not has_dataset("Covid3Month")  # a regression


def test_doors_an_empty_or_unlabelled_set_is_not_listed(tmp_path):
    put(tmp_path, "", name="Empty")
    put(tmp_path, frame().to_csv(index=False), ".csv", name="Table")
    assert not {"Empty", "Table"} & set(available_datasets(tmp_path))


def test_doors_unknown_name_answers_at_once_without_a_network(monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("a typing error must not start a download")

    monkeypatch.setattr(readers, "_from_aeon", no_network)
    began = time.perf_counter()
    with pytest.raises(FileNotFoundError, match="did you mean GunPoint"):
        load_dataset("GunPiont")
    with pytest.raises(FileNotFoundError, match="did you mean CBF.*not here; aeon downloads"):
        load_dataset("CBFF")
    assert time.perf_counter() - began < 30
    with pytest.raises(AssertionError):
        load_dataset("Handwriting")  # this one is in the archive


def test_doors_a_name_that_loads_is_named_before_those_that_do_not():
    "Skoda and FordB, in the archive only, are farther from what was typed than FordA, at hand."
    archives = readers._archive_names()
    assert {"Skoda", "FordB"} <= archives
    said = readers._hint("FodrA", ["FordA", "GunPoint"], archives)
    assert said == "did you mean FordA?"
    assert "GunPoint" in readers._hint("GunPiont", ["FordA", "GunPoint"], archives)
    said = readers._hint("FodrA", ["GunPoint"], archives)
    assert said.startswith("did you mean FordA or ")
    assert said.endswith("(FordA, Skoda, FordB: not here; aeon downloads from the archive)")
    said = readers._hint("FordD", ["Fungi", "FordABC"], ["FordA", "FordB"])
    assert re.match(r"did you mean Ford[AB] or Ford[AB] or FordABC\? \(Ford", said)
    assert "FordABC:" not in said


def test_doors_a_name_longer_than_any_files(tmp_path):
    long = "x" * 300
    for name in (long, f"{long}.csv", tmp_path / long, f"{tmp_path}/{long}/a.csv", "é" * 200):
        with pytest.raises(FileNotFoundError, match="no file's name") as caught:
            load_dataset(name)
        assert len(str(caught.value)) < 200
    for more in ({"root": long}, {"root": str(tmp_path), "test": long}):
        with pytest.raises(FileNotFoundError, match=f"{next(reversed(more))}.*no file's name"):
            load_dataset("Mine", **more)
    assert not has_dataset(long)


WRONG_OPTIONS = [
    *({"encoding": v} for v in (0, False, 1.5, b"utf-8", ["utf-8"], {}, "", "nonsense", "base64")),
    *({"decimal": v} for v in (0, False, "", b",", [","], ";")),
    *({"axis": v} for v in (0, None, "", b"auto", ["auto"])),
    *({"label": v} for v in (1.5, True, b"fault", ["fault"], {}, ())),
    *({"index": v} for v in (1.5, True, b"t0", [1.5], [True], {}, [], {"t0"})),
    *({"series": v} for v in (1.5, False, ["t0"])),
    *({"time": v} for v in (1.5, False, ["t0"])),
    *({"sampling_rate": v} for v in ("50", True, 0, -1.0, [50], float("nan"))),
    *({"length": v} for v in ("50", True, 0, 1.5, [50])),
    *({"root": v} for v in (0, False, "", b"x", ["x"])),
    *({"test": v} for v in (0, False, "", b"x", ["x"])),
]


@pytest.mark.parametrize("more", WRONG_OPTIONS, ids=str)
def test_doors_options_of_the_wrong_kind(tmp_path, more):
    path = tmp_path / "own.csv"
    frame().to_csv(path, index=False)
    (name,) = more
    with pytest.raises((ValueError, TypeError), match=name) as caught:
        load_dataset(path, **{"label": "fault"} | more)
    own = Path(sd.__file__).parent
    assert own in Path(caught.traceback[-1].path).parents


def test_doors_unknown_name_of_the_shell_within_a_second():
    code = "import seqdream as sd, time\nsd.load_dataset\nb = time.process_time()\n"
    code += "try: sd.load_dataset('GunPiont')\n"
    code += "except FileNotFoundError as e: print(time.process_time() - b, e)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "did you mean GunPoint" in said
    assert float(said.split()[0]) < 3  # aeon alone takes seconds to import


# --- .ts ------------------------------------------------------------------------------------------

TS = "@problemName Mine\n@timeStamps {}\n@missing false\n@univariate true\n@equalLength true\n"
TS += "@classLabel true 1 2\n@data\n"


def ts(values=X, labels=DIGITS, stamp=None):
    "A .ts file; `stamp`: point -> its stamp."
    lines = []
    for x, c in zip(values, labels):
        points = [v if stamp is None else f"({stamp(i)},{v})" for i, v in enumerate(x)]
        lines.append(",".join(map(str, points)) + f":{c}")
    return TS.format(str(stamp is not None).lower()) + "\n".join(lines) + "\n"


STAMPS = {  # what -> (stamp of point i, points per second)
    "minutes": (lambda i: f"2020-01-01 00:{i:02d}:00", 1 / 60),
    "fractions": (lambda i: f"2020-01-01 00:00:00.{i * 4:03d}", 250),
    "fraction of micro": (lambda i: f"2020-01-01 00:00:00.{i * 125:06d}", 8000),
    "iso": (lambda i: f"2020-01-01T00:00:{i * 2:02d}+01:00", 0.5),
    "slashes": (lambda i: f"2020/01/01 00:00:{i:02d}", 1),
    "over midnight": (
        lambda i: f"{pd.Timestamp('2019-12-31 23:55') + i * pd.Timedelta('1min')}",
        1 / 60,
    ),
    "numbers": (lambda i: i, 1),
    "seconds": (lambda i: f"{i * 0.01:.2f}", 100),
    "exponents": (lambda i: f"{i * 1e-5:.1e}", 1e5),
    "negative": (lambda i: i - 6, 1),
    "rounded": (lambda i: f"{i / 30:.3f}", 30),
    "epoch": (lambda i: 1_700_000_000 + i * 0.5, 2),
}


@pytest.mark.parametrize("what", STAMPS)
def test_doors_time_stamps(tmp_path, what):
    stamp, rate = STAMPS[what]
    put(tmp_path, ts(X * 1e-5, stamp=stamp), ".ts")
    data = load_dataset("Mine", tmp_path)
    close(data, X * 1e-5, "12")
    assert data.physical.sampling_rate == pytest.approx(rate, rel=1e-3)
    shorter = load_dataset("Mine", tmp_path, length=23).physical.sampling_rate
    assert shorter == pytest.approx(rate * 2, rel=1e-3)


def test_doors_stamps_in_milliseconds_since_1970_give_no_rate(tmp_path):
    put(tmp_path, ts(stamp=lambda i: 1_700_000_000_000 + i * 20), ".ts")
    data = load_dataset("Mine", tmp_path)
    close(data, X)
    assert data.physical is None
    assert "unknown unit" in data.source


def test_doors_irregular_stamps_are_refused_or_resampled(tmp_path):
    t = np.cumsum([0, *rng.integers(1, 60, 11)])
    put(tmp_path, ts(stamp=lambda i: t[i]), ".ts")
    with pytest.raises(ValueError, match="series 0 has irregular time stamps.*length="):
        load_dataset("Mine", tmp_path)
    data = load_dataset("Mine", tmp_path, length=40)
    want = [np.interp(np.linspace(t[0], t[-1], 40), t, x) for x in X]
    close(data, want)
    assert data.physical.sampling_rate == pytest.approx(39 / t[-1])


@pytest.mark.parametrize("t", [[0, 1, 1, 2], [0, 2, 1, 3]], ids=["double", "backwards"])
def test_doors_stamps_must_grow(tmp_path, t):
    put(tmp_path, ts(X[:, :4], stamp=lambda i: t[i]), ".ts")
    for length in (None, 4):
        with pytest.raises(ValueError, match="series 0: its time stamps do not grow at point 2"):
            load_dataset("Mine", tmp_path, length)


def test_doors_stamps_where_the_clocks_change(tmp_path):
    for day in ("2020-03-29", "2020-10-25"):
        times = pd.date_range(f"{day} 00:00", periods=12, freq="20min", tz="Europe/Berlin")
        assert len({t.utcoffset() for t in times}) == 2
        put(tmp_path, ts(stamp=lambda i, times=times: times[i].isoformat()), ".ts")
        data = load_dataset("Mine", tmp_path)
        close(data, X)
        assert data.physical.sampling_rate == pytest.approx(1 / 1200)


@pytest.mark.parametrize("stamped_first", [True, False])
def test_doors_stamps_for_all_series_or_for_none(tmp_path, stamped_first):
    parts = [ts(X[:4], DIGITS[:4], stamp=lambda i: i), ts(X[4:], DIGITS[4:])]
    first, second = parts if stamped_first else parts[::-1]
    put(tmp_path, first + second.partition("@data\n")[2], ".ts")
    line = 12 if stamped_first else 8
    with pytest.raises(ValueError, match=f"Mine_TRAIN.ts: line {line} has no time stamps"):
        load_dataset("Mine", tmp_path)


def test_doors_series_of_different_rates(tmp_path):
    fast, slow = ts(X[:4], DIGITS[:4], lambda i: i), ts(X[4:], DIGITS[4:], lambda i: 3 * i)
    put(tmp_path, fast + slow.partition("@data\n")[2], ".ts")
    with pytest.raises(ValueError, match="different sampling rates, from 0.333333 to 1"):
        load_dataset("Mine", tmp_path)
    assert load_dataset("Mine", tmp_path, length=12).physical is None


def test_doors_ts_padding(tmp_path):
    padded = X.astype(object)
    padded[:, 9:] = "?"
    put(tmp_path, ts(padded), ".ts")
    close(load_dataset("Mine", tmp_path), X[:, :9])
    padded[2, 5:] = "?"
    put(tmp_path, ts(padded), ".ts")
    with pytest.raises(ValueError, match="unequal lengths, from 5 to 9 points.*length=") as e:
        load_dataset("Mine", tmp_path)
    assert "inside" not in str(e.value)


def test_doors_ts_channel_that_ends_before_the_others(tmp_path):
    text = TS.format("false") + "1,2,3:4,5,?:1\n1,2,4:4,5,6:2\n"
    put(tmp_path, text, ".ts")
    with pytest.raises(ValueError, match="series 0: channel 1 ends at point 2, others go on to 3"):
        load_dataset("Mine", tmp_path)


FAULTS = {  # a line behind @data -> what is said of it
    "1,2,3": "line 10.*has no label",
    "1,2,3:": "line 10 has no label",
    "1,2,3:7": "line 10: label '7' is not among those declared: 1, 2",
    "1,x,3:1": "line 10 holds something that is no number: 'x'",
    "1,2:3,4:1": "line 10 has 2 channels where the first series has 1",
    "(0,1),(b,2):1": "line 10: time stamp 'b' is neither",
    "(0,1),(1):1": "line 10.*no list of points",
    "(0,1),2:1": "line 10.*no list of points",
    "(31.12.2020 12:00,1),(31.12.2020 13:00,2):1": "line 10: time stamp .31.*2020-01-31",
    "?,?,?:1": "line 10 has no values",
}


@pytest.mark.parametrize("line", FAULTS)
def test_doors_damaged_ts(tmp_path, line):
    put(tmp_path, TS.format("false") + "1,2,3:1\n3,2,2:2\n" + line + "\n", ".ts")
    with pytest.raises(ValueError, match="Mine_TRAIN.ts: " + FAULTS[line]):
        load_dataset("Mine", tmp_path)


@pytest.mark.parametrize(
    "name", ["GunPoint", "BasicMotions", "JapaneseVowels", "PickupGestureWiimoteZ", "ACSF1"]
)
def test_doors_ts_as_aeon_reads_it(name):
    from aeon.datasets import load_from_ts_file

    path = next(BUNDLED.glob(f"*/{name}_TRAIN.ts"))
    want, labels = load_from_ts_file(str(path))
    part = formats.read_ts(path, Asked())
    assert len(part.rows) == len(want)
    for row, theirs in zip(part.rows, want):
        np.testing.assert_allclose(row, theirs, rtol=1e-12)
    assert [v.lower() for v in part.labels] == list(labels)  # aeon writes all labels small


# --- .arff ----------------------------------------------------------------------------------------


def test_doors_arff_as_scipy_reads_it(tmp_path):
    from scipy.io import arff

    head = "% made by hand\n@relation 'my set'\n"
    head += "".join(f"@attribute att{j} numeric\n" for j in range(12))
    head += "@attribute target {run, walk}\n\n@data\n"
    lines = [",".join(map(str, x)) + f",{c}" for x, c in zip(X, ["run", "walk"] * 4)]
    put(tmp_path, head + "\n".join(lines) + "\n", ".arff")
    data = load_dataset("Mine", tmp_path)
    theirs = arff.loadarff(tmp_path / "Mine" / "Mine_TRAIN.arff")[0]
    want = np.array([[row[f"att{j}"] for j in range(12)] for row in theirs])
    close(data, want, ("run", "walk"))
    assert data.y_train.tolist() == [row["target"] == b"walk" for row in theirs]


@pytest.mark.parametrize("name", ["GunPoint", "ArrowHead", "BasicMotions"])
def test_doors_arff_is_its_ts(name):
    folder = BUNDLED / name
    a = formats.read_arff(folder / f"{name}_TRAIN.arff", Asked())
    b = formats.read_ts(folder / f"{name}_TRAIN.ts", Asked())
    np.testing.assert_allclose(np.stack(a.rows), np.stack(b.rows), rtol=1e-3, atol=1e-5)
    assert [v.lower() for v in a.labels] == [v.lower() for v in b.labels]


def test_doors_arff_faults(tmp_path):
    path = tmp_path / "x.arff"
    head = "@relation x\n@attribute a numeric\n@attribute b numeric\n@attribute c {u,v}\n"
    for body, message in {
        "@data\n1,2\n": "line 6 has 2 fields where 3",
        "@data\n{0 1, 2 u}\n": "sparse",
        "@data\n1,2,?\n": "line 6 has no label",
        "@data\n1,2,w\n": "line 6: label 'w' is not among those declared: u, v",
        "@data\n1,w,u\n": "line 6 holds something that is no number: 'w'",
        "": "no line says @data",
        "@data\n": "no series",
    }.items():
        path.write_text(head + body)
        with pytest.raises(ValueError, match=message):
            load_dataset(path)


# --- tables ---------------------------------------------------------------------------------------


def test_doors_csv_of_pandas(tmp_path):
    path = tmp_path / "own.csv"
    frame().to_csv(path, index=False)
    data = load_dataset(path, label="fault")
    close(data, X, ("no", "yes"))
    assert (data.name, len(data.X_test), data.y_train.tolist()) == ("own", 0, [0, 1] * 4)
    assert "no test part" in str(data)
    for label in (-1, 12, "-1", "12", np.int64(-1), np.str_("fault")):
        close(load_dataset(str(path), label=label), X, ("no", "yes"))


def test_doors_csv_asks_for_the_label(tmp_path):
    path = tmp_path / "own.csv"
    frame().to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"own\.csv: which column.*label=.*13 columns.*'fault'"):
        load_dataset(path)
    with pytest.raises(ValueError, match="label='falt': no such column; did you mean 'fault'"):
        load_dataset(path, label="falt")
    with pytest.raises(ValueError, match="label=99: no such column"):
        load_dataset(path, label=99)
    for said in ({"label": True}, {"label": ["fault"]}, {"label": "fault", "index": [0, True]}):
        with pytest.raises(ValueError, match="give a column by its name or its position"):
            load_dataset(path, **said)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("named", [None, "sample"])
def test_doors_csv_index_column(tmp_path, first, named):
    path = tmp_path / "own.csv"
    table = frame()
    table.index = pd.RangeIndex(first, first + len(table), name=named)
    table.to_csv(path)
    with pytest.warns(UserWarning, match="left out as an index.*index=False"):
        close(load_dataset(path, label="fault"), X)
    close(load_dataset(path, label="fault", index=0), X)
    kept = load_dataset(path, label="fault", index=False)
    close(kept, np.column_stack([np.arange(first, first + 8), X]))


def test_doors_csv_other_columns_are_named_not_guessed(tmp_path):
    path = tmp_path / "own.csv"
    frame().assign(subject="anna").to_csv(path, index=False)
    with pytest.raises(ValueError, match="line 2, column 'subject' holds 'anna'.*index='subject'"):
        load_dataset(path, label="fault")
    close(load_dataset(path, label="fault", index=["subject"]), X)


def test_doors_csv_without_heading(tmp_path):
    path = tmp_path / "own.csv"
    table = frame()
    table[["fault", *table.columns[:-1]]].to_csv(path, index=False, header=False)
    close(load_dataset(path, label=0), X, ("no", "yes"))
    table.to_csv(path, index=False, header=False)
    close(load_dataset(path, label=-1), X, ("no", "yes"))
    pd.DataFrame(np.column_stack([X, DIGITS])).to_csv(path, index=False, header=False)
    close(load_dataset(path, label=-1), X, "12")
    pd.DataFrame(np.column_stack([X, DIGITS])).to_csv(path, index=False)  # heading 0, 1, 2, ...
    close(load_dataset(path, label=-1), X, "12")
    pd.DataFrame(np.column_stack([X, DIGITS])).to_csv(path)  # and an index above it
    with pytest.warns(UserWarning, match="it has no name"):
        close(load_dataset(path, label=-1), X, "12")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_doors_csv_that_a_spreadsheet_wrote(tmp_path, encoding):
    path = tmp_path / "Meine Daten.v2 – Kopie.csv"
    text = frame(labels=["kühl", "heiß"] * 4).to_csv(
        index=False, sep=";", decimal=",", lineterminator=";\r\n"
    )
    path.write_bytes(text.encode(encoding))
    data = load_dataset(path, label="fault")
    close(data, X, ("heiß", "kühl"))
    assert data.name == "Meine Daten.v2 – Kopie"
    assert "decimal comma" in data.source


def test_doors_csv_of_a_windows_code_page_is_named(tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(frame(labels=["kühl", "heiß"] * 4).to_csv(index=False).encode("cp1252"))
    with pytest.raises(ValueError, match='line 2 is not utf-8.*encoding="cp1252"'):
        load_dataset(path, label="fault")
    close(load_dataset(path, label="fault", encoding="cp1252"), X, ("heiß", "kühl"))


def test_doors_csv_thousands_and_decimals(tmp_path):
    path = tmp_path / "own.csv"
    big = (X * 5000).round(2)
    english = frame(np.vectorize("{:,.2f}".format)(big))
    english.to_csv(path, index=False, quoting=1)
    close(load_dataset(path, label="fault"), big)
    german = english.map(lambda v: v.translate(str.maketrans(",.", ".,")))
    german.to_csv(path, index=False, sep=";")
    close(load_dataset(path, label="fault"), big)
    whole = rng.integers(1000, 9999, (8, 12))
    frame(np.vectorize("{:,d}".format)(whole)).to_csv(path, index=False, sep=";")
    with pytest.raises(ValueError, match="may be .* say which"):
        load_dataset(path, label="fault")
    close(load_dataset(path, label="fault", decimal="."), whole)
    close(load_dataset(path, label="fault", decimal=","), whole / 1000)


def test_doors_points_between_thousands_where_commas_are_decimal():
    read = texts.as_numbers(["1.234", "0,5", "-12.345.678,25"], ",")
    assert read.tolist() == [1234, 0.5, -12345678.25]
    with pytest.raises(texts.NoNumber, match="2.5"):
        texts.as_numbers(["1,5", "2.5"], ",")
    for fields, mark in ((["0,5", "0.125"], ","), (["0.5", "0,125"], ".")):  # no thousands
        with pytest.raises(texts.NoNumber, match="0.125"):
            texts.as_numbers(fields, mark)


def test_doors_csv_quotes_and_padding(tmp_path):
    path = tmp_path / "own.csv"
    table = frame(labels=['say "no", twice', "yes, once"] * 4)
    table.iloc[1, 9:12] = np.nan
    table.to_csv(path, index=False, quoting=1)
    with pytest.raises(ValueError, match="unequal lengths, from 9 to 12 points"):
        load_dataset(path, label="fault")
    data = load_dataset(path, label="fault", length=12)
    assert data.classes == ('say "no", twice', "yes, once")
    np.testing.assert_allclose(data.X_train[0, 0], X[0], rtol=1e-5)


def test_doors_csv_with_the_first_line_that_excel_reads(tmp_path):
    path = tmp_path / "OWN.CSV"
    path.write_text("sep=;\n" + frame().to_csv(index=False, sep=";"))
    close(load_dataset(path, label="fault"), X, ("no", "yes"))


def test_doors_csv_whose_heading_is_numbers(tmp_path):
    path = tmp_path / "spectra.csv"
    table = frame().iloc[:, [12, *range(12)]]
    table.columns = ["kind", *range(400, 424, 2)]
    table.to_csv(path, index=False)
    close(load_dataset(path, label=0), X, ("no", "yes"))


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_labels_that_are_measured_are_a_regression(tmp_path, suffix):
    path = tmp_path / f"own{suffix}"
    frame(labels=rng.normal(size=8)).to_csv(
        path, index=False, sep="," if suffix == ".csv" else "\t"
    )
    with pytest.raises(ValueError, match="regression"):
        load_dataset(path, label="fault")


def test_doors_sampling_rate_of_a_table(tmp_path):
    path = tmp_path / "own.csv"
    frame().to_csv(path, index=False)
    data = load_dataset(path, label="fault", sampling_rate=100)
    assert data.physical.sampling_rate == 100
    data = load_dataset(path, label="fault", sampling_rate=100, length=23)
    assert data.physical.sampling_rate == pytest.approx(200)
    put(tmp_path, ts(stamp=lambda i: i), ".ts")
    with pytest.raises(ValueError, match="leave sampling_rate= out"):
        load_dataset("Mine", tmp_path, sampling_rate=5)


def test_doors_a_second_file_to_test_on(tmp_path):
    frame().to_csv(tmp_path / "a.csv", index=False)
    frame(X + 1).to_csv(tmp_path / "b.csv", index=False)
    data = load_dataset(tmp_path / "a.csv", label="fault", test=tmp_path / "b.csv")
    close(data, X)
    np.testing.assert_allclose(data.X_test[:, 0], X + 1, rtol=1e-5)
    put(tmp_path, frame().to_csv(index=False), ".csv")
    data = load_dataset("Mine", tmp_path, label="fault")
    assert data.X_test.shape == (8, 1, 12)


@pytest.mark.parametrize("suffix", [".tsv", ".txt"])
def test_doors_a_text_table_is_asked_about_whatever_else_is_said(tmp_path, suffix):
    path = tmp_path / f"own{suffix}"
    path.write_text(archive(np.column_stack([X, DIGITS]), labels=range(8)))
    for said in ({}, {"encoding": "utf-8"}, {"test": path}):
        with pytest.raises(ValueError, match=r"which column holds the class.*label=0 for a file"):
            load_dataset(path, **said)
    data = load_dataset(path, label=-1, index=0, test=path)
    close(data, X, "12")


def test_doors_a_test_part_in_another_order(tmp_path):
    path, other = tmp_path / "a.csv", tmp_path / "b.csv"
    columns = frame().columns.tolist()
    frame().to_csv(path, index=False)
    frame()[columns[::-1]].to_csv(other, index=False)
    with pytest.raises(ValueError, match="'t11', 't10', .* in the test part; put them in one ord"):
        load_dataset(path, label="fault", test=other)
    table = long_frame()
    table.to_csv(path, index=False)
    table[["load [kN]", "fault", "time", "speed [m/s]", "series"]].to_csv(other, index=False)
    data = load_dataset(path, label="fault", test=other)
    close(data, np.stack([X, -3 * X], 1))
    np.testing.assert_array_equal(data.X_test, data.X_train)
    table.rename(columns={"load [kN]": "torque"}).to_csv(other, index=False)
    with pytest.raises(ValueError, match="'speed', 'load' in the training.*'speed', 'torque' in"):
        load_dataset(path, label="fault", test=other)


HOSTILE = {  # text -> what is said of it; the label is column "y"
    "": "the file is empty",
    "\n \n": "the file is empty",
    "y,a,b\n": "a heading and no rows|no such column",
    "just words\nin a file\n": "line 2 has 3 fields apart by spaces where 2",
    "y\n1\n2\n": "one field",
    "y,a,b\nt,mV,mV\nu,1,2\nv,3,4\n": "line 2, column 'a' holds 'mV'.*second heading",
    "y,a,b\nu,1,2\nv,3\n": "line 3 has 2 fields.*where 3",
    "y,a,b\nu,1,2\nv,3,4,5\n": "line 3 has 4 fields.*where 3",
    "y,a,b\nu,1,2\n,3,4\n": "line 3 has no label",
    "y,a,b\nu,1,2\nNA,3,4\n": "line 3 has no label",
    "y,a,y\nu,1,2\nv,3,4\n": "2 columns are called 'y'",
    "y,a,b\nu,1,2\nv,3,x\n": "line 3, column 'b' holds 'x'",
    "y,a,b\nu,1,2\nv,3,1_0\n": "column 'b' holds '1_0'",
    "y,a,b\nu,1,2\nv,3,inf\n": "not finite",
    'y,a,b\nu,1,2\nv,3,"4\n': "line 3.*quote",
    "y,a,b\nu,1,2\nv,,\n": "line 3 has no values",
    "y:a:b\nu:1:2\n": "one field",
    "u,1,2\nv,x,4\n": "no such column",
    "y,a,b\nu,1,2\nu,3,4\n": "one class only",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_doors_hostile_tables(tmp_path, text):
    path = tmp_path / "own.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=HOSTILE[text]) as e:
        load_dataset(path, label="y")
    assert "own" in str(e.value)


SUFFIXES = [".csv", ".tsv", ".txt", ".ts", ".arff", ".npy", ".npz", ".mat"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("what", ["empty", "noise", "zeros", "png", "zip"])
def test_doors_binary_garbage(tmp_path, suffix, what):
    path = tmp_path / f"own{suffix}"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as z:
        z.writestr("readme", "nothing")
    path.write_bytes(
        {
            "empty": b"",
            "noise": rng.bytes(3000),
            "zeros": bytes(3000),
            "png": b"\x89PNG\r\n\x1a\n" + rng.bytes(100),
            "zip": packed.getvalue(),
        }[what]
    )
    np.save(tmp_path / "yown.npy", np.arange(3))
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(f"own{suffix}")):
        load_dataset(path, label="yown.npy" if suffix == ".npy" else None)


def test_doors_truncated_files(tmp_path):
    np.savez(tmp_path / "a.npz", X=X, y=DIGITS)
    whole = (tmp_path / "a.npz").read_bytes()
    for n in (10, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.npz").write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"cut\.npz: damaged or no \.npz file"):
            load_dataset(tmp_path / "cut.npz")


def test_doors_paths_that_are_not_there(tmp_path):
    frame().to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(FileNotFoundError, match=r"did you mean own\.csv"):
        load_dataset(tmp_path / "onw.csv", label="fault")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_dataset(tmp_path / "no" / "own.csv")
    with pytest.raises(FileNotFoundError, match=r"no such file"):
        load_dataset(tmp_path / "own.csv", label="fault", test=tmp_path / "b.csv")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(FileNotFoundError, match=r"dir\.csv.*holds nothing"):
        load_dataset(tmp_path / "dir.csv", label="fault")
    (tmp_path / "x.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"\.xlsx files are not read.*\.csv"):
        load_dataset(tmp_path / "x.xlsx")


def test_doors_many_columns(tmp_path):
    wide = rng.normal(size=(4, 100_000)).round(3)
    path = tmp_path / "wide.csv"
    lines = [",".join([*map(str, x), c]) for x, c in zip(wide, Y)]
    path.write_text(",".join(f"t{i}" for i in range(100_000)) + ",fault\n" + "\n".join(lines))
    began = time.process_time()
    close(load_dataset(path, label="fault"), wide)
    assert time.process_time() - began < 60
    with pytest.raises(ValueError, match="100001 columns") as e:
        load_dataset(path)
    assert len(str(e.value)) < 500


def test_doors_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "own.parquet"
    frame().to_parquet(path)
    close(load_dataset(path, label="fault"), X, ("no", "yes"))
    holed = frame()
    holed.iloc[2, 10:12] = None
    for table in (holed, holed.convert_dtypes()):  # NaN; pd.NA
        table.to_parquet(path)
        with pytest.raises(ValueError, match="unequal lengths, from 10 to 12"):
            load_dataset(path, label="fault")
    nested = pd.DataFrame({"ecg": list(X), "breath": list(X * 2), "fault": Y})
    nested.to_parquet(path)
    data = load_dataset(path, label="fault")
    close(data, np.stack([X, X * 2], 1))
    assert data.physical.channels == ("ecg", "breath")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"damaged or no \.parquet"):
        load_dataset(path, label="fault")


# --- the long format ------------------------------------------------------------------------------


def long_frame(step=0.02, shuffle=False, **names):
    rows = []
    for i in range(8):
        for j in range(12):
            rows.append((f"s{i}", j * step, X[i, j], -X[i, j] * 3, Y[i]))
    table = pd.DataFrame(rows, columns=["series", "time", "speed [m/s]", "load [kN]", "fault"])
    table = table.rename(columns=names)
    return table.sample(frac=1, random_state=0) if shuffle else table


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_doors_long_format(tmp_path, shuffle, suffix):
    path = tmp_path / f"long{suffix}"
    table = long_frame(shuffle=shuffle)
    if suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    data = load_dataset(path, label="fault")
    order = list(dict.fromkeys(table["series"]))
    want = np.stack([X, -3 * X], 1)[[int(name[1:]) for name in order]]
    close(data, want, ("no", "yes"))
    assert data.physical.sampling_rate == pytest.approx(50)
    assert data.physical.channels == ("speed", "load")
    assert data.physical.units == ("m/s", "kN")


def test_doors_long_format_with_other_names_and_dates(tmp_path):
    path = tmp_path / "long.csv"
    table = long_frame(series="machine", time="when")
    table["when"] = pd.Timestamp("2024-02-28 23:59:59") + pd.to_timedelta(table["when"], unit="s")
    table.to_csv(path)  # with pandas' index before it
    data = load_dataset(path, label="fault", series="machine", time="when")
    close(data, np.stack([X, -3 * X], 1))
    assert data.physical.sampling_rate == pytest.approx(50)


def test_doors_long_format_that_a_spreadsheet_wrote(tmp_path):
    path = tmp_path / "long.csv"
    long_frame().to_csv(path, index=False, sep=";", decimal=",")
    data = load_dataset(path, label="fault")
    close(data, np.stack([X, -3 * X], 1))
    assert data.physical.sampling_rate == pytest.approx(50)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_doors_long_format_with_points_of_no_series(tmp_path, suffix):
    path = tmp_path / f"long{suffix}"
    table = long_frame()
    table.loc[[30, 31], "series"] = None
    if suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    line = 32 if suffix == ".csv" else 31
    with pytest.raises(ValueError, match=f"line {line} does not say which series it belongs to"):
        load_dataset(path, label="fault")


def test_doors_long_format_with_a_series_of_one_point(tmp_path):
    path = tmp_path / "long.csv"
    long_frame().drop(index=range(1, 12)).to_csv(path, index=False)
    with pytest.raises(ValueError, match="series 0 has one point only; leave it out"):
        load_dataset(path, label="fault")


def test_doors_long_format_with_spans_of_time(tmp_path):
    pytest.importorskip("pyarrow")
    table = long_frame()
    table["time"] = pd.to_timedelta(table["time"], unit="s")
    table.to_parquet(tmp_path / "long.parquet")
    data = load_dataset(tmp_path / "long.parquet", label="fault")
    close(data, np.stack([X, -3 * X], 1))
    assert data.physical.sampling_rate == pytest.approx(50)


def test_doors_long_format_faults(tmp_path):
    path = tmp_path / "long.csv"
    table = long_frame()
    table.loc[5, "fault"] = "yes"
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match="line 7: series 's0' has label 'yes' here and 'no' befor"):
        load_dataset(path, label="fault")
    table = long_frame()
    table.loc[5, "time"] = table.loc[4, "time"]
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match="series 's0': its time stamps do not grow at point 5"):
        load_dataset(path, label="fault")
    table = long_frame()
    table.drop(index=5).to_csv(path, index=False)
    with pytest.raises(ValueError, match="series 0 has irregular time stamps"):
        load_dataset(path, label="fault")
    table.loc[30, "load [kN]"] = np.nan
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match="series 2: missing values inside.*channel 1, point 6"):
        load_dataset(path, label="fault")


def test_doors_long_format_of_one_value_and_a_channel_column(tmp_path):
    path = tmp_path / "long.csv"
    table = long_frame().melt(["series", "time", "fault"], var_name="channel")
    table.to_csv(path, index=False)
    data = load_dataset(path, label="fault")
    close(data, np.stack([X, -3 * X], 1))
    assert data.physical.channels == ("speed", "load")
    table.drop(columns="time").to_csv(path, index=False)  # then the order counts
    close(load_dataset(path, label="fault", series="series"), np.stack([X, -3 * X], 1))
    table.drop(index=3).to_csv(path, index=False)
    with pytest.raises(ValueError, match="missing values inside"):
        load_dataset(path, label="fault")


# --- arrays ---------------------------------------------------------------------------------------


def test_doors_npz(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, X=X, y=Y)
    close(load_dataset(path), X, ("no", "yes"))
    np.savez_compressed(path, X_train=X, y_train=DIGITS, X_test=X[:2] + 1, y_test=DIGITS[:2])
    data = load_dataset(path)
    close(data, X, "12")
    np.testing.assert_allclose(data.X_test[:, 0], X[:2] + 1, rtol=1e-5)
    np.savez(path, X=X, y=DIGITS, X_test=X[:2] + 1, y_test=DIGITS[:2])
    np.testing.assert_allclose(load_dataset(path).X_test[:, 0], X[:2] + 1, rtol=1e-5)
    for alone in ({"X_test": X}, {"y_test": DIGITS}):
        np.savez(path, X_train=X, y_train=DIGITS, **alone)
        with pytest.raises(ValueError, match="X_test and y_test belong together"):
            load_dataset(path)
    np.savez(path, signal=X, kind=Y)
    with pytest.raises(ValueError, match=r"signal \(8, 12\), kind \(8,\).*series= and label="):
        load_dataset(path)
    close(load_dataset(path, series="signal", label="kind"), X)
    np.savez(path, X=np.array([X[0], X[1, :3]], dtype=object), y=Y[:2])
    with pytest.raises(ValueError, match="any program.*padded with NaN"):
        load_dataset(path)
    np.savez(path, X=X.T, y=Y)
    with pytest.raises(ValueError, match="they stand in columns"):
        load_dataset(path)
    np.savez(path, X=X, y=Y[:5])
    with pytest.raises(ValueError, match="8 series but 5 labels"):
        load_dataset(path)


def test_doors_npz_padding_and_types(tmp_path):
    path = tmp_path / "own.npz"
    padded = X.copy()
    padded[3, 10:] = np.nan
    np.savez(path, X=padded, y=Y)
    with pytest.raises(ValueError, match="unequal lengths, from 10 to 12.*length="):
        load_dataset(path)
    for bad in (X + 1j, X.astype(str), X.astype("datetime64[s]"), np.ones((8, 2, 3, 4))):
        np.savez(path, X=bad, y=Y)
        with pytest.raises((TypeError, ValueError), match=r"own\.npz"):
            load_dataset(path)


def test_axis_of_arrays_is_asked_about(tmp_path):
    path = tmp_path / "own.npz"
    channels = np.stack([X, 2 * X], 1)
    np.savez(path, X=channels, y=Y)
    close(load_dataset(path), channels)
    np.savez(path, X=channels.transpose(0, 2, 1), y=Y)
    with pytest.raises(ValueError, match='12 channels of 2 points.*axis="channels_last"'):
        load_dataset(path)
    close(load_dataset(path, axis="channels_last"), channels)
    assert load_dataset(path, axis="channels_first").n_channels == 12


def test_doors_npy(tmp_path):
    np.save(tmp_path / "X_train.npy", X)
    with pytest.raises(FileNotFoundError, match="where are its labels"):
        load_dataset(tmp_path / "X_train.npy")
    np.save(tmp_path / "y_train.npy", DIGITS)
    data = load_dataset(tmp_path / "X_train.npy")
    close(data, X, "12")
    assert "labels from y_train.npy" in str(data)
    np.save(tmp_path / "signal.npy", X)
    close(load_dataset(tmp_path / "signal.npy", label="y_train.npy"), X, "12")
    close(load_dataset(tmp_path / "signal.npy", label=str(tmp_path / "y_train.npy")), X, "12")
    np.save(tmp_path / "X_train.npy", np.array([X[0], None], dtype=object))
    with pytest.raises(ValueError, match="unpickled"):
        load_dataset(tmp_path / "X_train.npy")


@pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
def test_doors_hdf5(tmp_path, suffix):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / f"own{suffix}"
    with h5py.File(path, "w") as f:
        f["X"] = X
        f["y"] = Y
    close(load_dataset(path), X, ("no", "yes"))
    with h5py.File(path, "w") as f:
        f["deep/signal"] = np.stack([X, X + 1], 1)
        f["deep/kind"] = np.array([b"no", b"yes"] * 4)
    with pytest.raises(ValueError, match=r"deep/kind \(8,\), deep/signal \(8, 2, 12\)"):
        load_dataset(path)
    data = load_dataset(path, series="deep/signal", label="deep/kind")
    close(data, np.stack([X, X + 1], 1), ("no", "yes"))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match="damaged or no .h"):
        load_dataset(path)


def test_doors_matlab(tmp_path):
    from scipy.io import savemat

    path = tmp_path / "own.mat"
    savemat(path, {"X": X, "y": np.array(DIGITS)[:, None]})
    close(load_dataset(path), X, "12")
    cells = np.empty((8, 1), object)
    for i in range(8):
        cells[i, 0] = X[i, : 12 - i]
    savemat(path, {"X": cells, "y": np.array(Y, dtype=object)[:, None]})
    with pytest.raises(ValueError, match="unequal lengths, from 5 to 12"):
        load_dataset(path)
    assert load_dataset(path, length=12).classes == ("no", "yes")
    savemat(path, {"X": X, "y": np.array(Y)})
    close(load_dataset(path), X, ("no", "yes"))


def test_doors_matlab_of_version_seven(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "own.mat"
    with h5py.File(path, "w", userblock_size=512) as f:
        f["X"] = np.stack([X, X + 1], 1).T  # Matlab's axes stand the other way round
        f["y"] = np.array(DIGITS)[None]
    raw = bytearray(path.read_bytes())
    raw[:24] = b"MATLAB 7.3 MAT-file, Pla"
    path.write_bytes(raw)
    close(load_dataset(path), np.stack([X, X + 1], 1), "12")


def test_doors_a_package_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(readers.importlib.util, "find_spec", lambda name: None)
    for suffix, package in {".parquet": "pyarrow", ".h5": "h5py"}.items():
        (tmp_path / f"own{suffix}").write_bytes(b"1")
        with pytest.raises(ImportError, match=f"pip install {package}"):
            load_dataset(tmp_path / f"own{suffix}", label="fault")


# --- sound ----------------------------------------------------------------------------------------


def record(path, samples, rate=8000):
    "Written by Python's own module, 16 bits; `samples`: (channels, n)."
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as f:
        f.setnchannels(len(samples))
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes(np.asarray(samples, dtype="<i2").T.tobytes())


def test_doors_sound(tmp_path):
    loud = rng.integers(-32768, 32767, (6, 2, 40))
    for i in range(6):
        record(tmp_path / ("dog", "cat")[i % 2] / f"{i}.wav", loud[i])
    data = load_dataset(tmp_path)
    want = np.concatenate([loud[1::2], loud[0::2]]) / 32768
    close(data, want, ("cat", "dog"))
    assert data.physical.sampling_rate == 8000
    record(tmp_path / "dog" / "9.wav", loud[0][:, :30])
    with pytest.raises(ValueError, match="unequal lengths, from 30 to 40"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, length=40).physical is None  # their durations differ
    record(tmp_path / "dog" / "9.wav", loud[0][:1])
    with pytest.raises(ValueError, match=r"9\.wav has 1 channels where"):
        load_dataset(tmp_path)
    record(tmp_path / "dog" / "9.wav", loud[0], 16000)
    with pytest.raises(ValueError, match=r"9\.wav: 16000 samples per second where"):
        load_dataset(tmp_path)
    (tmp_path / "dog" / "9.wav").write_bytes(b"RIFFnonsense")
    with pytest.raises(ValueError, match=r"9\.wav: damaged or no \.wav"):
        load_dataset(tmp_path)
    with pytest.raises(ValueError, match="give the folder"):
        load_dataset(tmp_path / "dog" / "0.wav")


def test_doors_sound_in_two_parts(tmp_path):
    for part in ("train", "test"):
        for kind in ("a", "b"):
            record(tmp_path / part / kind / "1.wav", rng.integers(-99, 99, (1, 20)))
    data = load_dataset(tmp_path)
    assert (len(data.X_train), len(data.X_test), data.classes) == (2, 2, ("a", "b"))


# --- the shell ------------------------------------------------------------------------------------


def test_doors_the_shell_takes_a_table(tmp_path, capsys):
    text = frame(rng.normal(size=(8, 40)).round(3)).to_csv(index=True, sep=";", decimal=",")
    (tmp_path / "own.v2.csv").write_bytes(text.encode("utf-8-sig"))
    out = tmp_path / "models"
    asked = ["train", str(tmp_path / "own.v2.csv"), "--epochs", "2", "--out", str(out), "--quiet"]
    assert main(asked) == 2
    assert "which column holds the class?" in capsys.readouterr().err
    assert main([*asked, "--label", "fault"]) == 0
    assert "left out as an index" in capsys.readouterr().err
    assert sorted(f.name for f in out.iterdir()) == [
        "own.v2-wang-reference.safetensors",
        "own.v2-wang.json",
        "own.v2-wang.safetensors",
    ]


def test_doors_the_readme_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame().to_csv("own.csv", index=False)
    assert sd.load_dataset("own.csv", label="fault").classes == ("no", "yes")
    assert sd.load_dataset(Path("own.csv"), label="fault").name == "own"


# --- the recipes of 83_your_own_model -------------------------------------------------------------


def recipe(first):
    "The lines of a recipe as they stand in the notebook, found by how they begin."
    notebook = Path(__file__).parent.parent / "nbs" / "83_your_own_model.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = [code for code in re.findall(r"```python\n(.*?)```", text, re.S) if first in code]
    assert len(found) == 1
    assert len(found[0].splitlines()) <= 13
    return found[0]


def follow(first, folder, monkeypatch):
    "The data set that a recipe makes of the files in a folder."
    monkeypatch.chdir(folder)
    names = {"np": np, "pd": pd, "sd": sd}
    exec(recipe(first), names)
    return names["data"]


def test_doors_recipe_for_engines(tmp_path, monkeypatch):
    lines = []
    for unit, cycles in ((1, 75), (2, 60)):
        for cycle in range(1, cycles + 1):
            sensors = [f"{cycle + 100 * i:.2f}" for i in range(20)]
            lines.append(f"{unit} {cycle} 0.1 0.2 100 518.67 {' '.join(sensors)}  ")
    (tmp_path / "train_FD001.txt").write_text("\n".join(lines) + "\n")
    data = follow("FD001", tmp_path, monkeypatch)
    assert data.classes == ("fails soon", "runs on")
    assert data.X_train.shape == (5 + 4, 20, 30)  # sensor 1 never moves
    assert data.y_train.tolist() == [1, 1, 0, 0, 0, 1, 0, 0, 0]
    assert data.physical.channels[0] == "sensor 2"
    first = data.physical.restore(data.X_train)[0, 0]
    np.testing.assert_allclose(first, np.arange(1, 31), rtol=1e-4)


def test_doors_recipe_for_beats(tmp_path, monkeypatch):
    wfdb = pytest.importorskip("wfdb")
    (tmp_path / "mitdb").mkdir()
    signal = rng.normal(size=(4000, 2)).round(2)
    beats = np.array([50, 600, 1500, 2400, 3990])
    where = {"write_dir": str(tmp_path / "mitdb")}
    about = {"units": ["mV", "mV"], "sig_name": ["MLII", "V5"], "fmt": ["16", "16"]}
    wfdb.wrsamp("100", fs=360, p_signal=signal, **about, **where)
    wfdb.wrann("100", "atr", beats, symbol=["N", "N", "V", "A", "N"], **where)
    data = follow("wfdb", tmp_path, monkeypatch)
    assert data.classes == ("N", "V")  # the first and last are cut, A is left out
    np.testing.assert_allclose(data.X_train[1], signal[1500 - 144 : 1500 + 144].T, atol=1e-3)
    assert (data.physical.sampling_rate, data.physical.channels) == (360, ("MLII", "V5"))


def test_doors_recipe_for_sleep(tmp_path, monkeypatch):
    mne = pytest.importorskip("mne")
    pytest.importorskip("edfio")
    volts = rng.normal(size=(2, 12000)) * 1e-5
    about = mne.create_info(["Fpz", "Pz"], 100, "eeg")
    raw = mne.io.RawArray(volts, about, verbose="error")
    raw.set_annotations(mne.Annotations([0, 30, 60], 30, ["wake", "N2", "wake"]))
    mne.export.export_raw(tmp_path / "night.edf", raw, verbose="error")
    data = follow("mne", tmp_path, monkeypatch)
    assert data.classes == ("N2", "wake")
    assert data.X_train.shape == (3, 2, 3000)
    microvolts = data.physical.restore(data.X_train)[1]
    np.testing.assert_allclose(microvolts, volts[:, 3000:6000] * 1e6, atol=0.01)
