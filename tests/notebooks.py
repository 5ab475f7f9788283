"""Run notebooks, each in a process of its own, and build README.md from nbs/index.ipynb.

    python tests/notebooks.py run [NOTEBOOK ...]   execute in place, outputs kept and clean
    python tests/notebooks.py readme               write README.md and its pictures
"""
import os
import re
import secrets
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets import default

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class NotebookError(Exception):
    "A cell failed, took too long, or wrote to standard error; the message names notebook and cell."


class OwnKernel(AsyncKernelManager):
    "The kernel of the Python that runs this, whatever else is registered under its name; it talks through socket files, so that parallel runs never race for a port."
    @default("transport")
    def _socket_files(self): return "ipc"

    @default("connection_file")
    def _own_file(self): return os.path.join(tempfile.gettempdir(), f"notebook-{os.getpid()}-{secrets.token_hex(4)}.json")

    @property
    def kernel_spec(self):
        return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"], display_name="Python 3", language="python")


def find(folder=NBS) -> list[Path]:
    "All notebooks of a folder, by name."
    return sorted(p for p in Path(folder).glob("*.ipynb"))


def _name(path, index=None, cell=None) -> str:
    if cell is None: return f"{Path(path).name}, before its first cell"
    first = next((line for line in cell.source.splitlines() if line.strip() and not line.startswith("#|")), "")
    return f"{Path(path).name}, cell {index}: {first[:80]}"


def run(path, timeout: int = 600, cwd=NBS):
    "The executed notebook; `NotebookError` names the cell that fails. The file itself is left alone."
    nb = nbformat.read(path, 4)
    started = {}
    def watch(cell, cell_index, **_): started.update(index=cell_index, cell=cell)
    env = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])), "TQDM_DISABLE": "1"}
    client = NotebookClient(nb, timeout=timeout, kernel_manager_class=OwnKernel, resources={"metadata": {"path": str(cwd)}}, on_cell_start=watch)
    try: client.execute(env=env)
    except CellExecutionError as e:
        raise NotebookError(f"{_name(path, **started)}\n{ESCAPES.sub('', e.traceback)[-3000:]}") from None
    except (CellTimeoutError, TimeoutError):
        raise NotebookError(f"{_name(path, **started)}\nmore than {timeout} s") from None
    except DeadKernelError as e:
        raise NotebookError(f"{_name(path, **started)}\nthe process died: {e}") from None
    noise = [(i, c, "".join(o.text for o in c.outputs if o.output_type == "stream" and o.name == "stderr")) for i, c in enumerate(nb.cells) if c.cell_type == "code"]
    for i, cell, text in noise:
        if text.strip(): raise NotebookError(f"{_name(path, i, cell)}\nwrote to standard error: {text[-1500:]}")
    return nb


def clean(nb):
    "Without what changes from run to run and tells a reader nothing."
    done = 0
    for cell in nb.cells:
        cell.metadata = {}
        if cell.cell_type != "code": continue
        cell.execution_count = done = done + 1  # as a run from top to bottom numbers them
        merged = []
        for out in cell.outputs:
            out.pop("execution_count", None)
            if out.output_type == "execute_result": out["execution_count"] = done
            if "metadata" in out: out.metadata = {}
            if merged and out.output_type == "stream" and merged[-1].output_type == "stream": merged[-1].text += out.text
            else: merged.append(out)
            data = out.get("data", {})
            if "image/png" in data: data.pop("text/plain", None)
            if "text/html" in data: data["text/html"] = _stable_ids(data["text/html"])
            if "text/plain" in data and "style.Styler at" in data["text/plain"]: data.pop("text/plain")
        cell.outputs = merged
    nb.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
    return nb


def _stable_ids(html: str) -> str:
    "pandas draws a random id for each styled table."
    return re.sub(r"T_[0-9a-f]{5}", "T_table", html)


def write_whole(path: Path, data: bytes):
    "Write aside, then rename."
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "wb") as f: f.write(data)
    os.chmod(aside, 0o644)
    os.replace(aside, path)


def run_in_place(path):
    "Execute, clean and store."
    nb = clean(run(path))
    write_whole(Path(path), (nbformat.writes(nb, 4, indent=1).rstrip("\n") + "\n").encode())


def readme(notebook=NBS / "index.ipynb") -> tuple[str, dict]:
    "README.md and its pictures (name -> bytes), from the stored notebook."
    from nbconvert import MarkdownExporter
    nb = nbformat.read(notebook, 4)
    nb.cells = [c for c in nb.cells if not re.match(r"#\|\s*(hide|default_exp)\s*$", c.source.split("\n")[0])]
    for c in nb.cells:
        c.metadata["tags"] = ["remove_input"] if c.source.startswith("#| echo: false") else []
        if c.cell_type == "code": c.outputs = [_only_best(o) for o in c.outputs]
    exporter = MarkdownExporter(config={"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {"remove_input"}}})
    text, resources = exporter.from_notebook_node(nb, {"output_files_dir": "nbs/figures", "unique_key": "README"})
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.splitlines())).strip() + "\n"
    return "<!-- Made from nbs/index.ipynb by `make readme`; edit there. -->\n" + text, resources["outputs"]


def _only_best(out):
    "An output shows as a picture where it has one, else as text: GitHub strips a table's style."
    data = out.get("data", {})
    if "image/png" in data: out.data = {"image/png": data["image/png"]}
    elif "text/markdown" in data: out.data = {"text/markdown": data["text/markdown"]}
    elif "text/plain" in data: out.data = {"text/plain": data["text/plain"]}
    return out


def write_readme():
    "README.md and nbs/figures."
    text, pictures = readme()
    for old in set((NBS / "figures").glob("README_*")) - {ROOT / name for name in pictures}: old.unlink()
    for name, data in pictures.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        write_whole(ROOT / name, data)
    write_whole(ROOT / "README.md", text.encode())


if __name__ == "__main__":
    command, *names = sys.argv[1:] or ["help"]
    if command == "run":
        for path in [Path(n).resolve() for n in names] or find():
            print(path.name, flush=True)
            run_in_place(path)
    elif command == "readme": write_readme()
    else: sys.exit(__doc__)
