"""Does Sequence Dreaming arrive away from FordA? Notebook 84_archive shows it.

    python tests/benchmarks/arrive.py [--sets NAME ...] [--models paper gru ...] [--jobs 2]
    python tests/benchmarks/arrive.py --quick        # six sets, one model; minutes

Every data set at hand × four kinds of model × up to six classes × two regions × eight starts,
with the default step and (`--ways fixed`) with the paper's fixed one. Beside each target stands
what 20 free ascents reach inside the same clamp, and each dream that has not arrived is asked
whether a free ascent from it climbs on. What is finished is in the file: a second call goes on.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import seqdream as sd
from seqdream.files import write_whole
from seqdream.models import InceptionTime, ResNet
from seqdream.transforms import clamp_to

N = 8  # dreams of a class and region
CLASSES = 6  # of a data set, the first ones
REGIONS = {"centre": 1.0, "max": 2.5}  # region -> how many class means
WAYS = {  # name -> options of `sequence_dreaming`
    "default": {},
    "fixed": {"lr": 5.0, "treat": "vector"},  # as it was before the step came from the model
}
QUICK = ("ItalyPowerDemand", "MedicalImages", "Plane", "GunPoint", "ArrowHead", "OSULeaf")
LENGTHS = {"AllGestureWiimoteX": 128}  # unequal series, resampled to one length
LONGEST = 500  # points; the slow models see longer series resampled to it
ARRIVED = 0.03  # error of a dream that has arrived: the recipe's own tolerance
STOPS = 0.05  # a dream is stationary where a free ascent gains less than this share


# ---- models


class GRU(nn.Module):
    "A recurrent network, its outputs averaged over time, and a linear layer."

    def __init__(self, n_channels: int, n_classes: int, width: int = 24):
        super().__init__()
        self.body = nn.GRU(n_channels, width, batch_first=True)
        self.head = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.transpose(1, 2))[0].mean(1))


class Transformer(nn.Module):
    "Patches of eight points, two layers of attention, the tokens averaged."

    def __init__(self, n_channels: int, n_classes: int, n_timepoints: int, width: int = 32):
        super().__init__()
        self.patches = nn.Conv1d(n_channels, width, 8, stride=4, padding=4)
        tokens = n_timepoints // 4 + 1
        self.place = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 64, dropout=0.1, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).transpose(1, 2) + self.place
        return self.head(self.norm(self.body(tokens)).mean(1))


@dataclass(frozen=True)
class Training:
    "How a kind of model is trained: shortly."

    epochs: int  # passes over the training series
    steps: int  # of the optimizer at least: few series are passed over more often
    lr: float


MODELS = {
    "paper": Training(40, 0, 2e-3),
    "gru": Training(30, 600, 1e-2),
    "transformer": Training(30, 600, 2e-3),
    "inception": Training(15, 200, 2e-3),
}
MOST_SEEN = 12_000  # series that a training goes through at most, so that none takes long


def new_model(kind, data) -> nn.Module:
    "A network with its first weights."
    sizes = (data.n_channels, data.n_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "gru":
            return GRU(*sizes)
        if kind == "transformer":
            return Transformer(*sizes, data.X_train.shape[-1])
        if kind == "inception":
            return InceptionTime(*sizes, filters=8, kernels=(20, 10, 5), depth=3)
        return ResNet.preset(kind, *sizes)


def read(name, kind) -> sd.Dataset:
    "The data set; all but `paper` get it standardised, and no longer than they can take."
    data = sd.load_dataset(name, length=LENGTHS.get(name))
    if kind == "paper":
        return data
    if data.X_train.shape[-1] > LONGEST:
        data = sd.load_dataset(name, length=LONGEST)
    return data.standardised()


def trained(name, kind, data, cache: Path) -> nn.Module:
    "The model, from the cache or trained; on FordA the bundled one of that name."
    if (name, kind) in sd.pretrained_models():
        return sd.load_pretrained(name, kind)[0]
    n = len(data.X_train)
    batch = 32 if n > 500 else 16 if n > 60 else 8
    how = MODELS[kind]
    epochs = max(2, min(max(how.epochs, how.steps * batch // n), MOST_SEEN // n))
    file = cache / f"{name}-{kind}-{data.X_train.shape[-1]}-{epochs}.safetensors"
    model = new_model(kind, data)
    if file.exists():
        model.load_state_dict(load_file(file))
        return model.eval()
    sd.fit(model, data, epochs, batch_size=batch, lr=how.lr, progress=False)
    cache.mkdir(parents=True, exist_ok=True)
    write_whole(file, partial(save_file, model.state_dict()))
    return model.eval()


# ---- an independent measure of what the model can give: plain torch, nothing of the walk


@dataclass(frozen=True)
class Target:
    "A place on the line from the mean of all activations to a class mean, as plain numbers."

    origin: Tensor  # mean of all activations, (features,)
    away: Tensor  # from there to the class mean, (features,)
    k: float  # how many of it

    def place(self, a: Tensor) -> Tensor:
        "How far along the line, in class means, (n,)."
        return (a - self.origin) @ self.away / self.away.square().sum()

    def error(self, a: Tensor, treat: str) -> Tensor:
        "Distance from the target as a share of the way to it, (n,)."
        if treat == "along":
            return (self.place(a) / self.k - 1).abs()
        return (a - self.origin - self.k * self.away).norm(dim=1) / (self.k * self.away.norm())


RULES = (  # of a free ascent: how the gradient is read, and the first step in standard deviations
    ("normalised", 0.3),
    ("adam", 0.03),
    ("adam", 0.3),
    ("sign", 0.3),
)
CAREFUL = (("normalised", 0.03), ("adam", 0.003), ("adam", 0.03), ("sign", 0.01))
SINK = 1e-12


def directions(g: Tensor, first: Tensor, second: Tensor, step: int) -> dict:
    "What each rule makes of a gradient; the moments are Adam's."
    corrected = first / (1 - 0.9**step), second / (1 - 0.99**step)
    size = g.square().flatten(1).mean(1).sqrt().clamp_min(SINK)
    return {
        "normalised": g / size[:, None, None],
        "adam": corrected[0] / corrected[1].sqrt().clamp_min(SINK),
        "sign": g.sign(),
    }


def free_ascent(value, x: Tensor, box, rules, unit=1.0, steps=100, enough=np.inf):
    """The largest `value` on the way up from each series, and where it was found.

    Inside a box, without regularisers. Row i climbs by rule i; steps shrink linearly to nothing.
    Ends where one row has `enough`.
    """
    names = [name for name, _ in rules]
    rates = torch.tensor([rate for _, rate in rules])[:, None, None] * unit
    best = torch.full((len(x),), -float("inf"))
    there = x.clone()
    first = torch.zeros_like(x)
    second = torch.zeros_like(x)
    for step in range(1, steps + 2):
        x = x.detach().requires_grad_()
        found = value(x)
        better = found.detach() > best
        best = torch.where(better, found.detach(), best)
        there = torch.where(better[:, None, None], x.detach(), there)
        if best.max() >= enough:
            break
        g = torch.autograd.grad(found.sum(), x)[0].nan_to_num()
        first = 0.9 * first + 0.1 * g
        second = 0.99 * second + 0.01 * g.square()
        said = directions(g, first, second, step)
        along = torch.stack([said[name][i] for i, name in enumerate(names)])
        x = torch.clamp(x.detach() + rates * (1 - (step - 1) / steps) * along, *box)
    return best, there


def ceiling_starts(ref, c) -> Tensor:
    "Five series to climb from: two of the class, one of another, noise, a flat line."
    own = ref.exemplars(c, min(2, int((ref.exemplar_classes == c).sum())))
    other = ref.exemplars((c + 1) % ref.n_classes, 1)
    noise = torch.randn(other.shape, generator=torch.Generator().manual_seed(c))
    flat = torch.zeros_like(other) + ref.X.mean()
    return torch.cat([own[:1], own[-1:], other, flat + ref.X.std() * noise, flat])


def best_of_20(value, ref, c, box, enough=np.inf) -> float:
    """The best of 20 free ascents: five starts, four rules each.

    The best of them goes on carefully; all end where one has `enough`.
    """
    unit = float(ref.X.std())
    x = ceiling_starts(ref, c).repeat_interleave(len(RULES), 0)
    rules = RULES * (len(x) // len(RULES))
    best, there = free_ascent(value, x, box, rules, unit, enough=enough)
    if best.max() < enough:
        top = there[best.argmax()].expand(len(CAREFUL), -1, -1)
        best, _ = free_ascent(value, top, box, CAREFUL, unit, enough=enough)
    return float(best.max())


def climbs_on(value, x: Tensor, box, unit) -> Tensor:
    "How much four careful free ascents from each series add to its value, (n,)."
    with torch.no_grad():
        before = value(x)
    rules = CAREFUL * len(x)
    after, _ = free_ascent(value, x.repeat_interleave(4, 0), box, rules, unit)
    return after.reshape(len(x), 4).amax(1) - before


# ---- a unit: one data set, one model


def numbers(v, digits=3) -> list:
    "As JSON can hold them, short; None where there is none."
    v = torch.as_tensor(v).double().tolist()
    return [float(f"{one:.{digits}g}") if np.isfinite(one) else None for one in v]


@dataclass
class Place:
    "Where one class and region of one model are dreamed, and what is known of it."

    model: nn.Module
    ref: sd.Reference
    c: int
    region: str
    target: Target
    clamp: str  # which kind of bounds, see `bounds`
    box: tuple  # lowest and highest values

    def by(self, treat: str):
        "What a free ascent raises: the place along the line, or nearness to the vector."
        if treat == "along":
            return lambda x: self.target.place(self.model(x))
        return lambda x: -self.target.error(self.model(x), treat)

    def reached_freely(self, treat: str) -> float:
        "The best of 20: place in class means, or the smallest error, which may end at arrival."
        enough = np.inf if treat == "along" else -0.9 * ARRIVED
        return best_of_20(self.by(treat), self.ref, self.c, self.box, enough)


def bounds(ref) -> tuple[str, tuple]:
    "The recipe's own clamp: one range, a range for each channel, or one for each point."
    clamp = clamp_to(ref)
    box = (torch.as_tensor(clamp.low), torch.as_tensor(clamp.high))
    if box[0].ndim and box[0].shape[-1] > 1:
        return "points", box
    return ("channels" if box[0].numel() > 1 else "range"), box


def places(model, ref):
    "Every class and region of a model."
    clamp, box = bounds(ref)
    for c in range(min(CLASSES, ref.n_classes)):
        origin = ref.pooled_mean.float()
        away = ref.means[c].float() - origin
        for region, k in REGIONS.items():
            yield Place(model, ref, c, region, Target(origin, away, k), clamp, box)


def gains(p: Place, d, treat) -> Tensor:
    "In class means, what a free ascent adds to a dream that has not arrived; NaN where it has."
    found = torch.full((len(d),), float("nan"))
    left = [i for i, s in enumerate(d.status) if s not in ("arrived", "unmoved")]
    if left:
        unit = float(p.ref.X.std())
        nearer = climbs_on(lambda x: -p.target.error(p.model(x), treat), d.x[left], p.box, unit)
        found[left] = nearer * p.target.k
    return found


def passes(d) -> Tensor:
    "Forward and backward passes of each row; where none are kept, those of the walk and report."
    if hasattr(d, "evaluations"):
        return d.evaluations
    asked = d.history["loss"].isfinite().sum(0)
    arrived = torch.tensor([status == "arrived" for status in d.status])
    return 2 * asked - arrived.long() + 1


def dreamt(p: Place, options: dict) -> dict:
    "One class and region: eight dreams, and what is recorded of them."
    n = min(N, int((p.ref.exemplar_classes == p.c).sum()))
    began = time.process_time()
    d = sd.sequence_dreaming(p.model, p.ref, p.c, p.region, n=n, **options)
    seconds = time.process_time() - began
    treat = d.settings["treat"]
    with torch.no_grad():
        a = p.model(d.x)
    change = (d.x - d.start).square().flatten(1).mean(1).sqrt()
    return {
        "class": p.c,
        "region": p.region,
        "treat": treat,
        "clamp": p.clamp,
        "seconds": round(seconds, 3),
        "status": list(d.status),
        "steps": d.steps.tolist(),
        "evaluations": passes(d).tolist(),
        "multiple": numbers(p.target.place(a)),
        "error": numbers(p.target.error(a, treat)),
        "change": numbers(change / d.start.square().flatten(1).mean(1).sqrt()),
        "gain": numbers(gains(p, d, treat)),
    }


def ceilings(found: dict, here: list, treats: set) -> dict:
    "By clamp and class: the place that 20 free ascents reach, and the smallest error of a vector."
    known = found.get("ceilings", {})
    for p in here:
        own = known.setdefault(p.clamp, {}).setdefault(str(p.c), {})
        if "place" not in own:
            own["place"] = numbers([p.reached_freely("along")], 5)[0]
        if "vector" in treats and p.region not in own:
            own[p.region] = numbers([-p.reached_freely("vector")], 5)[0]
    return known


def measure(name, kind, ways, found: dict, cache: str) -> dict:
    "One data set and model in the ways that are still missing."
    torch.set_num_threads(1)
    began = time.process_time()
    data = read(name, kind)
    model = trained(name, kind, data, Path(cache)).requires_grad_(False)
    held = (data.X_test, data.y_test)
    names = {"classes": data.classes, "name": name, "allow_single": True}
    ref = sd.Reference.from_data(model, data.X_train, data.y_train, holdout=held, **names)
    ready = time.process_time()
    here = list(places(model, ref))
    for way in ways:
        found.setdefault("ways", {})[way] = [dreamt(p, WAYS[way]) for p in here]
    dreamed = time.process_time()
    treats = {row["treat"] for rows in found["ways"].values() for row in rows}
    found["ceilings"] = ceilings(found, here, treats)
    with torch.no_grad():
        right = torch.cat([model(x).argmax(1) for x in torch.as_tensor(data.X_test).split(256)])
    found["test_accuracy"] = round(float((right == torch.as_tensor(data.y_test)).float().mean()), 3)
    found["shape"] = [len(data.X_train), *data.X_train.shape[1:], data.n_classes]
    spent = {"ready": ready - began, "dreams": dreamed - ready}
    spent["ceilings"] = time.process_time() - dreamed
    found["seconds"] = {key: round(v, 1) for key, v in spent.items()}
    return {"set": name, "model": kind, **found}


# ---- what it amounts to


def can_be_reached(top: dict, row: dict) -> bool:
    "Did one of 20 free ascents reach the target?"
    if row["treat"] == "along":
        return top["place"] >= (1 - ARRIVED) * REGIONS[row["region"]]
    return top.get(row["region"], np.inf) <= ARRIVED


def is_proven(status: str, gain: float | None, multiple: float | None) -> bool:
    "Saturated, and a free ascent from there gains less than 5 % of what was reached."
    if status != "saturated" or gain is None:
        return False
    return gain <= STOPS * max(1.0, multiple or 0.0)


def judge(unit: dict) -> dict:
    "The same unit; every class and region says whether it can be reached, and what is proven."
    for rows in unit["ways"].values():
        for row in rows:
            row["reachable"] = can_be_reached(
                unit["ceilings"][row["clamp"]][str(row["class"])], row
            )
            each = zip(row["status"], row["gain"], row["multiple"])
            row["proven"] = [is_proven(*one) for one in each]
    return unit


EACH = ("status", "steps", "evaluations", "multiple", "error", "change", "gain", "proven")


def as_rows(found: dict) -> pd.DataFrame:
    "A line per dream."
    parts = []
    for unit in found["units"].values():
        for way, rows in unit["ways"].items():
            for row in rows:
                part = pd.DataFrame({key: row[key] for key in EACH})
                same = {key: row[key] for key in ("class", "region", "treat", "reachable")}
                ceiling = unit["ceilings"][row["clamp"]][str(row["class"])]["place"]
                same |= {"set": unit["set"], "model": unit["model"], "way": way}
                parts.append(part.assign(**same, ceiling=ceiling, row=range(len(part))))
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(there=rows["status"].isin(["arrived", "unmoved"]))


def shares(g: pd.DataFrame) -> pd.Series:
    "Of some dreams: per cent of each end, medians of what they cost and changed."
    saturated = g["status"] == "saturated"
    settled = {
        "dreams": len(g),
        "arrived": 100 * g["there"].mean(),
        "proven": 100 * g["proven"].mean(),
        "unproven": 100 * (saturated & ~g["proven"]).mean(),
        "exhausted": 100 * (g["status"] == "exhausted").mean(),
        "reachable": 100 * g["reachable"].mean(),
        "of those reached": 100 * g.loc[g["reachable"], "there"].mean(),
    }
    cost = {"passes": g["evaluations"].median(), "change": g["change"].median()}
    return pd.Series(settled | cost)


def summary(rows: pd.DataFrame, by: list) -> pd.DataFrame:
    "A line for each group of dreams."
    return rows.groupby(by, sort=False).apply(shares, include_groups=False).round(2)


# ---- the run


def quick_sets() -> list[str]:
    "Six small sets; those that aeon brings stand in for those that are not at hand."
    at_hand = sd.available_datasets()
    return [name for name in (*QUICK, *at_hand) if name in at_hand][:6]


def all_sets() -> list[str]:
    "Every set that loads without a word more, and those in LENGTHS."
    return [name for name in sd.available_datasets() if _loads(name)]


def _loads(name) -> bool:
    try:
        sd.load_dataset(name, length=LENGTHS.get(name))
    except ValueError:  # unequal lengths; a resampled copy of it stands beside it
        return False
    return True


def tasks(found: dict, names, kinds, ways) -> list[tuple]:
    "What is still missing: set, model, ways, and what is known of it."
    missing = []
    for kind in kinds:
        for name in names:
            known = found["units"].get(f"{name}/{kind}", {})
            left = [way for way in ways if way not in known.get("ways", {})]
            if left:
                missing.append((name, kind, left, known))
    return missing


def arguments() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    p.add_argument("--quick", action="store_true", help="six sets, the model `paper`")
    p.add_argument("--sets", nargs="+", help="names; else all at hand")
    p.add_argument("--models", nargs="+", choices=list(MODELS))
    p.add_argument("--ways", nargs="+", choices=list(WAYS), default=["default"])
    p.add_argument("--jobs", type=int, default=1, help="processes")
    p.add_argument("--out", default="arrive.json", help="goes on from there if it exists")
    p.add_argument("--cache", default=str(Path(tempfile.gettempdir()) / "seqdream-arrive"))
    return p.parse_args()


def go_on(out: Path, jobs: int, cache: str, *what) -> dict:
    "Everything that is still missing, a unit at a time; the file is whole after each."
    found = {"command": "python tests/benchmarks/arrive.py", "n": N, "units": {}}
    if out.exists():
        found = json.loads(out.read_text())
        for unit in found["units"].values():
            judge(unit)
    missing = [delayed(measure)(*task, cache) for task in tasks(found, *what)]
    for unit in Parallel(jobs, return_as="generator_unordered")(missing):
        found["units"][f"{unit['set']}/{unit['model']}"] = judge(unit)
        text = json.dumps(found, separators=(",", ":")).replace('"units":{', '"units":{\n')
        text = text.replace('},"', '},\n"') + "\n"  # a change shows where it is
        write_whole(out, partial(Path.write_text, data=text))
        print(unit["set"], unit["model"], unit["seconds"], flush=True)
    return found


def show(rows: pd.DataFrame) -> None:
    "By data set, then by model and region."
    with pd.option_context(
        "display.width", 160, "display.max_columns", 20, "display.max_rows", 999
    ):
        print(summary(rows, ["way", "model", "set"]), end="\n\n")
        print(summary(rows, ["way", "model", "region"]), end="\n\n")
        print(summary(rows, ["way", "model"]))


def main():
    a = arguments()
    names = a.sets or (quick_sets() if a.quick else all_sets())
    kinds = a.models or (["paper"] if a.quick else MODELS)
    found = go_on(Path(a.out).resolve(), a.jobs, a.cache, names, kinds, a.ways)
    rows = as_rows(found)
    show(rows[rows["set"].isin(names) & rows["model"].isin(kinds) & rows["way"].isin(a.ways)])


if __name__ == "__main__":
    main()
