"""Other people's classifiers get in and are told true: rows of `zoo_of_others`.

Rows whose package is not installed are skipped by name. Look-alikes written here have the forms
that such packages use, so that the way in is tested without any of them.
"""

import json
from dataclasses import dataclass

import pytest
import torch
import zoo_of_others as zoo
from torch import Tensor, nn
from zoo_of_others import Row

import seqdream as sd


class Body(nn.Module):
    "Convolution, average, linear: what all look-alikes compute."

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, 8, 9)
        self.head = nn.Linear(8, classes)

    def score(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean(-1))


@dataclass
class Output:
    "As transformers answers: the loss first, hidden states behind."

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    hidden_states: tuple = ()


class GivesObject(Body):
    def forward(self, x: Tensor) -> Output:
        return Output(None, self.score(x), (self.conv(x),))


class GivesTuple(Body):
    def forward(self, x: Tensor) -> tuple:
        return self.conv(x), self.score(x)


class PointsFirst(Body):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != self.conv.in_channels:
            raise ValueError(f"{x.shape[2]} variables where {self.conv.in_channels} are expected")
        return self.score(x.transpose(1, 2))


class TakesImage(Body):
    def __init__(self, channels: int, classes: int):
        super().__init__(8, classes)
        self.across = nn.Conv2d(1, 8, (channels, 5))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError("expected (n, 1, channels, points)")
        return self.score(self.across(x)[:, :, 0])


class SingleLogit(Body):
    def __init__(self, channels: int, classes: int):
        super().__init__(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(x).squeeze(-1)


class Picture(nn.Module):
    "Runs either way round, as an audio spectrogram transformer does; meant are points first."

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, (9, 1))
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x[:, None]).relu().mean((2, 3)))


def like(kind: type) -> object:
    "A builder as the table has them."
    return lambda channels, points, classes: kind(channels, classes)


LOOK_ALIKES = [
    Row("torch", "output object", like(GivesObject), gives="prediction_logits"),
    Row("torch", "tuple", like(GivesTuple), gives="second of a tuple"),
    Row("torch", "points first", like(PointsFirst), takes="points first", epochs=100),
    Row(
        "torch",
        "either way round",
        like(Picture),
        takes="points first",
        channels=16,
        epochs=60,
        trained="hand",
    ),
    Row("torch", "image", like(TakesImage), takes="image"),
    Row("torch", "single logit", like(SingleLogit), gives="single", classes=2),
]


@pytest.mark.parametrize("row", LOOK_ALIKES, ids=[row.name for row in LOOK_ALIKES])
def test_others_look_alikes_work_without_a_line(row):
    found = zoo.examine(row, timed=False)
    assert found["outcome"] == "worked", found["why"]


@pytest.mark.parametrize("row", zoo.ROWS, ids=[f"{row.package} {row.name}" for row in zoo.ROWS])
def test_others_installed(row):
    if not row.installed:
        pytest.skip(f"{row.package} is not installed")
    found = zoo.examine(row, timed=False)
    assert found["outcome"] in zoo.OUTCOMES[:3], found["why"]


class Swapped(Body):
    "A model that the table describes wrongly: it gives the scores in another order."

    def forward(self, x: Tensor) -> Tensor:
        return self.score(x)


class Tampering(Body):
    "A model that changes its own weights when it is asked."

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.head.bias += 0.1
        return self.score(x)


def test_others_table_notices_untruth(monkeypatch):
    row = Row("torch", "swapped", like(Swapped))
    model = row.make(2, 128, 3).eval()
    X, y = zoo.planted(row)
    assert zoo.wrong(row, model, model, X, y) == []
    monkeypatch.setitem(zoo.GIVES, "tensor", lambda out: out.flip(1))
    problems = zoo.wrong(row, model, model, X, y)
    assert any("other numbers" in problem for problem in problems)
    assert any("denies" in problem for problem in problems)


def test_others_table_notices_a_changed_model():
    model = Swapped(2, 3)
    before = zoo.state(model)
    assert zoo.same(before, zoo.state(model))
    model.conv.requires_grad_(False)
    assert not zoo.same(before, zoo.state(model))
    model.conv.requires_grad_(True)
    model.head.weight.data[0, 0] += 1e-3
    assert not zoo.same(before, zoo.state(model))


def test_others_model_that_changes_itself_is_refused_or_named():
    row = Row("torch", "tampering", like(Tampering))
    X, y = zoo.planted(row)
    with pytest.raises((ValueError, TypeError)):
        sd.Reference.from_data(row.make(2, 128, 3), X, y)


def test_others_table_that_was_kept():
    table = json.loads(zoo.TABLE.read_text())
    outcomes = [found["outcome"] for found in table]
    rows = [(row.package, row.name, row.epochs, row.trained) for row in zoo.ROWS]
    kept = [(f["package"], f["name"], f["epochs"], f["trained"]) for f in table]
    assert kept == [row for row in rows if row in kept]
    assert len(kept) >= len(rows) - 1  # a slow row may be missing, the story names it
    assert outcomes.count("WRONG") == 0
    assert outcomes.count("worked") >= 0.9 * len(table)
    for found in table:
        if found["outcome"] == "refused":
            assert found["why"], found["name"]


def test_others_model_with_a_config_of_its_own_kind():
    class Configured(Body):
        config = Output()  # no dict, as in transformers

        def forward(self, x: Tensor) -> Tensor:
            return self.score(x)

    found = zoo.examine(Row("torch", "configured", like(Configured)), timed=False)
    assert found["outcome"] == "worked", found["why"]


def test_others_model_that_mixes_kinds_of_numbers_trains(monkeypatch):
    class Mixing(Body):
        def forward(self, x: Tensor) -> Tensor:
            a = self.conv(x).amax(-1)  # bfloat16 where the loop asks for it
            counted = torch.zeros(a.shape).scatter_add(1, torch.zeros(a.shape).long(), a)
            return self.head(counted)

    monkeypatch.setattr(sd.training, "fast_bfloat16", lambda device="cpu": True)
    row = Row("torch", "mixing", like(Mixing))
    X, y = zoo.planted(row)
    history = sd.fit(row.make(2, 128, 3), (X, y), epochs=1, progress=False)
    assert history.attrs["settings"]["autocast"] is False
    plain = sd.fit(like(Swapped)(2, 128, 3), (X, y), epochs=1, progress=False)
    assert plain.attrs["settings"]["autocast"] is True
