"""Watches over the command's doors: one line in the words of a shell, exit code 2, nothing lost."""

import io
import json
import os
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import seqdream as sd
from seqdream import cli, distances
from seqdream.cli import main


def run(*words):
    "Exit code of a command, also where the parser ends it."
    try:
        return main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


def one_line(capsys):
    "What was said on standard error, which must be one line and no traceback."
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1, said
    assert "Traceback" not in said
    return said


REFUSED = {
    "train FordA --epochs 0": "--epochs 0: give a whole number from 1 on",
    "train FordA --epochs 1e3": "--epochs 1e3: give a whole number",
    "report FordA --n -3": "--n -3: give a whole number from 1 on",
    "dream FordA --class 0 --n 0": "--n 0: give",
    "dream FordA --class 0.5 --model paper": "0 (-1), 1 (1)",
    "dream FordA --class 7 --model paper": "0 (-1), 1 (1)",
    "dream FordA --class ² --model paper": "0 (-1), 1 (1)",
    "dream FordA --class -x --model paper": "0 (-1), 1 (1)",
    "dream FordA --class 0 --steps nan": "--steps nan",
    "dream FordA --class 0 --k nan": "--k nan: give a number above 0",
    "dream FordA --class 0 --k inf": "--k inf",
    "dream FordA --class 0 --trust 100": "between 0 and 100",
    "search FordA --class 0 --levels 0": "--levels 0",
    "search FordA --class 0 --levels 20": "25,600,000,000 settings",
    "search FordA --class 0 --levels 1000000000": "--levels 1000000000",
    "search FordA --class 0 --starts 1000000000": "2,187,000,000,000 rows",
    "search FordA --class 0 --jobs 0": "--jobs 0",
    "train FordA --seed -1": "--seed -1",
    f"train FordA --seed {2**70}": f"--seed {2**70}",
    "train FordA --length 1": "--length 1",
    "explore FordA --port 99999": "from 1 to 65535",
    "dreem FordA": "did you mean dream?",
    "report FordA --epohcs 3": "did you mean --epochs?",
    "report": "the following arguments are required: NAME",
    "train GunPiont": "did you mean GunPoint",
    "train GunPoint --root nowhere": "--root 'nowhere' is no folder",
    "train FordA --preset wnag": "did you mean wang?",
    "dream FordA --class 0 --model papr": "did you mean paper?",
    "dream FordA --class 0 --region centr": "did you mean centre?",
    "dream FordA --class 0 --start nois": "did you mean noise?",
    "dream FordA --class 0 --method sdd": "did you mean sd?",
    "search FordA --class 0 --region beyond": "there are centre, max",
    "dream FordA --class 0 --device gpu": "there are cpu, cuda, mps",
    "dream FordA --class 0 --device meta": "--device meta: this machine has none",
    "dream FordA --class 0 --model paper --start noise --n 1000000000": "GB of memory may",
    "train AllGestureWiimoteX --epochs 1": "--length",
    "evaluate nowhere": "nowhere: no such file",
    "evaluate FordA": "FordA: no dreams; give what `seqdream dream` wrote",
    "report FordA --root nowhere": "--root 'nowhere' is no folder",
}


@pytest.mark.parametrize("line", REFUSED)
def test_doors_refused_in_one_line(line, tmp_path, monkeypatch, capsys):
    if "Wiimote" in line and not sd.readers.has_dataset("AllGestureWiimoteX"):
        pytest.skip("AllGestureWiimoteX is not in $SEQDREAM_DATA")
    monkeypatch.chdir(tmp_path)
    run("--version")  # loads what is loaded once
    capsys.readouterr()
    began = time.perf_counter()
    assert run(*line.split()) == 2
    assert time.perf_counter() - began < 30
    assert REFUSED[line] in one_line(capsys)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_doors_a_device_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in ("dream FordA --class 0", "report FordA", "train FordA", "search FordA --class 0"):
        assert run(*words.split(), "--device", "cuda") == 2
        assert "--device cuda: this machine has none" in one_line(capsys)


SPOKEN = {
    "pass length= (say length=140)": "pass --length (say --length 140)",
    "root='x' is no folder": "--root 'x' is no folder",
    "n=0: give more": "--n 0: give more",
    "target_class=7, label=...": "--class 7, --label",
    "Pass root= the folder": "Pass --root the folder",
    "/data/n=3/seed=1.csv: no such file": "/data/n=3/seed=1.csv: no such file",
    "use X.data(mean=3, output=...)": "use X.data(mean=3, output=...)",
    "epochs=3; model= or seed=.": "--epochs 3; --model or --seed.",
    # what is said of a file of one's own
    "index=0 says so, index=False keeps it": "--index 0 says so, --index none keeps it",
    'say which, decimal="," or decimal="."': 'say which, --decimal "," or --decimal "."',
    "name them with series= and label=": "name them with --series and --label",
    "leave sampling_rate= out": "leave --sampling-rate out",
    "test='x': no such file": "--test 'x': no such file",
    "rescale the series (Dataset.from_arrays: standardise=True)": (
        "rescale the series (--standardise)"
    ),
    "time= or axis= or encoding=": "--time or --axis or --encoding",
}


@pytest.mark.parametrize("text", SPOKEN)
def test_doors_the_shell_speaks_shell(text):
    assert cli._in_shell_words(text) == SPOKEN[text]


@pytest.mark.parametrize("text, index", [("0", 0), ("1", 1), ("-1", 0)])
def test_doors_labels_and_indices_of_classes(text, index, small):
    ref = small[1]
    assert cli._class_of(text, ref) == index


def test_doors_labels_where_an_index_would_fit_too(small):
    class Labelled:
        name = "made"
        classes = ("2", "1", "normal", "-0.5", "001")

    given = {"0": 0, "1": 1, "2": 2, "normal": 2, "-0.5": 3, "001": 1, "4": 4}
    for text, index in given.items():
        assert cli._class_of(text, Labelled) == index, text
    for bad in ("5", "abnormal", "0.5", "-1", "", "99999999999"):
        with pytest.raises(ValueError, match=r"0 \(2\), 1 \(1\), 2 \(normal\)"):
            cli._class_of(bad, Labelled)


@pytest.fixture(scope="module")
def italy(tmp_path_factory):
    "A folder with a model of ItalyPowerDemand, trained for an epoch."
    folder = tmp_path_factory.mktemp("italy")
    words = ["train", "ItalyPowerDemand", "--preset", "paper", "--epochs", "1", "--quiet"]
    assert run(*words, "--out", folder) == 0
    return folder


def contents(folder):
    "Bytes of every file."
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_doors_a_second_training_overwrites_nothing(italy, capsys):
    before = contents(italy)
    words = ["train", "ItalyPowerDemand", "--preset", "paper", "--quiet", "--out", italy]
    assert run(*words, "--epochs", "1") == 0
    assert "trained already" in capsys.readouterr().out
    assert contents(italy) == before
    for other in (["--epochs", "2"], ["--epochs", "1", "--seed", "1"]):
        assert run(*words, *other) == 0
        after = contents(italy)
        assert {name: after[name] for name in before} == before
        assert len(after) == len(before) + 3
        before = after
    assert run(*words, "--epochs", "2") == 0
    assert contents(italy) == before
    model, card = sd.load_model(italy / "ItalyPowerDemand-paper-seed1-epochs1")
    assert card["seed"] == 1 and card["epochs"] == 1


def test_doors_other_data_of_the_same_name_get_a_model_of_their_own(italy, tmp_path):
    folder = tmp_path / "ItalyPowerDemand"
    folder.mkdir()
    g = torch.Generator().manual_seed(0)
    for part in ("TRAIN", "TEST"):
        rows = [[i % 2 + 1, *torch.randn(24, generator=g).tolist()] for i in range(12)]
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        (folder / f"ItalyPowerDemand_{part}.tsv").write_text(text)
    before = contents(italy)
    words = ["train", "ItalyPowerDemand", "--preset", "paper", "--epochs", "1", "--quiet"]
    assert run(*words, "--out", italy, "--root", tmp_path) == 0
    after = contents(italy)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3


COMMANDS = ["dream Chinatown --class 0", "report Chinatown --n 1", "search Chinatown --class 0"]
COMMANDS += ["explore Chinatown --port 8871"]


@pytest.mark.parametrize("line", COMMANDS)
def test_doors_a_model_of_another_data_set(line, italy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*line.split(), "--model", italy / "ItalyPowerDemand-paper") == 2
    said = one_line(capsys)
    assert "model of ItalyPowerDemand, not of Chinatown" in said
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_doors_a_reference_of_another_model(italy, tmp_path, capsys):
    stem = italy / "ItalyPowerDemand-paper"
    model, card = sd.load_model(stem)
    other = sd.ResNet.preset("paper", seed=9)
    sd.save_model(other, tmp_path / "m", card)
    sd.Reference.load(f"{stem}-reference.safetensors").save(tmp_path / "m-reference.safetensors")
    words = ["dream", "ItalyPowerDemand", "--class", "0", "--out", tmp_path / "d"]
    assert run(*words, "--model", tmp_path / "m") == 2
    assert "reference of another model" in one_line(capsys)


@pytest.mark.parametrize("bad", [{"dataset": 3}, {"test_accuracy": "high"}, {"preset": ["x"]}])
def test_doors_a_card_that_says_nonsense(bad, italy, tmp_path, capsys):
    for file in italy.glob("ItalyPowerDemand-paper*"):
        if "seed" not in file.name:
            name = file.name.replace("ItalyPowerDemand-paper", "m")
            (tmp_path / name).write_bytes(file.read_bytes())
    card = json.loads((tmp_path / "m.json").read_text())
    (tmp_path / "m.json").write_text(json.dumps(card | bad))
    words = ["report", "ItalyPowerDemand", "--model", tmp_path / "m", "--out", tmp_path / "r"]
    assert run(*words) == 2
    assert "m.json: " in one_line(capsys)


def test_doors_a_set_name_with_dots(tmp_path, capsys):
    folder = tmp_path / "v1.2"
    folder.mkdir()
    g = torch.Generator().manual_seed(0)
    for part in ("TRAIN", "TEST"):
        rows = [[i % 2, *torch.randn(16, generator=g).tolist()] for i in range(12)]
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        (folder / f"v1.2_{part}.tsv").write_text(text)
    words = ["--root", tmp_path, "--epochs", "1", "--quiet"]
    assert run("train", "v1.2", *words, "--preset", "paper", "--out", tmp_path / "m") == 0
    made = sorted(p.name for p in (tmp_path / "m").iterdir())
    assert made == ["v1.2-paper-reference.safetensors", "v1.2-paper.json", "v1.2-paper.safetensors"]
    search = ["search", "v1.2", "--class", "1", "--levels", "1", "--jobs", "1", "--model", "paper"]
    for _ in range(2):
        assert run(*search, *words, "--out", tmp_path / "s") == 0
    assert "v1.2-paper.json" not in os.listdir(tmp_path / "s/model")
    assert (tmp_path / "s/model/v1.2.json").exists()
    assert "resumed" in capsys.readouterr().out


def test_doors_a_search_belongs_to_one_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    search = ["search", "ItalyPowerDemand", "--class", "1", "--levels", "1", "--jobs", "1"]
    search += ["--quiet", "--out", "s"]
    real = sd.save_model

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(sd, "save_model", interrupt)
    assert run(*search, "--epochs", "1", "--model", "paper") == 130
    one_line(capsys)
    monkeypatch.setattr(sd, "save_model", real)
    assert run(*search, "--epochs", "1", "--model", "paper") == 0
    before = (tmp_path / "s/table.csv").read_bytes()
    capsys.readouterr()
    for other in (["--epochs", "2", "--model", "paper"], ["--epochs", "1", "--model", "wang"]):
        assert run(*search, *other) == 2
        assert "holds the search of a model with" in one_line(capsys)
    assert run(*search[:1], "Chinatown", *search[2:]) == 2
    assert "holds the search of ItalyPowerDemand" in one_line(capsys)
    assert (tmp_path / "s/table.csv").read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis").write_text("years")
    assert run(*search[:-1], "full", "--epochs", "1") == 2
    assert os.listdir(tmp_path / "full") == ["thesis"]


@pytest.fixture
def dreams(small, tmp_path):
    "A folder of dreams of the bundled small model."
    model, ref = small
    sd.target_descent(model, ref, 1, n=2, steps=2).save(tmp_path / "d.safetensors")
    return tmp_path


def test_doors_a_table_over_what_it_is_made_of(dreams, capsys):
    before = contents(dreams)
    file = dreams / "d.safetensors"
    (dreams / "link").symlink_to("d.safetensors")
    for out in (file, dreams / "link", dreams / "other.safetensors", dreams, dreams / "no/t.csv"):
        assert run("evaluate", file, "--out", out) == 2
        one_line(capsys)
    (dreams / "link").unlink()
    assert contents(dreams) == before


@pytest.mark.parametrize("name", ["own.csv", "own file.npz", "notes.md", "model.pt"])
def test_doors_data_where_dreams_belong(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"a,b,fault\n1,2,x\n")
    assert run("evaluate", name) == 2
    said = one_line(capsys)
    assert said.startswith(f"seqdream evaluate: {name}: no dreams; ")
    assert "give what `seqdream dream` wrote (.safetensors)" in said
    data = name in ("own.csv", "own file.npz")
    assert (f"seqdream report {shlex.quote(name)}" in said) is data


def test_doors_dreams_of_another_model(dreams, capsys):
    assert run("evaluate", dreams, "--model", "wang", "--quiet") == 2
    said = one_line(capsys)
    assert sd.load_pretrained("FordA", "paper")[1].meta["model"] in said
    assert sd.load_pretrained("FordA", "wang")[1].meta["model"] in said
    assert run("evaluate", dreams, "--model", "paper") == 0


def test_doors_dreams_beside_somebodys_files(tmp_path, capsys):
    (tmp_path / "evaluation.csv").write_text("mine")
    words = "dream FordA --model paper --class 0 --n 1 --steps 1 --quiet --out"
    assert run(*words.split(), tmp_path) == 2
    assert "evaluation.csv" in one_line(capsys)
    assert contents(tmp_path) == {"evaluation.csv": b"mine"}


def test_doors_dreams_name_index_and_label(tmp_path, capsys):
    words = "dream FordA --model paper --class -1 --n 1 --steps 1 --quiet --out"
    assert run(*words.split(), tmp_path / "d") == 0
    assert "class 0 of FordA, labelled -1" in capsys.readouterr().out
    assert sd.Dreams.load(tmp_path / "d/dreams.safetensors").settings["target_class"] == 0


# --- the terminal ---------------------------------------------------------------------------------


def test_doors_nobody_reads_any_more(dreams, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    assert run("evaluate", dreams, "--out", dreams / "t.csv") == 0
    assert (dreams / "t.csv").exists()


def test_doors_a_closed_pipe_says_nothing():
    command = f"{sys.executable} -m seqdream.cli evaluate --help | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == ""


def test_doors_a_terminal_that_knows_ascii_only(dreams, monkeypatch, capsys):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert run("evaluate", dreams, "--out", dreams / "größe.csv") == 0
    out.flush()
    assert rb"gr\xf6\xdfe.csv: 2 rows" in out.buffer.getvalue()
    err = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", err)
    assert run("evaluate", "größe") == 2
    err.flush()
    assert rb"gr\xf6\xdfe: no such file" in err.buffer.getvalue()


ERRORS = {
    130: KeyboardInterrupt(),
    2: MemoryError(),
    0: BrokenPipeError(32, "Broken pipe"),
}


@pytest.mark.parametrize("code", ERRORS)
def test_doors_what_ends_a_command(code, monkeypatch, capsys, tmp_path):
    def end(*args, **options):
        raise ERRORS[code]

    monkeypatch.setattr(sd.report, "model_and_reference", end)
    words = ["dream", "FordA", "--class", "0", "--out", tmp_path]
    assert run(*words) == code
    said = capsys.readouterr().err
    assert len(said.splitlines()) == (code != 0)


def test_doors_a_full_disk_in_the_shell(dreams, monkeypatch, capsys):
    def full(path, *args, **options):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("pandas.DataFrame.to_csv", lambda self, path, **options: full(path))
    (dreams / "t.csv").write_text("old")
    assert run("evaluate", dreams, "--out", dreams / "t.csv") == 2
    said = one_line(capsys)
    assert f"{dreams / 't.csv'}: No space left on device" in said
    assert "Errno" not in said and ".part" not in said
    assert (dreams / "t.csv").read_text() == "old"


def test_doors_a_table_of_ones_own(tmp_path, capsys):
    g = np.random.default_rng(0)
    lines = ["fault," + ",".join(f"t{i}" for i in range(20))]
    for i in range(24):
        values = g.normal(size=20) + (i % 2) * np.sin(np.arange(20))
        lines.append(f"{'bad' if i % 2 else 'good'}," + ",".join(f"{v:.4f}" for v in values))
    (tmp_path / "own.v2.csv").write_text("\n".join(lines) + "\n")
    words = [tmp_path / "own.v2.csv", "--label", "fault", "--epochs", "1", "--quiet"]
    assert run("train", *words, "--preset", "paper", "--out", tmp_path / "m") == 0
    assert (tmp_path / "m/own.v2-paper.json").exists()
    model = ["--model", tmp_path / "m/own.v2-paper", "--quiet"]
    dream = ["dream", tmp_path / "own.v2.csv", "--n", "1", "--steps", "1", "--start", "other"]
    capsys.readouterr()
    assert run(*dream, "--class", "good", *model, "--out", tmp_path / "d") == 0
    assert "labelled good" in capsys.readouterr().out
    assert run(*dream, "--class", "goood", *model, "--out", tmp_path / "d") == 2
    assert "(good)" in one_line(capsys)


# --- a file of one's own --------------------------------------------------------------------------


@pytest.fixture
def sheets(tmp_path, monkeypatch):
    "Tables as spreadsheets write them, in the folder that is worked in."
    import pandas as pd

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(24, 12)).round(3), columns=[f"p {i}" for i in range(12)])
    own = X.assign(fault=["no", "yes"] * 12)
    own.to_csv("excel.csv", sep=";", decimal=",", encoding="utf-8-sig")
    own.to_csv("utf16.csv", sep="\t", encoding="utf-16", index=False)
    own.assign(fault=["heiß", "kühl"] * 12).to_csv("cp.csv", encoding="cp1252", index=False)
    days = pd.date_range("2020-01-01", periods=24).strftime("%d.%m.%Y")
    dated = own.copy()
    dated.insert(0, "day", days)
    dated.assign(who="x").to_csv("dated.csv", index=False)
    big = X * 1e5 + 3e7
    big.assign(fault=own.fault).to_csv("big.csv", index=False)
    np.savez("own.npz", signals=X.to_numpy(), kind=own.fault.to_numpy(dtype=str))
    rows = {"unit": np.repeat(range(24), 12), "at": np.tile(range(12), 24)}
    rows |= {"v": X.to_numpy().ravel(), "fault": np.repeat(own.fault.to_numpy(), 12)}
    long = pd.DataFrame(rows)
    long.to_csv("long.csv", index=False)
    percent = X.map("{:.2f}%".format).assign(fault=own.fault)
    percent.to_csv("percent.csv", index=False)
    return X.to_numpy(dtype=np.float32)


def trained(line, capsys):
    "The command's exit code, what it said on standard error, and the reference that it wrote."
    words = ["--preset", "paper", "--epochs", "1", "--quiet", "--out", "m"]
    code = run("train", *line.split("|"), *words)
    said = capsys.readouterr().err.strip()
    found = sorted(os.listdir("m")) if os.path.isdir("m") else []
    refs = [f"m/{name}" for name in found if name.endswith("-reference.safetensors")]
    return code, said, sd.Reference.load(refs[-1]) if refs else None


def test_doors_quiet_is_quiet_where_work_takes_long(sheets, monkeypatch, capsys):
    "Bars that come of themselves: here work takes long from the first moment on."
    monkeypatch.setattr(distances, "SLOW", 0)
    line = "own.npz|--series|signals|--label|kind"
    assert trained(line, capsys)[:2] == (0, "")
    assert run("train", *line.split("|"), "--preset", "paper", "--epochs", "1", "--out", "n") == 0
    assert "moments" in capsys.readouterr().err
    assert distances.SLOW == 0


def test_doors_train_dream_and_evaluate_need_no_more_words(sheets, capsys):
    "As one types them, each with the folder that it has unless told otherwise."
    line = "own.npz --series signals --label kind --preset paper --epochs 1 --quiet"
    assert run("train", *line.split()) == 0
    dream = "dream own.npz --model models/own-paper --class 0 --n 1 --steps 1 --start other --quiet"
    assert run(*dream.split()) == 0
    capsys.readouterr()
    assert run("evaluate", "dreams") == 0
    assert "sequence dreaming" in capsys.readouterr().out


REMEDIES = {  # without the option: what is asked for; with it: all is well
    "cp.csv|--label|fault": ("--encoding", "--encoding|cp1252"),
    "dated.csv|--label|fault": ("--index 'day'", "--index|day|--index|who"),
    "own.npz": ("--series and --label", "--series|signals|--label|kind"),
    "excel.csv": ("--label", "--label|fault|--index|0"),
    "utf16.csv": ("--label", "--label|-1"),
}


@pytest.mark.parametrize("line", REMEDIES)
def test_doors_what_a_file_leaves_open_can_be_said(line, sheets, capsys):
    asked, remedy = REMEDIES[line]
    code, said, ref = trained(line, capsys)
    assert (code, ref) == (2, None)
    assert len(said.splitlines()) == 1
    assert asked in said
    code, said, ref = trained(f"{line}|{remedy}", capsys)
    assert (code, said) == (0, "")
    assert (ref.n_channels, ref.n_timepoints) == (1, 12)
    assert len(ref.classes) == 2


def test_doors_rows_that_are_points_in_a_shell(sheets, capsys):
    code, said, ref = trained("long.csv|--label|fault|--series|unit|--time|at", capsys)
    assert (code, said) == (0, "")
    assert ref.n_timepoints == 12
    assert ref.physical.sampling_rate == 1


def test_doors_an_index_is_warned_of_in_a_line(sheets, capsys):
    code, said, ref = trained("excel.csv|--label|fault", capsys)
    assert (code, ref.n_timepoints) == (0, 12)
    assert said.startswith("warning: excel.csv: the first column")
    assert "--index none" in said
    assert len(said.splitlines()) == 1
    code, said, ref = trained("excel.csv|--label|fault|--index|none|--standardise", capsys)
    assert code == 0
    refs = [name for name in os.listdir("m") if name.endswith("reference.safetensors")]
    assert {sd.Reference.load(f"m/{name}").n_timepoints for name in refs} == {12, 13}


def test_doors_standardise_in_a_shell(sheets, capsys):
    code, said, ref = trained("big.csv|--label|fault", capsys)
    assert code == 0
    assert "--standardise" in said and "from_arrays" not in said
    code, said, ref = trained("big.csv|--label|fault|--standardise", capsys)
    assert (code, said) == (0, "")
    expected = (sheets.astype(np.float64) * 1e5).std()
    refs = [f"m/{name}" for name in os.listdir("m") if name.endswith("reference.safetensors")]
    scales = sorted(float(np.ravel(sd.Reference.load(r).physical.scale)[0]) for r in refs)
    assert np.allclose(scales, [1, expected], rtol=1e-3)


def test_doors_a_training_with_another_test_is_not_the_same(sheets, capsys):
    assert trained("utf16.csv|--label|fault", capsys)[0] == 0
    code, said, _ = trained("utf16.csv|--label|fault|--test|utf16.csv", capsys)
    assert code == 2
    assert "trained already with --test left out" in said
    code, said, _ = trained("utf16.csv|--label|fault|--sampling-rate|50", capsys)
    assert code == 2
    assert "--sampling-rate" in said
    assert trained("utf16.csv|--label|-1", capsys)[0] == 0


def test_doors_percent_signs(sheets, capsys):
    code, said, _ = trained("percent.csv|--label|fault", capsys)
    assert code == 2
    assert "plain numbers" in said


def test_doors_a_search_of_a_file_read_otherwise(sheets, capsys):
    words = "search utf16.csv --label fault --class yes --levels 1 --jobs 1 --quiet --out s"
    words = [*words.split(), "--model", "paper", "--epochs", "1"]
    assert run(*words) == 0
    assert run(*words) == 0
    capsys.readouterr()
    assert run(*words, "--standardise") == 2
    assert "standardise" in one_line(capsys)


def test_doors_dreams_are_not_written_over_those_of_another_model(tmp_path, capsys):
    words = ["dream", "FordA", "--class", "0", "--n", "1", "--steps", "1", "--quiet", "--out"]
    assert run(*words, tmp_path, "--model", "paper") == 0
    assert run(*words, tmp_path, "--model", "paper") == 0
    before = contents(tmp_path)
    capsys.readouterr()
    assert run(*words, tmp_path, "--model", "wang") == 2
    assert "give another --out" in one_line(capsys)
    other = [words[0], "ItalyPowerDemand", *words[2:]]
    assert run(*other, tmp_path, "--epochs", "1") == 2
    assert "dreams of FordA" in one_line(capsys)
    assert contents(tmp_path) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/dreams.safetensors").write_text("mine")
    assert run(*words, tmp_path / "mine", "--model", "paper") == 2
    assert contents(tmp_path / "mine") == {"dreams.safetensors": b"mine"}


def test_doors_explore_makes_the_pair_again_as_it_was_read(sheets, tmp_path):
    words = "explore excel.csv --label fault --index 0 --model paper --epochs 1 --quiet"
    a = cli.parser(words.split()).parse_args(words.split())
    source, again = cli._saved_source(a, str(tmp_path / "kept"))
    saved, made = {"sd": sd}, {}
    exec(source, saved)
    exec(again, made)
    assert made["ref"].meta["model"] == saved["ref"].meta["model"]
    assert made["ref"].n_timepoints == 12


def test_doors_time_stamps_that_nobody_named_are_asked_about(tmp_path, capsys):
    rows = [
        f"p{i},2024-01-01T00:00:{t:02d},{np.sin(i + t):.3f},{'ab'[i % 2]}"
        for i in range(8)
        for t in range(6)
    ]
    (tmp_path / "walks.csv").write_text("\n".join(["who,at,v,kind", *rows]) + "\n")
    words = ["train", tmp_path / "walks.csv", "--label", "kind", "--series", "who", "--epochs", "1"]
    words += ["--preset", "paper", "--quiet", "--out", tmp_path / "m"]
    assert run(*words) == 2
    assert "name the column with --time; else" in one_line(capsys)
    assert run(*words, "--time", "at") == 0


def test_doors_a_heading_that_is_none_is_said(sheets, tmp_path, capsys):
    (tmp_path / "own.csv").write_text("1,2,no\n2,1,yes\n" * 4)
    code, said, _ = trained("own.csv|--label|fault", capsys)
    assert code == 2
    assert "its first line is no heading" in said


@pytest.mark.parametrize("at, label, word", [(0, 0, "0"), (0, 1, "0"), (4, -1, "-1"), (3, 3, "3")])
def test_doors_a_position_that_is_also_a_label_names_no_heading(at, label, word, tmp_path):
    "In a shell a position is text; where the first series has that label, it is still a series."
    series = np.random.default_rng(0).normal(size=(8, 4))
    classes = np.tile([label, label + 1], 4)
    rows = [[*row[:at], c, *row[at:]] for row, c in zip(series.tolist(), classes, strict=True)]
    text = "\n".join(",".join(map(str, row)) for row in rows) + "\n"
    (tmp_path / "plain.csv").write_text(text)
    data = sd.load_dataset(tmp_path / "plain.csv", label=word)
    np.testing.assert_allclose(data.X_train[:, 0], series, rtol=1e-6)
    assert [data.classes[c] for c in data.y_train] == [str(c) for c in classes]


@pytest.mark.parametrize("n, points", [(2, 3), (4, 6), (4, 2), (2, 40)])
def test_doors_a_handful_of_short_series(n, points, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [",".join(map(str, rng.normal(size=points))) + f",{'ab'[i % 2]}" for i in range(n)]
    head = ",".join([*(f"p{i}" for i in range(points)), "kind"])
    (tmp_path / "few.csv").write_text("\n".join([head, *rows]) + "\n")
    code, said, ref = trained("few.csv|--label|kind", capsys)
    assert (code, said) == (0, "")
    assert ref.X.shape == (n, 1, points)
