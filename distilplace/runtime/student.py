"""A student exported to ONNX, run by ONNX Runtime: images in, embeddings out."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distilplace.common.errors import UserError, unknown_name
from distilplace.common.files import require_file
from distilplace.runtime.embedding import embed_images
from distilplace.runtime.file_hash import STATED, damaged, verify
from distilplace.runtime.model_card import KEY, ModelCard
from distilplace.runtime.preprocessing import Preprocessing

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

LOG = logging.getLogger("distilplace")
INPUT, OUTPUT = "images", "embedding"
QUIET = 4  # ONNX Runtime's severity: fatal alone; what it logs is raised too
IN_GRAPH = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


class Student:
    """The network in ``path``, as ``distilplace export`` writes it: one file is the whole student.

    Args:
        path: the ``.onnx`` file.
        threads: cores to use; None: all.
        providers: execution providers by name, the preferred first; None: all that the installed ONNX Runtime has
            (``onnxruntime-gpu``: CUDA before the CPU).

    Raises:
        UserError: no such file, no ONNX, damaged, not made by DistilPlace, or a provider that this install lacks.

    """

    def __init__(self, path: Path | str, threads: int | None = None, providers: Sequence[str] | None = None) -> None:
        self._path = require_file(path, "student")
        if threads is not None and threads < 1:
            raise UserError(f"{threads} threads: give 1 or more")
        verified = verify(self._path)
        self._session = _session(self._path, threads, providers)
        self._outputs = [output.name for output in self._session.get_outputs()]
        card = _card(self._path, self._session)
        if not verified and (card.export or {}).get(STATED):
            raise damaged(self._path)
        if not verified:
            LOG.info("student %s is of an older version and has no hash: damage to it would not be seen", path)
        self.card: ModelCard = card
        """Model, settings, preprocessing, scores ... as they were when it was exported."""
        self.metadata: dict[str, Any] = card.to_dict()
        """The same as plain values."""
        self.fingerprint: str = card.fingerprint
        """Identity of the embedding space: maps of this fingerprint are for this student."""
        pixels = {**card.preprocessing, "normalisation": IN_GRAPH}  # the graph normalises
        self.preprocessing = Preprocessing.from_dict(pixels, str(path))
        self.width = int(card.embedding["width"])
        """Numbers per embedding."""

    def embed(self, images: Any, batch_size: int = 32, *, as_query: bool = False) -> np.ndarray:
        """Embeddings, float32 [n, D]; a progress bar where it takes more than 3 s.

        Args:
            images: a path, Pillow image or uint8 RGB array [H, W, 3], or several of these.
            batch_size: images that go through the network together.
            as_query: in the size of queries, for students of data sets whose queries have one of their own.

        Raises:
            UserError: something that is no image, or a network without embeddings.

        """
        if OUTPUT not in self._outputs:
            raise UserError(f"student {self._path} gives {', '.join(self._outputs)}, no embedding: give another")
        return embed_images(images, self.preprocessing, self._run, self.width, batch_size, as_query=as_query)

    def _run(self, batch: np.ndarray) -> np.ndarray:
        try:
            (rows,) = self._session.run([OUTPUT], {INPUT: batch})
        except Exception as error:  # ONNX Runtime has a class for each kind of failure
            reason = str(error).partition("\n")[0][:200]
            raise UserError(
                f"student {self._path} fails on an image of {batch.shape[2]}x{batch.shape[1]} pixels ({reason}): "
                "export it again"
            ) from error
        if rows.shape != (len(batch), self.width) or not np.isfinite(rows).all():
            raise UserError(
                f"student {self._path} gives {list(rows.shape)} numbers, or some that are not finite, where "
                f"{[len(batch), self.width]} are expected: the file is damaged; copy it again"
            )
        return np.asarray(rows, dtype=np.float32)


def _session(path: Path, threads: int | None, providers: Sequence[str] | None) -> "InferenceSession":
    import onnxruntime

    known = onnxruntime.get_available_providers()
    for name in providers or ():
        if name not in known:
            raise unknown_name("execution provider", name, known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers or known))
    except Exception as error:  # ONNX Runtime has a class for each kind of damage
        reason = str(error).partition("\n")[0][:200]
        raise UserError(f"student {path} is no ONNX file that can be opened ({reason}): export it again") from error


def _card(path: Path, session: "InferenceSession") -> ModelCard:
    """What the file says of itself, and that its input is ours."""
    try:
        written = session.get_modelmeta().custom_metadata_map.get(KEY)
    except UnicodeDecodeError as error:
        raise damaged(path) from error
    inputs = [(each.name, each.type, len(each.shape)) for each in session.get_inputs()]
    if written is None or inputs != [(INPUT, "tensor(uint8)", 4)]:
        raise UserError(f"{path} is an ONNX file that DistilPlace did not export: distilplace export makes one")
    return ModelCard.from_text(written, f"student {path}")
