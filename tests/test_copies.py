"""What a table says of how dreams came about: change, copies, passes of the model."""

from dataclasses import replace

import numpy as np
import torch

import seqdream as sd
from seqdream.dreaming import STATUS
from seqdream.evaluation import COPY, STATUSES


def some_dreams(n=6):
    "Bundled network, its reference, and exemplars of both classes as if they were dreams."
    model, ref = sd.load_pretrained("FordA", "paper")
    d = sd.control(model, ref, 1, "nearest_real", n=n)
    return model, ref, replace(d, start=d.start.clone())


def test_change_is_a_share_of_the_start_and_has_none_where_the_start_is_zero():
    _, ref, d = some_dreams(4)
    d.x = torch.stack([d.start[0], 3 * d.start[1], -d.start[2], d.start[3] + 0.5])
    d.start[3] = 0
    change = sd.evaluate(d, ref)["change"].to_numpy()
    assert np.allclose(change[:3], [0, 2, 2], atol=1e-6)
    assert np.isnan(change[3])


def test_nearest_training_is_over_all_classes_and_agrees_with_all_pairs():
    _, ref, d = some_dreams(6)
    noise = torch.randn(d.x.shape, generator=torch.Generator().manual_seed(0))
    d.x = torch.cat([ref.exemplars(0, 3), ref.exemplars(1, 3)]) + 0.3 * noise
    table = sd.evaluate(d, ref)
    pairs = (d.x[:, None, 0].double() - ref.X[None, :, 0].double()).square().mean(2).sqrt()
    assert np.allclose(table["nearest_training"], pairs.amin(1), rtol=1e-6)
    own = pairs[:, ref.exemplar_classes == 1].amin(1)
    assert (own[:3] > 2 * pairs[:3].amin(1)).all()  # dreams near the other class are found
    assert np.allclose(table["nearest_distance"], own * 500**0.5, rtol=1e-6)


def test_a_start_is_a_training_series_only_if_every_number_is():
    _, ref, d = some_dreams(3)
    d.start[1, 0, 250] = torch.nextafter(d.start[1, 0, 250], torch.tensor(9.0))
    d.start[2] = ref.exemplars(0, 1)[0]  # of another class
    assert sd.evaluate(d, ref)["training_start"].tolist() == [True, False, True]


def test_a_control_of_real_series_is_a_copy_and_noise_is_none():
    model, ref, d = some_dreams(3)
    near = sd.evaluate(d, ref)["nearest_training"]
    assert (near < COPY * ref.X.std().item()).all()
    far = sd.evaluate(sd.control(model, ref, 1, "noise", n=3), ref)["nearest_training"]
    assert (far > 0.5).all()


def test_passes_are_told_where_the_dreams_know_them():
    _, ref, d = some_dreams(3)
    if hasattr(d, "evaluations"):
        d = replace(d, evaluations=torch.tensor([2, 40, 7]))
        assert sd.evaluate(d, ref)["evaluations"].tolist() == [2, 40, 7]
    else:
        assert sd.evaluate(d, ref)["evaluations"].isna().all()


def test_every_status_has_a_sentence_and_unmoved_too():
    assert {*STATUS, "unmoved"} <= set(STATUSES)
    assert all(STATUSES.values())
