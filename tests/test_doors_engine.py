"""The engine at the door: gradients, modes, random models, timing, what is kept, what is lost."""

import copy
import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import seqdream as sd
from seqdream import engine
from seqdream.borrowing import borrowed
from seqdream.engine import Engine

START = torch.randn(4, 1, 60, generator=torch.Generator().manual_seed(2))
RECIPES = {
    "sequence_dreaming": {"steps": 3},
    "gradient_ascent": {"steps": 3},
    "target_descent": {"steps": 3},
    "ellis": {"steps": 1},
    "grounded_dreaming": {"steps": 3},
}


@pytest.fixture(scope="module")
def net():
    model = sd.ResNet.preset("paper", seed=5)
    model(torch.randn(32, 1, 60, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def two_classes(n=40, timepoints=60):
    "Sines of two frequencies with some noise."
    g = np.random.default_rng(0)
    y = np.arange(n) % 2
    t = np.linspace(0, 6, timepoints)
    x = np.sin(t * (1 + y[:, None]) + g.uniform(0, 1, (n, 1))) + 0.1 * g.normal(
        size=(n, timepoints)
    )
    return torch.tensor(x[:, None], dtype=torch.float32), torch.tensor(y)


@pytest.fixture(scope="module")
def learned(net):
    X, y = two_classes()
    return net, sd.Reference.from_data(net, X, y)


def dreamt(recipe, model, ref, **more):
    return getattr(sd, recipe)(model, ref, 1, n=2, **RECIPES[recipe], **more)


# --- no gradient, no dream ------------------------------------------------------------------------


class Cut(nn.Module):
    "A model whose forward pass loses the graph, in one of several ways."

    def __init__(self, net, how):
        super().__init__()
        self.net = net
        self.how = how
        self.loose = torch.ones(1, requires_grad=True)  # no parameter: nobody freezes it

    def forward(self, x):
        if self.how == "detach":
            return self.net(x.detach())
        if self.how == "numpy":
            return self.net(torch.from_numpy(x.numpy()))
        if self.how == "no_grad":
            with torch.no_grad():
                return self.net(x)
        if self.how == "round":
            return self.net((x.detach() * 8).round() / 8) * self.loose
        return nn.functional.one_hot(self.net(x).argmax(1), 2).float()


@pytest.mark.parametrize("how", ["detach", "numpy", "no_grad", "round", "argmax"])
def test_doors_a_model_without_gradient_is_named_by_dream(net, how):
    for penalties in ((), (sd.Smoothness(0.1),)):
        with pytest.raises(ValueError, match="no gradient"):
            sd.dream(Cut(net, how), START, sd.score(1), penalties=penalties, steps=2)


@pytest.mark.parametrize("recipe", RECIPES)
def test_doors_a_model_without_gradient_is_named_by_every_recipe(learned, recipe):
    net, _ = learned
    cut = Cut(net, "detach")
    ref = sd.Reference.from_data(cut, *two_classes())
    with pytest.raises(ValueError, match="no gradient"):
        dreamt(recipe, cut, ref)


def test_doors_an_objective_that_detaches_is_named(net):
    def lost(a, rows):
        return -a[:, 0].detach()

    aim = sd.Objective(lost, "lost")
    with pytest.raises(ValueError, match="no gradient"):
        sd.dream(net, START, aim, penalties=[sd.Smoothness(0.1)], steps=2)


class Threshold(nn.Module):
    "Answers only to what is above 1."

    def forward(self, x):
        return torch.relu(x - 1).mean(-1).repeat(1, 2)


def test_doors_a_gradient_of_zero_is_dead_whatever_the_penalties_do():
    low = torch.sin(torch.linspace(0, 6, 20))[None, None] * 0.5
    high = torch.full((1, 1, 20), 2.0) + 0.1 * low
    both = torch.cat([low, high])
    d = sd.dream(Threshold(), both, sd.score(0), penalties=[sd.AlphaNorm(0.01, 2.0)], steps=5)
    assert d.status == ["dead", "exhausted"]
    assert torch.equal(d.x[0], low[0])


def test_doors_noise_that_wakes_nothing_ends_dead():
    flat = torch.zeros(1, 1, 20)
    faint = [sd.NoiseOnStall(1e-3, patience=1)]
    d = sd.dream(Threshold(), flat, sd.score(0), transforms=faint, steps=5)
    assert d.status == ["dead"]
    strong = [sd.NoiseOnStall(3.0, patience=1)]
    d = sd.dream(Threshold(), flat, sd.score(0), transforms=strong, steps=5)
    assert d.status != ["dead"]


def test_doors_a_gradient_of_nan_is_diverged():
    class Root(nn.Module):
        def forward(self, x):
            return x.square().sum(-1).sqrt().repeat(1, 2)  # at zero: 0/0

    flat = torch.zeros(1, 1, 20)
    high = torch.full((1, 1, 20), 2.0)
    both = torch.cat([flat, high])
    d = sd.dream(Root(), both, sd.score(0), penalties=[sd.AlphaNorm(0.01, 2.0)], steps=5)
    assert d.status == ["diverged", "exhausted"]


@pytest.mark.parametrize("wrong", [torch.Tensor.mean, torch.Tensor.sum])
def test_doors_a_loss_is_one_number_per_row(net, wrong):
    class Whole:
        label = "whole"

        def __call__(self, x, rows):
            return wrong(x)

    with pytest.raises(ValueError, match=r"penalty 'whole' gives shape \(\) for 4 rows.*flatten"):
        sd.dream(net, START, sd.score(0), penalties=[Whole()], steps=2)

    def loss(a, rows):
        return wrong(a)

    with pytest.raises(ValueError, match=r"objective gives shape \(\)"):
        sd.dream(net, START, sd.Objective(loss, "mean"), steps=2)


# --- whatever the caller was doing ----------------------------------------------------------------


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "anomaly": torch.autograd.detect_anomaly,
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_doors_recipes_dream_the_same_in_any_mode(learned, mode, recipe):
    net, ref = learned
    plain = dreamt(recipe, net, ref)
    with MODES[mode]():
        inside = dreamt(recipe, net, ref)
        assert torch.is_grad_enabled() is (mode not in ("no_grad", "inference_mode"))
        assert torch.is_inference_mode_enabled() is (mode == "inference_mode")
    assert torch.equal(inside.x, plain.x)
    assert torch.equal(inside.activations, plain.activations)
    assert not inside.x.is_inference()


def test_doors_what_was_made_in_inference_mode_dreams(learned):
    net, _ = learned
    X, y = two_classes()
    with torch.inference_mode():
        asleep = copy.deepcopy(net)
        ref = sd.Reference.from_data(net, X + 0, y)
        start = START + 0
        first = sd.dream(asleep, start, sd.score(1), steps=2)
    assert next(asleep.parameters()).is_inference()
    plain = sd.sequence_dreaming(net, sd.Reference.from_data(net, X, y), 1, n=2, steps=3)
    again = sd.sequence_dreaming(asleep, ref, 1, n=2, steps=3)
    assert torch.equal(again.x, plain.x)
    assert torch.equal(first.x, sd.dream(net, START, sd.score(1), steps=2).x)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_doors_a_nan_is_a_status_under_anomaly_detection():
    class Root(nn.Module):
        def forward(self, x):
            return x.square().sum(-1).sqrt().repeat(1, 2)

    with torch.autograd.detect_anomaly():
        d = sd.dream(Root(), torch.zeros(1, 1, 20), sd.score(0), steps=2)
    assert d.status == ["diverged"]


def test_doors_default_dtype_and_deterministic_algorithms(learned):
    net, ref = learned
    plain = {recipe: dreamt(recipe, net, ref) for recipe in RECIPES}
    try:
        torch.set_default_dtype(torch.float64)
        double = {recipe: dreamt(recipe, net, ref) for recipe in RECIPES}
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    try:
        torch.use_deterministic_algorithms(True)
        strict = {recipe: dreamt(recipe, net, ref) for recipe in RECIPES}
    finally:
        torch.use_deterministic_algorithms(False)
    for recipe in RECIPES:
        assert torch.equal(strict[recipe].x, plain[recipe].x)
        assert double[recipe].x.dtype == torch.float32
        assert torch.equal(double[recipe].x, plain[recipe].x), recipe


# --- who is asked ---------------------------------------------------------------------------------


class Shared(nn.Module):
    "One convolution, used twice; the batch norm belongs to its first use."

    def __init__(self, functional=False):
        super().__init__()
        self.functional = functional
        self.conv = nn.Conv1d(1, 1, 5, padding=2)
        self.norm = nn.BatchNorm1d(1)
        self.head = nn.Linear(1, 2)

    def forward(self, x):
        h = torch.relu(self.norm(self.conv(x)))
        if self.functional:  # the same weights, past the module
            h = nn.functional.conv1d(h, self.conv.weight, self.conv.bias, padding=2)
        else:
            h = self.conv(h)
        return self.head(torch.tanh(h).mean(-1))


@pytest.mark.parametrize("functional", [False, True])
def test_doors_a_convolution_used_twice_is_not_folded(functional):
    torch.manual_seed(0)
    model = Shared(functional)
    model.norm.running_var.fill_(3.0)
    model.norm.running_mean.fill_(0.5)
    model.eval()
    with borrowed(model):
        used = Engine(sd.Probe(model), START)
        x = START.clone().requires_grad_()
        (slope,) = torch.autograd.grad(used(x)[:, 1].sum(), x)
    exact = copy.deepcopy(model).double()
    z = START.double().requires_grad_()
    (true,) = torch.autograd.grad(exact(z)[:, 1].sum(), z)
    assert used.folded == 0
    assert torch.allclose(slope.double(), true, rtol=1e-4, atol=1e-8)


class Many(nn.Module):
    "More than HALF_FROM parameters, all in one matrix: bfloat16 cannot gain from them."

    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(60, 2000)
        self.head = nn.Linear(2000, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.wide(x.flatten(1))))


class Stubborn(Many):
    "It refuses half the bits."

    def forward(self, x):
        if torch.is_autocast_enabled("cpu"):
            raise NotImplementedError("no kernel for BFloat16")
        return super().forward(x)


def fast(device="cpu"):
    return True


def test_doors_an_exception_in_bfloat16_means_float32(monkeypatch):
    monkeypatch.setattr(engine, "fast_bfloat16", fast)
    d = sd.dream(Stubborn().eval(), START, sd.score(0), steps=2)
    assert d.settings["precision"] == "float32"
    with pytest.raises(ValueError, match="cannot compute in it"):
        sd.dream(Stubborn().eval(), START, sd.score(0), steps=2, precision="bfloat16")


@pytest.mark.parametrize("answer, precision", [(True, "bfloat16"), (False, "float32")])
def test_doors_timing_decides_on_bfloat16_and_only_once(monkeypatch, answer, precision):
    asked = []

    def in_time(*args, **options):
        asked.append(args)
        return answer

    monkeypatch.setattr(engine, "fast_bfloat16", fast)
    monkeypatch.setattr(engine, "_in_time", in_time)
    torch.manual_seed(hash(precision) % 1000)
    model = Many().eval()
    for n in (1, 4):
        d = sd.dream(model, START[:n], sd.score(0), steps=1)
        assert d.settings["precision"] == precision
    twin = copy.deepcopy(model)
    sd.dream(twin, START, sd.score(1), steps=1)
    assert len(asked) == (2 if answer else 1)  # one row, four rows; for one model, once


def test_doors_nothing_is_timed_where_precision_is_told(net, monkeypatch):
    def never(*args, **options):
        raise AssertionError("timed")

    monkeypatch.setattr(engine, "_in_time", never)
    for precision in ("float32", "bfloat16"):
        sd.dream(copy.deepcopy(net), START, sd.score(1), steps=1, precision=precision)


def test_doors_a_slow_copy_is_not_used(net, monkeypatch):
    def slow(*args, **options):
        return False

    monkeypatch.setattr(engine, "_in_time", slow)
    engine._CHOICES.clear()
    engine._SHELF.clear()
    d = sd.dream(net, START, sd.score(1), steps=3, lr=0.1)
    assert d.settings["engine"] == "the model itself"
    engine._CHOICES.clear()
    engine._SHELF.clear()
    monkeypatch.undo()
    other = sd.dream(net, START, sd.score(1), steps=3, lr=0.1, precision="float32")
    assert other.settings["engine"] == "a copy"
    assert torch.allclose(d.x, other.x, atol=1e-4)


# --- what is kept ---------------------------------------------------------------------------------


def passes_of(model, work):
    "How often a network of its class is asked meanwhile."
    seen = []
    kind = type(model)
    forward = kind.forward

    def counting(self, x):
        seen.append(len(x))
        return forward(self, x)

    kind.forward = counting
    try:
        work()
    finally:
        kind.forward = forward
    return len(seen)


def test_doors_set_up_is_paid_once(net):
    model = copy.deepcopy(net)

    def call():
        return sd.dream(model, START, sd.score(1), steps=1)

    first = passes_of(model, call)
    second = passes_of(model, call)
    third = passes_of(model, call)
    assert second == third < first
    assert torch.equal(call().x, sd.dream(copy.deepcopy(net), START, sd.score(1), steps=1).x)


@pytest.mark.parametrize("change", ["weights", "attribute", "forward"])
def test_doors_a_changed_model_is_never_answered_from_what_was_kept(change):
    class Steep(nn.Module):
        slope = 1.0

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 4, 3)
            self.norm = nn.BatchNorm1d(4)
            self.head = nn.Linear(4, 2)
            self.power = 1.0

        def forward(self, x):
            h = torch.tanh(self.norm(self.conv(x))).mean(-1)
            return self.head(h) * self.power * Steep.slope

    torch.manual_seed(0)
    model = Steep().eval()
    sd.dream(model, START, sd.score(1), steps=2, lr=0.1)
    if change == "weights":
        model.head.weight.data += 1.0
    if change == "attribute":
        model.power = 3.0
    if change == "forward":
        Steep.slope = 3.0  # nothing in the model itself tells
    after = sd.dream(model, START, sd.score(1), steps=2, lr=0.1, keep="last")
    engine._SHELF.clear()
    afresh = sd.dream(model, START, sd.score(1), steps=2, lr=0.1, keep="last")
    assert torch.equal(after.x, afresh.x)


def test_doors_the_order_of_walks_changes_no_dream(net):
    other = torch.randn(3, 1, 60, generator=torch.Generator().manual_seed(9))
    engine._SHELF.clear()
    alone = sd.dream(net, START, sd.score(1), steps=4, lr=0.1)
    engine._SHELF.clear()
    sd.dream(net, other, sd.score(0), steps=4, lr=0.1)
    sd.dream(net, START.flip(0), sd.score(0), steps=4, lr=0.1)
    after = sd.dream(net, START, sd.score(1), steps=4, lr=0.1)
    assert torch.equal(after.x, alone.x)


def test_doors_what_is_kept_is_bounded_and_lets_models_go(net):
    for i in range(12):
        model = sd.ResNet(1, 2, filters=(2,), kernels=(3,)).eval()
        sd.dream(model, START[:, :, : 20 + i], sd.score(1), steps=1)
    assert len(engine._SHELF) <= engine._SHELF_MOST
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    sd.dream(net, START, sd.score(1), steps=1)
    assert all(kept.model() is not None for kept in engine._SHELF.values())


def test_doors_threads_do_not_meet_in_one_copy(net):
    expected = sd.dream(net, START, sd.score(1), steps=10, lr=0.1).x
    found = []

    def walk():
        found.append(sd.dream(net, START, sd.score(1), steps=10, lr=0.1).x)

    threads = [threading.Thread(target=walk) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 4
    assert all(torch.equal(x, expected) for x in found)


# --- the guest, and what is finished --------------------------------------------------------------


class Clinging(nn.Module):
    "A model whose copy is itself."

    def __init__(self, net):
        super().__init__()
        self.net = net

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        return self.net(x)


class Single(Clinging):
    def __deepcopy__(self, memo):
        raise TypeError("there can be only one")


@pytest.mark.parametrize("kind", [Clinging, Single])
def test_doors_models_that_refuse_to_be_copied_are_asked_and_left_alone(net, kind):
    inner = copy.deepcopy(net)
    before = {k: v.clone() for k, v in inner.state_dict().items()}
    names = [type(m) for m in inner.modules()]
    d = sd.dream(kind(inner), START, sd.score(1), steps=3, lr=0.1)
    assert d.settings["engine"] == "the model itself"
    plain = sd.dream(net, START, sd.score(1), steps=3, lr=0.1)
    assert torch.allclose(d.x, plain.x, atol=1e-4)
    assert [type(m) for m in inner.modules()] == names
    assert list(inner.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in inner.state_dict().items())


def test_doors_a_random_model_is_named_as_random(net):
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return nn.functional.dropout(self.net(x), 0.5)

    with pytest.raises(ValueError, match="asked twice"):
        sd.dream(Restless(), START, sd.score(1), steps=2)
    with borrowed(net), pytest.raises(ValueError, match="asked twice"):
        Engine(sd.Probe(Restless()), START)


def test_doors_out_of_memory_is_said_and_the_model_is_handed_back(net):
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = copy.deepcopy(net).train()

        def forward(self, x):
            if len(x) > 16 and torch.is_grad_enabled():
                raise torch.OutOfMemoryError("tried to allocate 9.00 EiB")
            return self.net(x)

    model = Greedy()
    many = torch.randn(20, 1, 60)
    with pytest.raises(MemoryError, match="micro_batch=1"):
        sd.dream(model, many, sd.score(1), steps=2)
    assert model.net.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_doors_an_error_takes_the_dreams_so_far_along(net):
    def boom(step, so_far):
        if step == 3:
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom") as caught:
        sd.dream(net, START, sd.score(1), steps=9, lr=0.1, callback=boom)
    short = sd.dream(net, START, sd.score(1), steps=3, lr=0.1)
    assert torch.equal(caught.value.dreams.x, short.x)
    assert len(caught.value.dreams) == 4


def test_doors_rows_at_once_change_nothing_but_rounding():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(60, 20), nn.ReLU(), nn.Linear(20, 2)).eval()
    x = torch.randn(70, 1, 60)
    with borrowed(mlp):
        assert Engine(sd.Probe(mlp), x).size > 70
    whole = sd.dream(mlp, x, sd.score(1), steps=5, lr=0.1)
    parts = sd.dream(mlp, x, sd.score(1), steps=5, lr=0.1, micro_batch=16)
    assert torch.allclose(whole.x, parts.x, atol=1e-5)


def test_doors_the_walk_is_a_plain_loop_with_a_penalty_per_row(net):
    "Float64 autograd, three steps: descent on the score and an alpha-norm."
    exact = copy.deepcopy(net).double()
    x = START.double()
    for _ in range(3):
        x = x.detach().requires_grad_()
        loss = -exact(x)[:, 1].sum() + 0.01 * x.abs().pow(4).sum()
        x = x - 0.1 * torch.autograd.grad(loss, x)[0]
    how = dict(lr=0.1, steps=3, keep="last", penalties=[sd.AlphaNorm(0.01, 4.0)])
    d = sd.dream(net, START, sd.score(1), **how)
    assert torch.allclose(d.x.double(), x.detach(), atol=1e-4)
