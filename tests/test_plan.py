"""Plans: what they accept, what they refuse and in which words, and what they print over a grid."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flowdist import flow
from flowdist.errors import PlanError, ResourceError
from flowdist.layout import make_layout
from flowdist.plan import PLANS, Local, Plan, PlanSummary, local, plan_of, profile, summarize
from flowdist.resources import Resources

GIB = 1024**3


# What a plan accepts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "held"),
    [(None, ()), ("subject", ("subject",)), (["a", "b"], ("a", "b")), (("a",), ("a",))],
)
def test_by_is_a_name_a_list_or_nothing(given_: Any, held: tuple[str, ...]) -> None:
    assert local(by=given_).by == held


def test_resources_are_given_whole_or_by_name() -> None:
    whole = local(resources=Resources(cpus=4, memory="8GB"))
    assert local(cpus=4, memory="8GB") == whole
    nested: dict[str, Any] = {"resources": {"cpus": 4, "memory": "8GB"}}
    assert local(**nested) == whole


def test_a_resource_by_name_wins_over_the_whole() -> None:
    plan = local(resources=Resources(cpus=4, time="1h"), time="2h")
    assert plan.resources == Resources(cpus=4, time="2h")


def test_numbers_may_come_from_the_environment_or_numpy() -> None:
    loose: dict[str, Any] = {"workers": "2", "target_jobs": np.int64(3)}
    assert local(**loose) == local(workers=2, target_jobs=3)


def test_root_may_be_a_path() -> None:
    assert local(root=Path("runs")).root == "runs"


def test_a_plan_is_frozen_hashable_and_picklable() -> None:
    plan = local(by="subject", cpus=2)
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert len({plan, local(by="subject", cpus=2)}) == 1
    with pytest.raises(PlanError, match="a plan does not change"):
        plan.workers = 3


# What a plan refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"worker": 2}, "local: there is no field 'worker'; did you mean 'workers'?"),
        ({"memry": 2}, "local: there is no field 'memry'; did you mean 'memory'?"),
        (
            {"workers": 0},
            "local: workers=0 is not allowed; give a whole number of 1 or more, or None",
        ),
        (
            {"target_jobs": True},
            "local: target_jobs=True is not allowed; give a whole number of 1 or more, or None",
        ),
        (
            {"jobs_at_once": 2.5},
            "local: jobs_at_once=2.5 is not allowed; give a whole number of 1 or more, or None",
        ),
        (
            {"within": "process"},
            (
                "local: within='process' is not allowed; "
                "give 'processes', 'sequential', 'threads' or 'subprocess'"
            ),
        ),
        (
            {"dispatch": "pull"},
            "local: dispatch='pull' is not allowed; give 'static' or 'queue'",
        ),
        (
            {"by": ["a", "a"]},
            (
                "local: by=['a', 'a'] is not allowed; "
                "give a column name, a list of different column names, or None"
            ),
        ),
        ({"root": 3}, "local: root=3 is not allowed; give a path, or None"),
        ({"fail_fast": "no way"}, "local: fail_fast='no way' is not allowed; give True or False"),
        (
            {"resources": 3},
            (
                "local: resources=3 is not allowed; "
                "give Resources(...) or a dict of cpus, memory, time, gpus"
            ),
        ),
        (
            {"chunks_per_job": 2, "target_jobs": 3},
            (
                "local: chunks_per_job=2 and target_jobs=3 both say how many jobs there are; "
                "give one of them and leave the other None"
            ),
        ),
    ],
)
def test_a_refusal_names_the_field_the_value_and_what_to_give(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError) as caught:
        local(**fields)
    assert str(caught.value) == message


def test_a_field_like_no_other_lists_them_all() -> None:
    with pytest.raises(PlanError, match=r"no field 'zzz'; the fields are by, .*workers.*memory"):
        local(zzz=1)  # type: ignore[call-arg]


def test_every_problem_has_its_sentence() -> None:
    with pytest.raises(PlanError) as caught:
        local(workers=0, within="process")  # type: ignore[arg-type]
    assert [line.split()[1] for line in str(caught.value).splitlines()] == [
        "workers=0",
        "within='process'",
    ]


def test_a_resource_that_makes_no_sense_is_a_resource_error() -> None:
    with pytest.raises(ResourceError, match="memory: 'lots'"):
        local(memory="lots")


# What a plan decides -----------------------------------------------------------------------------


def test_workers_fill_the_cores_of_a_job() -> None:
    assert local().worker_count(cores=8) == 8
    assert local(cpus=3).worker_count(cores=8) == 2
    assert local(cpus=16).worker_count(cores=8) == 1
    assert local(workers=5).worker_count(cores=8) == 5
    assert local(workers=5, within="sequential").worker_count(cores=8) == 1


def test_jobs_side_by_side_share_the_cores() -> None:
    plan = local(jobs_at_once=4)
    assert (plan.worker_count(cores=16), plan.threads(cores=16)) == (4, 1)
    assert local(dispatch="queue", target_jobs=2).worker_count(cores=16) == 8
    assert local(target_jobs=2).worker_count(cores=16) == 16


def test_jobs_run_one_by_one_unless_they_share_a_queue() -> None:
    assert local().jobs_running(10) == 1
    assert local(jobs_at_once=4).jobs_running(10) == 4
    assert local(jobs_at_once=4).jobs_running(3) == 3
    assert local(dispatch="queue").jobs_running(10) == 10


def test_as_many_jobs_as_run_at_once() -> None:
    assert local(jobs_at_once=4).default_jobs(rows=100, workers=2)[0] == 4


def test_fail_fast_is_a_limit_of_one() -> None:
    assert local().failure_limit is None
    assert local(max_failures=10).failure_limit == 10
    assert local(max_failures=10, fail_fast=True).failure_limit == 1


# How a plan reads --------------------------------------------------------------------------------


def test_repr_is_the_code_that_makes_the_plan() -> None:
    plan = local(by=["a", "b"], workers=2, memory="8GB", time="90min", jobs_at_once=3)
    assert eval(repr(plan)) == plan
    assert repr(local()) == "local()"


def test_repr_never_rounds() -> None:
    plan = local(memory=1_500_000)
    assert eval(repr(plan)) == plan
    assert eval(repr(local(memory=0))) == local(memory=0)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (local(), "local, processes"),
        (local(workers=2, by="tailnum"), "local, 2 processes, by tailnum"),
        (local(workers=1, within="threads"), "local, 1 thread"),
        (local(workers=2, within="sequential"), "local, one row at a time"),
        (local(dispatch="queue", by=["a", "b"]), "local, processes, from a queue, by a, b"),
    ],
    ids=repr,
)
def test_describe_is_short(plan: Plan, words: str) -> None:
    assert plan.describe() == words


# To JSON, from JSON, from a name -----------------------------------------------------------------


@given(
    by=st.lists(st.sampled_from("abc"), unique=True),
    rows_per_chunk=st.none() | st.integers(1),
    workers=st.none() | st.integers(1, 99),
    dispatch=st.sampled_from(["static", "queue"]),
    memory=st.none() | st.integers(0, 2**50),
    fail_fast=st.booleans(),
)
def test_json_brings_back_the_same_plan(**fields: Any) -> None:
    plan = local(**fields)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_json_has_the_defaults_too() -> None:
    assert local().to_json()["within"] == "processes"


def test_an_unknown_kind_lists_those_there_are() -> None:
    with pytest.raises(PlanError, match="no plan of kind 'locl'; did you mean 'local'"):
        Plan.from_json({"kind": "locl"})


def test_plan_of_changes_fields_of_a_plan() -> None:
    plan = local(by="subject", cpus=2, memory="8GB")
    assert plan_of(plan) is plan
    assert plan_of(plan, workers=2, cpus=None) == local(by="subject", workers=2, memory="8GB")


def test_plan_of_refuses_what_is_no_plan() -> None:
    with pytest.raises(PlanError, match="3 is not a plan; give what a constructor"):
        plan_of(3)  # type: ignore[arg-type]


def test_a_profile_is_a_plan_by_name() -> None:
    plan = profile("small", by="subject")
    assert isinstance(plan, Local)
    assert plan_of("small", by="subject") == plan
    assert (plan.by, plan.worker_count()) == (("subject",), 1)


def test_an_error_in_a_profile_names_it() -> None:
    with pytest.raises(PlanError, match=r"profile 'small': local: workers=0 is not allowed"):
        profile("small", workers=0)


# What it amounts to over a grid ------------------------------------------------------------------


def summary_of(grid: pa.Table, plan: Plan, **facts: Any) -> PlanSummary:
    facts = {"cores": 4, "memory": 16 * GIB, **facts}
    layout = make_layout(plan, grid, plan.worker_count(facts["cores"]))
    return summarize(plan, layout, grid=grid, **facts)


def subjects(groups: int, rows_each: int) -> pa.Table:
    return pa.table({"subject": [f"s{i:02}" for i in range(groups)] * rows_each})


def test_the_counts() -> None:
    summary = summary_of(subjects(5, 4), local(by="subject", target_jobs=2, workers=2))
    assert (summary.rows, summary.groups, summary.chunks, summary.jobs) == (20, 5, 5, 2)
    assert (summary.smallest_job, summary.largest_job) == (8, 12)
    assert (summary.workers, summary.cores_used, summary.cores_asked) == (2, 2, 2)
    assert summary.warnings == []


def test_cores_used_are_those_that_have_something_to_do() -> None:
    pool = local(by="subject", jobs_at_once=2, workers=4, cpus=2)
    summary = summary_of(subjects(3, 3), pool, cores=64)
    assert (summary.cores_used, summary.cores_asked) == (12, 16)


def test_a_fresh_process_takes_a_whole_chunk() -> None:
    fresh = local(by="subject", jobs_at_once=2, workers=4, cpus=2, within="subprocess")
    assert summary_of(subjects(3, 3), fresh, cores=64).cores_used == 4


def test_in_a_queue_any_worker_takes_any_chunk() -> None:
    plan = local(rows_per_chunk=4, target_jobs=2, workers=4, dispatch="queue", within="subprocess")
    assert summary_of(subjects(5, 4), plan, cores=8).cores_used == 5


def test_it_prints_as_a_table() -> None:
    plan = local(by="subject", target_jobs=2, workers=2)
    text = str(summary_of(subjects(1200, 2), plan, stages=["clean", "fit"]))
    assert text.splitlines() == [
        "Plan: local, 2 processes, by subject",
        "",
        "                    fewest rows   most rows",
        "  rows      2,400",
        "  groups    1,200             2           2   by subject",
        "  chunks    1,200             2           2   one group each",
        "  jobs          2         1,200       1,200   one after another",
        "  workers       2                             in each job",
        "  cores         2                             used of 2 asked for; this machine has 4",
        "  stages        2                             clean, fit",
    ]


def test_repr_and_rich_say_the_same() -> None:
    summary = summary_of(subjects(3, 2), local(by="subject", workers=9))
    page = io.StringIO()
    Console(width=100, file=page, color_system=None).print(summary)
    printed = [line.rstrip() for line in page.getvalue().splitlines()]
    assert repr(summary).splitlines() == str(summary).splitlines() == printed


def test_markup_in_names_is_printed_as_it_is() -> None:
    summary = summary_of(subjects(3, 2), local(), stages=["[red]fit"])
    assert "[red]fit" in str(summary)


def test_an_empty_grid_prints() -> None:
    summary = summary_of(subjects(0, 0), local(by="subject"))
    assert (summary.jobs, summary.largest_job, summary.warnings) == (0, 0, [])
    assert "rows      0" in str(summary)


def test_the_dict_is_json() -> None:
    summary = summary_of(subjects(3, 2), local(by="subject"), stages=["fit"])
    data = json.loads(json.dumps(summary.to_dict()))
    assert (data["rows"], data["jobs"], data["stages"]) == (6, 3, ["fit"])
    assert Plan.from_json(data["plan"]) == summary.plan


# Warnings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "facts", "warning"),
    [
        (
            local(by="subject", workers=3),
            {},
            (
                "A job has 3 workers but at most 2 rows: 1 of them will be idle. "
                "Set target_jobs=1 or workers=2."
            ),
        ),
        (
            local(by="subject", workers=3, chunks_per_job=2, within="subprocess"),
            {},
            (
                "A job has 3 workers but at most 2 chunks: 1 of them will be idle. "
                "Raise chunks_per_job, or set workers=2."
            ),
        ),
        (
            local(rows_per_chunk=12, workers=3, within="subprocess"),
            {},
            (
                "A job has 3 workers but at most 2 chunks: 1 of them will be idle. "
                "Cut smaller chunks with rows_per_chunk, or set workers=2."
            ),
        ),
        (
            local(by="subject", workers=2),
            {},
            (
                "12 jobs take turns with 2 workers but at most 1 chunk each, "
                "and each waits for the last row of the one before. "
                "Set target_jobs=1 to run all rows in one pool."
            ),
        ),
        (
            local(workers=30),
            {"cores": 64},
            "A job has 30 workers but at most 24 rows: 6 of them will be idle. Set workers=24.",
        ),
        (
            local(workers=2, within="sequential"),
            {},
            "workers=2 has no effect: within='sequential' runs one row at a time.",
        ),
        (
            local(workers=6),
            {},
            (
                "6 workers want 6 cores and this machine has 4, so they will take turns. "
                "Set workers=4."
            ),
        ),
        (
            local(workers=3, cpus=2, jobs_at_once=2),
            {},
            (
                "2 jobs at once with 3 workers of 2 cores want 12 cores and this machine has 4, "
                "so they will take turns. Set workers=1."
            ),
        ),
        (
            local(workers=4, memory="512MB"),
            {},
            (
                "memory='512 MiB' leaves each of 4 workers 128 MiB; "
                "Python with pandas wants 256 MiB. Raise memory or lower workers."
            ),
        ),
        (
            local(workers=2, memory="32GB"),
            {},
            (
                "memory='32 GiB' is more than the 16 GiB that this machine has available. "
                "Lower memory, or run where there is more."
            ),
        ),
        (
            local(workers=4),
            {"memory_per_row": 6 * GIB},
            (
                "4 workers at 6 GiB a row need 24 GiB, more than the 16 GiB that "
                "this machine has available. Set workers=2."
            ),
        ),
        (
            local(workers=4, memory="8GB"),
            {"memory_per_row": 3 * GIB},
            (
                "4 workers at 3 GiB a row need 12 GiB, more than the 8 GiB that a job may use. "
                "Set workers=2."
            ),
        ),
    ],
    ids=repr,
)
def test_a_warning_says_what_is_wrong_and_what_to_do(
    plan: Plan, facts: dict[str, Any], warning: str
) -> None:
    assert summary_of(subjects(12, 2), plan, **facts).warnings == [warning]


def test_a_few_rows_on_many_cores_are_no_mistake() -> None:
    assert summary_of(subjects(3, 1), local(), cores=64).warnings == []


def test_a_group_with_over_half_of_the_rows_is_named() -> None:
    grid = pa.table({"site": ["a", None, None, None], "year": [1, 1, 1, 1]})
    plan = local(by=["site", "year"], target_jobs=2, workers=1)
    assert summary_of(grid, plan).warnings == [
        (
            "The group site=None, year=1 holds 3 of 4 rows, and a single job runs them. "
            "Split it with rows_per_chunk, or group by more columns."
        )
    ]


def test_without_the_grid_the_large_group_has_a_number() -> None:
    grid = pa.table({"site": ["a", "b", "b"]})
    plan = local(by="site", target_jobs=1, workers=1, within="subprocess")
    summary = summarize(plan, make_layout(plan, grid, 1), cores=4, memory=GIB)
    assert summary.warnings == [
        (
            "Group number 1 holds 2 of 3 rows, and a single worker runs them. "
            "Split it with rows_per_chunk, or group by more columns."
        )
    ]


@pytest.mark.parametrize("options", [{"rows_per_chunk": 2, "target_jobs": 2}, {"target_jobs": 1}])
def test_a_large_group_is_fine_where_it_is_split_or_shared(options: dict[str, Any]) -> None:
    grid = pa.table({"site": ["a", "b", "b", "b"]})
    assert summary_of(grid, local(by="site", workers=1, **options)).warnings == []


def test_jobs_by_the_ten_thousand_are_packed() -> None:
    grid = pa.table({"x": np.arange(1_000_000)})
    assert summary_of(grid, local(by="x", workers=1)).warnings == [
        (
            "1,000,000 jobs are more than most schedulers take, and each costs a start. "
            "Set target_jobs=1000 to pack the same chunks into fewer."
        )
    ]


def test_one_worker_takes_turns_with_nobody() -> None:
    said = " ".join(flow({"x": [1, 2]}).distribute(local(cpus=4096)).plan().warnings)

    assert "1 worker of 4096 cores wants 4,096 cores" in said
    assert "so its threads will take turns" in said


# Kinds of plan -----------------------------------------------------------------------------------


def test_plans_that_live_with_their_backend_are_imported_when_asked_for() -> None:
    code = (
        "import sys\n"
        "from flowdist.plan import PLANS, local\n"
        "assert 'slurm-queue' in PLANS and len(list(PLANS)) == len(PLANS) >= 4, list(PLANS)\n"
        "local()\n"
        "assert 'flowdist.backends.slurm.plans' not in sys.modules\n"
        "assert PLANS['slurm-queue'].__name__ == 'SlurmQueue'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_package_may_add_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pbs(Plan):
        kind: str = "pbs"

    monkeypatch.setitem(PLANS, "pbs", Pbs)

    assert Plan.from_json({"kind": "pbs", "workers": 2}) == Pbs(workers=2)


def test_a_plan_that_knows_its_jobs_is_asked_also_for_groups() -> None:
    class Three(Local):
        knows_jobs: ClassVar[bool] = True

        def default_jobs(self, rows: int, workers: int) -> tuple[int, str]:
            return 3, "three of them"

    layout = make_layout(Three(by="subject"), subjects(6, 2), workers=1)

    assert (layout.jobs, layout.note) == (3, "three of them")


def test_what_a_kind_of_plan_has_to_say_is_part_of_the_summary() -> None:
    class Wary(Local):
        def workers_note(self, workers: int) -> str:
            return f"{workers} by decree"

        def request(self) -> str:
            return "a cup of tea"

        def cautions(self, summary: PlanSummary) -> list[str]:
            return [f"{summary.rows} rows are unlucky."]

    summary = summary_of(subjects(13, 1), Wary(workers=2))

    assert summary.warnings == ["13 rows are unlucky."]
    assert "in the job: 2 by decree" in str(summary)
    assert "asks for a cup of tea" in str(summary)
    assert summary.to_dict()["request"] == "a cup of tea"
