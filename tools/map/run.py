"""``distilplace map add | info | delete | search``: a map of places for the robot.

MAP is a file (SQLite), or a Milvus server: http://host:19530, or something.milvus.db for milvus-lite.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distilplace.common.console import LOG, exit_code
from distilplace.common.errors import UserError
from distilplace.common.home import program
from distilplace.runtime.map import BaseMap, Space, holds_map, open_map
from distilplace.runtime.map.rows import checked_columns, checked_name
from distilplace.tools.map.models import Model, load_model, reads_clouds
from distilplace.tools.map.printing import as_csv, as_json, as_text, info_text
from distilplace.tools.map.sources import Source, from_dataset, from_folder

Embed = Callable[[Source], np.ndarray]
"""Embeddings float32 [n, D] of a run's places."""
MODEL_HELP = "student.onnx, or a weights file (.safetensors, with [train])"


def add(known: argparse.Namespace) -> None:
    """Embed the images of one or several runs, and add each."""
    if (known.images is None) == (known.dataset is None):
        raise UserError("what is to be added? Give --images FOLDER --positions poses.csv, or --dataset NAME")
    if known.images is not None and known.positions is None:
        raise UserError("--images needs --positions poses.csv (header frame,timestamp,easting,northing)")
    if known.images is not None:
        for flag in ("dataset_folder", "part"):
            if getattr(known, flag) is not None:
                raise UserError(f"--{flag} belongs to --dataset: omit it, or give --dataset")
        sources = [from_folder(known.images, known.positions, known.run)]
        model = load_model(known.model, known.threads)
        embed: Embed = partial(_embed_images, model, known.batch_size)
    else:
        if known.positions is not None:
            raise UserError("--positions belongs to --images: a data set has its own")
        model = load_model(known.model, known.threads, with_clouds=True)
        sources, embed = _of_dataset(known, model)
    space = Space.of(model.card.to_dict())
    if holds_map(known.map):
        with open_map(known.map, space) as places:
            _refuse_runs_again(places, sources, known.map)
    embeddings = [_embedded(source, embed, space) for source in sources]  # all, before a map is made
    with open_map(known.map, space) as places:
        for source, each in zip(sources, embeddings, strict=True):
            _add(places, source, each, known)


def _refuse_runs_again(places: BaseMap, sources: Sequence[Source], where: str) -> None:
    places.space.require_maker(places.model, where)
    taken = {run.name for run in places.runs()}
    for source in sources:
        if source.run in taken:
            raise UserError(f"map {where} holds a run {source.run} already: give another --run, or delete that one")


def _of_dataset(known: argparse.Namespace, model: Model) -> tuple[list[Source], Embed]:
    """The runs of a data set, and what embeds one: images alone, or with their clouds where the model reads those."""
    part = known.part or "test"
    if not reads_clouds(known.model, model):
        sources = from_dataset(known.dataset, known.dataset_folder, known.run, part)
        return sources, partial(_embed_images, model, known.batch_size)
    from distilplace.tools.map.clouds import embed_records, survey

    context = survey(known.model, known.dataset, known.dataset_folder, known.batch_size)
    sources = from_dataset(known.dataset, known.dataset_folder, known.run, part, context.data)
    return sources, lambda source: embed_records(context, model, list(source.records))  # type: ignore[arg-type]


def _embed_images(model: Model, batch_size: int, source: Source) -> np.ndarray:
    return model.embed(source.images, batch_size=batch_size)


def _embedded(source: Source, embed: Embed, space: Space) -> np.ndarray:
    """A run's embeddings, which a map of the ``space`` will take; :class:`UserError` for those that it would not."""
    for note in source.notes:
        LOG.info("note: %s", note)
    checked_name(source.run)
    checked_columns(source.positions, source.timestamps, source.altitudes, source.yaws, source.images)
    found = embed(source)
    space.prepared(found)
    return found


def _add(places: BaseMap, source: Source, embeddings: np.ndarray, known: argparse.Namespace) -> None:
    count = places.add(
        source.run,
        embeddings,
        source.positions,
        timestamps=source.timestamps,
        altitudes=source.altitudes,
        yaws=source.yaws,
        images=source.images,
    )
    LOG.info("map %s: run %s added, %d places", known.map, source.run, count)


def info(known: argparse.Namespace) -> None:
    """What the map holds."""
    with open_map(known.map) as places:
        found = places.info()
    print(json.dumps(found, indent=1) if known.json else info_text(found))


def delete(known: argparse.Namespace) -> None:
    """Remove a run and give its room back."""
    with open_map(known.map) as places:
        count = places.delete(known.run)
        places.compact()
    LOG.info("map %s: run %s deleted, %d places", known.map, known.run, count)


def search(known: argparse.Namespace) -> None:
    """The places that look like an image."""
    centre = None if known.centre is None else _centre(known.centre)
    model = load_model(known.model, known.threads)
    with open_map(known.map, index=known.index) as places:
        places.space.require_admitted(Space.of(model.card.to_dict()), known.map)
        (embedding,) = model.embed([known.image])
        found = places.search(embedding, known.k, centre, known.radius, known.run)
    print(as_json(found) if known.json else as_csv(found) if known.csv else as_text(found))


def _centre(text: str) -> tuple[float, float]:
    try:
        east, north = map(float, text.split(","))
    except ValueError as error:
        raise UserError(f"--centre {text} is none: give easting,northing in metres, such as 4231.5,880") from error
    return east, north


def flag_parser() -> argparse.ArgumentParser:
    """The command line of all four actions."""
    parser = argparse.ArgumentParser(program("tools.map"), description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="add | info | delete | search")

    def action(name: str, work: Any, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text)
        made.add_argument("map", metavar="MAP", help="the map's file, or a Milvus address")
        made.set_defaults(work=work)
        return made

    adding = action("add", add, "embed the images of a drive and add them as a run")
    adding.add_argument("--images", type=Path, metavar="FOLDER", help="images of one drive")
    adding.add_argument(
        "--positions", type=Path, metavar="CSV", help="frame,timestamp,easting,northing[,altitude,yaw]; s, m, rad"
    )
    adding.add_argument("--dataset", metavar="NAME", help="instead: the runs of a data set (with [train])")
    adding.add_argument("--dataset_folder", type=Path, metavar="FOLDER", help="where that data set lies")
    adding.add_argument("--part", choices=("train", "test"), help="training runs, or database runs of the test (test)")
    adding.add_argument("--run", metavar="NAME", help="the run's name; default: the folder's, or all of a data set")
    adding.add_argument("--batch_size", type=int, default=32, help="images that are embedded together (default 32)")
    telling = action("info", info, "tell what a map holds")
    telling.add_argument("--json", action="store_true", help="as JSON")
    deleting = action("delete", delete, "remove a run")
    deleting.add_argument("--run", required=True, metavar="NAME", help="the run to remove")
    searching = action("search", search, "find the places that look like an image")
    searching.add_argument("image", type=Path, metavar="IMAGE")
    searching.add_argument("--k", type=int, default=5, help="places to find (default 5)")
    searching.add_argument("--centre", metavar="E,N", help="easting and northing of a position prior, metres")
    searching.add_argument("--radius", type=float, metavar="M", help="metres around --centre")
    searching.add_argument("--run", metavar="NAME", help="search this run alone")
    searching.add_argument("--index", default="auto", help="auto, exact, hnsw or ivfpq (default auto)")
    form = searching.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--csv", action="store_true", help="as CSV")
    for each in (adding, searching):
        each.add_argument("--model", type=Path, required=True, metavar="FILE", help=MODEL_HELP)
        each.add_argument("--threads", type=int, metavar="N", help="cores for the model; default: all")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    known = flag_parser().parse_args(arguments)
    return exit_code(lambda: known.work(known))
