"""Predictions on disk: ``predictions.parquet`` for programs, ``predictions.csv`` for the eye; several models in one.

Columns are those of :class:`~distilplace.evaluation.retrieval.predictions.Predictions`, with names of runs instead of
their numbers, and ``model``, ``query_key``, ``query_file``, ``retrieved_key``, ``retrieved_file`` beside them. Strings
are dictionaries of integers, so that a row costs a few bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distilplace.common.files import atomic_path
from distilplace.evaluation.retrieval.predictions import Predictions

if TYPE_CHECKING:
    import pyarrow

NAME = "predictions.parquet"
CSV = "predictions.csv"
_NUMBERS = ("similarity", "distance", "correct", "evaluated", "positives", "first_correct", "database_size")
_ROWS = 200_000  # rows turned into text at once


def write_parquet(path: Path, predictions: Mapping[str, Predictions]) -> None:
    """Write the predictions of models by name, whole or not at all."""
    import pyarrow.parquet as pq

    models = list(predictions)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        writer = None
        for model, table in predictions.items():
            arrow = arrow_table(model, table, models)
            writer = writer or pq.ParquetWriter(stream, arrow.schema, compression="zstd", version="2.6")
            writer.write_table(arrow)
        if writer is not None:
            writer.close()


def write_csv(path: Path, predictions: Mapping[str, Predictions]) -> None:
    """Write the same rows as text: similarities with seven digits, distances with two decimals."""
    import pyarrow as pa
    from pyarrow import compute, csv

    models = list(predictions)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        writer = None
        for model, table in predictions.items():
            for batch in arrow_table(model, table, models).to_batches(_ROWS):
                columns = {
                    name: values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
                    for name, values in zip(batch.schema.names, batch.columns, strict=True)
                }
                columns["distance"] = compute.round(columns["distance"].cast(pa.float64()), 2)
                text = pa.record_batch(columns)
                writer = writer or csv.CSVWriter(stream, text.schema)
                writer.write_batch(text)
        if writer is not None:
            writer.close()


def arrow_table(model: str, predictions: Predictions, models: Sequence[str]) -> "pyarrow.Table":
    """One model's predictions as an Arrow table; ``models`` are the names that its column may hold."""
    import pyarrow as pa

    def words(codes: Any, names: Sequence[str]) -> Any:
        codes = np.asarray(codes, dtype=np.int32)
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), pa.array(names, pa.string()))

    rows, found = predictions.query_rows(), predictions.retrieved_rows()
    columns = {
        "model": words(np.full(len(rows), models.index(model)), models),
        "database_run": words(predictions["database_run"], predictions.runs),
        "query_run": words(predictions["query_run"], predictions.runs),
        "query": predictions["query"],
        "query_key": words(rows, predictions.queries.keys),
        "query_file": words(rows, predictions.queries.files),
        "place": predictions["place"],
        "rank": predictions["rank"],
        "retrieved": predictions["retrieved"],
        "retrieved_key": words(found, predictions.database.keys),
        "retrieved_file": words(found, predictions.database.files),
        **{name: predictions[name] for name in _NUMBERS},
    }
    arrays = {
        name: pa.array(values, mask=np.isnan(values)) if name in ("similarity", "distance") else values
        for name, values in columns.items()
    }
    return pa.table(arrays).replace_schema_metadata({"unit": predictions.unit})
