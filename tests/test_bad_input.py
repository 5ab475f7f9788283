"""Watches over hostile input: one clear error at the door that names the value and the remedy.

Nothing is left half written.
"""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import seqdream as sd
from seqdream.cli import main
from seqdream.files import write_whole

nan = float("nan")
inf = float("inf")
good = torch.randn(12, 1, 30, generator=torch.Generator().manual_seed(0))
labels = torch.arange(12) % 2
SERIES = {  # what -> (series, what the message must say)
    "nan": (np.array([[0, 1, nan, 2.0]]), "series 0, channel 0, point 2"),
    "inf": (np.array([[0, 1, 2.0], [0, inf, 1]]), "series 1, channel 0, point 1"),
    "huge": (np.array([[0, 1e35]]), "too large"),
    "four dimensions": (np.zeros((1, 1, 1, 5)), "1, 2 or 3 dimensions"),
    "a scalar": (np.array(3.0), "1, 2 or 3 dimensions"),
    "nothing": (np.zeros((0, 1, 5)), "no values"),
    "no points": (np.zeros((3, 1, 0)), "no values"),
    "words": (np.array([["a", "b"]]), "expected numbers"),
    "unequal length": ([np.arange(4.0), np.arange(6.0)], "from 4 to 6 points"),
    "unequal channels": ([np.zeros((1, 4)), np.zeros((2, 4))], "different numbers of channels"),
    "constant": (np.full((2, 1, 9), 2.5), "constant at 2.5"),
}


@pytest.mark.parametrize("what", SERIES)
def test_check_series(what):
    x, message = SERIES[what]
    with pytest.raises((ValueError, TypeError), match=message):
        sd.check_series(x)


@pytest.mark.parametrize(
    "kw, message",
    [
        ({"n_channels": 2}, "1 channels where 2"),
        ({"n_timepoints": 31}, "30 points where 31.*length=31"),
    ],
)
def test_check_series_wrong_shape(kw, message):
    with pytest.raises(ValueError, match=message):
        sd.check_series(good, **kw)


@pytest.mark.parametrize(
    "what", ["nan", "inf", "four dimensions", "nothing", "constant", "unequal length"]
)
def test_fit_and_reference_and_dream(what, small):
    x, message = SERIES[what]
    y = torch.arange(len(x)) % 2
    model = sd.ResNet.preset("paper")
    with pytest.raises(ValueError, match=message):
        sd.fit(model, (x, y), epochs=1, progress=False)
    with pytest.raises(ValueError, match=message):
        sd.Reference.from_data(model, x, y)
    if what != "constant":  # a flat start is a question one may ask
        with pytest.raises(ValueError, match=message):
            sd.dream(model, x, sd.score(0))


def write_ucr(folder, name, train, test=None):
    (folder / name).mkdir()
    for part, rows in (("TRAIN", train), ("TEST", test or train)):
        lines = ["\t".join(map(str, row)) for row in rows]
        (folder / name / f"{name}_{part}.tsv").write_text("\n".join(lines) + "\n")


ROWS = [[1, 0.1, 0.2, 0.3], [2, 0.3, 0.1, 0.2], [1, 0.5, 0.2, 0.1], [2, 0.1, 0.1, 0.4]]
FILES = {
    "truncated": ([*ROWS, [1, 0.5]], "line 5 has 2 tab-separated fields where 4"),
    "foreign": ([["hello"], ["world"]], "no UCR file"),
    "words": ([*ROWS, [1, "x", 0.2, 0.3]], "line 5 holds something that is no number"),
    "hole": ([*ROWS, [1, 0.1, "NaN", 0.3]], "missing values inside"),
    "inf": ([*ROWS, [1, 0.1, "inf", 0.3]], "not finite"),
    "unequal": ([*ROWS, [1, 0.1, 0.2, "NaN"]], "from 2 to 3 points"),
    "constant": ([*ROWS, [1, 0.2, 0.2, 0.2]], "constant at 0.2"),
    "one class": ([[1, 0.1, 0.2, 0.3], [1, 0.3, 0.2, 0.1]], "one class only"),
    "only padding": ([*ROWS, [1, "NaN", "NaN", "NaN"]], "line 5 has no values"),
}


@pytest.mark.parametrize("what", FILES)
def test_load_dataset(what, tmp_path):
    rows, message = FILES[what]
    write_ucr(tmp_path, "Bad", rows)
    with pytest.raises(ValueError, match=message):
        sd.load_dataset("Bad", root=tmp_path)
    places = ["--root", str(tmp_path), "--out", str(tmp_path / "r")]
    assert main(["report", "Bad", *places, "--quiet"]) == 2
    assert not (tmp_path / "r").exists()


def test_load_dataset_class_absent_from_train(tmp_path):
    write_ucr(tmp_path, "Bad", ROWS, [*ROWS, [3, 0.1, 0.2, 0.4]])
    with pytest.raises(ValueError, match="class '3' has no training series"):
        sd.load_dataset("Bad", root=tmp_path)


def test_load_dataset_length_resamples(tmp_path):
    write_ucr(tmp_path, "Uneven", [*ROWS, [1, 0.1, 0.2, "NaN"]])
    assert sd.load_dataset("Uneven", root=tmp_path, length=7).X_train.shape == (5, 1, 7)
    for bad in (0, 1, 2.5, "7"):
        with pytest.raises(ValueError, match="length=.*whole number"):
            sd.load_dataset("Uneven", root=tmp_path, length=bad)


def test_load_dataset_unknown(tmp_path):
    write_ucr(tmp_path, "GunPoint", ROWS)
    with pytest.raises(FileNotFoundError, match="did you mean GunPoint"):
        sd.load_dataset("GunPiont", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        sd.load_dataset("GunPoint", root=tmp_path / "nowhere")
    for bad in ("", None, 3):
        with pytest.raises(ValueError, match="no data set's name"):
            sd.load_dataset(bad, root=tmp_path)
    for bad in ("../GunPoint", "a/b"):
        with pytest.raises(FileNotFoundError, match="no data set's file or folder"):
            sd.load_dataset(bad, root=tmp_path)
    (tmp_path / "GunPoint" / "GunPoint_TEST.tsv").unlink()
    with pytest.raises(FileNotFoundError, match="GunPoint_TEST.tsv: missing"):
        sd.load_dataset("GunPoint", root=tmp_path)


def test_labels():
    model = sd.ResNet.preset("paper")
    with pytest.raises(ValueError, match="12 series but 5 labels"):
        sd.fit(model, (good, labels[:5]), epochs=1, progress=False)
    with pytest.raises(ValueError, match="labels reach from 0 to 2"):
        sd.fit(model, (good, torch.arange(12) % 3), epochs=1, progress=False)
    with pytest.raises(ValueError, match="class 1 has no series"):
        sd.fit(model, (good, labels * 0), epochs=1, progress=False)
    with pytest.raises(ValueError, match="class 1 .* has no training series"):
        sd.Reference.from_data(model, good, labels * 2)
    with pytest.raises(ValueError, match="class 1 .* has one training series.*allow_single"):
        sd.Reference.from_data(model, good, (torch.arange(12) == 3).long())
    with pytest.raises(ValueError, match="label -1"):
        sd.Reference.from_data(model, good, labels - 1)


def test_a_single_series_is_allowed_on_request():
    y = (torch.arange(12) == 3).long()
    ref = sd.Reference.from_data(sd.ResNet.preset("paper"), good, y, allow_single=True)
    with pytest.raises(ValueError, match="has one training series"):
        ref.distance(good, 1)
    assert np.isfinite(ref.distance(good, 0)).all()


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 2.5}, "epochs=2.5"),
        ({"optimizer": "lion"}, "adam, adamw"),
        ({"schedule": "x"}, "one_cycle"),
        ({"keep": "x"}, "best, last"),
        ({"validation": 1.0}, "validation=1.0"),
    ],
)
def test_fit_settings(setting, message):
    how = {"epochs": 1, "progress": False, **setting}
    with pytest.raises(ValueError, match=message):
        sd.fit(sd.ResNet.preset("paper"), (good, labels), **how)


def test_fit_says_when_the_loss_explodes():
    plain = dict(optimizer="adam", schedule="constant", weight_decay=0.0, progress=False)
    with pytest.raises(FloatingPointError, match="lower lr"):
        sd.fit(sd.ResNet.preset("paper"), (good, labels), epochs=3, lr=1e18, **plain)


class NaNModel(nn.Module):
    def forward(self, x):
        return x.mean(-1).repeat(1, 2) * nan


class Detached(nn.Module):
    def forward(self, x):
        return torch.cat([x.detach().mean(-1)] * 2, 1)


class Named(nn.Module):
    def forward(self, x):
        return {"mean": x.mean(-1), "spread": x.std(-1)}


class Wordy(nn.Module):
    def forward(self, x):
        return "class 0"


class Skipping(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Conv1d(1, 2, 3)
        self.unused = nn.Conv1d(1, 2, 3)

    def forward(self, x):
        return self.used(x).mean(-1)


def test_models():
    with pytest.raises(ValueError, match="no gradient"):
        sd.dream(Detached(), good, sd.score(0))
    with pytest.raises(ValueError, match="NaN or inf"):
        sd.dream(NaNModel(), good, sd.score(0))
    with pytest.raises(TypeError, match="str, not a tensor"):
        sd.dream(Wordy(), good, sd.score(0))
    with pytest.raises(TypeError, match="mean, spread.*output='mean'"):
        sd.dream(Named(), good, sd.score(0))
    with pytest.raises(RuntimeError, match="never reaches the layer"):
        sd.Probe(Skipping(), "unused")(good)
    with pytest.raises(ValueError, match="layer 'usde' .* used"):
        sd.Probe(Skipping(), "usde")
    with pytest.raises(ValueError, match="does not take series"):
        sd.dream(Skipping(), good.repeat(1, 3, 1), sd.score(0))
    with pytest.raises(TypeError, match="torch.nn.Module"):
        sd.Probe(torch.tanh)
    with pytest.raises(ValueError, match="features 0 to 1"):
        sd.dream(Skipping(), good, sd.score(9))
    with pytest.raises(ValueError, match="NaN or inf"):
        sd.Reference.from_data(NaNModel(), good, labels)
    with pytest.warns(UserWarning, match="Softmax"):
        sd.dream(nn.Sequential(Skipping(), nn.Softmax(1)), good, sd.score(0), steps=1)


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": True}, "steps=True"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"lr": nan}, "lr=nan"),
        ({"lr": [0.1, 0.2]}, "each of the 12 rows"),
        ({"lr": "fast"}, "give a number"),
        ({"keep": "first"}, "best, last"),
        ({"optimizer": "lbfgs"}, "sgd, adam"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"objective": 3}, "give an Objective"),
        ({"penalties": [sd.AlphaNorm([0.1, 0.2])]}, "AlphaNorm: weight .* each of the 12 rows"),
        ({"transforms": [sd.GaussianBlur([1.0] * 3)]}, "sigma has 3 entries"),
    ],
)
def test_dream_settings(setting, message):
    kw = {"objective": sd.score(0), "steps": 1, **setting}
    with pytest.raises((ValueError, TypeError), match=message):
        sd.dream(sd.ResNet.preset("paper"), good, **kw)


@pytest.mark.parametrize(
    "made, message",
    [
        (partial(sd.AlphaNorm, -1.0), "weight=-1.0"),
        (partial(sd.TotalVariation, 1.0, 0.5), "beta=0.5"),
        (partial(sd.GaussianBlur, inf), "sigma=inf"),
        (partial(sd.Clamp, 1.0, -1.0), "low must not be above"),
        (partial(sd.NoiseOnStall, 0.1, 0), "patience=0"),
    ],
)
def test_ingredients_are_refused_when_they_are_made(made, message):
    with pytest.raises(ValueError, match=message):
        made()


DREAMING = [
    ({"target_class": 2}, r"0 \(label -1\), 1"),
    ({"target_class": "x"}, "a class is an index"),
    ({"target_class": True}, "a class is an index"),
    ({"region": "rim"}, "centre, max, edge"),
    ({"region": [1.0]}, "2 finite numbers"),
    ({"n": 0}, "n=0"),
    ({"n": 10**6}, "exemplars in this reference"),
    ({"start": "zero"}, "mean, region"),
    ({"start": good}, "30 points where 500"),
    ({"treat": "kind"}, "vector, scalar, suppress"),
    ({"blur": "all"}, "gradient, iterate, annealed"),
    ({"k": -1.0}, "k=-1.0"),
    ({"noise": nan}, "noise=nan"),
]


def test_sequence_dreaming(small):
    model, ref = small
    for kw, message in DREAMING:
        with pytest.raises(ValueError, match=message):
            sd.sequence_dreaming(model, ref, **{"target_class": 1, "steps": 1, **kw})
    with pytest.raises(ValueError, match="made from other weights"):
        sd.sequence_dreaming(sd.ResNet.preset("paper", seed=9), ref, 1)
    with pytest.raises(ValueError, match="3 features where the reference has 2"):
        sd.sequence_dreaming(sd.ResNet(1, 3), ref, 1)
    with pytest.raises(ValueError, match="do not belong together"):
        sd.evaluate(sd.dream(model, good, sd.reach(ref, 1), steps=1), ref)


@pytest.fixture
def saved(tmp_path, small):
    "A folder that holds a model, a reference and dreams, and how each of them is loaded."
    model, ref = small
    d = sd.dream(model, ref.exemplars(0, 1), sd.score(0), steps=1)
    sd.save_model(model, tmp_path / "model")
    ref.save(tmp_path / "reference.safetensors")
    d.save(tmp_path / "dreams.safetensors")
    return tmp_path, {
        "model": partial(sd.load_model, tmp_path / "model"),
        "reference": partial(sd.Reference.load, tmp_path / "reference.safetensors"),
        "dreams": partial(sd.Dreams.load, tmp_path / "dreams.safetensors"),
    }


@pytest.mark.parametrize("what", ["model", "reference", "dreams"])
def test_files(what, saved):
    folder, load = saved
    load[what]()
    file = folder / f"{what}.safetensors"
    whole = file.read_bytes()
    for damage in (whole[:-50], whole[:20], b"", b"not a safetensors file at all" * 9):
        file.write_bytes(damage)
        with pytest.raises(ValueError, match="truncated"):
            load[what]()
    other = "dreams" if what != "dreams" else "reference"
    shutil.copy(folder / f"{other}.safetensors", file)
    with pytest.raises(ValueError, match=f"where a seqdream {what} file is expected"):
        load[what]()
    file.unlink()
    with pytest.raises(FileNotFoundError, match="no such file"):
        load[what]()


def test_model_card(saved):
    folder, load = saved
    card = folder / "model.json"
    text = card.read_text()
    card.write_text(json.dumps(json.loads(text) | {"sha256": "0"}))
    with pytest.raises(ValueError, match="sha256 differs"):
        load["model"]()
    for bad in (text[:40], "[]", json.dumps({"config": {"filters": [3]}})):
        card.write_text(bad)
        with pytest.raises(ValueError, match="no card of the weights"):
            load["model"]()
    card.unlink()
    with pytest.raises(FileNotFoundError, match="card is missing"):
        load["model"]()
    with pytest.raises(ValueError, match="FordA paper, FordA wang"):
        sd.load_pretrained("FordB")


def test_files_appear_whole(tmp_path):
    def fails(path):
        path.write_text("half")
        raise OSError("disk full")

    (tmp_path / "f").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "f", fails)
    assert (tmp_path / "f").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    with pytest.raises(FileNotFoundError, match="is no folder"):
        write_whole(tmp_path / "no" / "f", fails)


def test_fit_refuses_an_unwritable_checkpoint_at_once(tmp_path):
    def fit(checkpoint):
        how = dict(epochs=500, progress=False, checkpoint=checkpoint)
        sd.fit(sd.ResNet.preset("paper"), (good, labels), **how)

    with pytest.raises(FileNotFoundError, match="is no folder"):
        fit(tmp_path / "no" / "c")
    (tmp_path / "c").write_text("a diary")
    with pytest.raises(ValueError, match="no safetensors file"):
        fit(tmp_path / "c")
    assert (tmp_path / "c").read_text() == "a diary"


COMMANDS = [
    (["report", "FordA", "--out", "{file}"], "is a file"),
    (["report", "FordA", "--out", "{full}"], "no earlier report"),
    (["report", "FordA", "--out", "{file}/x"], "is no folder"),
    (["dream", "FordA", "--class", "9", "--out", "{new}"], "--class 9: FordA has"),
    (["dream", "FordA", "--class", "0", "--out", "{file}"], "cannot write here"),
    (["dream", "FordA", "--class", "0", "--model", "{file}", "--out", "{new}"], "no such file"),
    (["dream", "FordA", "--class", "one", "--out", "{new}"], "--class one: FordA has"),
    (["train", "FordA", "--preset", "big", "--out", "{new}"], "wang, paper"),
    (["train", "Nowhere", "--root", "{full}", "--out", "{new}"], "no data set 'Nowhere'"),
]


def two_words(value):
    "A name for a command's test: its first two words."
    return "-".join(value[:2]) if isinstance(value, list) else None


@pytest.mark.parametrize("argv, message", COMMANDS, ids=two_words)
def test_command_line(argv, message, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").write_text("years")
    names = {k: str(tmp_path / k) for k in ("file", "full", "new")}
    assert main([a.format(**names) for a in argv] + ["--quiet"]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert "\n" not in err
    assert err.startswith(f"seqdream {argv[0]}: ")
    assert (tmp_path / "full" / "thesis").read_text() == "years"
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis"]


@pytest.mark.parametrize(
    "argv",
    [["dream", "FordA"], ["fly"], ["report"], ["dream", "FordA", "--class", "0", "--n", "0"]],
)
def test_command_line_usage(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "usage: seqdream" in capsys.readouterr().err
