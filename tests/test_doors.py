"""Knocks at every public door with values that nobody should send.

Every function, class and method of `seqdream.__all__` is found by its signature. Each number, array
and word that it takes is replaced by hostile ones in a call that is right otherwise. Right is one
error that this library raises itself and that names the parameter or the value. A new public name
needs a line in `CALLS`, or this fails.
"""

import importlib
import inspect
import re
import signal
import time
import traceback
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import seqdream as sd

HOME = Path(sd.__file__).parent
SECONDS = 3  # a call that has not complained by then will not: it counts as accepted
nan = float("nan")
inf = float("inf")
NUMBERS = [nan, inf, -inf, True, "3", 0, -1, 2**70, 1.5, None, [], np.array([])]
WORD = "no such word"
COMPLAINTS = (ValueError, TypeError, OSError, FloatingPointError, ImportError)

# --- what may be accepted -------------------------------------------------------------------------

ZERO = {  # parameters that may be 0
    *("seed", "feature", "row", "channel", "i", "step", "resumed", "target_class", "held"),
    *("sigma", "noise", "scale", "weight", "tolerance", "diversity", "shake"),
    *("lambda_alpha", "lambda_beta", "lambda_l2", "lambda_sm", "weight_decay", "level", "decay"),
    *("rate", "spread", "shift", "flip", "reverse", "average", "label_smoothing", "validation"),
    *("percent", "mean", "x", "y", "smoothing"),
}
SHARES = {  # and those that are no more than 1
    *("alike", "average", "decay", "factor", "fade", "flip", "label_smoothing", "rate"),
    *("reverse", "share", "shift", "spread", "validation"),
}
NEGATIVE = {"level", "mean", "x", "y", "n_jobs"}  # and those that may be below
EMPTY = {"held", "snapshots", "channels", "units"}  # and lists that may be empty
MORE = {  # what else, by function and parameter
    ("Smoothing", "share"): [0],
    ("Smoothing", "steps"): [0],
    ("Reference.toward", "k"): [0, -1],  # any multiple is a place on the line
    ("Clamp", "low"): [0, -1],
    ("Clamp", "high"): [0, -1, 1.5],
    ("Probe.batched", "batch_size"): [],
    ("ClampSpectrum", "low"): [0, -1],
    ("FCN", "n_classes"): [1],
    ("band", "low"): [0],
    ("typical", "low"): [0],
    ("verdict", "d"): [[]],
    ("Physical", "scale"): [2**70],  # of data on any scale
    ("class_index", "target"): [0],
    ("Adapter", "output"): [0, -1, 2**70, "3"],  # places in an answer not yet seen
    ("Probe", "axis"): [0, -1, 2**70, None],  # the same of a layer's
    ("Reference.from_data", "axis"): [-1, None],  # of the output, which has one more
}
MORE |= {("load_dataset", name): [0, -1, "3"] for name in ("label", "index", "series")}  # columns
MORE["make_report", "label"] = [0, -1, 2**70, "3"]  # a column of a table that is not yet read
ARRAYS = ["series", "train", "test", "labels", "activations"]  # what arrays are called
SAID_AS = {"percent": "percentile", "X": "series", "y": "labels", "target_class": "class"}
THROUGH = {("class_margin", "a")}  # NaN comes out where NaN goes in
MADE = {  # classes whose tensors this library computes: a function makes the object
    *("Band", "TrustRegion", "ClampSpectrum", "Phase", "Whitened", "Fourier", "Wavelet", "Hold"),
    *("Reference", "Dreams", "Dataset", "Clamp"),
}
FREE = {  # words that may be anything: names, labels, paths to write to, text to show
    *("name", "source", "label", "command", "of", "path", "shares", "out", "classes"),
    *("channels", "units", "checkpoint", "settings", "source", "output", "said"),
}


def is_fine(owner, parameter, value) -> bool:
    "May this hostile value be accepted here?"
    name = parameter.name
    if repr(value) in map(repr, MORE.get((owner, name), ())):
        return True
    if value is None:
        return parameter.default is None
    if isinstance(value, (list, np.ndarray)):
        return name in EMPTY
    if isinstance(value, bool):
        return False
    if value == 0:
        return name in ZERO
    if value == -1:
        return name in NEGATIVE
    if value == 1.5:
        return "float" in words_of(parameter) and name not in SHARES
    if value == 2**70:
        return name in ("mean", "x", "y")  # a number of the user's own data
    return False


# --- a small world --------------------------------------------------------------------------------


@dataclass
class World:
    "What calls need: two channels, two classes, a tiny trained network and what comes of it."

    X: torch.Tensor
    y: torch.Tensor
    data: object
    model: object
    ref: object
    dreams: object
    found: object
    history: object
    folder: Path


@cache
def world() -> World:
    "Made once."
    import tempfile

    g = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 2
    wave = torch.sin(torch.arange(24) / 2.0)
    X = torch.randn(40, 2, 24, generator=g) + (2 * y - 1)[:, None, None] * wave
    data = sd.Dataset.from_arrays(X, [("down", "up")[i] for i in y], name="toy")
    model = sd.FCN(2, 2, (4, 4, 4), (5, 3, 3))
    history = sd.fit(model, data, epochs=4, batch_size=8, progress=False)
    ref = sd.Reference.from_data(model, X, y, classes=("down", "up"), exemplars=40)
    how = {"n": 2, "steps": 2, "snapshots": (0, 1, 2)}
    dreams = sd.sequence_dreaming(model, ref, 1, **how)
    found = sd.grid_search(model, ref, 1, grid={"steps": [1, 2]}, progress=False)
    folder = Path(tempfile.mkdtemp())
    sd.save_model(model, folder / "model")
    ref.save(folder / "reference.safetensors")
    dreams.save(folder / "dreams.safetensors")
    rows = [",".join([*map(str, row.tolist()), ["down", "up"][i]]) for row, i in zip(X[:, 0], y)]
    head = ",".join([*(f"t{i}" for i in range(24)), "kind"])
    (folder / "table.csv").write_text("\n".join([head, *rows]) + "\n")
    return World(X, y, data, model, ref, dreams, found, history, folder)


def pair(**more) -> dict:
    "The model, its reference, a class, and what else there is to say."
    w = world()
    return {"model": w.model, "ref": w.ref, "target_class": 1, **more}


def aim(**more) -> dict:
    "The same without the model."
    return {"ref": world().ref, "target_class": 1, **more}


@dataclass
class Call:
    "A right call: a function, its arguments, and whether it is cheap enough to be made."

    function: object
    kwargs: dict
    run: bool = True


# Each is made when it is needed: names -> a function that gives the call. Constructors stand under
# the class's name, methods under "Class.method".
def ingredients() -> dict:
    "What is done to a series, and what is added to the loss."
    own = ("AlphaNorm", "Diversity", "ExponentialSmoothing", "GaussianBlur", "Jitter", "L2Decay")
    own += ("MovingAverage", "NoiseOnOvershoot", "NoiseOnStall", "RandomRestart", "RandomScaling")
    own += (
        "Smoothing",
        "Smoothness",
        "Time",
        "TotalVariation",
        "UnitGradient",
        "Augment",
        "Physical",
    )
    calls = {name: Call(getattr(sd, name), {}) for name in own}
    w = world()
    band = sd.band(w.ref, 1)
    within = sd.trust_region(w.ref, 1, 90, w.X[:2])
    spectrum = sd.clamp_spectrum_to(w.X)
    phase = sd.Phase.of_data(w.ref)
    white = sd.Whitened.of_data(w.ref)
    made = {"Band": band, "TrustRegion": within, "ClampSpectrum": spectrum, "Phase": phase}
    made |= {"Whitened": white, "Fourier": sd.Fourier(24), "Wavelet": sd.Wavelet(24)}
    made["Hold"] = sd.Hold(sd.Time(), (0,), w.X[:2])
    for name, thing in made.items():
        fields = {name: getattr(thing, name) for name in inspect.signature(type(thing)).parameters}
        calls[name] = Call(type(thing), fields)
    calls["Clamp"] = Call(sd.Clamp, {"low": -1.0, "high": 1.0})
    calls["Fourier.of_data"] = Call(sd.Fourier.of_data, {"ref": w.ref})
    calls["Phase.of_data"] = Call(sd.Phase.of_data, {"ref": w.ref})
    calls["Jitter.active"] = Call(sd.Jitter().active, {"step": 3})
    calls["Whitened.of_data"] = Call(sd.Whitened.of_data, aim())
    calls["Wavelet.of_data"] = Call(sd.Wavelet.of_data, {"ref": w.ref, "wavelet": "db2"})
    calls["clamp_spectrum_to"] = Call(sd.clamp_spectrum_to, {"X": w.X})
    calls["amplitude_spectrum"] = Call(sd.amplitude_spectrum, {"x": w.X})
    calls["band"] = Call(sd.band, aim())
    calls["typical"] = Call(sd.typical, aim())
    calls["trust_region"] = Call(sd.trust_region, aim(percent=90, start=w.X[:2]))
    calls["scramble_phases"] = Call(sd.scramble_phases, {"x": w.X})
    calls["z_normalise"] = Call(sd.z_normalise, {"x": w.X})
    calls["clamp_to"] = Call(sd.clamp_to, {"ref": w.ref})
    return calls


def data_and_models() -> dict:
    "The ground floor."
    w = world()
    p = sd.Physical(10.0, ("a", "b"), "V")
    sizes = {"n_channels": 2, "n_classes": 2}
    small = {**sizes, "filters": (4, 4, 4), "kernels": (5, 3, 3)}
    about = {"X": w.X, "y": w.y}
    fields = {name: getattr(w.data, name) for name in inspect.signature(sd.Dataset).parameters}
    labels = [("down", "up")[i] for i in w.y]
    arrays = {"X_train": w.X, "y_train": labels, "X_test": w.X[:6], "y_test": labels[:6]}
    fitting = {"model": sd.FCN(**small), "data": w.data, "epochs": 1, "progress": False}
    return {
        "Adapter": Call(sd.Adapter, {"model": w.model}),
        "Dataset": Call(sd.Dataset, fields),
        "Dataset.from_arrays": Call(sd.Dataset.from_arrays, arrays),
        "FCN": Call(sd.FCN, small),
        "InceptionTime": Call(sd.InceptionTime, {**sizes, "filters": 4, "depth": 1}),
        "ResNet": Call(sd.ResNet, small),
        "ResNet.preset": Call(sd.ResNet.preset, {"name": "paper", **sizes}),
        "Physical.channel": Call(p.channel, {"i": 1}),
        "Physical.restore": Call(p.restore, {"x": w.X}),
        "Probe": Call(sd.Probe, {"model": w.model}),
        "Probe.batched": Call(sd.Probe(w.model).batched, {"X": w.X}),
        "accuracy": Call(sd.accuracy, {"model": w.model, **about}),
        "available_datasets": Call(sd.available_datasets, {"root": w.folder}),
        "check_labels": Call(sd.check_labels, {"y": w.y}),
        "class_index": Call(sd.class_index, {"target": 1, "classes": ("down", "up")}),
        "inspect_model": Call(sd.inspect_model, {"model": w.model, "X": w.X}),
        "check_series": Call(sd.check_series, {"x": w.X}),
        "fit": Call(sd.fit, fitting),
        "load_dataset": Call(sd.load_dataset, {"name": w.folder / "table.csv", "label": "kind"}),
        "load_judges": Call(sd.load_judges, {"name": "FordA"}),
        "load_model": Call(sd.load_model, {"path": w.folder / "model"}),
        "load_pretrained": Call(sd.load_pretrained, {"model": "paper"}),
        "make_model": Call(sd.make_model, {"name": "paper", **sizes}),
        "predict": Call(sd.predict, {"model": w.model, "X": w.X}),
        "save_model": Call(sd.save_model, {"model": w.model, "path": w.folder / "other"}),
        "train_judges": Call(
            sd.train_judges,
            {"X": w.X, "y": w.y, "X_new": w.X, "y_new": w.y, "epochs": 1, "which": ("spectrum",)},
        ),
        "train_model": Call(
            sd.train_model, {"data": w.data, "preset": "paper", "epochs": 1, "progress": False}
        ),
    }


def references() -> dict:
    "What the data look like to the model."
    w = world()
    ref = w.ref
    of = {"x": w.X[:3], "target_class": 1}
    fields = {name: getattr(ref, name) for name in inspect.signature(sd.Reference).parameters}
    making = {"model": w.model, "X": w.X, "y": w.y, "classes": ("down", "up"), "exemplars": 8}
    return {
        "Reference": Call(sd.Reference, fields),
        "Reference.check_class": Call(ref.check_class, {"target_class": 1}),
        "Reference.check_dreams": Call(ref.check_dreams, {"dreams": w.dreams}),
        "Reference.check_model": Call(ref.check_model, {"model": w.model}),
        "Reference.distance": Call(ref.distance, of),
        "Reference.exemplars": Call(ref.exemplars, {"target_class": 1, "n": 2}),
        "Reference.from_data": Call(sd.Reference.from_data, making),
        "Reference.load": Call(sd.Reference.load, {"path": w.folder / "reference.safetensors"}),
        "Reference.medoid": Call(ref.medoid, {"target_class": 1}),
        "Reference.nearest": Call(ref.nearest, of),
        "Reference.percentile": Call(ref.percentile, of),
        "Reference.quantile": Call(ref.quantile, {"target_class": 1, "percent": 50}),
        "Reference.save": Call(ref.save, {"path": w.folder / "again.safetensors"}),
        "Reference.toward": Call(ref.toward, {"target_class": 1}),
        "class_margin": Call(sd.class_margin, aim(a=ref.activations)),
        "climb": Call(sd.climb, aim()),
        "direction": Call(sd.direction, {"v": torch.tensor([1.0, 2.0])}),
        "margin": Call(sd.margin, aim()),
        "reach": Call(sd.reach, aim()),
        "region_target": Call(sd.region_target, aim()),
        "score": Call(sd.score, {"feature": 1}),
        "tie": Call(sd.tie, aim()),
    }


def dreaming() -> dict:
    "The recipes."
    w = world()
    few = {"n": 2, "steps": 1}
    walk = {"model": w.model, "start": w.X[:2], "objective": sd.score(1), "steps": 1}
    fields = {name: getattr(w.dreams, name) for name in inspect.signature(sd.Dreams).parameters}
    return {
        "Dreams": Call(sd.Dreams, fields),
        "Dreams.load": Call(sd.Dreams.load, {"path": w.folder / "dreams.safetensors"}),
        "Dreams.save": Call(w.dreams.save, {"path": w.folder / "again.safetensors"}),
        "Objective": Call(sd.Objective, {"loss": torch.sum, "label": "sum"}),
        "control": Call(sd.control, pair(kind="noise", n=2)),
        "dream": Call(sd.dream, walk),
        "ellis": Call(sd.ellis, pair(**few)),
        "gradient_ascent": Call(sd.gradient_ascent, pair(**few)),
        "grounded_dreaming": Call(sd.grounded_dreaming, pair(**few)),
        "median_spectrum": Call(sd.median_spectrum, aim(n=2)),
        "sequence_dreaming": Call(sd.sequence_dreaming, pair(**few)),
        "starting_series": Call(sd.starting_series, aim(n=2)),
        "target_descent": Call(sd.target_descent, pair(**few)),
        "without_loss": Call(sd.without_loss, {"ref": w.ref}),
    }


def searching() -> dict:
    "Table 1 as a batch."
    w = world()
    fields = {name: getattr(w.found, name) for name in inspect.signature(sd.Search).parameters}
    grid = {"grid": {"steps": [1]}, "progress": False}
    return {
        "Search": Call(sd.Search, fields),
        "Search.best": Call(w.found.best, {}),
        "Search.importance": Call(w.found.importance, {}, run=False),
        "Search.pareto": Call(w.found.pareto, {}),
        "Search.recommended": Call(w.found.recommended, {}),
        "grid_search": Call(sd.grid_search, pair(**grid)),
        "judge": Call(sd.judge, {"found": w.found, "model": w.model, "ref": w.ref, "n": 2}),
        "paper_grid": Call(sd.paper_grid, {}),
    }


def asking() -> dict:
    "Is it true?"
    w = world()
    of = {"d": w.dreams, "model": w.model, "ref": w.ref}
    tables = {"sets": {"SD": [w.dreams]}, "ref": w.ref, "space": "time"}
    return {
        "compare": Call(sd.compare, of),
        "distance_table": Call(sd.distance_table, tables),
        "distinct_modes": Call(sd.distinct_modes, {"x": w.X[:4]}),
        "evaluate": Call(sd.evaluate, {"d": w.dreams, "ref": w.ref}),
        "frequency_importance": Call(sd.frequency_importance, pair(x=w.X[:2], bands=3)),
        "verdict": Call(sd.verdict, of),
    }


def faces() -> dict:
    "Pictures, the page, the widgets."
    w = world()
    some = {"dreams": w.dreams, "ref": w.ref}
    by = sd.compare(w.dreams, w.model, w.ref)
    fig = sd.plot_activations(w.ref)
    page = {"model": w.model, "ref": w.ref, "card": {}, "out": w.folder / "page"}
    elsewhere = {"name": "Nowhere", "root": w.folder, "out": w.folder / "report", "model": "paper"}
    return {
        "make_report": Call(sd.make_report, elsewhere, run=False),
        "plot_activations": Call(sd.plot_activations, {"ref": w.ref}),
        "plot_dreams": Call(sd.plot_dreams, some),
        "plot_history": Call(sd.plot_history, {"history": w.history}),
        "plot_path": Call(sd.plot_path, {"d": w.dreams, "ref": w.ref}),
        "plot_projection": Call(sd.plot_projection, some),
        "plot_search": Call(sd.plot_search, {"found": w.found}),
        "plot_spectra": Call(sd.plot_spectra, some),
        "plot_twins": Call(sd.plot_twins, {"comparison": by}),
        "plot_violins": Call(sd.plot_violins, some),
        "save_figure": Call(sd.save_figure, {"fig": fig, "path": w.folder / "fig"}),
        "write_report": Call(sd.write_report, page, run=False),
    }


PARTS = (ingredients, data_and_models, references, dreaming, searching, asking, faces)
# Not knocked at: what a walk calls at every step, with what it made itself, and the explorer's
# buttons. `Walk`, `encode` and the like cost as much as a check of them would.
WITHIN = {
    *("encode", "decode", "forward", "features", "raw", "pooled", "check", "shaken", "excess"),
    *("inside", "of_rows", "settings", "all_exemplars", "pretrained_models", "explore"),
    *("meet", "onto", "settle", "after", "standardised"),
}


@cache
def calls() -> dict:
    "Name -> call."
    return {name: call for part in PARTS for name, call in part().items()}


# --- which doors there are ------------------------------------------------------------------------


def public_doors() -> list[str]:
    "Functions, constructors and methods of `seqdream.__all__`."
    found = []
    for name in sd.__all__:
        thing = getattr(sd, name)
        if name in WITHIN or name == "Explorer":
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            found.append(name)
        if inspect.isclass(thing):
            methods = [k for k, m in vars(thing).items() if k[0] != "_" and is_method(m)]
            found += [f"{name}.{method}" for method in methods if method not in WITHIN]
    return found


def is_method(member) -> bool:
    return inspect.isfunction(getattr(member, "__func__", member))


def words_of(parameter) -> set[str]:
    "The words of a parameter's type."
    said = parameter.annotation
    said = said if isinstance(said, str) else inspect.formatannotation(said)
    for sign in "[]|,'.":
        said = said.replace(sign, " ")
    return set(said.split())


def parameters(call: Call) -> list:
    "What a call takes by name."
    found = inspect.signature(call.function).parameters.values()
    return [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


# --- knocking -------------------------------------------------------------------------------------


class TooLong(Exception):
    "A call that goes on."


def ring(signum, frame):
    raise TooLong


def given(call: Call, name: str, value, by_position: bool) -> tuple:
    "Arguments by position and by name, one of them hostile."
    kwargs = {**call.kwargs, name: value}
    if not by_position:
        return (), kwargs
    bound = inspect.signature(call.function).bind(**kwargs)
    bound.apply_defaults()
    return bound.args, bound.kwargs


def outcome(call: Call, name: str, value, by_position: bool = False) -> str | None:
    "What is wrong with the answer to a hostile value; None: it was refused as it should be."
    args, kwargs = given(call, name, value, by_position)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call.function(*args, **kwargs)
    except TooLong:
        return "no complaint"
    except COMPLAINTS as e:
        return faults_of(e, name, value)
    except Exception as e:  # whatever torch or numpy raise
        return f"{type(e).__name__} in {last_file(e)}: {str(e)[:60]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "accepted"


def last_file(e: BaseException) -> str:
    "Where an error came from."
    return traceback.extract_tb(e.__traceback__)[-1].filename


def faults_of(e: BaseException, name: str, value) -> str | None:
    "Is this error ours, and does it say what it is about?"
    file = Path(last_file(e))
    text = str(e)
    if not file.is_relative_to(HOME):
        return f"{type(e).__name__} in {file.parent.name}/{file.name}: {text[:60]}"
    said = [name, name.partition("_")[0], SAID_AS.get(name, name), str(value), repr(value)]
    said += ARRAYS if np.ndim(value) > 1 or isinstance(value, np.ndarray) else []
    if not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in said if word):
        return f"says nothing of it: {text[:80]}"
    return None


def shown(value) -> str:
    "A hostile value in a few words."
    if np.ndim(value) < 2:
        return " ".join(repr(value)[:40].split())
    bad = "" if value.dtype.kind != "f" or np.isfinite(value).all() else ", nan or inf"
    return f"<{value.dtype} {value.shape}{bad}>"


def faults(name: str, hostile) -> list[str]:
    "Everything wrong at one door; `hostile` gives values for a parameter, none where it is other."
    call = calls()[name]
    found = []
    for parameter in parameters(call):
        for value in hostile(name, parameter, call):
            wrong = outcome(call, parameter.name, value)
            if wrong:
                found.append(f"{name}({parameter.name}={shown(value)}): {wrong}")
    return found


def hostile_numbers(name: str, parameter, call: Call) -> list:
    "For a parameter that takes numbers."
    if not words_of(parameter) & {"int", "float"} or parameter.name == "settings":
        return []
    return [v for v in NUMBERS if not is_fine(name, parameter, v)]


def hostile_words(name: str, parameter, call: Call) -> list:
    "For a parameter that takes one of some words, or the name of something that there is."
    said = words_of(parameter)
    fixed = "str" in said and "dict" not in said and parameter.name not in FREE
    return [WORD] if fixed else []


def hostile_arrays(name: str, parameter, call: Call) -> list:
    "For a parameter that takes series, activations or labels, made from what is right."
    right = call.kwargs.get(parameter.name)
    if not isinstance(right, torch.Tensor) or name in MADE:
        return []
    v = right.numpy().copy()
    words = [] if name == "check_labels" else [v.astype(str)]
    found = [v[:0], *words, v + 1j, np.full(v.shape, None), v[None, None, None]]
    if v.dtype.kind == "f":
        spoiled = [v.copy() for _ in range(2)]
        for one, bad in zip(spoiled, (nan, inf)):
            one.reshape(-1)[1] = bad
        found += [] if (name, parameter.name) in THROUGH else spoiled
    if v.ndim == 3 and "ref" in call.kwargs:
        found += [v[:, :1], v[:, :, :-3]]
    return found


# --- what is found --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def alarm():
    "A call that does not end is ended."
    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.signal(signal.SIGALRM, before)


def report(found: list[str]) -> None:
    "Fail with the list."
    assert not found, f"{len(found)} doors answer wrongly:\n" + "\n".join(found[:60])


def test_doors_all_have_a_call():
    missing = sorted(set(public_doors()) - set(calls()))
    assert not missing, f"a new door: give it a call in tests/test_doors.py: {missing}"
    gone = sorted(set(calls()) - set(public_doors()))
    assert not gone, f"no such door any more: {gone}"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_doors_open_to_what_is_right(part):
    for name in part():
        call = calls()[name]
        if call.run:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call.function(**call.kwargs)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
@pytest.mark.parametrize("hostile", [hostile_numbers, hostile_words, hostile_arrays])
def test_doors_closed_to_what_is_hostile(part, hostile):
    report([line for name in part() for line in faults(name, hostile)])


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_doors_closed_to_nan_by_position(part):
    found = []
    for name in part():
        call = calls()[name]
        for parameter in parameters(call):
            if any(v is nan for v in hostile_numbers(name, parameter, call)):
                wrong = outcome(call, parameter.name, nan, by_position=True)
                found += [f"{name}({parameter.name}=nan): {wrong}"] if wrong else []
    report(found)


def forms(v: torch.Tensor) -> list:
    "The same numbers, held otherwise."
    a = v.numpy()
    backwards = np.ascontiguousarray(a[..., ::-1])[..., ::-1]
    apart = np.repeat(a, 2, axis=0)[::2]
    return [a, backwards, apart, np.asfortranarray(a), a.astype(np.float64), a.tolist(), v.mT.mT]


def same(one, two) -> bool:
    "Equal results, up to nothing."
    if isinstance(one, tuple):
        return all(map(same, one, two))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    return not isinstance(one, np.ndarray) or np.array_equal(one, two)


@pytest.mark.parametrize("name", ["scramble_phases", "amplitude_spectrum", "distinct_modes"])
def test_doors_take_the_same_numbers_in_any_form(name):
    call = calls()[name]
    expected = call.function(**call.kwargs)
    for form in forms(call.kwargs["x"]):
        assert same(call.function(**{**call.kwargs, "x": form}), expected)


def test_doors_take_numbers_of_numpy_and_torch():
    "As plain ones: what is kept is what a user would have written."
    plain = sd.sequence_dreaming(**pair(n=2, steps=2, seed=3, k=2.0))
    numbers = {"n": np.int64(2), "steps": torch.tensor(2), "seed": np.int32(3), "k": np.float32(2)}
    other = sd.sequence_dreaming(**pair(**numbers))
    assert torch.equal(plain.x, other.x)
    assert plain.settings == other.settings


@pytest.mark.parametrize("place", [0, 1.5, True, [], {}, np.array([])])
@pytest.mark.parametrize("name", ["root", "test"])
def test_doors_of_files_take_paths(name, place):
    assert outcome(calls()["load_dataset"], name, place) is None


def test_doors_measured_by_something_that_can_fail():
    "A door without a check is found, one with a foreign error too, and one that names nothing."

    def opened(steps: int = 1):
        return steps

    def foreign(steps: int = 1):
        return torch.zeros(steps)

    def silent(steps: int = 1):
        raise ValueError("wrong")

    assert outcome(Call(opened, {}), "steps", -1) == "accepted"
    assert "RuntimeError" in outcome(Call(foreign, {}), "steps", -1)
    assert outcome(Call(silent, {}), "steps", -1) is not None
    assert outcome(Call(sd.paper_grid, {}), "levels", -1) is None


def test_doors_every_row_of_the_table_is_read():
    read = set()
    for file in HOME.glob("[!_]*.py"):
        for thing in vars(importlib.import_module(f"seqdream.{file.stem}")).values():
            own = [thing, *vars(thing).values()] if inspect.isclass(thing) else [thing]
            for one in own:
                read |= set(getattr(getattr(one, "__func__", one), "guards", {}))
    assert sorted(set(sd.checks.SETTINGS) - read) == []


def test_doors_refuse_more_than_memory_holds():
    "At once, and with the size."
    began = time.perf_counter()
    with pytest.raises(ValueError, match=r"n=100000000: .* GB"):
        sd.starting_series(**aim(start="noise", n=10**8))
    with pytest.raises(ValueError, match=r"n=100000000: .* GB"):
        sd.sequence_dreaming(**pair(start="flat", n=10**8))
    assert time.perf_counter() - began < 30  # at once, not after trying
