"""Run notebooks, each in a process of its own, and build README.md from nbs/index.ipynb.

    python tests/notebooks.py run [NOTEBOOK ...]   execute in place, outputs kept and clean
    python tests/notebooks.py tidy [NOTEBOOK ...]  clean the stored outputs, without a run
    python tests/notebooks.py readme               write README.md and its pictures

Without a name `run` takes every notebook of the library.
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
    """The kernel of the Python that runs this, whatever else is registered under its name.

    It talks through socket files, so that parallel runs never race for a port.
    """

    @default("transport")
    def _socket_files(self):
        return "ipc"

    @default("connection_file")
    def _own_file(self):
        name = f"notebook-{os.getpid()}-{secrets.token_hex(4)}.json"
        return os.path.join(tempfile.gettempdir(), name)

    @property
    def kernel_spec(self):
        launcher = [sys.executable, "-m", "ipykernel_launcher"]
        argv = [*launcher, "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def find(folder=NBS) -> list[Path]:
    "All notebooks of a folder, by name."
    return sorted(Path(folder).glob("*.ipynb"))


def _name(path, index=None, cell=None) -> str:
    "What people call a cell: its notebook, its number, its first line."
    if cell is None:
        return f"{Path(path).name}, before its first cell"
    written = [line for line in cell.source.splitlines() if line.strip()]
    first = next((line for line in written if not line.startswith("#|")), "")
    return f"{Path(path).name}, cell {index}: {first[:80]}"


def _environment() -> dict:
    "Of a kernel: this checkout first on the path, one thread, no progress bars."
    inherited = os.environ.get("PYTHONPATH")
    path = [str(ROOT), inherited] if inherited else [str(ROOT)]
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    own = {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(path), "TQDM_DISABLE": "1"}
    return os.environ | own


def _noise(cell) -> str:
    "What a cell wrote to standard error."
    streams = [o for o in cell.outputs if o.output_type == "stream"]
    return "".join(o.text for o in streams if o.name == "stderr")


def run(path, timeout: int = 600, cwd=NBS):
    """The executed notebook; `NotebookError` names the cell that fails.

    The file itself is left alone.
    """
    nb = nbformat.read(path, 4)
    started = {}

    def watch(cell, cell_index, **_):
        started.update(index=cell_index, cell=cell)

    client = NotebookClient(
        nb,
        timeout=timeout,
        kernel_manager_class=OwnKernel,
        resources={"metadata": {"path": str(cwd)}},
        on_cell_start=watch,
    )
    try:
        client.execute(env=_environment())
    except CellExecutionError as e:
        trace = ESCAPES.sub("", e.traceback)[-3000:]
        raise NotebookError(f"{_name(path, **started)}\n{trace}") from None
    except (CellTimeoutError, TimeoutError):
        raise NotebookError(f"{_name(path, **started)}\nmore than {timeout} s") from None
    except DeadKernelError as e:
        raise NotebookError(f"{_name(path, **started)}\nthe process died: {e}") from None
    for i, cell in enumerate(nb.cells):
        text = _noise(cell) if cell.cell_type == "code" else ""
        if text.strip():
            raise NotebookError(f"{_name(path, i, cell)}\nwrote to standard error: {text[-1500:]}")
    return nb


ALT = re.compile(r"^#\|\s*fig-alt:(.*(?:\n#\|   .*)*)", re.MULTILINE)


def alt_text(source: str) -> str:
    "What a cell says of its pictures to those who do not see them: `#| fig-alt: ...`, also folded."
    found = ALT.search(source)
    if not found:
        return ""
    return " ".join(found[1].replace("\n#|", " ").split()).removeprefix(">").strip()


def _clean_output(out, number: int, alt: str):
    "An output without its changing parts; a picture gets its alternative text."
    out.pop("execution_count", None)
    if out.output_type == "execute_result":
        out["execution_count"] = number
    data = out.get("data", {})
    picture = "image/png" in data
    if "metadata" in out:
        out.metadata = {"image/png": {"alt": alt}} if picture and alt else {}
    if picture:
        data.pop("text/plain", None)
    if "text/html" in data:
        data["text/html"] = _stable_ids(data["text/html"])
    if "style.Styler at" in data.get("text/plain", ""):
        data.pop("text/plain")


def _is_bar(out) -> bool:
    "A progress bar, shown by chance where the machine was slow; TQDM_DISABLE spares widgets."
    shown = "application/vnd.jupyter.widget-view+json" in out.get("data", {})
    return shown and "%|" in out.data.get("text/plain", "")


def _merged(outputs) -> list:
    "Streams that follow each other become one."
    found = []
    for out in outputs:
        both = out.output_type == "stream" and found and found[-1].output_type == "stream"
        if both:
            found[-1].text += out.text
        else:
            found.append(out)
    return found


def clean(nb):
    "Without what changes from run to run and tells a reader nothing."
    for cell in nb.cells:
        cell.metadata = {}
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):  # as a run from top to bottom numbers them
        cell.execution_count = number
        for out in cell.outputs:
            _clean_output(out, number, alt_text(cell.source))
        cell.outputs = _merged([out for out in cell.outputs if not _is_bar(out)])
    nb.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nb


def _stable_ids(html: str) -> str:
    "pandas draws a random id for each styled table."
    return re.sub(r"T_[0-9a-f]{5}", "T_table", html)


def write_whole(path: Path, data: bytes):
    "Write aside, then rename."
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "wb") as f:
        f.write(data)
    os.chmod(aside, 0o644)
    os.replace(aside, path)


def run_in_place(path):
    "Execute, clean and store."
    store(path, run(path))


def store(path, nb):
    "Clean and write."
    nb = clean(nb)
    text = nbformat.writes(nb, 4, indent=1).rstrip("\n") + "\n"
    write_whole(Path(path), text.encode())


HIDDEN = re.compile(r"#\|\s*(hide|default_exp)\s*$")
WITHOUT_INPUT = {"enabled": True, "remove_input_tags": {"remove_input"}}
MADE = "<!-- Made from nbs/index.ipynb by `make readme`; edit there. -->\n"


def readme(notebook=NBS / "index.ipynb") -> tuple[str, dict]:
    "README.md and its pictures (name -> bytes), from the stored notebook."
    from nbconvert import MarkdownExporter

    nb = nbformat.read(notebook, 4)
    nb.cells = [c for c in nb.cells if not HIDDEN.match(c.source.split("\n")[0])]
    for c in nb.cells:
        c.metadata["tags"] = ["remove_input"] if c.source.startswith("#| echo: false") else []
        if c.cell_type == "code":
            c.outputs = [_only_best(o) for o in c.outputs]
    exporter = MarkdownExporter(config={"TagRemovePreprocessor": WITHOUT_INPUT})
    where = {"output_files_dir": "nbs/figures", "unique_key": "README"}
    text, resources = exporter.from_notebook_node(nb, where)
    alts = iter([alt_text(c.source) for c in nb.cells for o in _pictures(c)])
    text = re.sub(r"!\[png\]", lambda _: f"![{next(alts, '')}]", text)
    text = "\n".join(line.rstrip() for line in text.splitlines())
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return MADE + text, resources["outputs"]


def _pictures(cell) -> list:
    "The outputs of a cell that are pictures."
    return [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]


def _only_best(out):
    "An output shows as a picture where it has one, else as text: GitHub strips a table's style."
    data = out.get("data", {})
    if "image/png" in data:
        out.data = {"image/png": data["image/png"]}
    elif "text/markdown" in data:
        out.data = {"text/markdown": data["text/markdown"]}
    elif "text/plain" in data:
        out.data = {"text/plain": data["text/plain"]}
    return out


def write_readme():
    "README.md and nbs/figures."
    text, pictures = readme()
    kept = {ROOT / name for name in pictures}
    for old in set((NBS / "figures").glob("README_*")) - kept:
        old.unlink()
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
    elif command == "tidy":
        for path in [Path(n).resolve() for n in names] or find():
            store(path, nbformat.read(path, 4))
    elif command == "readme":
        write_readme()
    else:
        sys.exit(__doc__)
