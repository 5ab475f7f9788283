"Over which axis a hidden layer is averaged: compared with the mean over the axis that is time."

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import seqdream as sd
from seqdream.activations import Axes, Layer
from seqdream.models import weights_hash

T = 36


def series(n: int = 5, channels: int = 1, points: int = T) -> torch.Tensor:
    "Noise of its own."
    return torch.randn(n, channels, points, generator=torch.Generator().manual_seed(3))


def given(model: nn.Module, layer: str, x: torch.Tensor) -> object:
    "What a layer gives, by a hook of this file."
    found = []
    hook = model.get_submodule(layer).register_forward_hook(lambda m, i, out: found.append(out))
    model.eval()
    try:
        with torch.no_grad():
            model(x)
    except RuntimeError:
        pass  # what lies behind the layer may not fit
    hook.remove()
    return found[-1]


class Recurrent(nn.Module):
    "A recurrent network in one of torch's forms."

    def __init__(self, kind=nn.LSTM, width=T, batch_first=True, packed=False, both=False):
        super().__init__()
        self.rnn = kind(1, width, batch_first=batch_first, bidirectional=both)
        self.head = nn.Linear(width * (1 + both), 2)
        self.batch_first = batch_first
        self.packed = packed

    def forward(self, x):
        steps = x.transpose(1, 2) if self.batch_first else x.permute(2, 0, 1)
        if self.packed:
            lengths = torch.full((len(x),), x.shape[2])
            packed = pack_padded_sequence(steps, lengths, batch_first=self.batch_first)
            state = self.rnn(packed)[1]
            return self.head(state[-1])
        return self.head(self.rnn(steps)[0].mean(1 if self.batch_first else 0))


class Transformer(nn.Module):
    "Tokens with a class token; positions of one length only, or any."

    def __init__(self, batch_first=True, fixed=True, width=T, channels=1):
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.place = nn.Parameter(torch.randn(T + 1, width)) if fixed else 0.0
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.block = nn.TransformerEncoderLayer(width, 4, 64, batch_first=batch_first)
        self.head = nn.Linear(width, 2)
        self.batch_first = batch_first

    def forward(self, x):
        a = self.embed(x.transpose(1, 2))
        a = torch.cat([self.token.expand(len(a), 1, -1), a], 1) + self.place
        if self.batch_first:
            return self.head(self.block(a)[:, 0])
        return self.head(self.block(a.transpose(0, 1))[0])


class ChannelLast(nn.Module):
    "A network of points that keeps its channels last; laid out flat at the end."

    def __init__(self, width=T, flat=True):
        super().__init__()
        self.points = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width))
        self.head = nn.Linear(width * T if flat else width, 2)
        self.flat = flat

    def forward(self, x):
        a = self.points(x.transpose(1, 2))
        return self.head(a.flatten(1) if self.flat else a.mean(1))


class Image(nn.Module):
    "Two-dimensional convolutions over channels and points."

    def __init__(self, spatial=False, points_first=False):
        super().__init__()
        first = (5, 1) if points_first else (1, 5)
        self.conv = nn.Conv2d(1, 4, first, padding="same")
        self.across = nn.Conv2d(4, 6, (1, 3) if points_first else (3, 1))
        self.head = nn.Linear(6, 2)
        self.points_first = points_first

    def forward(self, x):
        x = x[:, None]
        a = self.conv(x.transpose(2, 3) if self.points_first else x)
        return self.head(self.across(a).mean((2, 3)))


RECURRENT = [
    (dict(kind=kind, batch_first=first, both=both), 1 if first else 0)
    for kind in (nn.GRU, nn.LSTM, nn.RNN)
    for first in (True, False)
    for both in (False, True)
]


@pytest.mark.parametrize("how, time", RECURRENT)
def test_axis_of_recurrent_layers(how, time):
    net = Recurrent(**how)
    x = series()
    expected = given(net, "rnn", x)[0].mean(time)
    assert torch.allclose(sd.Probe(net, "rnn")(x), expected, atol=1e-6)


@pytest.mark.parametrize("first", [True, False])
def test_axis_of_packed_series(first):
    net = Recurrent(packed=True, batch_first=first)
    x = series()
    with torch.no_grad():
        steps = x.transpose(1, 2)
        plain = nn.LSTM(1, T, batch_first=True)
        plain.load_state_dict(net.rnn.state_dict())
        expected = plain(steps)[0].mean(1)
    assert torch.allclose(sd.Probe(net, "rnn")(x), expected, atol=1e-6)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("n", [1, 2, T])  # also as many series as points
def test_axis_of_token_layers(first, fixed, n):
    torch.manual_seed(n)
    net = Transformer(first, fixed)
    x = series(n)
    for layer in ("block", "block.linear1", "block.norm1"):
        expected = given(net, layer, x).mean(1 if first else 0)
        assert torch.allclose(sd.Probe(net, layer)(x), expected, atol=1e-5), layer


def test_axis_of_attention_is_that_of_its_answer_not_of_its_weights():
    net = Transformer()
    x = series()
    expected = given(net, "block.self_attn", x)[0].mean(1)
    assert torch.allclose(sd.Probe(net, "block.self_attn")(x), expected, atol=1e-5)


@pytest.mark.parametrize("flat", [True, False])
def test_axis_of_channel_last_layers(flat):
    net = ChannelLast(flat=flat)
    x = series()
    for layer in ("points.0", "points.1", "points"):
        expected = given(net, layer, x).mean(1)
        assert torch.allclose(sd.Probe(net, layer)(x), expected, atol=1e-6), layer


def test_axis_of_convolutions_is_bit_for_bit_the_last():
    net = sd.ResNet.preset("paper")
    x = series()
    for layer in ("blocks.0.body.0", "blocks.1", "blocks"):
        assert torch.equal(sd.Probe(net, layer)(x), given(net, layer, x).flatten(2).mean(-1))
    net = Image()
    x = series(channels=3)
    for layer in ("conv", "across"):
        assert torch.equal(sd.Probe(net, layer)(x), given(net, layer, x).flatten(2).mean(-1))


def test_axis_of_image_layers_with_points_first():
    net = Image(points_first=True)
    x = series(channels=3)
    expected = given(net, "across", x)[..., 0].mean(2)  # (n, 6, points, 1)
    assert torch.allclose(sd.Probe(net, "across")(x), expected, atol=1e-6)


def test_axis_of_fixed_convolutions_and_adaptive_pools():
    net = nn.Sequential(
        nn.Conv1d(1, 9, 5, padding=2), nn.AdaptiveAvgPool1d(9), nn.Flatten(), nn.Linear(81, 2)
    )
    x = series()
    for layer in ("0", "1"):
        assert torch.allclose(sd.Probe(net, layer)(x), given(net, layer, x).mean(-1), atol=1e-6)
    assert torch.equal(sd.Probe(net, "2")(x), given(net, "2", x))  # (n, features) stays


def test_axis_of_patches_keeps_channels_apart():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(6, 6)
            self.place = nn.Parameter(torch.randn(6, 6))

        def forward(self, x):
            a = self.embed(x.unflatten(2, (6, 6))) + self.place  # (n, channels, patches, width)
            return a.flatten(1)[:, :2]

    net = Patches()
    x = series(channels=6)
    expected = given(net, "embed", x).mean(2).flatten(1)
    assert torch.allclose(sd.Probe(net, "embed")(x), expected, atol=1e-6)


def test_axis_none_behind_the_average():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 4, 3)
            self.kept = nn.Identity()
            self.pair = nn.Identity()
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            a = self.kept(self.conv(x).mean(-1, keepdim=True))  # (n, 4, 1)
            return self.head(self.pair(a.transpose(1, 2))[:, 0])  # (n, 1, 4)

    net = Pooled()
    x = series()
    expected = given(net, "conv", x).mean(-1)
    assert torch.allclose(sd.Probe(net, "kept")(x), expected, atol=1e-6)
    assert torch.allclose(sd.Probe(net, "pair")(x), expected, atol=1e-6)


def test_axis_that_cannot_be_told_is_refused_and_can_be_said():
    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Identity()

        def forward(self, x):
            a = self.map((x.transpose(1, 2) @ x).softmax(-1))  # from every point to every point
            return a.mean(1)[:, :2]

    net = Map()
    x = series()
    with pytest.raises(ValueError, match=r"axes \[1, 2\] all change with the length.*axis=1"):
        sd.Probe(net, "map")(x)
    a = given(net, "map", x)
    assert torch.allclose(sd.Probe(net, "map", axis=1)(x), a.mean(1))
    assert torch.equal(sd.Probe(net, "map", axis=-1, pool="max")(x), a.amax(2))
    assert torch.equal(sd.Probe(net, "map", axis=None)(x), a.flatten(1))


def test_axis_of_merged_series_is_refused():
    class Merged(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.Linear(1, 7)

        def forward(self, x):
            return self.rows(x.reshape(-1, 1)).reshape(len(x), -1, 7).mean(1)

    with pytest.raises(ValueError, match="no single axis counts the series"):
        sd.Probe(Merged(), "rows")(series())


def test_axis_mixed_points_of_one_length_are_refused():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(T, T)
            self.wide = nn.Conv1d(1, 8, 1)

        def forward(self, x):
            return self.mix(self.wide(x)).mean(1)[:, :2]

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="axis=None keeps every number"):
        sd.Probe(Mixed(), "mix")(series())


@pytest.mark.parametrize("pool", ["mean", "max", "last", "own"])
def test_axis_pools(pool):
    net = Recurrent(nn.GRU)
    x = series()
    a = given(net, "rnn", x)[0]
    expected = {"mean": a.mean(1), "max": a.amax(1), "last": a[:, -1], "own": a.std(1)}[pool]
    how = (lambda v: v.std(-1)) if pool == "own" else pool
    for probe in (sd.Probe(net, "rnn", pool=how), sd.Probe(net, Layer("rnn", 1, how))):
        assert torch.allclose(probe(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    "how, message",
    [
        ({"axis": True}, "give the index"),
        ({"axis": 1.0}, "give the index"),
        ({"axis": "time"}, "give the index"),
        ({"axis": 7}, "axes 0 to 2"),
        ({"pool": "median"}, "mean, max, last"),
        ({"pool": None}, "mean, max, last"),
        ({"pool": lambda a: 3}, "is expected"),
    ],
)
def test_axis_and_pool_are_checked(how, message):
    with pytest.raises(ValueError, match=message):
        sd.Probe(Recurrent(), "rnn", **how)(series())


@pytest.mark.parametrize("shape", ["points", "one"])
def test_axis_at_the_output_is_refused(shape):
    class PerStep(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(1, 8, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            a = self.head(self.rnn(x.transpose(1, 2))[0])
            return a if shape == "points" else a[:, -1:]

    with pytest.raises(ValueError, match=r"out\[:, -1\]|out.squeeze\(1\)"):
        sd.Probe(PerStep())(series())


def test_axis_is_found_once_and_leaves_the_model_and_chance_alone():
    net = Recurrent().train()
    before = weights_hash(net)
    runs = []
    net.rnn.register_forward_hook(lambda *_: runs.append(1))
    probe = sd.Probe(net, "rnn")
    chance = torch.random.get_rng_state()
    probe(series())
    asked = len(runs)
    probe(series(n=3))
    assert len(runs) == asked + 1
    assert torch.equal(chance, torch.random.get_rng_state())
    assert net.training
    assert weights_hash(net) == before
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert len(net.rnn._forward_hooks) == 1
    assert probe.axes == Axes(0, (1,))


def test_axis_does_not_depend_on_the_series_asked():
    net = Transformer()
    found = set()
    for x in (series(1), torch.zeros(3, 1, T), 1e4 * series(T)):
        probe = sd.Probe(net, "block")
        probe(x)
        found.add(probe.axes)
    assert found == {Axes(0, (1,))}


def test_axis_of_a_layer_that_runs_once_per_series():
    class OneByOne(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 4, 3)
            self.all = nn.Identity()

        def forward(self, x):
            return self.all(torch.cat([self.conv(row[None]).mean(-1) for row in x]))

    net = OneByOne()
    assert torch.allclose(sd.Probe(net, "all")(series()), net(series()))
    with pytest.raises(ValueError, match="no single axis counts the series"):
        sd.Probe(net, "conv")(series())


class Tokens(nn.Module):
    "Patches of four points as tokens, one length only; small enough to train in seconds."

    def __init__(self, points=48):
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.place = nn.Parameter(0.3 * torch.randn(points // 4, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        tokens = self.embed(x[:, 0].unflatten(1, (-1, 4))) + self.place
        return self.head(self.block(tokens).mean(1))


@pytest.fixture(scope="module")
def taught():
    "A transformer that tells two pitches apart, its series and their classes."
    g = torch.Generator().manual_seed(0)
    y = torch.arange(80) % 2
    t = torch.linspace(0, 1, 48)
    hum = torch.sin(6.28 * ((3 + 3 * y[:, None]) * t + torch.rand(80, 1, generator=g)))
    X = (hum + 0.3 * torch.randn(80, 48, generator=g))[:, None]
    torch.manual_seed(0)
    net = Tokens()
    sd.fit(net, (X, y), epochs=12, progress=False, lr=1e-2, validation=0.0)
    return net, X, y


def test_axis_dream_of_a_hidden_transformer_layer_raises_what_it_claims(taught):
    net, X, y = taught

    def inside(x):
        "Tokens averaged, and margins, by a forward pass of this file."
        return given(net, "block", x).mean(1), net(x).detach() @ torch.tensor([-1.0, 1.0])

    ref = sd.Reference.from_data(net, X, y, layer="block")
    a = inside(X)[0]
    assert torch.allclose(ref.activations, a, atol=1e-5)
    start = X[y == 0][:4]
    d = sd.sequence_dreaming(net, ref, 1, n=4, start=start, progress=False)
    assert torch.allclose(d.activations, inside(d.x)[0], atol=1e-4)
    along = a[y == 1].mean(0) - a.mean(0)

    def place(x):
        return (inside(x)[0] - a.mean(0)) @ along / (along @ along)

    claimed = sd.evaluate(d, ref)["score_ratio"].to_numpy()
    assert torch.allclose(place(d.x), torch.tensor(claimed, dtype=torch.float32), atol=1e-2)
    assert (place(d.x) > place(start) + 1).all()
    assert (inside(d.x)[1] > inside(start)[1] + 1).all()
    assert (inside(d.x)[1] > inside(X[y == 1])[1].mean()).all()


@pytest.mark.parametrize("how", [{"axis": 2}, {"pool": "max"}, {"axis": 1, "pool": "last"}])
def test_axis_said_travels_with_the_reference(taught, how, tmp_path):
    net, X, y = taught
    expected = given(net, "block", X)
    expected = expected.movedim(how.get("axis", 1), -1)
    expected = {"mean": expected.mean(-1), "max": expected.amax(-1), "last": expected[..., -1]}[
        how.get("pool", "mean")
    ]
    ref = sd.Reference.from_data(net, X, y, layer="block", **how)
    assert torch.allclose(ref.activations, expected, atol=1e-5)
    ref.save(tmp_path / "ref.safetensors")
    again = sd.Reference.load(tmp_path / "ref.safetensors")
    d = sd.sequence_dreaming(net, again, 1, n=2, steps=3, start=X[:2], progress=False)
    alone = sd.Probe(net, "block", **how)(d.x)
    assert torch.allclose(d.activations, alone.detach(), atol=1e-4)
    assert len(sd.evaluate(d, again)) == 2
    g = sd.grounded_dreaming(net, again, 1, n=2, steps=3, progress=False)
    alone = sd.Probe(net, "block", **how)(g.x)
    assert torch.allclose(g.activations, alone.detach(), atol=1e-4)


def test_axis_said_needs_a_layer_and_a_pool_that_a_file_can_keep(taught, tmp_path):
    net, X, y = taught
    ref = sd.Reference.from_data(net, X, y, layer="block", pool=lambda a: a.std(-1))
    with pytest.raises(ValueError, match="a function cannot be kept"):
        ref.save(tmp_path / "ref.safetensors")
