"""Are the dreams still those of the commit before the house was rebuilt?

    python tests/unchanged.py         compute them again, compare with tests/unchanged.json
    python tests/unchanged.py write   make tests/unchanged.json from the code as it is

Only names on `seqdream` itself are used, so that modules may move.
"""

import hashlib
import json
import math
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import seqdream as sd

KEPT = Path(__file__).with_name("unchanged.json")
EVERY = 25  # of a dream's 500 points every 25th is kept

# Two processors' kernels add in another order, and a walk makes that grow: a ReLU that switches at
# another step, a step of fixed length along a gradient of nearly zero. Measured with torch held to
# SSE4.1 and OpenBLAS to Haswell's kernels, the largest difference of a point of a grounded dream
# (z-normalised): 0.04 after four steps, 0.3 after eight, 1 after twelve. So `short` walks, of two
# steps, are compared everywhere, and `long` ones only where the machine rounds as that did on which
# the file was made. A changed formula moves the short ones by more.
RTOL, ATOL = 1e-3, 1e-3
ELSEWHERE_RTOL, ELSEWHERE_ATOL = 2e-2, 2e-2
# A percentile is a rank among some hundred real series: rounding may carry it past a neighbour.
PERCENTILE_ATOL = 0.5

# Deliberately other than it was: the walk of `grounded_dreaming` (57 steps for 200), and `unmoved`,
# which said `arrived`: the file was written anew when nothing else had moved.
# And `gain` of `evaluate` was in logits and is now in class means.
# (A search's `gain` has always been in class means and is compared.)
# And columns that came later have nothing to be compared with.
LEFT_OUT = ("gain", "nearest_training", "change", "evaluations")
# The raw inverse in time is the inverse of a singular matrix (condition 7e16): noise, not a value.
SINGULAR = "inverse"


def rounded(value):
    "As JSON can hold it: six significant digits; what is not finite by name."
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return rounded(value.tolist())
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else str(number)


def last_losses(d) -> list:
    "The last finite loss of each row."
    losses = d.history.get("loss")
    if losses is None:
        return []
    columns = [column[torch.isfinite(column)] for column in losses.T]
    return [float(column[-1]) if len(column) else None for column in columns]


def dream_values(d) -> dict:
    "What is kept of some dreams."
    return {
        "status": d.status,
        "steps": d.steps,
        "activations": d.activations,
        "x": d.x.flatten(1)[:, ::EVERY],
        "loss": last_losses(d),
    }


def table_values(table, left_out=()) -> dict:
    "A table by columns."
    columns = [c for c in table.columns if c not in left_out]
    return {str(c): table[c].tolist() for c in columns}


def numeric_values(table) -> dict:
    "The numeric columns of `evaluate`'s table that mean the same as before."
    singular = [c for c in table.columns if c.startswith(f"time_distance_{SINGULAR}")]
    return table_values(table.select_dtypes("number"), (*LEFT_OUT, *singular))


def targets(model, ref, c: int, steps: dict) -> dict:
    "Every method towards one class: name -> Dreams."
    found, shared = {}, {"n": 3, "seed": 0, "precision": "float32"}
    for region in ("centre", "max", "edge"):
        how = {"steps": steps["dreaming"], "lr": 5.0, **shared}
        d = sd.sequence_dreaming(model, ref, c, region, **how)
        found[f"sequence_dreaming {region} {c}"] = d
    for region in ("centre", "max", "beyond"):
        d = sd.grounded_dreaming(model, ref, c, region, steps=steps["grounded"], **shared)
        found[f"grounded_dreaming {region} {c}"] = d
    more = {**shared, "steps": steps["plain"]}
    found[f"target_descent {c}"] = sd.target_descent(model, ref, c, lr=0.01, **more)
    found[f"gradient_ascent {c}"] = sd.gradient_ascent(model, ref, c, **more)
    found[f"ellis {c}"] = sd.ellis(model, ref, c, steps=steps["ellis"], **shared)
    return found


SHORT = {"dreaming": 2, "grounded": 2, "plain": 8, "ellis": 1}
LONG = {"dreaming": 20, "grounded": 25, "plain": 20, "ellis": 4}


def paper_dreams(model, ref, steps: dict) -> dict:
    "Every method towards both classes: name -> Dreams."
    return {**targets(model, ref, 0, steps), **targets(model, ref, 1, steps)}


def controls(model, ref) -> dict:
    "Every control of both classes: name -> Dreams."
    pairs = [(kind, c) for kind in sd.CONTROLS for c in (0, 1)]
    return {
        f"control {kind} {c}": sd.control(model, ref, c, kind, n=3, seed=0) for kind, c in pairs
    }


def wang_dreams(model, ref, steps: int) -> dict:
    "Two methods on the paper-sized model."
    how = {"n": 2, "seed": 0, "precision": "float32", "steps": steps}
    return {
        "wang sequence_dreaming max": sd.sequence_dreaming(model, ref, 1, "max", lr=5.0, **how),
        "wang grounded_dreaming max": sd.grounded_dreaming(model, ref, 1, "max", **how),
    }


def search_values(model, ref) -> dict:
    """A grid of eight rows, but for `score_ratio` and `gain`.

    Searches counted both along the class's direction, tables everywhere else by the score itself;
    now one function does it for all, and they moved by up to two percent."""
    grid = {"steps": [1, 2], "lr": [0.1, 5.0], "sigma": [3.0, 6.0]}
    options = {"halving": False, "precision": "float32", "progress": False, "seed": 0}
    table = sd.grid_search(model, ref, 1, "max", grid, **options).table
    return table_values(table.drop(columns=["score_ratio", "gain"]))


def distance_values(dreams: dict, ref) -> dict:
    "Tables 2 and 3 of Sequence Dreaming's two columns."
    regions = ("centre", "max")
    sets = {f"sd_{r}": [dreams[f"sequence_dreaming {r} {c}"] for c in (0, 1)] for r in regions}
    time = sd.distance_table(sets, ref, "time")
    return {
        "activation": table_values(sd.distance_table(sets, ref, "activation")),
        "time": table_values(time[time["kind"] != SINGULAR]),
    }


STEADY = ("dream", "start", "scaled", "highest_real", "scrambled")  # no walk, no basis of their own


def margins(v) -> dict:
    "Median class margins of dreams and twins: 'series radius' -> margin."
    medians = v.comparison.groupby(["series", "radius"])["margin"].median()
    return {f"{series} {radius}": m for (series, radius), m in medians.items()}


def verdict_values(v) -> dict:
    "Everything a verdict says in numbers."
    table = table_values(v.table.reset_index())
    return {"table": table, "shares": v.shares, "kept": v.kept, "margins": margins(v)}


def short_values(model, ref, wang) -> dict:
    "What is compared on any machine."
    dreams = paper_dreams(model, ref, SHORT)
    sd_max = dreams["sequence_dreaming max 1"]
    edges, loss = sd.frequency_importance(model, sd_max.x, ref, 1, bands=10)
    v = sd.verdict(dreams["grounded_dreaming beyond 1"], model, ref, seed=0)
    everything = {**dreams, **controls(model, ref), **wang_dreams(*wang, steps=1)}
    return {
        "evaluate": numeric_values(sd.evaluate(sd_max, ref)),
        "distance_table": distance_values(dreams, ref),
        "margins": {k: m for k, m in margins(v).items() if k.startswith(STEADY)},
        "frequency_importance": {"edges": edges, "loss": loss},
        "grid_search": search_values(model, ref),
        "dreams": {name: dream_values(d) for name, d in everything.items()},
    }


def long_values(model, ref, wang) -> dict:
    "What is compared where the machine rounds alike."
    dreams = paper_dreams(model, ref, LONG)
    v = sd.verdict(dreams["grounded_dreaming beyond 1"], model, ref, seed=0)
    everything = {**dreams, **wang_dreams(*wang, steps=4)}
    found = {name: dream_values(d) for name, d in everything.items()}
    return {"verdict": verdict_values(v), "dreams": found}


def compute(part: str) -> dict:
    "Every value of a part, `short` or `long`; one thread, for sums in one order."
    torch.set_num_threads(1)
    torch.manual_seed(0)
    values = {"short": short_values, "long": long_values}[part]
    model, ref = sd.load_pretrained("FordA", "paper")
    with threadpool_limits(1):
        return rounded(values(model, ref, sd.load_pretrained("FordA", "wang")))


def rounding() -> str:
    "How this machine rounds: a fingerprint of a network's gradient and of a matrix's eigenvectors."
    torch.set_num_threads(1)
    digest = hashlib.sha256()
    with threadpool_limits(1):
        for size in ("paper", "wang"):
            model, ref = sd.load_pretrained("FordA", size)
            x = ref.X[:3].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(model(x).sum(), x)
            digest.update(gradient.numpy().tobytes())
        digest.update(np.linalg.eigh(ref.time[0].covariance)[1].tobytes())
    return digest.hexdigest()[:16]


# --- what a call passes through -------------------------------------------------------------------

WITHIN = (
    "<listcomp>",
    "<genexpr>",
    "<dictcomp>",
    "<setcomp>",
)  # parts of a function, with frames of their own


def one_call():
    "A short call of Sequence Dreaming, as a function of no arguments."
    model, ref = sd.load_pretrained("FordA", "paper")
    options = {"n": 2, "steps": 5, "precision": "float32", "lr": 5.0}
    return lambda: sd.sequence_dreaming(model, ref, 1, "max", **options)


def functions_passed() -> tuple[int, int]:
    "Distinct functions of the package that one call passes through; the same with comprehensions."
    package = str(Path(sd.__file__).resolve().parent)
    call = one_call()
    call()  # imports and caches are not what is counted
    seen = set()

    def look(frame, event, arg):
        code = frame.f_code
        if event == "call" and str(Path(code.co_filename).resolve()).startswith(package):
            seen.add((code.co_filename, code.co_qualname, code.co_name))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(before)
    return len([1 for *_, name in seen if name not in WITHIN]), len(seen)


def forward_passes() -> int:
    "How often a later call asks the model, or a copy of it."
    call, counted = one_call(), []
    call()  # the first asks the model how it is to be asked, and compares the copy with it
    forward = sd.ResNet.forward

    def counting(self, x):
        counted.append(len(x))
        return forward(self, x)

    with mock.patch.object(sd.ResNet, "forward", counting):
        call()
    return len(counted)


def cost() -> dict:
    "What one call of `sequence_dreaming` passes through."
    functions, frames = functions_passed()
    return {
        "functions": functions,
        "functions_and_comprehensions": frames,
        "forward_passes": forward_passes(),
    }


# --- comparing ------------------------------------------------------------------------------------


def leaves(value, path=()):
    "(path, value) of everything that is neither a dict nor a list."
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*path, str(i)))
    else:
        yield path, value


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def same(was, now, path, alike: bool = True) -> bool:
    "Equal within rounding; names and what is not finite exactly."
    if not (is_number(was) and is_number(now)):
        return was == now
    rtol, atol = (RTOL, ATOL) if alike else (ELSEWHERE_RTOL, ELSEWHERE_ATOL)
    if any("percentile" in part for part in path):
        atol = PERCENTILE_ATOL
    return math.isclose(was, now, rel_tol=rtol, abs_tol=atol)


def moved(was: dict, now: dict, alike: bool = True) -> list[str]:
    "One line for each value that is not what it was; `alike`: does this machine round as that did?"
    old, new = dict(leaves(was)), dict(leaves(now))
    lines = [f"{' / '.join(path)}: is gone" for path in old if path not in new]
    lines += [f"{' / '.join(path)}: is new" for path in new if path not in old]
    for path, value in old.items():
        if path in new and not same(value, new[path], path, alike):
            lines.append(f"{' / '.join(path)}: {value} is now {new[path]}")
    return lines


def kept() -> dict:
    "The stored file."
    return json.loads(KEPT.read_text(encoding="utf-8"))


def write() -> None:
    "Make the stored file again."
    values = {part: compute(part) for part in ("short", "long")}
    whole = {"today": cost(), "rounding": rounding(), **values}
    text = json.dumps(whole, allow_nan=False, separators=(",", ":"))
    KEPT.write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")
    print(f"{KEPT.name}: {KEPT.stat().st_size / 1000:.0f} kB, today {whole['today']}")


def main(command: str = "compare") -> int:
    "The command line; 1 where something moved."
    if command == "write":
        write()
        return 0
    before = kept()
    alike = before["rounding"] == rounding()
    lines = moved(before["short"], compute("short"), alike)
    if alike:
        lines += moved(before["long"], compute("long"))
    else:
        print("this machine rounds in another way: long walks are not compared")
    print("\n".join(lines) or "nothing moved")
    print(f"one call of sequence_dreaming: {cost()}; it was {before['today']}")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
