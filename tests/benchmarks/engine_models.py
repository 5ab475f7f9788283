"""Is the engine ever slower than a plain frozen batch? Many models, one JSON.

    python tests/benchmarks/engine_models.py [--out engine_models.json] [--timepoints 500]

Notebook 30_engine draws it. For each model and 1, 8 and 64 rows, on one thread: the engine's answer
and gradient over `torch.autograd.grad` of the model in eval mode with frozen weights, float32, the
same rows at once. Ratios are medians over rounds in which both are timed in turn (the thread's own
processor time, so that neighbours on the machine do not count); set-up is the first and the second
call's, in milliseconds.
"""

import argparse
import json
import os
import platform
import statistics
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from torch import nn

import seqdream as sd
from seqdream.borrowing import borrowed
from seqdream.engine import Engine
from seqdream.files import write_whole
from seqdream.models import FCN, InceptionTime

ROWS = (1, 8, 64)
LIMIT = 1.1


def perceptron(timepoints: int, *widths: int) -> nn.Module:
    "Linear layers with ReLU between and dropout before, as tsai's MLP has them."
    layers = [nn.Flatten()]
    for n_in, n_out in zip((timepoints, *widths), widths):
        layers += [nn.Dropout(0.1), nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 2))


def convolutions(width: int, norm: bool) -> nn.Module:
    "Two convolutions, with or without batch norm."
    layers = []
    for n_in, kernel in ((1, 7), (width, 5)):
        layers += [nn.Conv1d(n_in, width, kernel, padding=kernel // 2)]
        layers += [nn.BatchNorm1d(width)] if norm else []
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 2))


class Recurrent(nn.Module):
    "The last state of an LSTM or a GRU."

    def __init__(self, kind: type):
        super().__init__()
        self.rnn = kind(1, 64, batch_first=True)
        self.head = nn.Linear(64, 2)

    def forward(self, x):
        return self.head(self.rnn(x.transpose(1, 2))[0][:, -1])


class Transformer(nn.Module):
    "Two encoder layers over patches of ten points."

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv1d(1, 64, 10, stride=10)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(64, 2)

    def forward(self, x):
        return self.head(self.encoder(self.patches(x).transpose(1, 2)).mean(1))


class LSTMFCN(nn.Module):
    "A recurrent and a convolutional branch, side by side."

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(1, 64, batch_first=True)
        self.fcn = FCN(1, 2)
        self.head = nn.Linear(64 + 128, 2)

    def forward(self, x):
        last = self.rnn(x.transpose(1, 2))[0][:, -1]
        return self.head(torch.cat([last, self.fcn.features(x)], dim=1))


def models(timepoints: int) -> dict:
    "Name -> a function that makes it."
    return {
        "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(timepoints, 2)),
        "perceptron, 32": partial(perceptron, timepoints, 32),
        "perceptron, 3 × 500": partial(perceptron, timepoints, 500, 500, 500),
        "2 convolutions": partial(convolutions, 8, False),
        "2 convolutions, batch norm": partial(convolutions, 8, True),
        "LSTM": partial(Recurrent, nn.LSTM),
        "GRU": partial(Recurrent, nn.GRU),
        "transformer": Transformer,
        "paper": partial(sd.ResNet.preset, "paper"),
        "wang": partial(sd.ResNet.preset, "wang"),
        "FCN": FCN,
        "InceptionTime": InceptionTime,
        "LSTM-FCN": LSTMFCN,
    }


def settled(make, timepoints: int) -> nn.Module:
    "A model whose batch norms have seen series, in eval mode."
    torch.manual_seed(0)
    model = make()
    model.train()
    with torch.no_grad():
        model(torch.randn(32, 1, timepoints))
    return model.eval()


def cost(f, repeat: int) -> float:
    "Seconds of this thread's processor time, the best of some runs."
    found = []
    for _ in range(repeat):
        began = time.thread_time()
        f()
        found.append(time.thread_time() - began)
    return min(found)


def compared(model: nn.Module, x: torch.Tensor, rounds: int) -> dict:
    "Engine over plain frozen batch, and what getting ready costs."

    def plain():
        z = x.clone().requires_grad_()
        torch.autograd.grad(model(z)[:, 1].sum(), z)

    with borrowed(model):
        set_up = []
        for _ in range(2):
            began = time.thread_time()
            engine = Engine(sd.Probe(model), x)
            set_up.append((time.thread_time() - began) * 1e3)
            engine.keep()
        engine = Engine(sd.Probe(model), x)
        everyone = torch.arange(len(x))

        def ours():
            for rows, some in engine.parts(everyone):
                z = (x.clone() if len(rows) == len(x) else x[some]).requires_grad_()
                torch.autograd.grad(engine(z, some)[:, 1].sum(), z)

        once = max(cost(plain, 1), cost(ours, 1), 1e-5)
        repeat = max(1, min(50, int(0.03 / once)))
        pairs = [(cost(ours, repeat), cost(plain, repeat)) for _ in range(rounds)]
    return {
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        "plain_ms": round(min(b for _, b in pairs) * 1e3, 3),
        "set_up_ms": round(set_up[0], 1),
        "again_ms": round(set_up[1], 1),
        "precision": engine.precision,
        "engine": engine.answers,
        "rows_at_once": engine.size,
    }


def main() -> None:
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=Path(__file__).with_name("engine_models.json"), type=Path)
    parser.add_argument("--timepoints", default=500, type=int)
    parser.add_argument("--rounds", default=7, type=int)
    told = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, make in models(told.timepoints).items():
        model = settled(make, told.timepoints)
        for n in ROWS:
            x = torch.randn(n, 1, told.timepoints)
            found.setdefault(name, {})[n] = compared(model, x, told.rounds)
            print(f"{name:28} {n:3} {found[name][n]}", flush=True)
    facts = {
        "timepoints": told.timepoints,
        "rounds": told.rounds,
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }
    text = json.dumps({"machine": facts, "models": found}, indent=1, ensure_ascii=False) + "\n"
    write_whole(told.out, lambda aside: aside.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
