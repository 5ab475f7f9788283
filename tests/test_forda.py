"""The paper's data set: both models arrive, the numbers promised in README hold, and the raw data are what they should be."""
import numpy as np
import pytest
import torch

import seqdream as sd


@pytest.mark.parametrize("c", [0, 1])
@pytest.mark.parametrize("name, n", [("paper", 16), ("wang", 4)])
def test_sequence_dreaming_arrives(name, n, c):
    model, ref = sd.load_pretrained("FordA", name)
    centre, far = (sd.sequence_dreaming(model, ref, c, region, n=n, seed=0) for region in ("centre", "max"))
    mean = ref.activations[ref.y == c, c].mean().item()
    with torch.no_grad(): scores = [model(d.x)[:, c] / mean for d in (centre, far)]        # the model's own answer, not the engine's record
    assert ((scores[0] - 1).abs() < .05).all(), scores[0]
    assert ((scores[1] > 2) & (scores[1] < 4)).float().mean() >= .9, scores[1]
    with torch.no_grad(): gain = model(far.x)[:, c] - model(far.start)[:, c]
    assert (gain.median() > .9 * mean) and far.x.shape == (n, 1, 500)
    table = sd.evaluate(far, ref)
    assert name == "wang" or table["time_distance_ledoit_wolf_percentile"].median() <= 97.5  # the large model asks for a larger change
    assert table["scale"].between(.9, 1.1).all()


def test_published_distances_are_the_singular_direction(small):
    model, ref = small
    d = sd.sequence_dreaming(model, ref, 1, "max", n=8, seed=0)
    as_published, well_posed = (np.median(ref.distance(d.x, 1, kind=k)) for k in ("inverse", "range"))
    centred = d.x - d.x.mean(-1, keepdim=True)
    assert as_published > 1e4 and well_posed < 200 and np.median(ref.distance(centred, 1, kind="inverse")) < 1e-3 * as_published


@pytest.mark.parametrize("name", ["wang", "paper"])
def test_cards_tell_the_training(name):
    model, ref = sd.load_pretrained("FordA", name)
    card = model.card
    assert card["dataset"] == "FordA" and card["n_train"] == 3601 and card["n_test"] == 1320 and card["status"] == "finished" and card["command"].startswith("seqdream train FordA")
    assert len(card["history"]["val_accuracy"]) == card["epochs"] and card["test_accuracy"] > .9
    assert ref.classes == ("-1", "1") and len(ref.y) == 3601 and all((ref.exemplar_classes == c).sum() >= 256 for c in range(2))


@pytest.mark.forda
@pytest.mark.parametrize("name", ["wang", "paper"])
def test_accuracy_on_the_real_test_set(name):
    model, _ = sd.load_pretrained("FordA", name)
    data = sd.load_dataset("FordA")
    assert sd.accuracy(model, data.X_test, data.y_test) == pytest.approx(model.card["test_accuracy"], abs=1e-3)


@pytest.mark.forda
def test_raw_forda():
    data = sd.load_dataset("FordA")
    assert data.X_train.shape == (3601, 1, 500) and data.X_test.shape == (1320, 1, 500) and data.classes == ("-1", "1")
    assert torch.bincount(data.y_train).tolist() == [1846, 1755]
    assert data.X_train.mean(-1).abs().max() < 1e-4 and (data.X_train.std(-1, correction=0) - 1).abs().max() < 1e-2


@pytest.mark.forda
def test_bundled_reference_is_that_of_the_raw_data(small):
    model, ref = small
    data = sd.load_dataset("FordA")
    own = data.X_train[data.y_train == 1, 0].double().numpy()
    assert np.allclose(ref.time[1].covariance, np.cov(own.T), atol=1e-9) and np.allclose(ref.time[1].mean, own.mean(0), atol=1e-9)
    assert torch.equal(ref.X, data.X_train[ref.index]) and torch.allclose(sd.predict(model, data.X_train[:50]), ref.activations[:50], atol=1e-3)
    held = data.X_test[data.y_test == 1]
    assert abs(np.mean(ref.percentile(held, 1, kind="range")) - 50) < 1
