"""A sweep with a reduce: which degree and ridge penalty predict best, over ten splits of the data?

flowdist run examples/sweep.py --on laptop
"""

import numpy as np
import pandas as pd

from flowdist import flow, param_grid, retry


def data() -> tuple[np.ndarray, np.ndarray]:
    """Ninety noisy points of a sine."""
    random = np.random.default_rng(1)
    x = np.sort(random.uniform(-1, 1, 90))
    return x, np.sin(3 * x) + random.normal(0, 0.2, len(x))


def evaluate(degree: int, penalty: float, split: int) -> dict[str, float]:
    """Fit on nine tenths, and give the root mean squared error on the tenth."""
    x, y = data()
    test = np.random.default_rng(split).permutation(len(x)) % 10 == 0
    basis = np.vander(x, degree + 1)
    left = basis[~test].T @ basis[~test] + penalty * np.eye(degree + 1)
    weights = np.linalg.solve(left, basis[~test].T @ y[~test])
    return {"rmse": float(np.sqrt(np.mean((basis[test] @ weights - y[test]) ** 2)))}


def over_splits(evaluate: pd.DataFrame) -> dict[str, float]:
    """Mean and standard error over the splits of one setting."""
    rmse = evaluate["rmse"]
    return {"rmse": float(rmse.mean()), "standard_error": float(rmse.sem())}


sweep = (
    flow(
        param_grid(degree=range(1, 11), penalty=[0.0, 1e-3, 1e-1], split=range(10)),
        retry=retry(1, on="crash"),
        name="sweep",
    )
    .stage("evaluate", evaluate)
    .reduce("setting", over_splits, by=["degree", "penalty"])
)
