"""Watches over the engine: its properties, rows, statuses, precision, and the guest's model."""

import contextlib
import copy
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.ndimage import gaussian_filter1d
from torch import nn

import seqdream as sd
from seqdream import engine
from seqdream.borrowing import borrowed
from seqdream.engine import Engine
from seqdream.objectives import Objective
from seqdream.penalties import alpha_norm, smoothness, total_variation
from seqdream.transforms import gaussian_blur

quick = settings(max_examples=30, deadline=None)


def random_series(rows, channels, timepoints, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, channels, timepoints, generator=g, dtype=torch.float64)


arrays = st.builds(
    random_series,
    rows=st.integers(1, 4),
    channels=st.integers(1, 3),
    timepoints=st.integers(2, 40),
    seed=st.integers(0, 2**20),
)


@quick
@given(arrays, st.floats(0.05, 20))
def test_blur_is_scipys(x, sigma):
    scipys = gaussian_filter1d(x.numpy(), sigma, axis=-1, mode="reflect")
    assert np.allclose(gaussian_blur(x, sigma), scipys, atol=1e-9)


@quick
@given(arrays, st.floats(0.1, 10))
def test_blur_keeps_the_mean_and_a_constant(x, sigma):
    assert torch.allclose(gaussian_blur(x, sigma).mean(-1), x.mean(-1), atol=1e-9)
    assert torch.allclose(gaussian_blur(torch.ones_like(x), sigma), torch.ones_like(x))


@quick
@given(arrays, st.floats(1, 6), st.floats(-3, 3).filter(lambda v: abs(v) > 1e-3))
def test_penalties_scale_as_their_powers(x, p, a):
    assert torch.allclose(alpha_norm(a * x, p), abs(a) ** p * alpha_norm(x, p))
    assert torch.allclose(total_variation(a * x, p), abs(a) ** p * total_variation(x, p))
    assert torch.allclose(smoothness(a * x), abs(a) * smoothness(x))
    assert torch.allclose(total_variation(x + a, p), total_variation(x, p), rtol=1e-6)
    assert torch.allclose(total_variation(x.flip(-1), p), total_variation(x, p))


@pytest.fixture(scope="module")
def net():
    model = sd.ResNet.preset("paper", seed=5)
    model(torch.randn(32, 1, 60, generator=torch.Generator().manual_seed(1)))
    return model.eval()


start = torch.randn(5, 1, 60, generator=torch.Generator().manual_seed(2))
noisy = [
    sd.GaussianBlur(1.0, on="gradient"),
    sd.NoiseOnStall(0.05, patience=1, sigma=1.0),
    sd.NoiseOnOvershoot(0.05),
]


@quick
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True))
def test_a_row_does_not_depend_on_what_follows_it(net, some):
    "Rows 0..m-1 of a batch are what a batch of m rows gives."
    m = len(some)
    how = dict(transforms=noisy, lr=0.2, steps=6, seed=3, keep="last")
    few = sd.dream(net, start[:m], sd.score(1), **how)
    all_five = sd.dream(net, start, sd.score(1), **how)
    assert torch.allclose(few.x, all_five.x[:m], atol=1e-4)


@quick
@given(st.integers(1, 12), st.integers(1, 12))
def test_a_shorter_run_is_a_prefix(net, a, b):
    how = dict(transforms=noisy, lr=0.3, snapshots=range(20))
    one = sd.dream(net, start[:2], sd.score(0), steps=a, **how)
    two = sd.dream(net, start[:2], sd.score(0), steps=b, **how)
    shared = min(a, b) + 1
    assert torch.allclose(one.history["loss"][:shared], two.history["loss"][:shared], atol=1e-5)
    assert all(torch.allclose(one.snapshots[s], two.snapshots[s], atol=1e-5) for s in range(shared))


def test_same_seed_same_dream_other_seed_another(net):
    how = dict(transforms=noisy, steps=6, lr=0.2, keep="last")
    first, again, other = (sd.dream(net, start, sd.score(1), seed=s, **how).x for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_global_random_state_is_left_alone(net):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    sd.dream(net, start, sd.score(1), transforms=noisy, steps=3)
    sd.ResNet.preset("paper", seed=3)
    sd.fit(sd.ResNet.preset("paper"), (start, torch.arange(5) % 2), epochs=1, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_row_has_its_own_numbers(net):
    lr = [0.1, 0.2, 0.3, 0.4, 0.5]
    weight = [0.0, 0.01, 0.02, 0.03, 0.04]
    sigma = [0.0, 1.0, 2.0, 3.0, 4.0]

    def walk(x, lr, weight, sigma):
        penalties = [sd.AlphaNorm(weight, 4)]
        transforms = [sd.GaussianBlur(sigma, on="gradient")]
        how = dict(penalties=penalties, transforms=transforms, lr=lr, steps=5, keep="last")
        return sd.dream(net, x, sd.score(1), **how)

    together = walk(start, lr, weight, sigma)
    for i in range(5):
        alone = walk(start[i : i + 1], lr[i], weight[i], sigma[i])
        assert torch.allclose(alone.x[0], together.x[i], atol=1e-4)


class Explode:
    "NaN in one row at one step, as a series or as a gradient."

    def __init__(self, row, step, on):
        self.row = row
        self.step = step
        self.on = on

    def __call__(self, x, walk):
        here = (walk.rows == self.row).reshape(-1, 1, 1) & (walk.step == self.step)
        return torch.where(here, float("nan"), x)


@pytest.mark.parametrize("on", ["iterate", "gradient"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_nan_in_one_row_reaches_no_other(net, on, optimizer):
    how = dict(lr=0.05, steps=8, optimizer=optimizer, keep="last")
    clean = sd.dream(net, start, sd.score(1), transforms=[], **how)
    broken = sd.dream(net, start, sd.score(1), transforms=[Explode(2, 3, on)], **how)
    assert broken.status[2] == "diverged"
    assert torch.isfinite(broken.x).all()
    assert torch.isfinite(broken.activations).all()
    others = [0, 1, 3, 4]
    assert torch.allclose(broken.x[others], clean.x[others], atol=1e-5)
    assert [broken.status[i] for i in others] == [clean.status[i] for i in others]


class Threshold(nn.Module):
    "Answers only to what is above 1: a flat start says nothing to it."

    def forward(self, x):
        return torch.relu(x - 1).mean(-1).repeat(1, 2)


def test_dead_starts_are_seen():
    flat = torch.zeros(1, 1, 20)
    high = torch.full((1, 1, 20), 2.0)
    d = sd.dream(Threshold(), torch.cat([flat, high]), sd.score(0), steps=5)
    assert d.status == ["dead", "exhausted"]
    assert torch.equal(d.x[0], torch.zeros(1, 20))


def test_saturated_and_stopped():
    class Bounded(nn.Module):
        def forward(self, x):
            return torch.tanh(x.mean(-1)).repeat(1, 2)

    def stop_at_four(step, so_far):
        return step == 4

    low = torch.full((1, 1, 10), 0.1)
    d = sd.dream(Bounded(), low, sd.score(0), lr=10.0, steps=100)
    assert d.status == ["saturated"]
    assert d.activations[0, 0] > 0.99
    d = sd.dream(Bounded(), low, sd.score(0), steps=100, callback=stop_at_four)
    assert d.status == ["stopped"]
    assert len(d.history["loss"]) == 5


def test_dead_gradient_does_not_stop_the_shaken():
    just_below = torch.full((1, 1, 50), 0.99)
    shaken = [sd.NoiseOnStall(0.5, patience=1)]
    d = sd.dream(Threshold(), just_below, sd.score(0), transforms=shaken, lr=1.0, steps=30)
    assert d.status != ["dead"]
    assert d.activations[0, 0] > 0


def module_state(m):
    return m.training, dict(m._forward_hooks), dict(m._forward_pre_hooks)


def full_state(model):
    "Modes and hooks, flags, gradients (None where there is none), and what is stored."
    parameters = dict(model.named_parameters())
    return {
        "modules": {n: module_state(m) for n, m in model.named_modules()},
        "flags": {n: p.requires_grad for n, p in parameters.items()},
        "gradients": {n: copy.deepcopy(p.grad) for n, p in parameters.items()},
        "stored": {k: v.clone() for k, v in model.state_dict().items()},
    }


def same_tensor(u, v):
    if u is None or v is None:
        return u is v
    return torch.equal(u, v)


def same(a, b):
    "Are two states equal, names and their order included?"
    if a["modules"] != b["modules"] or a["flags"] != b["flags"]:
        return False
    if any(list(a[part]) != list(b[part]) for part in a):
        return False
    tensors = ("gradients", "stored")
    return all(same_tensor(a[part][k], b[part][k]) for part in tensors for k in a[part])


def wild_model():
    "Mixed modes, some weights frozen, gradients and a hook present, dropout, in-place ReLU."
    model = nn.Sequential(
        nn.Conv1d(1, 4, 3),
        nn.BatchNorm1d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[6].register_forward_hook(lambda *a: None)
    model(start).sum().backward()
    return model


def boom(step, so_far):
    raise RuntimeError("boom")


def probe(model, x):
    return sd.Probe(model, "1")(x)


@pytest.mark.parametrize(
    "use",
    [
        partial(sd.dream, start=start, objective=sd.score(0), steps=2),
        partial(sd.dream, start=start, objective=sd.score(1), steps=2, layer="1", callback=boom),
        partial(probe, x=start),
        partial(probe, x=start[:, :, :1]),
        partial(sd.predict, X=start),
        partial(sd.Reference.from_data, X=start, y=[0, 1, 0, 1, 0]),
        partial(sd.dream, start=start.repeat(1, 2, 1), objective=sd.score(0)),
    ],
)
def test_the_model_is_a_guest(use):
    model = wild_model()
    before = full_state(model)
    with contextlib.suppress(RuntimeError, ValueError):
        use(model)
    assert same(before, full_state(model))


def test_probe_before_an_inplace_relu_sees_what_the_layer_gave():
    model = wild_model()
    expected = copy.deepcopy(model).eval()[1](model[0](start)).detach().mean(-1)
    assert torch.allclose(sd.Probe(model, "1")(start), expected, atol=1e-6)
    assert (expected < 0).any()


def test_dreams_save_load_index(net, tmp_path):
    how = dict(penalties=[sd.Smoothness(0.1)], steps=3, settings={"name": "ünïcode"})
    d = sd.dream(net, start, sd.score(1), **how)
    back = sd.Dreams.load(d.save(tmp_path / "d.safetensors"))
    tensors = ("x", "activations", "start", "start_activations", "steps")
    assert all(torch.equal(getattr(back, k), getattr(d, k)) for k in tensors)
    assert back.settings == d.settings
    assert back.status == d.status
    assert set(back.history) == {"loss", "objective", "smoothness", "activation"}
    assert all(torch.equal(back.history[k], d.history[k]) for k in d.history)
    assert sorted(back.snapshots) == sorted(d.snapshots)
    for which, rows in (
        (2, [2]),
        (slice(1, 4), [1, 2, 3]),
        ([4, 0], [4, 0]),
        (torch.tensor([True, False, False, True, False]), [0, 3]),
    ):
        assert torch.equal(d[which].x, d.x[rows])
        assert d[which].settings["rows"] == rows
        assert d[which].history["activation"].shape[1] == len(rows)
    assert "5 dreams of 1 × 60" in repr(d)


def test_final_activations_are_the_models_answer(net):
    d = sd.dream(net, start, sd.score(1), transforms=noisy, lr=0.3, steps=7, precision="float32")
    assert torch.allclose(net(d.x), d.activations, atol=1e-4)
    best_of_the_walk = d.history["loss"].nan_to_num(float("inf")).min(0).values
    assert torch.allclose(-d.activations[:, 1], best_of_the_walk, atol=1e-4)


# --- the private copy -----------------------------------------------------------------------------


class Twice(nn.Module):
    """One convolution's output is used beside its batch norm; another convolution runs twice;
    a third is weight-normed; a fourth pair is plain."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv1d(i, 6, 5, padding=2) for i in (1, 6, 6, 6))
        self.na, self.nb, self.nc, self.nd = (nn.BatchNorm1d(6) for _ in range(4))
        nn.utils.parametrizations.weight_norm(self.c)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        u = self.a(x)
        h = self.na(u) + torch.tanh(u)
        h = torch.relu(self.nb(self.b(h)) + self.b(h))
        h = torch.relu(self.nc(self.c(h)))
        return self.head(torch.relu_(self.nd(self.d(h))).mean(-1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.front = nn.Conv1d(1, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.rnn = nn.GRU(4, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        h = self.norm(self.front(x)).transpose(1, 2)
        return self.head(self.rnn(h)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.front = nn.Conv1d(1, 8, 4, stride=2)
        self.norm = nn.BatchNorm1d(8)
        self.att = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        h = torch.relu(self.norm(self.front(x))).transpose(1, 2)
        return self.head(self.att(h).mean(1))


class Choosy(nn.Module):
    "Control flow that depends on the values."

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        h = self.norm(self.conv(x))
        return self.head((h if h.sum() > 0 else -h).relu().mean(-1))


def trained_looking(model, seed=0):
    "Batch norms with statistics and weights of their own."
    g = torch.Generator().manual_seed(seed)

    def draw(v, low, high):
        v.copy_(low + (high - low) * torch.rand(v.shape, generator=g))

    for m in model.modules():
        if not isinstance(m, nn.BatchNorm1d):
            continue
        draw(m.running_mean, -1, 1)
        draw(m.running_var, 0.3, 3)
        if m.affine:
            draw(m.weight.data, 0.5, 2)
            draw(m.bias.data, -1, 1)
    return model.eval()


def lazy_model():
    norm = nn.BatchNorm1d(3, track_running_stats=True)
    return nn.Sequential(nn.Conv1d(1, 3, 3), norm, nn.Flatten(), nn.LazyLinear(2))


def in_double(model):
    "The model's answer in double precision, which is the judge."

    def ask(x):
        return model.double()(x.double())

    return ask


def answer_and_gradient(ask, weights):
    "What is answered to `start`, and the gradient of the answers' weighted sum."
    x = start.clone().requires_grad_()
    a = ask(x)
    (gradient,) = torch.autograd.grad((a * torch.tensor(weights)).sum(), x)
    return a.detach().float(), gradient


@pytest.mark.parametrize(
    "make, folded",
    [
        (Twice, 1),
        (Recurrent, 1),
        (Attention, 1),
        (Choosy, 1),
        (partial(sd.ResNet.preset, "paper"), 11),
        (lazy_model, 1),
    ],
)
@pytest.mark.parametrize("flat_from", [0, 10**9])
def test_the_private_copy_gives_the_models_answers_and_gradients(
    make, folded, flat_from, monkeypatch
):
    monkeypatch.setattr(engine, "FLAT_FROM", flat_from)
    torch.manual_seed(3)
    model = make()
    model(start)
    trained_looking(model)
    before = full_state(model)
    with borrowed(model):
        copied = Engine(sd.Probe(model), start, "float32")
        assert copied.folded == folded
        assert copied.quick.model is not model
        answer, gradient = answer_and_gradient(copied, [1.0, -2.0])
        true_answer, true_gradient = answer_and_gradient(in_double(model), [1.0, -2.0])
        model.float()
    assert torch.allclose(answer, true_answer, rtol=1e-4, atol=1e-5)
    assert torch.allclose(gradient, true_gradient, rtol=1e-3, atol=1e-6)
    assert same(before, full_state(model))


@pytest.mark.parametrize(
    "options",
    [
        dict(stride=2),
        dict(padding=3, dilation=2),
        dict(groups=3),
        dict(padding="same"),
        dict(padding="valid"),
        dict(padding=2, padding_mode="circular"),
        dict(stride=3, padding=1, groups=6, bias=False),
    ],
)
def test_channels_last_convolutions_are_convolutions(options, monkeypatch):
    monkeypatch.setattr(engine, "FLAT_FROM", 0)
    torch.manual_seed(0)
    first = nn.Conv1d(1, 6, 3, padding=1)
    model = trained_looking(
        nn.Sequential(
            first,
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.BatchNorm1d(6),
            nn.Conv1d(6, 12, 5, **options),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(12, affine=False),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(12, 2),
        )
    )
    with borrowed(model):
        copied = Engine(sd.Probe(model), start, "float32")
        assert copied.layout is True  # the copy was good enough to be used
        answer, gradient = answer_and_gradient(copied, [0.0, 1.0])
        true_answer, true_gradient = answer_and_gradient(in_double(model), [0.0, 1.0])
        model.float()
    assert torch.allclose(answer, true_answer, rtol=1e-4, atol=1e-5)
    assert torch.allclose(gradient, true_gradient, rtol=1e-3, atol=1e-6)


HIDDEN = (
    "blocks.0.body.0",
    "blocks.0.body.1",
    "blocks.0.shortcut.0",
    "blocks.1",
    "blocks.2.shortcut",
    "head",
)


@pytest.mark.parametrize("flat_from", [0, 10**9])
def test_hidden_layers_of_the_copy_answer_as_the_models_own(flat_from, monkeypatch):
    monkeypatch.setattr(engine, "FLAT_FROM", flat_from)
    model = trained_looking(sd.ResNet.preset("paper", seed=2))
    for layer in HIDDEN:
        with borrowed(model):
            copied = Engine(sd.Probe(model, layer), start, "float32")(start)
            own = sd.Probe(model, layer)(start)
        assert torch.allclose(copied, own, atol=1e-4), layer


def test_what_lies_behind_the_layer_is_not_computed():
    class Late(nn.Module):
        runs = 0

        def forward(self, x):
            Late.runs += 1
            return x

    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), Late(), nn.Flatten()).eval()
    probe = sd.Probe(model, "0")
    first = probe(start)
    runs = Late.runs  # the first time it is found out how often the layer runs, and along what
    second = probe(start)
    assert Late.runs == runs
    assert torch.equal(first, second)


def test_a_layer_that_runs_several_times_gives_its_last_answer():
    shared = nn.Linear(10, 10)
    model = nn.Sequential(nn.Flatten(), shared, nn.Tanh(), shared, nn.Tanh()).eval()
    probe = sd.Probe(model, "1")
    x = torch.randn(3, 1, 10)
    for _ in range(3):
        assert torch.equal(probe(x), shared(torch.tanh(shared(x.flatten(1)))))


def trained_preset():
    return trained_looking(sd.ResNet.preset("paper", seed=4))


@pytest.mark.parametrize("make", [trained_preset, Attention, Recurrent])
def test_padded_micro_batches_make_a_row_independent_of_its_company_bit_for_bit(make):
    torch.manual_seed(1)
    model = make().eval()
    x = torch.randn(11, 1, 60)
    sigma = torch.linspace(0.5, 4, 11)

    def walk(rows):
        own = sigma[rows]
        penalties = [sd.AlphaNorm(own / 100, 4 + own / 4), sd.TotalVariation(0.01, 1.5)]
        transforms = [
            sd.GaussianBlur(own, on="gradient"),
            sd.NoiseOnStall(0.05, patience=1, sigma=own),
            sd.NoiseOnOvershoot(0.05),
        ]
        ingredients = dict(penalties=penalties, transforms=transforms)
        how = dict(lr=own / 20, steps=7, keep="last", micro_batch=4, streams=rows)
        return sd.dream(model, x[rows], sd.score(1), **ingredients, **how)

    whole = walk(list(range(11)))
    losses = whole.history["loss"].nan_to_num()
    for rows in ([3], [10, 0], [7, 2, 5, 1, 9], [4, 3, 2, 1, 0, 10, 9, 8]):
        some = walk(rows)
        assert torch.equal(some.x, whole.x[rows])
        assert torch.equal(some.activations, whole.activations[rows])
        assert torch.equal(some.history["loss"].nan_to_num(), losses[:, rows])


def test_micro_batches_change_nothing_but_rounding(net):
    how = dict(transforms=noisy, lr=0.2, steps=6, seed=3, keep="last")
    alone = sd.dream(net, start, sd.score(1), micro_batch=None, **how)
    small = sd.dream(net, start, sd.score(1), micro_batch=2, **how)
    padded = sd.dream(net, start, sd.score(1), micro_batch=7, **how)
    assert torch.allclose(alone.x, small.x, atol=1e-4)
    assert torch.allclose(alone.x, padded.x, atol=1e-4)
    assert small.history["loss"].shape == (7, 5)


def test_bfloat16_walks_in_half_the_bits_and_reports_in_float32(net):
    d = sd.dream(net, start, sd.score(1), lr=0.2, steps=4, precision="bfloat16", keep="last")
    assert d.settings["precision"] == "bfloat16"
    assert torch.allclose(net(d.x), d.activations, atol=1e-5)
    with borrowed(net):
        halved = Engine(sd.Probe(net), start, "bfloat16")
        exact = net(start)
        assert 0 < (halved(start) - exact).abs().max() < 0.05 * exact.abs().max()


def test_only_float32_says_that_a_target_is_reached(net):
    "A target that bfloat16 sees reached at once, and float32 does not."
    a = net(start).detach()
    seen = []

    def loss(now, rows):
        return (now - a[rows]).square().sum(1) + 1

    def arrived(now, rows):
        seen.append(now.clone())
        bound = 1.0 if len(seen) % 2 else -1.0
        return (now - a[rows]).abs().amax(1) < bound

    stay = Objective(loss, "stay", arrived)
    d = sd.dream(net, start, stay, steps=2, lr=0.01, precision="bfloat16")
    assert "arrived" not in d.status
    assert len(seen) >= 4


def bfloat16_is_fast(device="cpu"):
    return True


def in_time(*args, **options):
    return True


def test_precision_none_keeps_float32_where_the_gradient_disagrees(net, monkeypatch):
    monkeypatch.setattr(engine, "fast_bfloat16", bfloat16_is_fast)

    class Cliffs(nn.Module):
        "Its gradient hangs on digits that bfloat16 does not have."

        def forward(self, x):
            return torch.stack([(x * 3000).sin().mean((1, 2)), x.mean((1, 2))], 1)

    class Rounded(Cliffs):
        def __init__(self):
            super().__init__()
            self.mix = nn.Conv1d(1, 1, 1, bias=False)
            nn.init.constant_(self.mix.weight, 1.0)

        def forward(self, x):
            return super().forward(self.mix(x))

    def chosen(model):
        d = sd.dream(model, start, sd.score(0), steps=1, precision=None)
        return d.settings["precision"]

    plain = nn.Sequential(nn.Flatten(), nn.Linear(60, 2))
    assert chosen(plain) == "float32", "too small to be tried"
    monkeypatch.setattr(engine, "HALF_FROM", 100)
    assert chosen(plain) == "float32", "it takes longer"
    engine._CHOICES.clear()
    engine._SHELF.clear()
    monkeypatch.setattr(engine, "_in_time", in_time)
    assert chosen(plain) == "bfloat16"
    monkeypatch.setattr(engine, "HALF_FROM", 0)
    assert chosen(Rounded()) == "float32"


def test_a_callback_may_stop_some_rows(net):
    def stop_two_rows(step, so_far):
        return torch.arange(5) < 2 if step == 3 else None

    def wrong_length(step, so_far):
        return torch.ones(3, dtype=torch.bool)

    d = sd.dream(net, start, sd.score(1), lr=0.1, steps=5, callback=stop_two_rows)
    assert d.status[:2] == ["stopped"] * 2
    assert "stopped" not in d.status[2:]
    assert torch.isnan(d.history["loss"][4:, :2]).all()
    assert torch.isfinite(d.history["loss"][:, 2:]).all()
    with pytest.raises(ValueError, match="one bool for each of the 5 rows"):
        sd.dream(net, start, sd.score(1), steps=2, callback=wrong_length)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"precision": "float16"}, "float32, bfloat16"),
        ({"micro_batch": 0}, "whole number"),
        ({"micro_batch": True}, "whole number"),
        ({"streams": [1, 2]}, "each of the 5 rows"),
    ],
)
def test_bad_engine_settings(net, wrong, says):
    with pytest.raises(ValueError, match=says):
        sd.dream(net, start, sd.score(1), steps=1, **wrong)


def test_each_row_has_the_precision_that_suits_it_whatever_its_neighbours(monkeypatch):
    """Differences of a series far from zero drown in bfloat16's three digits: that row walks in
    float32, alone and among others."""
    monkeypatch.setattr(engine, "fast_bfloat16", bfloat16_is_fast)
    monkeypatch.setattr(engine, "HALF_FROM", 0)
    monkeypatch.setattr(engine, "_in_time", in_time)
    edge = nn.Conv1d(1, 1, 3, bias=False)
    with torch.no_grad():
        edge.weight.copy_(torch.tensor([[[1.0, 0.0, -1.0]]]))
    model = nn.Sequential(edge, nn.Tanh(), nn.Flatten(), nn.Linear(38, 2)).eval()
    t = torch.linspace(0, 6, 40)
    x = torch.stack([t.sin() * 3, 1000 + t.sin() * 3, t.cos() * 3])[:, None]
    how = dict(lr=0.5, steps=5, keep="last", micro_batch=4)
    among = sd.dream(model, x, sd.score(1), **how)
    alone = [sd.dream(model, x[i : i + 1], sd.score(1), streams=[i], **how) for i in range(3)]
    assert among.settings["precision"] == "mixed"
    assert [d.settings["precision"] for d in alone] == ["bfloat16", "float32", "bfloat16"]
    assert torch.equal(torch.cat([d.x for d in alone]), among.x)
    exact = sd.dream(model, x[1:2], sd.score(1), precision="float32", streams=[1], **how)
    assert torch.equal(exact.x[0], among.x[1])
    halfway = torch.cat([d.snapshots[2] for d in alone])
    assert all(torch.equal(halfway[i], among.snapshots[2][i]) for i in range(3))


def test_rows_without_noise_do_not_notice_those_with():
    "Jitter may have a scale for each row; a row of scale 0 dreams as if there were none."
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(40, 3), nn.Tanh(), nn.Linear(3, 2)).eval()
    x = torch.randn(3, 1, 40)
    how = dict(lr=0.3, steps=25, micro_batch=4)
    second_only = sd.Jitter(torch.tensor([0.0, 0.5, 0.0]), 0.9)
    plain = sd.dream(net, x, sd.score(1), **how)
    both = sd.dream(net, x, sd.score(1), jitter=second_only, **how)
    alone = sd.dream(net, x[1:2], sd.score(1), jitter=sd.Jitter(0.5, 0.9), streams=[1], **how)
    assert torch.equal(both.x[[0, 2]], plain.x[[0, 2]])
    assert torch.equal(both.x[1], alone.x[0])
    assert not torch.equal(both.x[1], plain.x[1])


class Counting(nn.Module):
    "Counts the rows that go forward and back through it and through all of its copies."

    passes = 0

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        Counting.passes += len(x)
        if x.requires_grad:
            x.register_hook(partial(self.count_back, len(x)))
        return self.net(x)

    @staticmethod
    def count_back(n, gradient):
        Counting.passes += n


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("n", [1, 3, 9, 40])
def test_set_up_counts_every_pass_before_the_walk(n, known):
    model = Counting(sd.ResNet.preset("paper", seed=0)).eval()
    x = torch.randn(n, 1, 60, generator=torch.Generator().manual_seed(0))
    told = {"known": model(x).detach()} if known else {}
    answers = model(x).detach()
    for _ in range(2):  # the second finds on the shelf what the first has left there
        Counting.passes = 0
        with borrowed(model):
            asked = Engine(sd.Probe(model), x, "float32", **told)
            asked.keep()
        assert int(asked.set_up.sum()) == Counting.passes
        assert torch.allclose(asked.start_activations, answers, atol=1e-4)
    assert asked.set_up.tolist() == ([1] + [0] * (n - 1) if known else [1] * n)


def test_equal_starts_are_asked_for_once():
    model = Counting(sd.ResNet.preset("paper", seed=0)).eval()
    three = torch.randn(3, 1, 60, generator=torch.Generator().manual_seed(0))
    with borrowed(model):
        each = Engine(sd.Probe(model), three, "float32")
        each.keep()
        Counting.passes = 0
        many = Engine(sd.Probe(model), three.repeat(5, 1, 1), "float32")
    assert Counting.passes == 3 + 2 * 2 * engine.LOOKED_AT  # the report; the model, and its copy
    assert torch.equal(many.start_activations, each.start_activations.repeat(5, 1))


def test_what_is_known_of_another_model_is_not_believed():
    net = sd.ResNet.preset("paper", seed=0).eval()
    other = sd.ResNet.preset("paper", seed=1).eval()
    x = torch.randn(5, 1, 60, generator=torch.Generator().manual_seed(0))
    for told in (other(x).detach(), net(x).detach()[:, :1], torch.full((5, 2), float("nan"))):
        with borrowed(net):
            asked = Engine(sd.Probe(net), x, "float32", known=told)
        assert torch.allclose(asked.start_activations, net(x).detach(), atol=1e-4)
