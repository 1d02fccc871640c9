"""Screen, then refine, with workers on Snowflake and a time budget."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
from cloud import Cloud

from flowdist import flow, param_grid, refine


def test_workers_take_the_worst_first_until_the_time_is_up(cloud: Cloud, tmp_path: Path) -> None:
    def fine(unit: int) -> float:
        time.sleep(0.4)
        return unit / 2

    screen = pd.DataFrame({"unit": range(60), "loss": range(60)})
    second = flow(param_grid(unit=[0])).stage("fine", fine)
    plan = cloud.plan("spcs-queue", tmp_path, replicas=1)

    refined = refine(screen, second, by="loss", worst=60, plan=plan, time_budget=8)

    assert refined.run is not None
    status = refined.run.status()
    sources = refined.table["_source"].tolist()
    reached = sources.count("refined")
    assert 0 < reached < 60
    assert sources == ["not reached"] * (60 - reached) + ["refined"] * reached
    assert refined.table["fine.value"].dropna().tolist() == [u / 2 for u in range(60 - reached, 60)]
    assert status.state == "stopped"
    assert "8 s" in status.reason
    refined.run.delete()
