"""Every notebook runs, in a process of its own; what was exported and generated from them is current."""
import os
import shutil
import subprocess
import sys

import nbformat
import pytest

import notebooks

FOUND = notebooks.find()
SLOW = ("09_", "02_", "13_", "08_", "12_", "15_")  # started first, so that no worker is left with a long one at the end
TIMEOUT = int(os.environ.get("SEQDREAM_CELL_TIMEOUT", "300"))


def make(folder, *sources):
    path = folder / "made.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources]), path)
    return path


def test_there_are_notebooks():
    assert len(FOUND) >= 14, f"notebooks are missing from {notebooks.NBS}: {[p.name for p in FOUND]}"


@pytest.mark.parametrize("path", sorted(FOUND, key=lambda p: (not p.name.startswith(SLOW), p.name)), ids=lambda p: p.stem)
def test_notebook_runs(path):
    notebooks.run(path, TIMEOUT)


def test_failure_names_notebook_and_cell(tmp_path):
    with pytest.raises(notebooks.NotebookError, match=r"made.ipynb, cell 1: assert 1 == 2[\s\S]*AssertionError"):
        notebooks.run(make(tmp_path, "x = 1", "assert 1 == 2"), cwd=tmp_path)


def test_slow_cell_is_stopped(tmp_path):
    with pytest.raises(notebooks.NotebookError, match=r"made.ipynb, cell 0: import time[\s\S]*more than 2 s"):
        notebooks.run(make(tmp_path, "import time; time.sleep(60)"), timeout=2, cwd=tmp_path)


def test_warning_is_not_stored(tmp_path):
    with pytest.raises(notebooks.NotebookError, match="standard error"):
        notebooks.run(make(tmp_path, "import warnings; warnings.warn('look')"), cwd=tmp_path)


def test_notebook_kernel_is_this_python(tmp_path):
    nb = notebooks.run(make(tmp_path, "import sys; print(sys.prefix)"), cwd=tmp_path)
    assert nb.cells[0].outputs[0].text.strip() == sys.prefix


def test_none_found_in_empty_folder(tmp_path):
    assert notebooks.find(tmp_path) == []


@pytest.mark.parametrize("path", FOUND, ids=lambda p: p.stem)
def test_stored_outputs_are_clean(path):
    nb = nbformat.read(path, 4)
    code = [c for c in nb.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1)), "not run from top to bottom: run `make notebooks`"
    outputs = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"], "an error or noise is stored"
    assert any("image/png" in o.get("data", {}) for o in outputs), "no picture is stored: run `make notebooks`"


def test_export_is_current(tmp_path):
    "Export into an empty package and compare: nobody edited a module by hand, forgot to export or left the module of a notebook that is gone."
    shutil.copytree(notebooks.NBS, tmp_path / "nbs", ignore=shutil.ignore_patterns("figures", ".*"))
    (tmp_path / "seqdream").mkdir()
    for name in ("pyproject.toml", "seqdream/__init__.py"): shutil.copy(notebooks.ROOT / name, tmp_path / name)
    done = subprocess.run([sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, theirs = ({p.name: p.read_text() for p in (root / "seqdream").glob("*.py")} for root in (notebooks.ROOT, tmp_path))
    assert sorted(ours) == sorted(theirs)
    assert [n for n in ours if ours[n] != theirs[n]] == [], "run `make export`"
    assert (tmp_path / "pyproject.toml").read_text() == (notebooks.ROOT / "pyproject.toml").read_text()


def test_readme_is_current():
    text, pictures = notebooks.readme()
    assert (notebooks.ROOT / "README.md").read_text() == text, "run `make readme`"
    assert pictures and all((notebooks.ROOT / name).read_bytes() == data for name, data in pictures.items()), "run `make readme`"
    assert {p.name for p in (notebooks.NBS / "figures").glob("README_*")} == {os.path.basename(name) for name in pictures}, "run `make readme`"
