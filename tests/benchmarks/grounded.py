"""Grounded dreams of FordA, counted: six models, both classes, eighty dreams each, twins and judges; notebook 82_grounded draws it.

    python tests/benchmarks/grounded.py [--models paper paper-1 ...] [--n 80] [--out grounded.json]

Also the six other data sets (--sets): does every method finish, and does grounded dreaming arrive at the smaller of 2.5 and 0.9 times what ascent without trust reaches?
"""
import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import numpy as np
import torch

import seqdream as sd
from seqdream.verdict import bootstrap_interval
from seqdream.models import write_whole
from seqdream.report import train_model

MODELS = ("paper", "paper-1", "paper-2", "paper-3", "paper-4", "wang")
SETS = ("ArrowHead", "GunPoint", "ItalyPowerDemand", "ACSF1", "BasicMotions", "Plane")


def middle(v):
    "Median and its bootstrap interval."
    v = np.asarray(v, dtype=float)
    return [float(np.median(v)), *bootstrap_interval(v)]


def in_band(d, ref, c) -> float:
    "Share of the frequencies at which the median power of the dreams lies in the class's 5 to 95 % band."
    power = np.median(np.abs(np.fft.rfft(d.x.numpy())) ** 2 / d.x.shape[-1], axis=0)[:, 1:]
    low, _, high = ref.bands["spectrum"][c][..., 1:]
    return float(((power >= low) & (power <= high)).mean())


def measures(d, ref, c) -> dict:
    e, top = sd.evaluate(d, ref), float(ref.activations[ref.y == c][:, c].max())
    return {"n": len(d), "status": {s: d.status.count(s) for s in set(d.status)}, "score_ratio": middle(e["score_ratio"]), "over_highest_real": middle(e["score"] / top), "lowest_over_highest_real": float((e["score"] / top).min()),
            **{k: middle(e[f"{k}_percentile"]) for k in ("activation_distance", "time_distance_inverse", "time_distance_range", "time_distance_ledoit_wolf")}, "scale": middle(e["scale"]), "offset": middle(e["offset"]),
            "spectrum_in_band": in_band(d, ref, c), "modes": int(len(np.unique(sd.distinct_modes(d.x)))), "start_correlation": middle([np.corrcoef(a, b)[0, 1] for a, b in zip(d.x.flatten(1), d.start.flatten(1))])}


def said(v) -> dict:
    return {"table": v.table.reset_index().to_dict("records"), "shares": v.shares, "kept": v.kept}


def forda(name, n, judges, steps) -> dict:
    model, ref = sd.load_pretrained("FordA", name)
    found = {}
    for c in (0, 1):
        began = time.perf_counter()
        centre = sd.grounded_dreaming(model, ref, c, "centre", n=n)
        found[f"centre {c}"] = measures(centre, ref, c)
        for start in ("mean", "other"):
            d = sd.grounded_dreaming(model, ref, c, "beyond", n=n, start=start, steps=steps)
            found[f"beyond {c} {start}"] = measures(d, ref, c) | {"verdict": said(sd.verdict(d, model, ref, judges))}
            print(name, c, start, f"{time.perf_counter() - began:.0f} s", found[f"beyond {c} {start}"]["over_highest_real"], found[f"beyond {c} {start}"]["verdict"]["sentence"], flush=True)
    return found


def elsewhere(name) -> dict:
    data = sd.load_dataset(name)
    model, card, _ = train_model(data, "paper", 60, 0, progress=False)
    ref = sd.Reference.from_data(model, data.X_train, data.y_train, holdout=(data.X_test, data.y_test), classes=data.classes, name=name)
    found = {"test_accuracy": card["test_accuracy"], "classes": {}}
    for c in range(min(ref.n_classes, 4)):
        n = min(8, int((ref.y == c).sum()))
        finished = {m: len(recipe(model, ref, c, n=n)) == n for m, recipe in sd.METHODS.items()}
        free = sd.gradient_ascent(model, ref, c, n=n, regularisers=(), steps=100, lr=.05)
        d = sd.grounded_dreaming(model, ref, c, "max", n=n)
        ratio = lambda d: float((d.activations[:, c] / ref.means[c, c]).median())
        found["classes"][c] = {"finished": finished, "grounded": ratio(d), "ascent": ratio(free), "status": {s: d.status.count(s) for s in set(d.status)}, "percentile": float(np.median(ref.percentile(d.x, c))), "largest_percentile": float(ref.percentile(d.x, c).max())}
    print(name, found, flush=True)
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", nargs="*", default=MODELS); p.add_argument("--sets", nargs="*", default=SETS); p.add_argument("--n", type=int, default=80); p.add_argument("--steps", type=int, default=200); p.add_argument("--out", default="grounded.json")
    a = p.parse_args()
    torch.set_num_threads(1)
    judges = sd.load_judges("FordA")
    found = {"command": "python tests/benchmarks/grounded.py", "n": a.n, "steps": a.steps, "judges": {j.name: j.accuracy for j in judges}, "forda": {}, "sets": {}}
    keep = lambda: write_whole(Path(a.out).resolve(), lambda f: f.write_text(json.dumps(found, indent=1) + "\n"))
    for name in a.models: found["forda"][name] = forda(name, a.n, judges, a.steps); keep()
    for name in a.sets: found["sets"][name] = elsewhere(name); keep()


if __name__ == "__main__": main()
