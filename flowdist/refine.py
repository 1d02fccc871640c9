"""Screen, then refine: a quick pass over all rows, and a thorough one over those it served worst.

The first pass is any run, or its table. Its rows are ranked by a column; the worst go through a
second flow, the worst of them first, on a plan whose workers take rows from a queue. Where time
runs out, the rows left without a second result are those that need one least.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from flowdist.errors import PlanError, UsageError, nearest
from flowdist.grid import Grid
from flowdist.plan import Plan, local, plan_of
from flowdist.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from flowdist.flow import Flow

__all__ = ["Refined", "refine", "worst_rows"]

SOURCE = "_source"
SCREEN, REFINED, NOT_REACHED = "screen", "refined", "not reached"
# How rows of the second pass have ended, in the words of the merged table.
_ENDED = {"ok": REFINED, "missing": NOT_REACHED}
# What `Run.collect(errors="keep")` says of a row besides its results.
_RECORD = ("_status", "_error", "_attempts", "_seconds")


@dataclass(frozen=True)
class Refined:
    """What became of a refinement.

    Attributes:
        table: every row of the first pass once, in its order, with the columns of the second beside
            those of the first. A column that both have is the second's where a row was refined.
            ``_source`` says how a row came about: "screen" (it was not among the worst), "refined",
            "failed" (the second pass failed; ``run.errors()`` says why), "skipped" (a stage of the
            second pass left it out) or "not reached" (time was up).
        run: the second pass; None where no row was bad enough.
    """

    table: pd.DataFrame
    run: Run | None

    @property
    def counts(self) -> dict[str, int]:
        """How many rows came about in which way."""
        return {str(k): int(n) for k, n in self.table[SOURCE].value_counts().items()}

    def __repr__(self) -> str:
        said = ", ".join(f"{n:,} {source}" for source, n in self.counts.items())
        return f"Refined({said})"


def refine(
    screen: Run | Any,
    flow: Flow | Callable[[pd.DataFrame], Flow],
    *,
    by: str,
    worst: int | None = None,
    above: float | None = None,
    below: float | None = None,
    ascending: bool = False,
    plan: Plan | str | None = None,
    time_budget: str | int | timedelta | None = None,
) -> Refined:
    """Run a second flow on the worst rows of a first pass, the worst first, and merge the results.

    Waits for the end, with a progress bar; Ctrl-C ends the second pass, whose run can be resumed.

    Args:
        screen: a run, whose end is waited for, or a table: a DataFrame or an Arrow table.
        flow: the second flow. Its grid is replaced: by the same columns of the worst rows. Or a
            function that makes a flow of the table of the worst rows, for stages that need results
            of the first pass.
        by: the column that rows are ranked by, as in "score.value". A row without a value there is
            left alone.
        worst: at most so many rows.
        above, below: rows whose value is above, or below, this.
        ascending: the smallest values are the worst; by default the largest, or with `below` the
            smallest.
        plan: where and how: a plan with ``dispatch="queue"`` or the name of a profile of one, else
            the second flow's own, else ``local(dispatch="queue")``.
        time_budget: after so long no further row is begun, as in "30min"; by default the plan's.

    Raises:
        UsageError: no such column, or nothing says which rows are the worst.
        PlanError: the plan does not let workers take rows in order, from a queue.

    >>> from flowdist import flow, param_grid
    >>> grid = param_grid(x=[1, 2, 3, 4])
    >>> first = flow(grid).stage("rough", lambda x: {"error": x % 3}).submit()
    >>> second = flow(grid).stage("fine", lambda x: {"error": 0.5}, returns={"error": float})
    >>> refined = refine(first, second, by="rough.error", above=1)
    >>> refined.table[["x", "rough.error", "fine.error", "_source"]]
       x  rough.error  fine.error  _source
    0  1            1         NaN   screen
    1  2            2         0.5  refined
    2  3            0         NaN   screen
    3  4            1         NaN   screen
    """
    table = _screened(screen)
    chosen = worst_rows(table, by, worst=worst, above=above, below=below, ascending=ascending)
    if not len(chosen):
        return Refined(table.assign(**{SOURCE: SCREEN}), None)
    second = _planned(_second(flow, table.iloc[chosen].reset_index(drop=True)), plan, time_budget)
    run = second.submit(second.name if second.name != "flow" else "refine")
    run.watch(cancel_on_interrupt=True)
    return Refined(_merged(table, chosen, run), run)


def worst_rows(
    table: pd.DataFrame,
    by: str,
    *,
    worst: int | None = None,
    above: float | None = None,
    below: float | None = None,
    ascending: bool = False,
) -> NDArray[np.int64]:
    """The positions of the worst rows, the worst first; `refine` says what the arguments mean.

    >>> import pandas as pd
    >>> worst_rows(pd.DataFrame({"off": [3.0, None, 9.0, 5.0]}), "off", worst=2).tolist()
    [2, 3]
    """
    if by not in table.columns:
        raise UsageError(
            f"by={by!r}: the first pass has no such column{nearest(by, table.columns)} "
            f"(there are: {', '.join(map(str, table.columns))})"
        )
    if worst is None and above is None and below is None:
        raise UsageError("say which rows are the worst: worst=100, above=15.0 or below=0.5")
    if worst is not None and (isinstance(worst, bool) or not isinstance(worst, int) or worst < 0):
        raise UsageError(f"worst={worst!r}; expected how many rows, 0 or more")
    if above is not None and (below is not None or ascending):
        raise UsageError(
            "with above the largest values are the worst, with below or ascending=True the "
            "smallest; say one of the two"
        )
    try:
        values = table[by].to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise UsageError(
            f"by={by!r}: rows are ranked by a number, and this column is {table[by].dtype}"
        ) from None
    smallest = ascending or below is not None
    badness = -values if smallest else values
    known = np.flatnonzero(~np.isnan(badness))
    # Rows that are as bad as one another stay in their order.
    order = known[np.argsort(-badness[known], kind="stable")]
    limit = above if above is not None else None if below is None else -below
    if limit is not None:
        order = order[badness[order] > limit]
    return order if worst is None else order[:worst]


def _screened(screen: Run | Any) -> pd.DataFrame:
    """The table of the first pass, every row once: of a run also those that failed."""
    import pandas as pd

    if isinstance(screen, Run):
        table: pd.DataFrame = screen.collect(errors="keep").drop(columns=list(_RECORD))
    elif isinstance(screen, pd.DataFrame):
        table = screen.reset_index(drop=True)
    elif hasattr(screen, "to_pandas"):  # Arrow's and polars' tables
        table = screen.to_pandas()
    else:
        raise UsageError(f"the first pass is a run or a table, not {type(screen).__name__}")
    if SOURCE in table.columns:
        raise UsageError(f"the first pass has a column '{SOURCE}' already; drop or rename it")
    return table


def _second(flow: Flow | Callable[[pd.DataFrame], Flow], rows: pd.DataFrame) -> Flow:
    """The second flow, over the worst rows."""
    from flowdist.flow import Flow

    if not isinstance(flow, Flow):
        made = flow(rows)
        if not isinstance(made, Flow) or len(made.grid) != len(rows):
            raise UsageError(
                "the function that makes the second flow has to return a flow over the "
                f"{len(rows):,} rows that it is given, in their order"
            )
        return made
    for name in flow.grid.names:
        if name not in rows.columns:
            raise UsageError(
                f"the second flow's grid has the column '{name}', and the first pass has not"
                f"{nearest(name, rows.columns)}; give a function that makes the flow of the table "
                "of the worst rows"
            )
    return replace(flow, grid=Grid.of(rows[list(flow.grid.names)]))


def _planned(
    flow: Flow, plan: Plan | str | None, time_budget: str | int | timedelta | None
) -> Flow:
    """The flow on its plan."""
    given = plan if plan is not None else flow.distribution
    chosen = local(dispatch="queue") if given is None else plan_of(given)
    if chosen.dispatch != "queue":
        raise PlanError(
            f"{chosen.kind}: workers have to take the worst rows first, from a queue; use "
            "local(dispatch='queue'), slurm_queue(...) or spcs_queue(...)"
        )
    if time_budget is not None:
        chosen = plan_of(chosen, time_budget=time_budget)
    return flow.distribute(chosen)


def _merged(table: pd.DataFrame, chosen: NDArray[np.int64], run: Run) -> pd.DataFrame:
    """The first pass, with what the second has of its rows `chosen`."""
    import pandas as pd

    second = run.collect(errors="keep", partial=True)
    ended = second["_status"].map(lambda status: _ENDED.get(status, status)).to_numpy()
    refined = ended == REFINED
    # Aligned by the rows' positions in the first pass; what was not refined has no value.
    second = _nullable(second).set_axis(chosen)[refined].reindex(table.index)
    is_refined = pd.Series(False, table.index)
    is_refined.iloc[chosen] = refined
    for name in second.columns:
        if name in run.manifest["columns"] or name in _RECORD:
            continue
        if name in table.columns:
            table = table.assign(**{name: table[name].mask(is_refined, second[name])})
        else:
            table = table.assign(**{name: second[name]})
    source = np.full(len(table), SCREEN, dtype=object)
    source[chosen] = ended
    return table.assign(**{SOURCE: source})


def _nullable(table: pd.DataFrame) -> pd.DataFrame:
    """The table, whose integers and booleans stay what they are beside values that are missing."""
    kinds = {"b": "boolean"}
    kinds |= {f"i{size}": f"Int{size * 8}" for size in (1, 2, 4, 8)}
    kinds |= {f"u{size}": f"UInt{size * 8}" for size in (1, 2, 4, 8)}
    wanted = {}
    for name, dtype in table.dtypes.items():
        if isinstance(dtype, np.dtype):
            key = "b" if dtype.kind == "b" else f"{dtype.kind}{dtype.itemsize}"
            if key in kinds:
                wanted[name] = kinds[key]
    return table.astype(wanted)
