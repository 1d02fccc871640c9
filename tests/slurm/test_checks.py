"""Preflight on SLURM: what of a cluster admits a request, and what is said where nothing does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowdist import flow, param_grid
from flowdist.backends.slurm.checks import check, limit_findings, partition_findings
from flowdist.backends.slurm.client import SlurmError
from flowdist.backends.slurm.cluster import Limits, NodeType, Partition
from flowdist.backends.slurm.places import Places
from flowdist.backends.slurm.plans import Slurm, slurm
from flowdist.errors import BackendError
from flowdist.plan import PlanSummary
from flowdist.preflight import Check
from flowdist.run import plan_flow
from flowdist.settings import host

GB = 1024**3
SMALL = NodeType(nodes=10, usable=10, cores=16, memory=64 * GB, gpus=0, features=("old",))
LARGE = NodeType(nodes=2, usable=2, cores=64, memory=512 * GB, gpus=0, features=("old",))
GPU = NodeType(nodes=4, usable=4, cores=32, memory=128 * GB, gpus=4, features=("new", "a100"))
BATCH = Partition(
    "batch", default=True, max_time=7200.0, default_time=600.0, nodes=12, types=(SMALL, LARGE)
)
CARDS = Partition("gpu", max_time=86400.0, nodes=4, types=(GPU,))
ON_NFS = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:40 / / rw - nfs4 srv:/ rw"
ON_DISK = "1 0 8:1 / / rw - ext4 /dev/sda1 rw"


@dataclass
class Cluster:
    """A cluster that is described rather than asked; `scripts` are those that were tested."""

    there: tuple[Partition, ...] = (BATCH, CARDS)
    limits_: Limits = field(default_factory=Limits)
    said: str | BackendError = (
        "Job 9 to start at 2026-11-21T14:05:00 using 2 processors on nodes n1"
    )
    nodes_are: set[str] = field(default_factory=lambda: {"n1", "n2"})
    scripts: list[str] = field(default_factory=list)

    def partitions(self) -> list[Partition]:
        return list(self.there)

    def limits(self, account: str | None, qos: str | None, *, accounting: bool = True) -> Limits:
        return self.limits_

    def test_only(self, script: str) -> str:
        self.scripts.append(script)
        if isinstance(self.said, BackendError):
            raise self.said
        return self.said

    def choices(self) -> tuple[list[str], list[str]]:
        return ["physics", "biology"], ["normal", "long"]

    def hosts(self) -> set[str]:
        return self.nodes_are


def places(mounts: str = ON_NFS, tools: tuple[str, ...] = ("sbatch",)) -> Places:
    return Places(
        mounts=lambda: mounts,
        which=lambda name: f"/usr/bin/{name}" if name in tools else None,
        run=lambda command: "",
    )


def summary(plan: Slurm, rows: int = 4) -> PlanSummary:
    f = flow(param_grid(x=range(rows))).stage("fit", lambda x: x)
    return plan_flow(f.distribute(plan))


def checked(plan: Slurm, cluster: Cluster | None = None, **more: Any) -> list[Check]:
    found = check(plan, summary(plan), cluster or Cluster(), places(**more))
    # Where the test itself lies is of no matter.
    return [c for c in found if c.name != "python"]


def only(checks: list[Check], severity: str) -> Check:
    (found,) = [c for c in checks if c.severity == severity]
    return found


def findings(plan: Slurm, partition: Partition = BATCH) -> list[Check]:
    return list(partition_findings(plan, partition, [BATCH, CARDS]))


# The cluster as a whole --------------------------------------------------------------------------


def test_a_request_that_fits_starts_at_a_time_and_place(tmp_path: Path) -> None:
    checks = checked(slurm(time="1h", root=tmp_path / "shared"), mounts=ON_NFS)

    info = only([c for c in checks if c.name == "sbatch"], "info")
    assert info.what.startswith("SLURM takes the request (1 core, 1 h) and would start at ")
    assert info.what.endswith("14:05 on n1")


def test_the_script_of_the_real_jobs_is_tested() -> None:
    cluster = Cluster()

    checked(slurm(time="1h", workers=2, partition="batch", modules=["gcc/12"]), cluster)

    (script,) = cluster.scripts
    for line in ('--partition="batch"', '--cpus-per-task="2"', '--array="0-1"', "gcc/12"):
        assert line in script
    assert "-m flowdist.backends.slurm.task" in script


def test_a_machine_without_sbatch_is_told_apart() -> None:
    error = only(checked(slurm(), tools=()), "error")

    assert error.what == "there is no sbatch on this machine's PATH"
    assert "login node" in error.remedy


def test_a_slurm_that_does_not_answer_is_a_finding() -> None:
    class Silent(Cluster):
        def partitions(self) -> list[Partition]:
            raise BackendError("scontrol did not answer within 30 s")

    error = only(checked(slurm(), Silent()), "error")

    assert error.what == "SLURM does not answer: scontrol did not answer within 30 s"


def test_limits_that_are_not_known_do_not_keep_a_run_from_starting() -> None:
    class Closed(Cluster):
        def limits(
            self, account: str | None, qos: str | None, *, accounting: bool = True
        ) -> Limits:
            raise BackendError("scontrol failed: no permission")

    checks = checked(slurm(time="1h"), Closed())

    assert [c.name for c in checks if c.severity == "error"] == []
    assert "no permission" in next(c for c in checks if c.name == "limits").what


def test_what_slurm_refuses_is_said_in_its_words() -> None:
    words = BackendError("sbatch failed: allocation failure: Requested nodes are busy")

    error = only(checked(slurm(time="1h"), Cluster(said=words)), "error")

    assert error.what == "SLURM refuses the request (1 core, 1 h): Requested nodes are busy"


def test_a_wrong_qos_is_answered_with_those_that_there_are() -> None:
    words = BackendError("sbatch failed: allocation failure: Invalid qos specification")

    error = only(checked(slurm(time="1h", qos="lng"), Cluster(said=words)), "error")

    assert error.what.endswith("Invalid qos specification; did you mean 'long'?")
    assert error.remedy == "you may use qos= normal, long"


def test_a_wrong_account_is_answered_with_those_that_there_are() -> None:
    words = BackendError("sbatch failed: allocation failure: Invalid account or account/partition")

    error = only(checked(slurm(time="1h", account="fysics"), Cluster(said=words)), "error")

    assert "did you mean 'physics'?" in error.what


def test_nothing_is_tested_that_cannot_fit() -> None:
    cluster = Cluster()

    checked(slurm(partition="nope"), cluster)

    assert cluster.scripts == []


# Partitions --------------------------------------------------------------------------------------


def test_a_partition_that_is_not_there_is_told_with_the_nearest_and_the_list() -> None:
    error = only(checked(slurm(partition="bach", time="1h")), "error")

    assert error.what == (
        "partition='bach': the cluster has no partition 'bach'; did you mean 'batch'?"
    )
    assert error.remedy == "give one of batch, gpu"


def test_a_cluster_without_a_default_partition_wants_one_named() -> None:
    error = only(checked(slurm(), Cluster(there=(CARDS,))), "error")

    assert error.remedy == "give partition=, one of gpu"


def test_one_of_several_partitions_is_enough() -> None:
    checks = checked(slurm(partition="batch,gpu", gpus=1, time="1h"))

    assert [c.severity for c in checks if c.severity == "error"] == []


def test_a_time_beyond_the_partition_names_those_that_allow_it() -> None:
    error = only(findings(slurm(time="10h")), "error")

    assert error.what == "time='10 h' is more than partition 'batch' allows: 2 h"
    assert error.remedy.endswith("partition= gpu would do")


def test_a_time_beyond_the_partition_is_only_a_warning_with_a_qos_that_may_overrule_it() -> None:
    assert [c.severity for c in findings(slurm(time="10h", qos="long"))] == ["warning"]


def test_a_plan_without_a_time_is_told_what_jobs_get() -> None:
    info = only(findings(slurm()), "info")

    assert "jobs get the default of partition 'batch', 10 min" in info.what


def test_a_drained_partition_takes_no_jobs() -> None:
    drained = Partition("batch", state="DRAIN", types=(SMALL,), nodes=10)

    assert only(findings(slurm(time="1h"), drained), "error").name == "partition"


def test_in_a_partition_that_is_down_jobs_wait() -> None:
    down = Partition("batch", state="DOWN", types=(SMALL,), nodes=10)

    assert "starts none" in only(findings(slurm(time="1h"), down), "warning").what


def test_accounts_and_qos_are_held_against_the_partitions_lists() -> None:
    closed = Partition("p", allowed_accounts=("physics",), denied_qos=("low",), types=(SMALL,))

    checks = findings(slurm(account="fysics", qos="low", time="1h"), closed)

    assert [c.what for c in checks] == [
        "account='fysics': partition 'p' does not take it; did you mean 'physics'?",
        "qos='low': partition 'p' refuses it",
    ]


# The size of nodes -------------------------------------------------------------------------------


def test_more_cores_than_any_node_has_is_an_error() -> None:
    error = only(findings(slurm(workers=100, time="1h")), "error")

    assert error.what == (
        "a job asks for 100 cores, and no node of partition 'batch' has more than 64 cores"
    )


def test_more_memory_than_any_node_has_is_an_error() -> None:
    error = only(findings(slurm(memory="1TB", time="1h")), "error")

    assert error.what.endswith("no node of partition 'batch' has more than 512 GiB")


def test_gpus_where_there_are_none_name_the_partition_that_has_some() -> None:
    error = only(findings(slurm(gpus=2, time="1h")), "error")

    assert error.what == "a job asks for 2 gpus, and partition 'batch' has none"
    assert error.remedy.endswith("partition= gpu would do")


def test_gpus_asked_for_as_gres_are_counted() -> None:
    assert only(findings(slurm(gres="gpu:a100:8", time="1h"), CARDS), "error").name == "gpus"


def test_no_node_that_has_all_at_once_is_an_error() -> None:
    mixed = Partition("mixed", types=(SMALL, GPU), nodes=14)
    many = NodeType(nodes=1, usable=1, cores=64, memory=32 * GB, gpus=0)

    checks = findings(
        slurm(workers=64, memory="100GB", time="1h"), Partition("m", types=(*mixed.types, many))
    )

    assert "has all of what a job asks for: 64 cores, 100 GiB" in only(checks, "error").what


def test_memory_that_slurm_does_not_know_is_not_judged() -> None:
    unknown = Partition("p", types=(NodeType(1, 1, cores=4, memory=0, gpus=0),), nodes=1)

    assert findings(slurm(memory="100GB", time="1h"), unknown) == []


def test_nodes_that_fit_but_are_down_are_a_warning() -> None:
    gone = NodeType(nodes=2, usable=0, cores=64, memory=512 * GB, gpus=0)
    partition = Partition("p", types=(SMALL, gone), nodes=12)

    warning = only(findings(slurm(workers=64, time="1h"), partition), "warning")

    assert warning.what.startswith("the 2 nodes of partition 'p' that are large enough")


def test_a_constraint_that_no_node_has_is_told_with_the_nearest() -> None:
    error = only(findings(slurm(constraint="a10", time="1h"), CARDS), "error")

    assert "did you mean 'a100'?" in error.what
    assert error.remedy == "its nodes have a100, new"


def test_an_expression_of_constraints_is_left_to_slurm() -> None:
    assert findings(slurm(constraint="new&nvme", time="1h"), CARDS) == []


def test_more_nodes_for_a_job_than_the_partition_has_is_an_error() -> None:
    assert only(findings(slurm(nodes=5, time="1h"), CARDS), "error").name == "nodes"


# Limits ------------------------------------------------------------------------------------------


def test_more_jobs_than_may_be_queued_names_target_jobs() -> None:
    limits = Limits(submitted={"QOSMaxSubmitJobPerUserLimit": 100, "AssocMaxSubmitJobLimit": 500})

    (warning,) = limit_findings(120, limits)

    assert warning.severity == "warning"
    assert warning.what.startswith(
        "120 jobs are more than the 100 that you may have queued (QOSMaxSubmitJobPerUserLimit); "
    )
    assert "target_jobs=99" in warning.remedy


def test_an_array_size_is_no_limit_as_arrays_are_split() -> None:
    assert list(limit_findings(5000, Limits(array_size=1001))) == []


def test_a_run_that_would_fill_the_controller_is_a_warning() -> None:
    (warning,) = limit_findings(6000, Limits(job_count=10_000))

    assert (warning.severity, warning.name) == ("warning", "limits")


def test_more_jobs_than_the_controller_holds_is_an_error() -> None:
    (error,) = limit_findings(20_000, Limits(job_count=10_000))

    assert error.severity == "error"


def test_jobs_that_take_turns_are_worth_knowing() -> None:
    (info,) = limit_findings(10, Limits(running={"QOSMaxJobsPerUserLimit": 4}))

    assert info.what == "4 of 10 jobs may run at once (QOSMaxJobsPerUserLimit); the others wait"


# Where things lie --------------------------------------------------------------------------------


def test_a_root_on_a_disk_of_this_machine_is_a_warning(tmp_path: Path) -> None:
    checks = checked(slurm(time="1h", root="/data/runs"), mounts=ON_DISK)

    assert [c.name for c in checks if c.severity == "warning"] == ["root"]


def test_where_all_nodes_are_this_machine_its_disks_will_do() -> None:
    cluster = Cluster(nodes_are={host()})

    checks = checked(slurm(time="1h", root="/data/runs"), cluster, mounts=ON_DISK)

    assert [c for c in checks if c.severity == "warning"] == []


def test_a_controller_that_is_away_for_a_moment_keeps_nothing_from_being_submitted() -> None:
    class Away(Cluster):
        def partitions(self) -> list[Partition]:
            words = "Unable to contact slurm controller (connect failure)"
            raise SlurmError("scontrol", words, f"scontrol failed: {words}", passing=True)

    found = [c for c in checked(slurm(time="1h"), Away()) if c.name == "slurm"]

    assert [c.severity for c in found] == ["warning"]
