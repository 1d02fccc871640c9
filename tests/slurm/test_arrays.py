"""The arrays of a launch: which tasks, and what waits for what."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowdist import Plan, slurm, slurm_allocation
from flowdist.backends.slurm.arrays import Array, plan_arrays

PLAIN = slurm()


def manifest(
    *phases: dict[str, Any], dispatch: str = "static", plan: Plan = PLAIN
) -> dict[str, Any]:
    described = [{"plan": plan.to_json(), **phase} for phase in phases]
    return {"plan": {"dispatch": dispatch}, "phases": described}


def rows(first_job: int, jobs: int, table: str = "rows") -> dict[str, Any]:
    return {"table": table, "first_job": first_job, "jobs": jobs}


def reduce(name: str, job: int, *reads: str) -> dict[str, Any]:
    return {"table": name, "first_job": job, "jobs": 1, "by": [], "reads": list(reads)}


def shape(arrays: list[Array]) -> list[tuple[int, tuple[int, ...]]]:
    return [(array.base, array.tasks) for array in arrays]


def test_a_phase_is_cut_into_arrays_of_the_size_that_the_cluster_takes() -> None:
    arrays = plan_arrays(manifest(rows(0, 25)), range(25), 11)

    assert [(a.base, len(a.tasks), a.tasks[-1]) for a in arrays] == [
        (0, 11, 10), (11, 11, 10), (22, 3, 2)
    ]  # fmt: skip


def test_a_resumed_launch_has_the_tasks_that_are_needed() -> None:
    assert shape(plan_arrays(manifest(rows(0, 25)), [3, 12, 24], 11)) == [
        (0, (3,)), (11, (1,)), (22, (2,))
    ]  # fmt: skip


@given(jobs=st.sets(st.integers(0, 60), min_size=1), size=st.integers(1, 70))
def test_every_job_is_one_task_with_an_index_below_the_size(jobs: set[int], size: int) -> None:
    arrays = plan_arrays(manifest(rows(0, 61)), sorted(jobs), size)

    assert sorted(a.base + task for a in arrays for task in a.tasks) == sorted(jobs)
    assert all(0 <= task < size for a in arrays for task in a.tasks)


def test_a_later_phase_follows_task_by_task() -> None:
    described = manifest(rows(0, 3, "rows.1"), rows(3, 3, "rows.2"))

    arrays = plan_arrays(described, [0, 2, 3, 5], 2)

    assert shape(arrays) == [(0, (0,)), (2, (0,)), (3, (0,)), (5, (0,))]
    assert [a.after for a in arrays] == [
        (), (), (("aftercorr", (0,)),), (("aftercorr", (1,)),)
    ]  # fmt: skip


def test_in_a_queue_a_later_phase_follows_all_of_the_one_before() -> None:
    described = manifest(rows(0, 2, "rows.1"), rows(2, 2, "rows.2"), dispatch="queue")

    last = plan_arrays(described, range(4), 1)[-1]

    assert last.after == (("afterany", (0, 1)),)


def test_a_reduce_follows_the_rows_and_the_reduces_that_it_reads() -> None:
    described = manifest(rows(0, 2), reduce("a", 2), reduce("b", 3, "a"))

    of_rows, first, second = plan_arrays(described, range(4), 10)

    assert of_rows.after == ()
    assert first.after == (("afterany", (0,)),)
    assert second.after == (("afterany", (0, 1)),)


@pytest.mark.parametrize(
    ("at_once", "limits", "waits"),
    [
        (20, [None, None, None], [(), (), ()]),  # more than there are
        (6, [2, 2, 2], [(), (), ()]),
        (4, [2, 1, 1], [(), (), ()]),
        (2, [1, 1, 1], [(), (), (0,)]),
        (1, [1, 1, 1], [(), (0,), (1,)]),
    ],
)
def test_all_arrays_together_keep_to_what_may_run_at_once(
    at_once: int, limits: list[int | None], waits: list[tuple[int, ...]]
) -> None:
    described = manifest(rows(0, 12), plan=slurm(jobs_at_once=at_once))

    arrays = plan_arrays(described, range(12), 4)

    assert [a.limit for a in arrays] == limits
    assert [a.after for a in arrays] == [(("afterany", w),) if w else () for w in waits]


def test_an_allocation_runs_as_many_jobs_as_it_has_nodes() -> None:
    plan = slurm_allocation(nodes=4, cores_per_node=4, oversubscribe=2)

    (array,) = plan_arrays(manifest(rows(0, 8), plan=plan), range(8), 100)

    assert array.limit == 4
