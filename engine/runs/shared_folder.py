"""The run folder of several processes: the first one writes it, the others read what lies there."""

from collections.abc import Iterator
from contextlib import contextmanager

from distilplace.engine import processes
from distilplace.engine.options import TrainOptions
from distilplace.engine.runs.folder import RunFolder


class _ReadFolder(RunFolder):
    """The folder as all processes but the first have it: nothing is written, nothing locked."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """The first process has the same numbers."""

    def rewind(self, step: int, *, inside_epoch: bool) -> None:
        """The first process does it."""


@contextmanager
def begun_folder(options: TrainOptions, device: str) -> Iterator[RunFolder]:
    """The folder of a run, begun: all processes get the one that the first finds. Mistakes within end all of them."""
    with processes.together():
        path = processes.on_first(lambda: RunFolder.open(options).path)
    folder = RunFolder(path) if processes.is_first() else _ReadFolder(path)
    with folder, processes.together():
        processes.on_first(folder.begin, options, device)
        yield folder
