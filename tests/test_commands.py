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
    assert {"index.html", "table2.csv", "table3.csv", "evaluation.csv", "settings.json", "dreams", "table2.md", "model", "classes", *(f"{f}.{e}" for f in ("figure1a", "figure1b", "figure2", "figure3", "figure4", "spectra") for e in ("png", "svg"))} <= files
    table = rows(tmp_path / "r/table3.csv")
    columns = [*sd.METHODS, *sd.CONTROLS]
    assert len(table) == 24 and {"class", "kind", "min", "max", *columns, *(f"{c}_{e}" for c in columns for e in ("low", "high", "percentile"))} <= set(table[0])
    assert len(list((tmp_path / "r/dreams").iterdir())) == 42 and [p.name for p in tmp_path.iterdir()] == ["r"]
    assert {p.stem for p in (tmp_path / "r/classes").iterdir()} == set("012345") and all(f'href="classes/{c}.png"' in (tmp_path / "r/index.html").read_text() for c in range(6))
    assert main(["evaluate", str(tmp_path / "r/dreams/sd_max-class3.safetensors"), str(tmp_path / "r/dreams/ellis-class0.safetensors"), "--out", str(tmp_path / "e.csv")]) == 0   # finds the model beside the report
    told = {(r["method"], r["target_class"], r["row"]): r["score"] for r in rows(tmp_path / "r/evaluation.csv")}
    again = rows(tmp_path / "e.csv")
    assert len(again) == 6 and all(float(told[r["method"], r["target_class"], r["row"]]) == pytest.approx(float(r["score"]), abs=1e-5) for r in again if r["region"] != "centre" and r["method"] == "ellis")


def test_report_with_classes_of_one_series(tmp_path):
    d = tmp_path / "Lonely"; d.mkdir()
    g = torch.Generator().manual_seed(0)
    for part in ("TRAIN", "TEST"):
        (d / f"Lonely_{part}.tsv").write_text("".join("\t".join(map(str, [c, *torch.randn(30, generator=g).tolist()])) + "\n" for c in ("a", "a", "b", "a", "c", "c", "c")).replace("a\t", "1\t").replace("b\t", "2\t").replace("c\t", "3\t"))
    assert main(["report", "Lonely", "--root", str(tmp_path), "--model", "paper", "--epochs", "1", "--n", "2", "--out", str(tmp_path / "r"), "--quiet"]) == 0
    assert "Without distances" in (tmp_path / "r/index.html").read_text() and {r["class"] for r in rows(tmp_path / "r/table2.csv")} == {"0", "2"}


def test_other_seeds_are_bundled_too(tmp_path):
    assert {m for n, m in sd.pretrained_models() if n == "FordA"} == {"wang", "paper", *(f"paper-{i}" for i in range(1, 5))}
    assert main(["dream", "FordA", "--model", "paper-3", "--class", "0", "--n", "1", "--steps", "2", "--out", str(tmp_path / "d"), "--quiet"]) == 0
    model, ref = sd.load_pretrained("FordA", "paper-3")
    assert torch.allclose(sd.predict(model, ref.X[:9]), ref.activations[ref.index[:9]], atol=1e-3) and torch.equal(ref.X, sd.load_pretrained("FordA", "paper")[1].X)


def test_evaluate_of_bundled_models_and_of_strangers(tmp_path, capsys, small):
    model, ref = small
    d = sd.target_descent(model, ref, 1, n=2, steps=3)
    d.save(tmp_path / "d.safetensors")
    assert main(["evaluate", str(tmp_path)]) == 0 and "target descent" in capsys.readouterr().out           # a folder; the model is found by its fingerprint
    assert main(["evaluate", str(tmp_path / "d.safetensors"), "--model", "paper", "--out", str(tmp_path / "t.csv")]) == 0
    assert [float(r["score"]) for r in rows(tmp_path / "t.csv")] == pytest.approx(d.activations[:, 1].tolist(), abs=1e-4)
    d.settings["model"] = "0123"; d.save(tmp_path / "d.safetensors"); capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "d.safetensors")]) == 2 and "--model" in capsys.readouterr().err
    (tmp_path / "e").mkdir()
    assert main(["evaluate", str(tmp_path / "e")]) == 2 and "no dreams" in capsys.readouterr().err
    (tmp_path / "f.safetensors").write_bytes(b"something else")
    assert main(["evaluate", str(tmp_path / "f.safetensors")]) == 2


def epochs_in(file):
    "Finished epochs in a checkpoint; 0 while there is none."
    from seqdream.models import read_tensors
    return len(read_tensors(file, "training checkpoint")[1]["rows"]) if file.exists() else 0


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_train_survives(blow, tmp_path):
    "Ctrl-C and kill -9 leave a checkpoint that loads; the same command goes on and ends with what was never interrupted."
    argv = ["train", "ItalyPowerDemand", "--preset", "paper", "--epochs", "60", "--quiet"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*SEQDREAM, *argv, "--out", str(tmp_path / "a")], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # a suite started in the background inherits "ignore Ctrl-C"
    file = tmp_path / "a/.ItalyPowerDemand-paper.training.safetensors"
    end = time.time() + 120
    while epochs_in(file) < 2 and time.time() < end: time.sleep(.05)   # files appear whole, so reading one while it is replaced is safe
    process.send_signal(blow)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if blow == signal.SIGINT else -signal.SIGKILL) and "Traceback" not in err
    assert 0 < epochs_in(file) < 60 and not (tmp_path / "a/ItalyPowerDemand-paper.safetensors").exists()
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


@pytest.mark.parametrize("command", ["report", "train", "dream", "evaluate"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop: main([command, "--help"])
    assert stop.value.code == 0 and f"example:  seqdream {command}" in capsys.readouterr().out
