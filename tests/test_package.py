"""Watches over what is installed: metadata, contents, lazy names, docstrings."""

import ast
import configparser
import inspect
import json
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import seqdream

ROOT = Path(__file__).resolve().parent.parent


def project_files():
    """What a commit would hold, so that a file which git ignores cannot slip into the wheel.

    Where there is no git: all but outputs.
    """
    tracked = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    done = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout:
        return [name for name in done.stdout.split("\0") if (ROOT / name).is_file()]
    own = [f"seqdream/{part}" for part in ("*.py", "zoo/*", "templates/*", "static/*")]
    found = [path for pattern in ("*", *own) for path in ROOT.glob(pattern)]
    return [path.relative_to(ROOT) for path in found if path.is_file()]


PIP_WHEEL = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel, built from a copy without network (the build tools are those of this environment)."
    copy = tmp_path_factory.mktemp("source") / "project"
    for name in project_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run([*PIP_WHEEL, "-w", out, copy], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_wheel_carries_the_zoo_and_the_command(wheel):
    names = wheel.namelist()
    paths = (ROOT / "seqdream/zoo").iterdir()
    zoo = [p.name for p in paths if p.suffix in (".safetensors", ".json")]
    assert len(zoo) >= 6
    assert all(f"seqdream/zoo/{n}" in names for n in zoo)
    assert all(f"seqdream/{p.name}" in names for p in (ROOT / "seqdream").glob("*.py"))
    entry = wheel.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "seqdream = seqdream.cli:main" in entry
    meta = wheel.read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert "Requires-Python: >=3.11" in meta
    assert "License-Expression: Apache-2.0" in meta
    assert "Provides-Extra: dev" in meta


def test_wheel_is_small(wheel):
    size = sum(i.file_size for i in wheel.infolist())
    assert size < 25e6, f"{size / 1e6:.1f} MB"
    assert sum(i.file_size for i in wheel.infolist() if "/zoo/" in i.filename) < 15e6


def test_versions_agree():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini")
    assert seqdream.__version__ == metadata.version("seqdream") == config["DEFAULT"]["version"]
    assert f"\nversion: {seqdream.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def loaded(code: str, *names: str) -> list[str]:
    "Which of these modules a process of its own has loaded once it has run some code."
    ask = f"import json, sys; print(json.dumps([m for m in {names} if m in sys.modules]))"
    command = [sys.executable, "-c", f"{code}\n{ask}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_loads_nothing_heavy():
    heavy = ("torch", "numpy", "pandas", "matplotlib", "sklearn", "aeon", "scipy", "ipywidgets")
    assert loaded("import seqdream", *heavy) == []


def test_dreaming_loads_no_plotting():
    code = "import seqdream as sd; sd.sequence_dreaming, sd.load_pretrained, sd.evaluate"
    assert loaded(code, "pandas", "matplotlib", "sklearn", "aeon", "seaborn") == []


def test_names_resolve():
    assert len(seqdream.__all__) > 30
    for name in seqdream.__all__:
        assert getattr(seqdream, name) is not None
    assert set(seqdream.__all__) <= set(dir(seqdream))
    with pytest.raises(AttributeError, match="seqdream.*no attribute 'dreem'"):
        seqdream.dreem


# constants have none
@pytest.mark.parametrize("name", [n for n in seqdream.__all__ if not n.isupper()])
def test_public_names_have_docstrings(name):
    thing = getattr(seqdream, name)
    why = "a dataclass without one is given its signature"
    assert thing.__doc__, why
    assert not thing.__doc__.startswith(f"{name}("), why
    if not inspect.isclass(thing):
        return
    functions = {k for k, m in vars(thing).items() if inspect.isfunction(m)}
    # what every penalty, transform or parametrization has in common is said once, in its notebook
    shared = {"forward", "check", "encode", "decode"}
    methods = {k for k in functions - shared if not k.startswith("_")}
    assert not [k for k in methods if not inspect.getdoc(getattr(thing, k))]


def test_modules_import_only_from_those_above():
    order = [p.stem.split("_", 1)[1] for p in sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))]
    for path in (ROOT / "seqdream").glob("*.py"):
        if path.stem not in order:
            continue
        nodes = ast.walk(ast.parse(path.read_text()))
        used = {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.level == 1}
        later = [u for u in used if order.index(u) >= order.index(path.stem)]
        assert not later, f"{path.stem} imports {later}"


def test_wheel_carries_templates_and_static_files(wheel):
    kept = [p for part in ("templates", "static") for p in (ROOT / "seqdream" / part).glob("*")]
    assert {"report.html.j2", "report.css"} <= {p.name for p in kept}
    assert {f"seqdream/{p.parent.name}/{p.name}" for p in kept} <= set(wheel.namelist())
