"""One measurement on SLURM in a process of its own: tasks run by one contender, in a directory that
the nodes see.

Prints one line of JSON with the seconds from the tasks in memory to the results in hand. Imports
are made before the clock starts, jobs are submitted after it. Called by slurm.py::

    python benchmarks/_slurm_contenders.py CONTENDER DIRECTORY < SECONDS

where standard input is the JSON list of how long each task takes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _sleep import row

# What everybody gets: four jobs of four cores, or sixteen tasks of one.
NODES, CORES = 4, 4
WORKERS = NODES * CORES
JOB_MEMORY, TASK_MEMORY = 2_000, 500  # megabytes
MINUTES = 30

# Made before the clock starts, from how long each task takes and a directory; running it gives one
# result for each task.
Runner = Callable[[], Any]
Seconds = list[float]


# flowdist -----------------------------------------------------------------------------------------


def flowdist_plan(kind: str, seconds: Seconds, directory: Path, **options: Any) -> Runner:
    """Submit, wait and collect: a detached run, typed results, errors and times recorded."""
    import flowdist
    import flowdist.backends.slurm.backend
    import flowdist.preflight
    import flowdist.results
    import flowdist.run

    shape = {"nodes": NODES, "cores_per_node": CORES, "memory": f"{JOB_MEMORY}M"}
    make = getattr(flowdist, kind)
    plan = make(**shape, time=60 * MINUTES, root=str(directory), **options)

    def run() -> list[dict[str, float]]:
        grid = {"x": range(len(seconds)), "seconds": seconds}
        work = flowdist.flow(grid).stage("f", row, returns={"value": float}).distribute(plan)
        return [{"value": value} for value in work.collect()["f.value"].tolist()]

    return run


def flowdist_map(seconds: Seconds, directory: Path) -> Runner:
    """The one-liner over a list, which brings back the objects that the function returned."""
    import flowdist
    import flowdist.backends.slurm.backend
    import flowdist.mapping
    import flowdist.preflight
    import flowdist.results
    import flowdist.run

    shape = {"nodes": NODES, "cores_per_node": CORES, "memory": f"{JOB_MEMORY}M"}
    options: dict[str, Any] = {**shape, "time": 60 * MINUTES, "root": str(directory)}

    def run() -> list[dict[str, float]]:
        items = list(enumerate(seconds))
        return flowdist.slurm_map(lambda item: row(*item), items, **options).collect()

    return run


# Peers --------------------------------------------------------------------------------------------


def submitit_array(use_srun: bool, seconds: Seconds, directory: Path) -> Runner:
    """`map_array` as its documentation shows it, called once for as many tasks as an array of this
    cluster may have.
    """
    import submitit

    most = array_size()

    def run() -> list[dict[str, float]]:
        executor = submitit.AutoExecutor(folder=directory / "log", cluster="slurm")
        executor.update_parameters(
            timeout_min=MINUTES,
            cpus_per_task=1,
            slurm_mem=f"{TASK_MEMORY}M",
            slurm_array_parallelism=WORKERS,
            slurm_use_srun=use_srun,
        )
        jobs = []
        for first in range(0, len(seconds), most):
            some = seconds[first : first + most]
            jobs += executor.map_array(row, range(first, first + len(some)), some)
        return [job.result() for job in jobs]

    return run


def array_size() -> int:
    """How many tasks an array may have, by SLURM's MaxArraySize."""
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout
    return next(
        int(line.split("=")[1]) for line in shown.splitlines() if line.startswith("MaxArraySize")
    )


def executorlib_cluster(seconds: Seconds, directory: Path) -> Runner:
    """executorlib's executor for a login node: an sbatch for every task."""
    from executorlib import SlurmClusterExecutor

    warnings.filterwarnings("ignore", message="The following keys are not recognized")
    # Its script names a partition, and an empty one where it is told none.
    asked = {"cores": 1, "partition": default_partition(), "run_time_max": 60 * MINUTES}

    def run() -> list[dict[str, float]]:
        cache = str(directory / "cache")
        with SlurmClusterExecutor(cache_directory=cache, resource_dict=asked) as executor:
            futures = [executor.submit(row, x, s) for x, s in enumerate(seconds)]
            return [future.result() for future in futures]

    return run


def default_partition() -> str:
    """The partition that jobs go to which name none."""
    shown = subprocess.run(["sinfo", "-h", "-o", "%P"], capture_output=True, text=True).stdout
    return next(name[:-1] for name in shown.split() if name.endswith("*"))


def dask_cluster(seconds: Seconds, directory: Path) -> Runner:
    """dask-jobqueue: four jobs of four single-threaded worker processes, which start on what there
    is as soon as the first of them has called.
    """
    import dask
    from dask.distributed import Client
    from dask_jobqueue import SLURMCluster

    # What its workers say while they are told to end.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    dask.config.set({"distributed.scheduler.work-stealing": True})
    hours, minutes = divmod(MINUTES, 60)

    def run() -> list[dict[str, float]]:
        with (
            SLURMCluster(
                cores=CORES,
                processes=CORES,
                memory=f"{JOB_MEMORY}MB",
                walltime=f"{hours:02}:{minutes:02}:00",
                log_directory=str(directory / "log"),
                local_directory=str(directory / "work"),
                scheduler_options={"dashboard": False},
            ) as cluster,
            Client(cluster) as client,
        ):
            cluster.scale(jobs=NODES)
            futures = client.map(row, range(len(seconds)), seconds, pure=False)
            done = client.gather(futures)
            # Taking the cluster down is not what is compared.
            stopped.append(time.perf_counter())
            return done

    return run


# When a contender that has something to take down had all its results.
stopped: list[float] = []

# By hand ------------------------------------------------------------------------------------------

POLL_SECONDS = 0.05


def packed_by_hand(seconds: Seconds, directory: Path) -> Runner:
    """An array of four jobs, each a pool over its quarter of the list and one file of results; the
    caller looks for the files. No errors, no states, nothing that survives a job.
    """

    def run() -> list[dict[str, float]]:
        script = directory / "job.sh"
        work = directory / "work.json"
        work.write_text(json.dumps(seconds))
        words = [sys.executable, __file__, "--quarter", str(work)]
        script.write_text("#!/bin/sh\nexec '" + "' '".join(words) + "' $SLURM_ARRAY_TASK_ID\n")
        ask = [f"--array=0-{NODES - 1}", f"--cpus-per-task={CORES}", f"--mem={JOB_MEMORY}M"]
        command = ["sbatch", *ask, f"--time={MINUTES}", f"--output={directory}/%a.log", str(script)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        results: list[dict[str, float]] = []
        for place in range(NODES):
            file = work.with_suffix(f".{place}")
            while not file.exists():
                time.sleep(POLL_SECONDS)
            results += pickle.loads(file.read_bytes())
        return results

    return run


def quarter(work: Path, place: int) -> None:
    """What one of those jobs does."""
    from concurrent.futures import ProcessPoolExecutor

    seconds = json.loads(work.read_text())
    numbers = range(place * len(seconds) // NODES, (place + 1) * len(seconds) // NODES)
    with ProcessPoolExecutor(CORES) as pool:
        results = list(pool.map(row, numbers, [seconds[x] for x in numbers]))
    part = work.with_suffix(f".{place}.part")
    part.write_bytes(pickle.dumps(results))
    part.rename(work.with_suffix(f".{place}"))


CONTENDERS: dict[str, Callable[[Seconds, Path], Runner]] = {
    "hand": packed_by_hand,
    "static": partial(flowdist_plan, "slurm_allocation"),
    "queue": partial(flowdist_plan, "slurm_queue"),
    "map": flowdist_map,
    "dask": dask_cluster,
    "submitit": partial(submitit_array, True),
    "submitit-direct": partial(submitit_array, False),
    "executorlib": executorlib_cluster,
}


def check(results: list[dict[str, float]], seconds: Seconds) -> None:
    """Every task has its result; a contender that is wrong is not fast."""
    if [result["value"] for result in results] != [x + s for x, s in enumerate(seconds)]:
        raise SystemExit(f"{len(results)} results for {len(seconds)} tasks, or wrong ones")


def main(name: str, directory: str) -> None:
    seconds = [float(s) for s in json.load(sys.stdin)]
    run = CONTENDERS[name](seconds, Path(directory))
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        results = run()
    taken = (stopped[0] if stopped else time.perf_counter()) - start
    check(results, seconds)
    print(json.dumps({"seconds": taken}))


if __name__ == "__main__":
    if sys.argv[1] == "--quarter":
        quarter(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(*sys.argv[1:])
