"""Ingredients against independent statements that need a later room than their own."""

import numpy as np
import pytest
import torch

import seqdream as sd


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
