"""``distilplace calibrate --map M --images FOLDER --positions poses.csv``: how far can answers be trusted?

The pictures of drives with known positions are localised; a model of right and wrong answers and a threshold are stored
in the map (Learn then Test). The promise holds for pictures like these: take drives that the model was not trained on,
under the conditions that the robot will meet. Instead of --images, --dataset NAME takes drives of a data set; without
both, the map's own runs are localised, each among the others. No picture ever meets its own run. --off_map 0.2 hides
the map around a fifth of the pictures, so that pictures of elsewhere are known too.

--check stores nothing: it measures what the stored calibration accepts of other drives, and how much of it is right.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distilplace.common.console import LOG, exit_code
from distilplace.common.errors import UserError, unknown_name
from distilplace.common.home import program
from distilplace.evaluation.confidence import Measured, fit_confidence, measure
from distilplace.evaluation.retrieval.intervals import interval_text
from distilplace.runtime.localise.confidence import FEATURES, SEQUENCE_FEATURES, Confidence
from distilplace.runtime.localise.localiser import RADIUS
from distilplace.runtime.map import BaseMap, PlaceMap
from distilplace.tools.localise.models import open_with_model
from distilplace.tools.localise.trials import Drive, Rule, Trials, along, searched, single
from distilplace.tools.map.sources import Source, from_dataset, from_folder

_TITLES = {"single": "single pictures", "sequence": "sequences"}
_NAMES = {"single": FEATURES, "sequence": SEQUENCE_FEATURES}
FITTING: dict[str, Any] = {"radius": RADIUS, "near": 10, "precision": 0.95, "level": 0.9}
"""Options of a fit, and their defaults; a check takes the stored ones."""


def calibrate(known: argparse.Namespace) -> None:
    """Fit both confidences and store them in the map, or measure those that are stored."""
    _refuse(known)
    places, drives = opened(known)
    with places:
        if known.check:
            check(places, drives, known)
            return
        fit(places, drives, known)


def fit(places: BaseMap, drives: Sequence[Drive], known: argparse.Namespace) -> None:
    """Fit both confidences on the answers to these drives, store them in the map and say what they promise."""
    values = {name: FITTING[name] if getattr(known, name) is None else getattr(known, name) for name in FITTING}
    rule = Rule(values["radius"], values["near"], known.length, known.off_map)
    kinds = ["single"] if known.no_sequence or not isinstance(places, PlaceMap) else ["single", "sequence"]
    found = {
        kind: fit_confidence(
            trials.features,
            trials.right,
            radius=rule.radius,
            k=rule.near,
            source=_described(known),
            precision=values["precision"],
            level=values["level"],
            names=_NAMES[kind],
            second=trials.second,
        )
        for kind, trials in answers(places, drives, dict.fromkeys(kinds, rule)).items()
    }
    places.calibration = {name: each.to_dict() for name, each in found.items()}
    for name, each in found.items():
        LOG.info("%s: %s; accepted: %.0f %%", _TITLES[name], each.promise(), 100 * each.accepted)


def check(places: BaseMap, drives: Sequence[Drive], known: argparse.Namespace) -> None:
    """Say what the map's calibration accepts of these drives, and how much of that is right."""
    stored = {name: Confidence.from_dict(values, known.map) for name, values in (places.calibration or {}).items()}
    wanted = {name: each for name, each in stored.items() if not (known.no_sequence and name == "sequence")}
    if not wanted:
        raise UserError(f"map {known.map} is not calibrated: run distilplace calibrate without --check first")
    rules = {name: Rule(each.radius, each.k, known.length, known.off_map) for name, each in wanted.items()}
    for name, trials in answers(places, drives, rules).items():
        found = measure(wanted[name], trials.features, trials.right, trials.away)
        LOG.info("%s: %s", _TITLES[name], measured_text(found, wanted[name].precision))


def answers(places: BaseMap, drives: Sequence[Drive], rules: dict[str, Rule]) -> dict[str, Trials]:
    """The answers to the pictures of all drives, of each kind ("single", "sequence") by its rule."""
    if not isinstance(places, PlaceMap):
        return {"single": searched(places, drives, rules["single"])}
    work = {"single": single, "sequence": along}
    return {kind: work[kind](places, drives, rule) for kind, rule in rules.items()}


def measured_text(found: Measured, promised: float) -> str:
    """What was measured, in a line."""
    share = f"accepted: {found.accepted} of {found.queries} ({100 * found.accepted / found.queries:.0f} %)"
    away = f"; off the map: {found.accepted_away} of {found.away} accepted" if found.away else ""
    if found.precision is None:
        return f"{share}{away}"
    low, high = (100 * bound for bound in found.interval)
    below = "; BELOW THE PROMISE: calibrate on drives like these" if found.precision < promised else ""
    return (
        f"{share}; right: {100 * found.precision:.1f} % of these (95 % interval {interval_text((low, high))}, promised "
        f"{100 * promised:g} %){away}{below}"
    )


def opened(known: argparse.Namespace) -> tuple[BaseMap, list[Drive]]:
    """The map, and the drives that were named."""
    if known.images is None and known.dataset is None:
        places = PlaceMap(known.map, index="exact")
        try:
            return places, own_drives(places, known.runs)
        except BaseException:
            places.close()
            raise
    sources = sources_of(known)
    found, model = open_with_model(known.map, known.model, known.threads, "auto")
    try:
        return found, [Drive(each.run, model.embed(each.images), each.positions) for each in sources]
    except BaseException:
        found.close()
        raise


def sources_of(known: argparse.Namespace) -> list[Source]:
    """The pictures that were named."""
    if known.images is not None:
        return [from_folder(known.images, known.positions, str(known.images))]
    sources = from_dataset(known.dataset, known.dataset_folder, None, known.part or "test")
    require_runs(known.runs, [source.run for source in sources])
    return [source for source in sources if known.runs is None or source.run in known.runs]


def own_drives(places: PlaceMap, chosen: Sequence[str] | None) -> list[Drive]:
    """The map's own runs, or those ``chosen``; :class:`UserError` where there are not two."""
    columns = places.columns()
    names = [run.name for run in places.runs()]
    require_runs(chosen, names)
    if len(names) < 2:
        raise UserError("the map holds one run, which cannot be localised among others: give --images or --dataset")
    found = []
    for name in chosen or names:
        rows = np.flatnonzero(columns["run"] == name)
        rows = rows[np.argsort(columns["timestamp"][rows], kind="stable")]
        positions = np.stack([columns["easting"][rows], columns["northing"][rows]], axis=1)
        found.append(Drive(name, places.embeddings(rows), positions))
    return found


def require_runs(chosen: Sequence[str] | None, known: Sequence[str]) -> None:
    """:class:`UserError` naming a run that there is not."""
    for run in chosen or ():
        if run not in known:
            raise unknown_name("run", run, known)


def _described(known: argparse.Namespace) -> str:
    if known.images is not None:
        return str(known.images)
    named = ["the map"] if known.dataset is None else [known.dataset, known.part or "test"]
    return " ".join([*named, *(known.runs or ())])


def _refuse(known: argparse.Namespace) -> None:
    """:class:`UserError` for options that are wrong, or that nothing reads."""
    if known.images is not None and known.dataset is not None:
        raise UserError("--images and --dataset name drives twice: give one of them")
    if (known.images is None) != (known.positions is None):
        raise UserError("--images FOLDER and --positions poses.csv go together: give both or neither")
    for name in ("dataset_folder", "part"):
        if known.dataset is None and getattr(known, name) is not None:
            raise UserError(f"--{name} belongs to --dataset: omit it, or give --dataset")
    if known.images is not None and known.runs is not None:
        raise UserError("--runs belongs to --dataset or the map's own runs: --images is one drive")
    for name in ("model", "threads"):
        if known.images is None and known.dataset is None and getattr(known, name) is not None:
            raise UserError(f"--{name} is not read without --images or --dataset: the map holds its embeddings")
    for name in FITTING:
        if known.check and getattr(known, name) is not None:
            raise UserError(f"--{name} is not read with --check, which takes the map's own: omit it")
    for name in ("precision", "level"):
        value = getattr(known, name)
        if value is not None and not 0 < value < 1:
            raise UserError(f"--{name} {value:g} is no probability: give one between 0 and 1")
    if (known.radius is not None and known.radius <= 0) or (known.near is not None and known.near < 1):
        raise UserError(f"--radius {known.radius} and --near {known.near}: give more than 0 metres and 1 place or more")
    if known.length < 1:
        raise UserError(f"--length {known.length} is none: give 1 picture or more")
    if not 0 <= known.off_map < 1:
        raise UserError(f"--off_map {known.off_map:g} is no share: give 0 or more, below 1")


def calibration_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        program("tools.localise.calibrate"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--map", required=True, metavar="MAP", help="the map's file, or a Milvus address")
    add("--images", type=Path, metavar="FOLDER", help="pictures of a drive that is not in the map")
    add("--positions", type=Path, metavar="CSV", help="frame,timestamp,easting,northing")
    add("--dataset", metavar="NAME", help="instead: drives of a data set")
    add("--dataset_folder", type=Path, metavar="FOLDER", help="where that data set lies")
    add("--part", choices=("train", "test"), help="its training runs, or its test runs (test)")
    add("--runs", nargs="+", metavar="RUN", help="these alone; default: all of that part")
    add("--model", type=Path, metavar="FILE", help="the map's model; default: the .onnx beside the map")
    add("--check", action="store_true", help="measure the stored calibration instead of making one")
    add("--off_map", type=float, default=0.0, metavar="SHARE", help="share of pictures with the map around hidden (0)")
    add("--radius", type=float, help=f"metres within which an answer is right ({RADIUS:g})")
    add("--near", type=int, help="places whose spread is looked at (10)")
    add("--precision", type=float, help="share of accepted answers that are right (0.95)")
    add("--level", type=float, help="how sure this promise is (0.9)")
    add("--length", type=int, default=10, help="pictures of a sequence (10)")
    add("--no_sequence", action="store_true", help="single pictures alone")
    add("--threads", type=int, metavar="N", help="cores for the model; default: all")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 2 on a user's mistake."""
    known = calibration_parser().parse_args(arguments)
    return exit_code(lambda: calibrate(known))
