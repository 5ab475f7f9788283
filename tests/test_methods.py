"""The paper's methods against independent statements of them; transforms as properties; controls."""
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
arrays = st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(2, 40), st.integers(0, 2**20)).map(lambda s: torch.randn(*s[:3], generator=torch.Generator().manual_seed(s[3]), dtype=torch.float64))


def walk(n, stalled=0, previous=None): return Walk(0, torch.arange(n), torch.full((n,), stalled), torch.zeros(n, dtype=torch.bool), [row_stream(0, i) for i in range(n)], previous)


@quick
@given(arrays, st.integers(0, 25))
def test_moving_average_is_scipys(x, half):
    assert np.allclose(sd.MovingAverage(2 * half + 1)(x, walk(len(x))), uniform_filter1d(x.numpy(), 2 * half + 1, axis=-1, mode="reflect"), atol=1e-9)


@quick
@given(arrays, st.floats(0.01, 1))
def test_exponential_smoothing_is_scipys(x, f):
    expected = [[lfilter([f], [1, f - 1], c, zi=[(1 - f) * c[0]])[0] for c in v] for v in x.numpy()]
    assert np.allclose(sd.ExponentialSmoothing(f)(x, walk(len(x))), expected, atol=1e-8)


@pytest.mark.parametrize("transform", [sd.L2Decay(.1), sd.RandomScaling(.1), sd.RandomScaling(.1, per="point"), sd.MovingAverage(5), sd.ExponentialSmoothing(.5), sd.ExponentialSmoothing(.5, along="steps"), sd.RandomRestart(patience=2)])
def test_a_row_alone_is_the_row_in_company(transform):
    x = torch.randn(4, 2, 30, generator=torch.Generator().manual_seed(0))
    together = transform(x, walk(4, stalled=2, previous=x.flip(0)))
    alone = transform(x[2:3], Walk(0, torch.tensor([2]), torch.tensor([2]), torch.zeros(1, dtype=torch.bool), [row_stream(0, i) for i in range(4)], x.flip(0)[2:3]))
    assert torch.allclose(alone[0], together[2], atol=1e-6)


@quick
@given(st.integers(2, 60), st.integers(0, 2**20))
def test_fourier_round_trip_and_clamp(t, seed):
    x = torch.randn(3, 2, t, generator=torch.Generator().manual_seed(seed))
    f = sd.Fourier(t)
    assert torch.allclose(f.decode(f.encode(x)), x, atol=1e-4)
    z = np.fft.rfft(sd.clamp_spectrum_to(x)(5 * x, walk(3)).numpy()); own = np.fft.rfft(x.numpy())
    assert all((part(z) <= part(own).max(0) + 1e-3).all() and (part(z) >= part(own).min(0) - 1e-3).all() for part in (np.real, np.imag))


class Linear(nn.Module):
    "Scores of two fixed shapes: what every method should find is known."
    def __init__(self, t=40):
        super().__init__()
        at = torch.arange(t) / t
        self.shapes = nn.Parameter(torch.stack([torch.sin(2 * torch.pi * 3 * at), torch.cos(2 * torch.pi * 5 * at)]))
    def forward(self, x): return x[:, 0] @ self.shapes.T


@pytest.fixture(scope="module")
def linear():
    g = torch.Generator().manual_seed(1)
    model = Linear(); y = torch.arange(60) % 2
    X = .3 * torch.randn(60, 1, 40, generator=g) + model.shapes.detach()[y][:, None]
    return model, sd.Reference.from_data(model, X, y, name="shapes")


@pytest.mark.parametrize("c", [0, 1])
def test_methods_find_the_shape_of_a_linear_model(linear, c):
    model, ref = linear
    for d in (sd.gradient_ascent(model, ref, c, n=4, steps=20, lr=.05, regularisers=()), sd.ellis(model, ref, c, n=4)):
        changed = (d.x - d.start)[:, 0] / (d.x - d.start)[:, 0].norm(dim=1, keepdim=True)
        assert (changed @ model.shapes[c] / model.shapes[c].norm() > .9).all(), d
    d = sd.target_descent(model, ref, c, "max", n=4, lr=.05)
    assert d.status == ["arrived"] * 4 and ((d.activations[:, c] - ref.toward(c, 2.5)[c]).abs() < .05 * ref.toward(c, 2.5).norm()).all()


def test_gradient_ascent_is_equation_one(linear):
    model, ref = linear
    lam, lr, steps = .05, .1, 7
    d = sd.gradient_ascent(model, ref, 0, n=3, steps=steps, lr=lr, lambda_l2=lam, regularisers=(), keep="last", precision="float32")
    unit, level = ref.X.std(), ref.X.mean()                         # these series are not z-normalised: x counts in their own units
    w, x = model.shapes[0].detach() * unit, (d.start[:, 0] - level) / unit
    fixed = w / (2 * lam)                                           # the maximum of w·x − λ‖x‖², and the closed form of the walk to it
    assert torch.allclose((d.x[:, 0] - level) / unit, fixed + (1 - 2 * lr * lam) ** steps * (x - fixed), atol=1e-4)


def test_hidden_layers_climb_along_the_class(linear):
    model = nn.Sequential(nn.Conv1d(1, 6, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 2))
    _, base = linear
    ref = sd.Reference.from_data(model, base.X, base.exemplar_classes, layer="1")
    d = sd.gradient_ascent(model, ref, 1, n=3, steps=10, lr=.5, regularisers=())
    along = ref.means[1] - ref.pooled_mean
    assert ((d.activations - d.start_activations) @ along > 0).all()
    assert len(sd.ellis(model, ref, 1, n=2, steps=2)) == 2 and len(sd.control(model, ref, 1, "highest_real", n=3)) == 3


def test_ellis_by_differences_is_ellis_by_autograd(linear):
    model, ref = linear
    a, b = (sd.ellis(model, ref, 1, n=2, step_sizes=(.1, 10.), steps=3, gradient=g) for g in ("autograd", "finite_difference"))
    assert torch.allclose(a.x, b.x, atol=1e-3) and a.settings["lr"] == b.settings["lr"]      # a linear score has no curvature: differences are exact


@pytest.mark.parametrize("call, words", [
    (lambda m, r: sd.ellis(m, r, 0, median="mean"), "magnitude, component"), (lambda m, r: sd.ellis(m, r, 0, gradient="numeric"), "autograd, finite_difference"), (lambda m, r: sd.ellis(m, r, 5), "0 (label 0)"),
    (lambda m, r: sd.target_descent(m, r, 0, weight_decay=-1.), "weight_decay=-1.0"), (lambda m, r: sd.target_descent(m, r, 0, lambda_beta=[1., 2.]), "each of the"), (lambda m, r: sd.control(m, r, 0, "best"), "medoid"),
    (lambda m, r: sd.gradient_ascent(m, r, 0, transforms=[sd.L2Decay(2.)]), "rate=2.0"), (lambda m, r: sd.gradient_ascent(m, r, 0, transforms=[sd.MovingAverage(3, on="grad")]), "on='grad'"),
    (lambda m, r: sd.ExponentialSmoothing(.5, along="steps", on="gradient"), "momentum"), (lambda m, r: sd.frequency_importance(m, r.X[:1], r, 0, bands=0), "bands=0"), (lambda m, r: sd.direction([float("nan"), 1.]), "finite"),
    (lambda m, r: sd.plot_violins(sd.control(m, r, 0, "noise"), r, measure="beauty"), "score_ratio"), (lambda m, r: sd.plot_path(sd.control(m, r, 0, "noise"), r), "snapshots"),
])
def test_bad_calls_name_the_remedy(linear, call, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")): call(*linear)


def test_medoid_and_highest_by_brute_force(linear):
    model, ref = linear
    X = ref.X[ref.exemplar_classes == 1].flatten(1)                # 60 series: all of them are exemplars
    assert torch.equal(ref.medoid(1)[0, 0], X[torch.cdist(X, X).sum(1).argmin()])
    best = sd.control(model, ref, 1, "highest_real", n=3).activations[:, 1]
    assert torch.allclose(best, ref.activations[ref.y == 1, 1].sort(descending=True).values[:3], atol=1e-5)


def test_figures_of_many_classes_and_of_what_is_off_the_page():
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, 20)); y = torch.arange(80) % 20
    ref = sd.Reference.from_data(model, torch.randn(80, 1, 30, generator=g), y)
    d = [sd.control(model, ref, c, "nearest_real", n=3) for c in range(20)]
    far = sd.control(model, ref, 3, "noise", n=4); far.activations.mul_(1000)
    fig = sd.plot_projection(ref, [*d, far])
    text = " ".join(t.get_text() for t in fig.findobj(lambda a: hasattr(a, "get_text")))
    assert "4 of 4 off the page" in text and "and 8 more classes" in text
    sd.plot_violins(d[:4] + [far], ref); sd.plot_violins(d[:3], ref, "nearest_distance"); sd.plot_activations(ref)


@pytest.mark.parametrize("recipe", [lambda m, r: sd.sequence_dreaming(m, r, 1, n=3, steps=6, lr=1.0, lambda_alpha=1e-3, lambda_beta=1e-3), lambda m, r: sd.target_descent(m, r, 1, n=3, steps=6, lambda_alpha=1e-3), lambda m, r: sd.gradient_ascent(m, r, 1, n=3, steps=6, lambda_l2=.01, regularisers=())])
def test_the_unit_of_the_data_does_not_change_a_dream(recipe):
    "Series in other units, a model that takes the units back: the same dreams in those units. Neither set is z-normalised."
    class Rescaled(torch.nn.Module):
        def __init__(self, net): super().__init__(); self.net = net
        def forward(self, x): return self.net((x - 100) / 40)
    g = torch.Generator().manual_seed(0)
    y = torch.arange(24) % 2
    X = torch.randn(24, 1, 40, generator=g) * 3 + 2 + y[:, None, None]
    net = sd.ResNet.preset("paper", seed=3); net(X); net.eval()
    both = [recipe(m, sd.Reference.from_data(m, x, y)) for m, x in ((net, X), (Rescaled(net), X * 40 + 100))]
    assert torch.allclose((both[1].x - 100) / 40, both[0].x, atol=2e-2) and both[0].status == both[1].status
    assert (both[0].x - both[0].start).abs().max() > .05
