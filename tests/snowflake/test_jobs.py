"""`spcs_jobs` from submit to delete."""

from __future__ import annotations

from pathlib import Path

import pytest
from cloud import Cloud

from flowdist import flow, param_grid


@pytest.mark.parametrize("kind", ["spcs-jobs"])
def test_a_flow_with_a_reduce_runs_and_leaves_nothing(
    cloud: Cloud, tmp_path: Path, kind: str
) -> None:
    run = (
        flow(param_grid(x=range(12)))
        .stage("sq", lambda x: {"y": x * x})
        .reduce("total", lambda sq: int(sq["y"].sum()))
        .distribute(cloud.plan(kind, tmp_path))
        .submit()
        .wait(60)
    )

    assert run.status().state == "done"
    assert run.collect()["sq.y"].tolist() == [x * x for x in range(12)]
    assert run.table("total")["value"].tolist() == [506]
    run.delete()
    client = cloud.client()
    assert client.rows("LIST @flowdist.public.runs") == []
    assert client.rows("SHOW SERVICES IN ACCOUNT") == []
