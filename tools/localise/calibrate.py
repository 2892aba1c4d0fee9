"""``distilplace calibrate --map M --images FOLDER --positions poses.csv``: how far can answers be trusted?

The pictures of a drive that is not in the map, with their positions, are localised; a model of right and wrong answers
and a threshold are stored in the map (Learn then Test). Take pictures like those that the robot will see, some of them
off the map: the promise holds for their conditions.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from distilplace.common.console import LOG, exit_code
from distilplace.common.errors import UserError
from distilplace.common.home import program
from distilplace.evaluation.confidence import fit_confidence
from distilplace.runtime.localise.confidence import FEATURES, SEQUENCE_FEATURES, Confidence
from distilplace.runtime.localise.localiser import CANDIDATES, RADIUS, Follower, features_of_belief, features_of_matches
from distilplace.runtime.map import BaseMap, PlaceMap
from distilplace.tools.localise.models import open_with_model
from distilplace.tools.map.sources import Source, from_folder


def calibrate(known: argparse.Namespace) -> None:
    """Fit both confidences and store them in the map."""
    for name in ("precision", "level"):
        if not 0 < getattr(known, name) < 1:
            raise UserError(f"--{name} {getattr(known, name):g} is no probability: give one between 0 and 1")
    if known.radius <= 0 or known.near < 1:
        raise UserError(
            f"--radius {known.radius:g} and --near {known.near}: give more than 0 metres and 1 place or more"
        )
    source = from_folder(known.images, known.positions, str(known.images))
    places, model = open_with_model(known.map, known.model, known.threads, "auto")
    with places:
        embeddings = model.embed(source.images)
        found = {"single": single(places, embeddings, source, known)}
        if isinstance(places, PlaceMap) and not known.no_sequence:
            found["sequence"] = along(places, embeddings, source, known)
        places.calibration = {name: each.to_dict() for name, each in found.items()}
    for name, each in found.items():
        LOG.info("%s: %s; accepted: %.0f %%", _TITLES[name], each.promise(), 100 * each.accepted)


_TITLES = {"single": "single pictures", "sequence": "sequences"}


def single(places: BaseMap, embeddings: Any, source: Source, known: argparse.Namespace) -> Confidence:
    """The confidence of answers to single pictures."""
    features, right = [], []
    for embedding, position in zip(tqdm(embeddings, "searching", delay=3), source.positions, strict=True):
        matches = places.search(embedding, CANDIDATES)
        if not matches:
            raise UserError(f"map {known.map} holds no place: add a run first")
        features.append(features_of_matches(matches, known.radius, known.near))
        right.append(np.hypot(*(position - (matches[0].easting, matches[0].northing))) <= known.radius)
    return _fitted(features, right, source, known, FEATURES)


def along(places: PlaceMap, embeddings: Any, source: Source, known: argparse.Namespace) -> Confidence:
    """The confidence of answers along sequences of up to ``--length`` pictures, each started anew."""
    follower = Follower(places, None)
    similarities = [follower.similarities(embedding) for embedding in embeddings]
    features, right = [], []
    for last in tqdm(range(len(similarities)), "sequences", delay=3):
        follower.filter.restart()
        for each in similarities[max(0, last - known.length + 1) : last + 1]:
            belief = follower.filter.update(follower.distances(each))
        features.append(features_of_belief(belief, similarities[last], follower.positions, known.radius, known.near))
        best = follower.positions[int(belief.places.argmax())]
        right.append(np.hypot(*(source.positions[last] - best)) <= known.radius)
    return _fitted(features, right, source, known, SEQUENCE_FEATURES)


def _fitted(features: Any, right: Any, source: Source, known: argparse.Namespace, names: Sequence[str]) -> Confidence:
    return fit_confidence(
        np.array(features),
        np.array(right),
        radius=known.radius,
        k=known.near,
        source=source.run,
        precision=known.precision,
        level=known.level,
        names=names,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program("tools.localise.calibrate"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", required=True, metavar="MAP", help="the map's file, or a Milvus address")
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="a drive that is not in the map")
    parser.add_argument("--positions", required=True, type=Path, metavar="CSV", help="frame,timestamp,easting,northing")
    parser.add_argument("--model", type=Path, metavar="FILE", help="the map's model; default: the .onnx beside the map")
    parser.add_argument("--radius", type=float, default=RADIUS, help="metres within which an answer is right (25)")
    parser.add_argument("--near", type=int, default=10, help="places whose spread is looked at (10)")
    parser.add_argument("--precision", type=float, default=0.95, help="share of accepted answers that are right (0.95)")
    parser.add_argument("--level", type=float, default=0.9, help="how sure this promise is (0.9)")
    parser.add_argument("--length", type=int, default=10, help="pictures of a sequence (10)")
    parser.add_argument("--no_sequence", action="store_true", help="calibrate single pictures alone")
    parser.add_argument("--threads", type=int, metavar="N", help="cores for the model; default: all")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 2 on a user's mistake."""
    known = _parser().parse_args(arguments)
    return exit_code(lambda: calibrate(known))
