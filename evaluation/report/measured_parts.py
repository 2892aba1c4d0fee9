"""The parts of a measured report's page, as ``measured.html.j2`` shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["right", "ignored", "wrong", "middle", ""]


@dataclass(frozen=True)
class Tile:
    """A picture (None: there is none that can be read), what it is and the line below it."""

    link: str | None
    text: str
    kind: Kind = ""


@dataclass(frozen=True)
class Retrieved:
    """What one entry ranks first, best first."""

    name: str
    text: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Example:
    """One query: its tag and heading, its picture, the entries' numbers (a table) or what they retrieved.

    ``strips``: pictures are wide, made of several frames, and stand below the query instead of beside it.
    """

    tag: str
    kind: Kind
    heading: str
    asked: Tile
    number_names: Sequence[str] = ()
    numbers: Sequence[Sequence[str]] = ()
    retrieved: Sequence[Retrieved] = ()
    strips: bool = False


@dataclass(frozen=True)
class Section:
    """A section of the page: text, then one wide plot, a plot per entry or examples.

    ``legend``: kind, colour and meaning of the tiles. ``columns``: name and link.
    """

    heading: str
    text: str
    legend: Sequence[tuple[Kind, str, str]] = ()
    plot: str | None = None
    columns: Sequence[tuple[str, str]] = ()
    examples: Sequence[Example] = ()
