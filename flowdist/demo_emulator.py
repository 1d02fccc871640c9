"""`flowdist demo --on emulator`: the flights example on Snowflake, which runs on this machine.

The same flow runs here, in workers that claim chunks from a hybrid table, and as a task graph; that
all three give the same tables is checked, and where to look in Snowflake is said.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from flowdist.backends.snowflake.on_emulator import Prepared, emulator_plan, prepare
from flowdist.backends.snowflake.plans import SpcsQueue, spcs_tasks
from flowdist.backends.snowflake.spec import object_name
from flowdist.demo import demo_flow, frame, play, print_carriers, show_flow
from flowdist.emulator.client import Emulator
from flowdist.emulator.place import Place
from flowdist.plan import profile
from flowdist.settings import default_emulator
from flowdist.snowflake.names import literal

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from flowdist.run import Run

__all__ = ["main"]

# Times differ; of a model one coefficient is compared, which is a column of its own.
NOT_COMPARED = ["_seconds", "fit.model"]


def main(console: Console, *, rows: int | None = None, keep: bool = False) -> int:
    """Run it, print what there is to see, and clean up unless `keep`; 0 where the tables are equal,
    else 1.
    """
    flow = demo_flow(console, rows)
    show_flow(console, flow)
    queue = emulator_plan()
    tasks = spcs_tasks(
        compute_pool=queue.compute_pool,
        image=queue.image,
        stage=queue.stage,
        connection=queue.connection,
        workers=queue.workers,
        target_jobs=queue.replicas,
    )
    with _emulator(console, keep=keep) as emulator, contextlib.ExitStack() as last:
        prepared = prepare(emulator, queue)
        last.callback(prepared.client.close)
        if not keep:
            last.callback(prepared.undo)
        runs: list[Run] = []
        for what, plan in (
            ("on this machine", profile("laptop")),
            ("on Snowflake, from a queue", queue),
            ("on Snowflake, as a task graph", tasks),
        ):
            run = play(console, flow.distribute(plan), what, partial(_tidy, last, keep))
            if run is None:
                return 1
            console.print(run.status())
            runs.append(run)
        print_carriers(console, runs[0])
        equal = _compare(console, runs)
        _print_inside(console, prepared, queue, runs)
        _print_next(console, runs[1], keep=keep)
    return 0 if equal else 1


def _tidy(last: contextlib.ExitStack, keep: bool, run: Run) -> None:
    """See to it that a run is gone at the end, also where it was interrupted; not that of here."""
    last.callback(run.backend.close)
    if not keep and run.manifest["plan"]["kind"] != "local":
        last.callback(lambda: run.cancel().delete())


@contextlib.contextmanager
def _emulator(console: Console, *, keep: bool) -> Iterator[Emulator]:
    """The emulator that runs, or one that is started for the demo."""
    place = Place(default_emulator())
    ran, was_there = place.running, place.exists
    emulator = (
        Emulator.attach(place.directory) if ran else Emulator(place.directory).start(detached=True)
    )
    console.print(
        f"\nThe emulator of Snowflake {'runs already' if ran else 'has been started'}. Its page, "
        "for a browser, shows nodes, containers, tasks and queries as they come and go:\n"
        f"  [bold]{emulator.page}[/bold]",
        highlight=False,
        soft_wrap=True,
    )
    try:
        yield emulator
    finally:
        if not ran and not keep:
            emulator.stop()
            if not was_there:
                shutil.rmtree(place.directory)


def _compare(console: Console, runs: list[Run]) -> bool:
    """Say whether all runs have given the same tables."""
    first, *others = map(_tables, runs)
    equal = all(
        here.equals(there) for other in others for here, there in zip(first, other, strict=True)
    )
    rows, carriers = map(len, first)
    said = (
        f"[green]All three gave the same tables[/green]: {rows:,} aircraft, {carriers} carriers"
        if equal
        else "[red]The tables differ[/red], which they should not"
    )
    console.print(f"\n{said}.", highlight=False)
    return equal


def _tables(run: Run) -> list[pd.DataFrame]:
    return [run.collect(errors="keep").drop(columns=NOT_COMPARED), run.table("carriers")]


def _print_inside(console: Console, prepared: Prepared, queue: SpcsQueue, runs: list[Run]) -> None:
    """What SQL says of the two runs on Snowflake."""
    import pandas as pd

    table = prepared.setup.in_schema(queue.queue, "queue").sql
    claims = (
        "SELECT status, COUNT(*) AS tickets, SUM(chunks) AS chunks, "
        f"COUNT(DISTINCT worker_id) AS workers FROM {table} "
        f"WHERE STARTSWITH(job_id, {literal(runs[1].id)}) GROUP BY status"
    )
    history = (
        "SELECT name, state, DATEDIFF(MILLISECOND, query_start_time, completed_time) / 1000::FLOAT "
        "AS seconds FROM TABLE(INFORMATION_SCHEMA.TASK_HISTORY()) "
        f"WHERE STARTSWITH(name, {literal(object_name(runs[2].id, 1))}) ORDER BY query_start_time"
    )
    for title, sql in (("The queue, as SQL shows it", claims), ("The tasks", history)):
        console.print(f"\n[bold]{title}[/bold]\n  [dim]{sql}[/dim]\n", highlight=False)
        console.print(frame(pd.DataFrame(prepared.client.rows(sql))))


def _print_next(console: Console, run: Run, *, keep: bool) -> None:
    if not keep:
        console.print(
            "\nWhat the demo made on the emulator is removed now; flowdist demo --on emulator "
            "--keep leaves it there.",
            highlight=False,
            soft_wrap=True,
        )
        return
    console.print("\nLook at it:\n")
    for command, meaning in (
        (f"explain {run.id}", "how it went"),
        (f"logs {run.id}", "what its containers have printed"),
        ("run examples/flights.py --on emulator", "again"),
        ("emulator stop", "end the emulator; its state stays"),
    ):
        console.print(
            f"  flowdist {command:<44} [dim]{meaning}[/dim]", highlight=False, soft_wrap=True
        )
