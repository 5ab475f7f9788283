"A stranger's model: understood at its first call or told what to write, and handed back whole."

import copy
import gc
import threading
import warnings
import weakref
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import seqdream as sd
from seqdream.borrowing import borrowed
from seqdream.forms import asked_twice, gives_probabilities, probabilities
from seqdream.guests import inspect_model, warn_of_probabilities
from seqdream.models import weights_hash

N, CHANNELS, POINTS = 7, 3, 20


def snapshot(model):
    "Everything of a model that its owner could miss, by identity and by value."
    found = {}
    for name, m in model.named_modules():
        found[name, "mode"] = m.training
        found[name, "kind"] = type(m)
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            found[name, hooks] = list(getattr(m, hooks).items())
    for name, p in model.named_parameters(remove_duplicate=False):
        found[name, "weight"] = (id(p), p.data_ptr(), p.dtype, p.device, p.requires_grad)
        found[name, "value"] = p.detach().clone()
        found[name, "grad"] = None if p.grad is None else (id(p.grad), p.grad.clone())
    for name, b in model.named_buffers(remove_duplicate=False):
        found[name, "buffer"] = (id(b), b.dtype, b.device, b.clone())
    return found


def same(a, b):
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same(p, q) for p, q in zip(a, b, strict=True))
    return a == b


def untouched(model, before):
    after = snapshot(model)
    assert after.keys() == before.keys()
    for key, v in before.items():
        assert same(v, after[key]), key


class Core(nn.Module):
    "What all models here compute: (n, channels, timepoints) to (n, classes), each row its own."

    def __init__(self, classes=4, channels=CHANNELS):
        super().__init__()
        self.conv = nn.Conv1d(channels, 5, 3)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, classes)
        self.drop = nn.Dropout(0.3)

    def features(self, x):
        return self.norm(self.conv(x)).relu().mean(-1)

    def forward(self, x):
        return self.head(self.drop(self.features(x)))


class Wrapped(nn.Module):
    "A model of another form around the core; `before` and `after` say how."

    def __init__(self, before=None, after=None, classes=4, channels=CHANNELS):
        super().__init__()
        self.core = Core(classes, channels)
        self.before = before or (lambda x: x)
        self.after = after or (lambda a: a)

    def forward(self, x):
        return self.after(self.core(self.before(x)))


def needs_shape(*sizes):
    "Fail as layers do where an axis has another size; None: any."

    def check(x):
        fits = x.ndim == len(sizes) and all(
            want in (None, got) for want, got in zip(sizes, x.shape, strict=True)
        )
        if not fits:
            raise RuntimeError(f"expected {sizes}, got {tuple(x.shape)}")
        return x

    return check


def last(x):
    return needs_shape(None, None, CHANNELS)(x).transpose(1, 2)


def image(x):
    return needs_shape(None, 1, CHANNELS, POINTS)(x)[:, 0]


def image_last(x):
    return needs_shape(None, 1, POINTS, CHANNELS)(x)[:, 0].transpose(1, 2)


def flat(x):
    return needs_shape(None, POINTS)(x)[:, None]


def time_first(x):
    return needs_shape(POINTS, None, CHANNELS)(x).permute(1, 2, 0)


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


@dataclass
class Prediction:
    loss: None
    prediction_logits: Tensor
    states: list


class Bare:
    "An output object that is no dataclass."

    def __init__(self, a):
        self.scores = a
        self.hidden_states = a.new_zeros(len(a), 3, 9)


Named = namedtuple("Named", "embedding classes")


class FeaturesFirst(Core):
    def forward(self, x):
        h = self.features(x)
        return h, self.head(h)


class FeaturesInDict(Core):
    def forward(self, x):
        h = self.features(x)
        return {"embedding": h, "scores": self.head(h), "frames": self.conv(x)}


class WritesIntoItsInput(Core):
    def forward(self, x):
        x -= x.mean(-1, keepdim=True)
        x *= 3
        return super().forward(x)


class Counts(Core):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("recent", torch.zeros(4), persistent=False)

    def forward(self, x):
        self.calls += 1
        self.recent = self.recent + 1
        return super().forward(x)


class Clips(Core):
    "As networks with a largest norm do, in the forward pass."

    def forward(self, x):
        self.head.weight.data = torch.renorm(self.head.weight.data, 2, 0, 0.01)
        return super().forward(x)


class NoCopies(Core):
    def __deepcopy__(self, memo):
        raise RuntimeError("no copies of me")


class Tied(Core):
    def __init__(self):
        super().__init__()
        self.again = nn.Linear(5, 4)
        self.again.weight = self.head.weight

    def forward(self, x):
        return super().forward(x) + self.again(self.features(x))


def weight_normed():
    model = Core()
    nn.utils.parametrizations.weight_norm(model.conv)
    nn.utils.parametrizations.spectral_norm(model.head)
    return model


def frozen():
    return Core().requires_grad_(False)


def half_trained():
    model = Core().train()
    model.conv.eval()
    model.head.bias.requires_grad_(False)
    model(torch.randn(5, CHANNELS, POINTS)).sum().backward()
    return model


def torch_script():
    return torch.jit.script(Core())


def torch_trace():
    return torch.jit.trace(Core().eval(), torch.randn(4, CHANNELS, POINTS))


def torch_export():
    n = torch.export.Dim("n", min=1, max=64)
    example = (torch.randn(4, CHANNELS, POINTS),)
    return torch.export.export(Core().eval(), example, dynamic_shapes=({0: n},)).module()


AS_IT_IS = ""
TAKEN = {  # name -> (model, what `said` says; empty: the model itself is handed back)
    "plain": (Core, AS_IT_IS),
    "frozen": (frozen, AS_IT_IS),
    "half trained": (half_trained, AS_IT_IS),
    "writes into its input": (WritesIntoItsInput, "copy=True"),
    "counts": (Counts, AS_IT_IS),
    "clips its weights": (Clips, AS_IT_IS),
    "tied": (Tied, AS_IT_IS),
    "weight norm": (weight_normed, AS_IT_IS),
    "no copies": (NoCopies, AS_IT_IS),
    "script": (torch_script, AS_IT_IS),
    "trace": (torch_trace, AS_IT_IS),
    "export": (torch_export, AS_IT_IS),
    "data parallel": (lambda: nn.DataParallel(Core()), AS_IT_IS),
    "double": (lambda: Core().double(), "dtype=torch.float64"),
    "half": (lambda: Core().half(), "dtype=torch.float16"),
    "bfloat16": (lambda: Core().bfloat16(), "dtype=torch.bfloat16"),
    "channels last": (lambda: Wrapped(last), "channels_last=True"),
    "image": (lambda: Wrapped(image), "layout='image'"),
    "image, channels last": (lambda: Wrapped(image_last), "layout='image_last'"),
    "time first": (lambda: Wrapped(time_first), "layout='time_first'"),
    "tuple": (lambda: Wrapped(after=lambda a: (a, 7)), "output=0"),
    "list": (lambda: Wrapped(after=lambda a: [None, a]), "output=1"),
    "features first": (FeaturesFirst, "output=1"),
    "features in a dict": (FeaturesInDict, "output='scores'"),
    "named tuple": (lambda: Wrapped(after=lambda a: Named(a[:, :1], a)), "output=1"),
    "dict": (lambda: Wrapped(after=lambda a: {"loss": None, "logits": a}), "output='logits'"),
    "nested": (lambda: Wrapped(after=lambda a: {"out": (a,)}), "output=('out', 0)"),
    "object": (lambda: Wrapped(after=lambda a: Output(a, a[:, :, None])), "output='logits'"),
    "prediction": (
        lambda: Wrapped(last, lambda a: Prediction(None, a, [a])),
        "channels_last=True, output='prediction_logits'",
    ),
    "bare object": (lambda: Wrapped(after=Bare), "output='scores'"),
    "probabilities too": (lambda: Wrapped(after=lambda a: (a.softmax(1), a)), "output=1"),
    "squeezes": (lambda: Wrapped(after=lambda a: a.squeeze()), "company=True"),
}


def core_of(model):
    "The part that computes what is expected, in double precision, copied by its weights."
    inner = next((m for m in model.modules() if isinstance(m, Core)), None)
    if inner is None or isinstance(model, (torch.jit.ScriptModule, Tied)):
        return None
    core = type(inner)() if isinstance(inner, (WritesIntoItsInput, Clips)) else Core()
    core.load_state_dict(inner.state_dict(), strict=False)
    return core.eval()


@pytest.mark.parametrize("name", TAKEN)
def test_doors_models_that_come_in(name):
    torch.manual_seed(0)
    make, says = TAKEN[name]
    model = make()
    X = torch.randn(N, CHANNELS, POINTS)
    given = X.clone()
    before = snapshot(model)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = inspect_model(model, X, 4)
        again = inspect_model(model, X, 4)
        logits = sd.predict(model, X)
    told = [str(w.message) for w in heard if "asked as" in str(w.message)]
    assert torch.equal(X, given)
    untouched(model, before)
    if says:
        assert says in found.said
        assert told == [found.said]
        assert again is found
    else:
        assert found is getattr(model, "module", model)
        assert told == []
    assert logits.shape == (N, 4)
    assert logits.dtype == torch.float32
    assert weights_hash(found) == weights_hash(model)
    core = core_of(model)
    if core is not None and name not in ("weight norm", "clips its weights"):
        with torch.no_grad():
            expected = core(X.clone())
        assert torch.allclose(
            logits, expected, atol=0.02 if "half" in name or "16" in name else 1e-4
        )


@pytest.mark.parametrize("shape", [(N, 1), (N,)])
def test_doors_models_with_one_logit(shape):
    torch.manual_seed(0)
    model = Wrapped(after=lambda a: a.reshape(-1, *shape[1:]), classes=1)
    X = torch.randn(N, CHANNELS, POINTS)
    with pytest.warns(UserWarning, match="binary=True"):
        logits = sd.predict(model, X)
    with torch.no_grad():
        expected = model.eval().core(X).reshape(-1)
    assert torch.allclose(logits, torch.stack([-expected, expected], 1) / 2, atol=1e-5)
    with pytest.raises(ValueError, match="one number for 5 classes.*layer="):
        inspect_model(model, X, 5)


def test_doors_models_with_one_probability():
    torch.manual_seed(0)
    model = nn.Sequential(Core(1), nn.Sigmoid()).eval()
    X = 5 * torch.randn(N, CHANNELS, POINTS)
    with pytest.warns(UserWarning, match="probability=True"):
        logits = sd.predict(model, X)
    with torch.no_grad():
        assert torch.allclose(logits.softmax(1)[:, 1:], model(X), atol=1e-4)


def test_doors_models_of_one_channel_that_take_rows():
    torch.manual_seed(0)
    model = Wrapped(flat, channels=1)
    X = torch.randn(N, 1, POINTS)
    with pytest.warns(UserWarning, match="layout='flat'"):
        logits = sd.predict(model, X)
    with torch.no_grad():
        assert torch.allclose(logits, model.eval().core(X), atol=1e-5)


class Square(nn.Module):
    "Channels last, where nothing breaks if it is given channels first."

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(12, 6, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class SquareTurned(Square):
    def forward(self, x):
        return super().forward(x.transpose(1, 2))


def test_doors_models_of_square_series_are_told_by_their_first_layer():
    X = torch.randn(N, 12, 12)
    with pytest.warns(UserWarning, match="channels_last=True"):
        logits = sd.predict(Square(), X)
    model = SquareTurned()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inspect_model(model, X) is model
    assert logits.shape == (N, 2)


class Static(Core):
    def forward(self, x, static):
        return super().forward(x) + static


class RowsAsTime(nn.Module):
    "An LSTM over (n, timepoints, channels) whose owner forgot batch_first."

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(CHANNELS, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.rnn(x.transpose(1, 2))[0][:, -1])


class Attends(nn.Module):
    "A transformer whose attention runs over the rows."

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(CHANNELS, 1, 8)
        self.head = nn.Linear(CHANNELS, 4)

    def forward(self, x):
        return self.head(self.encoder(x.transpose(1, 2)).mean(1))


class NoStatistics(Core):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(5, track_running_stats=False)


class DropsAlways(Core):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.5)


class Noisy(Core):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))


class Remembers(Core):
    "A state that goes from call to call."

    def forward(self, x):
        self.last = getattr(self, "last", 0.0) + 1.0
        return super().forward(x) * self.last


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.LazyLinear(4)

    def forward(self, x):
        return self.head(x.flatten(1))


def made_in_inference_mode():
    with torch.inference_mode():
        return Core()


def through_numpy():
    return Wrapped(after=lambda a: torch.from_numpy(a.numpy()))


REFUSED = {  # name -> (model, what the error says)
    "two inputs": (Static, r"static besides the series.*\n.*class Mine"),
    "per time step": (lambda: Wrapped(after=lambda a: a[:, None].repeat(1, 9, 1)), "out.mean"),
    "axis of one": (lambda: Wrapped(after=lambda a: a[:, None]), r"out.squeeze\(1\)"),
    "axis of one at the end": (lambda: Wrapped(after=lambda a: a[..., None]), r"out.squeeze\(2\)"),
    "one row for all": (lambda: Wrapped(after=lambda a: a.mean(0)), "the series first"),
    "nothing": (lambda: Wrapped(after=lambda a: None), "NoneType, not a tensor"),
    "whole numbers": (lambda: Wrapped(after=lambda a: a.argmax(1)), "integers"),
    "two dicts alike": (
        lambda: Wrapped(after=lambda a: {"one": 2 * a, "two": a + 1}),
        r"one, two.*Adapter\(model, output='one'\)",
    ),
    "other channels": (lambda: Core(channels=9), "does not take series.*Adapter"),
    "rows as time": (RowsAsTime, "batch_first=True"),
    "attention over rows": (Attends, "depends on the other series"),
    "no statistics": (NoStatistics, "running statistics"),
    "dropout": (DropsAlways, "same input.*random"),
    "noise": (Noisy, "same input.*random"),
    "state": (Remembers, "same input.*state"),
    "lazy": (Lazy, "has no values yet.*call model"),
    "inference": (made_in_inference_mode, r"inference_mode.*copy.deepcopy\(model\)"),
    "numpy": (through_numpy, r"^the model gives no gradient.*numpy\(\)"),
    "no module": (lambda: torch.tanh, "torch.nn.Module is expected"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_doors_models_that_are_told_what_to_write(name):
    torch.manual_seed(0)
    make, says = REFUSED[name]
    model = make()
    X = torch.randn(12, CHANNELS, POINTS)
    y = torch.arange(12) % 4
    before = snapshot(model) if name not in ("lazy", "no module") else None
    with pytest.raises((ValueError, TypeError), match=f"(?s){says}"):
        inspect_model(model, X, 4)
    with pytest.raises((ValueError, TypeError), match=f"(?s){says}"):
        sd.Reference.from_data(model, X, y)
    if before is not None:
        untouched(model, before)


def waves(n=48, channels=CHANNELS):
    "Two classes that a small network tells apart."
    g = torch.Generator().manual_seed(3)
    y = torch.arange(n) % 2
    t = torch.linspace(0, 6.28, POINTS)
    phase = 6.28 * torch.rand(n, channels, 1, generator=g)
    X = torch.sin((1 + 2 * y)[:, None, None] * t + phase)
    return X + 0.1 * torch.randn(X.shape, generator=g), y


def test_doors_models_that_write_into_their_input_change_no_series_and_no_reference():
    torch.manual_seed(1)
    X, y = waves()
    given = X.clone()
    model = WritesIntoItsInput(2)
    ref = sd.Reference.from_data(model, X, y)
    kept = ref.X.clone()
    d = sd.sequence_dreaming(model, ref, 1, n=2, steps=4)
    sd.Probe(model, "conv")(X)
    sd.Probe(model)(X)
    assert torch.equal(X, given)
    assert torch.equal(ref.X, kept)
    with torch.no_grad():
        expected = model.eval()(d.x.clone())
    assert torch.allclose(d.activations, expected, atol=1e-4)


def test_doors_models_that_write_the_same_numbers_write():
    "Series without negatives pass an in-place ReLU as they are, those of a dream do not."
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(CHANNELS * POINTS, 2))
    found = inspect_model(net, torch.rand(12, CHANNELS, POINTS))
    x = -torch.rand(12, CHANNELS, POINTS)
    found(x)
    assert (x <= 0).all()
    assert (x < 0).any()


def test_doors_models_of_another_form_are_named_with_their_dreams(tmp_path):
    X, _ = waves()
    model = Wrapped(last, classes=2)
    made = sd.dream(model, X[:2], sd.score(1), steps=2)
    bare = sd.dream(model.core, X[:2], sd.score(1), steps=2)
    made.save(tmp_path / "made.safetensors")
    asked = sd.Dreams.load(tmp_path / "made.safetensors").settings["asked"]
    assert asked.endswith("asked as sd.Adapter(model, channels_last=True)")
    assert "asked" not in bare.settings


def test_doors_models_of_another_form_go_everywhere():
    "One raw object through training, prediction, reference, dreams and a hidden layer."
    torch.manual_seed(1)
    X, y = waves()
    model = Wrapped(last, lambda a: (a.new_zeros(len(a), 3), a), classes=2).double()
    first = model.core.head.weight.detach().clone()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        sd.fit(model, (X, y), epochs=25, lr=0.02, batch_size=8, progress=False)
        assert not torch.equal(first, model.core.head.weight)  # the user's own was trained
        assert sd.accuracy(model, X, y) > 0.9
        before = snapshot(model)
        ref = sd.Reference.from_data(model, X, y)
        assert ref.meta["model"] == weights_hash(model)
        d = sd.sequence_dreaming(model, ref, 1, n=2, steps=5)
        sd.grounded_dreaming(model, ref, 1, n=2, steps=3)
        hidden = sd.Reference.from_data(model, X, y, layer="core.conv")
        inner = sd.Probe(model, "core.conv")(X)
    assert len([w for w in heard if "asked as" in str(w.message)]) == 1
    untouched(model, before)
    assert hidden.meta["layer"] == "core.conv"
    assert torch.isfinite(d.x).all()
    with torch.no_grad():
        expected = model.core.conv(X.double()).mean(-1)
    assert torch.allclose(inner.double(), expected, atol=1e-6)
    assert torch.allclose(hidden.activations.double(), expected, atol=1e-6)
    assert torch.allclose(sd.predict(model, d.x), d.activations, atol=1e-4)


def test_doors_models_a_turned_axis_is_confirmed_by_the_labels():
    torch.manual_seed(1)
    X, y = waves()
    model = Wrapped(last, classes=2)
    with pytest.raises(ValueError, match=r"sd.Adapter\(model, channels_last=True\)"):
        sd.Reference.from_data(model, X, y)
    ref = sd.Reference.from_data(sd.Adapter(model, channels_last=True), X, y)
    assert ref.n_features == 2
    other = sd.fit(model, (X, y), epochs=25, lr=0.02, batch_size=8, progress=False)
    assert len(other) == 25
    assert sd.Reference.from_data(model, X, y).n_features == 2


def test_doors_models_other_outputs_than_classes_are_named():
    X, y = waves()
    with pytest.warns(UserWarning, match="4 outputs for 2 classes.*work"):
        ref = sd.Reference.from_data(Core(4), X, y)
    assert not ref.has_scores
    with pytest.raises(ValueError, match="labels reach 3.*2 classes"):
        sd.accuracy(Core(2), X, y + 2)


def test_doors_models_softmax_is_known_by_its_values_and_told_once():
    torch.manual_seed(1)
    X, y = waves()
    for last_step in (lambda a: a.softmax(1), lambda a: a.log_softmax(1)):
        model = Wrapped(after=last_step, classes=2)
        ref = sd.Reference.from_data(model, X, y)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            d = sd.sequence_dreaming(model, ref, 1, n=2, steps=2)
            sd.sequence_dreaming(model, ref, 0, n=2, steps=2)
        assert [w for w in heard if "ends in a Softmax" in str(w.message)] == heard
        assert len(heard) == 1
        with torch.no_grad():
            expected = model.eval().core(d.x).softmax(1).max(1).values
        assert torch.allclose(torch.as_tensor(sd.evaluate(d, ref)["probability"]).float(), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_probabilities(Wrapped(after=torch.sigmoid, classes=2), X)


def test_doors_models_probabilities_are_not_put_through_a_softmax_again():
    p = torch.tensor([[0.99, 0.01], [0.2, 0.8]])
    assert torch.equal(probabilities(p), p)
    assert torch.allclose(probabilities(p.log()), p)
    assert gives_probabilities(torch.tensor([[0.9, 0.3], [0.2, 0.8]])) is None
    assert gives_probabilities(torch.tensor([[3.0, -2.0]])) is None  # sums to one, but negative
    assert torch.equal(probabilities(p, already=False), p.softmax(1))


def test_doors_models_are_asked_once_until_something_changes():
    calls = []
    model = Wrapped(lambda x: calls.append(len(x)) or x)
    X = torch.randn(N, CHANNELS, POINTS)
    inspect_model(model, X, 4)
    asked = len(calls)
    assert asked > 3
    inspect_model(model, X, 4)
    inspect_model(model, X[:2], 4)
    assert len(calls) == asked
    model.core.head = nn.Linear(5, 6)
    with pytest.warns(UserWarning, match="6 outputs for 4 classes"):
        inspect_model(model, X, 4)
    assert len(calls) > asked
    asked = len(calls)
    model.load_state_dict(model.state_dict())
    inspect_model(model, X)
    assert len(calls) > asked


def test_doors_models_are_not_kept_alive():
    model = Wrapped(last)
    with pytest.warns(UserWarning, match="asked as"):
        found = inspect_model(model, torch.randn(N, CHANNELS, POINTS), 4)
    gone = weakref.ref(model)
    del model, found
    gc.collect()
    assert gone() is None


def test_doors_models_draw_nothing_from_the_global_stream():
    torch.manual_seed(5)
    model = DropsAlways()
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="same input"):
        inspect_model(model, torch.ones(N, CHANNELS, POINTS), 4)
    assert torch.equal(state, torch.get_rng_state())


class Refuses(nn.Linear):
    "A layer that no device takes."

    def _apply(self, fn, recurse=True):
        raise KeyboardInterrupt if self.stop else RuntimeError("out of everything")

    stop = False


@pytest.mark.parametrize("stop", [False, True])
def test_doors_models_come_back_from_a_device_that_fails_halfway(stop):
    model = half_trained()
    model.last = Refuses(4, 4)
    model.last.stop = stop
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt if stop else ValueError), borrowed(model, "meta"):
        raise AssertionError("never here")
    untouched(model, before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError])
def test_doors_models_come_back_from_an_error_inside(error):
    model = half_trained()
    before = snapshot(model)
    with pytest.raises(error), borrowed(model):
        model.head.weight.data.add_(1)
        model(torch.randn(3, CHANNELS, POINTS))
        raise error("inside")
    untouched(model, before)


def test_doors_models_a_device_that_is_not_there_is_one_line():
    model = half_trained()
    before = snapshot(model)
    X, y = waves()
    for name in ("cuda:77", "tpu-9"):
        with pytest.raises(ValueError, match=f"device='{name}'"):
            sd.predict(model, X, device=name)
        untouched(model, before)
    with pytest.raises(ValueError, match="device='cuda:77'"):
        sd.Reference.from_data(Core(2), X, y, device="cuda:77")
    with borrowed(model, "meta") as where:
        assert where.type == "meta"
        assert all(p.is_meta for p in model.parameters())
    untouched(model, before)


def test_doors_models_borrowed_alone_and_within_an_adapter_at_once():
    model = half_trained()
    before = snapshot(model)
    around = sd.Adapter(model, channels_last=True)
    one = borrowed(model)
    two = borrowed(around)
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert not model.training  # still lent
    assert not any(p.requires_grad for p in model.parameters())
    two.__exit__(None, None, None)
    untouched(model, before)

    def work():
        for _ in range(50):
            with borrowed(model), borrowed(around):
                assert not model.training

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    untouched(model, before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_doors_models_within_no_grad_and_inference_mode(mode):
    torch.manual_seed(1)
    X, y = waves()
    model = Core(2)
    with mode():
        sd.fit(model, (X, y), epochs=8, lr=0.02, batch_size=8, progress=False)
        before = snapshot(model)
        share = sd.accuracy(model, X, y)
        logits = sd.predict(model, X)
        ref = sd.Reference.from_data(model, X, y)
        with borrowed(model):
            assert not torch.is_inference_mode_enabled()
    untouched(model, before)
    assert share > 0.6
    assert not logits.is_inference()
    assert not ref.activations.is_inference()
    with torch.no_grad():
        assert torch.allclose(logits, model.eval()(X), atol=1e-5)


def test_doors_models_that_are_quantized_are_predicted():
    model = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * POINTS, 8), nn.ReLU(), nn.Linear(8, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    X = torch.randn(N, CHANNELS, POINTS)
    assert sd.predict(small, X).shape == (N, 4)


def test_doors_models_that_are_compiled_are_asked_as_they_were_written():
    model = Core()
    compiled = torch.compile(model)
    X = torch.randn(N, CHANNELS, POINTS)
    assert inspect_model(compiled, X, 4) is model
    assert weights_hash(compiled) == weights_hash(model)
    assert torch.equal(sd.predict(compiled, X), sd.predict(model, X))


def test_doors_models_asked_twice_sees_small_differences_and_no_rounding():
    X = torch.randn(5, CHANNELS, POINTS)
    core = Core().eval()

    def leaks(x, share=1e-2):
        a = core(x)
        return a + share * (x.mean() - 1)

    with torch.no_grad():
        assert asked_twice(core, X) is None
        assert "other series" in asked_twice(leaks, X)
        assert asked_twice(copy.deepcopy(core).bfloat16().float(), X) is None


class Either(nn.Module):
    "Pictures of any size: nothing in it says which axis is time."

    def __init__(self, plane=True):
        super().__init__()
        self.first = nn.Conv2d(1, 8, (5, 1))
        self.second = nn.Conv2d(8, 16, (5, 1), dilation=(2, 1))
        self.head = nn.Linear(16, 2)
        self.plane = plane  # does it make the plane itself?

    def forward(self, x):
        z = self.first(x[:, None] if self.plane else x).relu()
        return self.head(self.second(z).relu().mean((2, 3)))


WIDE = 16  # channels; enough for the kernels to run along them


def by_hand(model, X, y, turn, epochs=60):
    "A plain loop in one layout."
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(epochs):
        loss = F.cross_entropy(model(turn(X)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return model


def swap(x):
    return x.transpose(1, 2)


def as_it_is(x):
    return x


TURNS = {  # how the owner trains it -> (plane, turn, what is said)
    "channels last": (True, swap, "channels_last=True"),
    "image, channels last": (False, lambda x: swap(x)[:, None], "layout='image_last'"),
    "image": (False, lambda x: x[:, None], "layout='image'"),
}


@pytest.mark.parametrize("name", TURNS)
def test_doors_models_that_run_in_several_layouts_are_read_by_the_labels(name, tmp_path):
    torch.manual_seed(1)
    plane, turn, says = TURNS[name]
    X, y = waves(60, WIDE)
    model = by_hand(Either(plane), X, y, turn)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        ref = sd.Reference.from_data(model, X, y)
        d = sd.sequence_dreaming(model, ref, 1, n=2, steps=4)
        share = sd.accuracy(model, X[:, :, :18], y)
        logits = sd.predict(model, X[:, :, :18])
    about = [str(w.message) for w in heard if "Either" in str(w.message)]
    assert len(about) == 1
    assert says in about[0]
    assert "runs as well" in about[0]
    with torch.no_grad():
        assert torch.allclose(ref.activations, model(turn(X)), atol=1e-4)
        assert torch.allclose(d.activations, model(turn(d.x)), atol=1e-4)
        assert torch.allclose(logits, model(turn(X[:, :, :18])), atol=1e-4)
        right = (model(turn(X[:, :, :18])).argmax(1) == y).float().mean()
    assert share == pytest.approx(float(right))
    ref.save(tmp_path / "ref.safetensors")
    again = sd.Reference.load(tmp_path / "ref.safetensors")
    other = copy.deepcopy(model)  # as in another process: nothing is known of it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        later = sd.sequence_dreaming(other, again, 1, n=2, steps=4)
    with torch.no_grad():
        assert torch.allclose(later.activations, model(turn(later.x)), atol=1e-4)


def test_doors_models_that_run_in_several_layouts_stay_as_they_are_where_that_is_right():
    torch.manual_seed(1)
    X, y = waves(60, WIDE)
    model = by_hand(Either(), X, y, as_it_is)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ref = sd.Reference.from_data(model, X, y)
        assert inspect_model(model, X) is model
        sd.predict(model, X[:, :, :18])
    with torch.no_grad():
        assert torch.allclose(ref.activations, model(X), atol=1e-4)


@pytest.mark.parametrize("epochs", [1, 30])
def test_doors_models_that_run_in_several_layouts_are_read_as_they_were_fitted(epochs):
    torch.manual_seed(1)
    X, y = waves(60, WIDE)
    data = sd.Dataset.from_arrays(X, y, X, y)
    model = Either()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = sd.fit(model, data, epochs=epochs, lr=0.01, progress=False)
        ref = sd.Reference.from_data(model, X, y)
        assert inspect_model(model, X) is model
    with torch.no_grad():
        assert torch.allclose(ref.activations, model.eval()(X), atol=1e-4)
        right = float((model(X).argmax(1) == y).float().mean())
    assert history.attrs["test_accuracy"] == pytest.approx(right)
    by_hand(model, X, y, swap)  # and then its owner trains it otherwise
    with pytest.warns(UserWarning, match=r"channels_last=True\).*runs as well"):
        ref = sd.Reference.from_data(model, X, y)
    with torch.no_grad():
        assert torch.allclose(ref.activations, model(swap(X)), atol=1e-4)


def test_doors_models_that_run_in_several_layouts_are_named_where_nothing_tells():
    torch.manual_seed(1)
    X, y = waves(60, WIDE)
    y = y[torch.randperm(60)]  # labels that no reading can match
    model = Either()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        logits = sd.predict(model, X)
        ref = sd.Reference.from_data(model, X, y)
        sd.predict(model, X)
    assert len([w for w in heard if "answers differently" in str(w.message)]) == 1
    assert "sd.Adapter(model, channels_last=True)" in str(heard[0].message)
    assert "sd.Adapter(model) says so" in str(heard[0].message)
    with torch.no_grad():
        assert torch.allclose(logits, model.eval()(X), atol=1e-4)
        assert torch.equal(ref.activations, logits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = sd.predict(sd.Adapter(model), X)
        turned = sd.predict(sd.Adapter(model, channels_last=True), X)
    with torch.no_grad():
        assert torch.equal(same, logits)
        assert torch.allclose(turned, model(swap(X)), atol=1e-4)


ORDINARY = {
    "convolutions": lambda c: Core(2, c),
    "network of the library": lambda c: sd.ResNet(c, 2),
    "within another": lambda c: nn.Sequential(sd.ResNet(c, 2), nn.Identity()),
    "points": lambda c: nn.Sequential(nn.Flatten(), nn.LazyLinear(2)),
    "recurrent": lambda c: Wrapped(classes=2, channels=c),
}


@pytest.mark.parametrize("channels", [1, CHANNELS])
@pytest.mark.parametrize("name", ORDINARY)
def test_doors_models_of_one_layout_are_asked_no_oftener_and_told_nothing(
    name, channels, monkeypatch
):
    if name == "points" and channels > 1:
        pytest.skip("flattened, several channels run either way round")
    X = torch.randn(40, channels, POINTS)
    answered = []
    counts = []
    for others in (sd.guests._others, lambda *args: []):
        monkeypatch.setattr(sd.guests, "_others", others)
        torch.manual_seed(1)
        model = ORDINARY[name](channels).eval()
        model(X[:2])
        head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        head.register_forward_hook(lambda *args: answered.append(1))
        answered.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert inspect_model(model, X, 2, y=torch.arange(40) % 2) is model
        counts.append(len(answered))
    more = 12 if name == "points" else 0  # the same numbers in four other shapes
    assert counts[0] <= counts[1] + more


def exported(net: nn.Module) -> nn.Module:
    rows = {0: torch.export.Dim("rows", min=2, max=512)}
    return torch.export.export(net, (torch.randn(4, 1, 36),), dynamic_shapes=(rows,)).module()


FORMS = {
    "scripted": torch.jit.script,
    "frozen script": lambda net: torch.jit.freeze(torch.jit.script(net)),
    "traced": lambda net: torch.jit.trace(net, torch.randn(2, 1, 36)),
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "exported": exported,
    "parallel": nn.DataParallel,
}


@pytest.fixture(scope="module")
def plain():
    "A network, series with classes, and its dreams."
    net = sd.ResNet(1, 2, filters=(4, 4), kernels=(5, 3)).eval()
    X = torch.randn(20, 1, 36, generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % 2
    ref = sd.Reference.from_data(net, X, y)
    return net, X, y, sd.sequence_dreaming(net, ref, 1, n=2, steps=4, lr=0.5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("form", FORMS)
def test_doors_models_in_other_forms_dream_the_same(form, plain):
    net, X, y, dreams = plain
    other = FORMS[form](copy.deepcopy(net))
    ref = sd.Reference.from_data(other, X, y)
    d = sd.sequence_dreaming(other, ref, 1, n=2, steps=4, lr=0.5)
    assert torch.allclose(d.x, dreams.x, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_doors_a_quantized_model_has_a_reference_but_no_gradient(plain):
    net, X, y, _ = plain
    small = torch.ao.quantization.quantize_dynamic(copy.deepcopy(net), {nn.Linear})
    ref = sd.Reference.from_data(small, X, y)
    assert torch.allclose(ref.activations, small(X).detach(), atol=1e-5)
    with pytest.raises(ValueError, match="quantized"):
        sd.sequence_dreaming(small, ref, 1, n=2, steps=4)
