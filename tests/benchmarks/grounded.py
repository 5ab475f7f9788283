"""Grounded dreams of FordA, counted; notebook 82_grounded draws it.

    python tests/benchmarks/grounded.py [--models paper paper-1 ...] [--n 80] [--out grounded.json]

Six models, both classes, eighty dreams each, twins and judges. Also the six other data sets
(--sets): does every method finish, and does grounded dreaming arrive at the smaller of 2.5 and 0.9
times what ascent without trust reaches?
"""

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import numpy as np
import torch

import seqdream as sd
from seqdream.files import write_whole
from seqdream.report import train_model
from seqdream.verdict import bootstrap_interval

MODELS = ("paper", "paper-1", "paper-2", "paper-3", "paper-4", "wang")
SETS = ("ArrowHead", "GunPoint", "ItalyPowerDemand", "ACSF1", "BasicMotions", "Plane")


DISTANCES = (
    "activation_distance",
    "time_distance_inverse",
    "time_distance_range",
    "time_distance_ledoit_wolf",
)


def middle(v):
    "Median and its bootstrap interval."
    v = np.asarray(v, dtype=float)
    return [float(np.median(v)), *bootstrap_interval(v)]


def in_band(d, ref, c) -> float:
    """Share of the frequencies at which the dreams' median power lies in the class's band.

    The band reaches from 5 to 95 % of the class's series.
    """
    power = np.abs(np.fft.rfft(d.x.numpy())) ** 2 / d.x.shape[-1]
    median = np.median(power, axis=0)[:, 1:]
    low, _, high = ref.bands["spectrum"][c][..., 1:]
    return float(((median >= low) & (median <= high)).mean())


def counted(status) -> dict:
    "How many rows of each status."
    return {s: status.count(s) for s in set(status)}


def measures(d, ref, c) -> dict:
    "What one set of dreams is like."
    e = sd.evaluate(d, ref)
    top = float(ref.activations[ref.y == c][:, c].max())
    pairs = zip(d.x.flatten(1), d.start.flatten(1))
    correlations = [np.corrcoef(dreamt, began)[0, 1] for dreamt, began in pairs]
    return {
        "n": len(d),
        "status": counted(d.status),
        "evaluations": middle(d.evaluations),
        "most_evaluations": int(d.evaluations.max()),
        "margin": middle(d.settings["multiple"]),
        "score_ratio": middle(e["score_ratio"]),
        "over_highest_real": middle(e["score"] / top),
        "lowest_over_highest_real": float((e["score"] / top).min()),
        **{k: middle(e[f"{k}_percentile"]) for k in DISTANCES},
        "scale": middle(e["scale"]),
        "offset": middle(e["offset"]),
        "spectrum_in_band": in_band(d, ref, c),
        "modes": int(len(np.unique(sd.distinct_modes(d.x)))),
        "start_correlation": middle(correlations),
    }


def said(v) -> dict:
    return {"table": v.table.reset_index().to_dict("records"), "shares": v.shares, "kept": v.kept}


def forda(name, n, judges, steps) -> dict:
    "One bundled model: its dreams of both classes and what the verdict says of them."
    model, ref = sd.load_pretrained("FordA", name)
    found = {}
    for c in (0, 1):
        began = time.perf_counter()
        centre = sd.grounded_dreaming(model, ref, c, "centre", n=n)
        found[f"centre {c}"] = measures(centre, ref, c)
        aimed = sd.grounded_dreaming(model, ref, c, "max", n=n)
        found[f"max {c}"] = measures(aimed, ref, c)
        for start in ("mean", "other"):
            d = sd.grounded_dreaming(model, ref, c, "beyond", n=n, start=start, steps=steps)
            verdict = sd.verdict(d, model, ref, judges)
            result = measures(d, ref, c) | {"verdict": said(verdict)}
            found[f"beyond {c} {start}"] = result
            seconds = f"{time.perf_counter() - began:.0f} s"
            print(name, c, start, seconds, result["over_highest_real"], verdict, flush=True)
    return found


def elsewhere(name) -> dict:
    "Another data set: which methods finish, and how far two of them come."
    data = sd.load_dataset(name)
    model, card, _ = train_model(data, "paper", 60, 0, progress=False)
    held = (data.X_test, data.y_test)
    names = dict(classes=data.classes, name=name)
    ref = sd.Reference.from_data(model, data.X_train, data.y_train, holdout=held, **names)

    def ratio(d, c):
        return float((d.activations[:, c] / ref.means[c, c]).median())

    found = {"test_accuracy": card["test_accuracy"], "classes": {}}
    for c in range(min(ref.n_classes, 4)):
        n = min(8, int((ref.y == c).sum()))
        finished = {m: len(recipe(model, ref, c, n=n)) == n for m, recipe in sd.METHODS.items()}
        free = sd.gradient_ascent(model, ref, c, n=n, regularisers=(), steps=100, lr=0.05)
        d = sd.grounded_dreaming(model, ref, c, "max", n=n)
        percentile = ref.percentile(d.x, c)
        found["classes"][c] = {
            "finished": finished,
            "grounded": ratio(d, c),
            "ascent": ratio(free, c),
            "status": counted(d.status),
            "evaluations": middle(d.evaluations),
            "percentile": float(np.median(percentile)),
            "largest_percentile": float(percentile.max()),
        }
    print(name, found, flush=True)
    return found


def main():
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    p.add_argument("--models", nargs="*", default=MODELS)
    p.add_argument("--sets", nargs="*", default=SETS)
    p.add_argument("--n", type=int, default=80)
    p.add_argument("--steps", type=int, default=57)
    p.add_argument("--out", default="grounded.json")
    a = p.parse_args()
    torch.set_num_threads(1)
    judges = sd.load_judges("FordA")
    found = {
        "command": "python tests/benchmarks/grounded.py",
        "n": a.n,
        "steps": a.steps,
        "judges": {j.name: j.accuracy for j in judges},
        "forda": {},
        "sets": {},
    }

    def keep():
        text = json.dumps(found, indent=1) + "\n"
        write_whole(Path(a.out).resolve(), partial(Path.write_text, data=text))

    for name in a.models:
        found["forda"][name] = forda(name, a.n, judges, a.steps)
        keep()
    for name in a.sets:
        found["sets"][name] = elsewhere(name)
        keep()


if __name__ == "__main__":
    main()
