"""Ingredients against independent statements that need a later room than their own."""

import numpy as np
import pytest
import torch

import seqdream as sd
from seqdream.transforms import alignment


def test_the_band_is_zero_where_real_series_are_and_grows_with_the_square_outside():
    _, ref = sd.load_pretrained("FordA", "paper")
    kinds = ("range", "ledoit_wolf")
    x = torch.cat([ref.exemplars(0, 4), 2 * ref.exemplars(0, 4)])
    found = sd.band(ref, 0, 25, 75, weight=3.0)(x, torch.arange(8)).numpy()
    d = np.stack([ref.distance(x, 0, kind=k) for k in kinds], axis=1)
    low = np.array([ref.quantile(0, 25, kind=k) for k in kinds])
    high = np.array([ref.quantile(0, 75, kind=k) for k in kinds])
    above = np.maximum(d / high - 1, 0) ** 2
    below = np.maximum(1 - d / low, 0) ** 2
    assert np.abs(found - 3 * (above + below).sum(1)).max() < 1e-3
    assert (found[6:] > 0).all()
    with pytest.raises(ValueError, match="smaller"):
        sd.band(ref, 0, 80, 20)


def test_only_what_moves_a_series_without_a_gradient_wakes():
    _, ref = sd.load_pretrained("FordA", "paper")
    wakers = [sd.NoiseOnStall(), sd.NoiseOnOvershoot(), sd.RandomRestart()]
    others = [sd.GaussianBlur(), sd.Clamp(-1, 1), sd.L2Decay(), sd.RandomScaling()]
    others += [sd.MovingAverage(), sd.ExponentialSmoothing(), sd.UnitGradient(), sd.clamp_to(ref)]
    assert all(t.wakes for t in wakers)
    assert not any(getattr(t, "wakes", False) for t in others)


def aligned_reference(seed=0, level=0.0, unit=1.0, shift=0):
    "Two classes of twenty series: one hump each at its own place, or rolled anywhere (`shift`)."
    rng = np.random.default_rng(seed)
    t = np.arange(40)
    X = np.stack([np.exp(-((t - 10 - 15 * (i % 2)) ** 2) / 20) for i in range(40)])
    X = X + 0.1 * rng.normal(size=X.shape)
    X = np.stack([np.roll(x, rng.integers(0, shift + 1)) for x in X])
    X = torch.tensor(level + unit * X[:, None], dtype=torch.float32)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(40, 2))
    return sd.Reference.from_data(net, X, np.arange(40) % 2), X


def test_the_clamp_is_per_point_where_series_of_a_class_run_alike_and_one_range_elsewhere():
    ref, X = aligned_reference(unit=5.0, level=100.0)
    clamp = sd.clamp_to(ref)
    own = X.amax(0) - X.amin(0)
    assert repr(clamp).startswith("Clamp(per point, ")
    assert torch.allclose(clamp.low, (X.amin(0) - own / 2).clamp_min(X.min()))
    assert torch.allclose(clamp.high, (X.amax(0) + own / 2).clamp_max(X.max()))
    assert torch.equal(clamp(X, None), X)
    loose, Y = aligned_reference(unit=5.0, level=100.0, shift=39)
    clamp = sd.clamp_to(loose)
    assert repr(clamp).startswith("Clamp(one range, ")
    assert (float(clamp.low), float(clamp.high)) == (Y.min(), Y.max())


def test_alignment_is_the_mean_correlation_of_two_series_of_a_class():
    ref, X = aligned_reference(shift=6)
    y = ref.exemplar_classes.numpy()
    found = []
    for c in range(2):
        r = np.corrcoef(ref.X[y == c, 0].double().numpy())
        found.append(r[np.triu_indices(len(r), 1)].mean())
    sizes = np.bincount(y)
    assert abs(alignment(ref) - (sizes * found).sum() / sizes.sum()) < 1e-9


def test_one_range_is_one_for_each_channel_and_without_pairs_there_is_no_alignment():
    X = torch.randn(6, 2, 30, generator=torch.Generator().manual_seed(0))
    X[:, 1] = 1000 + 100 * X[:, 1]
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 6))
    ref = sd.Reference.from_data(sd.Adapter(net), X, np.arange(6), allow_single=True)
    assert np.isnan(alignment(ref))
    clamp = sd.clamp_to(ref)
    assert torch.equal(clamp.high.flatten(), X.amax((0, 2)))
    assert torch.equal(clamp.low.flatten(), X.amin((0, 2)))
