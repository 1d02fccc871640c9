"""Runs on SLURM as the backend starts, watches and ends them; the cluster is played by programs
whose tasks really run.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_fixture import FakeSlurm, replace
from support import beat, write_run

import flowdist
from flowdist import Flow, Plan, Run, flow, local, param_grid, retry_oom, slurm
from flowdist.backends.base import Handle, JobState
from flowdist.backends.slurm.backend import LONGEST_PAUSE, SlurmBackend
from flowdist.backends.slurm.client import SlurmClient
from flowdist.clock import ManualClock
from flowdist.errors import BackendError
from flowdist.phases import row_phases
from flowdist.store import JobAttempt, RunFiles

PATIENCE = 60.0
# What sbatch says where a limit of the user's jobs is met.
TOO_MANY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


def square(x: int) -> dict[str, int]:
    return {"y": x * x}


def squares(rows: int, root: Path, **plan: Any) -> Flow:
    described: dict[str, Any] = {"memory": "300MB", "time": "5min", "root": root, **plan}
    return flow(param_grid(x=range(rows))).stage("sq", square).distribute(slurm(**described))


def collected(run: Run) -> list[int]:
    found: list[int] = run.wait(PATIENCE).collect()["sq.y"].tolist()
    return found


# Starting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", ["static", "queue"])
def test_a_run_is_one_array_and_gives_its_table(
    fake: FakeSlurm, tmp_path: Path, dispatch: str
) -> None:
    run = squares(20, tmp_path, target_jobs=2, dispatch=dispatch).submit()

    assert collected(run) == [x * x for x in range(20)]
    assert len(fake.arrays()) == 1
    assert fake.array(fake.arrays()[0])["name"] == run.id


def test_arrays_are_no_larger_than_the_cluster_takes(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.set(max_array_size=4)

    run = squares(10, tmp_path, chunks_per_job=1).submit()

    assert [len(fake.states(number)) for number in fake.arrays()] == [4, 4, 2]
    assert collected(run) == [x * x for x in range(10)]


def test_what_sbatch_refuses_is_told_in_its_words_and_the_run_can_be_resumed(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    words = "Batch job submission failed: Job script not specified"
    flow_ = squares(4, tmp_path)
    fake.set(max_array_size=2)
    real = fake.bin / "sbatch"
    works = real.read_text()
    # The first array is taken, the second refused.
    count = tmp_path / "count"
    replace(
        fake,
        "sbatch",
        f'case "$*" in *test-only*) exit 0;; esac\n'
        f'if [ -e {count} ]; then cat > /dev/null; echo "sbatch: error: {words}" >&2; exit 1; fi\n'
        f"touch {count}\n" + works.partition("\n")[2],
    )

    with pytest.raises(BackendError, match=f"was not started: .*{words}"):
        flow_.submit()

    (run,) = flowdist.runs(tmp_path)
    status = run.wait(PATIENCE).status()
    assert status.state == "failed"
    assert words in status.reason
    real.write_text(works)
    assert collected(run.resume()) == [0, 1, 4, 9]


SUBMITTER = """
import sys
from pathlib import Path
here = Path(sys.argv[1])
sys.path[:0] = [str(here), str(here.parent)]
from test_slurm_backend import squares
squares(6, Path(sys.argv[2]), target_jobs=3).submit()
"""


def test_a_submitter_that_dies_with_the_id_in_its_hands_leaves_a_run_that_goes_on(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    works = (fake.bin / "sbatch").read_text().partition("\n")[2].replace("exec ", "")
    replace(
        fake,
        "sbatch",
        f'case "$*" in *test-only*) exit 0;; esac\n{works}\nkill -9 $PPID',
    )
    words = [sys.executable, "-c", SUBMITTER, str(Path(__file__).parent), str(tmp_path)]
    died = subprocess.run(words, capture_output=True, timeout=PATIENCE, check=False)

    (run,) = flowdist.runs(tmp_path)
    assert died.returncode == -9
    assert not run.files.path(run.files.launch(1)).exists()
    assert collected(run) == [0, 1, 4, 9, 16, 25]
    assert run.resume().status().attempt == 1
    assert len(fake.arrays()) == 1


def test_a_submitter_that_dies_before_it_submits_leaves_a_run_to_resume(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    replace(fake, "sbatch", 'case "$*" in *test-only*) exit 0;; esac\nkill -9 $PPID')
    words = [sys.executable, "-c", SUBMITTER, str(Path(__file__).parent), str(tmp_path)]
    subprocess.run(words, capture_output=True, timeout=PATIENCE, check=False)

    (run,) = flowdist.runs(tmp_path)
    status = run.status()
    assert status.state == "lost"
    assert "never submitted" in status.reason


def test_an_array_that_was_submitted_twice_runs_once(fake: FakeSlurm, tmp_path: Path) -> None:
    run = squares(4, tmp_path, target_jobs=2).submit()
    (first,) = fake.arrays()
    script = fake.array(first)["asked"]
    assert collected(run) == [0, 1, 4, 9]

    task = [sys.executable, "-m", "flowdist.backends.slurm.task", str(run.directory), "1", "0", "0"]
    environment = {"SLURM_ARRAY_JOB_ID": "999", "SLURM_ARRAY_TASK_ID": "0", "PATH": "/bin"}
    second = subprocess.run(task, env=environment, capture_output=True, text=True, timeout=60)

    assert script
    assert second.returncode == 0
    assert f"array 999 was submitted a second time; {first} runs its jobs" in second.stderr
    assert len(run.files.parts()) == 2


# Limits of the user's jobs -----------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [5, 7, 8])
def test_where_only_some_jobs_may_be_queued_the_others_follow_without_anybody(
    fake: FakeSlurm, tmp_path: Path, jobs: int
) -> None:
    fake.set(limits={"AssocMaxSubmitJobLimit": 4})

    run = squares(jobs, tmp_path, chunks_per_job=1).submit()

    assert collected(run) == [x * x for x in range(jobs)]
    assert run.status().attempt > 1


def two_phases(rows: int, root: Path, **plan: Any) -> Flow:
    described: dict[str, Any] = {"time": "5min", "memory": "300MB", "root": root, **plan}
    stages = flow(param_grid(x=range(rows)), retry=plan.pop("retry", None))
    stages = stages.stage("a", lambda x: {"n": x}).stage("b", lambda a: a["n"] + 1)
    described["stages"] = {"b": {"partition": "gpu"}}
    return stages.distribute(slurm(chunks_per_job=1, **described))


def test_phases_go_in_turns_together(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.set(limits={"AssocMaxSubmitJobLimit": 6})

    run = two_phases(5, tmp_path).submit().wait(PATIENCE)

    assert run.collect()["b.value"].tolist() == [1, 2, 3, 4, 5]


def test_a_reduce_for_which_there_is_no_room_follows(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.set(limits={"AssocMaxSubmitJobLimit": 4})
    stages = squares(4, tmp_path, chunks_per_job=1).reduce("total", lambda sq: int(sq["y"].sum()))

    run = stages.submit().wait(PATIENCE)

    assert run.table("total")["value"].tolist() == [14]


def test_a_keeper_for_which_there_is_no_room_takes_the_place_of_a_job(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    fake.set(limits={"AssocMaxSubmitJobLimit": 4})
    stages = flow(param_grid(x=range(4)), retry=retry_oom()).stage("sq", square)
    plan = slurm(memory="300MB", time="5min", root=tmp_path, chunks_per_job=1)

    run = stages.reduce("total", lambda sq: len(sq)).distribute(plan).submit()

    assert collected(run) == [0, 1, 4, 9]
    assert run.table("total")["value"].tolist() == [4]


def test_turns_that_get_nowhere_come_to_an_end(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.set(limits={"AssocMaxSubmitJobLimit": 4})
    broken = ['[ -z "$SLURM_ARRAY_TASK_ID" ] || exit 1']

    run = squares(7, tmp_path, chunks_per_job=1, setup=broken).submit().wait(PATIENCE)

    assert run.status().state == "failed"
    assert run.files.attempts() == [1]


# State -------------------------------------------------------------------------------------------


def watched(
    fake: FakeSlurm, directory: Path, jobs: int, **tasks: Any
) -> tuple[SlurmBackend, Handle, ManualClock]:
    """A launch of `jobs` jobs as one array that is there; `tasks` are those of `fake.add`."""
    clock = ManualClock(time.time())
    files = write_run(directory, rows=jobs, jobs=jobs)
    number = fake.add(directory.name, **tasks)
    files.put_json(files.intent(1), {"time": clock.time(), "jobs": list(range(jobs))})
    array = {"id": number, "number": 0, "phase": 0, "base": 0, "tasks": f"0-{jobs - 1}"}
    started = {"time": clock.time() - 120, "error": "", "arrays": [{**array, "count": jobs}]}
    files.put_json(files.launch(1), started)
    backend = SlurmBackend(clock, SlurmClient(clock, seed=1), random.Random(1))
    return backend, Handle(files, 1, range(jobs), started), clock


def test_ten_thousand_jobs_take_one_command(fake: FakeSlurm, tmp_path: Path) -> None:
    states = {"done": range(6000), "running": range(6000, 9000), "pending": range(9000, 10_000)}
    backend, handle, _ = watched(fake, tmp_path / "run", 10_000, **states)

    found = backend.poll(handle)

    counts = {s: sum(state is s for state in found.values()) for s in set(found.values())}
    assert counts == {JobState.DONE: 6000, JobState.RUNNING: 3000, JobState.PENDING: 1000}
    assert fake.calls() == 1


def test_no_command_is_needed_where_the_jobs_have_said_all(fake: FakeSlurm, tmp_path: Path) -> None:
    backend, handle, _ = watched(fake, tmp_path / "run", 2, running=range(2))
    for job in range(2):
        handle.files.put_beat(JobAttempt(job, 1), beat("done"))

    assert set(backend.poll(handle).values()) == {JobState.DONE}
    assert fake.calls() == 0


def test_slurm_is_asked_less_and_less_often_while_nothing_changes(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    backend, handle, clock = watched(fake, tmp_path / "run", 1, pending=[0])
    asked: list[float] = []
    for _ in range(3000):
        before = fake.calls()
        backend.poll(handle)
        if fake.calls() > before:
            asked.append(clock.monotonic())
        clock.advance(0.5)
        if len(asked) > 11:
            break

    pauses = [b - a for a, b in itertools.pairwise(asked)]
    assert 1.5 <= pauses[0] <= 3.0
    assert max(pauses) <= LONGEST_PAUSE * 1.2 + 0.5
    assert pauses[-1] >= LONGEST_PAUSE * 0.8


@pytest.mark.parametrize("accounting", ["off", "down"])
def test_the_queue_is_asked_where_accounting_does_not_answer(
    fake: FakeSlurm, tmp_path: Path, accounting: str
) -> None:
    fake.set(accounting=accounting)
    backend, handle, _ = watched(fake, tmp_path / "run", 3, running=[0], pending=[1], done=[2])

    assert backend.poll(handle) == {
        0: JobState.RUNNING, 1: JobState.PENDING, 2: JobState.DONE
    }  # fmt: skip


def test_jobs_that_accounting_has_not_heard_of_are_looked_for_in_the_queue(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    fake.set(accounting_lag=3600.0)
    backend, handle, _ = watched(fake, tmp_path / "run", 2, running=[0, 1])
    run = squares(2, tmp_path, target_jobs=1).submit()

    assert set(backend.poll(handle).values()) == {JobState.RUNNING}
    assert collected(run) == [0, 1]


def test_where_nothing_answers_nothing_is_said_to_have_ended(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    backend, handle, _ = watched(fake, tmp_path / "run", 2, running=[0, 1])
    handle.files.put_beat(JobAttempt(1, 1), beat())
    for command in ("sacct", "squeue"):
        fake.fail(command, "Unable to contact slurm controller (connect failure)", times=9)

    assert backend.poll(handle) == {0: JobState.UNKNOWN, 1: JobState.RUNNING}


def test_jobs_that_accounting_cannot_know_are_not_lost_while_the_controller_is_away(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    backend, handle, _ = watched(fake, tmp_path / "run", 2, running=[0], pending=[1])
    fake.fail("squeue", "Unable to contact slurm controller (connect failure)", times=9)

    assert backend.poll(handle) == {0: JobState.RUNNING, 1: JobState.UNKNOWN}


def test_a_job_that_has_left_the_queue_is_told_from_those_that_wait(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    tasks = {"failed": [0], "state": "OUT_OF_MEMORY", "pending": [1, 2]}
    backend, handle, clock = watched(fake, tmp_path / "run", 3, **tasks)
    handle.files.put_beat(JobAttempt(0, 1), beat())
    fake.set(min_job_age=0.0)
    clock.advance(1.0)

    assert backend.poll(handle)[0] is JobState.OUT_OF_MEMORY


def test_jobs_that_slurm_no_longer_knows_are_lost(fake: FakeSlurm, tmp_path: Path) -> None:
    backend, handle, _ = watched(fake, tmp_path / "run", 2, running=[0, 1])
    started: Any = handle.started
    fake.forget(started["arrays"][0]["id"])

    assert set(backend.poll(handle).values()) == {JobState.LOST}
    assert backend.ending(handle, backend.poll(handle))[0] == "lost"


def test_why_jobs_wait_is_said(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.hold("QOSMaxJobsPerUserLimit")
    run = squares(4, tmp_path, target_jobs=2).submit()

    told = run.explain()

    assert told.summary.startswith("It has not begun: 2 jobs pending for ")
    assert "QOSMaxJobsPerUserLimit" in told.summary
    fake.release()
    assert collected(run) == [0, 1, 4, 9]


# Ending ------------------------------------------------------------------------------------------


def slow(x: int) -> int:
    time.sleep(0.05)
    return x


def slowly(rows: int, root: Path, **plan: Any) -> Flow:
    described: dict[str, Any] = {"memory": "300MB", "time": "5min", "root": root, **plan}
    return flow(param_grid(x=range(rows))).stage("slow", slow).distribute(slurm(**described))


def rows_done(run: Run) -> int:
    return sum(int(b["ok"]) for _, b in run.files.beats())


def test_cancel_keeps_what_is_done_and_resume_runs_the_rest(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    fake.set(kill_wait=20.0)
    run = slowly(200, tmp_path, target_jobs=2).submit()
    fake.wait(lambda: rows_done(run) > 2)

    status = run.cancel().status()

    assert status.state == "stopped"
    assert status.reason.startswith("cancelled; ")
    assert 0 < status.done < 200
    assert status.failed == 0
    run.resume().cancel()
    assert run.status().done >= status.done


def test_a_job_whose_node_failed_is_started_again_and_goes_on(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    run = slowly(60, tmp_path, target_jobs=1).submit()
    fake.wait(lambda: rows_done(run) > 2)
    (number,) = fake.arrays()

    fake.kill(number, 0, "NODE_FAIL")

    assert run.wait(PATIENCE).collect()["slow.value"].tolist() == list(range(60))
    assert run.status().attempt == 1


def test_what_is_cancelled_while_it_is_being_submitted_does_not_run(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    fake.hold("Priority")
    works = (fake.bin / "sbatch").read_text().partition("\n")[2].replace("exec ", "")
    stop = "for run in " + f"{tmp_path}/squares-*; do mkdir -p $run/events; "
    stop += 'echo \'{"reason": "cancelled"}\' > $run/events/stop-0001.jsonl; done'
    replace(fake, "sbatch", f'{works}\ncase "$*" in *parsable*) {stop};; esac')

    run = squares(2, tmp_path).submit("squares")

    (number,) = fake.arrays()
    fake.wait_for(number, "CANCELLED")
    assert run.wait(PATIENCE).status().state == "stopped"


def test_a_recovered_launch_has_its_keeper(fake: FakeSlurm, tmp_path: Path) -> None:
    plan = slurm(target_jobs=2, memory="300MB", time="5min", root=tmp_path)
    stages = flow(param_grid(x=range(4)), retry=retry_oom()).stage("sq", square)
    run = stages.reduce("total", lambda sq: len(sq)).distribute(plan).submit().wait(PATIENCE)
    record = run.files.path(run.files.launch(1))
    before = json.loads(record.read_text())["arrays"]
    record.unlink()
    intent = run.files.path(run.files.intent(1))
    intent.write_text(json.dumps({**json.loads(intent.read_text()), "pid": 0}))

    assert flowdist.attach(run.directory).status().state == "done"
    assert json.loads(record.read_text())["arrays"] == before


def test_logs_are_those_of_the_task(fake: FakeSlurm, tmp_path: Path) -> None:
    def speak(x: int) -> int:
        sys.stdout.write(f"row {x} speaks\n")
        return x

    plan = slurm(target_jobs=2, memory="300MB", time="5min", root=tmp_path)
    run = flow(param_grid(x=range(4))).stage("f", speak).distribute(plan).submit().wait(PATIENCE)

    assert {line for line in run.logs(1) if "speaks" in line} == {"row 2 speaks", "row 3 speaks"}
    assert sum("speaks" in line for line in run.logs()) == 4


# More of what was short --------------------------------------------------------------------------


def test_jobs_that_ran_out_of_memory_are_started_again_with_more_while_nobody_is_there(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    plan: Plan = slurm(target_jobs=2, memory="300MB", time="5min", root=tmp_path)
    policy = retry_oom(memory=2, max="500MB")
    run = flow(param_grid(x=range(80)), retry=policy).stage("slow", slow).distribute(plan).submit()
    fake.wait(lambda: rows_done(run) > 2)
    rows, keeper = fake.arrays()

    fake.kill(rows, 0, "OUT_OF_MEMORY")
    fake.wait(lambda: len(fake.arrays()) > 2, timeout=PATIENCE)

    again = fake.arrays()[2]
    assert fake.array(again)["asked"]["mem"] == "500M"
    assert list(fake.states(again)) == [0]
    assert not fake.array(keeper)["is_array"]
    assert run.wait(PATIENCE).collect()["slow.value"].tolist() == list(range(80))


def test_rows_that_raise_for_want_of_memory_run_again_in_larger_jobs(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    def greedy(x: int, ctx: flowdist.Context) -> int:
        if x == 2 and ctx.time_left is not None and not Path(marker).exists():
            Path(marker).touch()
            raise MemoryError("too much")
        return x

    marker = str(tmp_path / "tried")
    plan = slurm(target_jobs=2, memory="300MB", time="5min", root=tmp_path)
    stages = flow(param_grid(x=range(4)), retry=retry_oom()).stage("f", greedy)
    run = stages.distribute(plan).submit()

    assert run.wait(PATIENCE).collect()["f.value"].tolist() == [0, 1, 2, 3]
    assert run.manifest["escalates"]
    assert fake.array(fake.arrays()[2])["asked"]["mem"] == "600M"


def test_a_run_whose_policies_never_ask_for_more_has_no_keeper(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    run = squares(2, tmp_path).submit().wait(PATIENCE)

    assert not run.manifest["escalates"]
    assert len(fake.arrays()) == 1


# Phases ------------------------------------------------------------------------------------------


def test_stages_with_needs_of_their_own_have_jobs_of_their_own(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    plan = slurm(target_jobs=2, time="5min", root=tmp_path, stages={"b": {"partition": "gpu"}})
    stages = flow(param_grid(x=range(6))).stage("a", lambda x: {"n": x}, resources={"cpus": 2})
    stages = stages.stage("b", lambda a: a["n"] + 1, resources={"memory": "200MB"})
    run = stages.reduce("total", lambda b: int(b["value"].sum())).distribute(plan).submit()

    first, second, reduce = (fake.array(number)["asked"] for number in fake.arrays())
    assert [p["table"] for p in row_phases(run.manifest)] == ["rows.1", "rows.2"]
    assert (first["cpus-per-task"], second["cpus-per-task"]) == ("2", "1")
    assert (second["partition"], second["mem"]) == ("gpu", "200M")
    assert second["dependency"] == f"aftercorr:{fake.arrays()[0]}"
    assert reduce["dependency"] == f"afterany:{fake.arrays()[1]}"
    assert run.wait(PATIENCE).collect()["b.value"].tolist() == [1, 2, 3, 4, 5, 6]
    assert run.table("total")["value"].tolist() == [21]


def test_local_runs_have_one_phase_whatever_stages_need(tmp_path: Path) -> None:
    stages = flow(param_grid(x=range(2))).stage("a", lambda x: x, resources={"cpus": 2})
    run = stages.stage("b", lambda a: a).distribute(local(root=tmp_path, workers=1)).submit()

    assert len(row_phases(run.wait(PATIENCE).manifest)) == 1
    assert RunFiles.at(run.directory).manifest()["phases"][0]["table"] == "rows"
