"""The door of a reference: labels come in right; a map, its model and dreams belong together."""

import copy
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import seqdream as sd
from seqdream.files import read_tensors, write_tensors

NAMES = ("left", "right", "up")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    body = (nn.Conv1d(1, 6, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(6, 3)).eval()


def another(net, seed=1):
    "The same architecture, other weights."
    other = copy.deepcopy(net)
    torch.manual_seed(seed)
    for p in other.parameters():
        nn.init.normal_(p)
    return other


@pytest.fixture(scope="module")
def data():
    "Three classes of 9 series of 40 points: X, y."
    y = torch.arange(27) % 3
    slope = torch.linspace(0, 6, 40) * (1 + y[:, None])
    noise = torch.randn(27, 40, generator=torch.Generator().manual_seed(0))
    return (torch.sin(slope) + 0.3 * noise)[:, None], y


@pytest.fixture(scope="module")
def ref(net, data):
    return sd.Reference.from_data(net, *data, classes=NAMES, name="waves")


@pytest.fixture(scope="module")
def dreams(net, ref):
    return sd.sequence_dreaming(net, ref, 1, n=2, steps=3)


# --- labels ---------------------------------------------------------------------------------------


def forms(y):
    "The same class indices in many forms."
    return {
        "tensor": y,
        "int32": y.int(),
        "float": y.float(),
        "numpy": y.numpy(),
        "list": y.tolist(),
        "column": y.numpy()[:, None],
        "series": pd.Series(y.numpy(), index=range(100, 127)),
        "names": np.array(NAMES)[y],
        "bytes": np.array(NAMES)[y].astype("S"),
        "objects": np.array([NAMES[i] for i in y], dtype=object),
        "categories": pd.Series([NAMES[i] for i in y], dtype="category"),
        "one-hot": nn.functional.one_hot(y, 3).numpy(),
    }


@pytest.mark.parametrize("form", forms(torch.arange(27) % 3))
def test_doors_labels_of_any_form_make_one_map(net, data, ref, form):
    X, y = data
    given = forms(y)[form]
    options = {"holdout": (X, given), "classes": NAMES}
    found = sd.Reference.from_data(net, X, given, **options)
    right = sd.Reference.from_data(net, X, y, holdout=(X, y), classes=NAMES)
    assert torch.equal(found.y, y)
    assert torch.equal(found.means, right.means)
    for key, distances in right.heldout.items():
        assert np.array_equal(found.heldout[key], distances), key


nan = float("nan")
WRONG = [
    (lambda y: y + 0.5, "0.5 .*no class index|is no class index"),
    (lambda y: [NAMES[i] for i in y], "label left .*from_arrays"),
    (lambda y: y - 1, "label -1"),
    (lambda y: 2 * y, "class 1 .* has no training series"),
    (lambda y: y * 10**9, "label 1000000000 "),
    (lambda y: [nan, *y.tolist()[1:]], "missing"),
    (lambda y: [None, *y.tolist()[1:]], "missing"),
    (lambda y: ["", *map(str, y.tolist()[1:])], "missing"),
    (lambda y: y[:-1], "27 series but 26 labels"),
    (lambda y: [], "27 series but 0 labels"),
    (lambda y: torch.rand(27), "no class index"),
    (lambda y: torch.randn(27, 3), "labels of shape"),
    (lambda y: ["a", 1, *y.tolist()[2:]], "alike"),
]


@pytest.mark.parametrize("wrong, says", WRONG)
def test_doors_labels_that_are_no_indices_are_refused(net, data, wrong, says):
    X, y = data
    with pytest.raises((ValueError, TypeError), match=says):
        sd.Reference.from_data(net, X, wrong(y))


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda X, y: (X, ["a"] * 27), "held-out labels: label 0 is 'a'.*0 .label left."),
        (lambda X, y: (X, y + 0.5), "held-out labels"),
        (lambda X, y: (X, y + 1), "held-out labels: label 0 is '1'"),
        (lambda X, y: (X, y[:5]), "held-out labels: 27 series but 5 labels"),
        (lambda X, y: (X[..., :30], y), "held-out series"),
        (lambda X, y: (torch.cat([X, X], 1), y), "held-out series"),
        (lambda X, y: (X * nan, y), "held-out series"),
        (lambda X, y: X, "give a pair"),
        (lambda X, y: (X,), "give a pair"),
    ],
)
def test_doors_labels_and_series_held_out_must_fit(net, data, wrong, says):
    X, y = data
    with pytest.raises((ValueError, TypeError), match=says):
        sd.Reference.from_data(net, X, y, holdout=wrong(X, y), classes=NAMES)


@pytest.mark.parametrize(
    "classes, says",
    [
        ("abc", "give a list of labels"),
        (3, "give a list of labels"),
        (["a", "a", "b"], "same label"),
        (["a", "b"], "labels"),
    ],
)
def test_doors_labels_of_classes_are_checked(net, data, classes, says):
    with pytest.raises((ValueError, TypeError), match=says):
        sd.Reference.from_data(net, *data, classes=classes)


def test_doors_labels_true_and_false_are_two_classes(net, data):
    X, y = data
    two = sd.Reference.from_data(net, X, y > 0)
    assert torch.equal(two.y, (y > 0).long())


def test_doors_single_classes_are_still_allowed(net, data):
    X, _ = data
    found = sd.Reference.from_data(net, X, range(27), allow_single=True)
    assert found.n_classes == 27
    with pytest.raises(ValueError, match="one training series"):
        found.distance(X, 0)


def test_doors_labels_work_wherever_an_index_does(net, ref, data, dreams):
    X, _ = data
    for ask in (
        lambda c: ref.distance(X, c),
        lambda c: ref.percentile(X, c),
        lambda c: ref.quantile(c, 90),
        lambda c: ref.nearest(X, c)[0],
        lambda c: ref.nearest(X, c)[1],
        lambda c: ref.medoid(c),
        lambda c: ref.exemplars(c, 3),
        lambda c: ref.toward(c, 2),
        lambda c: sd.control(net, ref, c, "highest_real", 2).x,
        lambda c: sd.sequence_dreaming(net, ref, c, n=1, steps=2).x,
        lambda c: sd.grounded_dreaming(net, ref, c, n=1, steps=2).x,
        lambda c: sd.gradient_ascent(net, ref, c, n=1, steps=2).x,
        lambda c: sd.Whitened.of_data(ref, c).encode(X),
        lambda c: sd.evaluate(dreams, ref, c)["time_distance_range"].to_numpy(),
    ):
        assert np.array_equal(np.asarray(ask("right")), np.asarray(ask(1)))
    assert (sd.evaluate(dreams, ref, "right")["target_class"] == 1).all()
    with pytest.raises(ValueError, match="0 .label left., 1 .label right., 2 .label up."):
        ref.distance(X, "down")


def test_doors_labels_that_could_be_an_index_are_the_index(net, data):
    ref = sd.Reference.from_data(net, *data, classes=["1", "2", "3"])
    assert [ref.check_class(c) for c in (1, 2, 3, "3")] == [1, 2, 2, 2]


# --- whose map is it? -----------------------------------------------------------------------------


def others_model(net, ref, dreams, data):
    "Everything that takes a model with a reference: name -> call with a model."
    return {
        "sequence": lambda m: sd.sequence_dreaming(m, ref, 1, n=1, steps=1),
        "grounded": lambda m: sd.grounded_dreaming(m, ref, 1, n=1, steps=1),
        "ellis": lambda m: sd.ellis(m, ref, 1, n=1, steps=1),
        "control": lambda m: sd.control(m, ref, 1, "medoid"),
        "compare": lambda m: sd.compare(dreams, m, ref),
        "evaluate": lambda m: sd.evaluate(dreams, ref, twins=True, model=m),
        "verdict": lambda m: sd.verdict(dreams, m, ref),
        "verdicts": lambda m: sd.verdict([dreams, dreams], [net, m], [ref, ref]),
        "frequency": lambda m: sd.frequency_importance(m, data[0], ref, 1, bands=4),
        "search": lambda m: sd.grid_search(m, ref, 1, grid={"steps": [1]}, progress=False),
        "check": ref.check_model,
    }


def test_doors_another_model_is_refused_everywhere(net, ref, dreams, data):
    other = another(net)
    for name, call in others_model(net, ref, dreams, data).items():
        with pytest.raises(ValueError, match="other weights") as e:
            call(other)
        assert sd.models.weights_hash(other) in str(e.value), name
        assert ref.meta["model"] in str(e.value), name


def others_reference(dreams):
    "Everything that takes dreams with a reference: name -> call with a reference."
    return {
        "evaluate": lambda r: sd.evaluate(dreams, r),
        "table": lambda r: sd.evaluation.distance_table({"some": [dreams]}, r, "time"),
        "dreams": lambda r: sd.plot_dreams(dreams, r),
        "many dreams": lambda r: sd.plot_dreams([dreams], r),
        "projection": lambda r: sd.plot_projection(r, [dreams]),
        "path": lambda r: sd.plot_path(dreams, r),
        "violins": lambda r: sd.plot_violins(dreams, r),
        "spectra": lambda r: sd.plot_spectra(dreams, r),
        "check": lambda r: r.check_dreams(dreams),
    }


def test_doors_dreams_of_another_model_are_refused_everywhere(net, data, ref, dreams):
    other = sd.Reference.from_data(another(net), *data, classes=NAMES, name="waves")
    for call in others_reference(dreams).values():
        with pytest.raises(ValueError, match="do not belong together") as e:
            call(other)
        assert ref.meta["model"] in str(e.value) and other.meta["model"] in str(e.value)


def test_doors_dreams_of_another_data_set_or_layer_are_refused(net, data, dreams, tmp_path):
    X, y = data
    other = sd.Reference.from_data(net, X.flip(-1), y, name="tides")
    with pytest.raises(ValueError, match="data set waves.*data set tides"):
        sd.evaluate(dreams, other)
    unnamed = sd.Reference.from_data(net, X, y)
    assert len(sd.evaluate(dreams, unnamed)) == 2
    hidden = sd.Reference.from_data(net, X, y, layer="0", name="waves")
    loaded = sd.Dreams.load(dreams.save(tmp_path / "d.safetensors"))
    with pytest.raises(ValueError, match="do not belong together"):
        sd.evaluate(loaded, hidden)
    short = sd.Reference.from_data(net, X[..., :30], y)
    with pytest.raises(ValueError, match="1 × 40 points.*1 × 30"):
        sd.evaluate(loaded, short)
    with pytest.raises(TypeError, match="expected Dreams"):
        unnamed.check_dreams([X])


def test_doors_dreams_by_hand_are_asked_for_their_shape_only(net, data, ref):
    d = sd.dream(net, data[0][:2], sd.score(1), steps=1)
    assert len(sd.evaluate(d, ref)) == 2
    assert sd.compare(d, net, ref)["margin"].notna().all()


def test_doors_verdict_of_seeds_takes_as_many_of_each(net, ref, dreams):
    for models, refs in (([net], [ref, ref]), (net, ref), ([net, net], ref)):
        with pytest.raises(ValueError, match="as many dreams, models and references"):
            sd.verdict([dreams, dreams], models, refs)
    other = sd.sequence_dreaming(net, ref, 2, n=2, steps=1)
    with pytest.raises(ValueError, match="one class"):
        sd.verdict([dreams, other], [net, net], [ref, ref])


def test_doors_weights_changed_in_place_are_noticed(net, data):
    own = copy.deepcopy(net)
    ref = sd.Reference.from_data(own, *data)
    ref.check_model(own)
    with torch.no_grad():
        own[-1].weight[2] += 0.3  # a third class that some series hardly show
    with pytest.raises(ValueError, match="changed since"):
        sd.sequence_dreaming(own, ref, 1, n=1, steps=1)


def test_doors_weights_that_few_series_show_are_noticed(data):
    "A point that is zero in the first series, and in all of two classes."
    X, y = data
    X = X.clone()
    X[y != 2, :, 7] = 0
    own = nn.Sequential(nn.Flatten(), nn.Linear(40, 3))
    ref = sd.Reference.from_data(own, X, y)
    with torch.no_grad():
        own[1].weight[:, 7] += 1
    with pytest.raises(ValueError, match="changed since"):
        ref.check_model(own)


def test_doors_same_weights_under_other_names_pass(net, ref):
    ref.check_model(nn.Sequential(net))


def test_doors_a_model_that_answers_at_random_is_called_that(data):
    class Noisy(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return nn.functional.dropout(self.inner(x), 0.5)

    inner = nn.Sequential(nn.Flatten(), nn.Linear(40, 3))
    ref = sd.Reference.from_data(inner, *data)
    with pytest.raises(ValueError, match="at random"):
        ref.check_model(Noisy(inner))


def test_doors_search_folder_names_both_sides(net, ref, data, tmp_path):
    how = {"grid": {"steps": [2], "lr": [0.1]}, "progress": False, "out": tmp_path / "s"}
    found = sd.grid_search(net, ref, "right", **how)
    other = another(net)
    its = sd.Reference.from_data(other, *data, classes=NAMES, name="tides")
    with pytest.raises(ValueError, match="another dataset .there waves, here tides") as e:
        sd.grid_search(other, its, 1, **how)
    for model in (net, other):
        assert sd.models.weights_hash(model) in str(e.value)
    with pytest.raises(ValueError, match="another target_class .there 1, here 2"):
        sd.grid_search(net, ref, 2, **how)
    with pytest.raises(ValueError, match="the search is of dataset waves, not tides"):
        sd.search.judge(found, other, its, n=2)
    about = tmp_path / "s/search.json"
    kept = json.loads(about.read_text())
    del kept["dataset"]  # as earlier versions wrote it
    about.write_text(json.dumps(kept))
    assert sd.grid_search(net, ref, 1, **how).resumed == 1


# --- files ----------------------------------------------------------------------------------------


def damaged(tensors, head, how):
    "A reference's file with something missing or of another shape."
    if how in head:
        head = {name: v for name, v in head.items() if name != how}
    elif how in tensors:
        tensors = {name: v for name, v in tensors.items() if name != how}
    elif how == "a list":
        head = {**head, "time": 3}
    elif how == "short":
        tensors = {**tensors, "y": tensors["y"][:5]}
    elif how == "beyond":
        tensors = {**tensors, "y": tensors["y"] + 7}
    elif how == "no medoids":
        head = {**head, "meta": {}}
    elif how == "numbers":
        head = {**head, "classes": [1, 2, 3]}
    return tensors, head


@pytest.mark.parametrize(
    "how",
    [
        *("classes", "time", "meta", "X", "y", "index", "activations", "time/1/mean"),
        *("time/1/variances", "a list", "short", "beyond", "no medoids", "numbers"),
    ],
)
def test_doors_files_of_the_wrong_shape_are_one_line(ref, tmp_path, how):
    tensors, head = read_tensors(ref.save(tmp_path / "r.safetensors"), kind="reference")
    head = {name: v for name, v in head.items() if name in ("classes", "meta", "time")}
    file = write_tensors(tmp_path / "d.safetensors", *damaged(tensors, head, how), kind="reference")
    with pytest.raises(ValueError, match="d.safetensors: not a reference, or a damaged one") as e:
        sd.Reference.load(file)
    assert "\n" not in str(e.value)


def test_doors_bundled_references_of_whole_matrices_are_read():
    for name, model in sd.pretrained_models():
        net, ref = sd.load_pretrained(name, model)
        assert all(g.covariance.shape == (500, 500) for g in ref.time)
        ref.check_model(net)


def test_doors_features_without_spread_leave_numbers(data):
    "Dead features, and more features than series."
    X, y = data
    wide = nn.Sequential(nn.Flatten(), nn.Linear(40, 90))
    with torch.no_grad():
        wide[1].weight[:30] = 0
    ref = sd.Reference.from_data(wide, X, y)
    for kind in ("range", "ledoit_wolf"):
        d = ref.distance(ref.activations, 0, space="activation", kind=kind)
        assert np.isfinite(d).all(), kind
    assert np.isfinite(ref.percentile(ref.activations, 0, space="activation")).all()


def test_doors_unit_of_the_series_changes_no_place(net, data, ref):
    "In millionths, or far from zero: the same distances in time, the same share of copies."
    X, y = data
    strangers = torch.randn(5, 1, 40, generator=torch.Generator().manual_seed(1))
    new = torch.cat([X[:3], X[:3] + 0.1 * strangers[:3], strangers])
    for unit, level in ((1e-6, 0), (1e6, 0), (1, 100)):
        its = sd.Reference.from_data(net, unit * X + level, y, classes=NAMES)
        for c in range(3):
            assert len(its.heldout[f"nearest/{c}"]) == 9
            here, there = ref.nearest(new, c), its.nearest(unit * new + level, c)
            assert np.allclose(there[0] / unit, here[0], rtol=1e-4, atol=1e-3)
            assert np.array_equal(there[1], here[1])
            far = its.distance(unit * new + level, c)
            assert np.allclose(far, ref.distance(new, c), rtol=1e-3)
        figure = sd.plot_spectra(sd.control(net, its, 0, "nearest_real", n=2), its)
        low, high = figure.axes[0].get_ylim()
        middle = its.bands["spectrum"][0, 1, 0, 1:]
        assert (low < middle).all() and (middle < high).all()


def test_doors_other_dreams_keep_their_settings(dreams):
    assert {"model", "dataset", "layer"} <= set(dreams.settings)
    part = replace(dreams[:1])
    assert part.settings["model"] == dreams.settings["model"]
