"""Watches over the notebooks.

Each of them runs, in a process of its own; what was exported and generated from them is current.
"""

import os
import shutil
import subprocess
import sys

import nbformat
import notebooks
import pytest

FOUND = notebooks.find()
# started first, so that no worker is left with a long one at the end
SLOW = ("80_", "82_", "41_", "51_", "46_", "40_", "61_", "22_", "02_", "60_", "63_")
TIMEOUT = int(os.environ.get("SEQDREAM_CELL_TIMEOUT", "300"))


def make(folder, *sources):
    path = folder / "made.ipynb"
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def stem(path):
    return path.stem


def slow_first(path):
    return not path.name.startswith(SLOW), path.name


def test_there_are_notebooks():
    names = [path.name for path in FOUND]
    assert len(FOUND) >= 14, f"notebooks are missing from {notebooks.NBS}: {names}"


@pytest.mark.parametrize("path", sorted(FOUND, key=slow_first), ids=stem)
def test_notebook_runs(path):
    notebooks.run(path, TIMEOUT)


@pytest.mark.parametrize("path", FOUND, ids=stem)
def test_every_picture_has_alternative_text(path):
    for i, cell in enumerate(nbformat.read(path, 4).cells):
        for out in cell.get("outputs", []):
            if "image/png" in out.get("data", {}):
                said = out.metadata.get("image/png", {}).get("alt", "")
                assert len(said) > 30, f"{path.name}, cell {i}: `#| fig-alt:` what is seen"


def test_alternative_text_is_read_from_a_cell():
    folded = "#| fig-alt: >\n#|   Two curves\n#|   that part.\nplot()"
    assert notebooks.alt_text(folded) == "Two curves that part."
    assert notebooks.alt_text("#| echo: false\n#| fig-alt: One curve.\nplot()") == "One curve."
    assert notebooks.alt_text("plot()") == ""


def test_failure_names_notebook_and_cell(tmp_path):
    says = r"made.ipynb, cell 1: assert 1 == 2[\s\S]*AssertionError"
    with pytest.raises(notebooks.NotebookError, match=says):
        notebooks.run(make(tmp_path, "x = 1", "assert 1 == 2"), cwd=tmp_path)


def test_slow_cell_is_stopped(tmp_path):
    says = r"made.ipynb, cell 0: import time[\s\S]*more than 2 s"
    with pytest.raises(notebooks.NotebookError, match=says):
        notebooks.run(make(tmp_path, "import time; time.sleep(60)"), timeout=2, cwd=tmp_path)


def test_warning_is_not_stored(tmp_path):
    with pytest.raises(notebooks.NotebookError, match="standard error"):
        notebooks.run(make(tmp_path, "import warnings; warnings.warn('look')"), cwd=tmp_path)


def test_notebook_kernel_is_this_python(tmp_path):
    nb = notebooks.run(make(tmp_path, "import sys; print(sys.prefix)"), cwd=tmp_path)
    assert nb.cells[0].outputs[0].text.strip() == sys.prefix


def test_none_found_in_empty_folder(tmp_path):
    assert notebooks.find(tmp_path) == []


def is_noise(output) -> bool:
    return output.output_type == "error" or output.get("name") == "stderr"


@pytest.mark.parametrize("path", FOUND, ids=stem)
def test_stored_outputs_are_clean(path):
    nb = nbformat.read(path, 4)
    code = [c for c in nb.cells if c.cell_type == "code"]
    in_order = list(range(1, len(code) + 1))
    counts = [c.execution_count for c in code]
    assert counts == in_order, "not run from top to bottom: run `make notebooks`"
    outputs = [o for c in code for o in c.outputs]
    assert not [o for o in outputs if is_noise(o)], "an error or noise is stored"
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert pictures, "no picture is stored: run `make notebooks`"


def modules(root) -> dict[str, str]:
    "File name -> text of the package's modules."
    return {p.name: p.read_text() for p in (root / "seqdream").glob("*.py")}


def test_export_is_current(tmp_path):
    """Export into an empty package and compare.

    Nobody edited a module by hand, forgot to export or left the module of a notebook that is gone.
    """
    left_out = shutil.ignore_patterns("figures", ".*")
    shutil.copytree(notebooks.NBS, tmp_path / "nbs", ignore=left_out)
    (tmp_path / "seqdream").mkdir()
    for name in ("pyproject.toml", "seqdream/__init__.py"):
        shutil.copy(notebooks.ROOT / name, tmp_path / name)
    code = "from nbdev.doclinks import nbdev_export; nbdev_export()"
    export = [sys.executable, "-c", code]
    done = subprocess.run(export, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = modules(notebooks.ROOT)
    theirs = modules(tmp_path)
    assert sorted(ours) == sorted(theirs)
    assert [n for n in ours if ours[n] != theirs[n]] == [], "run `make export`"
    settings = (notebooks.ROOT / "pyproject.toml").read_text()
    assert (tmp_path / "pyproject.toml").read_text() == settings


def test_readme_is_current():
    text, pictures = notebooks.readme()
    why = "run `make readme`"
    assert (notebooks.ROOT / "README.md").read_text() == text, why
    assert pictures, why
    assert all((notebooks.ROOT / name).read_bytes() == data for name, data in pictures.items()), why
    stored = {p.name for p in (notebooks.NBS / "figures").glob("README_*")}
    assert stored == {os.path.basename(name) for name in pictures}, why
