"""What a weights file (.safetensors) or an exported one (.onnx) says of itself: one JSON text in its metadata."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distilplace.common.errors import UserError
from distilplace.runtime.values import REMEDY, integers, require_keys, text

KEY = "distilplace"
"""Entry of the metadata of a file that holds the text."""
FORMAT = 1
LONGEST = 1_000_000
"""Letters of the text; a card takes some thousands."""
ROLES = ("student", "teacher")
METRICS = ("cosine", "euclidean")
OPTIONAL = ("options", "export", "maps")
# Settings that change nothing of what a network with given weights computes.
NEUTRAL_SETTINGS = ("pretrained", "sparse_backend", "dropout", "trainable_from")


@dataclass(frozen=True)
class ModelCard:
    """Everything that is needed to use a network, in plain values."""

    role: str
    """"student" or "teacher"."""
    model: str
    """Its name in ``distilplace.models.create_model``."""
    settings: Mapping[str, Any]
    """The settings of ``create_model``."""
    preprocessing: Mapping[str, Any]
    """:meth:`distilplace.runtime.preprocessing.Preprocessing.to_dict`."""
    embedding: Mapping[str, Any]
    """``width``; ``metric`` "cosine" or "euclidean"; ``unit``: have embeddings the length 1?"""
    dataset: str
    """Name of the data set that it was trained on."""
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Part ("validation", "test") -> measure -> number."""
    licence: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the run that ``evaluate.py`` reads, but folders."""
    created_by: str = ""
    tensors_sha256: str = ""
    """Hex digest of the weights."""
    export: Mapping[str, Any] | None = None
    """Of an exported file: precision, target, opset, parity."""
    maps: Sequence[str] = ()
    """Fingerprints of other spaces that the embeddings aim at: their maps may be queried with this network."""

    @property
    def fingerprint(self) -> str:
        """Identity of the embedding space: hex digest of weights, model, settings and preprocessing.

        Embeddings of two files can be compared where it is the same.
        """
        settings = {name: value for name, value in self.settings.items() if name not in NEUTRAL_SETTINGS}
        pixels = {name: value for name, value in self.preprocessing.items() if name != "trained_size"}
        parts = [self.tensors_sha256, self.model, settings, pixels]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in the file."""
        found: dict[str, Any] = {
            "format": FORMAT,
            "created_by": self.created_by,
            "role": self.role,
            "model": self.model,
            "settings": dict(self.settings),
            "preprocessing": dict(self.preprocessing),
            "embedding": dict(self.embedding),
            "dataset": self.dataset,
            "fingerprint": self.fingerprint,
            "scores": {part: dict(values) for part, values in self.scores.items()},
            "licence": self.licence,
            "tensors_sha256": self.tensors_sha256,
            "options": dict(self.options),
        }
        if self.export is not None:
            found["export"] = dict(self.export)
        return {**found, "maps": list(self.maps)} if self.maps else found

    def to_text(self) -> str:
        """The JSON text for the metadata of a file; ValueError for what JSON cannot say, NaN among it."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_text(cls, written: str | None, source: str) -> "ModelCard":
        """Read :meth:`to_text`; ``source`` names the file in messages.

        Raises:
            UserError: there is none, or it is damaged, of a newer version, or at odds with its fingerprint.

        """
        values = parse(written, source)
        if values is None or "format" not in values:
            raise UserError(
                f"{source} does not say what it holds: name model and settings yourself "
                "(distilplace.models.create_model, load_weights), or train it again with this version"
            )
        return cls.from_dict(values, source)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> "ModelCard":
        """Read :meth:`to_dict`; raises as :meth:`from_text`."""
        if values.get("format") != FORMAT:
            raise UserError(
                f"{source} is of format {values.get('format')!r}, this version reads {FORMAT}: update distilplace"
            )
        names = [name for name in cls.__dataclass_fields__ if name not in OPTIONAL]
        found = require_keys(values, ("format", "fingerprint", *names), source, OPTIONAL)
        for name in ("role", "model", "dataset", "licence", "created_by", "tensors_sha256"):
            text(found[name], 2000, f"{source}: {name}")
        for name in ("settings", "preprocessing", "embedding", "scores", "options", "export"):
            if name in found and not isinstance(found[name], dict):
                raise UserError(f"{source}: {name} is no set of named values; {REMEDY}")
        if not all(isinstance(part, dict) for part in found["scores"].values()):
            raise UserError(f"{source}: scores are no sets of named values; {REMEDY}")
        _check_embedding(found["embedding"], source)
        maps = found.get("maps", [])
        if not isinstance(maps, list) or not all(isinstance(each, str) and len(each) <= 2000 for each in maps):
            raise UserError(f"{source}: maps are no fingerprints; {REMEDY}")
        if found["role"] not in ROLES:
            raise UserError(f"{source}: role {found['role']!r} is none of {', '.join(ROLES)}; {REMEDY}")
        card = cls(**{name: found[name] for name in (*names, *OPTIONAL) if name in found} | {"maps": tuple(maps)})
        if card.fingerprint != found["fingerprint"]:
            raise UserError(f"{source} is damaged (its fingerprint is not that of its content): fetch or make it again")
        return card


def parse(written: str | None, source: str) -> dict[str, Any] | None:
    """The JSON object ``written``, not checked any further; None where there is none.

    Raises:
        UserError: it is too long, or no JSON.

    """
    if written is None:
        return None
    if len(written) > LONGEST:
        raise UserError(f"{source} is damaged (a description of {len(written):,} letters): fetch or make it again")
    try:
        found = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is damaged ({error}): fetch or make it again") from error
    return found if isinstance(found, dict) else None


def _check_embedding(values: Mapping[str, Any], source: str) -> None:
    where = f"{source}: embedding"
    found = require_keys(values, ("width", "metric", "unit"), where)
    integers([found["width"]], 1, (1, 10_000_000), f"{where}: width")
    if found["metric"] not in METRICS or not isinstance(found["unit"], bool):
        raise UserError(f"{where}: metric {found['metric']!r}, unit {found['unit']!r} are not known here; {REMEDY}")
