"""One folder per run: options, environment, log, metrics, checkpoint, weights, report (README, "Run folder")."""

import hashlib
import json
import logging
import platform
import shutil
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from common.errors import UserError
from common.files import atomic_path
from engine.options import RunOptions, TrainOptions

LOG = logging.getLogger("distilplace")
# Options that change where or how fast a run goes, not what it computes.
NEUTRAL = {"logdir", "exp_name", "resume", "save_every", "num_workers", "accelerator", "cuda", "dry_run", "tryid"}
NEUTRAL |= {"val_batch_size", "teacher_store", "rebuild_store", "sparse_backend", "sparse_maps"}
PACKAGES = ("torch", "torchvision", "numpy", "pytorch-metric-learning", "lightning-fabric", "open3d", "safetensors")


def start_console_log() -> None:
    """Messages go to standard output, bare; a second call follows a changed ``sys.stdout``."""
    for handler in [handler for handler in LOG.handlers if handler.name == "console"]:
        LOG.removeHandler(handler)
    console = logging.StreamHandler(sys.stdout)
    console.name = "console"
    console.setFormatter(logging.Formatter("%(message)s"))
    LOG.addHandler(console)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    warnings.showwarning = _log_warning


def _log_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line; where in the code it arose says nothing to a user."""
    LOG.warning("warning: %s", " ".join(str(message).split()))


def options_hash(options: TrainOptions) -> str:
    """Eight hex digits of everything that can change the numbers."""
    relevant = {name: value for name, value in options.model_dump().items() if name not in NEUTRAL}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:8]


def run_name(options: TrainOptions) -> str:
    """``--exp_name``, or upstream's kind of name with a hash of all options that matter."""
    if options.exp_name is not None:
        return options.exp_name
    teacher = "+".join(options.model)
    if options.train_mode == "train_teacher":
        parts = [options.dataset, f"T-{teacher}", f"b{options.train_batch_size}", "trainteacher"]
    else:
        student = f"S-{options.student_model}_{options.student_output_dim}"
        parts = [options.dataset, f"T-{teacher}", student, f"b{options.train_batch_size}", options.distil_method]
    return "__".join([f"{options.tryid}{parts[0]}", *parts[1:], options_hash(options)])


class RunFolder:
    """The folder of one run. Use as a context manager: closes log and TensorBoard files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file_log: logging.Handler | None = None
        self._is_new = not path.exists()
        self._writer: Any = None

    @classmethod
    def open(cls, options: TrainOptions) -> "RunFolder":
        """The folder to write to.

        With ``--resume auto`` the folder of the same options, new or not. Otherwise a new one: a name made from the
        options gets ``-2``, ``-3``...; a name given by ``--exp_name`` must be free (:class:`UserError`).
        """
        base = Path(options.logdir) / run_name(options)
        if options.resume == "auto":
            return cls(base)
        if not base.exists() or not any(base.iterdir()):
            return cls(base)
        if options.exp_name is not None:
            raise UserError(
                f"{base} holds a run already: add --resume auto to go on with it, or choose another --exp_name"
            )
        number = 2
        while (candidate := base.with_name(f"{base.name}-{number}")).exists():
            number += 1
        return cls(candidate)

    def begin(self, options: RunOptions, device: str) -> None:
        """Create the folder, save options and environment, start ``log.txt``."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._refuse_other_options(options)
        self.write_text("config.yaml", yaml.safe_dump(options.model_dump(), sort_keys=False))
        self.write_text("env.json", json.dumps(_environment(device), indent=1))
        self._file_log = logging.FileHandler(self.path / "log.txt")
        self._file_log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        LOG.addHandler(self._file_log)

    def _refuse_other_options(self, options: RunOptions) -> None:
        saved = self.path / "config.yaml"
        if not saved.is_file():
            return
        before = yaml.safe_load(saved.read_text())
        for name, value in options.model_dump().items():
            if name not in NEUTRAL and name in before and before[name] != value:
                raise UserError(
                    f"{self.path} was run with --{name} {before[name]}, now {value}: resume with the same options, "
                    "or choose another --exp_name"
                )

    def write_text(self, name: str, text: str) -> None:
        """Write a small file whole."""
        with atomic_path(self.path / name) as temporary:
            temporary.write_text(text)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One line of ``metrics.jsonl`` and the same numbers in TensorBoard."""
        with (self.path / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    @property
    def board(self) -> Any:
        """The TensorBoard writer, opened on first use."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.path))
        return self._writer

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._file_log is not None:
            LOG.removeHandler(self._file_log)
            self._file_log.close()
        if kind is not None and issubclass(kind, UserError) and self._is_new and not (self.path / "last.ckpt").exists():
            shutil.rmtree(self.path, ignore_errors=True)  # nothing was learnt yet: a mistake leaves no half-made run


def _commit() -> str:
    """The commit of this code; "unknown" outside a checkout, or where git is not installed (an image)."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return answer.stdout.strip() or "unknown"


def _environment(device: str) -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "command": sys.argv,
        "versions": versions,
    }
