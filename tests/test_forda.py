"""Watches over the paper's data set.

Both models arrive, the numbers promised in README hold, and the raw data are what they should be.
"""

import numpy as np
import pytest
import torch

import seqdream as sd


@pytest.mark.parametrize("c", [0, 1])
@pytest.mark.parametrize("name, n", [("paper", 16), ("wang", 4)])
def test_sequence_dreaming_arrives(name, n, c):
    model, ref = sd.load_pretrained("FordA", name)
    centre = sd.sequence_dreaming(model, ref, c, "centre", n=n, seed=0)
    far = sd.sequence_dreaming(model, ref, c, "max", n=n, seed=0)
    mean = ref.activations[ref.y == c, c].mean().item()
    with torch.no_grad():
        # the model's own answer, not the engine's record
        near_one = model(centre.x)[:, c] / mean
        several = model(far.x)[:, c] / mean
        gain = model(far.x)[:, c] - model(far.start)[:, c]
    assert ((near_one - 1).abs() < 0.05).all(), near_one
    assert ((several > 2) & (several < 4)).float().mean() >= 0.9, several
    assert gain.median() > 0.9 * mean
    assert far.x.shape == (n, 1, 500)
    table = sd.evaluate(far, ref)
    # the large model asks for a larger change
    assert name == "wang" or table["time_distance_ledoit_wolf_percentile"].median() <= 97.5
    assert table["scale"].between(0.9, 1.1).all()


def test_published_distances_are_the_singular_direction(small):
    model, ref = small
    d = sd.sequence_dreaming(model, ref, 1, "max", n=8, seed=0)
    as_published = np.median(ref.distance(d.x, 1, kind="inverse"))
    well_posed = np.median(ref.distance(d.x, 1, kind="range"))
    centred = d.x - d.x.mean(-1, keepdim=True)
    assert as_published > 1e4
    assert well_posed < 200
    assert np.median(ref.distance(centred, 1, kind="inverse")) < 1e-3 * as_published


@pytest.mark.parametrize("name", ["wang", "paper"])
def test_cards_tell_the_training(name):
    model, ref = sd.load_pretrained("FordA", name)
    card = model.card
    assert card["dataset"] == "FordA"
    assert card["n_train"] == 3601
    assert card["n_test"] == 1320
    assert card["status"] == "finished"
    assert card["command"].startswith("seqdream train FordA")
    assert len(card["history"]["val_accuracy"]) == card["epochs"]
    assert card["test_accuracy"] > 0.9
    assert ref.classes == ("-1", "1")
    assert len(ref.y) == 3601
    assert all((ref.exemplar_classes == c).sum() >= 256 for c in range(2))


@pytest.mark.forda
@pytest.mark.parametrize("name", ["wang", "paper"])
def test_accuracy_on_the_real_test_set(name):
    model, _ = sd.load_pretrained("FordA", name)
    data = sd.load_dataset("FordA")
    accuracy = sd.accuracy(model, data.X_test, data.y_test)
    assert accuracy == pytest.approx(model.card["test_accuracy"], abs=1e-3)


@pytest.mark.forda
def test_raw_forda():
    data = sd.load_dataset("FordA")
    assert data.X_train.shape == (3601, 1, 500)
    assert data.X_test.shape == (1320, 1, 500)
    assert data.classes == ("-1", "1")
    assert torch.bincount(data.y_train).tolist() == [1846, 1755]
    assert data.X_train.mean(-1).abs().max() < 1e-4
    assert (data.X_train.std(-1, correction=0) - 1).abs().max() < 1e-2


@pytest.mark.forda
def test_bundled_reference_is_that_of_the_raw_data(small):
    model, ref = small
    data = sd.load_dataset("FordA")
    own = data.X_train[data.y_train == 1, 0].double().numpy()
    assert np.allclose(ref.time[1].covariance, np.cov(own.T), atol=1e-9)
    assert np.allclose(ref.time[1].mean, own.mean(0), atol=1e-9)
    assert torch.equal(ref.X, data.X_train[ref.index])
    assert torch.allclose(sd.predict(model, data.X_train[:50]), ref.activations[:50], atol=1e-3)
    held = data.X_test[data.y_test == 1]
    assert abs(np.mean(ref.percentile(held, 1, kind="range")) - 50) < 1
