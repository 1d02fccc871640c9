"""What stages of one phase returned, on its way to the stages of a later phase.

A row's outputs go from stage to stage as the Python objects they are. Where the next stage runs in
another job, those that it needs are pickled into a column of the part, beside the results, and are
looked up there by the number of the row. Only what a later phase uses is carried.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa

from flowdist.errors import PayloadError
from flowdist.flow import Program
from flowdist.parts import CARRY, FAILED, part_table, read_part
from flowdist.phases import Phase, earlier
from flowdist.store import RunFiles
from flowdist.tables import map_table, write_table

_PATHS = b"flowdist.parts"


def carried_stages(program: Program, phase: Phase) -> tuple[str, ...]:
    """The stages of a phase whose outputs row stages of other phases use."""
    own = set(phase["stages"])
    used = {u for s in program.row_stages if s.name not in own for u in s.uses}
    return tuple(name for name in phase["stages"] if name in used)


def pack(wholes: Mapping[str, Any], skipped: Collection[str]) -> bytes:
    """What stages returned, by name, and which of them were skipped, as bytes."""
    data: bytes = cloudpickle.dumps((dict(wholes), tuple(skipped)))
    return data


def index_carried(
    files: RunFiles,
    manifest: Mapping[str, Any],
    phase: Phase,
    names: Iterable[str],
    directory: Path,
) -> None:
    """Write down for each earlier phase in which of the parts `names` each row's outputs are."""
    parts = [(name, found) for name in names if (found := read_part(files.path(name))) is not None]
    for number, before in enumerate(earlier(manifest, phase)):
        rows, of_part, offset = [], [], []
        paths: list[str] = []
        for name, part in parts:
            if part_table(part) != before["table"] or CARRY not in part.column_names:
                continue
            ended = part.column("_status").to_numpy() != FAILED
            at = np.flatnonzero(ended)
            rows.append(part.column("_row").to_numpy()[at])
            of_part.append(np.full(len(at), len(paths), np.int32))
            offset.append(at)
            paths.append(name)
        numbers = np.concatenate([np.empty(0, np.int64), *rows])
        order = np.argsort(numbers, kind="stable")
        index = pa.table(
            {
                "row": numbers[order],
                "part": np.concatenate([np.empty(0, np.int32), *of_part])[order],
                "offset": np.concatenate([np.empty(0, np.int64), *offset])[order],
            }
        )
        write_table(
            directory / f"carried-{number}.arrow",
            index.replace_schema_metadata({_PATHS: json.dumps(paths)}),
        )


class Carried:
    """Looks up what earlier phases returned for a row.

    Raises:
        PayloadError: a part belongs to another user, whose pickled objects are not loaded.
    """

    def __init__(self, files: RunFiles, phases: int, directory: Path) -> None:
        self._files = files
        self._indices = [map_table(directory / f"carried-{n}.arrow") for n in range(phases)]
        self._rows = [index.column("row").to_numpy() for index in self._indices]
        self._paths = [json.loads(i.schema.metadata[_PATHS]) for i in self._indices]
        self._columns: dict[str, pa.ChunkedArray] = {}

    def of(self, row: int) -> tuple[dict[str, Any], set[str]]:
        """What stages returned for the row, by name, and the stages that were skipped."""
        wholes: dict[str, Any] = {}
        skipped: set[str] = set()
        for index, rows, paths in zip(self._indices, self._rows, self._paths, strict=True):
            # The last of equals: results of later attempts are in later parts.
            place = int(np.searchsorted(rows, row, side="right")) - 1
            if place < 0 or rows[place] != row:
                continue
            column = self._column(paths[index.column("part")[place].as_py()])
            packed = column[index.column("offset")[place].as_py()].as_py()
            if packed is not None:
                outputs, not_run = pickle.loads(packed)
                wholes |= outputs
                skipped |= set(not_run)
        return wholes, skipped

    def _column(self, name: str) -> pa.ChunkedArray:
        if name not in self._columns:
            path = self._files.path(name)
            if path.stat().st_uid != os.getuid():
                raise PayloadError(f"{path} belongs to another user; it is not unpickled")
            part = read_part(path, [CARRY])
            assert part is not None, f"{path} was there a moment ago"
            self._columns[name] = part.column(CARRY)
        return self._columns[name]
