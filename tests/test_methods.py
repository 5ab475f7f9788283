"""Watches over the paper's methods, against independent statements of them, and the transforms."""

import re
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.ndimage import uniform_filter1d
from scipy.signal import lfilter
from torch import nn

import seqdream as sd
from seqdream.transforms import Walk, row_stream

quick = settings(max_examples=25, deadline=None)


def random_series(rows, channels, timepoints, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, channels, timepoints, generator=g, dtype=torch.float64)


arrays = st.builds(
    random_series,
    rows=st.integers(1, 4),
    channels=st.integers(1, 2),
    timepoints=st.integers(2, 40),
    seed=st.integers(0, 2**20),
)


def walk(n, stalled=0, previous=None, rows=None):
    "Step 0 of a walk of n rows; or how some of its rows see it."
    rows = torch.arange(n) if rows is None else torch.tensor(rows)
    streams = [row_stream(0, i) for i in range(n)]
    overshot = torch.zeros(len(rows), dtype=torch.bool)
    return Walk(0, rows, torch.full((len(rows),), stalled), overshot, streams, previous)


@quick
@given(arrays, st.integers(0, 25))
def test_moving_average_is_scipys(x, half):
    width = 2 * half + 1
    scipys = uniform_filter1d(x.numpy(), width, axis=-1, mode="reflect")
    assert np.allclose(sd.MovingAverage(width)(x, walk(len(x))), scipys, atol=1e-9)


@quick
@given(arrays, st.floats(0.01, 1))
def test_exponential_smoothing_is_scipys(x, f):
    def smooth(channel):
        smoothed, _ = lfilter([f], [1, f - 1], channel, zi=[(1 - f) * channel[0]])
        return smoothed

    expected = np.apply_along_axis(smooth, -1, x.numpy())
    assert np.allclose(sd.ExponentialSmoothing(f)(x, walk(len(x))), expected, atol=1e-8)


@pytest.mark.parametrize(
    "transform",
    [
        sd.L2Decay(0.1),
        sd.RandomScaling(0.1),
        sd.RandomScaling(0.1, per="point"),
        sd.MovingAverage(5),
        sd.ExponentialSmoothing(0.5),
        sd.ExponentialSmoothing(0.5, along="steps"),
        sd.RandomRestart(patience=2),
    ],
)
def test_a_row_alone_is_the_row_in_company(transform):
    x = torch.randn(4, 2, 30, generator=torch.Generator().manual_seed(0))
    together = transform(x, walk(4, stalled=2, previous=x.flip(0)))
    alone = transform(x[2:3], walk(4, stalled=2, previous=x.flip(0)[2:3], rows=[2]))
    assert torch.allclose(alone[0], together[2], atol=1e-6)


@quick
@given(st.integers(2, 60), st.integers(0, 2**20))
def test_fourier_round_trip_and_clamp(t, seed):
    x = torch.randn(3, 2, t, generator=torch.Generator().manual_seed(seed))
    f = sd.Fourier(t)
    assert torch.allclose(f.decode(f.encode(x)), x, atol=1e-4)
    z = np.fft.rfft(sd.clamp_spectrum_to(x)(5 * x, walk(3)).numpy())
    own = np.fft.rfft(x.numpy())
    for part in (np.real, np.imag):
        assert (part(z) <= part(own).max(0) + 1e-3).all()
        assert (part(z) >= part(own).min(0) - 1e-3).all()


class Linear(nn.Module):
    "Scores of two fixed shapes: what every method should find is known."

    def __init__(self, t=40):
        super().__init__()
        at = 2 * torch.pi * torch.arange(t) / t
        self.shapes = nn.Parameter(torch.stack([torch.sin(3 * at), torch.cos(5 * at)]))

    def forward(self, x):
        return x[:, 0] @ self.shapes.T


@pytest.fixture(scope="module")
def linear():
    g = torch.Generator().manual_seed(1)
    model = Linear()
    y = torch.arange(60) % 2
    X = 0.3 * torch.randn(60, 1, 40, generator=g) + model.shapes.detach()[y][:, None]
    return model, sd.Reference.from_data(model, X, y, name="shapes")


@pytest.mark.parametrize("c", [0, 1])
def test_methods_find_the_shape_of_a_linear_model(linear, c):
    model, ref = linear
    for d in (
        sd.gradient_ascent(model, ref, c, n=4, steps=20, lr=0.05, regularisers=()),
        sd.ellis(model, ref, c, n=4),
    ):
        change = (d.x - d.start)[:, 0]
        cosine = change @ model.shapes[c] / (change.norm(dim=1) * model.shapes[c].norm())
        assert (cosine > 0.9).all(), d
    d = sd.target_descent(model, ref, c, "max", n=4, lr=0.05)
    assert d.status == ["arrived"] * 4
    target = ref.toward(c, 2.5)
    assert ((d.activations[:, c] - target[c]).abs() < 0.05 * target.norm()).all()


def test_gradient_ascent_is_equation_one(linear):
    model, ref = linear
    lam = 0.05
    lr = 0.1
    steps = 7
    plain = dict(regularisers=(), keep="last", precision="float32")
    d = sd.gradient_ascent(model, ref, 0, n=3, steps=steps, lr=lr, lambda_l2=lam, **plain)
    # these series are not z-normalised: x counts in their own units
    unit = ref.X.std()
    level = ref.X.mean()
    w = model.shapes[0].detach() * unit
    x = (d.start[:, 0] - level) / unit
    # the maximum of w·x − λ‖x‖², and the closed form of the walk to it
    fixed = w / (2 * lam)
    closed_form = fixed + (1 - 2 * lr * lam) ** steps * (x - fixed)
    assert torch.allclose((d.x[:, 0] - level) / unit, closed_form, atol=1e-4)


def test_hidden_layers_climb_along_the_class(linear):
    model = nn.Sequential(
        nn.Conv1d(1, 6, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 2)
    )
    _, base = linear
    ref = sd.Reference.from_data(model, base.X, base.exemplar_classes, layer="1")
    d = sd.gradient_ascent(model, ref, 1, n=3, steps=10, lr=0.5, regularisers=())
    along = ref.means[1] - ref.pooled_mean
    assert ((d.activations - d.start_activations) @ along > 0).all()
    assert len(sd.ellis(model, ref, 1, n=2, steps=2)) == 2
    assert len(sd.control(model, ref, 1, "highest_real", n=3)) == 3


def test_ellis_by_differences_is_ellis_by_autograd(linear):
    model, ref = linear
    how = dict(n=2, step_sizes=(0.1, 10.0), steps=3)
    a = sd.ellis(model, ref, 1, gradient="autograd", **how)
    b = sd.ellis(model, ref, 1, gradient="finite_difference", **how)
    # a linear score has no curvature: differences are exact
    assert torch.allclose(a.x, b.x, atol=1e-3)
    assert a.settings["lr"] == b.settings["lr"]


def smooth_the_gradient_along_steps(model, ref):
    return sd.ExponentialSmoothing(0.5, along="steps", on="gradient")


def decay_of_more_than_all(model, ref):
    return sd.L2Decay(2.0)


def average_on_nothing(model, ref):
    return sd.MovingAverage(3, on="grad")


def importance_of_no_bands(model, ref):
    return sd.frequency_importance(model, ref.X[:1], ref, 0, bands=0)


def direction_of_nan(model, ref):
    return sd.direction([float("nan"), 1.0])


def violins_of_beauty(model, ref):
    return sd.plot_violins(sd.control(model, ref, 0, "noise"), ref, measure="beauty")


def path_without_snapshots(model, ref):
    return sd.plot_path(sd.control(model, ref, 0, "noise"), ref)


ellis = partial(sd.ellis, target_class=0)
descent = partial(sd.target_descent, target_class=0)
ascent = partial(sd.gradient_ascent, target_class=0)


@pytest.mark.parametrize(
    "call, words",
    [
        (partial(ellis, median="mean"), "magnitude, component"),
        (partial(ellis, gradient="numeric"), "autograd, finite_difference"),
        (partial(ellis, target_class=5), "0 (label 0)"),
        (partial(descent, weight_decay=-1.0), "weight_decay=-1.0"),
        (partial(descent, lambda_beta=[1.0, 2.0]), "each of the"),
        (partial(sd.control, target_class=0, kind="best"), "medoid"),
        (decay_of_more_than_all, "rate=2.0"),
        (average_on_nothing, "on='grad'"),
        (smooth_the_gradient_along_steps, "momentum"),
        (importance_of_no_bands, "bands=0"),
        (direction_of_nan, "finite"),
        (violins_of_beauty, "score_ratio"),
        (path_without_snapshots, "snapshots"),
    ],
)
def test_bad_calls_name_the_remedy(linear, call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call(*linear)


def test_medoid_and_highest_by_brute_force(linear):
    model, ref = linear
    X = ref.X[ref.exemplar_classes == 1].flatten(1)  # 60 series: all of them are exemplars
    assert torch.equal(ref.medoid(1)[0, 0], X[torch.cdist(X, X).sum(1).argmin()])
    best = sd.control(model, ref, 1, "highest_real", n=3).activations[:, 1]
    ranked = ref.activations[ref.y == 1, 1].sort(descending=True).values
    assert torch.allclose(best, ranked[:3], atol=1e-5)


def test_figures_of_many_classes_and_of_what_is_off_the_page():
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, 20))
    y = torch.arange(80) % 20
    ref = sd.Reference.from_data(model, torch.randn(80, 1, 30, generator=g), y)
    d = [sd.control(model, ref, c, "nearest_real", n=3) for c in range(20)]
    far = sd.control(model, ref, 3, "noise", n=4)
    far.activations.mul_(1000)
    fig = sd.plot_projection(ref, [*d, far])
    written = fig.findobj(lambda artist: hasattr(artist, "get_text"))
    text = " ".join(artist.get_text() for artist in written)
    assert "4 of 4 off the page" in text
    assert "and 8 more classes" in text
    sd.plot_violins(d[:4] + [far], ref)
    sd.plot_violins(d[:3], ref, "nearest_distance")
    sd.plot_activations(ref)


penalised = dict(lambda_alpha=1e-3, lambda_beta=1e-3)


@pytest.mark.parametrize(
    "recipe",
    [
        partial(sd.sequence_dreaming, lr=1.0, **penalised),
        partial(sd.target_descent, lambda_alpha=1e-3),
        partial(sd.gradient_ascent, lambda_l2=0.01, regularisers=()),
    ],
)
def test_the_unit_of_the_data_does_not_change_a_dream(recipe):
    """Series in other units, a model that takes the units back: the same dreams in those units.

    Neither set is z-normalised.
    """

    class Rescaled(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net((x - 100) / 40)

    g = torch.Generator().manual_seed(0)
    y = torch.arange(24) % 2
    X = torch.randn(24, 1, 40, generator=g) * 3 + 2 + y[:, None, None]
    net = sd.ResNet.preset("paper", seed=3)
    net(X)
    net.eval()
    own = recipe(net, sd.Reference.from_data(net, X, y), 1, n=3, steps=6)
    scaled = Rescaled(net)
    ref = sd.Reference.from_data(scaled, X * 40 + 100, y)
    other = recipe(scaled, ref, 1, n=3, steps=6)
    assert torch.allclose((other.x - 100) / 40, own.x, atol=2e-2)
    assert own.status == other.status
    assert (own.x - own.start).abs().max() > 0.05
