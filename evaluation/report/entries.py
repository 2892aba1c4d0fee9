"""The models of a report and what its table says about them beside their results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class ReportEntry(Generic[Result]):
    """One model in the report. ``facts``: what the table says beside its result (parameters, ms per place, ...)."""

    name: str
    result: Result
    facts: Mapping[str, str] = field(default_factory=dict)


def short_facts(entries: Sequence[ReportEntry]) -> list[str]:
    """Facts whose values are all short enough for a column, in order of appearance."""
    names = dict.fromkeys(name for entry in entries for name in entry.facts)
    return [name for name in names if all(len(str(entry.facts.get(name, ""))) <= 18 for entry in entries)]


def long_facts(entries: Sequence[ReportEntry]) -> list[tuple[str, str, str]]:
    """Entry, fact and value of every fact that is in no column."""
    short = short_facts(entries)
    return [(e.name, name, str(value)) for e in entries for name, value in e.facts.items() if name not in short]
