"""What reports are made of, as plain data: entries, sections and their parts.

A part is shown by the macro of ``report.html.j2`` that has its class's name; a plain string is a paragraph. A further
section is one function from :class:`Material`, in ``report/sections``, and its name in ``report/kinds.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from distilplace.evaluation.retrieval.asymmetric import AsymmetricResult
from distilplace.evaluation.retrieval.predictions import Predictions

if TYPE_CHECKING:
    from distilplace.evaluation.report.pictures import PictureFolder

Result = TypeVar("Result")
Set = TypeVar("Set")
Verdict = Literal["correct", "wrong", "ignored", "middle", "differ", ""]
"""What is said, by colour too, of a picture or an example."""


@dataclass(frozen=True)
class ReportEntry(Generic[Result]):
    """One model in the report.

    ``facts``: what the table says beside its result (parameters, ms per place, ...). ``predictions``: what it
    retrieved for every query; None where nothing is ranked. ``asymmetric``: of a student, how it does
    in the map of each of its teachers.
    """

    name: str
    result: Result
    facts: Mapping[str, str] = field(default_factory=dict)
    predictions: Predictions | None = field(default=None, repr=False)
    asymmetric: Sequence[AsymmetricResult] = ()


@dataclass(frozen=True)
class Material(Generic[Result, Set]):
    """What sections are made from: the models with their results on ``benchmark``; ``seed`` chooses examples."""

    entries: Sequence[ReportEntry[Result]]
    benchmark: Set
    images: "PictureFolder"
    seed: int = 0


@dataclass(frozen=True)
class Bold:
    """A word of a :class:`Text`, in the colour of its verdict."""

    text: str
    verdict: Verdict = ""


@dataclass(frozen=True)
class Text:
    """A paragraph with words in bold."""

    words: Sequence[str | Bold]


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, a small line below it, a coloured dot before it."""

    text: str
    look: Literal["best", "chance", ""] = ""
    below: str = ""
    dot: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells below ``head`` (empty: no head). ``text``: aligned left; ``wrapped``: likewise,
    long values broken; ``numbers``: small, beside a picture.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    style: Literal["text", "wrapped", "numbers", ""] = ""


@dataclass(frozen=True)
class Tile:
    """A picture (None: there is none that can be read), the line beside it and what the pointer shows."""

    link: str | None
    text: str
    verdict: Verdict = ""
    title: str = ""


@dataclass(frozen=True)
class Pictures:
    """One wide plot, plots side by side (one per entry), or many small pictures with their captions."""

    tiles: Sequence[Tile]
    style: Literal["plot", "columns", "gallery"]


@dataclass(frozen=True)
class Retrieved:
    """What one entry ranks first, best first."""

    name: str
    text: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Example:
    """One query: its tag and heading, its picture, a table, what the entries retrieved."""

    tag: str
    verdict: Verdict
    heading: str
    query: Tile
    numbers: Table | None = None
    retrieved: Sequence[Retrieved] = ()


@dataclass(frozen=True)
class Examples:
    """Queries one below the other; as cards side by side where nothing was retrieved.

    ``boxes``: five pictures of one size; ``strips``: wide pictures made of several frames, below the query.
    """

    items: Sequence[Example]
    style: Literal["boxes", "strips", ""] = ""


@dataclass(frozen=True)
class TileRow:
    """Pictures side by side and the line above them."""

    heading: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class TileRows:
    """Rows of three pictures, two rows side by side."""

    title: str
    rows: Sequence[TileRow]


@dataclass(frozen=True)
class Items:
    """A list of lines."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Details:
    """A part that can be folded away."""

    summary: str
    part: Table | Items
    is_open: bool = True


Part = str | Text | Table | Pictures | Examples | TileRows | Items | Details


@dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    heading: str
    parts: Sequence[Part]


def wide_plot(link: str) -> Pictures:
    """A part of one plot."""
    return Pictures([Tile(link, "")], "plot")


@dataclass(frozen=True)
class Kind:
    """How one kind of benchmark is reported.

    ``check``: ValueError for results that do not belong to the benchmark. ``lead``: the paragraph below the title.
    ``sections``: in order; None = this section has nothing to show.
    """

    check: Callable[[Material[Any, Any]], None]
    lead: Callable[[Material[Any, Any]], str]
    sections: Sequence[Callable[[Material[Any, Any]], Section | None]]
