"""Python objects as the rows of a run: packed for the way out, read back from parts as they come.

What goes out is pickled object by object, so that each call gets one of its own, whoever ran the
calls before it; classes and functions, which many objects have in common, go along once. What comes
back is an artifact for each row. Which calls there are, and who waits for them, is for
`flowdist.mapping` and `flowdist.executor`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pyarrow as pa

from flowdist.artifacts import Artifact
from flowdist.errors import UsageError
from flowdist.parts import TABLE_KEY, read_part
from flowdist.payload import CachedFunction, dump
from flowdist.store import RunFiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELD = "value"
"""The output field that holds what a call returned."""

# All of it is in memory while it is written, and again in every worker.
MOST_BYTES = 1 << 30
BLOCK_ROWS = 1 << 12
# What objects have in common: pickled once, with the flow.
_SHARED = (type, FunctionType, CachedFunction)


class RemoteTraceback(Exception):
    """The traceback of an exception in the process where it was raised: the cause of the exception
    here.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


@dataclass(frozen=True, eq=False)
class Packed:
    """Objects, each pickled by itself; to index it makes the object anew.

    >>> from flowdist.objects import Packer
    >>> packer = Packer()
    >>> packer.add([1, 2])
    >>> packer.add("b")
    >>> packed = packer.packed()
    >>> packed[0], packed[1], len(packed), packed[0] is packed[0]
    ([1, 2], 'b', 2, False)
    """

    data: bytes = field(repr=False)
    ends: NDArray[np.int64] = field(repr=False)
    shared: tuple[Any, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Any:
        first = self.ends[index - 1] if index else 0
        return _Unpickler(self.data[first : self.ends[index]], self.shared).load()


class Packer:
    """Pickles objects one after another; `flowdist.payload.project_modules_by_value` is to be
    open.
    """

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._pickler = _Pickler(self._file)
        self._ends: list[int] = []

    def add(self, obj: object) -> None:
        """Take one more object.

        Raises:
            UsageError: all objects together are more than `MOST_BYTES`.

        And whatever pickling raises; the object is not taken then.
        """
        pickler, start = self._pickler, self._file.tell()
        known = len(pickler.shared)
        try:
            pickler.clear_memo()
            pickler.dump(obj)
            for one in pickler.shared[known:]:
                # Now, while it is known which object needs it.
                dump(one, io.BytesIO())
            if self._file.tell() > MOST_BYTES:
                from flowdist.resources import format_memory

                raise UsageError(
                    f"it and those before it take more than {format_memory(MOST_BYTES)} pickled; "
                    "give what they have in common once, as const, or paths of files"
                )
        except BaseException:
            self._file.seek(start)
            self._file.truncate()
            pickler.forget(known)
            raise
        self._ends.append(self._file.tell())

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def packed(self) -> Packed:
        """What was added, in order."""
        ends = np.array(self._ends, np.int64)
        return Packed(self._file.getvalue(), ends, tuple(self._pickler.shared))


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO) -> None:
        self.shared: list[Any] = []
        self._places: dict[int, int] = {}
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, _SHARED):
            return None
        place = self._places.setdefault(id(obj), len(self.shared))
        if place == len(self.shared):
            self.shared.append(obj)
        return place

    def forget(self, known: int) -> None:
        """Take back all but the first `known` that are shared."""
        for one in self.shared[known:]:
            del self._places[id(one)]
        del self.shared[known:]


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, shared: tuple[Any, ...]) -> None:
        super().__init__(io.BytesIO(data))
        self._shared = shared

    def persistent_load(self, place: int) -> Any:
        return self._shared[place]


@dataclass(frozen=True)
class Answer:
    """What came of one row: its number and status (a code of `flowdist.parts`), the reference of
    what it returned, and the JSON of its error.
    """

    row: int
    status: int
    value: dict[str, Any] | None
    error: str | None

    def load(self, root: str) -> Any:
        """The object that the row returned, in the run at `root`.

        Raises:
            ArtifactError: it cannot be read, or cannot be loaded here.
        """
        assert self.value is not None
        return Artifact.from_struct(self.value, root).load()


class Arrivals:
    """The rows of a run as they are committed: each part is read once."""

    def __init__(self, files: RunFiles, stage: str) -> None:
        self._files = files
        self._column = f"{stage}.{FIELD}"
        self._seen: set[str] = set()

    def new(self) -> Iterator[Answer]:
        """What was committed since the last call. A row may come twice, after a resume, say.

        Raises:
            OSError: a part is there and cannot be read now; it is read at the next call.
        """
        for name in self._files.parts():
            if name in self._seen:
                continue
            part = read_part(self._files.path(name))
            if part is None:
                continue  # being written, or its writer has died
            yield from answers(part, self._column)
            self._seen.add(name)


def answers(rows: pa.Table, column: str) -> Iterator[Answer]:
    """The rows of a part, or of a table of results, whose column holds what was returned."""
    if (rows.schema.metadata or {}).get(TABLE_KEY, b"rows") != b"rows":
        return
    names = ("_row", "_status", column, "_error")
    # A block at a time: a million dicts at once would take longer to make than to load.
    for block in rows.to_batches(max_chunksize=BLOCK_ROWS):
        absent = pa.nulls(block.num_rows)
        columns = (block.column(n) if n in block.schema.names else absent for n in names)
        yield from map(Answer, *(values.to_pylist() for values in columns))
