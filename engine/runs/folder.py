"""One folder per run: options, environment, log, metrics, checkpoint, weights, report (docs/concepts/run-folder.md)."""

import hashlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path, remove_leftovers, write_error
from distilplace.engine.options import RunOptions, TrainOptions
from distilplace.engine.runs.checkpoint import kept_checkpoints
from distilplace.engine.runs.environment import environment
from distilplace.engine.runs.lock import RunLock
from distilplace.engine.runs.metrics import Metrics
from distilplace.engine.runs.saved import typed_config

LOG = logging.getLogger("distilplace")
# Options that change where or how fast a run goes, not what it computes.
NEUTRAL = {"logdir", "exp_name", "resume", "save_every", "num_workers", "accelerator", "cuda", "dry_run", "tryid"}
NEUTRAL |= {"predictions"}
NEUTRAL |= {"val_batch_size", "teacher_store", "rebuild_store", "sparse_backend", "sparse_maps", "save_epoch_freq"}
TEACHER_FILE, TEACHER_FILES = "teacher.safetensors", "teacher*.safetensors"
"""In ``models/``: not learned by the run (:mod:`distilplace.engine.heads.maps`)."""


def options_hash(options: TrainOptions) -> str:
    """Eight hex digits of everything that can change the numbers but ``--epochs``, so that a run can be prolonged."""
    relevant = {name: value for name, value in options.model_dump().items() if name not in {*NEUTRAL, "epochs"}}
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


def _within(logdir: Path, name: str) -> Path:
    """The folder ``name`` below ``logdir``; :class:`UserError` for one that leads out of it, or cannot be."""
    base = logdir / name
    if not name.isprintable() or Path(os.path.normpath(logdir)) not in Path(os.path.normpath(base)).parents:
        raise UserError(
            f"--exp_name {name!r} leads out of --logdir {logdir}: give a plain name, and the place as --logdir"
        )
    try:
        if base.exists() and not base.is_dir():
            raise UserError(f"{base} is not a folder: choose another --exp_name")
    except OSError as error:
        raise write_error(base, error) from None
    return base


class _FileLog(logging.FileHandler):
    """``log.txt``; where it cannot be written the run ends, as for every other file of it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the library's name)
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise write_error(self.baseFilename, error) from None
        super().handleError(record)


class RunFolder:
    """The folder of one run. Use as a context manager: closes log and TensorBoard files, lifts the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = RunLock(path)
        self._metrics = Metrics(path)
        self._file_log: logging.Handler | None = None
        self._is_new = False
        """Made by this run, which has not taken a step yet: a mistake leaves nothing behind."""

    @classmethod
    def open(cls, options: TrainOptions) -> "RunFolder":
        """The folder to write to.

        With ``--resume auto`` the folder of the same options, new or not. Otherwise a new one: a name made from the
        options gets ``-2``, ``-3``...; a name given by ``--exp_name`` must be free (:class:`UserError`).
        """
        base = _within(Path(options.logdir), run_name(options))
        if options.resume == "auto" or not base.exists() or (base.is_dir() and not any(base.iterdir())):
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
        """Create the folder and lock it, save options and environment, start ``log.txt``."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._is_new = not self.path.exists()
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(self.path, error) from None
        self._lock.acquire()
        remove_leftovers(self.path)
        for shared in ("teacher_stores", "clusters"):
            remove_leftovers(self.path.parent / shared)
        planned = self.refuse_other_options(options)
        self.write_text("config.yaml", yaml.dump(options.model_dump(), Dumper=_PlainDumper, sort_keys=False))
        self.write_text("env.json", json.dumps(environment(device), indent=1))
        try:
            self._file_log = _FileLog(self.path / "log.txt")
        except OSError as error:
            raise write_error(self.path / "log.txt", error) from None
        self._file_log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        LOG.addHandler(self._file_log)
        has_state = bool(kept_checkpoints(self.path))
        if planned is not None and has_state:
            LOG.info("prolonged: this run was planned for %d epochs", planned)
        if not has_state and (self.path / "metrics.jsonl").exists():
            LOG.info("no last.ckpt in %s: this run starts over", self.path)

    def refuse_other_options(self, options: RunOptions) -> int | None:
        """The number of epochs the run was planned for, where it is now to have more.

        Raises:
            UserError: what lies in the folder is no run of these options that could go on, or start over.

        """
        saved = self.path / "config.yaml"
        kept = [path.name for path in kept_checkpoints(self.path)]
        learned = [path for path in sorted(self.path.glob("models/*.safetensors")) if not path.match(TEACHER_FILES)]
        if not kept and (weights := learned):
            raise UserError(
                f"{self.path} holds weights of a run ({weights[0].name}) but no last.ckpt to go on from: put last.ckpt "
                f"back; or, to start over, choose another --exp_name or move {weights[0].parent} away"
            )
        if not saved.exists():
            if kept:
                raise UserError(
                    f"{self.path} holds {kept[0]} but no config.yaml, so nobody knows with which options it was made: "
                    f"put config.yaml back, or remove {' and '.join(kept)} to start over"
                )
            return None
        remedy = "put it back as it was, or choose another --exp_name to start over"
        now = options.model_dump()
        before = typed_config(saved, now.keys(), remedy)
        for name, value in now.items():
            if name not in {*NEUTRAL, "epochs"} and before[name] != value:
                raise UserError(
                    f"{self.path} was run with --{name} {before[name]}, now {value}: resume with the same options, "
                    "or choose another --exp_name"
                )
        return _prolonged(saved, before, now)

    def write_text(self, name: str, text: str) -> None:
        """Write a small file whole."""
        with atomic_path(self.path / name) as temporary:
            temporary.write_text(text)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One line of ``metrics.jsonl`` and the same numbers in TensorBoard."""
        self._metrics.write(step, values)
        self._is_new = False

    def rewind(self, step: int, *, inside_epoch: bool) -> None:
        """Forget the numbers that a killed run wrote after the step this one resumes from."""
        self._metrics.rewind(step, inside_epoch=inside_epoch)

    @property
    def logged(self) -> Metrics:
        """The numbers so far: a part of what a checkpoint holds."""
        return self._metrics

    @property
    def board(self) -> Any:
        """The TensorBoard writer, opened on first use."""
        return self._metrics.board

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        nothing = self._is_new and isinstance(error, UserError | KeyboardInterrupt)
        try:
            self._end_log(error if isinstance(error, UserError) and not nothing else None)
            self._metrics.close()
        except (UserError, OSError):
            if kind is None:
                raise
        finally:
            if nothing and self._lock.is_held:
                shutil.rmtree(self.path, ignore_errors=True)
            self._lock.release()

    def _end_log(self, error: UserError | None) -> None:
        """Close ``log.txt``; the error that ends the run is its last line."""
        if self._file_log is None:
            return
        LOG.removeHandler(self._file_log)
        try:
            if error is not None:
                text = f"error: {error}"
                self._file_log.handle(logging.LogRecord(LOG.name, logging.ERROR, __file__, 0, text, None, None))
        finally:
            self._file_log.close()


class _PlainDumper(yaml.SafeDumper):
    """Every value written out: no option refers to another one's."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _prolonged(saved: Path, before: dict[str, Any], now: dict[str, Any]) -> int | None:
    """The earlier ``--epochs`` where the new one is larger; :class:`UserError` where that means nothing."""
    if "epochs" not in now or before.get("epochs") == now["epochs"]:
        return None
    planned, epochs = before.get("epochs"), now["epochs"]
    if type(planned) is not int or planned > epochs:
        raise UserError(
            f"{saved.parent} was planned for --epochs {planned}, now {epochs}: a run can be prolonged, not shortened; "
            f"give --epochs {planned} or more, or choose another --exp_name"
        )
    if now.get("generations", 1) > 1:
        raise UserError(
            f"{saved.parent} was planned for --epochs {planned}, now {epochs}: with --generations every generation has "
            "that many, so this would be another run; choose another --exp_name"
        )
    return planned
