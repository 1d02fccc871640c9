"""The daemon of the fake SLURM: starts the tasks as processes here, and ends them.

`python -S -E fake_controller.py DIRECTORY` goes on until the file `stop` is there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

import fake_state
from fake_state import Data, change

TICK_SECONDS = 0.02
# Also without a sign of it, the state is looked at after so many ticks.
IDLE_TICKS = 25


class Controller:
    """Starts, ends and watches tasks. The processes are children of this one."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.deadlines: dict[int, float] = {}  # process -> when it gets SIGKILL
        self.ends: dict[int, tuple[int, int]] = {}  # process -> exit code, signal
        self.seen: tuple[int, int, int] = (0, 0, 0)
        self.idle = 0
        self.busy = False  # whether something is due that no change of the state announces

    def run(self) -> None:
        while not os.path.exists(f"{self.directory}/stop"):
            self.tick()
            time.sleep(TICK_SECONDS)
        for data in [fake_state.read(self.directory)]:
            for _, _, task in tasks(data):
                if task["pid"]:
                    with suppress(ProcessLookupError):
                        os.killpg(task["pid"], signal.SIGKILL)

    def tick(self) -> None:
        ended = self.reap()
        # Looked at before the state is read: a change that comes in between is seen next time.
        found = os.stat(f"{self.directory}/state.json")
        mark = (found.st_mtime_ns, found.st_ino, found.st_size)
        self.idle += 1
        if not ended and mark == self.seen and not self.busy and self.idle < IDLE_TICKS:
            return
        self.seen, self.idle = mark, 0
        with fake_state.shared(self.directory) as data:
            self.finish(data)
            self.end(data)
            depend(data)
            self.start(data)

    def reap(self) -> bool:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            code = os.waitstatus_to_exitcode(status)
            self.ends[pid] = (code, 0) if code >= 0 else (0, -code)
        return bool(self.ends)

    def finish(self, data: Data) -> None:
        for array, _, task in tasks(data):
            if task["pid"] not in self.ends:
                continue
            code, number = self.ends.pop(task["pid"])
            with suppress(ProcessLookupError):  # what it left behind
                os.killpg(task["pid"], signal.SIGKILL)
            self.deadlines.pop(task["pid"], None)
            told = task["kill"] or {}
            task.update(pid=0, kill=None, end=time.time(), exit=code, signal=number)
            task["step"] = told.get("step", "")
            task["memory"] = told.get("memory", task["memory"])
            if told.get("again") or (told.get("requeue") and array["requeue"]):
                begin = time.time() + data["requeue_delay"]
                change(task, "PENDING", "BeginTime", begin=begin, node="")
                task["restarts"] += 1
                task["before"] = "REQUEUED"
            elif told:
                change(task, told["state"])
            else:
                fine = code == 0 and number == 0
                change(task, "COMPLETED" if fine else "FAILED", "" if fine else "NonZeroExitCode")
        self.ends.clear()

    def end(self, data: Data) -> None:
        now = time.time()
        self.busy = bool(data["requeue_delay"])
        for array, _, task in tasks(data):
            if task["state"] not in ("RUNNING", "COMPLETING"):
                continue
            pid = task["pid"]
            limit = array["limit_seconds"]
            self.busy = self.busy or limit is not None or task["kill"] is not None
            if limit is not None and task["kill"] is None and now - task["start"] > limit:
                task["kill"] = {"state": "TIMEOUT", "signal": signal.SIGTERM}
            if task["kill"] is None or not pid:
                continue
            if pid not in self.deadlines:
                self.deadlines[pid] = now + data["kill_wait"]
                task["state"] = "COMPLETING"
                with suppress(ProcessLookupError):
                    os.killpg(pid, task["kill"].get("signal", signal.SIGTERM))
            elif now > self.deadlines[pid]:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def start(self, data: Data) -> None:
        running = [task for _, _, task in tasks(data) if task["pid"]]
        free = data["slots"] - len(running)
        used = {node: sum(t["node"] == node for t in running) for node in data["nodes"]}
        for array in data["arrays"].values():
            if not array["live"]:
                continue
            together = sum(bool(task["pid"]) for task in array["tasks"].values())
            for index, task in array["tasks"].items():
                if task["state"] != "PENDING" or task["reason"].startswith("Dependency"):
                    continue
                reason = self.blocked(data, array, task, free, together)
                if reason:
                    task["reason"] = reason
                    continue
                node = min(data["nodes"], key=lambda name: used[name])
                task["pid"] = spawn(self.directory, array, index, task, node, data["cores"])
                change(task, "RUNNING", node=node, start=time.time(), end=0.0)
                used[node] += 1
                free -= 1
                together += 1

    def blocked(self, data: Data, array: Data, task: Data, free: int, together: int) -> str:
        if data["held"]:
            return str(data["held"])
        if array["held"]:
            return str(array["held"])
        if task["begin"] > time.time():
            return "BeginTime"
        if array["throttle"] and together >= array["throttle"]:
            return "JobArrayTaskLimit"
        return "Resources" if free <= 0 else ""


def tasks(data: Data) -> list[tuple[Data, str, Data]]:
    """Every task that this controller may have to do with."""
    return [
        (array, index, task)
        for array in data["arrays"].values()
        if array["live"]
        for index, task in array["tasks"].items()
    ]


def depend(data: Data) -> None:
    """Say of the tasks that wait for others whether they may start, or never will."""
    for array, index, task in tasks(data):
        if task["state"] != "PENDING" or not array["dependency"]:
            continue
        answers = [met(data, kind, ids, index) for kind, ids in array["dependency"]]
        if False in answers:
            if array["kill_on_invalid_dep"]:
                change(task, "CANCELLED", "DependencyNeverSatisfied", end=time.time())
            else:
                task["reason"] = "DependencyNeverSatisfied"
        elif None in answers:
            task["reason"] = "Dependency"
        elif task["reason"].startswith("Dependency"):
            task["reason"] = ""


def met(data: Data, kind: str, ids: list[int], index: str) -> bool | None:
    """Whether a dependency is met; None while that is open."""
    answer: bool | None = True
    for number in ids:
        other = data["arrays"].get(str(number))
        if other is None:
            continue
        chosen = other["tasks"]
        if kind == "aftercorr":
            chosen = {index: chosen[index]} if index in chosen else {}
        states = [task["state"] for task in chosen.values()]
        wanted = {"afternotok": "FAILED"}.get(kind, "COMPLETED")
        if kind != "afterany" and any(s not in (*fake_state.OPEN, wanted) for s in states):
            return False
        if any(state in fake_state.OPEN for state in states):
            answer = None
    return answer


def spawn(directory: str, array: Data, index: str, task: Data, node: str, cores: int) -> int:
    """Start the script of a task; the id of its process."""
    job = array["id"] + int(index) if array["is_array"] else array["id"]
    own = {
        "SLURM_JOB_ID": str(job),
        "SLURM_JOBID": str(job),
        "SLURM_JOB_NAME": array["name"],
        "SLURM_JOB_PARTITION": array["partition"],
        "SLURM_JOB_NODELIST": node,
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NODELIST": node,
        "SLURMD_NODENAME": node,
        "SLURM_CPUS_ON_NODE": str(array["cpus"] or cores),
        "SLURM_SUBMIT_DIR": array["directory"],
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "1",
    }
    if array["cpus"]:
        own["SLURM_CPUS_PER_TASK"] = str(array["cpus"])
    if task["restarts"]:
        own["SLURM_RESTART_COUNT"] = str(task["restarts"])
    if array["is_array"]:
        numbers = [int(number) for number in array["tasks"]]
        own |= {
            "SLURM_ARRAY_JOB_ID": str(array["id"]),
            "SLURM_ARRAY_TASK_ID": index,
            "SLURM_ARRAY_TASK_COUNT": str(len(numbers)),
            "SLURM_ARRAY_TASK_MIN": str(min(numbers)),
            "SLURM_ARRAY_TASK_MAX": str(max(numbers)),
        }
    output = pattern(array["output"], array, index, job, node)
    script = f"{directory}/scripts/{array['id']}"
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if array["append"] else os.O_TRUNC)
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.chdir(array["directory"])
            log = os.open(output, flags, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.execve(script, [script], {**array["environment"], **own})
        finally:
            os._exit(127)
    return pid


def pattern(text: str, array: Data, index: str, job: int, node: str) -> str:
    """The file that sbatch's filename pattern stands for."""
    values = {
        "A": str(array["id"]), "a": index, "j": str(job), "x": array["name"], "N": node,
        "n": "0", "u": "root", "%": "%",
    }  # fmt: skip
    pieces = text.split("%%")
    for letter, value in values.items():
        pieces = [piece.replace(f"%{letter}", value) for piece in pieces]
    return os.path.join(array["directory"], "%".join(pieces))


if __name__ == "__main__":
    Controller(sys.argv[1]).run()
