"""``distilplace COMMAND``: the same as ``python train.py``, ``python -m tools.demo`` and so on."""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from distilplace.common.extras import missing_extra
from distilplace.common.streams import abandon


class Command(NamedTuple):
    """A module with ``main(arguments) -> exit status``, and what it does; ``trains``: only where torch is there."""

    module: str
    does: str
    trains: bool = True


COMMANDS = {
    "train": Command("distilplace.train", "train a teacher, or a student with or without teachers"),
    "evaluate": Command("distilplace.evaluate", "test weights on a data set; report"),
    "compare": Command("distilplace.tools.compare.run", "finished runs on one page: results, differences, options"),
    "export": Command("distilplace.tools.export.run", "weights as one ONNX file for robots, float32 or INT8"),
    "demo": Command("distilplace.tools.demo.run", "teacher, student alone, student distilled, on a generated world"),
    "demo-frames": Command("distilplace.tools.demo.frames", "the generated world as a robot's own frames"),
    "demo-papers": Command("distilplace.tools.demo.papers", "the published methods on the generated world"),
    "demo-seeds": Command("distilplace.tools.demo.seeds", "the demo over several seeds"),
    "map": Command("distilplace.tools.map.run", "a map of places: add, info, delete, search", trains=False),
    "localise": Command(
        "distilplace.tools.localise.run", "where pictures were taken, and how sure that is", trains=False
    ),
    "calibrate": Command("distilplace.tools.localise.calibrate", "how far a map's answers can be trusted"),
    "centre": Command("distilplace.tools.centre", "subtract the mean training embedding of finished weights"),
    "whiten": Command("distilplace.tools.whiten", "fit the whitening of a teacher's embeddings"),
    "cluster": Command("distilplace.tools.cluster", "find the centroids that a NetVLAD head starts from"),
    "list-models": Command("distilplace.tools.list_models", "networks, their sizes and settings"),
    "check-poses": Command("distilplace.tools.check_poses", "what may be wrong with a scene of posed images"),
    "convert-7scenes": Command("distilplace.tools.convert_7scenes", "7-Scenes as PoseNet-style lists"),
    "bench": Command("distilplace.tools.bench.run", "speed and memory of the parts; bench student: of a student"),
    "bench-sparse": Command("distilplace.tools.bench_sparse.run", "sparse engines side by side"),
    "install-minkowski": Command("distilplace.tools.install_minkowski", "build MinkowskiEngine for this machine"),
}


def usage() -> str:
    """The help text: every sub-command in a line."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.does}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: distilplace COMMAND [OPTIONS]",
            "",
            "Distil LiDAR + image place-recognition teachers into small image-only students.",
            "",
            *lines,
            "",
            "distilplace COMMAND --help tells a command's options; distilplace --version the version.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command; its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        try:
            print(usage(), flush=True)
        except BrokenPipeError:  # ... | head
            abandon(sys.stdout)
        return 0 if words else 2
    if name == "--version":
        from distilplace.version import __version__

        print(f"distilplace {__version__}")
        return 0
    if name not in COMMANDS:
        from distilplace.common.errors import unknown_name

        print(f"error: {unknown_name('command', name, list(COMMANDS))}", file=sys.stderr)
        return 2
    if COMMANDS[name].trains and (reason := missing_extra(f"distilplace {name}")) is not None:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    sys.argv[0] = f"distilplace {name}"
    status: int = importlib.import_module(COMMANDS[name].module).main(words[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
