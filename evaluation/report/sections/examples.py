"""What sections of example queries share."""

from collections.abc import Mapping, Sequence
from typing import Literal

from distilplace.evaluation.report.parts import Bold, Example, Examples, Section, Text, Verdict

Legend = Mapping[Verdict, tuple[str, str]]
"""Verdict of a tile -> its colour, what that means."""


def example_section(
    examples: Sequence[Example], text: str, legend: Legend, style: Literal["boxes", "strips", ""] = ""
) -> Section | None:
    """The examples whose query has a picture that can be read; None without any.

    Of ``legend`` what occurs among their tiles is written behind ``text``.
    """
    readable = [example for example in examples if example.query.link is not None]
    if not readable:
        return None
    occurring = {tile.verdict for example in readable for result in example.retrieved for tile in result.tiles}
    words: list[str | Bold] = [text]
    for verdict, (colour, meaning) in legend.items():
        if verdict in occurring:
            first = len(words) == 1
            bold = Bold(colour.capitalize() if first else colour, verdict)
            words += [" " if first else ", ", bold, f": {meaning}"]
    if len(words) > 1:
        words.append(".")
    return Section("Queries and retrieved places", [Text(words), Examples(readable, style)])
