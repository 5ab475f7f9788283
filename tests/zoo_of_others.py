"""Classifiers that other people published, as they come: does each get in, and is it told true?

Run `python tests/zoo_of_others.py [NAME ...] [--out FILE]` in an environment with the packages of
the extra `others`. A row whose package is not installed is skipped by name.

For each classifier: trained a little by `fit`, `Reference.from_data`, dreams. What the reference
holds is compared with the logits that the package's own documentation defines, taken by hand.
"""

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import seqdream as sd
from seqdream.activations import Probe
from seqdream.borrowing import borrowed
from seqdream.engine import Engine
from seqdream.guests import inspect_model

CLASSES = 3
OUTCOMES = ("worked", "worked with the line named", "refused", "WRONG", "traceback")
TABLE = Path(__file__).with_suffix(".json")  # the last whole run, which the documentation shows


@dataclass(frozen=True)
class Row:
    "A classifier: how it is built, and what its package says it takes and gives."

    package: str  # as it is imported
    name: str
    make: Callable[[int, int, int], nn.Module]  # of channels, points and classes
    takes: str = "series"  # a key of `TAKES`
    gives: str = "tensor"  # a key of `GIVES`
    channels: int = 2
    points: int = 128
    line: Callable[[nn.Module], nn.Module] | None = None  # what an error tells the user to write
    classes: int = CLASSES
    epochs: int = 4  # of training: enough to be better than chance
    trained: str = "fit"  # by `seqdream.fit`, or "hand": in the layout that its package says

    @property
    def installed(self) -> bool:
        "Is its package there?"
        return importlib.util.find_spec(self.package) is not None


TAKES = {  # of series (n, channels, points)
    "series": lambda x: x,
    "points first": lambda x: x.transpose(1, 2),
    "image": lambda x: x[:, None],
    "waveform": lambda x: x[:, 0],
}
GIVES = {
    "tensor": lambda out: out,
    "logits": lambda out: out.logits,
    "prediction_logits": lambda out: out.prediction_logits,
    "prediction_outputs": lambda out: out.prediction_outputs,
    "first of a tuple": lambda out: out[0],
    "second of a tuple": lambda out: out[1],
    "crops": lambda out: out.mean(2),
    "single": lambda out: torch.stack([-out.reshape(-1), out.reshape(-1)], 1) / 2,
}


def by_hand(row: Row, model: nn.Module, x: Tensor) -> Tensor:
    "Logits as the package's documentation defines them, in evaluation mode, (n, classes)."
    modes = [(m, m.training) for m in model.modules()]
    with torch.no_grad():
        a = GIVES[row.gives](model.eval()(TAKES[row.takes](x)))
    for m, training in modes:
        m.training = training
    return a


def planted(row: Row, n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    "Series whose classes are hums of different pitch, in noise."
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % row.classes
    t = torch.linspace(0, 1, row.points)
    phase = 6.28 * torch.rand(n, row.channels, 1, generator=g)
    hum = torch.sin(6.28 * 6 * (1 + y[:, None, None]) * t + phase)
    return hum + 0.5 * torch.randn(n, row.channels, row.points, generator=g), y


def state(model: nn.Module) -> dict:
    "Everything about a model that must be as before."
    return {
        "weights": {k: v.detach().clone() for k, v in model.state_dict().items()},
        "modes": [m.training for m in model.modules()],
        "needed": [p.requires_grad for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "kinds": [(p.dtype, p.device) for p in model.parameters()],
    }


def same(a: object, b: object) -> bool:
    "Are two states the same?"
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def close(a: Tensor, b: Tensor) -> bool:
    "The same numbers, up to rounding?"
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def wrong(row: Row, guest: nn.Module, model: nn.Module, X: Tensor, y: Tensor) -> list[str]:
    "Reference and dreams of a model; what about them is not true."
    found = []
    before = state(model)
    ref = sd.Reference.from_data(guest, X, y)
    if not close(ref.activations, by_hand(row, model, X)):
        found.append("the reference holds other numbers than the model's logits")
    start = X[y != 1][:4]
    walk = {"steps": 5, "start": start, "progress": False}
    d = sd.sequence_dreaming(guest, ref, 1, n=4, **walk)
    up = sd.gradient_ascent(guest, ref, 1, n=4, regularisers=(), lr=0.05, **walk)
    for dreams in (d, up):
        if not close(dreams.activations, by_hand(row, model, dreams.x)):
            found.append(f"{dreams.settings['method']} claims activations that the model denies")
    if risen(row, model, up.x, start) < 0:
        found.append("ascent lowers the score")
    found += uphill(row, guest, model, start)
    if not same(before, state(model)):
        found.append("the model was not handed back as it was")
    return found


def risen(row: Row, model: nn.Module, x: Tensor, start: Tensor) -> float:
    "By how much of its size the score of class 1 rises, asked by hand; rounding counts as 0."
    before = by_hand(row, model, start)
    gain = float((by_hand(row, model, x) - before)[:, 1].mean())
    return gain if abs(gain) > 1e-5 * float(before.abs().max()) else 0.0


def uphill(row: Row, guest: nn.Module, model: nn.Module, start: Tensor) -> list[str]:
    "Does a small step along the gradient that the library gives raise the model's own score?"
    z = start.clone().requires_grad_()
    a = Probe(inspect_model(guest, start, row.classes))(z)
    slope = torch.autograd.grad(a[:, 1].sum(), z)[0]
    size = slope.square().mean((1, 2), keepdim=True).sqrt()
    if float(size.min()) == 0:
        return ["the gradient is zero"]
    gains = [risen(row, model, start + step * slope / size, start) for step in (0.1, 0.01, 0.001)]
    return [] if max(gains) > 0 else ["a step along the gradient does not raise the score"]


def is_refusal(error: Exception) -> bool:
    "One of the errors that this library raises on purpose, from its own code?"
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    own = Path(sd.__file__).parent
    return isinstance(error, (ValueError, TypeError)) and own in Path(last).parents


def trained_by_hand(row: Row, model: nn.Module, X: Tensor, y: Tensor) -> None:
    "A plain loop that asks the model as its package says."
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    g = torch.Generator().manual_seed(0)
    for _ in range(row.epochs):
        for batch in torch.randperm(len(X), generator=g).split(20):
            a = GIVES[row.gives](model(TAKES[row.takes](X[batch])))
            optimizer.zero_grad()
            nn.functional.cross_entropy(a, y[batch]).backward()
            optimizer.step()


def attempt(row: Row, guest: nn.Module, model: nn.Module) -> dict:
    "Train, refer, dream: outcome and what there is to say."
    X, y = planted(row)
    data = sd.Dataset.from_arrays(X, y)
    try:
        how = {"epochs": row.epochs, "lr": 3e-3, "batch_size": 20, "validation": 0.0}
        X = data.X_train
        if row.trained == "hand":
            trained_by_hand(row, model, X, data.y_train)
        else:
            sd.fit(guest, data, progress=False, keep="last", **how)
        problems = wrong(row, guest, model, X, data.y_train)
    except Exception as e:
        kind = "refused" if is_refusal(e) else "traceback"
        return {"outcome": kind, "why": f"{type(e).__name__}: {str(e).splitlines()[0][:300]}"}
    return {"outcome": "WRONG" if problems else "worked", "why": "; ".join(problems)}


def once(row: Row, model: nn.Module, x: Tensor) -> float:
    "Seconds of an answer and its gradient, the model frozen and asked as its package says."
    begin = time.perf_counter()
    z = x.clone().requires_grad_()
    a = GIVES[row.gives](model(TAKES[row.takes](z.clone())))  # some write into what they take
    torch.autograd.grad(a[:, 1].sum(), z)
    return time.perf_counter() - begin


def speed(row: Row, guest: nn.Module, model: nn.Module, repeats: int = 7) -> dict:
    "The engine's set-up, and its step over a plain frozen batch's, in turns; 8 series."
    x = planted(row)[0][:8]
    plain = []
    quick = []
    with borrowed(guest):
        set_up = []
        for _ in range(2):
            begin = time.perf_counter()
            engine = Engine(Probe(guest), x)
            set_up.append(time.perf_counter() - begin)
        for _ in range(repeats):
            plain.append(once(row, model, x))
            begin = time.perf_counter()
            z = x.clone().requires_grad_()
            torch.autograd.grad(engine(z)[:, 1].sum(), z)
            quick.append(time.perf_counter() - begin)
    return {
        "set_up_ms": round(1000 * min(set_up), 1),
        "plain_ms": round(1000 * statistics.median(plain), 2),
        "ratio": round(statistics.median(quick) / statistics.median(plain), 2),
    }


def examine(row: Row, timed: bool = True) -> dict:
    "A row of the table."
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = row.make(row.channels, row.points, row.classes).eval()
        by_hand(row, model, planted(row)[0][:2])  # the row itself must be right
        model.train()
        found = attempt(row, model, model)
        if found["outcome"] == "refused" and row.line is not None:
            again = attempt(row, row.line(model), model)
            if again["outcome"] == "worked":
                found = {"outcome": OUTCOMES[1], "why": found["why"]}
            elif again["outcome"] != "refused":
                found = again
        if timed and found["outcome"].startswith("worked"):
            guest = model if found["outcome"] == "worked" else row.line(model)
            guest = inspect_model(guest, planted(row)[0], row.classes)
            found |= speed(row, guest, model) | {"load": round(os.getloadavg()[0], 1)}
    size = sum(p.numel() for p in model.parameters())
    how = {"epochs": row.epochs, "trained": row.trained}
    return {"package": row.package, "name": row.name, "weights": size, **how, **found}


def part(module: str, name: str, **more) -> Callable[[int, int, int], nn.Module]:
    "A builder of a tsai model: channels, classes, length."

    def make(channels: int, points: int, classes: int) -> nn.Module:
        kind = getattr(importlib.import_module(module), name)
        return kind(channels, classes, seq_len=points, **more)

    return make


def without_length(module: str, name: str, **more) -> Callable[[int, int, int], nn.Module]:
    "A builder of a tsai model that takes any length."

    def make(channels: int, points: int, classes: int) -> nn.Module:
        return getattr(importlib.import_module(module), name)(channels, classes, **more)

    return make


def brain(name: str, sfreq: float = 128.0, **more) -> Callable[[int, int, int], nn.Module]:
    "A builder of a braindecode model."

    def make(channels: int, points: int, classes: int) -> nn.Module:
        kind = getattr(importlib.import_module("braindecode.models"), name)
        said = {"n_chans": channels, "n_outputs": classes, "n_times": points, "sfreq": sfreq}
        return kind(**said, **more)

    return make


def hugging(name: str, **config) -> Callable[[int, int, int], nn.Module]:
    "A builder of a time series classifier of transformers."

    def make(channels: int, points: int, classes: int) -> nn.Module:
        package = importlib.import_module("transformers")
        made = getattr(package, name + "Config")(
            num_input_channels=channels, context_length=points, num_targets=classes, **config
        )
        end = "ForClassification" if name == "PatchTST" else "ForTimeSeriesClassification"
        return getattr(package, name + end)(made)

    return make


def waveform(name: str) -> Callable[[int, int, int], nn.Module]:
    "A builder of a small classifier of waveforms of transformers."

    def make(channels: int, points: int, classes: int) -> nn.Module:
        package = importlib.import_module("transformers")
        made = getattr(package, name + "Config")(
            num_labels=classes,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            conv_dim=(32, 32),
            conv_kernel=(5, 3),
            conv_stride=(2, 2),
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            classifier_proj_size=32,
        )
        return getattr(package, name + "ForSequenceClassification")(made)

    return make


def spectrogram(channels: int, points: int, classes: int) -> nn.Module:
    "The audio spectrogram transformer, small; it takes (n, points, bins), but runs on both."
    package = importlib.import_module("transformers")
    config = package.ASTConfig(
        num_labels=classes,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_length=points,
        num_mel_bins=channels,
    )
    return package.ASTForAudioClassification(config)


def heart(cnn: str) -> Callable[[int, int, int], nn.Module]:
    "A builder of a torch_ecg network with one of its convolutional bodies."

    def make(channels: int, points: int, classes: int) -> nn.Module:
        models = importlib.import_module("torch_ecg.models")
        configs = importlib.import_module("torch_ecg.model_configs")
        config = configs.ECG_CRNN_CONFIG
        config.cnn.name = cnn
        return models.ECG_CRNN([f"c{i}" for i in range(classes)], channels, config)

    return make


class Convolved(nn.Module):
    "pytorch-tcn's network with a linear head on its last point."

    def __init__(self, channels: int, classes: int, **more):
        super().__init__()
        tcn = importlib.import_module("pytorch_tcn").TCN
        self.tcn = tcn(channels, [16, 16, 16], **more)
        self.head = nn.Linear(16, classes)
        self.last = more.get("input_shape") == "NLC"

    def forward(self, x: Tensor) -> Tensor:
        a = self.tcn(x)
        return self.head(a[:, -1] if self.last else a[:, :, -1])


def tcn(channels: int, points: int, classes: int) -> nn.Module:
    "Channels first, as its default is."
    return Convolved(channels, classes)


def tcn_last(channels: int, points: int, classes: int) -> nn.Module:
    "Channels last."
    return Convolved(channels, classes, input_shape="NLC")


class Averaged(nn.Module):
    "The mean over the crops, as the refusal of a network that scores each crop names it."

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).mean(2)


def turned(model: nn.Module) -> nn.Module:
    "The line that the refusal of a network of points-first series names."
    return sd.Adapter(model, channels_last=True)


def turned_and_named(model: nn.Module) -> nn.Module:
    "The same where the answer has several parts."
    return sd.Adapter(model, output="prediction_outputs", channels_last=True)


def tsai_rows() -> list[Row]:
    "The classifiers of tsai; all take (n, channels, points)."
    sized = {
        "MLP": "MLP",
        "InceptionTime": "InceptionTime",
        "InceptionTimePlus": "InceptionTimePlus",
        "LSTM_FCN": "RNN_FCN",
        "GRU_FCN": "RNN_FCN",
        "MLSTM_FCN": "RNN_FCN",
        "LSTM_FCNPlus": "RNN_FCNPlus",
        "TST": "TST",
        "TSTPlus": "TSTPlus",
        "TSiTPlus": "TSiTPlus",
        "TSSequencerPlus": "TSSequencerPlus",
        "TSPerceiver": "TSPerceiver",
        "XCM": "XCM",
        "XCMPlus": "XCMPlus",
        "mWDN": "mWDN",
        "gMLP": "gMLP",
        "ConvTranPlus": "ConvTranPlus",
        "TransformerRNNPlus": "TransformerRNNPlus",
        "TransformerLSTMPlus": "TransformerRNNPlus",
        "OmniScaleCNN": "OmniScaleCNN",
        "HydraPlus": "HydraPlus",
        "LSTMAttention": "RNNAttention",
        "GRUAttention": "RNNAttention",
    }
    free = {
        "FCN": "FCN",
        "FCNPlus": "FCNPlus",
        "ResNet": "ResNet",
        "ResNetPlus": "ResNetPlus",
        "ResCNN": "ResCNN",
        "xresnet1d18": "XResNet1d",
        "XceptionTime": "XceptionTime",
        "LSTM": "RNN",
        "GRU": "RNN",
        "LSTMPlus": "RNNPlus",
        "TCN": "TCN",
        "TransformerModel": "TransformerModel",
    }
    rows = [Row("tsai", name, part(f"tsai.models.{at}", name)) for name, at in sized.items()]
    for name, at in free.items():
        rows.append(Row("tsai", name, without_length(f"tsai.models.{at}", name)))
    return rows


def brain_rows() -> list[Row]:
    "Classifiers of braindecode; all take (n, channels, points)."
    names = (
        "EEGNet",
        "ShallowFBCSPNet",
        "Deep4Net",
        "TIDNet",
        "EEGNeX",
        "EEGConformer",
        "EEGInceptionERP",
        "EEGInceptionMI",
        "EEGITNet",
        "EEGSimpleConv",
        "EEGTCNet",
        "ATCNet",
        "AttentionBaseNet",
        "BDTCN",
        "BIOT",
        "CTNet",
        "ContraWR",
        "IFNet",
        "MSVTNet",
        "SCCNet",
        "SPARCNet",
        "SincShallowNet",
        "SleepStagerChambon2018",
        "SleepStagerBlanco2020",
        "SyncNet",
        "TCFormer",
        "FBCNet",
        "MEDFormer",
    )
    rows = [Row("braindecode", name, brain(name), channels=8, points=512) for name in names]
    dense = {"channels": 8, "points": 1000, "gives": "crops", "line": Averaged}
    return [*rows, Row("braindecode", "HybridNet", brain("HybridNet"), **dense)]


def other_rows() -> list[Row]:
    "Classifiers of the other packages."
    first = {"takes": "points first", "line": turned}
    wav = {"takes": "waveform", "gives": "logits", "channels": 1, "points": 400}
    ecg = {"channels": 4, "points": 1000}
    return [
        Row(
            "transformers",
            "PatchTST",
            hugging("PatchTST"),
            gives="prediction_logits",
            **first,
            epochs=30,
        ),
        Row(
            "transformers",
            "PatchTSMixer",
            hugging("PatchTSMixer"),
            gives="prediction_outputs",
            takes="points first",
            line=turned_and_named,
            epochs=60,
        ),
        Row("transformers", "Wav2Vec2", waveform("Wav2Vec2"), **wav),
        Row("transformers", "Hubert", waveform("Hubert"), **wav),
        Row("transformers", "WavLM", waveform("WavLM"), **wav),
        Row(
            "transformers",
            "AST",
            spectrogram,
            gives="logits",
            **first,
            channels=32,
            epochs=40,
            trained="hand",
        ),
        Row("torch_ecg", "ECG_CRNN resnet", heart("resnet_nature_comm"), **ecg),
        Row("torch_ecg", "ECG_CRNN multi_scopic", heart("multi_scopic"), **ecg),
        Row("torch_ecg", "ECG_CRNN resnet_nature_comm_se", heart("resnet_nature_comm_se"), **ecg),
        Row("pytorch_tcn", "TCN", tcn),
        Row("pytorch_tcn", "TCN, points first", tcn_last, **first, epochs=40),
    ]


ROWS = [*other_rows(), *brain_rows(), *tsai_rows()]


def shown(found: dict) -> str:
    "A line of the table."
    cost = f"{found['ratio']:5.2f} x {found['set_up_ms']:6.1f} ms" if "ratio" in found else " " * 17
    said = f"{found['package']:13} {found['name']:24} {found['weights']:10,} {found['outcome']:27}"
    return f"{said} {cost} {found['why'][:200]}"


def main() -> None:
    "The table, printed and written."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="rows to run; none: all")
    parser.add_argument("--out", help="JSON file; with all rows, without this: beside this file")
    parser.add_argument("--no-speed", action="store_true", help="leave the timings out")
    said = parser.parse_args()
    table = []
    out = said.out or (None if said.names else TABLE)
    for row in ROWS:
        if said.names and row.name not in said.names:
            continue
        if not row.installed:
            print(f"{row.package:13} {row.name:24} skipped: not installed")
            continue
        try:
            found = examine(row, timed=not said.no_speed)
        except Exception as e:  # the package itself fails: no row of ours
            print(f"{row.package:13} {row.name:24} cannot be built: {type(e).__name__}: {e}"[:300])
            continue
        table.append(found)
        print(shown(found), flush=True)
        if out:  # after each row: a run that is ended leaves what it found
            Path(out).write_text(json.dumps(table, indent=1) + "\n")
    for outcome in OUTCOMES:
        print(f"{sum(f['outcome'] == outcome for f in table):3} {outcome}")


if __name__ == "__main__":
    main()
