"""Recommended ranges of Table 1's knobs, from data; notebook 81_speed shows them.

    python tests/benchmarks/guidance.py [--out guidance.json] [--root DIR]

A three-level search for FordA and five other sets. Models: the bundled one of preset `paper` for
FordA, 20 epochs of it elsewhere; the two largest classes of each set; both regions' far border.
"""

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

import seqdream as sd
from seqdream.files import write_whole
from seqdream.report import model_and_reference

SETS = ("FordA", "ItalyPowerDemand", "Chinatown", "Plane", "Computers", "Adiac")


def guidance(model, ref, c, levels) -> dict:
    "One class: what its search found, on unused starts, and what the defaults give."
    began = time.perf_counter()
    s = sd.grid_search(model, ref, c, "max", sd.paper_grid(levels), progress=False)
    best = s.best()
    n = min(8, int((ref.exemplar_classes == c).sum()) - 1)
    fresh = sd.judge(s, model, ref, best, n=n)
    plain = sd.sequence_dreaming(model, ref, c, "max", n=1)
    default = sd.evaluate(plain, ref).iloc[0]
    return {
        "seconds": time.perf_counter() - began,
        "arrived": int((s.table["status"] == "arrived").sum()),
        "walked": int(s.table["target_error"].notna().sum()),
        "best": s.settings(best.iloc[0]),
        "best_error": float(best["target_error"].iloc[0]),
        "best_percentile": float(best["time_percentile"].iloc[0]),
        "held_out_error": float(fresh["target_error"].iloc[0]),
        "held_out_arrived": float(fresh["arrived"].iloc[0]),
        "default_error": float(plain.history["objective"][plain.steps[0], 0]),
        "default_percentile": float(default["time_distance_ledoit_wolf_percentile"]),
        "recommended": s.recommended(0.02).to_dict(),
    }


def main():
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    p.add_argument("--out", default="guidance.json")
    p.add_argument("--root")
    p.add_argument("--levels", type=int, default=3)
    p.add_argument("--sets", nargs="+", default=SETS)
    a = p.parse_args()
    torch.set_num_threads(1)
    found = {"command": "python tests/benchmarks/guidance.py", "levels": a.levels, "sets": {}}
    for name in a.sets:
        epochs = None if name == "FordA" else 20
        how = dict(root=a.root, epochs=epochs, seed=0, progress=False)
        model, card, ref = model_and_reference(name, "paper", **how)
        sizes = torch.bincount(ref.y, minlength=ref.n_classes)
        found["sets"][name] = said = {
            "timepoints": ref.n_timepoints,
            "n_classes": ref.n_classes,
            "test_accuracy": card["test_accuracy"],
            "classes": {},
        }
        for c in sizes.argsort(descending=True, stable=True)[:2].tolist():
            said["classes"][c] = guidance(model, ref, c, a.levels)
            print(name, c, said["classes"][c], flush=True)
            text = json.dumps(found, indent=1) + "\n"
            write_whole(Path(a.out).resolve(), partial(Path.write_text, data=text))


if __name__ == "__main__":
    main()
