"""Dreams, tables and verdicts are those of the commit that tests/unchanged.json was made from."""

import pytest
import unchanged


@pytest.fixture(scope="module")
def kept():
    return unchanged.kept()


@pytest.fixture(scope="module")
def alike(kept):
    return kept["rounding"] == unchanged.rounding()


def report(lines: list) -> str:
    return f"{len(lines)} values moved:\n" + "\n".join(lines[:40])


def test_unchanged_values(kept, alike):
    lines = unchanged.moved(kept["short"], unchanged.compute("short"), alike)
    if not alike:  # a grounded walk's steps hang on the signs of its gradients, and so on rounding
        lines = [line for line in lines if "grounded" not in line and "margins" not in line]
    assert not lines, report(lines)


def test_unchanged_long_walks(kept, alike):
    if not alike:
        pytest.skip("this machine rounds otherwise than the one on which unchanged.json was made")
    lines = unchanged.moved(kept["long"], unchanged.compute("long"))
    assert not lines, report(lines)


def test_unchanged_comparison_notices():
    was = {"a": {"loss": [1.0, 2.0], "x_percentile": [40.0], "status": ["arrived"]}}
    rounding = {"a": {"loss": [1.0001, 2.0], "x_percentile": [40.3], "status": ["arrived"]}}
    other = {"a": {"loss": [1.01, 2.0], "x_percentile": [41.0], "status": ["dead"], "new": 1}}
    assert unchanged.moved(was, rounding) == []
    assert [line.split(":")[0] for line in unchanged.moved(was, other)] == [
        "a / new",
        "a / loss / 0",
        "a / x_percentile / 0",
        "a / status / 0",
    ]
    assert unchanged.moved(was, {}) and unchanged.moved(was, {"a": {}})


def test_unchanged_dreams_for_less_work(kept):
    "A later call of the same model asks it five times less often than every call did."
    now = unchanged.cost()
    assert now["forward_passes"] == kept["today"]["forward_passes"] - 5
