"""How fast is a search, and against what? One command, one JSON with the machine's facts.

    python tests/benchmarks/speed.py [--quick] [--out speed.json] [--models paper wang]

Notebook 81_speed draws it. Ratios are medians over rounds in which every variant is timed in turn,
on one thread:
(a) naive    one row at a time, weights not frozen, as a first loop is written
(b) plain    frozen weights, the best of several batch sizes, float32
(c) bare     the engine's own step written without the engine (folded copy, float32),
             and the engine in float32 beside it
(d) engine   as it ships (the precision that suits the machine)
(e) ceiling  the model's multiplications at the rate of one large Conv1d of that precision
"""

import argparse
import importlib.util
import json
import math
import os
import platform
import resource
import statistics
import sys
import time
import types
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from torch import nn

import seqdream as sd
from seqdream.borrowing import borrowed
from seqdream.engine import Engine
from seqdream.files import write_whole
from seqdream.penalties import alpha_norm, smoothness, total_variation
from seqdream.search import check_grid
from seqdream.training import fast_bfloat16
from seqdream.transforms import gaussian_blur

SETTING = dict(
    lr=0.01, alpha=5.0, beta=1.5, sigma=4.5, lambda_alpha=1e-5, lambda_beta=1e-5, lambda_sm=0.1
)


def processor() -> str:
    "Its name, where Linux tells it."
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def machine() -> dict:
    "What the numbers depend on."
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": fast_bfloat16(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def naive_step(model, x, T, limits):
    "What a first loop does for one row: loss, backward through everything, blur, step, clamp."
    a = model(x)
    loss = (
        (a - T).square().sum() / T.square().sum()
        + SETTING["lambda_alpha"] * x.abs().pow(SETTING["alpha"]).sum()
        + SETTING["lambda_beta"] * x.diff().abs().pow(SETTING["beta"]).sum()
        + SETTING["lambda_sm"] * x.diff().abs().mean()
    )
    loss.backward()
    with torch.no_grad():
        x.sub_(SETTING["lr"] * gaussian_blur(x.grad, SETTING["sigma"])).clamp_(*limits)
    x.grad = None
    for p in model.parameters():
        p.grad = None


def bare_step(ask, x, T, limits):
    "The same for a batch of rows, nothing else computed."
    z = x.detach().requires_grad_()
    a = ask(z)
    loss = (
        (a - T).square().sum(1) / T.square().sum()
        + SETTING["lambda_alpha"] * alpha_norm(z, SETTING["alpha"])
        + SETTING["lambda_beta"] * total_variation(z, SETTING["beta"])
        + SETTING["lambda_sm"] * smoothness(z)
    )
    (g,) = torch.autograd.grad(loss.sum(), z)
    with torch.no_grad():
        return (x - SETTING["lr"] * gaussian_blur(g, SETTING["sigma"])).clamp_(*limits)


def seconds(f, repeat=1):
    began = time.perf_counter()
    for _ in range(repeat):
        f()
    return (time.perf_counter() - began) / repeat


def flops(model, x) -> float:
    "Multiplications and additions of one row: forward, and back to the input."
    total = [0.0]
    hooks = []

    def count(m, args, out):
        if isinstance(m, nn.Conv1d):
            per_number = m.in_channels // m.groups * m.kernel_size[0]
        else:
            per_number = m.in_features
        total[0] += 2 * 2 * per_number * out.numel() / len(out)

    for m in model.modules():
        if isinstance(m, (nn.Conv1d, nn.Linear)):
            hooks.append(m.register_forward_hook(count))
    with torch.no_grad():
        model(x)
    for h in hooks:
        h.remove()
    return total[0]


def ceiling(model, ref, bf16) -> float:
    "Seconds per row and step at the rate of one large convolution."
    conv = nn.Conv1d(128, 128, 8, padding="same").requires_grad_(False)
    x = torch.randn(16, 128, 500, requires_grad=True)

    def go():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = conv(x)
        torch.autograd.grad(y.float().sum(), x)

    go()
    rate = 2 * 2 * 128 * 128 * 8 * 500 * 16 / min(seconds(go) for _ in range(5))
    return flops(model, ref.X[:1]) / rate


def naive_walk(model, x, T, limits):
    "A function of k: four rows' worth of naive steps."

    def go(k):
        for _ in range(4 * k):
            naive_step(model, x, T, limits)

    return go


def batch_walk(ask, x, T, limits):
    "A function of k: k bare steps of a batch."

    def go(k):
        y = x
        for _ in range(k):
            y = bare_step(ask, y, T, limits)

    return go


def engine_walk(model, ref, x, precision):
    "A function of k: k steps of Sequence Dreaming, nothing kept and no early end."
    unending = dict(tolerance=0.0, patience=10**6, snapshots=(), micro_batch=16)
    how = dict(n=len(x), start=x, precision=precision) | unending | SETTING

    def go(k):
        sd.sequence_dreaming(model, ref, 1, steps=k, **how)

    return go


def variants(model, ref, free, x) -> dict:
    "Name -> (a function of the number of steps, its rows)."
    T = sd.region_target(ref, 1, "max")
    limits = (ref.X.min().item(), ref.X.max().item())
    big = ref.X[torch.arange(64) % len(ref.X)]
    one = x[:1].clone().requires_grad_()
    n = len(x)
    found = {"naive": (naive_walk(free, one, T, limits), 4)}
    for b in (8, 16, 32, 64):
        found[f"plain_{b}"] = (batch_walk(sd.Probe(model).pooled, big[:b], T, limits), b)
    copied = Engine(sd.Probe(model), x, "float32")
    found["bare"] = (batch_walk(copied, x, T, limits), n)
    found["engine_float32"] = (engine_walk(model, ref, x, "float32"), n)
    found["engine"] = (engine_walk(model, ref, x, None), n)
    return found


def steps(name, rounds) -> dict:
    """The rates of (a) to (e), in milliseconds per row and step.

    What a step more costs is counted, so that getting ready (said apart) does not blur it.
    """
    model, ref = sd.load_pretrained("FordA", name)
    few, many = (10, 40) if name == "paper" else (1, 5)
    x = ref.exemplars(1, 16)
    free = sd.load_pretrained("FordA", name)[0].eval()
    for p in free.parameters():
        p.requires_grad_(True)
    with borrowed(model):
        shipped = Engine(sd.Probe(model), x, None).precision
        timed = variants(model, ref, free, x)
        times = {v: [] for v in (*timed, "ceiling")}
        fixed = []
        for _ in range(rounds + 1):  # the first round warms up
            for v, (go, rows) in timed.items():
                short = seconds(partial(go, few))
                long = seconds(partial(go, many))
                times[v].append((long - short) / (many - few) / rows)
                if v == "engine":
                    fixed.append(short - few * rows * times[v][-1])
            times["ceiling"].append(ceiling(model, ref, shipped == "bfloat16"))

    def ratio(a, b):
        return statistics.median(p / q for p, q in zip(times[a][1:], times[b][1:]))

    ms = {v: statistics.median(t[1:]) * 1e3 for v, t in times.items()}
    best = min((v for v in ms if v.startswith("plain")), key=ms.get)
    return {
        "ms": ms,
        "best_plain": best,
        "precision": shipped,
        "mflop": flops(model, ref.X[:1]) / 1e6,
        "rounds": rounds,
        "getting_ready_s": statistics.median(fixed[1:]),
        "naive_over_engine": ratio("naive", "engine"),
        "plain_over_engine": ratio(best, "engine"),
        "engine_over_ceiling": ratio("engine", "ceiling"),
        "engine_float32_over_bare": ratio("engine_float32", "bare"),
    }


def walk_grid(model, ref, grid, jobs) -> tuple[dict, dict]:
    "Searches of both classes, complete and by halving; and the seconds they took."
    import joblib

    found = {}
    took = {}
    with joblib.parallel_config(n_jobs=jobs):
        if jobs > 1:
            # workers started, torch imported
            joblib.Parallel()(joblib.delayed(sd.paper_grid)(1) for _ in range(jobs * 4))
        for label, halving in (("complete", False), ("halving", True)):
            how = dict(halving=halving, progress=False)
            began = time.perf_counter()
            found[label] = [sd.grid_search(model, ref, c, "max", grid, **how) for c in (0, 1)]
            took[f"{label}_s"] = time.perf_counter() - began
    return found, took


def regret(model, ref, whole, halved, c) -> dict:
    "What halving loses in one class, measured on held-out starts."
    by_error = [sd.judge(s, model, ref, s.best("target_error"), n=8) for s in (whole, halved)]
    best = [sd.judge(s, model, ref, n=8) for s in (whole, halved)]

    def lost(pair):
        complete, halving = (float(table["target_error"].iloc[0]) for table in pair)
        return halving - complete

    return {
        "class": c,
        "by_error": lost(by_error),
        "by_plausibility_error": lost(best),
        "implausibility_complete": float(best[0]["implausibility"].iloc[0]),
        "implausibility_halving": float(best[1]["implausibility"].iloc[0]),
        "walked_share": float(halved.table["target_error"].map(math.isfinite).mean()),
    }


def grids(name, naive_ms, engine_ms, levels, jobs, walk) -> dict:
    """The grid of Table 1 for both classes.

    A naive loop (extrapolated), ours complete, ours halving, and the regret on held-out starts.
    """
    model, ref = sd.load_pretrained("FordA", name)
    grid = sd.paper_grid(levels)
    axes = check_grid(grid)
    rows = math.prod(len(values) for axis, values in axes.items() if axis != "steps")
    found = {
        "levels": levels,
        "settings": rows * len(axes["steps"]),
        "rows": rows,
        "jobs": jobs,
        "naive_s_extrapolated": 2 * rows * sum(axes["steps"]) * naive_ms / 1e3,
        "complete_s_extrapolated": 2 * rows * max(axes["steps"]) * engine_ms / 1e3 / jobs,
    }
    if not walk:
        return found
    searches, took = walk_grid(model, ref, grid, jobs)
    complete = dict(enumerate(searches["complete"]))
    pairs = list(zip(searches["complete"], searches["halving"]))
    return {
        **found,
        **took,
        "regret": [regret(model, ref, *pair, c) for c, pair in enumerate(pairs)],
        "importance": {c: s.importance().round(4).to_dict() for c, s in complete.items()},
        "recommended": {c: s.recommended().to_dict() for c, s in complete.items()},
        "arrived": {c: int((s.table["status"] == "arrived").sum()) for c, s in complete.items()},
        "speedup_complete": found["naive_s_extrapolated"] / took["complete_s"],
        "speedup_halving": found["naive_s_extrapolated"] / took["halving_s"],
    }


def ms_per_step(model, x) -> float:
    "Milliseconds per row and step of a plain dream, from runs of one step and of four."
    blurred = [sd.GaussianBlur(4.5, on="gradient")]
    ingredients = dict(penalties=[sd.AlphaNorm(1e-5, 5.0)], transforms=blurred)

    def run(steps):
        sd.dream(model, x, sd.score(0), lr=1e-3, steps=steps, snapshots=(), **ingredients)

    run(1)
    long = seconds(partial(run, 4))
    short = seconds(partial(run, 1))
    return (long - short) / 3 / len(x) * 1e3


def growth(quick) -> dict:
    """Milliseconds per row and step against length and against rows.

    Length: wang, 16 rows. Rows: paper, 500 points.
    """
    found = {"length": {}, "rows": {}}
    model = sd.ResNet.preset("wang").eval()
    for t in (128, 512, 2048, 8192)[: 3 if quick else 4]:
        x = torch.randn(16, 1, t, generator=torch.Generator().manual_seed(0))
        found["length"][t] = ms_per_step(model, x)
    model, ref = sd.load_pretrained("FordA", "paper")
    for n in (1, 4, 16, 64, 256, 1024, 4096)[: 5 if quick else 7]:
        found["rows"][n] = ms_per_step(model, ref.X[torch.arange(n) % len(ref.X)])
    return found


class Image(nn.Module):
    "A model of series as one of images of height one, which is what lucent asks for."

    def __init__(self, model):
        super().__init__()
        self.net = model

    def forward(self, x):
        return self.net(x.squeeze(2))


def ask_captum() -> str:
    "Does Captum's release maximize activations?"
    try:
        import captum
    except ImportError as e:
        return f"not installed ({e})"
    try:
        importlib.import_module("captum.optim")
    except ImportError as e:
        return f"captum {captum.__version__} has no activation maximization in its release ({e})"
    return f"captum {captum.__version__}: captum.optim is there; not timed"


def stand_in_for_torchvision():
    "Lucent imports it for photographs; an empty stand-in does."
    if importlib.util.find_spec("torchvision") is not None:
        return
    names = ("torchvision", "torchvision.transforms", "torchvision.models")
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    whole, transforms, models = (sys.modules[name] for name in names)
    whole.transforms = transforms
    whole.models = models
    transforms.Normalize = object


def time_lucent(model, x, where, **options) -> float:
    "Milliseconds per step of one row, over fifty steps."
    from lucent.optvis import objectives, render

    def descent(parameters):
        return torch.optim.SGD(parameters, lr=0.01)

    def given():
        return [x], lambda: x

    bare = dict(transforms=[], preprocess=False, show_image=False, progress=False)
    how = dict(param_f=given, thresholds=(50,), optimizer=descent) | bare | options
    return seconds(partial(render.render_vis, model, objectives.channel(*where), **how)) / 50 * 1e3


def ask_lucent(name) -> dict:
    "Lucent on a model of series (and how that fails), and on the same as a model of images."
    said = {}
    model, ref = sd.load_pretrained("FordA", name)
    x = ref.exemplars(1, 1).clone().requires_grad_()
    for p in model.parameters():
        p.requires_grad_(True)
    try:
        time_lucent(model.eval(), x, ("head", 1))
    except Exception as e:
        said["lucent on series"] = f"{type(e).__name__}: {e}"
    image = x.detach()[:, :, None].requires_grad_()
    size = (1, image.shape[-1])
    once = partial(time_lucent, Image(model).eval(), image, ("net_head", 1))
    said[f"lucent {name}"] = statistics.median(once(fixed_image_size=size) for _ in range(3))
    return said


def others(models) -> dict:
    "Other libraries that maximize activations, on the same models; and where they fail."
    said = {"captum": ask_captum()}
    stand_in_for_torchvision()
    try:
        for name in models:
            said |= ask_lucent(name)
    except Exception as e:
        said["lucent"] = f"{type(e).__name__}: {e}"[:300]
    return said


def main():
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    quick = "two minutes: fewer rounds, the two-level grid"
    walk = (
        "models whose whole grid is walked, not only extrapolated "
        "(default: paper; wang takes half an hour)"
    )
    jobs = "processes for the grid (default: all cores)"
    p.add_argument("--quick", action="store_true", help=quick)
    p.add_argument("--models", nargs="+", default=["paper", "wang"])
    p.add_argument("--walk", nargs="*", default=["paper"], help=walk)
    p.add_argument("--jobs", type=int, default=os.cpu_count(), help=jobs)
    p.add_argument("--out", default="speed.json")
    a = p.parse_args()
    torch.set_num_threads(1)
    found = {
        "command": "python " + " ".join(["tests/benchmarks/speed.py", *sys.argv[1:]]),
        "machine": machine(),
        "steps": {},
        "grid": {},
    }
    for name in a.models:
        found["steps"][name] = s = steps(name, 3 if a.quick else 9)
        ms = {k: round(v, 3) for k, v in s["ms"].items()}
        ratios = {k: round(v, 2) for k, v in s.items() if "_over_" in k}
        print(name, ms, ratios, s["precision"], flush=True)
        levels = 2 if a.quick else 3
        rates = (s["ms"]["naive"], s["ms"]["engine"])
        found["grid"][name] = g = grids(name, *rates, levels, a.jobs, walk=name in a.walk)
        shown = {k: v for k, v in g.items() if k not in ("importance", "recommended")}
        print(name, shown, flush=True)
    found["growth"] = growth(a.quick)
    found["others"] = others(a.models)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["peak_worker_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    found["machine"]["load_after"] = os.getloadavg()[0]
    text = json.dumps(found, indent=1) + "\n"
    write_whole(Path(a.out).resolve(), partial(Path.write_text, data=text))
    shown = {k: found[k] for k in ("growth", "others", "peak_mb", "peak_worker_mb")}
    print(json.dumps(shown, indent=1), f"{a.out}: written", sep="\n")


if __name__ == "__main__":
    main()
