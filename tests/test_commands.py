"""Watches over the command as a person runs it: processes, signals, files."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

import seqdream as sd
from seqdream.cli import main
from seqdream.files import read_tensors

SEQDREAM = [sys.executable, "-m", "seqdream.cli"]


def rows(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def run(words: str, *paths, out=None) -> int:
    "Exit code of a command as one types it; paths stand apart, for they may hold spaces."
    where = [] if out is None else ["--out", str(out)]
    return main([*words.split(), *map(str, paths), *where])


def test_train_then_dream_of_it_then_report(tmp_path, capsys):
    train = "train ItalyPowerDemand --preset paper --epochs 15 --quiet"
    assert run(train, out=tmp_path / "m") == 0
    said = capsys.readouterr().out
    card = json.loads((tmp_path / "m/ItalyPowerDemand-paper.json").read_text())
    assert f"test accuracy {card['test_accuracy']:.4f}" in said
    assert card["test_accuracy"] > 0.8
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "ItalyPowerDemand-paper-reference.safetensors",
        "ItalyPowerDemand-paper.json",
        "ItalyPowerDemand-paper.safetensors",
    ]
    model = ("--model", tmp_path / "m/ItalyPowerDemand-paper")
    dream = "dream ItalyPowerDemand --class 1 --region centre --n 3 --quiet"
    assert run(dream, *model, out=tmp_path / "d") == 0
    d = sd.Dreams.load(tmp_path / "d/dreams.safetensors")
    assert d.x.shape == (3, 1, 24)
    assert [r["status"] for r in rows(tmp_path / "d/evaluation.csv")] == d.status
    assert run("report ItalyPowerDemand --n 4 --quiet", *model, out=tmp_path / "r") == 0
    page = (tmp_path / "r/index.html").read_text()
    assert "ItalyPowerDemand" in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="https?://(?!arxiv)', page)


FIGURES = ("figure1a", "figure1b", "figure2", "figure3", "figure4", "spectra")
REPORT = {
    "index.html",
    "table2.csv",
    "table3.csv",
    "evaluation.csv",
    "settings.json",
    "dreams",
    "table2.md",
    "model",
    "classes",
    *(f"{name}.{ending}" for name in FIGURES for ending in ("png", "svg")),
}


def test_report_of_six_classes(tmp_path):
    """A set that has no bundled model, and more than two classes: trains first.

    The report's files hold what the design names.
    """
    report = tmp_path / "r"
    assert run("report OSULeaf --model paper --epochs 2 --n 3 --quiet", out=report) == 0
    files = {p.name for p in report.iterdir()}
    assert files >= REPORT
    table = rows(report / "table3.csv")
    columns = [*sd.METHODS, *sd.CONTROLS]
    around = {f"{c}_{e}" for c in columns for e in ("low", "high", "percentile")}
    assert len(table) == 24
    assert {"class", "kind", "min", "max", *columns, *around} <= set(table[0])
    assert len(list((report / "dreams").iterdir())) == 42
    assert [p.name for p in tmp_path.iterdir()] == ["r"]
    assert {p.stem for p in (report / "classes").iterdir()} == set("012345")
    page = (report / "index.html").read_text()
    assert all(f'href="classes/{c}.png"' in page for c in range(6))
    dreams = [report / f"dreams/{name}.safetensors" for name in ("sd_max-class3", "ellis-class0")]
    # the model is found beside the report
    assert run("evaluate", *dreams, out=tmp_path / "e.csv") == 0

    def key(row):
        return row["method"], row["target_class"], row["row"]

    told = {key(r): float(r["score"]) for r in rows(report / "evaluation.csv")}
    again = rows(tmp_path / "e.csv")
    assert len(again) == 6
    compared = [r for r in again if r["region"] != "centre" and r["method"] == "ellis"]
    assert all(told[key(r)] == pytest.approx(float(r["score"]), abs=1e-5) for r in compared)


def test_report_with_classes_of_one_series(tmp_path):
    folder = tmp_path / "Lonely"
    folder.mkdir()
    g = torch.Generator().manual_seed(0)
    for part in ("TRAIN", "TEST"):
        series = [[c, *torch.randn(30, generator=g).tolist()] for c in (1, 1, 2, 1, 3, 3, 3)]
        lines = ["\t".join(map(str, row)) + "\n" for row in series]
        (folder / f"Lonely_{part}.tsv").write_text("".join(lines))
    report = "report Lonely --model paper --epochs 1 --n 2 --quiet"
    assert run(report, "--root", tmp_path, out=tmp_path / "r") == 0
    assert "Without distances" in (tmp_path / "r/index.html").read_text()
    assert {r["class"] for r in rows(tmp_path / "r/table2.csv")} == {"0", "2"}


def test_other_seeds_are_bundled_too(tmp_path):
    bundled = {m for n, m in sd.pretrained_models() if n == "FordA"}
    assert bundled == {"wang", "paper", "paper-1", "paper-2", "paper-3", "paper-4"}
    dream = "dream FordA --model paper-3 --class 0 --n 1 --steps 2 --quiet"
    assert run(dream, out=tmp_path / "d") == 0
    model, ref = sd.load_pretrained("FordA", "paper-3")
    assert torch.allclose(sd.predict(model, ref.X[:9]), ref.activations[ref.index[:9]], atol=1e-3)
    assert torch.equal(ref.X, sd.load_pretrained("FordA", "paper")[1].X)


def test_evaluate_of_bundled_models_and_of_strangers(tmp_path, capsys, small):
    model, ref = small
    d = sd.target_descent(model, ref, 1, n=2, steps=3)
    file = tmp_path / "d.safetensors"
    d.save(file)
    assert run("evaluate", tmp_path) == 0  # a folder; the model is found by its fingerprint
    assert "target descent" in capsys.readouterr().out
    assert run("evaluate --model paper", file, out=tmp_path / "t.csv") == 0
    scores = [float(r["score"]) for r in rows(tmp_path / "t.csv")]
    assert scores == pytest.approx(d.activations[:, 1].tolist(), abs=1e-4)
    d.settings["model"] = "0123"
    d.save(file)
    capsys.readouterr()
    assert run("evaluate", file) == 2
    assert "--model" in capsys.readouterr().err
    (tmp_path / "e").mkdir()
    assert run("evaluate", tmp_path / "e") == 2
    assert "no dreams" in capsys.readouterr().err
    (tmp_path / "f.safetensors").write_bytes(b"something else")
    assert run("evaluate", tmp_path / "f.safetensors") == 2


def epochs_in(file):
    "Finished epochs in a checkpoint; 0 while there is none."
    if not file.exists():
        return 0
    _, meta = read_tensors(file, "training checkpoint")
    return len(meta["rows"])


def hear_ctrl_c():
    "A suite that is started in the background inherits 'ignore Ctrl-C'."
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_train_survives(blow, tmp_path):
    """Ctrl-C and kill -9 leave a checkpoint that loads.

    The same command goes on, and ends with what was never interrupted.
    """
    words = "train ItalyPowerDemand --preset paper --epochs 60 --quiet"
    train = [*SEQDREAM, *words.split()]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    command = [*train, "--out", str(tmp_path / "a")]
    process = subprocess.Popen(command, env=env, preexec_fn=hear_ctrl_c, **pipes)
    file = tmp_path / "a/.ItalyPowerDemand-paper.training.safetensors"
    end = time.time() + 120
    while epochs_in(file) < 2 and time.time() < end:
        time.sleep(0.05)  # files appear whole, so reading one while it is replaced is safe
    process.send_signal(blow)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if blow == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in err
    assert 0 < epochs_in(file) < 60
    assert not (tmp_path / "a/ItalyPowerDemand-paper.safetensors").exists()
    weights = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        command = [*train, "--out", str(folder)]
        subprocess.run(command, env=env, check=True, capture_output=True)
        model, _ = sd.load_model(folder / "ItalyPowerDemand-paper")
        weights.append(model.state_dict())
    one, two = weights
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_dream_interrupted_keeps_what_there_is(small):
    model, ref = small

    def interrupt(step, so_far):
        if step == 2:
            raise KeyboardInterrupt

    d = sd.sequence_dreaming(model, ref, 1, n=2, callback=interrupt)
    assert "stopped" in d.status
    assert len(d.history["loss"]) == 3


def test_report_interrupted_leaves_the_old_one(tmp_path, monkeypatch):
    out = tmp_path / "r"

    def contents():
        return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    assert run("report FordA --model paper --n 1 --quiet", out=out) == 0
    before = contents()
    monkeypatch.setattr("seqdream.report.save_figure", interrupt)
    assert run("report FordA --model paper --n 2 --quiet", out=out) == 130
    assert contents() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("command", ["report", "train", "dream", "evaluate"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example:  seqdream {command}" in capsys.readouterr().out
