"""Parts: what counts as written, how types come together, when to commit."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import read_names, results, write_part

from flowdist.parts import Clash, PartWriter, conform, read_part, unify
from flowdist.store import JobAttempt, RunFiles

WHO = JobAttempt(0, 1)


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    return RunFiles.at(tmp_path)


def writer_of(files: RunFiles) -> PartWriter:
    return PartWriter(files, WHO, "rows", started=0.0)


def schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema(list(types.items()))


def rows_in(files: RunFiles) -> list[list[int]]:
    """The row numbers of every part, in the order they lie in it."""
    tables = [read_part(files.path(name)) for name in files.parts()]
    return [table.column("_row").to_pylist() for table in tables if table is not None]


# Commit by close ---------------------------------------------------------------------------------


def test_nothing_is_on_disk_before_the_commit(files: RunFiles) -> None:
    writer = writer_of(files)

    writer.add(0, [results([0], sq__value=[0])])

    assert files.parts() == []
    assert writer.pending == 1


def test_a_committed_part_is_read_back(files: RunFiles) -> None:
    batch = results(range(3), sq__value=[0, 1, 4])

    path = write_part(files, batch)

    table = read_part(path)
    assert table is not None
    assert table.to_pylist() == batch.to_pylist()


def test_each_commit_makes_a_part_of_its_own_name(files: RunFiles) -> None:
    writer = writer_of(files)
    for row in range(3):
        writer.add(row, [results([row], sq__value=[row])])
        writer.commit(float(row))

    assert read_names(files) == [f"00000-1-000{n}.arrow" for n in range(3)]
    assert rows_in(files) == [[0], [1], [2]]


def test_a_commit_of_nothing_writes_nothing(files: RunFiles) -> None:
    writer_of(files).commit(0.0)

    assert files.parts() == []


def test_a_part_that_is_there_is_never_written_over(files: RunFiles) -> None:
    write_part(files, results([0], sq__value=[1]))

    one, other = writer_of(files), writer_of(files)
    for writer, value in ((one, 2), (other, 3)):
        writer.add(0, [results([0], sq__value=[value])])
    one.commit(0.0)
    other.commit(0.0)

    values = [read_part(files.path(name)).column("sq.value").to_pylist() for name in files.parts()]
    assert values == [[1], [2], [3]]


def test_a_job_that_is_started_again_goes_on_counting_its_parts(files: RunFiles) -> None:
    write_part(files, results([0], sq__value=[1]))

    assert writer_of(files).count == 1


def test_what_could_not_be_written_stays_to_be_tried_again(
    files: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = writer_of(files)
    writer.add(0, [results([0, 1], sq__value=[0, 1])])
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*\.arrow"):
        writer.commit(0.0)
    left = files.parts()
    monkeypatch.undo()
    writer.commit(0.0)

    assert left == []  # there is room to say why
    assert rows_in(files) == [[0, 1]]


def test_a_part_cut_off_anywhere_is_no_part(files: RunFiles) -> None:
    whole = write_part(files, results(range(4), sq__value=range(4))).read_bytes()
    cut = files.path("parts/cut.arrow")

    for length in {*range(0, len(whole), 7), *range(len(whole) - 32, len(whole))}:
        cut.write_bytes(whole[:length])
        assert read_part(cut) is None, f"{length} of {len(whole)} bytes passed for a part"


def test_a_part_that_is_absent_is_no_part(files: RunFiles) -> None:
    assert read_part(files.path("parts/none.arrow")) is None


def test_a_part_can_be_read_in_some_columns(files: RunFiles) -> None:
    path = write_part(files, results(range(2), sq__value=[1, 2]))

    table = read_part(path, ["_row", "_status"])

    assert table is not None
    assert table.column_names == ["_row", "_status"]


# Order within a part -----------------------------------------------------------------------------


def test_results_are_put_in_order_of_their_position(files: RunFiles) -> None:
    writer = writer_of(files)
    for first in (6, 0, 3):
        writer.add(first, [results(range(first, first + 3), sq__value=[0, 0, 0])])

    writer.commit(1.0)

    assert rows_in(files) == [list(range(9))]


def test_adjoining_rows_become_one_batch_and_others_stay_apart(files: RunFiles) -> None:
    writer = writer_of(files)
    for row in (0, 1, 2, 7, 8):
        writer.add(row, [results([row], sq__value=[row])])

    writer.commit(1.0)

    table = read_part(files.path(files.part(WHO, 0)))
    assert table is not None
    assert [batch.num_rows for batch in table.to_batches()] == [3, 2]


def test_dropped_positions_are_not_written(files: RunFiles) -> None:
    writer = writer_of(files)
    for row in range(5):
        writer.add(row, [results([row], sq__value=[row])])

    writer.drop(1, 3)
    writer.commit(1.0)

    assert rows_in(files) == [[0, 3, 4]]


# Types -------------------------------------------------------------------------------------------


def committed_values(files: RunFiles, *columns: Any) -> list[tuple[pa.DataType, list[Any]]]:
    """Type and values of the column in each part, after one commit of a row per value given."""
    writer = writer_of(files)
    position = 0
    for values in columns:
        n = len(values)
        writer.add(position, [results(range(position, position + n), sq__value=values)])
        position += n
    writer.commit(1.0)
    found = []
    for name in files.parts():
        table = read_part(files.path(name))
        assert table is not None
        column = table.column("sq.value")
        found.append((column.type, column.to_pylist()))
    return found


def test_ints_and_floats_are_written_as_floats(files: RunFiles) -> None:
    assert committed_values(files, [1, 2], [0.5]) == [(pa.float64(), [1.0, 2.0, 0.5])]


def test_null_takes_the_type_of_the_others(files: RunFiles) -> None:
    found = committed_values(files, pa.nulls(2), [1], pa.nulls(1))

    assert found == [(pa.int64(), [None, None, 1, None])]


def test_fields_that_only_some_rows_have_are_null_in_the_others(files: RunFiles) -> None:
    writer = writer_of(files)
    writer.add(0, [results([0], sq__a=[1])])
    writer.add(1, [results([1], sq__b=["x"])])
    writer.commit(1.0)

    table = read_part(files.path(files.part(WHO, 0)))
    assert table is not None
    assert table.select(["sq.a", "sq.b"]).to_pylist() == [
        {"sq.a": 1, "sq.b": None},
        {"sq.a": None, "sq.b": "x"},
    ]


def test_structs_are_united_field_by_field(files: RunFiles) -> None:
    ((_, values),) = committed_values(files, [{"a": 1}], [{"a": 0.5, "b": "x"}])

    assert values == [{"a": 1.0, "b": None}, {"a": 0.5, "b": "x"}]


def test_types_that_clash_go_to_parts_of_their_own(files: RunFiles) -> None:
    found = committed_values(files, [1], ["x"], [2], ["y"])

    assert found == [(pa.int64(), [1, 2]), (pa.string(), ["x", "y"])]


def test_an_int_that_no_float_holds_is_kept_exactly(files: RunFiles) -> None:
    big = 2**53 + 1

    found = committed_values(files, [big], [0.5])

    assert found == [(pa.int64(), [big]), (pa.float64(), [0.5])]


values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.booleans(),
    st.lists(st.integers(0, 9), max_size=2),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(values, min_size=1, max_size=8))
def test_no_row_is_lost_and_no_value_changed_whatever_the_types(
    tmp_path_factory: pytest.TempPathFactory, given_values: list[Any]
) -> None:
    files = RunFiles.at(tmp_path_factory.mktemp("run"))
    writer = writer_of(files)
    for row, value in enumerate(given_values):
        writer.add(row, [results([row], sq__value=[value])])

    writer.commit(1.0)

    found: dict[int, Any] = {}
    for name in files.parts():
        table = read_part(files.path(name))
        assert table is not None
        found |= {r["_row"]: r["sq.value"] for r in table.to_pylist()}
    assert found == dict(enumerate(given_values))


# unify, conform ----------------------------------------------------------------------------------


def test_schemas_are_united_with_the_record_first() -> None:
    united = unify([schema(b=pa.int64(), _row=pa.int64()), schema(a=pa.string())])

    assert isinstance(united, pa.Schema)
    assert united.names == ["_row", "b", "a"]


def test_a_clash_names_the_field_and_the_two_schemas_that_clash() -> None:
    schemas = [
        schema(a=pa.int64(), b=pa.null()),
        schema(a=pa.int64(), b=pa.null()),
        schema(b=pa.string()),
        schema(b=pa.int64()),
    ]

    assert unify(schemas) == Clash("b", 2, 3, pa.string(), pa.int64())


def test_a_table_that_conforms_is_not_touched() -> None:
    table = pa.table({"a": [1]})

    assert conform(table, table.schema) is table


def test_a_table_gets_the_columns_of_the_schema_in_its_order() -> None:
    table = pa.table({"b": [1], "a": ["x"]})
    wanted = schema(a=pa.string(), b=pa.float64(), c=pa.int32())

    assert conform(table, wanted).to_pylist() == [{"a": "x", "b": 1.0, "c": None}]


def test_a_cast_that_would_change_a_value_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid):
        conform(pa.table({"a": [2**53 + 1]}), schema(a=pa.float64()))


# When to commit ----------------------------------------------------------------------------------


def commits(files: RunFiles, *, seconds: float, step: float) -> list[float]:
    """The times at which a job that always has results commits."""
    writer = writer_of(files)
    times = []
    batch = results([0], sq__value=[0])
    for now in np.arange(step, seconds, step):
        if not writer.pending:
            writer.add(0, [batch])
        if writer.due(float(now)):
            times.append(float(now))
            writer._batches = []  # as a commit does, without the file
            writer._last = float(now)
    return times


def test_nothing_is_never_due(files: RunFiles) -> None:
    assert not writer_of(files).due(1e9)


def test_the_first_commits_come_every_few_seconds(files: RunFiles) -> None:
    assert commits(files, seconds=26.0, step=1.0) == [5.0, 10.0, 15.0, 20.0, 25.0]


def test_pauses_grow_with_the_age_of_the_job_up_to_a_limit(files: RunFiles) -> None:
    times = commits(files, seconds=86_400.0, step=10.0)
    pauses = np.diff([0.0, *times])

    assert (np.diff(pauses) >= -10.0).all()
    assert pauses.max() == PartWriter.LONGEST
    assert (pauses <= np.array(times) / 10 + 10.0).all()  # to within a step


def test_a_day_leaves_about_a_hundred_parts(files: RunFiles) -> None:
    assert 50 < len(commits(files, seconds=86_400.0, step=10.0)) < 150


def test_much_in_memory_is_due_at_once(files: RunFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartWriter, "BYTES", PartWriter.BATCH_BYTES + 1000)
    writer = writer_of(files)

    writer.add(0, [results(range(10), sq__value=range(10))])
    little = writer.due(0.1)
    writer.add(10, [results(range(10, 100), sq__value=range(90))])

    assert not little
    assert writer.due(0.1)


def test_rows_that_come_one_by_one_are_joined_in_memory(files: RunFiles) -> None:
    writer = writer_of(files)

    for row in range(10 * PartWriter.MANY):
        writer.add(row, [results([row], sq__value=[row])])

    assert writer.pending < 2 * PartWriter.MANY
    assert not writer.due(0.1)
    writer.commit(0.0)
    assert np.concatenate(rows_in(files)).tolist() == list(range(10 * PartWriter.MANY))


def test_what_was_joined_can_be_dropped_in_part(
    files: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PartWriter, "MANY", 10)
    writer = writer_of(files)
    for row in range(10):
        writer.add(row, [results([row], sq__value=[row])])

    writer.drop(3, 7)

    writer.commit(0.0)
    assert np.concatenate(rows_in(files)).tolist() == [0, 1, 2, 7, 8, 9]


def test_a_commit_starts_the_next_pause(files: RunFiles) -> None:
    writer = writer_of(files)
    writer.add(0, [results([0], sq__value=[0])])
    writer.commit(5.0)

    writer.add(1, [results([1], sq__value=[0])])

    assert not writer.due(9.9)
    assert writer.due(10.0)


def test_a_part_that_is_there_and_cannot_be_read_is_not_taken_for_absent(tmp_path: Path) -> None:
    unreadable = tmp_path / "00000-1-0000.arrow"
    unreadable.mkdir()

    with pytest.raises(OSError, match="directory"):
        read_part(unreadable)
