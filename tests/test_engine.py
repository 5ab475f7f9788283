"""The engine: properties, rows, statuses, a guest's model."""
import copy

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.ndimage import gaussian_filter1d
from torch import nn

import seqdream as sd
from seqdream.penalties import alpha_norm, smoothness, total_variation
from seqdream.transforms import gaussian_blur

quick = settings(max_examples=30, deadline=None)
arrays = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 40), st.integers(0, 2**20)).map(lambda s: torch.randn(*s[:3], generator=torch.Generator().manual_seed(s[3]), dtype=torch.float64))


@quick
@given(arrays, st.floats(0.05, 20))
def test_blur_is_scipys(x, sigma):
    assert np.allclose(gaussian_blur(x, sigma), gaussian_filter1d(x.numpy(), sigma, axis=-1, mode="reflect"), atol=1e-9)


@quick
@given(arrays, st.floats(0.1, 10))
def test_blur_keeps_the_mean_and_a_constant(x, sigma):
    assert torch.allclose(gaussian_blur(x, sigma).mean(-1), x.mean(-1), atol=1e-9)
    assert torch.allclose(gaussian_blur(torch.ones_like(x), sigma), torch.ones_like(x))


@quick
@given(arrays, st.floats(1, 6), st.floats(-3, 3).filter(lambda v: abs(v) > 1e-3))
def test_penalties_scale_as_their_powers(x, p, a):
    assert torch.allclose(alpha_norm(a * x, p), abs(a) ** p * alpha_norm(x, p)) and torch.allclose(total_variation(a * x, p), abs(a) ** p * total_variation(x, p))
    assert torch.allclose(smoothness(a * x), abs(a) * smoothness(x))
    assert torch.allclose(total_variation(x + a, p), total_variation(x, p), rtol=1e-6) and torch.allclose(total_variation(x.flip(-1), p), total_variation(x, p))


@pytest.fixture(scope="module")
def net():
    model = sd.ResNet.preset("paper", seed=5)
    model(torch.randn(32, 1, 60, generator=torch.Generator().manual_seed(1)))
    return model.eval()


start = torch.randn(5, 1, 60, generator=torch.Generator().manual_seed(2))
noisy = [sd.GaussianBlur(1.0, on="gradient"), sd.NoiseOnStall(.05, patience=1, sigma=1.0), sd.NoiseOnOvershoot(.05)]


@quick
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True))
def test_a_row_does_not_depend_on_what_follows_it(net, some):
    "Rows 0..m-1 of a batch are what a batch of m rows gives."
    m = len(some)
    both = [sd.dream(net, start[:n], sd.score(1), transforms=noisy, lr=.2, steps=6, seed=3, keep="last").x for n in (m, 5)]
    assert torch.allclose(both[0], both[1][:m], atol=1e-4)


@quick
@given(st.integers(1, 12), st.integers(1, 12))
def test_a_shorter_run_is_a_prefix(net, a, b):
    one, two = (sd.dream(net, start[:2], sd.score(0), transforms=noisy, lr=.3, steps=s, snapshots=range(20)) for s in (a, b))
    shared = min(a, b) + 1
    assert torch.allclose(one.history["loss"][:shared], two.history["loss"][:shared], atol=1e-5)
    assert all(torch.allclose(one.snapshots[s], two.snapshots[s], atol=1e-5) for s in range(shared))


def test_same_seed_same_dream_other_seed_another(net):
    a, b, c = (sd.dream(net, start, sd.score(1), transforms=noisy, steps=6, lr=.2, seed=s, keep="last").x for s in (3, 3, 4))
    assert torch.equal(a, b) and not torch.allclose(a, c, atol=1e-3)


def test_global_random_state_is_left_alone(net):
    torch.manual_seed(7); before = torch.get_rng_state()
    sd.dream(net, start, sd.score(1), transforms=noisy, steps=3)
    sd.ResNet.preset("paper", seed=3)
    sd.fit(sd.ResNet.preset("paper"), (start, torch.arange(5) % 2), epochs=1, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_row_has_its_own_numbers(net):
    lr, weight, sigma = [.1, .2, .3, .4, .5], [0., .01, .02, .03, .04], [0., 1., 2., 3., 4.]
    together = sd.dream(net, start, sd.score(1), penalties=[sd.AlphaNorm(weight, 4)], transforms=[sd.GaussianBlur(sigma, on="gradient")], lr=lr, steps=5, keep="last")
    for i in range(5):
        alone = sd.dream(net, start[i:i + 1], sd.score(1), penalties=[sd.AlphaNorm(weight[i], 4)], transforms=[sd.GaussianBlur(sigma[i], on="gradient")], lr=lr[i], steps=5, keep="last")
        assert torch.allclose(alone.x[0], together.x[i], atol=1e-4)


class Explode:
    "NaN in one row at one step, as a series or as a gradient."
    def __init__(self, row, step, on): self.row, self.step, self.on = row, step, on
    def __call__(self, x, walk): return torch.where((walk.rows == self.row).reshape(-1, 1, 1) & (walk.step == self.step), float("nan"), x)


@pytest.mark.parametrize("on", ["iterate", "gradient"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_nan_in_one_row_reaches_no_other(net, on, optimizer):
    clean, broken = (sd.dream(net, start, sd.score(1), transforms=t, lr=.05, steps=8, optimizer=optimizer, keep="last") for t in ([], [Explode(2, 3, on)]))
    assert broken.status[2] == "diverged" and torch.isfinite(broken.x).all() and torch.isfinite(broken.activations).all()
    others = [0, 1, 3, 4]
    assert torch.allclose(broken.x[others], clean.x[others], atol=1e-5) and [broken.status[i] for i in others] == [clean.status[i] for i in others]


class Threshold(nn.Module):
    "Answers only to what is above 1: a flat start says nothing to it."
    def forward(self, x): return torch.relu(x - 1).mean(-1).repeat(1, 2)


def test_dead_starts_are_seen():
    d = sd.dream(Threshold(), torch.cat([torch.zeros(1, 1, 20), torch.full((1, 1, 20), 2.0)]), sd.score(0), steps=5)
    assert d.status == ["dead", "exhausted"] and torch.equal(d.x[0], torch.zeros(1, 20))


def test_saturated_and_stopped():
    class Bounded(nn.Module):
        def forward(self, x): return torch.tanh(x.mean(-1)).repeat(1, 2)
    d = sd.dream(Bounded(), torch.full((1, 1, 10), .1), sd.score(0), lr=10.0, steps=100)
    assert d.status == ["saturated"] and d.activations[0, 0] > .99
    d = sd.dream(Bounded(), torch.full((1, 1, 10), .1), sd.score(0), steps=100, callback=lambda step, so_far: step == 4)
    assert d.status == ["stopped"] and len(d.history["loss"]) == 5


def test_dead_gradient_does_not_stop_the_shaken():
    d = sd.dream(Threshold(), torch.full((1, 1, 50), .99), sd.score(0), transforms=[sd.NoiseOnStall(.5, patience=1)], lr=1.0, steps=30)
    assert d.status != ["dead"] and d.activations[0, 0] > 0


def full_state(model):
    return ([(n, m.training, dict(m._forward_hooks), dict(m._forward_pre_hooks)) for n, m in model.named_modules()], [(n, p.requires_grad, None if p.grad is None else p.grad.clone()) for n, p in model.named_parameters()], {k: v.clone() for k, v in model.state_dict().items()})


def same(a, b):
    eq = lambda u, v: u is v is None or torch.equal(u, v)
    return a[0] == b[0] and all(x[:2] == y[:2] and eq(x[2], y[2]) for x, y in zip(a[1], b[1])) and all(torch.equal(a[2][k], b[2][k]) for k in a[2])


def wild_model():
    "Mixed modes, some weights frozen, gradients and a hook present, dropout, in-place ReLU."
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout(.5), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
    model.train(); model[1].eval(); model[0].weight.requires_grad_(False)
    model[6].register_forward_hook(lambda *a: None)
    model(start).sum().backward()
    return model


def boom(step, so_far): raise RuntimeError("boom")


@pytest.mark.parametrize("use", [lambda m: sd.dream(m, start, sd.score(0), steps=2), lambda m: sd.dream(m, start, sd.score(1), steps=2, layer="1", callback=boom), lambda m: sd.Probe(m, "1")(start), lambda m: sd.Probe(m, "1")(start[:, :, :1]),
                                 lambda m: sd.predict(m, start), lambda m: sd.Reference.from_data(m, start, [0, 1, 0, 1, 0]), lambda m: sd.dream(m, start.repeat(1, 2, 1), sd.score(0))])
def test_the_model_is_a_guest(use):
    model = wild_model()
    before = full_state(model)
    try: use(model)
    except (RuntimeError, ValueError): pass
    assert same(before, full_state(model))


def test_probe_before_an_inplace_relu_sees_what_the_layer_gave():
    model = wild_model()
    expected = copy.deepcopy(model).eval()[1](model[0](start)).detach().mean(-1)
    assert torch.allclose(sd.Probe(model, "1")(start), expected, atol=1e-6) and (expected < 0).any()


def test_dreams_save_load_index(net, tmp_path):
    d = sd.dream(net, start, sd.score(1), penalties=[sd.Smoothness(.1)], steps=3, settings={"name": "ünïcode"})
    back = sd.Dreams.load(d.save(tmp_path / "d.safetensors"))
    assert all(torch.equal(getattr(back, k), getattr(d, k)) for k in ("x", "activations", "start", "start_activations", "steps")) and back.settings == d.settings and back.status == d.status
    assert set(back.history) == {"loss", "objective", "smoothness", "activation"} and all(torch.equal(back.history[k], d.history[k]) for k in d.history) and sorted(back.snapshots) == sorted(d.snapshots)
    for which, rows in ((2, [2]), (slice(1, 4), [1, 2, 3]), ([4, 0], [4, 0]), (torch.tensor([True, False, False, True, False]), [0, 3])):
        assert torch.equal(d[which].x, d.x[rows]) and d[which].settings["rows"] == rows and d[which].history["activation"].shape[1] == len(rows)
    assert "5 dreams of 1 × 60" in repr(d)


def test_final_activations_are_the_models_answer(net):
    d = sd.dream(net, start, sd.score(1), transforms=noisy, lr=.3, steps=7)
    assert torch.allclose(net(d.x), d.activations, atol=1e-4)
    assert torch.allclose(-d.activations[:, 1], d.history["loss"].nan_to_num(float("inf")).min(0).values, atol=1e-4)  # the best of the walk is kept
