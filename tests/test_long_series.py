"""Fewer series than a series has numbers: moments without a matrix, equal to those by it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import nn

import seqdream as sd
from seqdream.distances import (
    NO_SPREAD,
    Gaussian,
    LowRank,
    Stretch,
    folded_distances,
    medoid_index,
    nearest_distance,
    pool,
    shrinkage,
)
from seqdream.reference import TimeDistance
from seqdream.twins import _gaussian_log_odds, twin_series


def some_series(n=30, channels=1, t=120, seed=0):
    "Two classes of random walks of different drift: X (n, channels, t), y (n,)."
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    steps = rng.normal(size=(n, channels, t)) + 0.1 * y[:, None, None]
    return torch.tensor(steps.cumsum(-1), dtype=torch.float32), torch.tensor(y)


def net_for(channels=1):
    torch.manual_seed(0)
    body = (nn.Conv1d(channels, 4, 9, stride=4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(4, 2))


def by_matrix(own, x, kind):
    "The distance by the whole covariance matrix, which knows nothing of the package."
    own, x = own.double().flatten(1).numpy(), x.double().flatten(1).numpy()
    away = x - own.mean(0)
    if kind == "ledoit_wolf":
        return np.sqrt(LedoitWolf().fit(own).mahalanobis(x))
    inverse = np.linalg.pinv(np.cov(own.T), rcond=NO_SPREAD, hermitian=True)
    return np.sqrt(np.einsum("ij,jk,ik->i", away, inverse, away))


@pytest.fixture(scope="module")
def few():
    X, y = some_series()
    model = net_for()
    return model, sd.Reference.from_data(model, X, y), X, y


def test_others_few_series_have_the_distances_of_the_whole_matrix(few):
    _, ref, X, y = few
    strangers = torch.cat([X[:6], torch.randn(6, 1, 120), torch.zeros(1, 1, 120)])
    for c in (0, 1):
        assert isinstance(ref.time[c], LowRank)
        for kind in ("range", "ledoit_wolf"):
            right = by_matrix(X[y == c], strangers, kind)
            assert np.allclose(ref.distance(strangers, c, kind=kind), right, rtol=1e-6), kind
        assert np.isinf(ref.distance(strangers, c, kind="inverse")).all()
        assert np.isnan(ref.percentile(strangers, c, kind="inverse")).all()
        assert np.isfinite(ref.percentile(strangers, c)).all()


def test_others_few_series_shrink_as_sklearn_says():
    for n, d in ((2, 9), (3, 50), (20, 20), (20, 400)):
        own = np.random.default_rng(n).normal(size=(n, d)).cumsum(1)
        right = max(LedoitWolf().fit(own).shrinkage_, 0)
        assert np.isclose(shrinkage(own), right, atol=1e-12), (n, d)
    assert shrinkage(np.ones((5, 30))) == 0


def test_others_many_series_keep_their_matrix():
    "Bit for bit: with more series than numbers nothing has changed."
    X, _ = some_series(60, t=20)
    own = X.flatten(1).double().numpy()
    g = Gaussian.fit(own)
    assert isinstance(g, Gaussian)
    assert np.array_equal(g.covariance, np.cov(own, rowvar=False))
    away = own - own.mean(0)
    values, vectors = np.linalg.eigh(np.cov(own, rowvar=False))
    right = np.linalg.norm(away @ (vectors / np.sqrt(values)), axis=1)
    assert np.allclose(g.distance(own, "range"), right, rtol=1e-12)
    inverse = np.linalg.inv(np.cov(own, rowvar=False))
    squared = np.einsum("ij,jk,ik->i", away, inverse, away)
    assert np.array_equal(g.distance(own, "inverse"), np.sqrt(np.abs(squared)))


def test_others_edge_of_rank():
    "One series more than numbers: by the matrix; as many: without; near the edge both agree."
    rng = np.random.default_rng(0)
    own = rng.normal(size=(13, 12))
    x = rng.normal(size=(4, 12))
    assert isinstance(Gaussian.fit(own), Gaussian)
    assert isinstance(Gaussian.fit(own[:12]), LowRank)
    right = np.sqrt(LedoitWolf().fit(own[:12]).mahalanobis(x))
    assert np.allclose(Gaussian.fit(own[:12]).distance(x), right, rtol=1e-8)


def test_others_pooled_moments_are_those_of_all_series(few):
    _, ref, X, _ = few
    everything = X.flatten(1).double().numpy()
    assert isinstance(ref.pooled_time, LowRank)
    assert np.allclose(ref.pooled_time.mean, everything.mean(0))
    assert np.allclose(ref.pooled_time.covariance, np.cov(everything.T), atol=1e-8)
    for kind in ("range", "ledoit_wolf"):
        new = torch.randn(5, 1, 120)
        mine = ref.pooled_time.distance(new.flatten(1).numpy(), kind)
        assert np.allclose(mine, by_matrix(X, new, kind), rtol=1e-5)


def test_others_pool_mixes_few_and_many():
    "Each class has few series, all together have many: the matrix of all."
    X, y = some_series(60, t=40)
    rows = X.flatten(1).double().numpy()
    parts = [Gaussian.fit(rows[y == c]) for c in (0, 1)]
    assert all(isinstance(g, LowRank) for g in parts)
    both = pool(parts, np.stack([g.mean for g in parts]), np.array([30, 30]), 0.1)
    assert isinstance(both, Gaussian)
    assert np.allclose(both.covariance, np.cov(rows.T))


def test_others_folds_are_measured_from_the_rest():
    X, y = some_series(24, t=60)
    rows = X.flatten(1).numpy()
    found = folded_distances("time", rows, y.numpy(), 2, seed=3)
    order = np.random.default_rng(3).permutation(24)
    right = {0: [], 1: []}
    for left_out in np.array_split(order, 5):
        keep = np.setdiff1d(order, left_out)
        for c in (0, 1):
            own = X[keep][y[keep] == c]
            for i in left_out[y[left_out].numpy() == c]:
                right[c] += by_matrix(own, X[[i]], "ledoit_wolf").tolist()
    for c in (0, 1):
        assert np.allclose(np.sort(found[f"time/ledoit_wolf/{c}"]), np.sort(right[c]), rtol=1e-6)


def test_others_two_series_and_constant_series():
    "Nothing to estimate from: numbers all the same, and no NaN."
    two = Gaussian.fit(np.random.default_rng(0).normal(size=(2, 50)))
    flat = Gaussian.fit(np.ones((4, 50)))
    for g in (two, flat):
        for kind in ("range", "ledoit_wolf"):
            assert not np.isnan(g.distance(np.zeros((1, 50)), kind)).any()
    assert flat.distance(np.ones((1, 50)))[0] == 0


def test_others_distances_have_gradients(few):
    _, ref, X, _ = few
    distance = TimeDistance.of(ref, 1)
    assert isinstance(distance.whiteners[0], Stretch)
    x = X[:3].double().requires_grad_()
    assert torch.allclose(distance(x)[:, 0], torch.tensor(ref.distance(X[:3], 1)), rtol=1e-6)
    assert torch.autograd.gradcheck(lambda v: distance(v).sum(), x)
    single = TimeDistance.of(ref, 1, dtype=torch.float32)(X[:3])
    assert torch.allclose(single.double(), distance(X[:3]), rtol=1e-3)


def test_others_whitened_coordinates_are_the_distance(few):
    _, ref, X, _ = few
    white = sd.Whitened.of_data(ref)
    assert len(white.to_series) == 120
    new = torch.cat([X[:4], torch.randn(4, 1, 120)])
    z = white.encode(new)
    assert np.allclose(z.norm(dim=1), by_matrix(X, new, "ledoit_wolf"), rtol=1e-3)
    assert torch.allclose(white.decode(z), new, atol=1e-3)


def test_others_gaussian_odds_and_twin_by_the_matrix(few):
    model, ref, X, y = few
    from scipy.stats import multivariate_normal

    x = torch.cat([X[:3], torch.randn(3, 1, 120)]).double()
    log = []
    for c in (0, 1):
        own = X[y == c].flatten(1).double().numpy()
        normal = multivariate_normal(own.mean(0), LedoitWolf().fit(own).covariance_)
        log.append(normal.logpdf(x.flatten(1).numpy()) + np.log(15))
    assert np.allclose(_gaussian_log_odds(ref, 1)(x), log[1] - log[0], rtol=1e-5)
    start = ref.exemplars(1, 1).repeat(400, 1, 1)
    d = sd.dream(model, start, sd.score(1), steps=1)
    twin = twin_series(d, model, ref, 1)["gaussian", 1.0].flatten(1).numpy()
    own = X[y == 1].flatten(1).numpy()
    spread = np.trace(LedoitWolf().fit(own).covariance_)
    assert np.isclose(np.trace(np.cov(twin.T)), spread, rtol=0.2)


def test_others_files_hold_factors_and_come_back(few, tmp_path):
    _, ref, X, _ = few
    file = ref.save(tmp_path / "few.safetensors")
    back = sd.Reference.load(file)
    for c in (0, 1):
        for kind in ("range", "ledoit_wolf", "inverse"):
            assert np.array_equal(back.distance(X, c, kind=kind), ref.distance(X, c, kind=kind))
    assert np.array_equal(back.pooled_time.variances, ref.pooled_time.variances)
    long, y = some_series(12, t=2000)
    file = sd.Reference.from_data(net_for(), long, y).save(tmp_path / "long.safetensors")
    assert file.stat().st_size < 5 * long.numel() * 4  # a triangle would be 16 MB a class


def test_others_files_of_the_whole_matrix_are_read(few, tmp_path):
    "As versions before this one wrote them, of few series, too."
    _, ref, X, y = few
    dense = []
    for c in (0, 1):
        own = X[y == c].flatten(1).double().numpy()
        dense.append(Gaussian(own.mean(0), np.cov(own.T), len(own), shrinkage(own)))
    old = sd.Reference(**{**vars_of(ref), "time": dense})
    back = sd.Reference.load(old.save(tmp_path / "old.safetensors"))
    for kind in ("range", "ledoit_wolf"):
        assert np.allclose(back.distance(X, 1, kind=kind), ref.distance(X, 1, kind=kind), rtol=1e-6)
    assert np.allclose(back.pooled_time.covariance, ref.pooled_time.covariance, atol=1e-8)


def vars_of(ref):
    names = ("classes", "activations", "y", "time", "heldout", "X", "index", "bands", "meta")
    return {name: getattr(ref, name) for name in names}


def test_others_medoid_and_nearest_in_pieces(monkeypatch):
    from scipy.spatial.distance import cdist

    import seqdream.distances as room

    rows = np.random.default_rng(0).normal(size=(900, 30))
    monkeypatch.setattr(room, "PIECE", 1)  # MB: several pieces
    among = cdist(rows, rows)
    assert medoid_index(rows) == among.sum(1).argmin()
    np.fill_diagonal(among, np.inf)
    assert np.allclose(nearest_distance(rows, rows, itself=True), among.min(1))


MEASURED = """
import json, time
import torch
from torch import nn
import seqdream as sd
n, channels, t = {shape}
X = torch.randn(n, channels, t, generator=torch.Generator().manual_seed(0)).cumsum(-1)
body = (nn.Conv1d(channels, 4, 9, stride=4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
model = nn.Sequential(*body, nn.Linear(4, 2))
began = time.process_time()
ref = sd.Reference.from_data(model, X, torch.arange(n) % 2)
d = sd.grounded_dreaming(model, ref, 1, n=2, steps=5)
table = sd.evaluate(d, ref)
took = time.process_time() - began
told = open("/proc/self/status").read()  # its own peak: ru_maxrss is inherited from the parent
peak = int(told.partition("VmHWM:")[2].split()[0]) / 1e6
print(json.dumps(dict(seconds=took, gigabytes=peak, distance=table.time_distance_ledoit_wolf[0])))
"""


@pytest.mark.parametrize("shape", [(20, 1, 15000), (90, 22, 1000)])
def test_others_long_and_many_within_seconds_and_a_gigabyte(shape):
    run = [sys.executable, "-W", "ignore", "-c", MEASURED.format(shape=shape)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seconds"] < 20, found
    assert found["gigabytes"] < 1, found
    assert np.isfinite(found["distance"])
