"""How each kind of benchmark is reported: what its results must fit, what is said first, which sections there are."""

from functools import partial

from distilplace.datasets.benchmarks import LandmarkSet, PoseSet, VideoSet
from distilplace.datasets.records import Benchmark, EvaluationSet, distance_text
from distilplace.evaluation.report.parts import Kind, Material
from distilplace.evaluation.report.sections.asymmetric import asymmetric
from distilplace.evaluation.report.sections.camera_plans import camera_plans
from distilplace.evaluation.report.sections.failures import failures
from distilplace.evaluation.report.sections.landmarks import Landmarks, landmark_examples, landmark_precisions
from distilplace.evaluation.report.sections.places import Places, place_examples, random_frames
from distilplace.evaluation.report.sections.poses import Poses, pose_errors, pose_examples
from distilplace.evaluation.report.sections.projection import projections
from distilplace.evaluation.report.sections.recall import recall_curves, recall_table, run_matrices
from distilplace.evaluation.report.sections.refusal import refusals
from distilplace.evaluation.report.sections.results import results, size_and_speed
from distilplace.evaluation.report.sections.routes import routes
from distilplace.evaluation.report.sections.sequences import sequences
from distilplace.evaluation.report.sections.similarity import similarities
from distilplace.evaluation.report.sections.videos import Videos, video_examples, video_precisions


def kind_of(benchmark: Benchmark) -> Kind:
    """How ``benchmark`` is reported; TypeError where nothing says so."""
    for made, kind in KINDS.items():
        if isinstance(benchmark, made):
            return kind
    raise TypeError(f"no report of a {type(benchmark).__name__}")


def _check_places(material: Places) -> None:
    entries, runs = material.entries, len(material.benchmark.runs)
    pairs = [[(pair.database_run, pair.query_run) for pair in entry.result.pairs] for entry in entries]
    for entry, own in zip(entries, pairs, strict=True):
        if len(entry.result.runs) != runs:
            raise ValueError(f"{entry.name!r} was evaluated on {len(entry.result.runs)} runs, not {runs}")
        if own != pairs[0]:
            raise ValueError(f"{entry.name!r} and {entries[0].name!r} were evaluated on different pairs of runs")


def _check_counts(found: dict[str, int], expected: int, noun: str) -> None:
    for name, count in found.items():
        if count != expected:
            raise ValueError(f"{name!r} has results of {count} {noun}, not {expected}")


def _check_poses(material: Poses) -> None:
    found = {entry.name: len(entry.result.metres) for entry in material.entries}
    _check_counts(found, len(material.benchmark.records), "images")


def _check_landmarks(material: Landmarks) -> None:
    found = {entry.name: len(entry.result.scores["medium"].average_precisions) for entry in material.entries}
    _check_counts(found, len(material.benchmark.queries), "queries")


def _check_videos(material: Videos) -> None:
    found = {entry.name: len(entry.result.ranks) for entry in material.entries}
    _check_counts(found, len(material.benchmark.queries), "queries")


def _place_lead(material: Places) -> str:
    benchmark, found = material.benchmark, [entry.result for entry in material.entries]
    reach = distance_text(benchmark.radius, benchmark.unit)
    within = "is the exact frame" if reach == "exact frame" else f"lies within {reach}"
    metrics = sorted({result.metric for result in found})
    count = len(found[0].pairs)
    return (
        f"{benchmark.name}: {len(benchmark.runs)} runs, {count} ordered pair{'' if count == 1 else 's'} of runs "
        f"evaluated, {found[0].evaluated} queries. A retrieved item is correct when it {within}. Ranked by "
        f"{' / '.join(metrics)} {'distance' if metrics == ['euclidean'] else 'similarity'} of the embeddings."
    )


def _lead(reading: str, material: Material) -> str:
    return f"{material.benchmark.name}: {material.benchmark.summary()}. {reading}"


_POSES = (
    "From one image a model finds where the camera stood and how it was turned. Errors are distances between positions "
    "and angles between orientations. Chance is the best guess that looks at no image."
)
_LANDMARKS = (
    "Each query ranks the database by cosine similarity. Average precision in percent. Correct images are the easy "
    "(E), the easy and hard (M) or the hard (H) images; what a protocol ignores is taken out of the ranking. Chance is "
    "what a random ranking would reach."
)
_VIDEOS = (
    "Each query ranks its labelled candidates and all unlabelled videos. Average precision in percent; only "
    "near-duplicates are correct. Chance is what a random ranking would reach."
)

KINDS: dict[type[Benchmark], Kind] = {
    EvaluationSet: Kind(
        _check_places,
        _place_lead,
        (
            recall_table,
            recall_curves,
            asymmetric,
            refusals,
            similarities,
            sequences,
            run_matrices,
            routes,
            failures,
            projections,
            place_examples,
            size_and_speed,
            random_frames,
        ),
    ),
    PoseSet: Kind(
        _check_poses,
        partial(_lead, _POSES),
        (partial(results, largest=False), pose_errors, camera_plans, pose_examples, size_and_speed),
    ),
    LandmarkSet: Kind(
        _check_landmarks,
        partial(_lead, _LANDMARKS),
        (results, asymmetric, landmark_precisions, landmark_examples, size_and_speed),
    ),
    VideoSet: Kind(
        _check_videos,
        partial(_lead, _VIDEOS),
        (results, asymmetric, video_precisions, video_examples, size_and_speed),
    ),
}
