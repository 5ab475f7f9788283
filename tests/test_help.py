"""Help: what docstrings say after expansion agrees with the signatures they come from."""

import functools
import importlib
import inspect
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import seqdream
from seqdream.help import expand_module, with_help

PUBLIC = {n: getattr(seqdream, n) for n in seqdream.__all__}
PUBLIC = {n: t for n, t in PUBLIC.items() if inspect.isfunction(t) or inspect.isclass(t)}
KNOWN = ["Parameters", "Returns", "Raises", "See Also", "Notes", "References"]


def read_numpydoc(doc):
    "Sections of a docstring: title -> text; what comes before the first is under ''."
    parts = re.split(r"(?:^|\n\n)(.+)\n(-{3,})\n", doc)
    sections = {"": parts[0]}
    for title, rule, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        assert len(rule) == len(title), f"{title} is underlined by {len(rule)} signs"
        sections[title] = text
    return sections


def read_parameters(doc):
    "Of each parameter its type, its default (both as text, or None) and its explanation."
    found = {}
    name = None
    for line in read_numpydoc(doc).get("Parameters", "").splitlines():
        if line.startswith("    "):
            found[name][2].append(line.strip())
            continue
        name, _, rest = line.partition(" : ")
        kind, mark, default = rest.partition("default ")
        assert name not in found, f"{name} is listed twice"
        found[name] = (kind.rstrip(", ") or None, default if mark else None, [])
    return {name: (kind, default, " ".join(said)) for name, (kind, default, said) in found.items()}


def last_names(annotation):
    "The words of a type, without the modules they come from and `typing`'s ways to say 'or'."
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    words = re.findall(r"[\w.]+|'[^']*'", text)
    return [word.rsplit(".", 1)[-1] for word in words]


def has_constructor(thing):
    "Whether the package itself says what a class is made from (torch says it for some)."
    return not inspect.isclass(thing) or thing.__init__.__module__.startswith("seqdream")


def methods(cls):
    "Public methods of a class, bound as a user finds them."
    names = [k for k in vars(cls) if not k.startswith("_")]
    bound = {k: getattr(cls, k) for k in names}
    return {k: m for k, m in bound.items() if callable(m) and m.__doc__}


def agrees(thing, drop_self=False):
    "Names, order, types and defaults of a docstring are those of the signature."
    listed = read_parameters(thing.__doc__)
    expected = list(inspect.signature(thing).parameters.values())[drop_self:]
    assert [n.lstrip("*") for n in listed] == [p.name for p in expected]
    for (name, (kind, default, _)), p in zip(listed.items(), expected, strict=True):
        assert name.count("*") == {p.VAR_POSITIONAL: 1, p.VAR_KEYWORD: 2}.get(p.kind, 0)
        assert (kind is None) == (p.annotation is p.empty), f"{name}: type"
        assert kind is None or last_names(kind) == last_names(p.annotation), f"{name}: type"
        assert (default is None) == (p.default is p.empty), f"{name}: default"
        if isinstance(p.default, (int, float, str, bool, tuple, type(None))):
            shown = default.rstrip("…")
            assert repr(p.default).startswith(shown), f"{name}: default"


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_agrees_with_signature(name):
    thing = PUBLIC[name]
    sections = read_numpydoc(thing.__doc__)
    assert sections[""].strip() and list(sections)[1:] == [k for k in KNOWN if k in sections]
    if has_constructor(thing):
        agrees(thing)
    if inspect.isclass(thing):
        for method in methods(thing).values():
            agrees(method, drop_self="self" in inspect.signature(method).parameters)
        return
    result = inspect.signature(thing).return_annotation
    assert ("Returns" in sections) == (result not in (inspect.Signature.empty, None))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_parameter_is_explained(name):
    "Each public parameter of each public name has a comment; red names those that have none."
    listed = read_parameters(PUBLIC[name].__doc__)
    silent = [parameter for parameter, (_, _, said) in listed.items() if not said]
    assert not silent, f"{name}: no comment explains {', '.join(silent)}"


def test_comments_of_the_source_arrive():
    "Every comment behind a parameter of `dream` stands in its docstring, read another way."
    source = inspect.getsource(seqdream.dream).partition('"""')[0]
    listed = read_parameters(seqdream.dream.__doc__)
    seen = 0
    for line in source.splitlines():
        found = re.match(r"\s+\*{0,2}(\w+)[:=,].*?#\s*(.*)", line)
        if found:
            seen += 1
            assert found[2].strip() in listed[found[1].removeprefix("*")][2]
    assert seen > 3


# Examples whose every word is known. They are not of the package: what is public is not touched.
# fmt: off
def example(
    # a remark above the first explains nothing
    x,  # series, (n, channels, timepoints);
        # never empty
    low=0., high=1.,  # the range
    table=(
        1, 2,  # what
    ),         # and why
    silent: int = 3,

    # a remark after an empty line explains nothing either
    colour="#ff8800",  # its sign is no comment  # noqa: E501
    *rest: float,  # more
    on: "nn.Module | None" = None,  # where
    **options,  # else
) -> tuple[int, torch.Tensor]:  # two things,
    # in this order
    """One line.

    A paragraph that says more:
    with a colon.

    Raises: ValueError if low is above
    high.
    Raises: `KeyError` or TypeError naming the value.
    See also: `reach`, score.
    Units: points.

    Source: Eq. 4.

    The last word.
    """
# fmt: on


def test_example_word_by_word():
    doc = with_help(example).__doc__
    assert read_parameters(doc) == {
        "x": (None, None, "series, (n, channels, timepoints); never empty"),
        "low": (None, "0.0", "the range"),
        "high": (None, "1.0", "the range"),
        "table": (None, "(1, 2)", "what and why"),
        "silent": ("int", "3", ""),
        "colour": (None, "'#ff8800'", "its sign is no comment"),
        "*rest": ("float", None, "more"),
        "on": ("Module | None", "None", "where"),
        "**options": (None, None, "else"),
    }
    sections = read_numpydoc(doc)
    assert list(sections) == ["", *KNOWN]
    assert (
        sections[""] == "One line.\n\nA paragraph that says more:\nwith a colon.\n\nThe last word."
    )
    assert sections["Returns"].startswith("tuple[int, Tensor]\n    two things, in this order")
    errors = "ValueError\n    if low is above high.\nKeyError, TypeError\n    naming the value."
    assert sections["Raises"] == errors
    assert sections["See Also"] == "reach, score"
    assert sections["Notes"] == "Units: points."
    assert sections["References"] == "Eq. 4."


def test_one_line_function():
    def double(x: int) -> int: return 2 * x  # how # fmt: skip

    def halve(x: int, y=1) -> int:  # half of it # fmt: skip
        "Halve."

    assert with_help(double).__doc__ is None, "neither docstring nor explanation: nothing to say"
    assert with_help(halve).__doc__.endswith(
        "x : int\ny : default 1\n\nReturns\n-------\nint\n    half of it"
    )


@dataclass(frozen=True)
class Parent:
    "What is inherited."

    first: int  # from the parent
    second: float = 2.0  # from the parent

    def grow(self, by: int = 1):  # by how much
        "Larger."
        first = by  # what a method does explains no field
        return first


@dataclass(frozen=True)
class Child(Parent):
    "What is added."

    label = "no field"  # no parameter either
    second: float = 3.0  # from the child
    third: list | None = None  # from the child

    @classmethod
    def make(
        cls,
        size: int,  # how many
    ) -> "Child":
        "A child of a size."

    @staticmethod
    def count(
        things,  # to be counted
    ):
        "How many."


class Layer(nn.Module):
    "A module."

    def __init__(
        self,
        width: int,  # in points
    ):
        super().__init__()


class Bare(nn.Module):
    "A module whose constructor is torch's."


def test_classes():
    with_help(Child)
    assert read_parameters(Child.__doc__) == {
        "first": ("int", None, "from the parent"),
        "second": ("float", "3.0", "from the child"),
        "third": ("list | None", "None", "from the child"),
    }
    assert read_parameters(Child.make.__doc__) == {"size": ("int", None, "how many")}
    assert read_parameters(Child.count.__doc__) == {"things": (None, None, "to be counted")}
    assert read_parameters(Child.grow.__doc__) == {"by": ("int", "1", "by how much")}
    assert read_parameters(with_help(Layer).__doc__) == {"width": ("int", None, "in points")}
    assert with_help(Bare).__doc__ == "A module whose constructor is torch's."
    assert "Parameters\n---" not in nn.Module.register_buffer.__doc__, "torch's own are not touched"


@pytest.mark.parametrize("name", PUBLIC)
def test_a_second_time_changes_nothing(name):
    thing = PUBLIC[name]
    before = [thing.__doc__, *(m.__doc__ for m in vars(thing).values())]
    assert with_help(thing) is thing
    assert [thing.__doc__, *(m.__doc__ for m in vars(thing).values())] == before


def test_everything_else_is_left_alone():
    made = {}
    exec(compile("def gone(x):  # lost\n    'Without source.'", "<nowhere>", "exec"), made)
    for thing in (
        1,
        None,
        [1],
        len,
        torch.add,
        functools.partial(int, base=2),
        seqdream,
        made["gone"],
    ):
        doc = thing.__doc__
        assert with_help(thing) is thing and thing.__doc__ == doc
    nameless = with_help(lambda x: x)  # a comment
    assert nameless.__doc__ is None


def test_looked_up_through_the_package():
    "The docstring is short after a deep import, and long once `sd` was asked; one object."
    code = """if True:
        import seqdream as sd
        from seqdream.methods import sequence_dreaming
        assert "Parameters" not in sequence_dreaming.__doc__
        assert sd.sequence_dreaming is sequence_dreaming
        assert "Parameters" in sequence_dreaming.__doc__
        assert "inspect" not in dir(sd) and "with_help" not in dir(sd)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_whole_modules():
    part = importlib.import_module("seqdream.data")
    assert expand_module(part) is part
    assert "Parameters\n----------\nx : Tensor" in part.z_normalise.__doc__
    assert expand_module(seqdream) is seqdream
