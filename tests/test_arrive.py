"""The archive's benchmark: free ascents against a closed form; a second call goes on."""

import json

import pytest
import torch
from benchmarks import arrive
from torch import nn

import seqdream as sd

BOX = (-1.5, 2.0)


@pytest.fixture(scope="module")
def linear():
    "A linear model of 12 points and three classes, its reference, and its first target."
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    nn.init.normal_(model[1].weight, generator=g)
    X = torch.randn(30, 1, 12, generator=g).clamp(*BOX)
    X[0, 0, :2] = torch.tensor(BOX)  # so that the range of the series is the box
    ref = sd.Reference.from_data(model.requires_grad_(False), X, torch.arange(30) % 3)
    return model, next(arrive.places(model, ref))


def slope(model, p):
    "How the place along the class direction depends on each point: (12,)."
    return p.target.away @ model[1].weight / p.target.away.square().sum()


def corner(w):
    "Where a linear function of a series is largest within the box."
    low, high = BOX
    return torch.where(w > 0, high, low)


def test_ceiling_of_a_linear_model_is_the_corner_of_the_box(linear):
    model, p = linear
    w = slope(model, p)
    still = p.target.place(model(torch.zeros(1, 1, 12)))
    assert p.clamp == "range"
    assert [float(bound) for bound in p.box] == list(BOX)
    expected = float(still + w @ corner(w))
    assert p.reached_freely("along") == pytest.approx(expected, rel=1e-4)


def test_symmetric_box_gives_the_sum_of_absolute_weights():
    w = torch.randn(1, 7, generator=torch.Generator().manual_seed(1))
    x = torch.zeros(4, 1, 7)
    best, _ = arrive.free_ascent(lambda x: (x * w).flatten(1).sum(1), x, (-3, 3), arrive.RULES)
    assert best.max().item() == pytest.approx(3 * w.abs().sum().item(), rel=1e-5)


def test_only_a_corner_is_proven_stationary(linear):
    model, p = linear
    w = slope(model, p)
    x = torch.stack([corner(w), 0 * w])[:, None]
    at_corner, at_zero = arrive.climbs_on(lambda x: p.target.place(model(x)), x, BOX, 1.0).tolist()
    assert at_corner == pytest.approx(0, abs=1e-5)
    assert at_zero > 0.05
    assert arrive.is_proven("saturated", at_corner, 2.0)
    assert not arrive.is_proven("saturated", at_zero, 1.0)
    assert not arrive.is_proven("exhausted", 0.0, 2.0)


def test_errors_of_a_target_by_hand():
    target = arrive.Target(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0]), k=2.0)
    a = torch.tensor([[7.0, 8.0], [4.0, 4.0], [1 - 4.0, 3.0]])  # the target, half way, beside it
    assert target.place(a).tolist() == pytest.approx([2, 1, 0])
    assert target.error(a, "along").tolist() == pytest.approx([0, 0.5, 1])
    assert target.error(a, "vector").tolist() == pytest.approx([0, 0.5, 1.25**0.5])


def unit(name, kind, ways, found, cache):
    "A unit that costs nothing."
    row = {"class": 0, "region": "max", "treat": "along", "clamp": "range"}
    row |= {"status": ["saturated", "arrived"]}
    row |= {"steps": [3, 4], "evaluations": [6, 8], "multiple": [1.5, 2.5], "error": [0.4, 0.0]}
    row |= {"change": [0.1, 0.2], "gain": [0.01, None]}
    made = {way: [dict(row)] for way in ways}
    return {
        "set": name,
        "model": kind,
        "ways": found.get("ways", {}) | made,
        "ceilings": {"range": {"0": {"place": 2.6}}},
        "seconds": {},
    }


class Killed(Exception):
    "What ends a run between two units."


def test_second_call_does_only_what_a_kill_left(tmp_path, monkeypatch):
    out = tmp_path / "arrive.json"
    asked = []

    def measure(*task):
        if len(asked) == 2:
            raise Killed
        asked.append(task[:3])
        return unit(*task)

    def go_on(ways):
        return arrive.go_on(out, 1, "", ["A", "B", "C"], ["paper"], ways)

    monkeypatch.setattr(arrive, "measure", measure)
    with pytest.raises(Killed):
        go_on(["default"])
    assert list(json.loads(out.read_text())["units"]) == ["A/paper", "B/paper"]
    asked.clear()
    found = go_on(["default"])
    assert asked == [("C", "paper", ["default"])]
    assert json.loads(out.read_text()) == found
    assert go_on(["default"]) == found
    assert arrive.tasks(found, ["A"], ["paper"], ["default", "fixed"])[0][2] == ["fixed"]


def test_rows_count_what_was_judged():
    found = {"units": {"A/paper": arrive.judge(unit("A", "paper", ["default"], {}, ""))}}
    said = arrive.summary(arrive.as_rows(found), ["way"]).iloc[0]
    assert said[["dreams", "arrived", "proven", "exhausted"]].tolist() == [2, 50, 50, 0]
    assert said[["reachable", "of those reached", "passes"]].tolist() == [100, 50, 7]
