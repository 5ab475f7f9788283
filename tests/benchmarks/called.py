"""Of dreams that arrived at a far border, how many does the model call by the class aimed at?

    python tests/benchmarks/called.py        # ten sets of more than two classes, `paper`, a minute

With more than two classes the target is a place on a line, and another class may score higher
there. Models are those of arrive.py and are kept where it keeps them.
"""

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import arrive

import seqdream as sd

SETS = ("OSULeaf", "Plane", "ArrowHead", "MedicalImages", "ECG5000", "CricketX", "FiftyWords")
SETS += ("Adiac", "BME", "Meat")
CACHE = Path(tempfile.gettempdir()) / "seqdream-arrive"


def called(name: str) -> tuple[int, int]:
    "(Called by the class aimed at, arrived) of four dreams for each of six classes at most."
    data = arrive.read(name, "paper")
    model = arrive.trained(name, "paper", data, CACHE)
    ref = sd.Reference.from_data(model, data.X_train, data.y_train, allow_single=True)
    right = there = 0
    for c in range(min(6, ref.n_classes)):
        n = min(4, int((ref.exemplar_classes == c).sum()))
        d = sd.sequence_dreaming(model, ref, c, "max", n=n)
        arrived = torch.tensor([s in ("arrived", "unmoved") for s in d.status])
        there += int(arrived.sum())
        right += int((arrived & (d.activations.argmax(1) == c)).sum())
    return right, there


if __name__ == "__main__":
    found = [called(name) for name in SETS]
    for name, (right, there) in zip(SETS, found):
        print(f"{name}: {right} of {there}")
    print(f"all: {sum(r for r, _ in found)} of {sum(t for _, t in found)}")
