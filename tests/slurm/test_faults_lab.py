"""What goes wrong on a real cluster, and that the run ends with the tables of a run here all the
same.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab_support import (
    PATIENCE,
    SMALL,
    _no_job_is_left,  # noqa: F401
    call,
    finish,
    job_processes,
    launch_of,
    no_row_was_kept_twice,
    node_of,
    queued,
    same_tables,
    small_flow,
    submissions,
    submit,
    task_of,
    until,
    until_rows,
    wrap,
)

from flowdist import attach, flow, param_grid, runs, slurm, slurm_queue
from flowdist.errors import BackendError, RunError
from flowdist.retry import retry_oom, retry_timeout

if TYPE_CHECKING:
    from conftest import Lab

pytestmark = [pytest.mark.slow, pytest.mark.fault]

# Of tests that leave the cluster itself alone.
shared = pytest.mark.usefixtures("lab")


# The submitter ------------------------------------------------------------------------------------


SUBMITTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from lab_support import SMALL, small_flow, submit
from flowdist import slurm
submit(small_flow(seconds=0.2), slurm(target_jobs=2, workers=1, root=Path(sys.argv[2]), **SMALL))
"""


@shared
@pytest.mark.parametrize("which", [1, 2])
def test_a_submitter_killed_before_it_heard_of_its_jobs_has_started_them_once(
    which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After the first array only the rows' jobs are there, after the second the reduce's too.
    count = tmp_path / "count"
    wrap(
        monkeypatch,
        tmp_path / "bin",
        "sbatch",
        [
            'case "$*" in *test-only*) exec $REAL "$@";; esac',
            'answer=$($REAL "$@") || exit',
            f"echo >>{count}",
            f"[ $(wc -l <{count}) -lt {which} ] || kill -KILL $PPID",
            'echo "$answer"',
        ],
    )
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", SUBMITTER, here, tmp_path], timeout=PATIENCE)
    monkeypatch.undo()
    assert done.returncode == -signal.SIGKILL

    (run,) = runs(root=tmp_path)
    assert run.files.read_json(run.files.launch(1)) is None
    assert submissions(run) == which
    run.wait(PATIENCE)

    assert [a["id"] for a in launch_of(run)["arrays"]] == sorted(
        {int(task.partition("_")[0]) for task in queued(run)}
    )
    assert submissions(run) == which
    assert run.status().done == 24
    if which == 1:
        # Nobody was left to submit the reduce.
        assert run.status().state != "done"
        run.resume().wait(PATIENCE)
        assert len(launch_of(run)["arrays"]) == 1
    same_tables(run, small_flow(), tmp_path)
    no_row_was_kept_twice(run)


@shared
def test_a_run_whose_submitter_died_is_not_resumed_while_its_jobs_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrap(
        monkeypatch,
        tmp_path / "bin",
        "sbatch",
        ['case "$*" in *test-only*) exec $REAL "$@";; esac', '$REAL "$@" && kill -KILL $PPID'],
    )
    here = Path(__file__).parent
    subprocess.run([sys.executable, "-c", SUBMITTER, here, tmp_path], timeout=PATIENCE)
    monkeypatch.undo()
    (run,) = runs(root=tmp_path)

    state = run.status().state
    with pytest.raises(RunError, match=r"is (pending|running)"):
        run.resume()

    assert state in ("pending", "running")
    assert run.files.attempts() == [1]
    assert submissions(run) == 1
    same_tables(finish(run), small_flow(), tmp_path)


# sbatch -------------------------------------------------------------------------------------------


@shared
def test_sbatch_that_fails_twice_is_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, it = tmp_path / "count", small_flow()
    wrap(
        monkeypatch,
        tmp_path / "bin",
        "sbatch",
        [
            'case "$*" in *test-only*) exec $REAL "$@";; esac',
            f"echo >>{count}",
            f"[ $(wc -l <{count}) -gt 2 ] || {{",
            "  echo 'sbatch: error: Batch job submission failed: Socket timed out' >&2",
            # The first time it had worked all the same.
            f'  [ $(wc -l <{count}) -gt 1 ] || $REAL "$@" >/dev/null',
            "  exit 1",
            "}",
            'exec $REAL "$@"',
        ],
    )

    run = submit(it, slurm(target_jobs=2, workers=1, root=tmp_path, **SMALL))

    assert submissions(run) == len(launch_of(run)["arrays"]) == 2
    same_tables(run.wait(PATIENCE), it, tmp_path)
    no_row_was_kept_twice(run)


@shared
def test_what_slurm_says_when_it_refuses_is_the_error_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, it = tmp_path / "count", small_flow()
    # The array of the rows is taken, that of the reduce is refused.
    refusal = "sbatch: error: Batch job submission failed: Invalid account"
    wrap(
        monkeypatch,
        tmp_path / "bin",
        "sbatch",
        [
            'case "$*" in *test-only*) exec $REAL "$@";; esac',
            f"echo >>{count}",
            f"[ $(wc -l <{count}) = 1 ] || {{ echo '{refusal}' >&2; exit 1; }}",
            'exec $REAL "$@"',
        ],
    )

    with pytest.raises(BackendError, match="Invalid account") as caught:
        submit(it, slurm(target_jobs=2, workers=1, root=tmp_path, **SMALL))
    monkeypatch.undo()

    (run,) = runs(root=tmp_path)
    assert f"flowdist resume {run.id} starts it" in str(caught.value)
    until(lambda: not queued(run, "pending,running,completing"), "what was taken is cancelled")
    assert run.status().state == "failed"
    assert "Invalid account" in run.status().reason
    same_tables(run.resume().wait(PATIENCE), it, tmp_path)


# Time limits --------------------------------------------------------------------------------------


@shared
def test_a_job_stops_before_its_time_limit_and_starts_itself_again_until_all_is_done(
    tmp_path: Path,
) -> None:
    it = small_flow(36, seconds=0.3)
    run = submit(it, slurm(target_jobs=1, workers=1, memory="300MB", time="8s", resubmit=True,
                           root=tmp_path)).wait(PATIENCE)  # fmt: skip

    assert run.files.attempts() == [1]
    assert starts(run.id) >= 3  # the job twice or more, and the reduce
    same_tables(run, small_flow(36), tmp_path)
    no_row_was_kept_twice(run)


@shared
def test_a_job_that_came_to_its_time_limit_says_so_and_can_be_resumed(tmp_path: Path) -> None:
    it = small_flow(24, seconds=0.3)
    run = submit(it, slurm_queue(nodes=1, cores_per_node=1, memory="300MB", time="6s",
                                 root=tmp_path)).wait(PATIENCE)  # fmt: skip

    status = run.status()
    assert status.state == "stopped"
    assert "1 job came to the time limit (job 0" in status.reason
    assert "give jobs more time=" in str(run.explain())
    same_tables(finish(run), small_flow(24), tmp_path)
    no_row_was_kept_twice(run)


@shared
def test_rows_that_need_longer_than_a_job_has_get_jobs_with_more_time(tmp_path: Path) -> None:
    def slow(x: int) -> int:
        time.sleep(6 if x == 1 else 0)
        return x * x

    it = flow(param_grid(x=range(4)), retry=retry_timeout(time=5)).stage("slow", slow)
    run = submit(it, slurm(target_jobs=2, workers=1, memory="300MB", time="5s", root=tmp_path))

    ended_by_itself(run)

    assert run.files.attempts() == [1, 2]
    assert run.files.read_json(run.files.intent(2))["jobs"] == [0]
    same_tables(run, it, tmp_path)


def starts(run_id: str) -> int:
    """How often SLURM has started jobs of a run."""
    lines = call("sacct", "-X", "-D", "-n", "-P", f"--name={run_id}", "--format=JobID,Start")
    return sum("Unknown" not in line and "None" not in line for line in lines.split())


def ended_by_itself(run: Any) -> None:
    """Wait until a run is done while nothing looks after it but its own jobs."""
    rows = run.rows
    done = {"rows": 0}

    def ended() -> bool:
        # From its files alone, so that nothing here can start or find anything.
        from flowdist.parts import OK
        from flowdist.states import row_states

        done["rows"] = int((row_states(run.files, rows) == OK).sum())
        return done["rows"] == rows

    until(ended, f"all rows of {run.id} have gone well")
    run.wait(PATIENCE)


# Memory -------------------------------------------------------------------------------------------


def hungry(x: int, megabytes: int) -> int:
    held = bytearray(megabytes << 20 if x == 2 else 1)
    for place in range(0, len(held), 4096):
        held[place] = 1
    time.sleep(3 if x == 2 else 0)
    return x * x


@shared
def test_jobs_that_run_out_of_memory_get_more_while_nobody_is_there(tmp_path: Path) -> None:
    policy = retry_oom(memory=3, max="2GB")
    it = flow(param_grid(x=range(6)), const={"megabytes": 300}, retry=policy)
    it = it.stage("hungry", hungry)
    run = submit(it, slurm(target_jobs=3, workers=1, memory="250MB", time="5min", root=tmp_path))

    ended_by_itself(run)

    assert run.files.attempts() == [1, 2]
    again = run.files.read_json(run.files.intent(2))
    assert again["jobs"] == [1]
    assert again["scale"] == {"rows": {"memory": 3.0}}
    same_tables(run, it, tmp_path)


@shared
def test_a_job_that_ran_out_of_memory_says_so_and_names_its_node(tmp_path: Path) -> None:
    it = flow(param_grid(x=range(6)), const={"megabytes": 300}).stage("hungry", hungry)
    run = submit(it, slurm(target_jobs=3, workers=1, memory="250MB", time="5min", root=tmp_path))

    status = run.wait(PATIENCE).status()

    assert status.state == "failed"
    assert "1 job ran out of memory (job 1 on n" in status.reason
    assert "retry_oom(memory=2, max=...)" in str(run.explain())
    assert status.jobs["out of memory"] == 1


@shared
def test_rows_that_raise_memory_error_run_again_in_jobs_with_more(tmp_path: Path) -> None:
    def picky(x: int) -> int:
        if x == 2 and int(os.environ["SLURM_MEM_PER_NODE"]) < 500:
            raise MemoryError("not with so little")
        return x

    it = flow(param_grid(x=range(6)), retry=retry_oom(memory=2)).stage("picky", picky)
    run = submit(it, slurm(target_jobs=3, workers=1, memory="300MB", time="5min", root=tmp_path))

    ended_by_itself(run)

    assert run.files.attempts() == [1, 2]
    assert run.files.read_json(run.files.intent(2))["jobs"] == [1]
    assert run.collect()["picky.value"].tolist() == list(range(6))


# Jobs that are ended ------------------------------------------------------------------------------


@shared
def test_a_task_that_is_requeued_goes_on_with_what_is_left(tmp_path: Path) -> None:
    it = small_flow(24, seconds=0.4)
    run = submit(it, slurm(target_jobs=2, workers=1, root=tmp_path, **SMALL))
    until_rows(run, 4)

    for job in (0, 1):
        call("scontrol", "requeue", task_of(run, job))
    run.wait(PATIENCE)

    assert run.files.attempts() == [1]
    assert starts(run.id) == 5
    same_tables(run, small_flow(24), tmp_path)
    no_row_was_kept_twice(run)


@shared
@pytest.mark.parametrize("dispatch", ["static", "queue"])
def test_what_a_cancelled_task_left_is_resumed(dispatch: str, tmp_path: Path) -> None:
    it = small_flow(24, seconds=0.4)
    run = submit(it, slurm(target_jobs=2, workers=1, dispatch=dispatch, root=tmp_path, **SMALL))
    until_rows(run, 4)

    call("scancel", task_of(run, 1))
    status = run.wait(PATIENCE).status()

    if dispatch == "static":
        assert status.state == "stopped"
        assert "1 job was cancelled (job 1" in status.reason
        assert run.resume()._handle().jobs[:-1] == [1]
    same_tables(finish(run), small_flow(24), tmp_path)
    no_row_was_kept_twice(run)


@shared
def test_a_preempted_job_is_started_again(tmp_path: Path) -> None:
    it = small_flow(24, seconds=0.4)
    plan = slurm(target_jobs=1, workers=4, memory="1GB", time="5min", partition="scavenger",
                 extra={"nodelist": "n4"}, root=tmp_path)  # fmt: skip
    run = submit(it, plan)
    until_rows(run, 4)

    call("sbatch", "-J", f"intruder-{run.id}", "-p", "debug", "-w", "n4", "-c", "4", "--mem=100",
         "-t", "1", "-o", "/dev/null", "--wrap", "sleep 2")  # fmt: skip
    run.wait(PATIENCE)

    assert "PREEMPTED" in history(run.id)
    assert run.files.attempts() == [1]
    same_tables(run, small_flow(24), tmp_path)
    no_row_was_kept_twice(run)


@shared
def test_a_killed_job_process_is_a_failed_job_whose_rows_resume_starts(tmp_path: Path) -> None:
    it = small_flow(24, seconds=0.3)
    run = submit(it, slurm(target_jobs=2, workers=1, root=tmp_path, **SMALL))
    until_rows(run, 2)

    victim, *_ = job_processes(run)
    victim.kill()
    status = run.wait(PATIENCE).status()

    assert status.state == "failed"
    assert "with signal 9)" in status.reason
    same_tables(finish(run), small_flow(24), tmp_path)
    no_row_was_kept_twice(run)


# The cluster --------------------------------------------------------------------------------------

# A job for each node.
SPREAD: dict[str, Any] = {"target_jobs": 4, "workers": 1, "cores_per_node": 3, **SMALL}


def test_jobs_of_a_node_that_dies_go_on_elsewhere(lab_alone: Lab, tmp_path: Path) -> None:
    it = small_flow(48, seconds=0.4)
    run = submit(it, slurm(**SPREAD, root=tmp_path))
    until_rows(run, 8)
    node = node_of(job_processes(run)[0])

    lab_alone.down(node, noticed=True)
    run.wait(PATIENCE)

    assert run.files.attempts() == [1]
    assert any(state == "NODE_FAIL" for state in history(run.id))
    same_tables(run, small_flow(48), tmp_path)
    no_row_was_kept_twice(run)


def test_jobs_of_a_node_that_boots_anew_are_started_again(
    lab_alone: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Claims of jobs that died come to others after so long.
    monkeypatch.setattr("flowdist.submission.LEASE_SECONDS", 5.0)
    it = small_flow(48, seconds=0.4)
    run = submit(it, slurm_queue(nodes=4, cores_per_node=3, workers=1, **SMALL, root=tmp_path))
    until_rows(run, 8)
    node = node_of(job_processes(run)[0])

    lab_alone.down(node)
    lab_alone.up(node)
    run.wait(PATIENCE)

    same_tables(finish(run), small_flow(48), tmp_path)


def test_a_run_says_which_node_it_lost_and_resume_finishes_it(
    lab_alone: Lab, tmp_path: Path
) -> None:
    it = small_flow(48, seconds=0.4)
    run = submit(it, slurm(**SPREAD, requeue=False, root=tmp_path))
    until_rows(run, 8)
    node = node_of(job_processes(run)[0])

    lab_alone.down(node, noticed=True)
    status = run.wait(PATIENCE).status()

    assert status.state == "lost"
    assert (
        f"1 job lost the node (job {status.reason.split('(job ')[1][0]} on {node})" in status.reason
    )
    assert status.done >= 8
    same_tables(run.resume().wait(PATIENCE), small_flow(48), tmp_path)
    no_row_was_kept_twice(run)


def test_a_run_goes_on_while_the_controller_is_away(lab_alone: Lab, tmp_path: Path) -> None:
    it = small_flow(48, seconds=0.3)
    run = submit(it, slurm(target_jobs=2, workers=1, **SMALL, root=tmp_path))
    done = until_rows(run, 2).done

    lab_alone.stop_controller()
    until(lambda: run.status().done > done + 2, "rows end all the same")
    status, said = run.status(), str(run.explain())
    lab_alone.start_controller()

    assert status.state == "running"
    assert "SLURM does not answer: " in said
    same_tables(run.wait(PATIENCE), small_flow(48), tmp_path)
    assert run.files.attempts() == [1]
    no_row_was_kept_twice(run)


def test_a_run_is_followed_while_accounting_is_down(lab_alone: Lab, tmp_path: Path) -> None:
    it = small_flow(24, seconds=0.3)
    lab_alone.stop_accounting()
    run = submit(it, slurm(target_jobs=2, workers=1, **SMALL, root=tmp_path))
    until_rows(run, 2)

    call("scancel", task_of(run, 1))
    status = attach(run.id, root=tmp_path).wait(PATIENCE).status()

    assert status.state == "stopped"
    assert "1 job was cancelled (job 1" in status.reason
    same_tables(run.resume().wait(PATIENCE), small_flow(24), tmp_path)
    no_row_was_kept_twice(run)


def history(run_id: str) -> list[str]:
    """SLURM's states of all starts of the jobs of a run."""
    return call("sacct", "-X", "-D", "-n", "-P", f"--name={run_id}", "--format=State").split()
