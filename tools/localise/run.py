"""``distilplace localise --map M IMAGE|FOLDER ...``: where were these pictures taken?

Each picture gets the best places with coordinates, a confidence where the map is calibrated (distilplace calibrate),
and "not on the map" where that is too low. --sequence treats the pictures as one drive, in the order of their names.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distilplace.common.console import exit_code
from distilplace.common.decoding import image_suffixes
from distilplace.common.errors import UserError
from distilplace.common.home import program
from distilplace.common.inputs.image_files import natural_order
from distilplace.runtime.localise.localiser import Localiser, Location, Prior
from distilplace.tools.localise.models import open_with_model
from distilplace.tools.map.printing import rows_of

COLUMNS = ("query", "rank", "on_map", "confidence", "off_map", "similarity", "easting", "northing", "run", "image")


def localise(known: argparse.Namespace) -> None:
    """Answer every picture, each as soon as it is known."""
    pictures = list(pictures_of(known.images))
    prior = None if known.prior is None else prior_of(known.prior)
    if known.sequence and prior is not None:
        raise UserError("--prior is for single pictures: omit it, or --sequence")
    if known.k < 1:
        raise UserError(f"--k {known.k} is none: give 1 place or more")
    if known.step is not None and not known.step > 0:
        raise UserError(f"--step {known.step:g} is none: give metres above 0")
    if known.step is not None and not known.sequence:
        raise UserError("--step is read with --sequence alone")
    places, model = open_with_model(known.map, known.model, known.threads, "exact" if known.sequence else known.index)
    with places:
        localiser = Localiser(places, model, known.step)
        promise = localiser.along if known.sequence else localiser.single
        if promise is None:
            note(f"map {known.map} is not calibrated for this: no picture can be called off the map")
        elif prior is not None:
            note("the confidence was calibrated without a prior")
        follow = localiser.follow(pictures, known.k) if known.sequence else localiser.localise(pictures, known.k, prior)
        write(zip(pictures, follow, strict=True), known)


def note(text: str) -> None:
    """A line for people, beside the answers."""
    print(f"note: {text}", file=sys.stderr)


def write(answers: Iterable[tuple[Path, Location]], known: argparse.Namespace) -> None:
    """Answers on standard output, one after another; JSON as one object a line."""
    if known.csv:
        print(_csv_line(COLUMNS))
    for picture, location in answers:
        facts: dict[str, Any] = {"query": str(picture), "on_map": location.on_map}
        facts |= {"confidence": location.confidence, "off_map": location.off_map}
        places = rows_of(location.matches)
        if known.json:
            print(json.dumps({**facts, "places": places}), flush=True)
        elif known.csv:
            rows = [{**facts, **place} for place in places or [{}]]
            print("\n".join(_csv_line([row.get(name) for name in COLUMNS]) for row in rows), flush=True)
        else:
            print(sentence(picture, location), flush=True)


def sentence(picture: Path, location: Location) -> str:
    """One answer in words: a line, then the places."""
    sure = "" if location.confidence is None else f" (confidence {location.confidence:.2f})"
    if not location.matches:
        return f"{picture}: no place on the map fits"
    head = f"{picture}: not on the map{sure}; most similar:" if location.on_map is False else f"{picture}{sure}:"
    lines = [
        f"  {rank}. E {m.easting:.2f} N {m.northing:.2f}  similarity {m.similarity:.4f}  {m.run} {m.image}".rstrip()
        for rank, m in enumerate(location.matches, start=1)
    ]
    return "\n".join([head, *lines])


def pictures_of(given: Sequence[Path]) -> Iterator[Path]:
    """Image files as given; of a folder, those in it, in the order of their names with numbers by value.

    Raises:
        UserError: a path that is not there, or a folder without images.

    """
    suffixes = image_suffixes()
    for path in given:
        if path.is_dir():
            files = [file for file in path.iterdir() if file.suffix.lower() in suffixes and file.is_file()]
            if not files:
                raise UserError(f"folder {path} holds no image: give one with pictures, or a picture")
            yield from sorted(files, key=lambda file: natural_order(file.name))
        elif path.is_file():
            yield path
        else:
            raise UserError(f"{path} is neither an image nor a folder: check the path")


def prior_of(text: str) -> Prior:
    """``easting,northing,radius`` in metres."""
    try:
        east, north, radius = map(float, text.split(","))
    except ValueError as error:
        raise UserError(
            f"--prior {text} is none: give easting,northing,radius in metres, such as 4231.5,880,50"
        ) from error
    return Prior(east, north, radius)


def _csv_line(values: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(["" if value is None else value for value in values])
    return text.getvalue()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program("tools.localise"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE|FOLDER")
    parser.add_argument("--map", required=True, metavar="MAP", help="the map's file, or a Milvus address")
    parser.add_argument("--model", type=Path, metavar="FILE", help="the map's model; default: the .onnx beside the map")
    parser.add_argument("--k", type=int, default=5, help="places per picture (default 5)")
    parser.add_argument("--prior", metavar="E,N,R", help="the robot is within R metres of this easting and northing")
    parser.add_argument("--sequence", action="store_true", help="the pictures are one drive, in order")
    parser.add_argument("--step", type=float, metavar="M", help="metres between pictures; default: as in the map")
    parser.add_argument("--index", default="auto", help="auto, exact, hnsw or ivfpq (default auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="cores for the model; default: all")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--csv", action="store_true", help="one row per place")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 2 on a user's mistake."""
    known = _parser().parse_args(arguments)
    return exit_code(lambda: localise(known))
