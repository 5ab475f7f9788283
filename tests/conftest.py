"""What several tests share: one number of threads, one seed, the small model, FordA's mark."""

import os

import pytest
import torch

from seqdream.readers import has_dataset

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pytest_configure(config):
    config.addinivalue_line("markers", "forda: needs FordA's raw files in $SEQDREAM_DATA")


def pytest_collection_modifyitems(items):
    "Without FordA's raw files the tests that need them are skipped, by name."
    if has_dataset("FordA"):
        return
    skipped = pytest.mark.skip(reason="FordA's raw files are not in $SEQDREAM_DATA")
    for item in items:
        if item.get_closest_marker("forda"):
            item.add_marker(skipped)


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small():
    "The bundled small model and its reference."
    import seqdream as sd

    return sd.load_pretrained("FordA", "paper")
