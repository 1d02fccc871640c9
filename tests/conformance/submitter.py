"""A flow of many rows; as a program, ``submitter.py KIND ROOT PLAN``, a process that submits it and
waits: what tests kill.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from kinds import KINDS, Kind

from flowdist import Flow, flow, param_grid, retry

ROWS = 2000


def slow_square(x: int, seed: int, pause: float) -> dict[str, int]:
    time.sleep(pause)
    return {"square": x * x, "seed": seed}


def make_flow(kind: Kind, root: Path, **plan: object) -> Flow:
    return (
        flow(
            param_grid(x=range(ROWS)),
            seed=7,
            const={"pause": kind.pause},
            retry=retry(20, on="crash"),
        )
        .stage("work", slow_square)
        .distribute(kind.plan(root=root, **plan))
    )


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1] / "snowflake"))  # cloud.py
    kind = next(k for k in KINDS if k.name == sys.argv[1])
    run = make_flow(kind, Path(sys.argv[2]), **eval(sys.argv[3])).submit()
    sys.stdout.write(f"{run.id}\n")
    sys.stdout.flush()
    run.wait()
