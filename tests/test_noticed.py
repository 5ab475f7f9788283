"""Faults that no other test notices; tests/mutants.py plants them."""

import importlib
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from torch import nn

import seqdream as sd

COUNTS = (150, 40, 9)  # series of the three classes: their priors are far from equal
TIMEPOINTS = 6


def found(name: str):
    "What lives in the twins' module, or in the verdict's."
    for part in ("twins", "verdict"):
        try:
            module = importlib.import_module(f"seqdream.{part}")
        except ImportError:
            continue
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"neither seqdream.twins nor seqdream.verdict has {name}")


def random_series(seed: int = 0):
    "Three Gaussian classes of different sizes, means and covariances: (X, y)."
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(3), COUNTS)
    mixing = rng.normal(size=(3, TIMEPOINTS, TIMEPOINTS))
    means = rng.normal(size=(3, TIMEPOINTS))
    noise = rng.normal(size=(len(y), TIMEPOINTS))
    X = means[y] + np.einsum("nij,nj->ni", mixing[y], noise)
    return torch.tensor(X[:, None], dtype=torch.float32), torch.tensor(y)


@pytest.fixture(scope="module")
def three():
    "A linear model of three classes, its reference, and its series."
    torch.manual_seed(0)
    X, y = random_series()
    model = nn.Sequential(nn.Flatten(), nn.Linear(TIMEPOINTS, 3)).eval()
    return model, sd.Reference.from_data(model, X, y), X, y


def log_posteriors(X, y, x) -> np.ndarray:
    "Quadratic discriminant analysis with shrunk covariances, up to a constant a row, (n, classes)."
    rows, columns = X.flatten(1).double().numpy(), []
    for c in range(3):
        own = rows[y.numpy() == c]
        normal = multivariate_normal(own.mean(0), LedoitWolf().fit(own).covariance_)
        columns.append(
            normal.logpdf(x.flatten(1).double().numpy()) + math.log(len(own) / len(rows))
        )
    return np.stack(columns, 1)


@pytest.mark.parametrize("c", [0, 1, 2])
def test_noticed_twin_knows_how_frequent_the_classes_are(three, c):
    _, ref, X, y = three
    posterior = log_posteriors(X, y, X)
    others = [i for i in range(3) if i != c]
    expected = posterior[:, c] - logsumexp(posterior[:, others], axis=1)
    odds = found("_gaussian_log_odds")(ref, c)(X)
    assert np.allclose(odds.double().numpy(), expected, atol=1e-4)


def test_noticed_search_of_another_layer_is_another_search(tmp_path):
    "A layer may answer as the output does: then only its name tells the two searches apart."
    g = torch.Generator().manual_seed(0)
    X, y = torch.randn(20, 1, 50, generator=g), torch.arange(20) % 2
    model = sd.ResNet.preset("paper", seed=1).eval()
    output, layer = (sd.Reference.from_data(model, X, y, layer=name) for name in (None, "head"))
    assert torch.equal(output.activations, layer.activations)
    grid, how = {"steps": [2], "lr": [0.1]}, {"out": tmp_path / "s", "progress": False}
    sd.grid_search(model, output, 1, grid=grid, **how)
    with pytest.raises(ValueError, match="another layer"):
        sd.grid_search(model, layer, 1, grid=grid, **how)
    assert sd.grid_search(model, output, 1, grid=grid, **how).resumed == 1


class RootOfRest(nn.Module):
    "Answers NaN to series whose mean is above one."

    def forward(self, x):
        root = (1 - x.mean((1, 2))).sqrt()
        return torch.stack([root, -root], 1)


def test_noticed_nothing_arrives_where_the_answer_is_no_number():
    "The objective says 'arrived' to whatever is not above a half; NaN is not."
    raise_second = sd.Objective(
        lambda a, rows: -a[:, 1],
        "raise the second",
        arrived=lambda a, rows: ~(a[:, 0] > 0.5),
    )
    d = sd.dream(RootOfRest(), torch.zeros(2, 1, 10), raise_second, lr=100.0, steps=5)
    assert d.status == ["diverged"] * 2
    assert torch.isfinite(d.x).all() and torch.isfinite(d.activations).all()


@pytest.mark.parametrize("treat", ["scalar", "suppress"])
def test_noticed_a_target_of_score_zero_is_a_target(three, treat):
    "Eq. 2 divides by the target's score squared, and by no less than a hundredth of the variance."
    _, ref, _, _ = three
    target = torch.tensor([2.0, 0.0, 0.0])
    a = torch.tensor([[-3.0, 0.5, -2.0], [-1.0, -4.0, -1.0]])  # nothing positive to suppress
    floor = 0.01 * np.var(ref.activations.double().numpy(), axis=0, ddof=1).sum()
    loss = sd.reach(ref, 1, region=target, treat=treat)(a)
    assert np.allclose(loss.numpy(), np.array([0.5, -4.0]) ** 2 / floor, rtol=1e-4)


def test_noticed_a_model_goes_home_in_the_mode_it_came_in(three):
    "Some parts in training, some not."
    _, ref, X, y = three
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(TIMEPOINTS, 3))
    model[1].train()
    model[2].eval()
    before = [m.training for m in model.modules()]
    sd.Reference.from_data(model, X, y)
    sd.predict(model, X)
    sd.dream(model, X[:2], sd.score(1), steps=2)
    assert [m.training for m in model.modules()] == before and True in before and False in before


def test_noticed_rows_begin_from_different_noise(three):
    "Row i draws from the stream (seed, i): unlike its neighbours, and the same in any company."
    model, ref, _, _ = three
    many, few = (sd.control(model, ref, 0, "noise", n=n, seed=3).x for n in (5, 2))
    assert len(many.flatten(1).unique(dim=0)) == 5
    assert torch.equal(many[:2], few)


@pytest.mark.parametrize("c", [0, 1, 2])
def test_noticed_gain_is_counted_in_class_means(three, c):
    "By the model's own answers, without the package's functions; a negative class mean included."
    model, ref, X, y = three
    d = sd.dream(model, X[:4], sd.score(c), steps=5, lr=0.1)
    with torch.no_grad():
        added = (model(d.x) - model(X[:4]))[:, c]
        mean = model(X[y == c])[:, c].mean()
    table = sd.evaluate(d, ref)
    assert (added > 0).all()
    assert np.allclose(table["gain"], added / mean.abs(), rtol=1e-3)
    assert np.allclose(table["score"], d.activations[:, c], rtol=1e-5)
