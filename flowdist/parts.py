"""Parts: immutable Arrow files of results, and what their columns mean.

A part is written once and committed by closing it: an Arrow file without its footer is a part whose
writer died, and counts as not there. Columns: ``_row`` (number of the row, or of the group in a
reduce), ``_status``, ``_attempts``, ``_seconds``, ``_error`` (JSON, null where the row is ok), then
``stage.field``. The schema's metadata says which stages it is for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from flowdist.schema import unify_fields
from flowdist.store import JobAttempt, RunFiles

RECORD = ("_row", "_status", "_attempts", "_seconds", "_error")
STATUS = ("ok", "failed", "skipped", "missing")
OK, FAILED, SKIPPED, MISSING = range(4)
# Rows in a batch of a part: enough that what a batch costs does not show.
BATCH_ROWS = 1 << 14
# A table of rows, or the name of a reduce: which table of the run a part belongs to.
TABLE_KEY = b"flowdist.table"
# What stages returned, pickled for stages of a later phase: see flowdist/workers/carry.py.
CARRY = "_carry"

T = TypeVar("T", pa.Table, pa.RecordBatch)


@dataclass(frozen=True)
class Clash:
    """Two schemas whose field no column can hold together, by index in what was unified."""

    field: str
    first: int
    second: int
    first_type: pa.DataType
    second_type: pa.DataType


def unify(schemas: Sequence[pa.Schema]) -> pa.Schema | Clash:
    """One schema that all of `schemas` can be cast to: fields united, types widened."""
    fields: dict[str, pa.Field] = {}
    seen: list[tuple[int, pa.Schema]] = []
    for index, schema in enumerate(schemas):
        if any(schema.equals(known) for _, known in seen):
            continue
        for field in schema:
            known_field = fields.get(field.name)
            united = field if known_field is None else unify_fields(known_field, field)
            if united is None:
                return _clash(field, index, seen)
            fields[field.name] = united
        seen.append((index, schema))
    ordered = sorted(fields.values(), key=lambda f: f.name not in RECORD)
    return pa.schema(ordered)


def _clash(field: pa.Field, index: int, seen: Sequence[tuple[int, pa.Schema]]) -> Clash:
    """The clash of a field with the first schema that it clashes with by itself."""
    having = [(i, s.field(field.name)) for i, s in seen if field.name in s.names]
    apart = [(i, other) for i, other in having if unify_fields(other, field) is None]
    first, other = (apart or having)[0]
    return Clash(field.name, first, index, other.type, field.type)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with the columns of `schema`, in its order: cast where types differ, null where
    absent.

    Raises:
        pa.ArrowInvalid: a value does not survive the cast (an int that no float holds exactly).
    """
    if table.schema.equals(schema):
        return table
    columns = []
    for field in schema:
        index = table.schema.get_field_index(field.name)
        if index < 0:
            columns.append(pa.nulls(table.num_rows, field.type))
        elif table.schema.field(index).type.equals(field.type):
            columns.append(table.column(index))
        else:
            columns.append(table.column(index).cast(field.type))
    return pa.table(columns, schema=schema)


def read_part(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None
) -> pa.Table | None:
    """A committed part, mapped and not copied; None where it is absent or was never finished.

    Raises:
        OSError: it is there and cannot be read, which says nothing of its rows.
    """
    try:
        data = _mapped(path)
    except FileNotFoundError:
        return None
    try:
        # From a buffer: of a file, pyarrow has another thread read the footer, and the hand-over
        # takes longer than all the rest.
        table = pa.ipc.open_file(data).read_all()
    except (pa.ArrowInvalid, OSError):
        return None
    return table if columns is None else table.select(columns)


def part_table(part: pa.Table) -> str:
    """The table of the run that a part belongs to; empty where it does not say."""
    named: bytes = (part.schema.metadata or {}).get(TABLE_KEY, b"")
    return named.decode()


def _mapped(path: str | os.PathLike[str]) -> pa.Buffer:
    """The content of a file, mapped; read where it cannot be mapped: not every mounted stage maps,
    and Linux maps some 65,000 files per process.
    """
    try:
        with pa.memory_map(os.fspath(path)) as file:
            return file.read_buffer()
    except FileNotFoundError:
        raise
    except OSError:
        with open(path, "rb") as plain:
            return pa.py_buffer(plain.read())


class PartWriter:
    """Collects the batches of one job and commits them as parts.

    How often to commit is a trade of files against work lost when a whole job is killed: the pause
    between commits is a tenth of the time since the start, at least `FIRST` and at most `LONGEST`
    seconds. So a job loses at most about a tenth of its work, and a day-long job leaves about a
    hundred files.
    """

    FIRST = 5.0
    LONGEST = 1800.0
    # Results in memory beyond this are committed at once.
    BYTES = 256 << 20
    # What a batch takes beside its values: objects, buffers, and the message it came in (measured).
    BATCH_BYTES = 8 << 10
    # So many batches are looked at for neighbours that can be joined.
    MANY = 1024

    def __init__(self, files: RunFiles, who: JobAttempt, table: str, started: float) -> None:
        self._files = files
        self._who = who
        self._table = table
        # A job that the scheduler has started again goes on behind its own earlier parts.
        self._seq = 0
        while files.path(files.part(who, self._seq)).exists():
            self._seq += 1
        self._started = self._last = started
        # With the position that each batch begins at.
        self._batches: list[tuple[int, pa.RecordBatch]] = []
        self._bytes = 0
        self._many = self.MANY

    def add(self, position: int, batches: Iterable[pa.RecordBatch]) -> None:
        """Take the results of consecutive rows that begin at `position`."""
        for batch in batches:
            self._batches.append((position, batch))
            self._bytes += batch.nbytes + self.BATCH_BYTES
        if len(self._batches) >= self._many:
            self._join()

    def _join(self) -> None:
        """Make one batch of adjoining ones: slow rows come one by one, and a batch of one row takes
        a hundred times the memory of the row.
        """
        self._batches.sort(key=lambda pair: pair[0])
        joined: list[tuple[int, pa.RecordBatch]] = []
        for position, run in _adjoining(self._batches):
            for batch in pa.Table.from_batches(run).combine_chunks().to_batches():
                joined.append((position, batch))
                position += batch.num_rows
        self._batches = joined
        self._bytes = sum(batch.nbytes + self.BATCH_BYTES for _, batch in joined)
        self._many = max(self.MANY, 2 * len(joined))

    def drop(self, first: int, stop: int) -> None:
        """Forget the uncommitted results of positions `first` to `stop` (exclusive)."""
        kept: list[tuple[int, pa.RecordBatch]] = []
        for position, batch in self._batches:
            if position < first:
                kept.append((position, batch.slice(0, first - position)))
            if position >= stop:
                kept.append((position, batch))
            elif position + batch.num_rows > stop:
                kept.append((stop, batch.slice(stop - position)))
        self._batches = kept

    @property
    def pending(self) -> int:
        return len(self._batches)

    @property
    def count(self) -> int:
        """How many parts the job has committed in this attempt, in all of its starts."""
        return self._seq

    def due(self, now: float) -> bool:
        """Whether it is time to commit."""
        pause = min(max(self.FIRST, (now - self._started) / 10), self.LONGEST)
        return bool(self._batches) and (self._bytes > self.BYTES or now - self._last >= pause)

    def commit(self, now: float) -> None:
        """Write what was added as one part, or as several where undeclared types clash.

        Raises:
            OSError: the disk is full, say; what is not written stays, to be tried again.
        """
        self._last = now
        self._batches.sort(key=lambda pair: pair[0])
        while self._batches:
            self._batches = self._write(self._batches)
        self._bytes, self._many = 0, self.MANY

    def _write(self, taken: list[tuple[int, pa.RecordBatch]]) -> list[tuple[int, pa.RecordBatch]]:
        """Write the batches that agree with the first; return the others."""
        rest: list[tuple[int, pa.RecordBatch]] = []
        try:
            tables = _agreed([b for _, b in taken])
        except (TypeError, pa.ArrowInvalid):
            # Types clash: what has exactly the first batch's schema goes first, the rest to other
            # parts.
            first = taken[0][1].schema
            rest = [(p, b) for p, b in taken if not b.schema.equals(first)]
            taken = [(p, b) for p, b in taken if b.schema.equals(first)]
            tables = _agreed([b for _, b in taken])
        path, descriptor = self._new_file()
        schema = tables[0].schema.with_metadata({TABLE_KEY: self._table.encode()})
        try:
            with os.fdopen(descriptor, "wb") as file:
                with pa.ipc.new_file(file, schema) as writer:
                    for _, run in _adjoining(zip((p for p, _ in taken), tables, strict=True)):
                        writer.write_table(pa.concat_tables(run).combine_chunks())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            # On a full disk this makes room for saying so.
            path.unlink(missing_ok=True)
            error.filename = str(path)
            raise
        self._seq += 1
        return rest

    def _new_file(self) -> tuple[Path, int]:
        """The next part, open for writing; its name is one that nobody has used."""
        while True:
            path = self._files.path(self._files.part(self._who, self._seq))
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                # Of an earlier start of the same job, which may not have ended yet.
                self._seq += 1


def _agreed(batches: Sequence[pa.RecordBatch]) -> list[pa.Table]:
    """The batches as tables of one schema; TypeError or ArrowInvalid where there is none."""
    schema = unify([b.schema for b in batches])
    if isinstance(schema, Clash):
        raise TypeError(schema.field)
    return [conform(pa.Table.from_batches([b]), schema) for b in batches]


def _adjoining(items: Iterable[tuple[int, T]]) -> Iterator[tuple[int, list[T]]]:
    """Runs of adjoining rows of one schema, with the position of their first, so that slow rows do
    not make a batch each.

    Only adjoining rows: batches that are ranges of rows can be put in order without copying them.
    Only up to `BATCH_ROWS`: to join more would be copying for nothing.
    """
    run: list[T] = []
    first = rows = 0
    for position, item in items:
        if run and (
            position != first + rows
            or rows + item.num_rows > BATCH_ROWS
            or not item.schema.equals(run[0].schema)
        ):
            yield first, run
            run = []
        if not run:
            first, rows = position, 0
        run.append(item)
        rows += item.num_rows
    if run:
        yield first, run
