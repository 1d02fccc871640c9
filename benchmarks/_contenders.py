"""One measurement in a process of its own: rows run by one contender, in a scratch directory.

Prints one line of JSON with the seconds from the grid in memory to the results in hand. Imports are
made before the clock starts, processes are started after it. Called by rows.py::

    python benchmarks/_contenders.py CONTENDER TASK ROWS DIRECTORY
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _tasks import TASKS, as_lists, grid_table

WORKERS = 2
# How many pieces each worker's share is cut into, where a library leaves that to its user: few
# enough to cost nothing, enough to even out.
PIECES = 50

Task = Callable[..., dict[str, float]]
# Made before the clock starts, from the rows' function, the grid and a directory; running it gives
# one result for each row.
Runner = Callable[[], Any]


# By hand ------------------------------------------------------------------------------------------

RESULT = pa.schema([("row", pa.int64()), ("value", pa.float64()), ("error", pa.string())])
BATCH_ROWS = 1 << 16

# Runs a batch of which the first row has the given number.
Loop = Callable[[Task, pa.RecordBatch, int], pa.RecordBatch]


def by_rows(task: Task, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    """The loop that most people would write: it fits every function and every result."""
    results: list[dict[str, Any]] = []
    for number, row in enumerate(batch.to_pylist(), first):
        try:
            results.append({"row": number, **task(**row)})
        except Exception as error:
            results.append({"row": number, "error": repr(error)})
    return pa.RecordBatch.from_pylist(results, schema=RESULT)


def by_columns(task: Task, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    """The least that Python can do: a loop made for this function and its only field."""
    values: list[float | None] = []
    errors: dict[int, str] = {}
    for arguments in zip(*as_lists(batch), strict=True):
        try:
            values.append(task(*arguments)["value"])
        except Exception as error:
            errors[len(values)] = repr(error)
            values.append(None)
    n = len(values)
    text = (
        pa.array(list(map(errors.get, range(n))), pa.string())
        if errors
        else pa.nulls(n, pa.string())
    )
    numbers = pa.array(range(first, first + n), pa.int64())
    return pa.record_batch([numbers, pa.array(values, pa.float64()), text], schema=RESULT)


def write_part(loop: Loop, task: Task, grid: Path, first: int, stop: int, part: Path) -> None:
    """Run rows [first, stop) of a mapped grid and write what they return, or why they failed."""
    with pa.memory_map(str(grid)) as file:
        table = pa.ipc.open_file(file).read_all().slice(first, stop - first)
    with pa.OSFile(str(part), "wb") as out, pa.ipc.new_file(out, RESULT) as writer:
        for batch in table.to_batches(max_chunksize=BATCH_ROWS):
            writer.write_batch(loop(task, batch, first))
            first += batch.num_rows


def read_parts(directory: Path) -> pa.Table:
    """The parts, mapped."""
    tables = []
    for path in sorted(directory.glob("part-*.arrow")):
        with pa.memory_map(str(path)) as file:
            tables.append(pa.ipc.open_file(file).read_all())
    return pa.concat_tables(tables)


def by_hand(loop: Loop, processes: int, task: Task, table: pa.Table, directory: Path) -> Runner:
    """A loop by hand over a grid that is on disk already, a part for each process."""
    grid = directory / "grid.arrow"
    with pa.OSFile(str(grid), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    cuts = [i * table.num_rows // processes for i in range(processes + 1)]
    parts = [directory / f"part-{i}.arrow" for i in range(processes)]
    work = [(loop, task, grid, *cuts[i : i + 2], parts[i]) for i in range(processes)]

    def run() -> pa.Table:
        if processes == 1:
            write_part(*work[0])
            return read_parts(directory)
        started = [multiprocessing.Process(target=write_part, args=args) for args in work]
        for process in started:
            process.start()
        for process in started:
            process.join()
        return read_parts(directory)

    return run


# The libraries --------------------------------------------------------------------------------


def flowdist_local(task: Task, table: pa.Table, directory: Path) -> Runner:
    """Submit, wait and collect: a detached run, typed results, errors and times recorded."""
    import flowdist
    import flowdist.preflight
    import flowdist.results
    import flowdist.run

    plan = flowdist.local(workers=WORKERS, root=str(directory))

    def run() -> pa.Table:
        flow = flowdist.flow(table).stage("f", task, returns={"value": float}).distribute(plan)
        collected: pa.Table = flow.submit().wait().collect(as_="arrow")
        return collected

    return run


def process_pool(task: Task, table: pa.Table, directory: Path) -> Runner:
    """`concurrent.futures` with the chunk size that its documentation asks the user to choose."""
    from concurrent.futures import ProcessPoolExecutor

    size = max(1, table.num_rows // (WORKERS * PIECES))

    def run() -> list[dict[str, float]]:
        with ProcessPoolExecutor(WORKERS) as pool:
            return list(pool.map(task, *as_lists(table), chunksize=size))

    return run


def joblib_loky(task: Task, table: pa.Table, directory: Path) -> Runner:
    """joblib as its documentation shows it: its own processes, batches sized by itself."""
    from joblib import Parallel, delayed

    def run() -> list[dict[str, float]]:
        calls = (delayed(task)(*arguments) for arguments in zip(*as_lists(table), strict=True))
        results: list[dict[str, float]] = Parallel(n_jobs=WORKERS)(calls)
        return results

    return run


def executorlib_blocks(task: Task, table: pa.Table, directory: Path) -> Runner:
    """executorlib with workers that live on between rows."""
    from executorlib import SingleNodeExecutor

    def run() -> list[dict[str, float]]:
        with SingleNodeExecutor(max_workers=WORKERS, block_allocation=True) as executor:
            rows = zip(*as_lists(table), strict=True)
            futures = [executor.submit(task, *arguments) for arguments in rows]
            return [future.result() for future in futures]

    return run


def submitit_local(task: Task, table: pa.Table, directory: Path) -> Runner:
    """submitit without a cluster: a process for each row, all at once."""
    import submitit

    def run() -> list[dict[str, float]]:
        executor = submitit.LocalExecutor(folder=directory / "log")
        jobs = executor.map_array(task, *as_lists(table))
        return [job.result() for job in jobs]

    return run


CONTENDERS: dict[str, Callable[[Task, pa.Table, Path], Runner]] = {
    "hand": partial(by_hand, by_rows, 1),
    "hand-2": partial(by_hand, by_rows, WORKERS),
    "tuned": partial(by_hand, by_columns, 1),
    "flowdist": flowdist_local,
    "process-pool": process_pool,
    "joblib": joblib_loky,
    "executorlib": executorlib_blocks,
    "submitit": submitit_local,
}


def check(results: Any, table: pa.Table) -> None:
    """Every row has its result; a contender that is wrong is not fast."""
    if isinstance(results, pa.Table):
        values = results[next(n for n in results.column_names if n.endswith("value"))].to_numpy()
    else:
        values = np.array([result["value"] for result in results])
    if not np.array_equal(values, table["y"].to_numpy()):
        raise SystemExit(f"{len(values)} results for {table.num_rows} rows, or wrong ones")


def main(name: str, task: str, rows: str, directory: str) -> None:
    table = grid_table(int(rows))
    run = CONTENDERS[name](TASKS[task], table, Path(directory))
    start = time.perf_counter()
    results = run()
    seconds = time.perf_counter() - start
    check(results, table)
    sys.stdout.write(json.dumps({"seconds": seconds}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
