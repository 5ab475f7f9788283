"""Watches over a stranger's text: any label, channel, unit or name, in every place it is shown."""

import csv
import html.parser
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import seqdream as sd
from seqdream import explorer, figures, report
from seqdream.cli import main

TEXTS = {
    "dollars": "US$ or $x^2",
    "mathematics": r"$\frac{1}{2}$",
    "broken mathematics": r"$\frac{$",
    "underscore": "_hidden_",
    "backslash": r"C:\new\table",
    "escaped dollar": r"a\$b$",
    "surrogate": "file-\udcff",
    "script": "<script>alert('x')</script>&amp;",
    "newline": "two\nlines\r\n\ttab",
    "terminal": "\x1b[31mred\x07",
    "emoji": "👩\u200d🔬 heart ❤",
    "right to left": "שלום \u202eabc",
    "long": "x" * 300,
    "braces": "{{ 7 * 7 }} {x} %s %(a)d",
    "quotes": "\"'`, ;",
}
rng = np.random.default_rng(0)


def tiny(text, channels: int = 2):
    "A set, a model and a reference in which everything that has a name is called so."
    wave = np.sin(np.arange(24) / 3 + rng.uniform(0, 6, (16, channels, 1)))
    x = wave + 0.1 * rng.normal(size=wave.shape)
    names = tuple(f"{text} {c}" for c in range(channels))
    physical = sd.Physical(10.0, names, f"{text}")
    labels = [text, "other"] * 8
    data = sd.Dataset.from_arrays(x, labels, x, labels, name=f"a {text}", physical=physical)
    model = sd.ResNet.preset("paper", channels, 2, 0)
    named = {"classes": data.classes, "name": data.name, "physical": data.physical}
    return data, model, sd.Reference.from_data(model, data.X_train, data.y_train, **named)


def without_boxes(text: str) -> str:
    "The two of `TEXTS`'s characters that no font of matplotlib's own has, written out."
    return text.replace("👩", "\\U0001f469").replace("🔬", "\\U0001f52c")


def shown(artist_text: str) -> str:
    "What matplotlib draws for it."
    from matplotlib.text import Text

    text, is_math = Text()._preprocess_math(artist_text)
    assert not is_math
    return text


@pytest.mark.parametrize("what", TEXTS)
def test_figures_show_text_as_it_stands(what):
    text = TEXTS[what]
    _, model, ref = tiny(text)
    c = ref.check_class(0)
    sets = [sd.sequence_dreaming(model, ref, c, n=2, steps=2)]
    drawn = [sd.plot_dreams(sets, ref)]
    if what in ("broken mathematics", "long", "surrogate"):
        drawn += [sd.plot_activations(ref), sd.plot_projection(ref, sets)]
        drawn += [sd.plot_violins(sets, ref), sd.plot_spectra(sets, ref)]
    plain = without_boxes(figures.class_name(ref, 0))
    for fig in drawn:
        fig.canvas.draw()
        texts = [shown(t.get_text()) for t in fig.findobj(match=lambda a: hasattr(a, "get_text"))]
        assert any(plain[:20] in t for t in texts if t), fig
        assert max(map(len, texts)) < 250
    axis = [shown(t.get_text()) for t in drawn[0].axes[0].get_yticklabels()]
    assert len(axis) == 2
    assert "\n" not in axis[0]
    begin = without_boxes(figures.short_text(text, 20))[:10]
    assert axis[0].strip().startswith(begin)


@pytest.mark.parametrize("what", [*TEXTS, "Chinese"])
def test_figures_draw_no_boxes(what, recwarn):
    "What no font of the figure has is written out: matplotlib has nothing to warn of."
    _, _, ref = tiny({**TEXTS, "Chinese": "心跳"}[what])
    sd.plot_activations(ref).savefig(io.BytesIO())
    figures.drawn("👩" * 60)
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_figures_write_out_what_their_fonts_lack(monkeypatch):
    import matplotlib

    assert figures.drawn("👩 heart ❤") == "\\U0001f469 heart ❤"
    assert figures.drawn("心$") == r"\u5fc3\$"
    assert len(figures.drawn("👩" * 60)) <= 60
    last = next(f for f in matplotlib.font_manager.fontManager.ttflist if "STIXNonUni" in f.name)
    matplotlib.rcParams["font.family"] = [last.name]
    try:
        assert figures.drawn("❤") == r"\u2764"
    finally:
        matplotlib.rcParams["font.family"] = matplotlib.rcParamsDefault["font.family"]


@pytest.mark.parametrize("what", TEXTS)
def test_doors_keep_text_or_write_it_out(what, capsys):
    text = TEXTS[what]
    data, _, ref = tiny(text)
    assert data.classes[sd.class_index(text, data.classes)] == sd.classes.plain_text(text)
    for said in (repr(data), repr(data.physical), data.physical.channel(0), repr(ref)):
        said.encode("utf-8")
    if what != "surrogate":
        assert text in data.classes
        assert data.physical.channels[0] == f"{text} 0"


class Tags(html.parser.HTMLParser):
    "The tags and the text of a page."

    def __init__(self):
        super().__init__()
        self.tags = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
def test_the_page_shows_text_and_runs_none(tmp_path, monkeypatch):
    "One report of everything at once; its pictures are tested above and left blank here."
    blank = sd.plot_activations(tiny("plain")[2])
    names = ["figure1a", "figure1b", "figure2", "figure3", "figure4", "spectra", "figure3_time"]
    pictures = dict.fromkeys(names, blank)
    monkeypatch.setattr(report, "_figures", lambda *_: pictures)
    monkeypatch.setattr(report, "_class_pictures", lambda *_: None)
    text = "".join(TEXTS[what][:30] for what in ("script", "braces", "newline", "surrogate"))
    plain = sd.classes.plain_text(text)
    data, model, ref = tiny(text[:36], channels=1)
    ref.meta["name"] = "plain"  # names as paths are tested elsewhere
    card = {"dataset": data.name, "paper": plain, "preset": "paper", "epochs": 1}
    page = report.write_report(model, ref, card, tmp_path / "r", 1, progress=False, command=plain)
    read = Tags()
    source = page.read_text(encoding="utf-8")
    read.feed(source)
    assert "<script>alert" not in source
    assert figures.class_name(ref, 0) in read.text
    assert read.text.count(TEXTS["script"][:20]) >= 3  # of a class, of the card, of the call


@pytest.mark.parametrize("what", TEXTS)
def test_a_table_of_series_has_a_column_for_each_channel(what):
    _, model, ref = tiny(TEXTS[what])
    d = sd.dream(model, torch.zeros(1, 2, 24), sd.score(0), steps=1)
    rows = list(csv.reader(io.StringIO(explorer.series_csv(d, ref).decode())))
    assert {len(row) for row in rows} == {5}
    assert len(rows) == 25
    assert rows[0][1] == f"start {ref.physical.channel(0)}"


def test_doors_speak_on_any_terminal(tmp_path, capfd):
    typed = ["train", "☃", "--root", str(tmp_path), "--out", str(tmp_path / "r")]
    code = f"import sys; from seqdream.cli import main; sys.exit(main({typed!r}))"
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "\\u2603" in done.stderr
    assert "Traceback" not in done.stderr
    assert main([*typed[:1], "Unbekannt\ud800", *typed[2:]]) == 2
    assert "Traceback" not in capfd.readouterr().err
