"""What ``distilplace map`` prints: text for people, JSON and CSV for programs."""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from distilplace.runtime.map import Match

COLUMNS = ("rank", "similarity", "run", "easting", "northing", "altitude", "yaw", "timestamp", "image", "id")


def rows_of(matches: Sequence[Match]) -> list[dict[str, Any]]:
    """Matches as plain values, unknown numbers as None."""
    found = []
    for rank, match in enumerate(matches, start=1):
        values = {"rank": rank, **match._asdict()}
        found.append({name: _plain(values[name]) for name in COLUMNS})
    return found


def as_json(matches: Sequence[Match]) -> str:
    """One JSON list."""
    return json.dumps(rows_of(matches), indent=1)


def as_csv(matches: Sequence[Match]) -> str:
    """A header and a row per match, unknown numbers empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(matches))
    return text.getvalue().rstrip("\n")


def as_text(matches: Sequence[Match]) -> str:
    """An aligned table."""
    if not matches:
        return "no place on the map fits"
    header = ("", "similarity", "easting", "northing", "run", "image")
    lines = [
        (f"{rank}", f"{m.similarity:.4f}", f"{m.easting:.2f}", f"{m.northing:.2f}", m.run, m.image)
        for rank, m in enumerate(matches, start=1)
    ]
    return table([header, *lines])


def info_text(info: dict[str, Any]) -> str:
    """Model, size and runs of a map."""
    size = "" if info["bytes"] is None else f", {info['bytes'] / 2**20:.1f} MiB"
    plural = "" if len(info["runs"]) == 1 else "s"
    lines = [
        f"map {info['map']}: {info['places']} places in {len(info['runs'])} run{plural}{size}",
        f"model {info['model']} {info['fingerprint'][:12]}: {info['width']} numbers, {info['dtype']}, {info['metric']}",
    ]
    runs = [("run", "places", "added")] + [(run["name"], str(run["places"]), run["added"]) for run in info["runs"]]
    return "\n".join([*lines, *([table(runs)] if info["runs"] else [])])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of one width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
