"""Records in columns: millions of samples in a few NumPy arrays, which forked workers share instead of copying."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from distilplace.datasets.records import PlaceRecord

END = "\0"
"""Between the key and the paths of a record, none of which can hold it."""


class RecordColumns(Sequence[PlaceRecord]):
    """Records, each made anew whenever it is asked for: the bytes of its texts and 28 more, an object takes 600.

    Equal in everything to a list of the ``records`` it was made from, but that cannot be changed.
    """

    def __init__(self, records: Iterable[PlaceRecord]) -> None:
        texts, ends, places, kinds = bytearray(), array("q", [0]), array("d"), array("i")
        numbers: dict[tuple[str, bool, bool], int] = {}
        self._crops: dict[int, tuple[float, float, float, float]] = {}
        for row, record in enumerate(records):
            fields = (record.key, record.cloud or "", *record.images)
            texts += END.join(map(str, fields)).encode("utf-8", "surrogateescape")
            ends.append(len(texts))
            places.extend((record.northing, record.easting))
            kind = (record.run, record.as_query, record.upright)
            kinds.append(numbers.setdefault(kind, len(numbers)))
            if record.crop is not None:
                self._crops[row] = record.crop
        self._texts, self._ends = np.frombuffer(texts, dtype=np.uint8), np.asarray(ends)
        self._places, self._kind = np.asarray(places).reshape(-1, 2), np.asarray(kinds)
        self._kinds = list(numbers)

    def __len__(self) -> int:
        return len(self._kind)

    @overload
    def __getitem__(self, index: int) -> PlaceRecord: ...

    @overload
    def __getitem__(self, index: slice) -> list[PlaceRecord]: ...

    def __getitem__(self, index: int | slice) -> PlaceRecord | list[PlaceRecord]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        key, cloud, *images = self._fields(row)
        run, as_query, upright = self._kinds[self._kind[row]]
        northing, easting = self._places[row].tolist()
        files = (Path(cloud) if cloud else None, tuple(map(Path, images)))
        return PlaceRecord(key, run, *files, northing, easting, self._crops.get(row), as_query, upright)

    def keys(self) -> Iterator[str]:
        """The records' keys, without the rest of them."""
        return (self._fields(row)[0] for row in range(len(self)))

    def _fields(self, row: int) -> list[str]:
        start, end = self._ends[row : row + 2].tolist()
        return self._texts[start:end].tobytes().decode("utf-8", "surrogateescape").split(END)
