"""Weights in and out: safe to open, exact about what fits, whole or not at all.

Nothing in a file is ever executed: its tensors and plain values are read, a foreign class stays a name. Keys are
DistilVPR's, as the models' own are. Parts that DistilVPR stores and never uses are skipped by the names that the model
lists in ``unused_checkpoint_prefixes``; any other difference is refused.
"""

from distilplace.models.checkpoints.files import (
    WeightsFile,
    add_scores,
    read_card,
    read_metadata,
    read_state,
    read_weights,
    save_weights,
)
from distilplace.models.checkpoints.fitting import LoadReport, fit_state
from distilplace.models.checkpoints.loading import expected_keys, load_weights

__all__ = [
    "LoadReport",
    "WeightsFile",
    "add_scores",
    "expected_keys",
    "fit_state",
    "load_weights",
    "read_card",
    "read_metadata",
    "read_state",
    "read_weights",
    "save_weights",
]
