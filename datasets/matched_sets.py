"""Sets of query and database images with a truth of matches: a test part, perhaps a training part, notes on both."""

from collections.abc import Sequence
from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.datasets.base import existing_folder
from distilplace.datasets.doubts import doubts, unmatched
from distilplace.datasets.image_sets import Images, ImageSet, carve, evaluation_set, training_by_truth
from distilplace.datasets.matches import checked_tolerance
from distilplace.datasets.records import EvaluationSet, PlaceRecord, TrainingSet
from distilplace.datasets.shared_files import refuse_shared, shared_note


class MatchedSet(ImageSet):
    """Base of the sets whose images are matched once, on opening; subclasses call :meth:`_settle` with what they found.

    Args:
        dataset_folder: the set's folder.
        train_fraction: in [0, 1), the first part of the sequence, for sets without a training part of their own.
        frame_tolerance: how many frames apart images of one place may lie; None: other ground truth says.

    """

    sized_queries = True
    _training_remedy: str = (
        "--train_fraction is 0: set it between 0 and 1, the first part trains and the rest is the test"
    )

    def __init__(self, dataset_folder: Path | str | None, train_fraction: float, frame_tolerance: int | None) -> None:
        super().__init__()
        self._folder = existing_folder(dataset_folder, "--dataset_folder", "data set folder")
        if not 0.0 <= train_fraction < 1.0:
            raise UserError(f"--train_fraction must be at least 0 and below 1, not {train_fraction}")
        self._fraction = train_fraction
        self._tolerance = checked_tolerance(frame_tolerance)
        self._test: Images | None = None
        self._training: Images | TrainingSet | None = None
        self._radius = 0.0
        self._unit = "frames"

    def _settle(self, test: Images | None, training: Images | TrainingSet | None = None) -> None:
        """Take the two parts, the second carved off where there is none but a fraction; count them in the notes."""
        if test is not None and training is None and self._fraction:
            training, test = carve(test, self._fraction)
        self._test, self._training = test, training
        if test is not None:
            tested = self.evaluation_set()
            self.notes.append(f"{len(test.database)} database images, {len(test.queries)} queries")
            self.notes += [*unmatched(tested), *doubts(tested)]
            if self.upright:  # one's own images, among which links may lie; published sets are taken as they are
                refuse_shared(tested)
                self.notes += shared_note(_records(self._training), tested)

    def training_set(self) -> TrainingSet:
        """The training part: database images, then queries."""
        self._tested()
        if self._training is None:
            raise UserError(f"data set {self.name} has no training part: {self._training_remedy}")
        return self._training if isinstance(self._training, TrainingSet) else self._relations(self._training)

    def evaluation_set(self) -> EvaluationSet:
        """Runs ``database`` and ``queries``; the radius is in frames, or in metres where positions are the truth."""
        return evaluation_set(self.name, self._tested(), self._radius, unit=self._unit)

    def _relations(self, training: Images) -> TrainingSet:
        return training_by_truth(training)

    def _tested(self) -> Images:
        if self._test is None:
            raise self._without_truth()
        return self._test

    def _without_truth(self) -> UserError:
        return UserError(f"no truth for the images in {self._folder}")


def _records(training: Images | TrainingSet | None) -> Sequence[PlaceRecord]:
    if training is None:
        return []
    return training.records if isinstance(training, TrainingSet) else [*training.database, *training.queries]
