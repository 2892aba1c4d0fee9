"""The report: one folder with ``index.html`` and its pictures, readable without a network.

Pictures are named by their content and written before the page, the page replaces its predecessor in one step, and only
then are pictures of an earlier report removed: at no moment does the page show something that is not there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilplace.common.files import atomic_path
from distilplace.evaluation.report.parts import Details, Items, Kind, Material, Part, ReportEntry, Section, Table
from distilplace.evaluation.report.pictures import PictureFolder

TEMPLATE = "report.html.j2"


def write_report(
    folder: Path | str,
    kind: Kind,
    entries: Sequence[ReportEntry],
    benchmark: Any,
    *,
    title: str = "Place recognition report",
    notes: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Path:
    """Write ``folder/index.html`` and ``folder/images/`` and return the page's path.

    Args:
        folder: where; made if absent.
        kind: how this kind of benchmark is reported (:func:`distilplace.evaluation.report.kinds.kind_of`).
        entries: the models compared, with their results on ``benchmark`` (teacher first reads best).
        benchmark: what the results belong to.
        title: the page's heading.
        notes: lines shown as they are (what was chosen, what to keep in mind).
        settings: names and values, shown folded at the end.
        environment: the command and what it ran with, shown last.
        seed: chooses examples.

    Raises:
        ValueError: no entry, or one whose result does not belong to ``benchmark``.

    """
    if not entries:
        raise ValueError("a report needs at least one entry")
    folder = Path(folder)
    images = PictureFolder(folder / "images")
    material = Material(entries, benchmark, images, seed)
    kind.check(material)
    sections = [made for make in kind.sections if (made := make(material)) is not None]
    sections += [_notes(notes, settings or {}), *_origin(environment or {})]
    content = {"title": title, "lead": kind.lead(material), "sections": sections}
    page = _render(TEMPLATE, content)
    with atomic_path(folder / "index.html") as path:
        path.write_text(page, encoding="utf-8")
    images.remove_others()
    return folder / "index.html"


def _notes(notes: Sequence[str], settings: Mapping[str, object]) -> Section:
    parts: list[Part] = [Items(notes)]
    if settings:
        rows = [(name, str(value)) for name, value in settings.items()]
        parts.append(Details("Settings", Table((), rows, "text"), is_open=False))
    return Section("Notes", parts)


def _origin(environment: Mapping[str, str]) -> list[Section]:
    if not environment:
        return []
    return [Section("Command and versions", [Table((), list(environment.items()), "text")])]


def _render(template: str, content: Mapping[str, Any]) -> str:
    """The page of a template of this folder; text is escaped, a name the content lacks is an error."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(content)
