"""What a plan on Snowflake is likely to take, and what it warns of, without an account."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowdist import Plan, flow, param_grid
from flowdist.backends.snowflake.capacity import lacking, per_node
from flowdist.backends.snowflake.estimates import estimate
from flowdist.backends.snowflake.plans import Spcs, spcs_jobs, spcs_queue, spcs_tasks
from flowdist.backends.snowflake.spec import MIB, specification
from flowdist.plan import PlanSummary
from flowdist.run import plan_flow
from flowdist.snowflake.families import Family, family_named
from flowdist.snowflake.names import Place

PLACE = Place.parse("d.s.runs")


def plan(make: Callable[..., Spcs] = spcs_jobs, **options: Any) -> Spcs:
    return make(compute_pool="fits", image="/d/s/r/fit:1", stage="d.s.runs", **options)


def over(a_plan: Plan, rows: int = 12) -> PlanSummary:
    stages = flow(param_grid(x=range(rows))).stage("fit", lambda x: x)
    return plan_flow(stages.distribute(a_plan))


def family(name: str) -> Family:
    found = family_named(name)
    assert found is not None
    return found


def warned(a_plan: Plan, rows: int = 12) -> str:
    return " ".join(over(a_plan, rows).warnings)


# -- how much of a node


@pytest.mark.parametrize("share", range(1, 9))
@pytest.mark.parametrize("name", ["CPU_X64_S", "CPU_X64_SL", "CPU_X64_L"])
def test_as_many_containers_fit_on_a_node_as_the_plan_shares_it_out_to(
    name: str, share: int
) -> None:
    shared = plan(instance_family=name, containers_per_node=share)

    assert per_node(shared, family(name)) == share


def test_what_a_container_asks_for_is_no_more_than_its_share() -> None:
    shared = plan(instance_family="CPU_X64_S", containers_per_node=2)
    container = specification(shared, [], runs=PLACE)["spec"]["containers"][0]
    asked, most = container["resources"]["requests"], container["resources"]["limits"]

    assert asked == most
    assert float(most["cpu"]) * 2 <= 3
    # Beside each container runs what mounts its stage.
    assert (int(most["memory"].removesuffix("Mi")) + 512) * MIB * 2 <= family("CPU_X64_S").memory


def test_a_secret_without_a_schema_is_beside_the_stage() -> None:
    spec = specification(plan(secrets={"KEY": "word", "PW": "a.b.pair:password"}), [], runs=PLACE)

    found = spec["spec"]["containers"][0]["secrets"]

    assert [one["snowflakeSecret"]["objectName"] for one in found] == ["D.S.WORD", "A.B.PAIR"]
    assert [one["secretKeyRef"] for one in found] == ["secret_string", "password"]


def test_containers_that_ask_for_little_share_a_node_up_to_its_stage_mounts() -> None:
    assert per_node(plan(workers=2), family("CPU_X64_M")) == 3
    assert per_node(plan(workers=1), family("CPU_X64_L")) == 8
    assert per_node(plan(workers=1, memory="9GiB"), family("CPU_X64_M")) == 2
    assert per_node(plan(workers=1, gpus=1), family("GPU_NV_M")) == 4
    assert per_node(plan(workers=1), None) is None


def test_what_mounts_the_stage_counts_where_a_node_is_asked_for_whole() -> None:
    whole = plan(workers=1, memory="28GiB", instance_family="CPU_X64_M")

    assert "512 MiB for what mounts the stage" in lacking(whole, family("CPU_X64_M"))
    assert "No container can ever start: 28 GiB of memory" in warned(whole)
    assert lacking(plan(workers=1, memory="27GiB"), family("CPU_X64_M")) == ""
    assert "8 cores are more than the 6" in lacking(plan(workers=8), family("CPU_X64_M"))
    assert "has none" in lacking(plan(workers=1, gpus=1), family("CPU_X64_M"))


# -- nodes, hours, credits


def test_nodes_hours_and_credits_follow_from_the_jobs() -> None:
    shared = plan(
        instance_family="CPU_X64_M", containers_per_node=2, target_jobs=10, time="2h", price=0.5
    )

    found = estimate(shared, over(shared))

    assert found is not None
    assert (found.containers, found.per_node, found.nodes, found.waves) == (10, 2, 5, 1)
    assert (found.node_hours, found.credits) == (10.0, 5.0)


def test_a_pool_with_fewer_nodes_runs_them_in_waves() -> None:
    shared = plan(instance_family="CPU_X64_M", containers_per_node=2, target_jobs=10, time="2h")

    found = estimate(shared, over(shared), most_nodes=2)

    assert found is not None
    assert (found.nodes, found.waves, found.node_hours) == (2, 3, 10.0)
    assert "3 waves, one after another" in found.text


def test_without_a_time_there_are_no_hours() -> None:
    found = estimate(plan(target_jobs=3), over(plan(target_jobs=3)))

    assert found is not None
    assert (found.nodes, found.node_hours, found.credits) == (3, None, None)


def test_a_budget_of_time_bounds_the_hours_of_a_queue() -> None:
    queue = plan(spcs_queue, replicas=4, time_budget="30min", price=2.0)

    found = estimate(queue, over(queue))

    assert found is not None
    assert (found.containers, found.node_hours, found.credits) == (4, 2.0, 4.0)


def test_workers_that_run_anyway_take_nothing_more() -> None:
    pooled = plan(spcs_queue, pool="warm")

    assert estimate(pooled, over(pooled)) is None


def test_the_table_of_the_plan_shows_the_estimate() -> None:
    summary = over(plan(instance_family="CPU_X64_M", target_jobs=4, time="1h", price=2.0))

    assert "nodes" in str(summary)
    assert "4 containers; at most 4 node-hours, 8 credits" in str(summary)
    assert summary.to_dict()["estimate"]["credits"] == 8.0
    assert over(Plan.from_json({"kind": "local"})).to_dict()["estimate"] is None


def test_cost_counts_nodes_not_containers() -> None:
    shared = plan(instance_family="CPU_X64_M", containers_per_node=2, price=1.5)
    alone = plan()

    # Two on one node for an hour, then one of them for another.
    lives = [(0.0, 3600.0), (0.0, 7200.0)]

    assert shared.cost(lives).to_dict() == {"node_seconds": 7200.0, "credits": 3.0}  # type: ignore[union-attr]
    assert alone.cost(lives).to_dict() == {"node_seconds": 10800.0, "credits": None}  # type: ignore[union-attr]


# -- warnings


@pytest.mark.parametrize(
    ("options", "rows", "said"),
    [
        ({"make": spcs_tasks, "chunks_per_job": 1}, 950, "950 jobs make 2 task graphs"),
        ({"make": spcs_tasks, "chunks_per_job": 1}, 5001, "at most 5,000 services"),
        ({"make": spcs_tasks, "time": "8d"}, 12, "a task ends after 7 d"),
        (
            {"make": spcs_tasks, "schedule": "60 MINUTES", "target_jobs": 12},
            12,
            "leaves 12 job services at each firing, about 8,640 in 30 days",
        ),
        ({"time": "8d"}, 12, "weekly window for maintenance"),
        ({"make": spcs_queue, "replicas": 20}, 12, "8 of them have nothing to do"),
        ({"instance_family": "CPU_X64_L", "containers_per_node": 9}, 12, "at most 8 stages"),
        (
            {"instance_family": "CPU_X64_M", "containers_per_node": 4, "workers": 3},
            12,
            "has room for 2",
        ),
        ({"instance_family": "GPU_NV_L"}, 12, "a container sees none that it does not ask for"),
        ({"instance_family": "GEN_ARM_G1_8"}, 12, "linux/arm64"),
        ({"instance_family": "CPU_X64_XXL"}, 12, "none that flowdist knows"),
        ({"price": 1.0}, 12, "with time= there is an estimate"),
        ({"environment": {"API_TOKEN": "abc"}}, 12, "API_TOKEN looks like a secret"),
        (
            {"instance_family": "GPU_NV_M", "gpus": 4, "chunks_per_job": 1},
            12,
            "want 12 nodes of GPU_NV_M, and an account may have 10: they run in 2 waves",
        ),
    ],
)
def test_it_warns_of(options: dict[str, Any], rows: int, said: str) -> None:
    make = options.pop("make", spcs_jobs)

    assert said in warned(plan(make, **options), rows)


@pytest.mark.parametrize("schedule", ["USING CRON 0 3 * * * UTC", "now and then"])
def test_a_schedule_that_fires_seldom_is_not_warned_of(schedule: str) -> None:
    assert "schedule" not in warned(plan(spcs_tasks, schedule=schedule, target_jobs=12))


def test_a_plan_without_flaws_has_no_warnings() -> None:
    for make in (spcs_jobs, spcs_tasks, spcs_queue):
        assert over(plan(make, instance_family="CPU_X64_M", workers=3, time="1h")).warnings == []
