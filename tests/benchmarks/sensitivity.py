"""Does a dream arrive wherever in Table 1 its knobs stand? Notebook 40_methods shows it.

    python tests/benchmarks/sensitivity.py [--models NAME ...]

One knob at a time over its range of Table 1, all others at their defaults, with the model's own
step (`lr=None`) and with the paper's fixed one (`lr=5.`): the share of dreams that arrives. To the
far border from the real series nearest to the class mean, to the centre from series of the other
classes. What is finished is in the file: a second call goes on.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch

import seqdream as sd
from seqdream.files import write_whole
from seqdream.models import ResNet

FILE = Path(__file__).with_suffix(".json")
LEVELS = {  # within Table 1
    "alpha": (4.0, 5.0, 6.0),
    "beta": (1.0, 1.5, 2.0),
    "sigma": (3.0, 4.0, 5.0, 6.0),
    "lambda_alpha": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "lambda_beta": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "lambda_sm": (0.1, 0.3, 0.5),
}
STEPS = {"own": None, "fixed": 5.0}  # name -> lr
STARTS = {"max": "mean", "centre": "other"}  # region -> where dreams begin
MODELS = {  # name -> (data set, preset, dreams of each class and setting)
    "FordA paper": ("FordA", "paper", 4),
    "FordA wang": ("FordA", "wang", 2),
    "GunPoint paper": ("GunPoint", "paper", 4),
    "ECG5000 paper": ("ECG5000", "paper", 4),
}
CLASSES = 3  # of a data set, the first ones
EPOCHS = 30  # of the models that are not bundled


def model_of(name, preset) -> tuple:
    "The model and its reference; trained here where it is not bundled."
    if (name, preset) in sd.pretrained_models():
        return sd.load_pretrained(name, preset)
    data = sd.load_dataset(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNet.preset(preset, data.n_channels, data.n_classes)
    sd.fit(model, data, EPOCHS, progress=False)
    ref = sd.Reference.from_data(model, data.X_train, data.y_train, classes=data.classes)
    return model, ref


def sweep(model, ref, region, step, n) -> dict:
    "Knob -> share that arrives and median steps at each of its levels, all classes together."
    knobs = [(knob, level) for knob, levels in LEVELS.items() for level in levels]
    arrived = np.zeros(len(knobs))
    classes = range(min(CLASSES, ref.n_classes))
    for c in classes:
        numbers = {
            knob: torch.tensor([v if k == knob else default for k, v in knobs])
            for knob, default in defaults().items()
        }
        each = {knob: v.repeat_interleave(n) for knob, v in numbers.items()}
        start = sd.starting_series(ref, c, STARTS[region], n).repeat(len(knobs), 1, 1)
        d = sd.sequence_dreaming(model, ref, c, region, start=start, lr=STEPS[step], **each)
        there = np.array([status in ("arrived", "unmoved") for status in d.status])
        arrived += there.reshape(len(knobs), n).mean(1) / len(classes)
    found = {}
    for (knob, _), share in zip(knobs, arrived, strict=True):
        found.setdefault(knob, []).append(round(float(share), 3))
    return found


def defaults() -> dict:
    "The recipe's own number of each knob."
    return {knob: sd.grid.DEFAULTS[knob] for knob in LEVELS}


def main() -> None:
    "See the top of this file."
    told = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    told.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    found["levels"] = {knob: list(levels) for knob, levels in LEVELS.items()}
    shares = found.setdefault("arrived", {})
    for name in told.parse_args().models:
        model, ref = model_of(*MODELS[name][:2])
        for region in STARTS:
            for step in STEPS:
                key = f"{name}, {region}, {step}"
                if key in shares:
                    continue
                shares[key] = sweep(model, ref, region, step, MODELS[name][2])
                text = json.dumps(found, indent=1) + "\n"
                write_whole(FILE, partial(Path.write_text, data=text))
                print(key, shares[key], flush=True)


if __name__ == "__main__":
    main()
