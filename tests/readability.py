"""How readable is the code? Width, size of cells, prose, docstrings, parameters, one-liners.

    python tests/readability.py            print the tables
    python tests/readability.py --check    also exit with 1 where one of the hard numbers is missed

Standard library only. A parameter is explained by a comment behind it (or above it, on lines of its
own), or by an entry in a numpydoc section "Parameters"; of several parameters on one line a comment
explains the last.
"""

import ast
import io
import json
import re
import statistics
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("_modidx.py",)
HIDDEN = (".ipynb_checkpoints", "_proc", "__pycache__")

WIDTH = 100  # characters of a line
CELL = 40  # lines of an exported cell
MEDIAN_CELL = 8  # lines of the middle code cell
TUPLES, LAMBDAS = 8, 6  # per 1,000 lines of code
POSITIONAL = 7  # parameters that can be given by position
PROSE = 600  # words of an exporting notebook

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


# --- what is read ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    "Python text: a module, a test file, or one code cell."

    where: str  # for people
    text: str

    @cached_property
    def lines(self) -> list[str]:
        "Lines as they stand."
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        "Its syntax tree; lines of IPython's own (`%` and `!`) are left out."
        own = [re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in self.lines]
        return ast.parse("\n".join(own) + "\n")

    @cached_property
    def comments(self) -> dict[int, str]:
        "Line number -> comment."
        read = io.StringIO(self.text + "\n").readline
        try:
            tokens = list(tokenize.generate_tokens(read))
        except (tokenize.TokenError, SyntaxError):
            return {}
        return {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}

    def nodes(self, *kinds) -> list:
        "All nodes of some kinds."
        return [node for node in ast.walk(self.tree) if isinstance(node, kinds)]

    @cached_property
    def written(self) -> list[str]:
        "Lines that are neither blank nor one of nbdev's directives."
        return [line for line in self.lines if line.strip() and not line.startswith("#|")]

    @cached_property
    def code_lines(self) -> int:
        "Lines that are neither blank, nor a comment alone, nor part of a docstring."
        documented = self.nodes(ast.Module, ast.ClassDef, *FUNCTIONS)
        strings = [node.body[0] for node in documented if ast.get_docstring(node) is not None]
        inside = {n for s in strings for n in range(s.lineno, s.end_lineno + 1)}
        bare = [
            i for i, line in enumerate(self.lines, 1) if not line.strip() or line.lstrip()[0] == "#"
        ]
        return len(self.lines) - len(inside.union(bare))


@dataclass(frozen=True)
class Notebook:
    "A notebook's cells as text."

    path: Path
    code: list[Source]
    prose: list[str]

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def exports(self) -> bool:
        "Does a module come from it?"
        return any(re.search(r"^#\|\s*default_exp\b", c.text, re.M) for c in self.code)

    @property
    def exported(self) -> list[Source]:
        "Cells that go into the module."
        return [c for c in self.code if re.search(r"^#\|\s*exporti?\b", c.text, re.M)]

    @property
    def words(self) -> int:
        return sum(len(text.split()) for text in self.prose)


def read_notebook(path: Path) -> Notebook:
    "Code and markdown of a file; empty cells are left out."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code, prose = [], []
    for i, cell in enumerate(cells):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            prose.append(text)
        elif cell["cell_type"] == "code" and text.strip():
            code.append(Source(f"{path.name} cell {i}", text))
    return Notebook(path, code, prose)


def read_modules(folder: str) -> list[Source]:
    "Python files of a folder, however deep."
    paths = [p for p in sorted((ROOT / folder).rglob("*.py")) if p.name not in GENERATED]
    shown = [p for p in paths if not set(p.parts) & set(HIDDEN)]
    return [Source(p.relative_to(ROOT).as_posix(), p.read_text(encoding="utf-8")) for p in shown]


@dataclass(frozen=True)
class House:
    "Everything that is measured."

    package: list[Source]
    notebooks: list[Notebook]
    tests: list[Source]

    @classmethod
    def read(cls) -> "House":
        paths = [
            p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if not set(p.parts) & set(HIDDEN)
        ]
        return cls(
            read_modules("seqdream"), [read_notebook(p) for p in paths], read_modules("tests")
        )

    @property
    def cells(self) -> list[Source]:
        "Every code cell of every notebook."
        return [cell for nb in self.notebooks for cell in nb.code]

    @property
    def parts(self) -> dict[str, list[Source]]:
        return {"package": self.package, "notebooks": self.cells, "tests": self.tests}


# --- lines and cells ------------------------------------------------------------------------------


def generated_lines(source: Source) -> set[int]:
    "Lines of the `__all__` that nbdev writes, 130 characters wide and not to be told otherwise."
    if "# AUTOGENERATED!" not in source.text:
        return set()
    own = [n for n in source.tree.body if isinstance(n, ast.Assign)]
    listed = [n for n in own if ast.unparse(n.targets[0]) == "__all__"]
    return {i for n in listed for i in range(n.lineno, n.end_lineno + 1)}


def wide_lines(sources: list[Source]) -> list[str]:
    "Lines over 100 characters, by place."
    found = []
    for source in sources:
        wide = [i for i, line in enumerate(source.lines, 1) if len(line) > WIDTH]
        left = generated_lines(source) if wide else set()
        found += [f"{source.where}:{i} ({len(source.lines[i - 1])})" for i in wide if i not in left]
    return found


def cell_lines(cells: list[Source]) -> list[int]:
    "Lines of each cell, blank ones and directives aside."
    return [len(cell.written) for cell in cells if cell.written]


def long_cells(notebooks: list[Notebook]) -> list[str]:
    "Exported cells over 40 lines."
    cells = [cell for nb in notebooks for cell in nb.exported]
    return [f"{c.where} ({len(c.written)})" for c in cells if len(c.written) > CELL]


def short_prose(notebooks: list[Notebook]) -> list[str]:
    "Exporting notebooks of fewer than 600 words."
    exporting = [nb for nb in notebooks if nb.exports]
    return [f"{nb.name} ({nb.words})" for nb in exporting if nb.words < PROSE]


# --- one-liners -----------------------------------------------------------------------------------


def tuple_assignments(source: Source) -> list[str]:
    "`a, b = x, y`."
    pairs = [
        node
        for node in source.nodes(ast.Assign)
        if isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple)
    ]
    return [f"{source.where}:{node.lineno}" for node in pairs]


def lambdas(source: Source) -> list[str]:
    return [f"{source.where}:{node.lineno}" for node in source.nodes(ast.Lambda)]


def named_lambdas(source: Source) -> list[str]:
    "Lambdas bound to a name that is read twice or more in the function (else file) they stand in."
    found = {}
    for scope in (source.tree, *source.nodes(*FUNCTIONS)):
        read = Counter(
            n.id for n in ast.walk(scope) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
        )
        for node in ast.walk(scope):
            if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)):
                continue
            names = [t.id for t in node.targets if isinstance(t, ast.Name)]
            found[node.lineno] = [
                name for name in names if read[name] > 1
            ]  # the innermost scope is last
    return [
        f"{source.where}:{line} {name}" for line, names in sorted(found.items()) for name in names
    ]


def count(sources: list[Source], measure) -> int:
    return sum(len(measure(source)) for source in sources)


def per_thousand(sources: list[Source], measure) -> float:
    "How many of something in 1,000 lines."
    return 1000 * count(sources, measure) / max(sum(len(s.written) for s in sources), 1)


# --- functions and parameters ---------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    "What a caller can give."

    owner: str
    name: str
    explained: bool
    typed: bool

    def __str__(self) -> str:
        lacks = [
            word for word, good in (("comment", self.explained), ("type", self.typed)) if not good
        ]
        return f"{self.owner}({self.name}): no {', no '.join(lacks)}"


def positional(function) -> list[str]:
    "Parameters that are not keyword-only, `self` and `cls` aside."
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def crowded_functions(source: Source) -> list[str]:
    "Functions and methods that take more than seven things by position."
    many = [f for f in source.nodes(*FUNCTIONS) if len(positional(f)) > POSITIONAL]
    return [f"{source.where}:{f.lineno} {f.name} ({len(positional(f))})" for f in many]


def documented_names(node) -> set[str]:
    "Names in the docstring's numpydoc section 'Parameters'."
    text = ast.get_docstring(node) or ""
    section = re.search(r"^Parameters\n-{3,}\n(.*?)(?=^\w[^\n]*\n-{3,}|\Z)", text, re.M | re.S)
    if not section:
        return set()
    heads = re.findall(r"^(\S[^\n:]*?)\s*(?::|$)", section[1], re.M)
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


def has_comment(source: Source, first: int, last: int) -> bool:
    "A comment behind what stands on these lines, or on a line of its own right above."
    above = source.lines[first - 2].lstrip() if first > 1 else ""
    return last in source.comments or above.startswith("#")


def explained(source: Source, owner: str, node, given: list) -> list[Parameter]:
    "Parameters of a function or constructor from (name, first line, last line, has a type)."
    last_on_line = {last: name for name, _, last, _ in given}
    first_on_line = {first: name for name, first, _, _ in reversed(given)}
    said = documented_names(node)
    found = []
    for name, first, last, typed in given:
        alone = last_on_line[last] == name and first_on_line[first] == name
        behind = last_on_line[last] == name and last in source.comments
        good = name in said or behind or alone and has_comment(source, first, last)
        found.append(Parameter(owner, name, good, typed))
    return found


def function_parameters(source: Source, owner: str, node, outer=None) -> list[Parameter]:
    "Of a function; of a constructor also what its class's docstring says (`outer`)."
    args = node.args
    plain = [
        a for a in (*args.posonlyargs, *args.args, *args.kwonlyargs) if a.arg not in ("self", "cls")
    ]
    ends = default_ends(args)
    given = [
        (a.arg, a.lineno, ends.get(a.arg, a.end_lineno), a.annotation is not None) for a in plain
    ]
    given += [(a.arg, a.lineno, a.end_lineno, True) for a in (args.vararg, args.kwarg) if a]
    found = explained(source, owner, node, given)
    said = documented_names(outer) if outer else set()
    return [Parameter(owner, p.name, p.explained or p.name in said, p.typed) for p in found]


def default_ends(args: ast.arguments) -> dict[str, int]:
    "Name -> line on which its default value ends."
    ordered = [*args.posonlyargs, *args.args]
    pairs = list(zip(ordered[len(ordered) - len(args.defaults) :], args.defaults))
    pairs += [(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults) if d is not None]
    return {a.arg: d.end_lineno for a, d in pairs}


def is_field(node) -> bool:
    "A dataclass's field that its constructor takes."
    if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
        return False
    hidden = node.target.id.startswith("_") or "ClassVar" in ast.unparse(node.annotation)
    return not hidden and "init=False" not in ast.unparse(node)


def constructor_parameters(source: Source, node: ast.ClassDef) -> list[Parameter]:
    "Of a class: its `__init__`, or the fields of a dataclass."
    for part in node.body:
        if isinstance(part, FUNCTIONS) and part.name == "__init__":
            return function_parameters(source, node.name, part, node)
    if not any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        return []
    given = [(p.target.id, p.lineno, p.end_lineno, True) for p in node.body if is_field(p)]
    return explained(source, node.name, node, given)


def method_parameters(source: Source, node: ast.ClassDef) -> list[Parameter]:
    "Of a class's public methods."
    methods = [p for p in node.body if isinstance(p, FUNCTIONS) and not p.name.startswith("_")]
    return [p for m in methods for p in function_parameters(source, f"{node.name}.{m.name}", m)]


def public_names() -> set[str]:
    "`seqdream.__all__`, which names parts lazily and so costs nothing to read."
    sys.path.insert(0, str(ROOT))
    import seqdream

    return set(seqdream.__all__)


def definitions(package: list[Source], names: set[str]) -> list[tuple[Source, ast.AST]]:
    "Where public functions and classes are defined."
    kinds = (ast.ClassDef, *FUNCTIONS)
    pairs = [(s, node) for s in package for node in s.tree.body if isinstance(node, kinds)]
    return [(s, node) for s, node in pairs if node.name in names]


def public_parameters(package: list[Source], methods: bool = False) -> list[Parameter]:
    "Of every function and constructor in `seqdream.__all__`; or of those classes' methods."
    found = []
    for source, node in definitions(package, public_names()):
        if isinstance(node, ast.ClassDef):
            found += (method_parameters if methods else constructor_parameters)(source, node)
        elif not methods:
            found += function_parameters(source, node.name, node)
    return found


def bare_parameters(package: list[Source]) -> list[str]:
    "Public parameters without a comment or a type."
    return [str(p) for p in public_parameters(package) if not (p.explained and p.typed)]


def public_definitions(source: Source) -> list:
    "Functions and classes of a module that its users may know, and their methods."
    kinds = (ast.ClassDef, *FUNCTIONS)
    top = [n for n in source.tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
    inner = [
        m for c in top if isinstance(c, ast.ClassDef) for m in c.body if isinstance(m, FUNCTIONS)
    ]
    return top + [m for m in inner if not m.name.startswith("_")]


def helpers_used_once(package: list[Source]) -> list[str]:
    "Private functions that one place of the package calls."
    used = Counter()
    for source in package:
        used.update(n.id for n in source.nodes(ast.Name))
        used.update(n.attr for n in source.nodes(ast.Attribute))
    private = [
        (s, n)
        for s in package
        for n in s.tree.body
        if isinstance(n, FUNCTIONS) and n.name.startswith("_")
    ]
    return [f"{s.where}:{n.lineno} {n.name}" for s, n in private if used[n.name] == 1]


# --- the hard numbers -----------------------------------------------------------------------------


def check_width(house: House) -> list[str]:
    "No line of code over 100 characters, in package, notebooks and tests."
    return [line for sources in house.parts.values() for line in wide_lines(sources)]


def check_exported_cells(house: House) -> list[str]:
    "No exported cell over 40 lines."
    return long_cells(house.notebooks)


def check_median_cell(house: House) -> list[str]:
    "The middle code cell has at most 8 lines."
    middle = statistics.median(cell_lines(house.cells))
    return [f"{middle:g} lines"] if middle > MEDIAN_CELL else []


def _check_rate(house: House, measure, most: float) -> list[str]:
    rates = {part: per_thousand(house.parts[part], measure) for part in ("package", "notebooks")}
    return [f"{part}: {rate:.1f} per 1,000 lines" for part, rate in rates.items() if rate > most]


def check_tuple_assignments(house: House) -> list[str]:
    "At most 8 tuple assignments in 1,000 lines, of the package and of the notebooks."
    return _check_rate(house, tuple_assignments, TUPLES)


def check_lambdas(house: House) -> list[str]:
    "At most 6 lambdas in 1,000 lines, of the package and of the notebooks."
    return _check_rate(house, lambdas, LAMBDAS)


def check_named_lambdas(house: House) -> list[str]:
    "No lambda of the package has a name that is used twice."
    return [line for source in house.package for line in named_lambdas(source)]


def check_positional(house: House) -> list[str]:
    "No function of the package takes more than 7 things by position."
    return [line for source in house.package for line in crowded_functions(source)]


def check_parameters(house: House) -> list[str]:
    "Every parameter of a public function or constructor is explained and typed."
    return bare_parameters(house.package)


def check_prose(house: House) -> list[str]:
    "Every exporting notebook has at least 600 words of prose."
    return short_prose(house.notebooks)


CHECKS = (
    check_width,
    check_exported_cells,
    check_median_cell,
    check_tuple_assignments,
    check_lambdas,
    check_named_lambdas,
    check_positional,
    check_parameters,
    check_prose,
)


# --- printing -------------------------------------------------------------------------------------


def share(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"


def row(name: str, *values) -> str:
    return f"{name:<46}" + "".join(f"{value!s:>14}" for value in values)


def code_table(house: House) -> list[str]:
    "Package, notebooks' code cells and tests side by side."
    parts = list(house.parts.values())
    total = [sum(len(s.written) for s in part) for part in parts]
    wide = [len(wide_lines(part)) for part in parts]
    rates = [
        (measure, [f"{per_thousand(p, measure):.1f}" for p in parts])
        for measure in (tuple_assignments, lambdas)
    ]
    return [
        row("", *house.parts),
        row("lines, blank ones aside", *total),
        row("lines over 100 characters", *wide),
        row("  share", *map(share, wide, total)),
        row("tuple assignments per 1,000 lines", *rates[0][1]),
        row("lambdas per 1,000 lines", *rates[1][1]),
        row("lambdas with a name used twice", *[count(p, named_lambdas) for p in parts]),
        row("functions with more than 7 positional", *[count(p, crowded_functions) for p in parts]),
    ]


def notebook_table(house: House) -> list[str]:
    "Cells and prose."
    lines = cell_lines(house.cells)
    exporting = [nb.words for nb in house.notebooks if nb.exports]
    words = sum(nb.words for nb in house.notebooks)
    return [
        row("code cells", len(lines)),
        row("lines per code cell, median", f"{statistics.median(lines):g}"),
        row("lines per code cell, largest", max(lines)),
        row("exported cells over 40 lines", len(long_cells(house.notebooks))),
        row("words of prose per line of code", f"{words / max(sum(lines), 1):.1f}"),
        row("words of prose, shortest exporting notebook", min(exporting)),
        row("exporting notebooks under 600 words", len(short_prose(house.notebooks))),
    ]


def help_table(house: House) -> list[str]:
    "Docstrings and parameters."
    known = [d for source in house.package for d in public_definitions(source)]
    given, methods = (
        public_parameters(house.package),
        public_parameters(house.package, methods=True),
    )
    return [
        row("public functions and classes", len(known)),
        row(
            "  with a docstring", share(sum(bool(ast.get_docstring(d)) for d in known), len(known))
        ),
        row("parameters of public functions, constructors", len(given)),
        row("  explained", share(sum(p.explained for p in given), len(given))),
        row("  typed", share(sum(p.typed for p in given), len(given))),
        row("parameters of public methods", len(methods)),
        row("  explained", share(sum(p.explained for p in methods), len(methods))),
        row("  typed", share(sum(p.typed for p in methods), len(methods))),
        row("private helpers used once", len(helpers_used_once(house.package))),
    ]


def module_table(house: House) -> list[str]:
    "Modules by size: all lines, and those with code."
    ordered = sorted(house.package, key=lambda s: -len(s.lines))
    return [
        row("module", "lines", "of code"),
        *[row(s.where, len(s.lines), s.code_lines) for s in ordered],
    ]


def title(check) -> str:
    return check.__doc__.removesuffix(".")


def verdicts(house: House, shown: int = 12) -> list[str]:
    "A line for each hard number, and what misses it."
    lines = []
    for check in CHECKS:
        found = check(house)
        lines.append(
            f"{'missed' if found else 'ok':<8}{title(check)}" + (f": {len(found)}" if found else "")
        )
        lines += [f"          {line}" for line in found[:shown]]
        if len(found) > shown:
            lines.append(f"          and {len(found) - shown} more")
    return lines


def main(*options: str) -> int:
    "The command line."
    house = House.read()
    tables = [code_table(house), notebook_table(house), help_table(house), module_table(house)]
    for table in tables:
        print("\n".join(table), end="\n\n")
    print("\n".join(verdicts(house)))
    return int("--check" in options and any(check(house) for check in CHECKS))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
