"""Watches over grounded dreaming: parametrizations, what the trust region promises, twins and
verdicts, and any model that people bring."""

import json
import shutil
import threading
import warnings
from dataclasses import asdict
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

import seqdream as sd
from seqdream.borrowing import borrowed
from seqdream.forms import one_tensor
from seqdream.grounding import trust_region
from seqdream.judges import SpectrumClassifier, load_judges, save_judges
from seqdream.objectives import class_margin
from seqdream.parametrizations import Hold
from seqdream.readers import _bundled, load_dataset
from seqdream.report import _keep_model
from seqdream.twins import scramble_phases, twin_series
from seqdream.verdict import bootstrap_interval

quick = settings(max_examples=20, deadline=None)


def make(n=60, channels=1, t=24, classes=2, seed=0, normal=True):
    "Smooth random series with a class-dependent rhythm."
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    at = torch.arange(t) / t
    drift = torch.randn(n, channels, t, generator=g).cumsum(-1) * 0.3
    phase = 6 * torch.rand(n, channels, 1, generator=g)
    X = drift + torch.sin(2 * torch.pi * (2 + y[:, None, None]) * at + phase)
    return (sd.z_normalise(X) if normal else X * 40 + 7), y


def linear_reference(X, y):
    "The reference of a linear model of these series."
    model = nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 2))
    return sd.Reference.from_data(model, X, y)


def small_net(channels=1, classes=2, seed=0):
    model = nn.Sequential(
        nn.Conv1d(channels, 8, 5, padding=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=g)
    return model.eval()


def fitted(channels=1, t=24, classes=2, n=80, normal=True, **kw):
    X, y = make(n, channels, t, classes, normal=normal)
    model = sd.ResNet.preset("paper", channels, classes)
    sd.fit(model, (X, y), epochs=12, batch_size=16, lr=5e-3, progress=False)
    return model.eval(), sd.Reference.from_data(model, X, y, **kw), X, y


@pytest.fixture(scope="module")
def tiny():
    return fitted()


# --- parametrizations -----------------------------------------------------------------------------


@quick
@given(st.integers(12, 70), st.integers(1, 3), st.integers(0, 2**20))
def test_parametrizations_bring_a_series_back(t, channels, seed):
    X, y = make(40, channels, t, seed=seed)
    ref = linear_reference(X, y)
    for p in (
        sd.Time(3.0, 1.0),
        sd.Fourier(t),
        sd.Fourier.of_data(ref),
        sd.Wavelet(t, "haar"),
        sd.Wavelet.of_data(ref),
        sd.Whitened.of_data(ref),
    ):
        error = 2e-3 if isinstance(p, sd.Whitened) else 1e-4
        assert torch.allclose(p.decode(p.encode(X)), X, atol=error), p


def test_parametrization_whitened_has_unit_covariance_and_projects():
    X, y = make(400, t=20, normal=False)
    white = sd.Whitened.of_data(linear_reference(X, y))
    assert np.allclose(np.cov(white.encode(X).double().numpy().T), np.eye(20), atol=1e-3)
    flat = X.clone()
    flat[:, :, 7] = 3.0  # a direction that the data never use
    white = sd.Whitened.of_data(linear_reference(flat, y))
    assert len(white.to_series) == 19
    assert torch.allclose(white.decode(white.encode(X))[:, 0, 7], torch.tensor(3.0), atol=1e-3)


def test_parametrization_hold_keeps_channels_of_each_row(tiny):
    x = torch.randn(5, 3, 30)
    h = Hold(sd.Time(), (1,), x)
    how = dict(parametrization=h, optimizer="adam", lr=0.05, steps=4, micro_batch=2)
    d = sd.dream(small_net(3), x, sd.score(1), **how)
    assert torch.equal(d.x[:, 1], x[:, 1])
    assert (d.x[:, [0, 2]] - x[:, [0, 2]]).abs().max() > 0.01


@pytest.mark.parametrize(
    "of_data",
    [
        sd.Fourier.of_data,
        sd.Phase.of_data,
        sd.Wavelet.of_data,
        partial(sd.Whitened.of_data, target_class=1),
    ],
)
def test_parametrization_gradients_are_right(tiny, of_data):
    _, ref, X, _ = tiny
    p = of_data(ref)
    z = p.encode(X[:2].double()).requires_grad_()
    assert torch.autograd.gradcheck(p.decode, z, eps=1e-5, atol=1e-3)


# --- the promise ----------------------------------------------------------------------------------


@quick
@given(
    st.integers(0, 2**20),
    st.sampled_from([30.0, 60.0, 95.0]),
    st.sampled_from([0.01, 0.1, 1.0]),
    st.booleans(),
)
def test_grounded_never_leaves_the_trust_region_at_any_step(seed, trust, lr, normal):
    X, y = make(90, 1 + seed % 2, 16, seed=seed, normal=normal)
    model = small_net(X.shape[1], seed=seed)
    ref = sd.Reference.from_data(model, X, y)
    c = seed % 2
    start = ("mean", "other", "noise", "flat")[seed % 4]
    how = dict(n=4, trust=trust, lr=lr, steps=8, snapshots=range(9), start=start)
    try:
        d = sd.grounded_dreaming(model, ref, c, "beyond", **how)
    except ValueError as e:
        assert "trust more" in str(e)
        return
    region = trust_region(ref, c, trust, d.start, ref.meta["z_normalised"])
    for x in (*d.snapshots.values(), d.x, d.start):
        for kind in region.distance.kinds:
            assert (ref.percentile(x, c, kind=kind) <= trust).all()
        if ref.meta["z_normalised"]:
            assert torch.allclose(x.std(-1), torch.tensor(1.0), atol=1e-3)


def test_grounded_trust_region_is_a_projection(tiny):
    _, ref, X, y = tiny
    region = trust_region(ref, 1, 80, X[y == 1][:6], normalize=False)
    wild = X[:6] * 5 + 1
    x = region.inside(wild, region.anchor)
    mean = region.distance.mean.reshape(1, 1, -1)
    ones = torch.ones(6, dtype=torch.float64)
    assert torch.allclose(region.excess(x), ones, atol=1e-6)  # on the surface
    towards_the_mean = cosine_similarity((x - mean).flatten(1), (wild - mean).flatten(1))
    assert torch.allclose(towards_the_mean, ones)
    within = x * (1 - 1e-9) + mean * 1e-9
    assert torch.equal(region.inside(within, region.anchor), within)  # what is inside stays


@pytest.mark.parametrize("region", ["centre", "max", "edge", "boundary", "beyond", "picked"])
def test_grounded_reaches_or_says_why_not(small, region):
    model, ref = small
    for c in range(2):
        target = ref.toward(c, 1.5) if region == "picked" else region
        d = sd.grounded_dreaming(model, ref, c, target, n=4, steps=60)
        real = ref.activations[ref.y == c]
        ratio = d.activations[:, c] / ref.means[c, c]
        outermost = float(real[:, c].max() / ref.means[c, c])
        expected = {"centre": 1.0, "max": 2.5, "edge": outermost, "picked": 1.5, "boundary": 0.0}
        if region != "beyond":
            assert d.status == ["arrived"] * 4, (d, ratio)
            assert (ratio - expected[region]).abs().max() < 0.15, (d, ratio)
        else:
            highest = class_margin(real, ref, c).max()
            assert (class_margin(d.activations, ref, c) > highest).all()
            assert set(d.status) <= {"exhausted", "saturated"}
        if region == "centre":
            e = sd.evaluate(d, ref)
            assert e["activation_distance_percentile"].between(24, 76).all()
            assert e["scale"].between(0.95, 1.05).all()


@pytest.mark.parametrize("region, most", [("centre", 60), ("max", 80), ("beyond", 120)])
def test_grounded_asks_the_model_seldom(small, region, most):
    model, ref = small
    for c in range(2):
        d = sd.grounded_dreaming(model, ref, c, region, n=4)
        assert (d.evaluations <= most).all(), d.evaluations
        assert (d.evaluations > d.steps * 2).all()  # forward and backward for each step


def test_grounded_walks_towards_the_closed_form():
    "The farthest point of an ellipsoid along w is mean + radius * Sigma w / sqrt(w' Sigma w)."
    model, ref, *_ = gaussian_world()
    mean, covariance = ref.time[1].mean, ref.time[1].covariance
    weight = (model[1].weight[1] - model[1].weight[0]).detach().double().numpy()
    most = np.sqrt(weight @ covariance @ weight)  # per unit of distance

    def share(x):
        away = x.flatten(1).double().numpy() - mean
        return away @ weight / (most * ref.distance(x, 1, kind="range"))

    d = sd.grounded_dreaming(model, ref, 1, "beyond", n=8, normalize=False)
    assert share(d.start).max() < 0.6
    assert np.median(share(d.x)) > 0.8
    assert (share(d.x) <= 1 + 1e-6).all()


def test_grounded_saturated_is_stationary_and_exhausted_is_not(small):
    model, ref = small
    for c in range(2):
        done = sd.grounded_dreaming(model, ref, c, "beyond", n=4)
        short = sd.grounded_dreaming(model, ref, c, "beyond", n=4, steps=35)
        assert short.status == ["exhausted"] * 4  # at the wall, but it was still climbing
        there = [i for i, status in enumerate(done.status) if status == "saturated"]
        assert len(there) >= 2
        done = done[there]
        on = sd.grounded_dreaming(model, ref, c, "beyond", start=done.x, shake=0.0, lr=0.02)
        gained = class_margin(on.activations, ref, c) / class_margin(done.activations, ref, c) - 1
        assert gained.median() < 0.05, gained


def test_grounded_saturates_where_trust_and_target_conflict(small):
    model, ref = small
    d = sd.grounded_dreaming(model, ref, 1, "max", k=50.0, n=3, steps=150, lr=0.3)
    assert set(d.status) == {"saturated"}
    assert all(1 < m < 50 for m in d.settings["multiple"])
    assert (ref.percentile(d.x, 1) <= 95).all()


def test_grounded_dead_and_flat_starts_are_escaped_and_reported():
    X, y = make(60)
    model = nn.Sequential(
        nn.Conv1d(1, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    g = torch.Generator().manual_seed(3)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g)
    model[0].bias.data.fill_(-0.8)
    model[4].weight.data.abs_()  # on a quiet series every unit is off; on, they raise both scores
    ref = sd.Reference.from_data(model, X, y)
    quiet = 0.05 * X[:3]
    dead = sd.dream(model, quiet, sd.score(1), steps=5)
    assert dead.status == ["dead"] * 3
    alive = sd.dream(model, quiet, sd.score(1), optimizer="adam", steps=60, lr=0.05, escape=True)
    assert "dead" not in alive.status
    assert alive.settings["escaped"] == [0, 1, 2]
    assert (alive.activations[:, 1] > alive.start_activations[:, 1]).any()
    d = sd.grounded_dreaming(model, ref, 1, "beyond", start="flat", n=2, steps=20)
    assert d.settings["moved"] == [0, 1]
    assert (d.x - d.start).abs().max() > 0.01


def test_grounded_diversity_spreads_the_dreams(small):
    model, ref = small

    def alike(d):
        s = sd.amplitude_spectrum(d.x).flatten(1)
        c = s @ s.T
        return c[~torch.eye(len(c), dtype=torch.bool)].mean()

    same = sd.grounded_dreaming(model, ref, 0, "beyond", n=6, steps=60, diversity=0.0)
    other = sd.grounded_dreaming(model, ref, 0, "beyond", n=6, steps=60, diversity=20.0)
    assert alike(other) < alike(same) - 0.02
    slow, fast = (torch.sin(torch.arange(64.0) * w) for w in (0.3, 1.2))
    series = torch.stack([slow, slow.roll(7), fast, fast.roll(7)])[:, None]
    assert sd.distinct_modes(series).tolist() == [0, 0, 1, 1]


# --- twins and verdicts ---------------------------------------------------------------------------


def gaussian_world(t=16, n=4000, seed=0):
    "Two Gaussian classes of one covariance: the best direction is known (Fisher's)."
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(t, t)) / 4 + np.eye(t)
    y = np.arange(n) % 2
    means = np.stack([np.zeros(t), rng.normal(size=t)])
    X = (means[y] + rng.normal(size=(n, t)) @ root.T).astype("float32")
    fisher = np.linalg.solve(root @ root.T, means[1] - means[0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(t, 2))
    model[1].weight.data = torch.tensor(np.stack([-fisher, fisher]), dtype=torch.float32) / 2
    model[1].bias.data = torch.zeros(2)
    return model.eval(), sd.Reference.from_data(model, X, y), root, fisher


def as_dreams(model, x, start):
    "Series as dreams of class 1 that no trust region held."
    n = len(x)
    answers = dict(activations=model(x).detach(), start_activations=model(start).detach())
    walk = dict(steps=torch.zeros(n, dtype=torch.long), history={}, snapshots={})
    settings = {"target_class": 1, "normalize": False}
    return sd.Dreams(x=x, start=start, status=["given"] * n, settings=settings, **answers, **walk)


def test_twins_by_closed_form():
    model, ref, root, fisher = gaussian_world()
    white = sd.Whitened.of_data(ref, normalize=False)
    start = ref.exemplars(1, 6)
    z0 = white.encode(start)
    step = torch.randn(6, z0.shape[1], generator=torch.Generator().manual_seed(0))
    d = as_dreams(model, white.decode(z0 + step), start)
    r = step.norm(dim=1)
    found = twin_series(d, model, ref)
    # the odds are linear in z: the best point of a ball is known
    direction = torch.tensor(fisher, dtype=torch.float64) @ white.to_series.T
    for m in (0.5, 1.0):
        best = z0.double() + m * r[:, None].double() * direction / direction.norm()
        off = (white.encode(found["qda", m]).double() - best).norm(dim=1)
        assert (off / (m * r) < 0.3).all()  # covariances are estimated
    for m in (0.25, 2.0):
        gone = (white.encode(found["random", m]) - z0).norm(dim=1)
        assert torch.allclose(gone, m * r, rtol=1e-3)
    scrambled = found["scrambled", 1.0]
    assert torch.allclose(torch.fft.rfft(scrambled).abs(), torch.fft.rfft(d.x).abs(), atol=1e-3)
    assert (scrambled - d.x).abs().max() > 0.1
    scaled = found["scaled", 1.0]
    assert torch.allclose(scaled.std(-1), d.x.std(-1), rtol=1e-4)
    correlation = torch.corrcoef(torch.stack([scaled[0, 0], d.start[0, 0]]))[0, 1]
    assert torch.allclose(correlation, torch.tensor(1.0), atol=1e-4)
    tops = ref.activations[ref.y == 1]
    tops = (tops[:, 1] - tops[:, 0]).sort(descending=True).values[:6]
    a = model(found["highest_real", 1.0])
    assert torch.allclose(a[:, 1] - a[:, 0], tops, atol=1e-4)


def test_twins_stay_where_the_dreams_had_to_stay(small):
    model, ref = small
    d = sd.grounded_dreaming(model, ref, 0, "beyond", n=3, steps=20, trust=80)
    for (name, _), x in twin_series(d, model, ref).items():
        if name in ("qda", "random", "gaussian", "untrained"):
            kinds = ("range", "ledoit_wolf")
            assert all((ref.percentile(x, 0, kind=k) <= 80).all() for k in kinds), name


def test_twins_gaussian_have_the_classes_moments():
    model, ref, root, _ = gaussian_world(t=6)
    start = ref.exemplars(1, 1).repeat(3000, 1, 1)
    d = as_dreams(model, start + 1, start)
    x = twin_series(d, model, ref)["gaussian", 1.0].flatten(1).double().numpy()
    assert np.allclose(np.cov(x.T), ref.time[1].covariance, atol=0.15)
    assert np.allclose(x.mean(0), ref.time[1].mean, atol=0.1)


def test_a_linear_model_has_nothing_of_its_own():
    "What it knows is the means and the covariance: the twin finds it, and the verdict says so."
    model, ref, *_ = gaussian_world()
    d = sd.grounded_dreaming(model, ref, 1, "beyond", n=12, steps=60, normalize=False)
    v = sd.verdict(d, model, ref)
    assert v.shares["network"] < 0.1
    assert v.table.loc["model", "best_twin"] == "qda"
    assert abs(sum(v.shares.values()) - 1) < 1e-6
    assert f"{100 * v.shares['network']:.0f} % the network's own" in str(v)


@pytest.mark.parametrize("what", ["spectrum", "shape"])
def test_verdict_tells_spectrum_from_shape(what):
    "A model that adds up power in a band, and one that looks for a motif at a fixed place."
    t = 64

    class Band(nn.Module):
        def forward(self, x):
            s = torch.fft.rfft(x[:, 0]).abs()[:, 8:14].square().sum(1) / t
            return torch.stack([-s, s], 1)

    class Motif(nn.Module):
        def __init__(self):
            super().__init__()
            chirp = torch.sin(torch.arange(t) ** 1.5 / 9.0)
            self.register_buffer("m", sd.z_normalise(chirp[None, None])[0, 0])

        def forward(self, x):
            s = (x[:, 0] * self.m).sum(1) / 8
            return torch.stack([-s, s], 1)

    model = Band() if what == "spectrum" else Motif()
    g = torch.Generator().manual_seed(0)
    X = sd.z_normalise(torch.randn(300, 1, t, generator=g))
    a = model(X)[:, 1]
    ref = sd.Reference.from_data(model, X, (a > a.median()).long())
    d = sd.grounded_dreaming(model, ref, 1, "beyond", n=8, steps=40)
    v = sd.verdict(d, model, ref)
    assert v.reads == what
    assert v.kept > 0.9 if what == "spectrum" else v.kept < 0.4
    assert what in str(v)


def test_scrambled_phases_keep_magnitudes_and_cross_spectra():
    x = torch.randn(4, 3, 33, dtype=torch.float64)
    s = scramble_phases(x, 5)
    z = torch.fft.rfft(x)
    w = torch.fft.rfft(s)
    assert torch.allclose(z.abs(), w.abs())
    assert torch.allclose(z[:, 0] * z[:, 1].conj(), w[:, 0] * w[:, 1].conj(), atol=1e-8)
    assert not torch.allclose(x, s)
    assert torch.equal(scramble_phases(x[2:3], 5), scramble_phases(x[2:3], 5))


def test_bootstrap_interval_is_scipys():
    v = np.random.default_rng(3).gamma(2.0, size=60)
    ours = bootstrap_interval(v, np.mean, repeats=20000)
    how = dict(method="percentile", n_resamples=20000, rng=0)
    theirs = scipy.stats.bootstrap((v,), np.mean, **how).confidence_interval
    assert np.allclose(ours, theirs, atol=0.02)
    # within groups no spread: only the groups' means count
    groups = [np.full(50, m) for m in (1.0, 2.0, 3.0)]
    low, high = bootstrap_interval(groups, np.mean)
    assert low == 1.0
    assert high == 3.0


def test_twins_in_evaluate_and_judges(tiny, tmp_path):
    model, ref, X, y = tiny
    new, y_new = make(60, seed=9)
    which = ("paper, seed 11", "ROCKET", "spectrum")
    judges = sd.train_judges(X, y, new, y_new, epochs=3, which=which)
    d = sd.grounded_dreaming(model, ref, 1, "beyond", n=5, steps=10)
    table = sd.evaluate(d, ref, twins=True, model=model, judges=judges)
    assert len(table) == 5
    twins = {"margin", "twin_qda", "twin_random", "twin_scrambled", "gain_over_twin"}
    judged = {"judge_ROCKET", "judge_spectrum_best_twin"}
    assert twins | judged <= set(table)
    assert np.allclose(table["margin"], class_margin(d.activations, ref, 1), atol=1e-4)
    scaled = twin_series(d, model, ref)["scaled", 1.0]
    margins = class_margin(model(scaled).detach(), ref, 1)
    assert np.allclose(table["twin_scaled"], margins, atol=1e-3)
    with pytest.raises(ValueError, match="pass model="):
        sd.evaluate(d, ref, twins=True)
    back = load_judges(str(save_judges(judges, tmp_path / "j.safetensors")))
    for a, b in zip(judges, back):
        assert a.name == b.name
        assert np.allclose(a(new, 1), b(new, 1), atol=1e-4)
        assert abs(np.mean(b(new[y_new == 1], 1)) - 1) < 1e-3
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no safetensors"):
        load_judges(str(tmp_path / "x.safetensors"))
    with pytest.raises(ValueError, match="there are paper"):
        sd.train_judges(X, y, new, y_new, which=("oracle",))


def test_twins_judges_are_scikit_learns():
    X, y = make(120, t=40, classes=3)
    s = SpectrumClassifier(1, 40, 3)
    s.learn(X, y, 0)
    power = np.abs(np.fft.rfft(X[:, 0].double().numpy()))[:, 1:] ** 2
    f = np.log(power + 1e-3)
    f = (f - f.mean(0)) / f.std(0, ddof=1)
    theirs = LogisticRegression(C=0.01, max_iter=3000).fit(f, y).predict_proba(f)
    assert np.allclose(torch.softmax(s(X), 1).detach(), theirs, atol=2e-3)
    assert torch.allclose(s(scramble_phases(X)), s(X), atol=1e-2)


# --- any model ------------------------------------------------------------------------------------


class GRU(nn.Module):
    def __init__(self, c=1):
        super().__init__()
        self.rnn = nn.GRU(c, 12, batch_first=True)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        return self.head(self.rnn(x.transpose(1, 2))[0].mean(1))


class Transformer(nn.Module):
    def __init__(self, c=1):
        super().__init__()
        self.embed = nn.Conv1d(c, 8, 4, stride=2)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.layer(self.embed(x).transpose(1, 2)).mean(1))


class Conv(nn.Module):
    def __init__(self, c=1, out=2):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(c, 8, 5),
            nn.BatchNorm1d(8),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Conv1d(8, 8, 3),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(8, out)

    def forward(self, x):
        return self.head(self.body(x).mean(-1))


class Tuple(Conv):
    def forward(self, x):
        return super().forward(x), x


class Dict(Conv):
    def forward(self, x):
        return {"features": x, "logits": super().forward(x)}


class Last(Conv):
    def forward(self, x):
        return super().forward(x.transpose(1, 2))


class Bounded(Conv):
    "Layer norm at the end: its logits cannot grow for ever."

    def __init__(self, c=1):
        super().__init__(c)
        self.norm = nn.LayerNorm(2)

    def forward(self, x):
        return self.norm(super().forward(x))


def channels_last(c=1):
    return sd.Adapter(Last(c), channels_last=True)


def one_logit(c=1):
    return sd.Adapter(Conv(c, 1), binary=True)


MODELS = {
    "recurrent": GRU,
    "transformer": Transformer,
    "in-place ReLU and dropout": Conv,
    "tuple": Tuple,
    "dict": Dict,
    "channels last": channels_last,
    "one logit": one_logit,
    "bounded": Bounded,
    "fcn": partial(sd.make_model, "fcn"),
    "inception": partial(sd.make_model, "inception"),
}


def trained(model, X, y, steps=60):
    "A few steps of Adam are enough for a gradient with a direction."
    opt = torch.optim.Adam(model.parameters(), 1e-2)
    for i in range(steps):
        part = slice(i % 4, None, 4)
        opt.zero_grad()
        cross_entropy(one_tensor(model(X[part])), y[part]).backward()
        opt.step()
    return model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_model_with_every_method_and_left_as_it_was(name, channels):
    torch.manual_seed(2)
    X, y = make(48, channels, 30)
    model = trained(MODELS[name](channels), X, y, 20 if name in ("fcn", "inception") else 60)
    model.train()
    model.zero_grad(set_to_none=True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ref = sd.Reference.from_data(model, X, y)
    held = [0] if channels > 1 else ()
    for run in (
        partial(sd.grounded_dreaming, target_class=1, region="max", n=3, steps=6),
        partial(sd.grounded_dreaming, target_class=0, region="beyond", n=3, steps=6, held=held),
        partial(sd.sequence_dreaming, target_class=1, n=3, steps=4),
        partial(sd.gradient_ascent, target_class=1, n=2, steps=3),
        partial(sd.target_descent, target_class=1, n=2, steps=3),
        partial(sd.ellis, target_class=1, n=2, steps=2),
    ):
        d = run(model, ref)
        assert torch.isfinite(d.x).all()
        assert d.x.shape[1:] == X.shape[1:]
        assert len(sd.evaluate(d, ref)) == len(d)
        if d.settings.get("held"):
            assert torch.equal(d.x[:, 0], d.start[:, 0])
            assert not torch.equal(d.x[:, 1], d.start[:, 1])
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_any_model_bounded_logits_saturate_and_do_not_walk_for_ever():
    torch.manual_seed(2)
    X, y = make(60)
    model = trained(Bounded(), X, y).eval()
    ref = sd.Reference.from_data(model, X, y)
    d = sd.grounded_dreaming(model, ref, 1, "max", k=10.0, n=3, steps=300, tolerance=1e-4)
    assert set(d.status) <= {"saturated"}
    assert max(d.settings["multiple"]) < 10
    assert (ref.percentile(d.x, 1) <= 95).all()


def test_any_model_with_a_softmax_is_warned_about():
    X, y = make(40)
    model = nn.Sequential(Conv(), nn.Softmax(1)).eval()
    ref = sd.Reference.from_data(model, X, y)
    with pytest.warns(UserWarning, match="layer before"):
        sd.grounded_dreaming(model, ref, 1, n=2, steps=2)
    ref = sd.Reference.from_data(model, X, y, layer="0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(sd.grounded_dreaming(model, ref, 1, n=2, steps=2)) == 2


def test_any_model_on_basic_motions():
    "Six channels at different scales, not normalised; two channels are held."
    data = sd.load_dataset("BasicMotions")
    model = sd.ResNet.preset("paper", data.n_channels, data.n_classes)
    trained(model, data.X_train, data.y_train).eval()
    channels = tuple("xyzabc")
    units = ("m/s²",) * 3 + ("rad/s",) * 3
    physical = sd.Physical(10.0, channels, units)
    ref = sd.Reference.from_data(model, data.X_train, data.y_train, physical=physical)
    for c in range(2):
        d = sd.grounded_dreaming(model, ref, c, "max", n=3, steps=60, held=[1, 4])
        assert torch.equal(d.x[:, [1, 4]], d.start[:, [1, 4]])
        assert (ref.percentile(d.x, c) <= 95).all()
    drawn = sd.plot_dreams(d[:1], ref).findobj(lambda artist: hasattr(artist, "get_text"))
    text = " ".join(artist.get_text() for artist in drawn)
    assert "time [s]" in text
    assert "x [m/s²]" in text


def test_any_model_physical_units_come_back(tiny):
    model, _, X, y = tiny
    volts = sd.Physical(sampling_rate=50.0, units="mV", mean=3.0, scale=0.5)
    ref = sd.Reference.from_data(model, X, y, physical=volts)
    d = sd.grounded_dreaming(model, ref, 1, n=2, steps=3)
    assert torch.allclose(ref.physical.restore(d.x), d.x * 0.5 + 3)
    assert ref.physical == volts
    axes = sd.plot_dreams(d[:1], ref).axes
    drawn = next(line for line in axes[0].get_lines() if line.get_label() == "dream")
    assert np.allclose(drawn.get_xdata(), np.arange(24) / 50)
    assert np.allclose(drawn.get_ydata(), d.x[0, 0] * 0.5 + 3, atol=1e-5)
    assert "Hz" in sd.plot_spectra([d], ref).axes[0].get_xlabel()


# --- bad input ------------------------------------------------------------------------------------


def with_constant_channel():
    X, y = make(40, 2)
    X[:, 1] = 4.0
    model = small_net(2)
    return model, sd.Reference.from_data(model, X, y)


def dream_with_a_constant_channel(model, ref):
    return sd.grounded_dreaming(*with_constant_channel(), 1)


def dream_of_one_training_series(model, ref):
    X, _ = make(3)
    ref = sd.Reference.from_data(model, X, [0, 0, 1], allow_single=True)
    return sd.grounded_dreaming(model, ref, 1, n=1)


def unknown_wavelet(model, ref):
    return sd.Wavelet(24, "mexican").encode(torch.randn(1, 1, 24))


def no_sampling_rate(model, ref):
    return sd.Physical(0.0)


def grounded(**options):
    "A call that waits for its model and reference."
    return partial(sd.grounded_dreaming, **options)


nothing = torch.full((1, 1, 24), float("nan"))


@pytest.mark.parametrize(
    "call, says",
    [
        (grounded(target_class=1, trust=0), "above 0"),
        (grounded(target_class=1, trust=120), "at most 100"),
        (grounded(target_class=1, region="top"), "beyond"),
        (grounded(target_class=9), "a class is an index"),
        (grounded(target_class=1, held=[0]), "not all"),
        (grounded(target_class=1, held=[7]), "channels 0 to 0"),
        (grounded(target_class=1, n=1, diversity=1.0), "two dreams"),
        (grounded(target_class=1, start=nothing), "no values"),
        (dream_with_a_constant_channel, r"channel 1 is constant.*held=\[1\]"),
        (unknown_wavelet, "haar"),
        (no_sampling_rate, "above 0"),
        (dream_of_one_training_series, "one training series"),
    ],
)
def test_grounded_bad_calls(tiny, call, says):
    model, ref, *_ = tiny
    with pytest.raises(ValueError, match=says):
        call(model, ref)


def test_any_model_that_goes_wrong_is_named():
    X, y = make(30)

    class NaN(Conv):
        def forward(self, x):
            return super().forward(x) * float("nan")

    class Flat(Conv):
        def forward(self, x):
            return super().forward(x).mean()

    class Skips(Conv):
        def __init__(self):
            super().__init__()
            self.never = nn.Linear(2, 2)

    class Words(Conv):
        def forward(self, x):
            return "yes"

    for model, says in ((NaN(), "NaN or inf"), (Flat(), "n, features"), (Words(), "not a tensor")):
        with pytest.raises((ValueError, TypeError), match=says):
            sd.Reference.from_data(model.eval(), X, y)
    with pytest.raises(RuntimeError, match="never reaches"):
        sd.Reference.from_data(Skips().eval(), X, y, layer="never")


def test_verdict_without_a_gain_attributes_nothing(small):
    model, ref = small
    d = sd.grounded_dreaming(model, ref, 1, "boundary", n=4, steps=40)
    v = sd.verdict(d, model, ref)
    assert v.reads == "unknown"
    assert "no gain to attribute" in str(v)
    assert "scrambled phases" not in str(v)


def test_verdict_of_a_single_dream_claims_no_interval(small):
    model, ref = small
    d = sd.grounded_dreaming(model, ref, 1, "beyond", n=1, steps=40)
    v = sd.verdict(d, model, ref, sd.load_judges("FordA"))
    assert "interval" not in str(v).replace("too few dreams for an interval", "")
    assert "of 5 see more" in str(v)


def test_judges_of_other_series_are_left_out_and_named():
    model, ref, *_ = gaussian_world()
    d = sd.grounded_dreaming(model, ref, 1, "beyond", n=4, steps=20, normalize=False)
    v = sd.verdict(d, model, ref, sd.load_judges("FordA"))
    assert list(v.table.index) == ["model"] or "Not asked" in str(v)
    assert not {"ROCKET", "spectrum"} & set(v.table.index)


def test_judges_need_every_class():
    x = torch.randn(12, 1, 30)
    y = torch.arange(12) % 3
    with pytest.raises(ValueError, match="class 1 among the new series"):
        sd.train_judges(x, y, x[y != 1], y[y != 1], which=("spectrum",))
    with pytest.raises(ValueError, match="class 2 among the judges' series"):
        sd.train_judges(x[y != 2], y[y != 2], x, y, which=("spectrum",))
    new = torch.randn(300, 1, 30)
    (weak,) = sd.train_judges(x, y, new, torch.arange(300) % 3, which=("spectrum",))
    assert (weak.unit > 0.05).all(), "a judge at chance counts in standard deviations"


def test_untrained_twin_keeps_nothing_learned(monkeypatch):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Parameter(torch.randn(1, 24, 8))
            self.up = nn.utils.parametrizations.weight_norm(nn.Linear(1, 8))
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            h = self.up(x.transpose(1, 2)) + self.place
            return self.head(self.layer(h).mean(1))

    seen = []

    class Keep(sd.Probe):
        def __init__(self, net, layer):
            seen.append(net)
            super().__init__(net, layer)

    net = Attends()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, 24, generator=g)
    ref = sd.Reference.from_data(net, x, torch.arange(40) % 2)
    d = sd.grounded_dreaming(net, ref, 1, "beyond", n=2, steps=3)
    monkeypatch.setattr("seqdream.twins.Probe", Keep)
    twin_series(d, net, ref)
    fresh = dict(seen[0].named_parameters())
    learned = {k: p for k, p in net.named_parameters() if p.unique().numel() > 1}
    assert not [k for k, p in learned.items() if torch.equal(p, fresh[k])]


def test_arrays_of_numpy_will_do(small):
    model, ref = small
    target = np.array([-1.2, 1.3])
    how = dict(n=2, steps=3, start="region")
    d = sd.grounded_dreaming(model, ref, 1, target, **how)
    same = sd.grounded_dreaming(model, ref, 1, target.tolist(), **how)
    first = sd.starting_series(ref, 1, "region", 1, 0, target)
    alike = torch.equal(d.x, same.x) and torch.equal(d.start[:1], first)
    assert alike or d.settings["moved"]
    with pytest.raises(ValueError, match="held=.*channels 0 to 0, not all"):
        sd.grounded_dreaming(model, ref, 1, n=1, held=np.array([0]))
    with pytest.raises(ValueError, match="shake"):
        sd.grounded_dreaming(model, ref, 1, n=2, shake=torch.tensor([0.1, 0.2]))
    p = sd.Physical(mean=np.array([1.0, 2.0]), scale=torch.tensor([1.0, 3.0]), channels=["a", "b"])
    assert json.loads(json.dumps(asdict(p)))["mean"] == [1.0, 2.0]
    assert torch.equal(p.restore(torch.ones(1, 2, 3))[0, :, 0], torch.tensor([2.0, 5.0]))


def test_threads_may_borrow_one_model(small):
    model = sd.ResNet.preset("paper").train()
    model.head.weight.requires_grad_(False)

    def work():
        for _ in range(200):
            with borrowed(model):
                assert not model.training
                assert not any(p.requires_grad for p in model.parameters())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert model.training
    assert not model.head.weight.requires_grad
    assert model.head.bias.requires_grad


def test_saving_a_loaded_model_again(tmp_path):
    model = sd.ResNet.preset("paper")
    card = {"note": "first"}
    sd.save_model(model, tmp_path / "a", card)
    again, card = sd.load_model(tmp_path / "a")
    sd.save_model(again, tmp_path / "b", card | {"sha256": "stale", "architecture": "Other"})
    assert sd.load_model(tmp_path / "b")[1]["note"] == "first"


def test_half_a_pair_does_not_hide_a_whole_one(tmp_path):
    shutil.copytree(_bundled() / "GunPoint", tmp_path / "GunPoint")
    for f in (tmp_path / "GunPoint").glob("*.tsv"):
        f.unlink()
    (tmp_path / "GunPoint" / "GunPoint_TRAIN.tsv").write_text("1\t0\t1\n")
    assert load_dataset("GunPoint", root=tmp_path).n_timepoints == 150


def test_a_report_keeps_every_architecture_of_ours_and_no_guest(small, tmp_path):
    _keep_model(tmp_path / "a", sd.FCN(), {}, small[1])
    assert isinstance(sd.load_model(tmp_path / "a" / "FordA-model")[0], sd.FCN)
    _keep_model(tmp_path / "b", torch.nn.Linear(500, 2), {}, small[1])
    assert [f.name for f in (tmp_path / "b").iterdir()] == ["FordA-model-reference.safetensors"]


@pytest.mark.parametrize("seed", [0, 1])
def test_an_untrained_model_is_counted_in_the_size_of_its_margins_and_named(seed):
    "Its scores lie far from zero and hardly differ: no spread, and a class of negative margins."
    rng = np.random.default_rng(seed)
    X = torch.tensor(rng.normal(size=(60, 1, 48)), dtype=torch.float32)
    y = torch.arange(60) % 2
    model = sd.ResNet.preset("paper", 1, 2, seed).eval()
    list(model.modules())[-1].bias.data = torch.tensor([0.4, -0.4])
    ref = sd.Reference.from_data(model, X, y)
    for c, sign in ((0, 1), (1, -1)):
        logits = ref.activations
        own = (logits[:, c] - logits[:, 1 - c])[y == c].numpy()
        assert np.sign(own.mean()) == sign
        assert own.std() < 0.1 * abs(own.mean())
        margins = sd.class_margin(logits, ref, c).numpy()
        expected = (logits[:, c] - logits[:, 1 - c]).numpy() / np.sqrt((own**2).mean())
        np.testing.assert_allclose(margins, expected, rtol=1e-2)
        v = sd.verdict(sd.gradient_ascent(model, ref, c, n=3, steps=5, progress=False), model, ref)
        assert abs(v.table.loc["model", "dream"]) < 3
        assert v.knows is (sign > 0)
        assert ("does not know this class" in str(v)) is (sign < 0)
