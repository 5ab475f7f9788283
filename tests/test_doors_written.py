"""Watches over what is written: nothing outside its folder, nothing half, no damage unseen."""

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import seqdream as sd
from seqdream import files, report
from seqdream.files import file_name, inside, read_tensors, sweep, write_tensors, write_whole

HOSTILE = ["../../x", "/etc/passwd", "~", "~/x", "a\0b", "con", "NUL", "..", ".", "", "x" * 300]
HOSTILE += ["a/b", "a\\b", "é" * 200, " spaces ", "trailing.", "\ud800", "new\nline", "<script>"]


@pytest.mark.parametrize("name", HOSTILE)
def test_doors_a_foreign_name_stays_in_its_folder(name, tmp_path):
    file = tmp_path / file_name(name)
    assert file.parent == tmp_path
    file.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    assert file.resolve().parent == tmp_path.resolve()


def test_doors_names_stay_what_they_are_and_apart():
    for name in ("FordA", "v1.2", "Größe (2)", "心電図", "a b", "-1", "p.q.r"):
        assert file_name(name) == name
    made = [file_name(name) for name in HOSTILE]
    assert len(set(made)) == len(made)
    for name in ("../x", "a/b", "/x", "..", "a\0", "", None, 3, "a\\b"):
        with pytest.raises(ValueError, match="nothing outside"):
            inside("folder", name)


@pytest.mark.parametrize("name", ["../../x", "/tmp/absolute", "v1.2", "x" * 300])
def test_doors_a_kept_model_of_a_foreign_name(name, small, tmp_path):
    model, ref = small
    foreign = replace(ref, meta={**ref.meta, "name": name})
    before = set(os.listdir("/tmp")) if name.startswith("/") else set()
    folder = tmp_path / "a" / "b" / "model"
    folder.parent.mkdir(parents=True)
    report._keep_model(folder, model, {"preset": "../" + name}, foreign)
    assert len(list(folder.iterdir())) == 3
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {
        p.name for p in folder.iterdir()
    }
    assert not before or "absolute-reference.safetensors" not in set(os.listdir("/tmp")) - before


def test_doors_a_dot_in_a_name_is_no_suffix(small, tmp_path):
    sd.save_model(small[0], tmp_path / "v1.2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v1.2.json", "v1.2.safetensors"]
    for given in ("v1.2", "v1.2.safetensors", "v1.2.json", "v1.2-reference.safetensors"):
        sd.load_model(tmp_path / given)


def test_doors_a_reference_shares_with_files_beside_it_only(small, tmp_path):
    ref = small[1]
    (tmp_path / "in").mkdir()
    first = ref.save(tmp_path / "in/first.safetensors")
    second = ref.save(tmp_path / "in/second.safetensors", shares=first)
    assert torch.equal(sd.Reference.load(second).X, ref.X)
    tensors, meta = read_tensors(second, "reference")
    os.rename(first, tmp_path / "first.safetensors")
    for name in ("../first.safetensors", str(tmp_path / "first.safetensors"), "..", 3, None):
        meta["shares"]["file"] = name
        write_tensors(second, tensors, meta, "reference")
        with pytest.raises(ValueError, match="second.safetensors|nothing outside"):
            sd.Reference.load(second)


# --- checksums ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(small, tmp_path_factory):
    "A file of each kind, and how it is read."
    folder = tmp_path_factory.mktemp("kept")
    model, ref = small
    d = sd.dream(model, ref.exemplars(0, 1), sd.score(0), steps=1)
    sd.save_model(model, folder / "model")
    ref.save(folder / "reference.safetensors")
    d.save(folder / "dreams.safetensors")
    return {
        folder / "model.safetensors": sd.load_model,
        folder / "reference.safetensors": sd.Reference.load,
        folder / "dreams.safetensors": sd.Dreams.load,
    }


def test_doors_a_flipped_bit_is_named(kept):
    draw = random.Random(0)
    for file, load in kept.items():
        whole = file.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little")
        places = [draw.randrange(header) for _ in range(40)]
        places += [draw.randrange(header, len(whole)) for _ in range(20)]
        for place in places:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << draw.randrange(8)
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=file.name):
                load(file)
        file.write_bytes(whole)
        load(file)


def test_doors_files_without_a_checksum_are_read(kept):
    for file in kept:
        with safe_open(str(file), "pt") as f:
            head = f.metadata()
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        assert len(head.pop("sha256")) == 64
        old = file.with_name(f"old-{file.name}")
        save_file(tensors, str(old), head)
        again, meta = read_tensors(old, file.stem)
        assert all(torch.equal(again[name], v) for name, v in tensors.items())
        assert meta == json.loads(head["meta"])


def test_doors_a_checksum_costs_little():
    tensors = {"x": torch.randn(5_000_000)}
    began = time.perf_counter()
    files._checksum(tensors, {})
    assert time.perf_counter() - began < 30


# --- files that tell something else ---------------------------------------------------------------


def strangers(folder):
    "Files that people take for ours."
    torch.save({"w": torch.eye(2)}, folder / "w.pt")
    np.save(folder / "a.npy", np.eye(2))
    np.savez(folder / "a.npz", np.eye(2))
    (folder / "a.json").write_text('{"a": 1}')
    (folder / "empty").write_bytes(b"")
    (folder / "h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90))
    save_file({"w": torch.eye(2)}, str(folder / "foreign.safetensors"))
    (folder / "folder").mkdir()
    return sorted(folder.iterdir())


def test_doors_strangers_are_called_what_they_are(tmp_path):
    loads = (sd.load_model, sd.Reference.load, sd.Dreams.load, sd.load_judges)
    for file in strangers(tmp_path):
        for load in loads:
            with pytest.raises((ValueError, OSError), match=file.name) as e:
                load(file)
            assert "\n" not in str(e.value)
    for load in loads[:3]:
        with pytest.raises(ValueError, match="torch.save"):
            load(tmp_path / "w.pt")


METAS = [{}, {"status": 3}, {"status": [], "settings": []}, {"settings": {}}, {"status": None}]


@pytest.mark.parametrize("meta", METAS)
def test_doors_settings_of_the_wrong_shape(meta, kept, tmp_path):
    for file, load in list(kept.items())[1:]:
        tensors, _ = read_tensors(file, file.stem)
        bad = write_tensors(tmp_path / file.name, tensors, meta, file.stem)
        with pytest.raises(ValueError, match=file.name) as e:
            load(bad)
        assert "\n" not in str(e.value)


def test_doors_settings_that_are_no_table(tmp_path):
    for meta in ("[1]", "3", "null", "{", "", "\xff", "[" * 100_000):
        save_file({}, str(tmp_path / "x"), {"seqdream": "tensors", "meta": meta})
        with pytest.raises(ValueError, match="x: damaged"):
            read_tensors(tmp_path / "x")


CARDS = [b"", b"[]", b"3", b"\xff\xfe", b'{"architecture": 3}', b'{"architecture": "ResNet"}']
CARDS += [b"[" * 100_000, b'{"architecture": "ResNet", "config": {"filters": "x"}}']


@pytest.mark.parametrize("card", CARDS, ids=lambda card: repr(card[:20]))
def test_doors_cards_of_the_wrong_shape(card, small, tmp_path):
    sd.save_model(small[0], tmp_path / "m")
    (tmp_path / "m.json").write_bytes(card)
    with pytest.raises(ValueError, match="m.json.*copy both files again") as e:
        sd.load_model(tmp_path / "m")
    assert "\n" not in str(e.value)


# --- nothing half, nothing lost -------------------------------------------------------------------


@contextmanager
def disk_of(nbytes):
    "A disk on which no file can be larger."
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_doors_a_full_disk(small, tmp_path):
    model, ref = small
    d = sd.dream(model, ref.exemplars(0, 2), sd.score(0), steps=1)
    writes = {
        "model.safetensors": lambda: sd.save_model(model, tmp_path / "model"),
        "reference": lambda: ref.save(tmp_path / "reference"),
        "dreams": lambda: d.save(tmp_path / "dreams"),
        "picture.png": lambda: sd.save_figure(sd.plot_dreams(d, ref), tmp_path / "picture"),
        "table.csv": lambda: write_whole(tmp_path / "table.csv", sd.evaluate(d, ref).to_csv),
    }
    for write in writes.values():
        write()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for name, write in writes.items():
        with disk_of(200), pytest.raises(OSError, match="intact") as e:
            write()
        assert e.value.errno == errno.EFBIG
        assert os.path.basename(e.value.filename) == name
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left")])
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("old", [True, False])
def test_doors_interrupted_between_weights_and_card(error, nth, old, tmp_path, monkeypatch):
    first = sd.ResNet.preset("paper", seed=1)
    if old:
        sd.save_model(first, tmp_path / "m", {"seed": 1})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = os.replace
    count = []

    def replace(a, b):
        count.append(b)
        if len(count) == nth:
            raise error
        return real(a, b)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises((KeyboardInterrupt, OSError)):
        sd.save_model(sd.ResNet.preset("paper", seed=2), tmp_path / "m", {"seed": 2})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    if old:
        assert sd.load_model(tmp_path / "m")[1]["seed"] == 1


KILLED = """
import sys, time
from seqdream.files import write_whole
def slowly(path):
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
write_whole(sys.argv[1], slowly)
"""


def test_doors_temporary_files_of_the_dead_are_swept_of_the_living_not(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "file")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    (half,) = os.listdir(tmp_path)
    mine = tmp_path / ".file-notes.part"
    mine.write_text("mine")
    write_whole(tmp_path / "other", lambda path: path.write_text("whole"))
    assert (tmp_path / half).exists()  # its writer lives
    process.kill()
    process.wait()
    write_whole(tmp_path / "other", lambda path: path.write_text("whole"))
    assert sorted(os.listdir(tmp_path)) == sorted(["other", mine.name])
    elsewhere = half.replace(files._HOST, "another", 1)
    (tmp_path / elsewhere).write_text("half")
    sweep(tmp_path)
    assert (tmp_path / elsewhere).exists()


def test_doors_links_devices_folders_and_modes(tmp_path):
    def write(path):
        path.write_text("new")

    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", write)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o600
    write_whole("/dev/null", write)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write_whole(tmp_path, write)
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_doors_a_search_that_could_not_begin_can_begin_again(small, tmp_path):
    one = {"steps": [2], "lr": [0.1]}

    def walk():
        return sd.grid_search(*small, 1, grid=one, out=tmp_path / "s", progress=False)

    with disk_of(20), pytest.raises(OSError, match="intact"):
        walk()
    assert walk().finished


# --- the folder of a report -----------------------------------------------------------------------


def make(out, **made):
    "A report that holds these files (two underscores for a folder)."
    with report._appearing(report.check_folder(out)) as aside:
        (aside / report.MARK).write_text(json.dumps({"made_by": "seqdream report"}))
        for name, text in made.items():
            path = aside / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


def texts(out):
    "What lies in a folder."
    found = (p for p in out.rglob("*") if p.is_file() and p.name != report.MARK)
    return {p.relative_to(out).as_posix(): p.read_text() for p in found}


def test_doors_a_report_keeps_what_is_not_its_own(tmp_path):
    out = tmp_path / "r"
    make(out, table="1", dreams__a="2", classes__0="3")
    (out / "mine").write_text("m")
    (out / "dreams/mine").write_text("m")
    (out / "table").write_text("edited")
    make(out, table="4", dreams__b="5", mine="6")
    assert texts(out) == {
        "table": "4",
        "table.yours": "edited",
        "dreams/b": "5",
        "dreams/mine": "m",
        "mine": "6",
        "mine.yours": "m",
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r"]
    assert not (out / "classes").exists()


def test_doors_a_report_believes_no_list_that_leads_outside(tmp_path):
    (tmp_path / "thesis").write_text("years")
    out = tmp_path / "r"
    make(out, table="1")
    told = json.loads((out / report.MARK).read_text())
    digest = report._digest(tmp_path / "thesis")
    (out / "away").symlink_to(tmp_path)
    for name in ("../thesis", str(tmp_path / "thesis"), "away/thesis", "a\0", ""):
        told["files"][name] = [digest]
    told["files"] |= {"b": 3, "c": None}
    (out / report.MARK).write_text(json.dumps(told))
    make(out, table="1.5")
    assert (tmp_path / "thesis").read_text() == "years"
    make(out, table="2", away__x="3")
    assert not (tmp_path / "x").exists()
    assert (out / "table").read_text() == "2"
    for files_told in ([], "x", None, 3):
        (out / report.MARK).write_text(json.dumps(told | {"files": files_told}))
        make(out, table="3")


def test_doors_reports_through_links_and_here(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    make(tmp_path / "link", table="1")
    make(tmp_path / "link", table="2")
    assert (tmp_path / "link").is_symlink()
    assert texts(tmp_path / "real") == {"table": "2"}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make(".", table="1")
    make(".", table="2")
    assert os.listdir() and texts(tmp_path / "here") == {"table": "2"}
    for bad in (tmp_path, "/", os.path.expanduser("~"), tmp_path / "here/table"):
        with pytest.raises(FileExistsError):
            report.check_folder(bad)


def test_doors_a_folder_is_looked_at_again_when_it_is_replaced(tmp_path):
    out = tmp_path / "r"

    def filled_meanwhile():
        with report._appearing(report.check_folder(out)) as aside:
            (aside / report.MARK).write_text(json.dumps({"made_by": "seqdream report"}))
            out.mkdir()
            (out / "diary").write_text("dear")

    with pytest.raises(FileExistsError, match="the report is in .*r-2"):
        filled_meanwhile()
    assert texts(out) == {"diary": "dear"}
    assert report._is_report(tmp_path / "r-2")


@pytest.mark.parametrize("text", ["", "[]", "3", '{"made_by": 3}', "\xff"])
def test_doors_a_folder_with_other_settings_is_no_report(text, tmp_path):
    (tmp_path / report.MARK).write_text(text, encoding="latin-1")
    with pytest.raises(FileExistsError, match="no earlier report"):
        report.check_folder(tmp_path)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(1, 9))
def test_doors_training_of_few_steps_learns(steps):
    g = torch.Generator().manual_seed(0)
    X = torch.randn(8, 1, 20, generator=g)
    y = torch.arange(8) % 2
    model = sd.ResNet(1, 2, (4,), (3,))
    before = model.head.weight.detach().clone()
    how = {"batch_size": 8, "validation": 0.0, "progress": False, "lr": 1e-2}
    history = sd.fit(model, (X, y), epochs=steps, **how)
    assert len(history) == steps
    moved = (model.head.weight - before).abs().max()
    assert moved > 5e-3  # Adam's first step at the full rate moves each weight by about 1e-2


def test_doors_a_checkpoint_that_makes_no_sense(tmp_path):
    g = torch.Generator().manual_seed(0)
    data = (torch.randn(8, 1, 20, generator=g), torch.arange(8) % 2)
    write_tensors(tmp_path / "c", {}, {"settings": 3}, "training checkpoint")
    with pytest.raises(ValueError, match="c: no training checkpoint"):
        sd.fit(sd.ResNet.preset("paper"), data, epochs=1, checkpoint=tmp_path / "c", progress=False)


def test_doors_a_killed_training_leaves_no_temporary_file(tmp_path):
    words = ["train", "ItalyPowerDemand", "--preset", "paper", "--epochs", "500", "--quiet"]
    command = [sys.executable, "-m", "seqdream.cli", *words, "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    checkpoint = tmp_path / ".ItalyPowerDemand-paper.training.safetensors"
    while not checkpoint.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (tmp_path / f".seqdream-{files._HOST}-{process.pid}-0123abcd.part").write_text("half")
    sweep(tmp_path)
    assert os.listdir(tmp_path) == [checkpoint.name]
