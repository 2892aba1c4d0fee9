"""What of a file's state dict goes where in a model's: exact about what fits, and told in one line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.models.architecture import differences
from distilplace.models.checkpoints.content import is_counter

_NAMES_SHOWN = 3


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's tensors; ``str()`` is one line for the log."""

    source: str
    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    """In the file, not part of the model: the unused parts, skipped by name."""
    absent_counters: tuple[str, ...]
    """Batch-norm counters the file lacks (old files do): kept as they were."""
    metadata: dict[str, Any] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    """Objects and state dicts beside the one that was read, by where they lie: their classes. They count as skipped."""

    def __str__(self) -> str:
        tensors = [key for key in self.skipped if key not in self.foreign]
        parts = sorted({_part_name(key) for key in tensors})
        skipped = f", {len(tensors)} skipped ({', '.join(parts)}: not part of this model)" if parts else ""
        closed = some_of([f"{where} (a {kind})" for where, kind in self.foreign.items()])
        foreign = f", not opened: {closed}" if self.foreign else ""
        return f"{self.source}: {len(self.loaded)} tensors loaded{skipped}{foreign}"


def fit_state(
    target: Mapping[str, Tensor], state: Mapping[str, Tensor], unused: Sequence[str], source: str, prefix: str = ""
) -> tuple[dict[str, Tensor], LoadReport]:
    """Check a file's state dict against a model's, key by key.

    Args:
        target: the model's state dict.
        state: the file's.
        unused: key prefixes that may be skipped when the model has no such key; counters of operations always may.
        source: the file in words, for messages.
        prefix: what stands before these keys in the whole model (to find the settings that differ).

    Returns:
        A complete state dict for the model (its own types, the file's values) and the report.

    """
    told = misfits(target, state, unused)
    if told:
        theirs = {f"{prefix}{key}": value for key, value in state.items()}
        known = differences(theirs, {f"{prefix}{key}": value for key, value in target.items()})
        settings = f" ({'; '.join(known)})" if known else ""
        raise UserError(f"{source} is of another architecture than the model{settings}: {told}")
    common = [key for key in target if key in state]
    fitted = {key: state[key].to(target[key].dtype) if key in state else target[key] for key in target}
    broken = [key for key in common if fitted[key].is_floating_point() and not fitted[key].isfinite().all()]
    if broken:
        raise UserError(
            f"{source} holds NaN or infinite values in {some_of(broken)}: use a checkpoint from before that"
        )
    negative = [key for key in common if key.endswith("running_var") and fitted[key].lt(0).any()]
    if negative:
        raise UserError(f"{source} is damaged: {some_of(negative)} holds negative variances; fetch or make it again")
    skipped = tuple(key for key in state if key not in target)
    counters = tuple(key for key in target if key not in state)
    return fitted, LoadReport(source, tuple(common), skipped, counters)


def misfits(target: Mapping[str, Tensor], state: Mapping[str, Tensor], unused: Sequence[str]) -> str:
    """In what a file's state dict is not that of the model, in words; empty where it fits (see :func:`fit_state`)."""
    missing = [key for key in target if key not in state and not key.endswith(".num_batches_tracked")]
    extra = [key for key in state if key not in target]
    unexpected = [key for key in extra if not (key.startswith(tuple(unused)) or is_counter(key))]
    different = [
        f"{key} {_kind(state[key])} instead of {_kind(target[key])}"
        for key in target
        if key in state
        and (state[key].shape != target[key].shape or state[key].is_floating_point() != target[key].is_floating_point())
    ]
    faults = [("lacks", missing), ("has the unknown", unexpected), ("has", different)]
    return "; ".join(f"it {verb} {some_of(names)}" for verb, names in faults if names)


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)}" if tensor.is_floating_point() else f"{list(tensor.shape)} ({tensor.dtype})"


def some_of(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _part_name(key: str) -> str:
    """The part of the network a key belongs to: "layer4" of "image_fe.model.layer4.0.conv1.weight"."""
    if is_counter(key):
        return key.rpartition(".")[2]
    parts = [part for part in key.split(".") if part not in ("image_fe", "model")]
    return ".".join(parts[:2]) if parts[0] == "features" else parts[0]
