"""The command as a person runs it: processes, signals, files."""
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

SEQDREAM = [sys.executable, "-m", "seqdream.cli"]


def rows(path):
    with open(path, newline="") as f: return list(csv.DictReader(f))


def test_train_then_dream_of_it_then_report(tmp_path, capsys):
    assert main(["train", "ItalyPowerDemand", "--preset", "paper", "--epochs", "15", "--out", str(tmp_path / "m"), "--quiet"]) == 0
    said = capsys.readouterr().out
    card = json.loads((tmp_path / "m/ItalyPowerDemand-paper.json").read_text())
    assert f"test accuracy {card['test_accuracy']:.4f}" in said and card["test_accuracy"] > .8 and sorted(p.name for p in (tmp_path / "m").iterdir()) == ["ItalyPowerDemand-paper-reference.safetensors", "ItalyPowerDemand-paper.json", "ItalyPowerDemand-paper.safetensors"]
    model = str(tmp_path / "m/ItalyPowerDemand-paper")
    assert main(["dream", "ItalyPowerDemand", "--model", model, "--class", "1", "--region", "centre", "--n", "3", "--out", str(tmp_path / "d"), "--quiet"]) == 0
    d = sd.Dreams.load(tmp_path / "d/dreams.safetensors")
    assert d.x.shape == (3, 1, 24) and [r["status"] for r in rows(tmp_path / "d/evaluation.csv")] == d.status
    assert main(["report", "ItalyPowerDemand", "--model", model, "--n", "4", "--out", str(tmp_path / "r"), "--quiet"]) == 0
    page = (tmp_path / "r/index.html").read_text()
    assert "ItalyPowerDemand" in page and "<script" not in page and not re.search(r'(src|href)="https?://(?!arxiv)', page)


def test_report_of_six_classes(tmp_path):
    "A set that has no bundled model, and more than two classes: trains first; its files hold what the design names."
    assert main(["report", "OSULeaf", "--model", "paper", "--epochs", "2", "--n", "3", "--out", str(tmp_path / "r"), "--quiet"]) == 0
    files = {p.name for p in (tmp_path / "r").iterdir()}
    assert {"index.html", "table2.csv", "table3.csv", "evaluation.csv", "settings.json", "dreams", *(f"{f}.{e}" for f in ("figure2", "figure4") for e in ("png", "svg"))} <= files
    table = rows(tmp_path / "r/table3.csv")
    assert len(table) == 18 and {"class", "kind", "min", "max", "sd_centre", "sd_centre_low", "sd_centre_high", "sd_max", "sd_max_low", "sd_max_high"} <= set(table[0])
    assert len(list((tmp_path / "r/dreams").iterdir())) == 12 and [p.name for p in tmp_path.iterdir()] == ["r"]


def test_report_with_classes_of_one_series(tmp_path):
    d = tmp_path / "Lonely"; d.mkdir()
    g = torch.Generator().manual_seed(0)
    for part in ("TRAIN", "TEST"):
        (d / f"Lonely_{part}.tsv").write_text("".join("\t".join(map(str, [c, *torch.randn(30, generator=g).tolist()])) + "\n" for c in ("a", "a", "b", "a", "c", "c", "c")).replace("a\t", "1\t").replace("b\t", "2\t").replace("c\t", "3\t"))
    assert main(["report", "Lonely", "--root", str(tmp_path), "--model", "paper", "--epochs", "1", "--n", "2", "--out", str(tmp_path / "r"), "--quiet"]) == 0
    assert "Without distances" in (tmp_path / "r/index.html").read_text() and {r["class"] for r in rows(tmp_path / "r/table2.csv")} == {"0", "2"}


def epochs_in(file):
    "Finished epochs in a checkpoint; 0 while there is none."
    from seqdream.models import read_tensors
    return len(read_tensors(file, "training checkpoint")[1]["rows"]) if file.exists() else 0


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_train_survives(blow, tmp_path):
    "Ctrl-C and kill -9 leave a checkpoint that loads; the same command goes on and ends with what was never interrupted."
    argv = ["train", "ItalyPowerDemand", "--preset", "paper", "--epochs", "40", "--quiet"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*SEQDREAM, *argv, "--out", str(tmp_path / "a")], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    file = tmp_path / "a/.ItalyPowerDemand-paper.training.safetensors"
    end = time.time() + 120
    while epochs_in(file) < 2 and time.time() < end: time.sleep(.05)   # files appear whole, so reading one while it is replaced is safe
    process.send_signal(blow)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if blow == signal.SIGINT else -signal.SIGKILL) and "Traceback" not in err
    assert 0 < epochs_in(file) < 40 and not (tmp_path / "a/ItalyPowerDemand-paper.safetensors").exists()
    for folder in ("a", "b"): subprocess.run([*SEQDREAM, *argv, "--out", str(tmp_path / folder)], env=env, check=True, capture_output=True)
    one, two = (sd.load_model(tmp_path / f / "ItalyPowerDemand-paper")[0].state_dict() for f in ("a", "b"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_dream_interrupted_keeps_what_there_is(small):
    model, ref = small
    def interrupt(step, so_far):
        if step == 2: raise KeyboardInterrupt
    d = sd.sequence_dreaming(model, ref, 1, n=2, callback=interrupt)
    assert "stopped" in d.status and len(d.history["loss"]) == 3


def test_report_interrupted_leaves_the_old_one(tmp_path, monkeypatch):
    out = tmp_path / "r"
    assert main(["report", "FordA", "--model", "paper", "--n", "1", "--out", str(out), "--quiet"]) == 0
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    monkeypatch.setattr("seqdream.report.save_figure", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["report", "FordA", "--model", "paper", "--n", "2", "--out", str(out), "--quiet"]) == 130
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before and [p.name for p in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("command", ["report", "train", "dream"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop: main([command, "--help"])
    assert stop.value.code == 0 and f"example:  seqdream {command}" in capsys.readouterr().out
