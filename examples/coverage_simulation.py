"""A simulation with seeds: how often does a 95 % confidence interval hold the true mean?

Every row simulates one cell of a design; its seed depends on the flow's seed, the stage and the row
alone, so the table is the same on a laptop and on a cluster.

    flowdist run examples/coverage_simulation.py --on laptop
"""

import numpy as np

from flowdist import flow, param_grid

REPLICATIONS = 2_000


def simulate(distribution: str, n: int, seed: int) -> dict[str, float]:
    """The share of intervals that hold the mean, and their mean width."""
    random = np.random.default_rng(seed)
    size = (REPLICATIONS, n)
    if distribution == "normal":
        samples, mean = random.normal(size=size), 0.0
    elif distribution == "exponential":
        samples, mean = random.exponential(size=size), 1.0
    else:
        samples, mean = random.lognormal(size=size), float(np.exp(0.5))
    half = 1.96 * samples.std(axis=1, ddof=1) / np.sqrt(n)
    held = np.abs(samples.mean(axis=1) - mean) <= half
    return {"coverage": float(held.mean()), "width": float(2 * half.mean())}


simulation = flow(
    param_grid(
        distribution=["normal", "exponential", "lognormal"],
        n=[5, 10, 20, 50, 100],
        repeat=range(4),
    ),
    seed=2013,
    name="coverage",
).stage("simulate", simulate, returns={"coverage": float, "width": float})
