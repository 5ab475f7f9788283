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
    d = sd.dream(net, start, sd.score(1), transforms=noisy, lr=.3, steps=7, precision="float32")
    assert torch.allclose(net(d.x), d.activations, atol=1e-4)
    assert torch.allclose(-d.activations[:, 1], d.history["loss"].nan_to_num(float("inf")).min(0).values, atol=1e-4)  # the best of the walk is kept


# --- the private copy -------------------------------------------------------------------------------------------------

class Twice(nn.Module):
    "The convolution's output is used beside the batch norm; another convolution runs twice; a third is weight-normed; a fourth pair is plain."
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv1d(i, 6, 5, padding=2) for i in (1, 6, 6, 6))
        self.na, self.nb, self.nc, self.nd = (nn.BatchNorm1d(6) for _ in range(4))
        nn.utils.parametrizations.weight_norm(self.c)
        self.head = nn.Linear(6, 2)
    def forward(self, x):
        u = self.a(x); h = self.na(u) + torch.tanh(u)
        h = torch.relu(self.nb(self.b(h)) + self.b(h))
        h = torch.relu(self.nc(self.c(h)))
        return self.head(torch.relu_(self.nd(self.d(h))).mean(-1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__(); self.front, self.norm, self.rnn, self.head = nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.GRU(4, 8, batch_first=True), nn.Linear(8, 2)
    def forward(self, x): return self.head(self.rnn(self.norm(self.front(x)).transpose(1, 2))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__(); self.front, self.norm, self.att, self.head = nn.Conv1d(1, 8, 4, stride=2), nn.BatchNorm1d(8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2)
    def forward(self, x): return self.head(self.att(torch.relu(self.norm(self.front(x))).transpose(1, 2)).mean(1))


class Choosy(nn.Module):
    "Control flow that depends on the values."
    def __init__(self):
        super().__init__(); self.conv, self.norm, self.head = nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, 2)
    def forward(self, x):
        h = self.norm(self.conv(x))
        return self.head((h if h.sum() > 0 else -h).relu().mean(-1))


def trained_looking(model, seed=0):
    "Batch norms with statistics and weights of their own."
    g = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d):
            for v, low, high in ((m.running_mean, -1, 1), (m.running_var, .3, 3), *(((m.weight.data, .5, 2), (m.bias.data, -1, 1)) if m.affine else ())): v.copy_(low + (high - low) * torch.rand(v.shape, generator=g))
    return model.eval()


@pytest.mark.parametrize("make, folded", [(Twice, 1), (Recurrent, 1), (Attention, 1), (Choosy, 1), (lambda: sd.ResNet.preset("paper"), 11), (lambda: nn.Sequential(nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3, track_running_stats=True), nn.Flatten(), nn.LazyLinear(2)), 1)])
def test_the_private_copy_gives_the_models_answers_and_gradients(make, folded):
    from seqdream.engine import Engine
    from seqdream.models import borrowed
    torch.manual_seed(3)
    model = make(); model(start); trained_looking(model)
    before = full_state(model)
    with borrowed(model):
        engine = Engine(sd.Probe(model), start, "float32")
        assert engine.folded == folded and engine.quick.model is not model
        both = []
        for ask in (engine, lambda x: model.double()(x.double())):                    # the answer in double precision is the judge
            x = start.clone().requires_grad_(); a = ask(x)
            both.append((a.detach().float(), torch.autograd.grad((a * torch.tensor([1., -2.])).sum(), x)[0]))
        model.float()
    assert torch.allclose(both[0][0], both[1][0], rtol=1e-4, atol=1e-5) and torch.allclose(both[0][1], both[1][1], rtol=1e-3, atol=1e-6)
    assert same(before, full_state(model))


@pytest.mark.parametrize("options", [dict(stride=2), dict(padding=3, dilation=2), dict(groups=3), dict(padding="same"), dict(padding="valid"), dict(padding=2, padding_mode="circular"), dict(stride=3, padding=1, groups=6, bias=False)])
def test_channels_last_convolutions_are_convolutions(options):
    from seqdream.engine import Engine
    from seqdream.models import borrowed
    torch.manual_seed(0)
    first = nn.Conv1d(1, 6, 3, padding=1)
    model = trained_looking(nn.Sequential(first, nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6), nn.Conv1d(6, 12, 5, **options), nn.ReLU(inplace=True), nn.BatchNorm1d(12, affine=False), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 2)))
    with borrowed(model):
        both, engine = [], Engine(sd.Probe(model), start, "float32")
        assert engine.quick.model is not model                                        # the copy was good enough to be used
        for ask in (engine, lambda x: model.double()(x.double())):
            x = start.clone().requires_grad_(); a = ask(x)
            both.append((a.detach().float(), torch.autograd.grad(a[:, 1].sum(), x)[0]))
        model.float()
    assert torch.allclose(both[0][0], both[1][0], rtol=1e-4, atol=1e-5) and torch.allclose(both[0][1], both[1][1], rtol=1e-3, atol=1e-6)


def test_hidden_layers_of_the_copy_answer_as_the_models_own():
    from seqdream.engine import Engine
    from seqdream.models import borrowed
    model = trained_looking(sd.ResNet.preset("paper", seed=2))
    for layer in ("blocks.0.body.0", "blocks.0.body.1", "blocks.0.shortcut.0", "blocks.1", "blocks.2.shortcut", "head"):
        with borrowed(model): assert torch.allclose(Engine(sd.Probe(model, layer), start, "float32")(start), sd.Probe(model, layer)(start), atol=1e-4), layer


def test_what_lies_behind_the_layer_is_not_computed():
    class Late(nn.Module):
        runs = 0
        def forward(self, x): Late.runs += 1; return x
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), Late(), nn.Flatten()).eval()
    probe = sd.Probe(model, "0")
    first, second = probe(start), probe(start)
    assert Late.runs == 1 and torch.equal(first, second)                              # the first pass counts how often the layer runs


def test_a_layer_that_runs_several_times_gives_its_last_answer():
    shared = nn.Linear(10, 10)
    model = nn.Sequential(nn.Flatten(), shared, nn.Tanh(), shared, nn.Tanh()).eval()
    probe, x = sd.Probe(model, "1"), torch.randn(3, 1, 10)
    for _ in range(3): assert torch.equal(probe(x), shared(torch.tanh(shared(x.flatten(1)))))


@pytest.mark.parametrize("make", [lambda: trained_looking(sd.ResNet.preset("paper", seed=4)), Attention, Recurrent])
def test_padded_micro_batches_make_a_row_independent_of_its_company_bit_for_bit(make):
    torch.manual_seed(1)
    model = make().eval()
    x, sigma = torch.randn(11, 1, 60), torch.linspace(0.5, 4, 11)
    def walk(rows):
        return sd.dream(model, x[rows], sd.score(1), penalties=[sd.AlphaNorm(sigma[rows] / 100, 4 + sigma[rows] / 4), sd.TotalVariation(.01, 1.5)], transforms=[sd.GaussianBlur(sigma[rows], on="gradient"), sd.NoiseOnStall(.05, patience=1, sigma=sigma[rows]), sd.NoiseOnOvershoot(.05)],
                        lr=sigma[rows] / 20, steps=7, keep="last", micro_batch=4, streams=rows)
    whole = walk(list(range(11)))
    for rows in ([3], [10, 0], [7, 2, 5, 1, 9], [4, 3, 2, 1, 0, 10, 9, 8]):
        some = walk(rows)
        assert torch.equal(some.x, whole.x[rows]) and torch.equal(some.activations, whole.activations[rows]) and torch.equal(some.history["loss"].nan_to_num(), whole.history["loss"][:, rows].nan_to_num())


def test_micro_batches_change_nothing_but_rounding(net):
    alone, small, padded = (sd.dream(net, start, sd.score(1), transforms=noisy, lr=.2, steps=6, seed=3, keep="last", micro_batch=m) for m in (None, 2, 7))
    assert torch.allclose(alone.x, small.x, atol=1e-4) and torch.allclose(alone.x, padded.x, atol=1e-4) and small.history["loss"].shape == (7, 5)


def test_bfloat16_walks_in_half_the_bits_and_reports_in_float32(net):
    from seqdream.engine import Engine
    from seqdream.models import borrowed
    d = sd.dream(net, start, sd.score(1), lr=.2, steps=4, precision="bfloat16", keep="last")
    assert d.settings["precision"] == "bfloat16" and torch.allclose(net(d.x), d.activations, atol=1e-5)
    with borrowed(net):
        engine, exact = Engine(sd.Probe(net), start, "bfloat16"), net(start)
        assert 0 < (engine(start) - exact).abs().max() < .05 * exact.abs().max()


def test_only_float32_says_that_a_target_is_reached(net):
    "A target that bfloat16 sees reached at once, and float32 does not."
    from seqdream.objectives import Objective
    a = net(start).detach()
    seen = []
    def arrived(now, rows):
        seen.append(now.clone()); return (now - a[rows]).abs().amax(1) < (1. if len(seen) % 2 else -1.)
    d = sd.dream(net, start, Objective(lambda now, rows: (now - a[rows]).square().sum(1) + 1, "stay", arrived), steps=2, lr=.01, precision="bfloat16")
    assert "arrived" not in d.status and len(seen) >= 4


def test_precision_none_keeps_float32_where_the_gradient_disagrees(net, monkeypatch):
    from seqdream import engine
    monkeypatch.setattr(engine, "fast_bfloat16", lambda device="cpu": True)
    class Cliffs(nn.Module):
        "Its gradient hangs on digits that bfloat16 does not have."
        def forward(self, x): return torch.stack([(x * 3000).sin().mean((1, 2)), x.mean((1, 2))], 1)
    class Rounded(Cliffs):
        def __init__(self): super().__init__(); self.mix = nn.Conv1d(1, 1, 1, bias=False); nn.init.constant_(self.mix.weight, 1.0)
        def forward(self, x): return super().forward(self.mix(x))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(60, 2))
    assert sd.dream(plain, start, sd.score(0), steps=1, precision=None).settings["precision"] == "float32", "too small to gain"
    monkeypatch.setattr(engine, "HALF_FROM", 100)
    assert sd.dream(plain, start, sd.score(0), steps=1, precision=None).settings["precision"] == "bfloat16"
    monkeypatch.setattr(engine, "HALF_FROM", 0)
    assert sd.dream(Rounded(), start, sd.score(0), steps=1, precision=None).settings["precision"] == "float32"



def test_a_callback_may_stop_some_rows(net):
    d = sd.dream(net, start, sd.score(1), lr=.1, steps=5, callback=lambda step, so_far: torch.arange(5) < 2 if step == 3 else None)
    assert d.status[:2] == ["stopped"] * 2 and "stopped" not in d.status[2:] and torch.isnan(d.history["loss"][4:, :2]).all() and torch.isfinite(d.history["loss"][:, 2:]).all()
    with pytest.raises(ValueError, match="one bool for each of the 5 rows"): sd.dream(net, start, sd.score(1), steps=2, callback=lambda step, so_far: torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize("wrong, says", [({"precision": "float16"}, "float32, bfloat16"), ({"micro_batch": 0}, "whole number of rows"), ({"micro_batch": True}, "whole number of rows"), ({"streams": [1, 2]}, "each of the 5 rows")])
def test_bad_engine_settings(net, wrong, says):
    with pytest.raises(ValueError, match=says): sd.dream(net, start, sd.score(1), steps=1, **wrong)


def test_each_row_has_the_precision_that_suits_it_whatever_its_neighbours(monkeypatch):
    "Differences of a series far from zero drown in bfloat16's three digits: that row walks in float32, alone and among others."
    from seqdream import engine
    monkeypatch.setattr(engine, "fast_bfloat16", lambda device: True); monkeypatch.setattr(engine, "HALF_FROM", 0)
    edge = torch.nn.Conv1d(1, 1, 3, bias=False)
    with torch.no_grad(): edge.weight.copy_(torch.tensor([[[1., 0., -1.]]]))
    model = torch.nn.Sequential(edge, torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(38, 2)).eval()
    t = torch.linspace(0, 6, 40)
    x = torch.stack([t.sin() * 3, 1000 + t.sin() * 3, t.cos() * 3])[:, None]
    how = dict(lr=.5, steps=5, keep="last", micro_batch=4)
    among = sd.dream(model, x, sd.score(1), **how)
    alone = [sd.dream(model, x[i:i + 1], sd.score(1), streams=[i], **how) for i in range(3)]
    assert among.settings["precision"] == "mixed" and [d.settings["precision"] for d in alone] == ["bfloat16", "float32", "bfloat16"]
    assert torch.equal(torch.cat([d.x for d in alone]), among.x)
    assert torch.equal(sd.dream(model, x[1:2], sd.score(1), precision="float32", streams=[1], **how).x[0], among.x[1])
    assert all(torch.equal(torch.cat([d.snapshots[2] for d in alone])[i], among.snapshots[2][i]) for i in range(3))


def test_rows_without_noise_do_not_notice_those_with():
    "Jitter may have a scale for each row; a row of scale 0 dreams as if there were none."
    torch.manual_seed(1)
    net, x, how = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(40, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).eval(), torch.randn(3, 1, 40), dict(lr=.3, steps=25, micro_batch=4)
    plain = sd.dream(net, x, sd.score(1), **how)
    both = sd.dream(net, x, sd.score(1), jitter=sd.Jitter(torch.tensor([0., .5, 0.]), .9), **how)
    alone = sd.dream(net, x[1:2], sd.score(1), jitter=sd.Jitter(.5, .9), streams=[1], **how)
    assert torch.equal(both.x[[0, 2]], plain.x[[0, 2]]) and torch.equal(both.x[1], alone.x[0]) and not torch.equal(both.x[1], plain.x[1])
