"""Plant faults in a copy of the project, one at a time: does a test turn red?

    python tests/mutants.py              every fault (some minutes); prints a table in Markdown
    python tests/mutants.py "clamp" ...  those whose name contains one of the words

A fault is a piece of code, which must occur exactly once in the package (whatever its module,
layout and line breaks), what stands there instead, and the tests that must notice. Tests that
compare the modules with their notebooks, or with stored values, would notice anything; they are
not asked.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT = (
    ".git",
    ".venv",
    "report",
    "build",
    "dist",
    ".*_cache",
    "__pycache__",
    ".hypothesis",
    "*.egg-info",
)


@dataclass(frozen=True)
class Fault:
    "One planted fault."

    name: str
    code: str  # as it stands, in any layout
    instead: str
    tests: str  # for pytest's -k


FAULTS = (
    Fault(
        "wrong exponent in the alpha-norm",
        "return _sum_of_powers(x, alpha)",
        "return _sum_of_powers(x, alpha - 1)",
        "penalties_scale",
    ),
    Fault(
        "total variation without bars",
        "return _sum_of_powers(x.diff(dim=-1), beta)",
        "return x.diff(dim=-1).pow(beta).flatten(1).sum(1)",
        "penalties_scale",
    ),
    Fault(
        "smoothness divided by m, not m − 1",
        "return x.diff(dim=-1).abs().flatten(1).mean(1)",
        "return x.diff(dim=-1).abs().flatten(1).sum(1) / x[0].numel()",
        "test_every_line_is_what_a_single_run_gives",
    ),
    Fault(
        "Ledoit–Wolf without the bias factor",
        "np.clip(values, 0, None) * (self.n - 1) / self.n",
        "np.clip(values, 0, None)",
        "noticed_twin",
    ),
    Fault(
        "percentile counted from the wrong side",
        "return 100 * np.searchsorted(scale, distances) / len(scale)",
        "return 100 - 100 * np.searchsorted(scale, distances) / len(scale)",
        "test_grounded_never_leaves",
    ),
    Fault(
        "a row's stream ignores the row",
        "np.random.SeedSequence([seed, row, purpose])",
        "np.random.SeedSequence([seed, 0, purpose])",
        "noticed_rows or twins_gaussian_have",
    ),
    Fault(
        "clamp with its bounds swapped",
        "x.clamp(torch.as_tensor(self.low).to(x), torch.as_tensor(self.high).to(x))",
        "x.clamp(torch.as_tensor(self.high).to(x), torch.as_tensor(self.low).to(x))",
        "test_sequence_dreaming_arrives",
    ),
    Fault(
        "blur not normalised",
        "return kernel / kernel.sum()",
        "return kernel",
        "blur_is_scipys or blur_keeps",
    ),
    Fault(
        "arrived where the answer is not finite",
        "arrived = objective.arrived(a, rows) & answer.fine",
        "arrived = objective.arrived(a, rows)",
        "noticed_nothing_arrives",
    ),
    Fault(
        "Eq. 2 without its floor",
        "/ own.square().clamp_min(target.floor)",
        "/ own.square()",
        "noticed_a_target_of_score_zero",
    ),
    Fault(
        "a search whose identity forgets the probed layer",
        '"layer": self.ref.meta.get("layer"),',
        "",
        "noticed_search",
    ),
    Fault(
        "the Gaussian twin without the classes' priors",
        "+ np.log(ref.time[i].n)",
        "",
        "noticed_twin",
    ),
    Fault(
        "a model's modes are not put back",
        "m.training = self.training",
        "pass",
        "noticed_a_model_goes_home or model_is_a_guest",
    ),
)


def number(token: str) -> str:
    "A float's pattern: `.5`, `0.5` and `0.50` are one."
    whole, fraction = token.split(".")
    return rf"0*{whole.lstrip('0')}\.{fraction.rstrip('0')}0*"


def pattern(code: str) -> re.Pattern:
    "Code whatever its white space, quotes, trailing commas and way to write a float."
    parts = []
    for token in re.findall(r"\d*\.\d+|\d+\.\d*|\w+|[^\w\s]", code):
        if re.fullmatch(r"\d*\.\d*", token) and token != ".":
            parts.append(number(token))
        elif token in "\"'":
            parts.append("[\"']")
        elif token in ")]}":
            parts.append(r",?\s*" + re.escape(token))
        else:
            parts.append(re.escape(token))
    return re.compile(r"(?<!\w)" * code[0].isalnum() + r"\s*".join(parts))


def places(code: str, folder: Path) -> list[tuple[Path, re.Match]]:
    "Where a piece of code occurs in the package."
    wanted = pattern(code)
    modules = sorted((folder / "seqdream").glob("*.py"))
    return [(p, m) for p in modules for m in wanted.finditer(p.read_text(encoding="utf-8"))]


def plant(fault: Fault, folder: Path) -> tuple[Path, str]:
    "Put the fault in; the module, and its text as it was."
    found = places(fault.code, folder)
    if len(found) != 1:
        where = ", ".join(p.name for p, _ in found) or "no module"
        raise LookupError(f"{fault.name}: the code must occur once; it is in {where}: {fault.code}")
    path, match = found[0]
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: match.start()] + fault.instead + text[match.end() :], encoding="utf-8")
    return path, text


def run_tests(expression: str, folder: Path) -> tuple[int, str]:
    "pytest's exit status in the copy, and the first test that failed."
    asked = f"({expression}) and not unchanged and not export"
    call = [
        sys.executable,
        "-m",
        "pytest",
        "tests",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        asked,
    ]
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(call, cwd=folder, env=env, capture_output=True, text=True)
    red = re.search(r"^(?:FAILED|ERROR) tests/\S+?::(\w+)", done.stdout, re.M)
    return done.returncode, red[1] if red else ""


def judge(fault: Fault, folder: Path) -> tuple[str, str]:
    "(module, what noticed the fault: a test's name, or nothing)."
    try:
        path, text = plant(fault, folder)
    except LookupError as e:
        return "?", f"**not planted**: {e}"
    try:
        status, red = run_tests(fault.tests, folder)
    finally:
        path.write_text(text, encoding="utf-8")
    if status == 1:
        return path.name, f"`{red}`"
    return path.name, "**nothing**" if status == 0 else f"**no test ran** (pytest: {status})"


def copy(folder: Path) -> Path:
    "The project, without what is made from it."
    shutil.copytree(ROOT, folder / "project", ignore=shutil.ignore_patterns(*LEFT))
    return folder / "project"


def main(*words: str) -> int:
    "Print the table; 1 where a fault was not noticed."
    chosen = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    survived = 0
    with tempfile.TemporaryDirectory() as made:
        folder = copy(Path(made))
        status, red = run_tests(" or ".join(f"({f.tests})" for f in chosen), folder)
        if status:
            sys.exit(f"before any fault is planted, {red or 'a test'} fails (pytest: {status})")
        print("| fault | module | noticed by |\n|---|---|---|", flush=True)
        for fault in chosen:
            module, noticed = judge(fault, folder)
            survived += noticed.startswith("**")
            print(f"| {fault.name} | {module} | {noticed} |", flush=True)
    print(f"\n{len(chosen) - survived} of {len(chosen)} noticed")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
