"""Width, order and layout of package, notebooks and tests, as pyproject.toml sets them."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

here = importlib.util.find_spec("ruff") is not None
needs_ruff = pytest.mark.skipif(not here, reason="ruff is not installed")


def ruff(*command: str) -> str:
    "What ruff complains of; empty where it does not."
    how = ["--output-format", "concise", "--no-cache", "--quiet"]
    call = [sys.executable, "-m", "ruff", *command, *how, "."]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip() if done.returncode else ""


@needs_ruff
def test_ruff_check():
    said = ruff("check")
    assert not said, said[-4000:]


@needs_ruff
def test_ruff_format():
    said = ruff("format", "--check")
    assert not said, f"run `make format`:\n{said[-4000:]}"
