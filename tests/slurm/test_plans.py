"""SLURM plans: what they accept and refuse, what a job asks for, and what they say over a grid."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

import flowdist
from flowdist import slurm, slurm_allocation, slurm_queue
from flowdist.backends.slurm.options import OWN
from flowdist.backends.slurm.plans import Slurm, SlurmAllocation, SlurmQueue
from flowdist.errors import PlanError, ResourceError
from flowdist.layout import make_layout
from flowdist.plan import Plan, PlanSummary, plan_of, summarize
from flowdist.resources import Resources

FULL: dict[str, Any] = {
    "by": "subject",
    "cores_per_node": 8,
    "jobs_at_once": 4,
    "partition": "gpu",
    "account": "lab",
    "qos": "long",
    "constraint": "[skylake|icelake]&ib",
    "reservation": "course",
    "gres": "gpu:a100:2",
    "mail_type": "end,fail",
    "mail_user": "a@b.org",
    "setup": "ulimit -n 4096",
    "modules": ["gcc/12", "openmpi"],
    "environment": {"GREETING": 'it\'s "me"', "N": 3},
    "python": "/opt/py/bin/python",
    "extra": {"nice": 100, "overcommit": True, "mem_bind": "local", "comment": "x y"},
    "resubmit": True,
    "stages": {"train": {"gpus": 1, "workers": 1, "time": timedelta(hours=1)}},
    "memory": "8GB",
    "time": "1-12:00:00",
}


# What a plan accepts -----------------------------------------------------------------------------


def test_json_brings_back_the_same_plan() -> None:
    for plan in (
        slurm(**FULL),
        slurm_queue(nodes=3, **FULL),
        slurm_allocation(nodes=3, oversubscribe=2, **FULL),
    ):
        again = Plan.from_json(plan.to_json())
        assert (type(again), again) == (type(plan), plan)
        assert pickle.loads(pickle.dumps(plan)) == plan
        assert len({plan, again}) == 1


def test_repr_is_the_code_that_makes_the_plan() -> None:
    for plan in (slurm(**FULL), slurm_allocation(nodes=3, **FULL)):
        assert (
            eval(repr(plan), vars(flowdist) | {n: getattr(flowdist, n) for n in dir(flowdist)})
            == plan
        )


def test_one_line_or_name_is_a_list_of_one() -> None:
    plan = slurm(setup="ulimit -n 4096", modules="gcc/12")

    assert (plan.setup, plan.modules) == (("ulimit -n 4096",), ("gcc/12",))


def test_names_of_modules_may_have_commas_between() -> None:
    assert slurm(modules="gcc/12, openmpi").modules == ("gcc/12", "openmpi")


def test_what_is_none_or_false_in_a_table_is_left_out() -> None:
    plan = slurm(
        environment={"A": None, "B": 1.5}, extra={"nice": None, "hold": False, "spread_job": True}
    )

    assert plan.environment == {"B": "1.5"}
    assert plan.extra == {"spread-job": True}


def test_a_table_of_the_user_may_change_afterwards() -> None:
    mine: dict[str, Any] = {"train": {"environment": {"A": "1"}}}
    plan = slurm(stages=mine)

    mine["train"]["environment"]["A"] = "2"

    assert plan.stages == {"train": {"environment": {"A": "1"}}}


@pytest.mark.parametrize("make", [Slurm, SlurmQueue, SlurmAllocation])
def test_jobs_of_stages_are_their_own_on_slurm_alone(make: type[Slurm]) -> None:
    assert make.phased
    assert not flowdist.local().phased


# What a plan refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"partiton": "gpu"}, "there is no field 'partiton'; did you mean 'partition'?"),
        ({"partition": "gpu\n#SBATCH --wrap=x"}, "give a word without blanks, or None"),
        ({"account": "a b"}, "account='a b' is not allowed; give a word without blanks, or None"),
        ({"gres": ""}, "gres='' is not allowed; give a word without blanks, or None"),
        ({"qos": 3}, "qos=3 is not allowed; give a word without blanks, or None"),
        ({"cores_per_node": 0}, "give a whole number of 1 or more, or None"),
        ({"jobs_at_once": "many"}, "give a whole number of 1 or more, or None"),
        ({"exclusive": "perhaps"}, "exclusive='perhaps' is not allowed; give True or False"),
        ({"mail_type": "sometimes"}, "give one or more of NONE, BEGIN, END, "),
        ({"modules": ["gcc 12"]}, "give a name without blanks, or a list of them"),
        ({"setup": 3}, "setup=3 is not allowed; give a line of shell, or a list of them"),
        ({"setup": "#SBATCH --nice"}, "an #SBATCH option has a field of its own, or goes to extra"),
        ({"python": "/bin/py\nthon"}, "give the path of a Python interpreter on the nodes"),
        ({"environment": "A=1"}, "give a dict of names and values"),
        ({"environment": {"A-B": "1"}}, "in place of 'A-B' the name of a variable"),
        ({"environment": {"A;touch x": "1"}}, "in place of 'A;touch x' the name of a variable"),
        ({"environment": {"A": True}}, "give 'A' a string or a number, not True"),
        ({"environment": {"SLURM_JOB_ID": "1"}}, "which SLURM sets for each job"),
        ({"extra": ["nice"]}, "give a dict of sbatch's long options and their values"),
        ({"extra": {"--nice": 1}}, "give in place of '--nice' a long option of sbatch without its"),
        ({"extra": {"J": "x"}}, "give in place of 'J' a long option"),
        ({"extra": {"comment": "a\nb"}}, "give 'comment' a value on one line, not 'a\\nb'"),
        ({"extra": {"nice": [1]}}, "give 'nice' a string, a number, or True"),
        ({"extra": {"nice": float("inf")}}, "give 'nice' a finite number, not inf"),
        ({"stages": {"fit": 3}}, "give a dict of stages, each with a dict of fields"),
        (
            {"cpus": 8, "cores_per_node": 4},
            "cpus=8 of one worker are more than cores_per_node=4 of its job; lower cpus",
        ),
        ({"resubmit": True, "requeue": False}, "resubmit=True needs requeue=True"),
        (
            {"stages": {"train": {"partion": "gpu"}}},
            "stages['train']: the field 'partion' does not exist; did you mean 'partition'?",
        ),
        ({"stages": {"train": {"by": "x"}}}, "the field 'by' is one for all stages"),
        ({"stages": {"train": {"stages": {}}}}, "the field 'stages' is one for all stages"),
        ({"stages": {"train": {"workers": 0}}}, "stages['train']: workers=0 is not allowed"),
        ({"stages": {"train": {"extra": {"mem": 1}}}}, "stages['train']: extra={'mem': 1} is not"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_the_value_and_what_to_give(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError) as caught:
        slurm(**fields)

    assert str(caught.value).startswith("slurm: ")
    assert message in str(caught.value)


def test_a_resource_of_a_stage_is_checked_when_the_plan_is_made() -> None:
    with pytest.raises(ResourceError, match=r"slurm: stages\['train'\]: memory: 'much' is not an"):
        slurm(stages={"train": {"memory": "much"}})


@pytest.mark.parametrize("option", OWN)
def test_extra_takes_no_option_that_has_another_place(option: str) -> None:
    with pytest.raises(PlanError, match=f"options other than '{option}': "):
        slurm(extra={option: "1"})


@pytest.mark.parametrize("beginning", ["arr", "job-n", "dep", "t", "mem-p", "cpus_per_ta"])
def test_extra_takes_no_beginning_of_one_as_sbatch_would(beginning: str) -> None:
    with pytest.raises(PlanError, match="options other than"):
        slurm(extra={beginning: "1"})


def test_the_way_to_share_a_node_with_oneself_is_open() -> None:
    assert slurm(extra={"exclusive": "user"}).extra == {"exclusive": "user"}


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (slurm_queue, {"nodes": None}, "slurm_queue: nodes=None is not allowed"),
        (slurm_queue, {"nodes": 2, "dispatch": "static"}, "slurm_queue: dispatch='static' is not"),
        (slurm_queue, {"nodes": 2, "stages": {"fit": {"nodes": 3}}}, "'nodes' is one for all"),
        (slurm_allocation, {"nodes": 2, "cores_per_node": 0}, "cores_per_node=0 is not allowed"),
    ],
)
def test_a_shape_that_is_none_is_refused(make: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        make(**fields)

    assert message in str(caught.value)


# What one job has --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "workers", "cpus"),
    [
        (slurm(), 1, 1),
        (slurm(cpus=4), 1, 4),
        (slurm(workers=4, cpus=2), 4, 8),
        (slurm(cores_per_node=16), 16, 16),
        (slurm(cores_per_node=16, cpus=3), 5, 16),
        (slurm(cores_per_node=196, workers=20, cpus=4), 20, 196),
        (slurm(cores_per_node=16, within="sequential"), 1, 16),
        (slurm(workers=8, within="sequential"), 1, 1),
        (slurm(exclusive=True, workers=4), 4, 4),
        (slurm_queue(nodes=2, workers=3), 3, 3),
        (slurm_allocation(nodes=10, cores_per_node=196), 196, 196),
        (slurm_allocation(nodes=10, cores_per_node=196, cpus=8), 24, 196),
    ],
)
def test_workers_and_cores_follow_from_each_other_whatever_machine_asks(
    plan: Slurm, workers: int, cpus: int
) -> None:
    assert (plan.worker_count(), plan.job_cpus()) == (workers, cpus)
    assert plan.worker_count(cores=2) == workers
    assert plan.threads(cores=2) == cpus // workers


def test_a_whole_node_has_the_workers_that_its_cores_allow() -> None:
    plan = slurm(exclusive=True, cpus=4)

    assert plan.sized_at_start
    assert plan.worker_count(cores=64) == 16


def test_jobs_of_a_queue_or_an_allocation_are_on_one_node_each() -> None:
    assert slurm(nodes=3).job_nodes == 3
    assert slurm_queue(nodes=3).job_nodes == 1
    assert slurm_allocation(nodes=3, cores_per_node=4).job_nodes == 1


# The plan of a stage -----------------------------------------------------------------------------


def test_needs_of_a_row_are_multiplied_by_the_workers_of_a_job() -> None:
    plan = slurm(workers=4, memory="1GB", time="1h")

    own = plan.for_stage("fit", Resources(cpus=2, memory="3GB", gpus=1, time="2h"))

    assert own == slurm(workers=4, cpus=2, memory="12GB", gpus=4, time="2h")


def test_what_the_plan_says_of_a_stage_wins_over_its_needs() -> None:
    plan = slurm(workers=4, stages={"fit": {"workers": 2, "memory": "5GB", "partition": "big"}})

    own = plan.for_stage("fit", Resources(memory="3GB", gpus=1))

    assert own == slurm(workers=2, memory="5GB", gpus=2, partition="big")


def test_workers_that_follow_from_cores_follow_from_the_cpus_of_the_stage() -> None:
    plan = slurm_allocation(nodes=2, cores_per_node=16, cpus=1)

    own = plan.for_stage("fit", Resources(cpus=4, memory="2GB"))

    assert (own.worker_count(), own.resources.memory) == (4, 8 * 1024**3)


def test_all_memory_stays_all_memory() -> None:
    assert slurm(workers=4).for_stage("fit", Resources(memory=0)).resources.memory == 0


def test_a_node_whose_cores_are_unknown_gives_all_its_memory() -> None:
    assert slurm(exclusive=True).for_stage("fit", Resources(memory="2GB")).resources.memory == 0


def test_tables_of_a_stage_add_to_those_of_the_plan() -> None:
    plan = slurm(
        environment={"A": "1", "B": "1"},
        extra={"nice": 5},
        modules="gcc",
        stages={"fit": {"environment": {"B": "2"}, "extra": {"nice": None}, "modules": ["cuda"]}},
    )

    own = plan.for_stage("fit")

    assert own == slurm(environment={"A": "1", "B": "2"}, modules="cuda")


def test_stages_that_need_the_same_have_the_same_plan() -> None:
    plan = slurm(workers=2, stages={"fit": {"gpus": 1}})

    assert plan.for_stage("clean") == plan.for_stage("report") == slurm(workers=2)
    assert plan.for_stage("fit") != plan.for_stage("clean")


def test_a_stage_that_the_flow_does_not_have_is_refused() -> None:
    with pytest.raises(PlanError, match="no such stage; did you mean 'train'"):
        slurm(stages={"trian": {"gpus": 1}}).check_stages(["clean", "train"])


# How many jobs -----------------------------------------------------------------------------------


def summary_of(plan: Plan, rows: int, groups: int = 81, **facts: Any) -> PlanSummary:
    grid = pa.table({"subject": [i % groups for i in range(rows)]})
    return summarize(plan, make_layout(plan, grid, plan.worker_count()), grid=grid, **facts)


@pytest.mark.parametrize(
    ("plan", "jobs", "note"),
    [
        (slurm(), 24, "24 jobs: a row in each"),
        (slurm(workers=4), 6, "6 jobs: a row for each of 4 workers in each"),
        (slurm(jobs_at_once=7), 7, "7 jobs: as many as jobs_at_once lets run"),
        (slurm(target_jobs=5), 5, ""),
        (slurm_queue(nodes=3), 3, "3 jobs: one on each of 3 nodes"),
        (slurm_allocation(nodes=3, cores_per_node=2), 3, "3 jobs: one on each of 3 nodes"),
        (
            slurm_allocation(nodes=3, cores_per_node=2, oversubscribe=2, by="subject"),
            6,
            "6 jobs: 3 nodes x oversubscribe 2",
        ),
        (slurm_allocation(nodes=3, cores_per_node=2, target_jobs=4, by="subject"), 4, ""),
        (slurm(by="subject"), 12, ""),
    ],
)
def test_the_number_of_jobs_comes_with_its_reason(plan: Plan, jobs: int, note: str) -> None:
    layout = summary_of(plan, rows=24, groups=12).layout

    assert (layout.jobs, layout.note) == (jobs, note)


def test_many_rows_are_packed_into_a_hundred_jobs() -> None:
    layout = summary_of(slurm(workers=4), rows=10_000).layout

    assert layout.jobs == 100
    assert layout.note.startswith("100 jobs share the rows: ")


def test_an_allocation_has_no_more_jobs_at_once_than_nodes() -> None:
    plan = slurm_allocation(nodes=10, cores_per_node=196, oversubscribe=2)

    assert (plan.jobs_running(20), plan.throttle(20), plan.throttle(10)) == (10, 10, None)
    assert plan_of(plan, jobs_at_once=3).throttle(20) == 3


# What is printed ---------------------------------------------------------------------------------


def test_the_arithmetic_of_an_allocation_is_shown() -> None:
    plan = slurm_allocation(nodes=10, cores_per_node=196, oversubscribe=2, memory="64GB", time="2h")

    lines = str(summary_of(plan, rows=4050, stages=["fit"])).splitlines()

    assert [" ".join(line.split()) for line in lines] == [
        "Plan: slurm-allocation, 196 processes",
        "",
        "fewest rows most rows",
        "rows 4,050",
        "chunks 4,050 1 1 one row each",
        "jobs 20 202 203 20 jobs: 10 nodes x oversubscribe 2; 10 at a time",
        "workers 196 in each job: cores_per_node 196 / cpus 1",
        "cores 1,960 used of 1,960 asked for: 10 jobs at a time x 196",
        "cores",
        "each job asks for 196 cores, 64 GiB, 2 h",
        "stages 1 fit",
    ]


def test_fewer_chunks_than_jobs_are_told() -> None:
    plan = slurm_allocation(nodes=10, cores_per_node=2, oversubscribe=20, by="subject")

    assert (
        "200 jobs: 10 nodes x oversubscribe 20; there are only 81 chunks; 10 at a time"
        in " ".join(str(summary_of(plan, rows=4050)).split())
    )


def test_what_a_start_decides_has_no_number() -> None:
    text = " ".join(str(summary_of(slurm(exclusive=True, by="subject"), rows=810)).split())

    assert "Plan: slurm, processes, by subject" in text
    assert "workers in each job: cores of the node / cpus 1, found out when a job starts" in text
    assert " cores used" not in text
    assert summary_of(slurm(exclusive=True), rows=8).to_dict()["workers"] is None


def test_phases_have_a_line_each() -> None:
    plan = slurm(
        workers=4, memory="8GB", stages={"fit": {"workers": 1, "gpus": 1, "partition": "gpu"}}
    )
    phases = [([name], plan.for_stage(name)) for name in ("clean", "fit")]

    summary = summary_of(plan.for_stage("clean"), rows=24, stages=["clean", "fit"], phases=phases)
    text = " ".join(str(summary).split())

    assert "phase 1 clean: 4 workers; each job asks for 4 cores, 8 GiB" in text
    assert "phase 2 fit: 1 worker; each job asks for partition gpu, 1 core, 8 GiB, 1 gpu" in text
    assert summary.to_dict()["phases"][1]["workers"] == 1


# Warnings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "warning"),
    [
        (
            slurm(by="subject", workers=16),
            (
                "A job has 16 workers but at most 10 rows: 6 of them will be idle. "
                "Set target_jobs=50 or workers=10."
            ),
        ),
        (
            slurm(chunks_per_job=2, workers=2),
            None,
        ),
        (
            slurm(jobs_at_once=100, by="subject"),
            "jobs_at_once=100 has no effect: there are 81 jobs.",
        ),
        (
            slurm(cores_per_node=4, workers=8, cpus=2),
            (
                "8 workers of 2 cores want 16 cores and a job has cores_per_node=4, so they will "
                "take turns. Set workers=2."
            ),
        ),
        (
            slurm(cores_per_node=7, cpus=2),
            (
                "cores_per_node=7 is 3 x 2 cpus and 1 left over in each job. Set cores_per_node=6, "
                "or other cpus."
            ),
        ),
        (
            slurm(cores_per_node=8, within="sequential"),
            (
                "within='sequential' runs one row at a time on cores_per_node=8 cores. Set cpus=8 "
                "if a row uses them all, else leave cores_per_node out."
            ),
        ),
        (
            slurm_allocation(nodes=100, cores_per_node=2, by="subject"),
            (
                "81 chunks make 81 jobs, so 19 of 100 nodes would have nothing to do; cut smaller "
                "chunks with rows_per_chunk, or set nodes=81."
            ),
        ),
        (
            slurm_allocation(nodes=10, cores_per_node=2, target_jobs=4),
            (
                "target_jobs=4 makes 4 jobs for 10 nodes, and a job is on one node; leave it out, "
                "or set nodes=4."
            ),
        ),
        (
            slurm(nodes=4, by="subject"),
            (
                "nodes=4 is for each job, whose workers all run on its first node; the others are "
                "for what a function starts with srun or mpirun. To spread rows over nodes, use "
                "slurm_allocation(nodes=4, cores_per_node=...)."
            ),
        ),
        (slurm(nodes=4, ntasks=16, by="subject"), None),
        (
            slurm(workers=4, gpus=1, by="subject"),
            "4 workers share 1 gpu in each job. Set workers=1 if a row needs one for itself.",
        ),
        (
            slurm(by="subject", environment={"db_password": "x"}),
            (
                "environment: db_password looks like a secret, and would be written to the run and "
                "to the batch script. Leave it out and set it in the shell that submits: sbatch "
                "passes its environment on."
            ),
        ),
        (slurm(by="subject", environment={"SORT_KEY": "x"}), None),
        (slurm(by="subject", exclusive=True, memory="100MB"), None),
        (slurm_queue(nodes=4, cores_per_node=4, by="subject"), None),
    ],
)
def test_a_warning_says_what_is_wrong_and_what_to_do(plan: Plan, warning: str | None) -> None:
    assert summary_of(plan, rows=810).warnings == ([] if warning is None else [warning])


def test_many_jobs_of_a_row_each_are_better_packed() -> None:
    (warning,) = summary_of(slurm(chunks_per_job=1), rows=5_000).warnings

    assert warning.startswith("5,000 jobs of at most 1 row: ")
    assert "target_jobs=100" in warning
    assert summary_of(slurm(chunks_per_job=5), rows=5_000).warnings == []


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("mem_gb", "here it is memory"),
        ("queue", "here it is partition"),
        ("cpus_per_task", "here it is cpus"),
        ("retry", "here it is the flow's"),
    ],
)
def test_what_others_call_a_field_leads_to_ours(field: str, says: str) -> None:
    with pytest.raises(PlanError, match=f"there is no field '{field}'; {says}"):
        slurm(**{field: 1})


def test_an_amount_of_memory_that_can_only_be_a_slip_is_refused() -> None:
    with pytest.raises(PlanError, match=r"memory=8 is 8 bytes for a job; .* gigabytes as '8G'"):
        slurm(memory=8)
