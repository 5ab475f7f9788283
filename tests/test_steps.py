"""Watches over the model's own step: closed forms, counted passes, rows alone and in company."""

from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import brentq
from torch import nn

import seqdream as sd
from seqdream.files import read_tensors, write_tensors
from seqdream.steps import DAMPING, Smoothing

T = 24
quick = settings(max_examples=12, deadline=None)


def aim(target, unit=1.0, tolerance=0.03, features=None):
    "Bring some activations to a target, one for all rows or one each, counted in a unit."
    target = torch.as_tensor(target)

    def residual(a, rows):
        a = a if features is None else a[:, features]
        return (a - (target if target.ndim == 1 else target[rows.cpu()]).to(a)) / unit

    def loss(a, rows):
        return residual(a, rows).square().sum(1)

    def arrived(a, rows):
        return loss(a, rows) <= tolerance**2

    return sd.Objective(loss, "aim", arrived, residual=residual)


def linear(W, shape):
    "A model whose outputs are W · x, for a matrix (outputs, numbers of a series)."
    last = nn.Linear(*reversed(W.shape), bias=False)
    last.weight.data = torch.as_tensor(W, dtype=torch.float32)
    return sd.Adapter(nn.Sequential(nn.Flatten(), last))


def blurred(sigma):
    return sd.GaussianBlur(sigma, on="gradient")


def in_metric(W, sigma, shape):
    "W · M, where M is scipy's Gaussian filter."
    rows = W.reshape(-1, *shape)
    rows = gaussian_filter1d(rows, sigma, axis=-1, mode="reflect") if sigma else rows
    return rows.reshape(len(W), -1)


def random_net(seed, outputs=2, channels=1):
    torch.manual_seed(seed)
    hidden = nn.Linear(channels * T, 16)
    return nn.Sequential(nn.Flatten(), hidden, nn.Tanh(), nn.Linear(16, outputs))


def mapped(net, outputs=2, channels=1, layer=None, n=40, seed=0):
    "A model and its reference of random smooth series, each class around one of its own."
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % max(outputs, 2)
    centres = 3 * torch.randn(max(outputs, 2), channels, T, generator=g)
    X = centres[y] + torch.randn(n, channels, T, generator=g)
    X = sd.transforms.gaussian_blur(X, 1.5)
    model = sd.Adapter(net)
    return model, sd.Reference.from_data(model, X, y.numpy(), layer)


# A linear model: every answer is known


@quick
@given(
    st.integers(0, 2**20), st.sampled_from([0, 0.5, 1.5, 4]), st.integers(1, 2), st.integers(1, 3)
)
def test_one_step_is_the_shortest_in_the_metric_of_the_blur(seed, sigma, channels, k):
    rng = np.random.default_rng(seed)
    shape = (channels, T)
    W = rng.normal(size=(max(k, 2), channels * T))
    x = rng.normal(size=channels * T)
    J = W[:k]
    MJ = in_metric(J, sigma, shape)
    G = J @ MJ.T
    way = rng.normal(size=k)
    d = MJ.T @ np.linalg.solve(G, way)
    way *= 0.4 * x.std() / np.sqrt((d**2).mean())  # within the cap of one step
    damped = G + DAMPING * np.trace(G) / k * np.eye(k)
    expected = x + MJ.T @ np.linalg.solve(damped, way)
    goal = aim(J @ x + way, np.linalg.norm(way), 0.5, slice(k))
    start = torch.tensor(x, dtype=torch.float32).reshape(1, *shape)
    found = sd.dream(linear(W, shape), start, goal, transforms=[blurred(sigma)], lr=None)
    assert found.steps.tolist() == [1]
    scale = np.abs(expected - x).max()
    assert np.allclose(found.x.flatten().numpy(), expected, atol=2e-4 * scale)
    if k == 1:  # of one number nothing but DAMPING is missing: the minimum-norm solution
        d = MJ.T @ np.linalg.solve(G, way)
        assert np.allclose((found.x.flatten().numpy() - x) * (1 + DAMPING), d, atol=1e-3 * scale)


def nearest_inside(w, x, value, bound):
    "The point of the box nearest to x where w · x is `value`."

    def at(t):
        return np.clip(x + t * w, -bound, bound)

    return at(brentq(lambda t: w @ at(t) - value, -1e3, 1e3))


@quick
@given(st.integers(0, 2**20), st.floats(0.3, 0.85))
def test_in_a_box_the_free_points_reach_what_the_nearest_solution_has(seed, share):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(2, T))
    x = np.clip(rng.normal(size=T), -1, 1)
    most = np.abs(W[0]).sum()
    value = W[0] @ x + share * (most - W[0] @ x)
    goal = aim([value], most, 0.005, [0])
    start = torch.tensor(x, dtype=torch.float32).reshape(1, 1, T)
    box = [blurred(0.0), sd.Clamp(-1.0, 1.0)]
    found = sd.dream(linear(W, (1, T)), start, goal, transforms=box, lr=None, steps=60)
    assert found.status == ["arrived"]
    assert found.x.abs().max() <= 1
    dream = found.x.flatten().double().numpy()
    best = nearest_inside(W[0], x, value, 1.0)
    assert abs(W[0] @ dream - W[0] @ best) <= 0.006 * most
    assert np.linalg.norm(dream - x) <= 1.25 * np.linalg.norm(best - x)


@pytest.mark.parametrize(("seed", "beyond"), [(0, 1.2), (0, 2.0), (1, 1.2), (2, 2.0)])
def test_beyond_what_the_box_gives_it_ends_in_the_corner_and_says_so(seed, beyond):
    W = np.random.default_rng(seed).normal(size=(2, T))
    _, ref = mapped(linear(W, (1, T)))
    model = linear(W, (1, T))
    low = sd.clamp_to(ref).low.expand(1, T).flatten().double().numpy()
    high = sd.clamp_to(ref).high.expand(1, T).flatten().double().numpy()
    origin = ref.activations.double().mean(0).numpy()
    along = ref.means[1].double().numpy() - origin
    w = along @ W / (along @ along)  # what the place on the line reads of a series
    corner = np.where(w > 0, w * high, w * low).sum() - along @ origin / (along @ along)
    how = {"treat": "along", "n": 3, "k": beyond * corner}
    d = sd.sequence_dreaming(model, ref, 1, **how)
    assert d.status == ["saturated"] * 3
    reached = d.x.flatten(1).double().numpy() @ w - along @ origin / (along @ along)
    assert (reached > 0.99 * corner).all()
    assert (reached <= corner * (1 + 1e-4)).all()
    assert np.allclose(d.settings["multiple"], reached, atol=2e-3 * corner)


# What a step costs


class Counted(nn.Module):
    "A model that counts the rows that go through it, there and back."

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.seen = {"forward": 0, "backward": 0}

    def forward(self, x):
        self.seen["forward"] += len(x)
        if x.requires_grad:
            x = x * 1.0
            x.register_hook(self.back)
        return self.net(x)

    def back(self, g):
        self.seen["backward"] += len(g)


def counted_dream(k, arrives):
    "(Dreams, rows that went through the model) of a walk once the model is known."
    counter = Counted(random_net(3, max(k, 2)))
    model = sd.Adapter(counter)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, 1, T, generator=g)
    near = counter.net(x + 0.3 * torch.randn(x.shape, generator=g)).detach()[:, :k]
    goal = aim(near if arrives else 100 * near, near.norm(), 0.02, slice(k))
    how = {"lr": None, "steps": 30, "precision": "float32", "transforms": [blurred(1.0)]}
    sd.dream(model, x + 1, goal, **how)  # how the model is asked is found out here
    counter.seen = {"forward": 0, "backward": 0}
    return sd.dream(model, x, goal, **how), counter.seen


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3, 7, 100])
def test_evaluations_are_the_passes_that_a_model_sees(k, arrives):
    d, seen = counted_dream(k, arrives)
    assert int(d.evaluations.sum()) == seen["forward"] + seen["backward"]


@pytest.mark.parametrize(("k", "slopes"), [(1, 1), (2, 2), (3, 3), (7, 1), (100, 1)])
def test_a_step_takes_a_gradient_per_number_up_to_three_else_one(k, slopes):
    d, seen = counted_dream(k, True)
    walked = torch.isfinite(d.history["loss"])
    asked = int(walked.sum())
    # the start, the first rows with a gradient, every question, the report
    assert seen["forward"] == 3 * len(d) + asked
    most = slopes * int(walked[:-1].sum())
    assert len(d) + slopes * len(d) <= seen["backward"] <= len(d) + most


# Rows know nothing of each other


class Patchy(nn.Module):
    "A net that says NaN where a series' mean is above 2, and has no slope where its end is 0."

    def __init__(self):
        super().__init__()
        self.net = random_net(5)

    def forward(self, x):
        hole = torch.where(x.mean((1, 2)) > 2, float("nan"), 0.0)
        return self.net(x) + (hole + 0 * x[:, 0, -1].abs().sqrt())[:, None]


def company():
    "Five rows: two usual ones, one without a slope, one at the edge of a hole, one that crawls."
    x = torch.randn(5, 1, T, generator=torch.Generator().manual_seed(2))
    x[1, 0, -1] = 0
    x[2] += 1.99 - x[2].mean()
    model = sd.Adapter(Patchy())
    there = model(x + 0.4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4)))
    target = there.detach()
    target[2] = model(x[2:3] * 0 + 1.9).detach()[0]
    target[3] = 50.0
    return model, x, target


def of_some(rows, model, x, target, **how):
    ingredients = [blurred(2.0), sd.NoiseOnStall(0.05, sigma=2.0), sd.Clamp(-4.0, 4.0)]
    penalties = [sd.Smoothness(0.01), sd.AlphaNorm(1e-3)]
    goal = aim(target[rows], 1.0, 0.02)
    how |= {"lr": None, "steps": 400, "precision": "float32", "micro_batch": 4}
    how |= {"streams": rows, "smoothing": Smoothing(0.05)}
    return sd.dream(model, x[rows], goal, penalties=penalties, transforms=ingredients, **how)


def same(one, other):
    assert one.status == other.status
    assert torch.equal(one.steps, other.steps)
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.activations, other.activations)


def test_a_row_is_the_same_alone_and_beside_what_diverges_and_crawls():
    model, x, target = company()
    whole = of_some([0, 1, 2, 3, 4], model, x, target)
    assert whole.status[1] == "diverged"
    assert whole.status[3] == "saturated"
    assert whole.status[0] == whole.status[4] == "arrived"
    for i in range(5):
        same(of_some([i], model, x, target), whole[i])


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(5)), st.integers(1, 4))
def test_neither_order_nor_number_of_rows_matters(order, n):
    model, x, target = company()
    rows = [i for i in order if i != 3][:n]
    some = of_some(rows, model, x, target)
    alone = of_some([rows[-1]], model, x, target)
    same(alone, some[len(rows) - 1])


# Gradients that lead nowhere


class Off(nn.Module):
    "Two scores of what a ReLU lets through."

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(T, 2)

    def forward(self, x):
        return self.last(torch.relu(x[:, 0]))


def test_a_flat_start_behind_a_relu_is_dead_or_woken_by_noise():
    torch.manual_seed(1)
    model, ref = mapped(Off())
    goal = sd.reach(ref, 1, "centre")
    flat = torch.full((2, 1, T), -0.01)
    assert sd.dream(model, flat, goal, lr=None).status == ["dead"] * 2
    woken = sd.sequence_dreaming(model, ref, 1, "centre", start=flat)
    assert "dead" not in woken.status
    assert (goal(woken.activations) < 0.5 * goal(woken.start_activations)).all()


def test_what_no_noise_wakes_is_dead_and_not_called_saturated():
    model, ref = mapped(Off())
    d = sd.sequence_dreaming(model, ref, 1, start=torch.full((2, 1, T), -3.0))
    assert d.status == ["dead"] * 2
    assert torch.equal(d.activations, d.start_activations)


def test_two_equal_logits_arrive_where_they_can_and_stay_finite_where_not():
    w = np.random.default_rng(0).normal(size=T)
    W = np.stack([w, w, -w])
    x = torch.randn(2, 1, T)
    here = torch.as_tensor(W, dtype=torch.float32) @ x[0, 0]
    how = {"transforms": [blurred(1.0), sd.Clamp(-3.0, 3.0)], "lr": None}
    possible = aim(here + 2 * torch.tensor([1.0, 1.0, -1.0]), 1.0)
    assert sd.dream(linear(W, (1, T)), x, possible, **how).status == ["arrived"] * 2
    torn = aim(here + torch.tensor([1.0, -1.0, 0.0]), 1.0)  # the nearest is where it began
    d = sd.dream(linear(W, (1, T)), x, torn, **how)
    assert set(d.status) <= {"saturated", "exhausted"}
    assert torch.isfinite(d.x).all()
    assert torch.allclose(torn(d.activations), torch.tensor(2.0), atol=0.05)


def test_one_feature_is_enough():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(T, 1), nn.Tanh(), nn.Linear(1, 2))
    model, ref = mapped(net, layer="model.1")
    assert ref.n_features == 1
    d = sd.sequence_dreaming(model, ref, 1, "centre", start="other", n=4)
    assert d.settings["treat"] == "vector"
    assert d.status == ["arrived"] * 4
    mean = ref.activations[ref.y == 1].mean(0)
    unit = (mean - ref.activations.mean(0)).abs()
    assert ((d.activations - mean).abs() <= 0.031 * unit).all()


def test_a_class_in_the_middle_of_all_has_no_direction_and_is_named():
    g = torch.Generator().manual_seed(0)
    half = torch.randn(12, 1, T, generator=g)
    X = torch.cat([half, -half])  # every class has the mean zero
    y = torch.arange(12).repeat(2) % 3
    W = np.random.default_rng(1).normal(size=(3, T))
    model = linear(W, (1, T))
    ref = sd.Reference.from_data(model, X, y.numpy())
    with pytest.raises(ValueError, match="class 1 has no direction"):
        sd.sequence_dreaming(model, ref, 1)


# After arrival


def eq5(x):
    "Mean jump from point to point, per row."
    return np.abs(np.diff(x.double().numpy(), axis=-1)).mean((1, 2))


@pytest.fixture(scope="module")
def both(small):
    "Dreams of the small model that end where they arrive, and that are smoothed."
    model, ref = small
    how = {"region": "centre", "n": 6, "precision": "float32"}
    arrived = sd.sequence_dreaming(model, ref, 1, smoothing=0.0, **how)
    return arrived, sd.sequence_dreaming(model, ref, 1, **how), ref


def test_after_arrival_jumps_fall_and_the_target_is_kept(both):
    arrived, smooth, ref = both
    assert set(arrived.status) <= {"arrived", "unmoved"}
    assert smooth.status == ["arrived"] * 6
    assert (eq5(smooth.x) < 0.97 * eq5(arrived.x)).all()
    origin = ref.activations.mean(0)
    own = ref.activations[ref.y == 1].mean(0)
    away = (smooth.activations - own).norm(dim=1) / (own - origin).norm()
    assert (away <= 0.03 * 1.001).all()


def test_smoothing_leaves_scale_and_distance_where_real_series_have_them(both):
    arrived, smooth, ref = both
    scale = smooth.x.std((1, 2)) / smooth.start.std((1, 2))
    flattest = ref.X[ref.exemplar_classes == 1].std((1, 2)).min()
    assert ((scale >= 0.9) | (smooth.x.std((1, 2)) >= 0.9 * flattest)).all()
    far = np.asarray(ref.distance(smooth.x, 1, "time", "ledoit_wolf"))
    was = np.asarray(ref.distance(arrived.x, 1, "time", "ledoit_wolf"))
    usual = ref.quantile(1, 95.0, "time", "ledoit_wolf")
    assert (far <= np.maximum(was, usual) * (1 + 1e-6)).all()


def test_without_smoothing_a_row_ends_at_its_first_arrival(both):
    arrived, _, _ = both
    there = arrived.history["objective"] <= 0.03**2
    assert torch.equal(there.int().argmax(0), arrived.steps)
    assert torch.equal(torch.isfinite(arrived.history["objective"]).sum(0) - 1, arrived.steps)


def at_home(**how):
    "Two rows that are at their target before they begin."
    model, x, _ = company()
    goal = aim(model(x[3:]).detach(), 1.0, 0.05)
    return x[3:], partial(sd.dream, model, x[3:], goal, lr=None, **how)


def test_a_start_that_is_there_and_cannot_be_smoothed_is_unmoved():
    x, dream = at_home(transforms=[blurred(1.0)])
    never = Smoothing(0.1, inside=lambda x, rows, before: torch.zeros(len(x), dtype=torch.bool))
    rough = [sd.Smoothness(0.1)]
    for d in (dream(), dream(smoothing=Smoothing(0.1)), dream(penalties=rough, smoothing=never)):
        assert d.status == ["unmoved"] * 2
        assert torch.equal(d.x, x)
        assert d.steps.tolist() == [0, 0]
    moved = dream(penalties=rough, smoothing=Smoothing(0.1))
    assert moved.status == ["arrived"] * 2
    assert (eq5(moved.x) < eq5(x)).all()


def test_a_small_share_is_asked_for_too():
    x, dream = at_home(transforms=[blurred(1.0)], penalties=[sd.Smoothness(0.1)])
    moved = dream(smoothing=Smoothing(0.01))
    assert moved.status == ["arrived"] * 2
    assert (eq5(moved.x) <= 0.991 * eq5(x)).all()


def test_a_row_that_is_still_smoothed_when_steps_run_out_has_arrived():
    x, dream = at_home(transforms=[blurred(1.0)], penalties=[sd.Smoothness(10.0)])
    going = Smoothing(0.9, steps=100)
    short = dream(smoothing=going, steps=2)
    assert short.status == ["arrived"] * 2

    stalled = sd.dreaming.Rows(x, torch.zeros(2, 2))
    stalled.status[0] = "arrived"
    stalled.stalled += 2 * sd.dreaming.PATIENCE
    stalled.history = {"activation": [torch.zeros(2, 2)]}
    assert sd.dreaming.statuses(stalled) == ["arrived", "saturated"]


def stop(step, dreams):
    return "arrived" in dreams.status


def interrupt(step, dreams):
    if "arrived" in dreams.status:
        raise KeyboardInterrupt


@pytest.mark.parametrize("callback", [stop, interrupt])
def test_who_is_stopped_while_being_smoothed_has_arrived(callback):
    _, dream = at_home(transforms=[blurred(1.0)], penalties=[sd.Smoothness(0.1)])
    seen = []

    def late(step, dreams):
        seen.append(step)
        return callback(step, dreams) if step == 2 else None

    d = dream(smoothing=Smoothing(0.9, steps=50), callback=late)
    assert seen == [0, 1, 2]
    assert d.status == ["arrived"] * 2


def test_evaluations_are_kept_and_older_files_have_none(tmp_path):
    _, dream = at_home()
    d = dream()
    back = sd.Dreams.load(d.save(tmp_path / "new"))
    assert torch.equal(back.evaluations, d.evaluations)
    assert (d.evaluations > 0).all()
    tensors, meta = read_tensors(tmp_path / "new", kind="dreams")
    del tensors["evaluations"]
    write_tensors(tmp_path / "old", tensors, meta, kind="dreams")
    assert sd.Dreams.load(tmp_path / "old").evaluations.tolist() == [0, 0]


def test_what_has_no_target_or_another_rule_for_the_step_is_refused():
    model, x, target = company()
    goal = aim(target[0])
    with pytest.raises(ValueError, match="lr=None takes the step from what is left"):
        sd.dream(model, x[:1], sd.score(0), lr=None)
    for other in ({"jitter": sd.Jitter()}, {"escape": True}):
        with pytest.raises(ValueError, match="without jitter or escape"):
            sd.dream(model, x[:1], goal, lr=None, **other)
    with pytest.raises(TypeError, match="smoothing=0.1"):
        sd.dream(model, x[:1], goal, lr=None, smoothing=0.1)


# Ingredients


class EndsAtZero:
    "A penalty of one's own: the last points are to be zero."

    label = "ends at zero"

    def __call__(self, x, rows):
        return 0.3 * x[..., -4:].square().mean((1, 2))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_penalty_of_ones_own_acts_on_the_way_and_after(smoothing):
    model, ref = mapped(random_net(1))
    how = {"region": "max", "start": "other", "n": 4, "smoothing": smoothing, "noise": 0.0}
    with_it = sd.sequence_dreaming(model, ref, 1, penalties=[EndsAtZero()], **how)
    without = sd.sequence_dreaming(model, ref, 1, **how)
    assert with_it.status == ["arrived"] * 4

    def ends(d):
        return float(d.x[..., -4:].square().mean())

    assert ends(with_it) < 0.9 * ends(without)


def walked(model, ref, **how):
    d = sd.sequence_dreaming(model, ref, 1, start="other", n=4, **how)
    assert d.status == ["arrived"] * 4
    return d


def test_transforms_of_ones_own_work():
    model, ref = mapped(random_net(1))
    calm = walked(model, ref, transforms=[sd.MovingAverage(3)], smoothing=0.0)
    usual = walked(model, ref, smoothing=0.0)
    assert eq5(calm.x).mean() < eq5(usual.x).mean()
    for on_gradient in (sd.UnitGradient(), sd.MovingAverage(5, on="gradient")):
        walked(model, ref, transforms=[on_gradient])


def test_fourier_coefficients_take_the_models_own_step_too():
    model, ref = mapped(random_net(1))
    start = ref.X[ref.exemplar_classes == 0][:3]
    goal = sd.reach(ref, 1, "centre")
    for how in (sd.Fourier(T), sd.Fourier.of_data(ref)):
        d = sd.dream(model, start, goal, how, lr=None, penalties=[sd.Smoothness(0.01)])
        assert d.status == ["arrived"] * 3


def test_channels_and_hidden_layers():
    model, ref = mapped(random_net(2, channels=3), channels=3)
    walked(model, ref)
    model, ref = mapped(random_net(2, outputs=3), outputs=3, layer="model.1")
    d = walked(model, ref)
    assert d.settings["treat"] == "along"
    origin = ref.activations.mean(0)
    along = ref.activations[ref.y == 1].mean(0) - origin
    place = (d.activations - origin) @ along / along.square().sum()
    assert torch.allclose(place, torch.tensor(2.5), atol=0.03 * 2.5 * 1.01)


def test_each_row_its_own_width_and_weight():
    model, ref = mapped(random_net(1))
    sigma = torch.tensor([1.0, 3.0, 5.0])
    weight = torch.tensor([0.0, 0.1, 0.5])
    how = {"start": "other", "micro_batch": 2, "precision": "float32"}
    each = sd.sequence_dreaming(model, ref, 1, n=3, sigma=sigma, lambda_sm=weight, **how)
    start = sd.starting_series(ref, 1, "other", 3)
    for i in range(3):
        how |= {"start": start[i : i + 1], "streams": [i]}
        numbers = {"sigma": float(sigma[i]), "lambda_sm": float(weight[i])}
        same(sd.sequence_dreaming(model, ref, 1, n=1, **numbers, **how), each[i])
