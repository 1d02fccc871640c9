"""Screen, then refine: a plain model for every aircraft, and a contest of models for the worst.

The first pass is the flow of `flights.py`: one least-squares fit for each of 4,037 aircraft, on its
own flights, in a few milliseconds. The aircraft that are predicted worst then go through a second
flow, which takes some tenths of a second for each: models of all flights of the carrier, with a
level for each destination, over the whole year or the last months. That which predicts the
aircraft's flights of October and November best is taken. Workers take the worst aircraft first,
from a queue, and begin none when the time is up.

    python examples/refine_flights.py --worst 100 --time-budget 1min
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from flights import HELD_OUT_MONTH, KEPT, design, load_flights, make_flow

from flowdist import Flow, flow, refine

FEWEST_HELD_OUT = 10
CHOSEN_FROM = 10
"""The months from this one to the held-out one decide which model is taken."""
RECENT = 3
RIDGE = 1e-3


def load_fleet() -> pa.Table:
    """All flights with their aircraft, carrier, month and destination, as small as it goes."""
    flights = load_flights("dest")
    flights["dest"] = pd.factorize(flights["dest"], sort=True)[0]
    kinds = {**KEPT, "tailnum": "category", "carrier": "category", "month": "int8", "dest": "int16"}
    return pa.Table.from_pandas(flights[list(kinds)].astype(kinds), preserve_index=False)


def with_destinations(flights: pd.DataFrame, known: np.ndarray) -> np.ndarray:
    """The plain design, a bend at an hour's delay and at noon, and a level for each destination."""
    late, hour = flights["dep_delay"], flights["hour"]
    bends = [np.maximum(late - 60, 0), np.maximum(hour - 12, 0)]
    levels = flights["dest"].to_numpy()[:, None] == known
    return np.column_stack([design(flights), *bends, levels])


def error(known: pd.DataFrame, wanted: pd.DataFrame, *, destinations: bool) -> float:
    """The mean absolute error in minutes on the flights `wanted` of a model of those `known`."""
    places = np.unique(known["dest"])

    def made(flights: pd.DataFrame) -> np.ndarray:
        return with_destinations(flights, places) if destinations else design(flights)

    x, y = made(known), known["arr_delay"].to_numpy(float)
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
    return float(np.abs(made(wanted) @ weights - wanted["arr_delay"]).mean())


def tried(ours: pd.DataFrame, own: pd.DataFrame, first: int, stop: int) -> dict[str, float]:
    """The error of each model on the aircraft's flights from month `first` to before `stop`, made
    of what was known before.
    """
    wanted = own[own["month"].between(first, stop - 1)]
    before, own_before = ours[ours["month"] < first], own[own["month"] < first]
    recent = before[before["month"] >= first - RECENT]
    return {
        "own": error(own_before, wanted, destinations=False),
        "carrier": error(before, wanted, destinations=True),
        "carrier, recent": error(recent, wanted, destinations=True),
    }


def contest(fleet: pa.Table, tailnum: str, carrier: str) -> dict[str, object]:
    """The model that did best in autumn, and its error in the held-out month."""
    by_carrier, by_aircraft = pc.field("carrier") == carrier, pc.field("tailnum") == tailnum
    ours = fleet.filter(by_carrier).to_pandas()
    own = fleet.filter(by_aircraft).to_pandas()
    before = tried(ours, own, CHOSEN_FROM, HELD_OUT_MONTH)
    best = min(before, key=before.__getitem__)
    held_out = tried(ours, own, HELD_OUT_MONTH, HELD_OUT_MONTH + 1)
    return {"model": best, "minutes_off": held_out[best]}


def screen(work: Flow, on: str) -> pd.DataFrame:
    """The first pass: every aircraft, with the error of its plain model where that says much."""
    table = work.distribute(on).collect()
    return table.assign(screened=table["score.value"].mask(table["test"] < FEWEST_HELD_OUT))


def main() -> None:
    """Both passes, and what the second was good for."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--aircraft", type=int, help="only so many, to try it")
    options.add_argument("--worst", type=int, default=100)
    options.add_argument("--time-budget", default="1min")
    options.add_argument("--screen-on", default="laptop", help="a profile")
    options.add_argument("--refine-on", help="a profile whose workers take rows from a queue")
    given = options.parse_args()

    first = make_flow()
    if given.aircraft is not None:
        first = replace(first, grid=first.grid.head(given.aircraft))
    second = flow(first.grid, const={"fleet": load_fleet()}, name="contest")
    refined = refine(
        screen(first, given.screen_on),
        second.stage("best", contest),
        by="screened",
        worst=given.worst,
        plan=given.refine_on,
        time_budget=given.time_budget,
    )
    table = refined.table[refined.table["_source"] == "refined"]
    before, after = table["score.value"].mean(), table["best.minutes_off"].mean()
    print(refined)
    print(f"minutes off, in the mean of those refined: {before:.1f} before, {after:.1f} after")
    print(table["best.model"].value_counts().to_string())
    columns = ["tailnum", "carrier", "train", "score.value", "best.minutes_off", "best.model"]
    print(table.nlargest(10, "score.value")[columns].to_string(index=False))


if __name__ == "__main__":
    main()
