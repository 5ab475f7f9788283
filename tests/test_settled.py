"""`saturated` is proven: where the largest score is known, what is called so has reached it."""

import numpy as np
import torch
from torch import nn

import seqdream as sd
from seqdream.dreaming import Setting, run
from seqdream.methods import settled
from seqdream.objectives import reach

T = 24


class Scores(nn.Module):
    "Two scores of a series: a function of it and a fixed series per class."

    def __init__(self, score, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.fixed = nn.Parameter(torch.randn(2, T, generator=g))
        self.score = score

    def forward(self, x):
        return torch.stack([self.score(x[:, 0], v) for v in self.fixed], 1)


def linear(x, v):
    return x @ v


def peak(x, v):
    return 10 - (x - 0.5 * v).square().sum(1)


def bounded(x, v):
    return 5 * torch.tanh(x @ v / 10)


def mapped(score):
    "A model, its reference of forty random series, each a little of its class's fixed one."
    net = Scores(score)
    g = torch.Generator().manual_seed(1)
    y = torch.arange(40) % 2
    X = 0.3 * net.fixed.detach()[y] + torch.randn(40, T, generator=g)
    model = sd.Adapter(net)
    return model, net, sd.Reference.from_data(model, X[:, None], y.numpy())


def inside(ref):
    clamp = sd.clamp_to(ref)
    return clamp, float(clamp.low), float(clamp.high)


def test_a_linear_score_saturates_in_the_corner_of_the_clamp_and_nowhere_before():
    model, net, ref = mapped(linear)
    clamp, low, high = inside(ref)
    v = net.fixed[1].detach()
    most = float(torch.where(v > 0, v * high, v * low).sum())
    for steps in (1, 2, 4, 8, 400):
        d = sd.gradient_ascent(model, ref, 1, lr=0.3, steps=steps, regularisers=[clamp])
        left = (most - d.activations[:, 1]) / d.activations[:, 1]
        for status, more in zip(d.status, left.tolist(), strict=True):
            assert status in ("saturated", "exhausted")
            assert more < 0.05 or status == "exhausted"
        if steps == 1:
            assert d.status == ["exhausted"] * 8
    assert d.status == ["saturated"] * 8


def test_a_step_that_leaps_over_the_peak_for_ever_is_no_end():
    model, _, ref = mapped(peak)
    how = {"regularisers": (), "steps": 60}
    leaping = sd.gradient_ascent(model, ref, 0, lr=1.0, **how)  # lands opposite, equally far
    assert torch.allclose(leaping.activations, leaping.start_activations, rtol=1e-3)
    assert leaping.status == ["exhausted"] * 8
    calm = sd.gradient_ascent(model, ref, 0, lr=0.1, **how)
    assert torch.allclose(calm.activations[:, 0], torch.tensor(10.0), atol=0.01)
    assert calm.status == ["saturated"] * 8


def test_ellis_saturates_in_the_corner_of_its_coefficients():
    model, net, ref = mapped(linear)
    z = np.fft.rfft(ref.X[:, 0].double().numpy())
    v = np.fft.rfft(net.fixed[1].detach().double().numpy())
    weight = np.full(T // 2 + 1, 2.0)
    weight[[0, -1]] = 1  # the two that have no mirror image
    parts = [(z.real, v.real), (z.imag, v.imag)]
    each = [np.maximum(p.min(0) * q, p.max(0) * q) for p, q in parts]
    most = (weight * (each[0] + each[1])).sum() / T
    for sizes, expected in ([1e-4], "exhausted"), ([1e4], "saturated"):
        d = sd.ellis(model, ref, 1, n=6, step_sizes=sizes)
        assert d.status == [expected] * 6
        reached = d.activations[:, 1].numpy()
        assert (reached > most / 1.05).all() == (expected == "saturated")
        assert (reached < most * 1.001).all()


def test_a_target_that_no_series_has_is_saturated_at_the_bound():
    model, _, ref = mapped(bounded)
    clamp = sd.Clamp(-9.0, 9.0)
    goal = reach(ref, 1, torch.tensor([0.0, 9.0]), treat="scalar")
    for steps, expected in (1, "exhausted"), (300, "saturated"):
        setting = Setting(model, ref.exemplars(1, 4), goal, transforms=[clamp], lr=3.0, steps=steps)
        d = settled(run(setting), setting, float(ref.X.std()))
        assert d.status == [expected] * 4
    assert (d.activations[:, 1] > 5 / 1.05).all()


def test_what_ended_otherwise_keeps_its_status():
    model, _, ref = mapped(linear)
    stopped = sd.gradient_ascent(model, ref, 0, n=3, callback=lambda step, d: step == 2)
    assert stopped.status == ["stopped"] * 3
    flat = sd.Adapter(Scores(lambda x, v: torch.relu(x.sum(1) * 0 - 1) + v[0]))
    g = torch.randn(10, 1, T, generator=torch.Generator().manual_seed(0))
    nowhere = sd.Reference.from_data(flat, g, np.arange(10) % 2)
    d = sd.gradient_ascent(flat, nowhere, 0, n=3, regularisers=())
    assert d.status == ["dead"] * 3


def test_a_rows_status_does_not_depend_on_its_neighbours():
    model, _, ref = mapped(peak)
    starts = torch.cat([ref.exemplars(0, 2), 0.5 * model.state_dict()["model.fixed"][:1, None]])
    how = {"lr": 1.0, "steps": 5, "regularisers": ()}
    together = sd.gradient_ascent(model, ref, 0, start=starts, **how).status
    alone = [sd.gradient_ascent(model, ref, 0, start=x[None], **how).status[0] for x in starts]
    assert together == alone == ["exhausted", "exhausted", "saturated"]
