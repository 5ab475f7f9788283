"""How fast is a search, and against what? One command, one JSON with the machine's facts; notebook 81_speed draws it.

    python tests/benchmarks/speed.py [--quick] [--out speed.json] [--models paper wang]

Ratios are medians over rounds in which every variant is timed in turn, on one thread:
(a) naive    one row at a time, weights not frozen, as a first loop is written
(b) plain    frozen weights, the best of several batch sizes, float32
(c) bare     the engine's own step written without the engine (folded copy, float32), and the engine in float32 beside it
(d) engine   as it ships (the precision that suits the machine)
(e) ceiling  the model's multiplications at the rate of one large Conv1d of that precision
"""
import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import sys
import time
import types
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from torch import nn

import seqdream as sd
from seqdream.engine import Engine
from seqdream.models import borrowed, write_whole
from seqdream.penalties import alpha_norm, smoothness, total_variation
from seqdream.search import SHARD, check_grid
from seqdream.training import fast_bfloat16
from seqdream.transforms import gaussian_blur

SETTING = dict(lr=.01, alpha=5.0, beta=1.5, sigma=4.5, lambda_alpha=1e-5, lambda_beta=1e-5, lambda_sm=.1)


def machine() -> dict:
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor()) if Path("/proc/cpuinfo").exists() else platform.processor()
    return {"processor": cpu, "cores": os.cpu_count(), "instructions": torch.backends.cpu.get_cpu_capability(), "bfloat16": fast_bfloat16(), "torch": torch.__version__, "python": platform.python_version(),
            "load": os.getloadavg()[0], "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def naive_step(model, x, ref, T, limits):
    "What a first loop does for one row: loss, backward through everything, blur, step, clamp."
    a = model(x)
    loss = ((a - T).square().sum() / T.square().sum() + SETTING["lambda_alpha"] * x.abs().pow(SETTING["alpha"]).sum() + SETTING["lambda_beta"] * x.diff().abs().pow(SETTING["beta"]).sum() + SETTING["lambda_sm"] * x.diff().abs().mean())
    loss.backward()
    with torch.no_grad(): x.sub_(SETTING["lr"] * gaussian_blur(x.grad, SETTING["sigma"])).clamp_(*limits)
    x.grad = None
    for p in model.parameters(): p.grad = None


def bare_step(ask, x, T, limits):
    "The same for a batch of rows, nothing else computed."
    z = x.detach().requires_grad_()
    a = ask(z)
    loss = (a - T).square().sum(1) / T.square().sum() + SETTING["lambda_alpha"] * alpha_norm(z, SETTING["alpha"]) + SETTING["lambda_beta"] * total_variation(z, SETTING["beta"]) + SETTING["lambda_sm"] * smoothness(z)
    g, = torch.autograd.grad(loss.sum(), z)
    with torch.no_grad(): return (x - SETTING["lr"] * gaussian_blur(g, SETTING["sigma"])).clamp_(*limits)


def seconds(f, repeat=1):
    began = time.perf_counter()
    for _ in range(repeat): f()
    return (time.perf_counter() - began) / repeat


def flops(model, x) -> float:
    "Multiplications and additions of one row: forward, and back to the input."
    total, hooks = [0.0], []
    def count(m, args, out):
        per = m.in_channels // m.groups * m.kernel_size[0] if isinstance(m, nn.Conv1d) else m.in_features
        total[0] += 2 * 2 * per * out.numel() / len(out)
    for m in model.modules():
        if isinstance(m, (nn.Conv1d, nn.Linear)): hooks.append(m.register_forward_hook(count))
    with torch.no_grad(): model(x)
    for h in hooks: h.remove()
    return total[0]


def ceiling(model, ref, bf16) -> float:
    "Seconds per row and step at the rate of one large convolution."
    conv, x = nn.Conv1d(128, 128, 8, padding="same").requires_grad_(False), torch.randn(16, 128, 500, requires_grad=True)
    def go():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16): y = conv(x)
        torch.autograd.grad(y.float().sum(), x)
    go()
    rate = 2 * 2 * 128 * 128 * 8 * 500 * 16 / min(seconds(go) for _ in range(5))
    return flops(model, ref.X[:1]) / rate


def steps(name, rounds) -> dict:
    "The rates of (a) to (e), in milliseconds per row and step: what a step more costs, so that getting ready (said apart) does not blur it."
    model, ref = sd.load_pretrained("FordA", name)
    T, limits = sd.region_target(ref, 1, "max"), (ref.X.min().item(), ref.X.max().item())
    n, few, many = 16, *((10, 40) if name == "paper" else (1, 5))
    x, big = ref.exemplars(1, n), ref.X[torch.arange(64) % len(ref.X)]
    free, one = sd.load_pretrained("FordA", name)[0].eval(), x[:1].clone().requires_grad_()
    for p in free.parameters(): p.requires_grad_(True)
    def naive(k):
        for _ in range(4 * k): naive_step(free, one, ref, T, limits)
    def batch(ask, rows):
        def go(k):
            y = rows
            for _ in range(k): y = bare_step(ask, y, T, limits)
        return go
    def engine(precision):
        return lambda k: sd.sequence_dreaming(model, ref, 1, n=n, start=x, steps=k, tolerance=0.0, precision=precision, snapshots=(), micro_batch=16, patience=10**6, **SETTING)
    with borrowed(model):
        shipped = Engine(sd.Probe(model), x, None).precision
        variants = {"naive": (naive, 4), **{f"plain_{b}": (batch(sd.Probe(model).pooled, big[:b]), b) for b in (8, 16, 32, 64)}, "bare": (batch(Engine(sd.Probe(model), x, "float32"), x), n), "engine_float32": (engine("float32"), n), "engine": (engine(None), n)}
        times, fixed = {v: [] for v in (*variants, "ceiling")}, []
        for _ in range(rounds + 1):                                                    # the first round warms up
            for v, (go, rows) in variants.items():
                short, long = seconds(lambda: go(few)), seconds(lambda: go(many))
                times[v].append((long - short) / (many - few) / rows)
                if v == "engine": fixed.append(short - few * rows * times[v][-1])
            times["ceiling"].append(ceiling(model, ref, shipped == "bfloat16"))
    ms = {v: statistics.median(t[1:]) * 1e3 for v, t in times.items()}
    best = min((v for v in ms if v.startswith("plain")), key=ms.get)
    ratio = lambda a, b: statistics.median(p / q for p, q in zip(times[a][1:], times[b][1:]))
    return {"ms": ms, "best_plain": best, "precision": shipped, "mflop": flops(model, ref.X[:1]) / 1e6, "rounds": rounds, "getting_ready_s": statistics.median(fixed[1:]),
            "naive_over_engine": ratio("naive", "engine"), "plain_over_engine": ratio(best, "engine"), "engine_over_ceiling": ratio("engine", "ceiling"), "engine_float32_over_bare": ratio("engine_float32", "bare")}


def grids(name, naive_ms, engine_ms, levels, jobs, walk) -> dict:
    "The grid of Table 1 for both classes: a naive loop (extrapolated), ours complete, ours halving, and the regret on held-out starts."
    model, ref = sd.load_pretrained("FordA", name)
    grid = sd.paper_grid(levels)
    axes = check_grid(grid)
    rows = 1
    for a, v in axes.items(): rows *= 1 if a == "steps" else len(v)
    found = {"levels": levels, "settings": rows * len(axes["steps"]), "rows": rows, "jobs": jobs, "naive_s_extrapolated": 2 * rows * sum(axes["steps"]) * naive_ms / 1e3, "complete_s_extrapolated": 2 * rows * max(axes["steps"]) * engine_ms / 1e3 / jobs}
    if not walk: return found
    import joblib
    import numpy as np
    with joblib.parallel_config(n_jobs=jobs):
        if jobs > 1: joblib.Parallel()(joblib.delayed(sd.paper_grid)(1) for _ in range(jobs * 4))  # workers started, torch imported
        for label, halving in (("complete", False), ("halving", True)):
            began, tables = time.perf_counter(), [sd.grid_search(model, ref, c, "max", grid, halving=halving, progress=False) for c in (0, 1)]
            found[f"{label}_s"] = time.perf_counter() - began
            found[label] = tables
    regret = []
    for c in (0, 1):
        whole, less = (sd.judge(found[k][c], model, ref, found[k][c].best("target_error"), n=8) for k in ("complete", "halving"))
        best = [sd.judge(found[k][c], model, ref, n=8) for k in ("complete", "halving")]
        regret.append({"class": c, "by_error": float(less["target_error"].iloc[0] - whole["target_error"].iloc[0]), "by_plausibility_error": float(best[1]["target_error"].iloc[0] - best[0]["target_error"].iloc[0]),
                       "implausibility_complete": float(best[0]["implausibility"].iloc[0]), "implausibility_halving": float(best[1]["implausibility"].iloc[0]),
                       "walked_share": float(np.isfinite(found["halving"][c].table["target_error"]).mean())})
    importance = {c: found["complete"][c].importance().round(4).to_dict() for c in (0, 1)}
    recommended = {c: found["complete"][c].recommended().to_dict() for c in (0, 1)}
    arrived = {c: int((found["complete"][c].table["status"] == "arrived").sum()) for c in (0, 1)}
    return {k: v for k, v in found.items() if k not in ("complete", "halving")} | {"regret": regret, "importance": importance, "recommended": recommended, "arrived": arrived, "speedup_complete": found["naive_s_extrapolated"] / found["complete_s"], "speedup_halving": found["naive_s_extrapolated"] / found["halving_s"]}


def growth(quick) -> dict:
    "Milliseconds per row and step against length (wang, 16 rows) and against rows (paper, 500 points); memory."
    found = {"length": {}, "rows": {}}
    model = sd.ResNet.preset("wang").eval()
    for t in (128, 512, 2048, 8192)[:3 if quick else 4]:
        x = torch.randn(16, 1, t, generator=torch.Generator().manual_seed(0))
        go = lambda k: seconds(lambda: sd.dream(model, x, sd.score(0), penalties=[sd.AlphaNorm(1e-5, 5.0)], transforms=[sd.GaussianBlur(4.5, on="gradient")], lr=1e-3, steps=k, snapshots=()))
        go(1); found["length"][t] = (go(4) - go(1)) / 3 / 16 * 1e3
    model, ref = sd.load_pretrained("FordA", "paper")
    for n in (1, 4, 16, 64, 256, 1024, 4096)[:5 if quick else 7]:
        x = ref.X[torch.arange(n) % len(ref.X)]
        go = lambda k: seconds(lambda: sd.dream(model, x, sd.score(0), penalties=[sd.AlphaNorm(1e-5, 5.0)], transforms=[sd.GaussianBlur(4.5, on="gradient")], lr=1e-3, steps=k, snapshots=()))
        go(1); found["rows"][n] = (go(4) - go(1)) / 3 / n * 1e3
    return found


class Image(nn.Module):
    "A model of series as one of images of height one, which is what lucent asks for."
    def __init__(self, model): super().__init__(); self.net = model
    def forward(self, x): return self.net(x.squeeze(2))


def others(models) -> dict:
    "Other activation-maximization libraries on the same model, milliseconds per step of one row; and where they fail."
    said = {}
    try:
        import captum
        try: importlib.import_module("captum.optim"); said["captum"] = f"captum {captum.__version__}: captum.optim is there; not timed"
        except ImportError as e: said["captum"] = f"captum {captum.__version__} has no activation maximization in its release ({e})"
    except ImportError as e: said["captum"] = f"not installed ({e})"
    if importlib.util.find_spec("torchvision") is None:                                # lucent imports it for photographs; an empty stand-in does
        for name in ("torchvision", "torchvision.transforms", "torchvision.models"): sys.modules[name] = types.ModuleType(name)
        sys.modules["torchvision"].transforms, sys.modules["torchvision"].models, sys.modules["torchvision.transforms"].Normalize = sys.modules["torchvision.transforms"], sys.modules["torchvision.models"], object
    try:
        from lucent.optvis import objectives, render
        def loop(model, x, **options):
            return seconds(lambda: render.render_vis(model, objectives.channel(*where), param_f=lambda: ([x], lambda: x), transforms=[], preprocess=False, thresholds=(50,), show_image=False, progress=False, optimizer=lambda p: torch.optim.SGD(p, lr=.01), **options)) / 50 * 1e3
        for name in models:
            model, ref = sd.load_pretrained("FordA", name)
            x, where = ref.exemplars(1, 1).clone(), ("head", 1)
            for p in model.parameters(): p.requires_grad_(True)
            try: loop(model.eval(), x.requires_grad_())
            except Exception as e: said["lucent on series"] = f"{type(e).__name__}: {e}"
            where, x = ("net_head", 1), x.detach()[:, :, None].requires_grad_()
            said[f"lucent {name}"] = statistics.median(loop(Image(model).eval(), x, fixed_image_size=(1, x.shape[-1])) for _ in range(3))
    except Exception as e: said["lucent"] = f"{type(e).__name__}: {e}"[:300]
    return said


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="two minutes: fewer rounds, the two-level grid")
    p.add_argument("--models", nargs="+", default=["paper", "wang"])
    p.add_argument("--walk", nargs="*", default=["paper"], help="models whose whole grid is walked, not only extrapolated (default: paper; wang takes half an hour)")
    p.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes for the grid (default: all cores)")
    p.add_argument("--out", default="speed.json")
    a = p.parse_args()
    torch.set_num_threads(1)
    found = {"command": "python " + " ".join(["tests/benchmarks/speed.py", *sys.argv[1:]]), "machine": machine(), "steps": {}, "grid": {}}
    for name in a.models:
        found["steps"][name] = s = steps(name, 3 if a.quick else 9)
        print(name, {k: round(v, 3) for k, v in s["ms"].items()}, {k: round(v, 2) for k, v in s.items() if "_over_" in k}, s["precision"], flush=True)
        found["grid"][name] = g = grids(name, s["ms"]["naive"], s["ms"]["engine"], 2 if a.quick else 3, a.jobs, walk=name in a.walk)
        print(name, {k: v for k, v in g.items() if k not in ("importance", "recommended")}, flush=True)
    found["growth"], found["others"] = growth(a.quick), others(a.models)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["peak_worker_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    found["machine"]["load_after"] = os.getloadavg()[0]
    write_whole(Path(a.out).resolve(), lambda f: f.write_text(json.dumps(found, indent=1) + "\n"))
    print(json.dumps({k: found[k] for k in ("growth", "others", "peak_mb", "peak_worker_mb")}, indent=1), f"{a.out}: written", sep="\n")


if __name__ == "__main__": main()
