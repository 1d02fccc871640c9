"""The lists of jobs of the fake SLURM: `squeue` and `sacct`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from fake_state import OPEN, Data, Refused, option, ranges, require_database, seconds_of


def squeue(data: Data, arguments: list[str], directory: str) -> str:
    shape = option(arguments, "-o", "--format") or "%i %P %j %u %T %M %D %R"
    name, every = option(arguments, "-n", "--name"), option(arguments, "-t", "--states") == "all"
    jobs = option(arguments, "-j", "--jobs")
    lines = [] if "-h" in arguments else ["HEADER"]
    for array in data["arrays"].values():
        if name and array["name"] not in name.split(","):
            continue
        if jobs and str(array["id"]) not in [job.split("_")[0] for job in jobs.split(",")]:
            continue
        for place, task in queued(data, array, "-r" in arguments):
            if every or task["state"] in OPEN:
                lines.append(queue_line(shape, array, place, task))
    return "".join(f"{line}\n" for line in lines)


def queued(data: Data, array: Data, apart: bool) -> Iterator[tuple[str, Data]]:
    number, oldest = array["id"], time.time() - data["min_job_age"]
    alone, together = split(array)
    if together and together[0][1]["state"] == "CANCELLED":
        # Tasks that never started have no lines of their own any more.
        if together[0][1]["end"] > oldest:
            yield str(number), together[0][1]
    elif apart:
        alone += together
    elif together:
        text = ranges([index for index, _ in together])
        limit = f"%{array['throttle']}" if array["throttle"] else ""
        one = len(together) == 1
        name = f"{number}_{text}" if one else f"{number}_[{text}{limit}]"
        yield (name if array["is_array"] else str(number)), together[0][1]
    for index, task in alone:
        if task["state"] in OPEN or task["end"] > oldest:
            yield place_of(array, index), task


def split(array: Data) -> tuple[list[tuple[int, Data]], list[tuple[int, Data]]]:
    """Tasks with a record of their own, and those that are still one record of the array."""
    alone, waiting, cancelled = [], [], []
    for index, task in array["tasks"].items():
        if task["start"] or task["restarts"]:
            alone.append((int(index), task))
        elif task["state"] == "PENDING":
            waiting.append((int(index), task))
        else:
            cancelled.append((int(index), task))
    return alone, waiting or cancelled


def place_of(array: Data, index: int) -> str:
    return f"{array['id']}_{index}" if array["is_array"] else str(array["id"])


def queue_line(shape: str, array: Data, place: str, task: Data) -> str:
    values = {
        "i": place,
        "F": str(array["id"]),
        "K": place.partition("_")[2] or "N/A",
        "A": str(array["id"]),
        "T": task["state"],
        "r": task["reason"] or "None",
        "R": f"({task['reason'] or 'None'})",
        "N": task["node"],
        "S": iso(task["start"], "N/A"),
        "e": iso(task["end"], "N/A"),
        "j": array["name"],
        "P": array["partition"],
        "u": "root",
        "M": "0:00",
        "D": "1",
    }
    text = shape
    for letter, value in values.items():
        text = text.replace(f"%{letter}", value)
    return text


def iso(moment: float, none: str) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment)) if moment else none


def sacct(data: Data, arguments: list[str], directory: str) -> str:
    if data["accounting"] == "off":
        raise Refused("Slurm accounting storage is disabled")
    require_database(data, "sacct")
    name = option(arguments, "", "--name")
    since = time.mktime(time.strptime(option(arguments, "-S", "--starttime"), "%Y-%m-%dT%H:%M:%S"))
    fields = option(arguments, "-o", "--format").split(",")
    steps = "-X" not in arguments
    lines = []
    for array in data["arrays"].values():
        if array["name"] != name or array["submitted"] < since:
            continue
        for place, task, state in accounted(data, array):
            for suffix in ("", ".batch") if steps and task["start"] else ("",):
                known = account(array, place, suffix, task, state)
                unknown = [field for field in fields if field.lower() not in known]
                if unknown:
                    raise Refused(f'sacct: error: Invalid field requested: "{unknown[0]}"')
                lines.append("|".join(known[field.lower()] for field in fields))
    return "".join(f"{line}\n" for line in lines)


def accounted(data: Data, array: Data) -> Iterator[tuple[str, Data, str]]:
    """What accounting has; as with the real one, it learns late, and of tasks that wait only while
    none of their array has started.
    """
    settled = time.time() - data["accounting_lag"]
    alone, together = split(array)
    if together and not alone and not array["held"] and array["submitted"] <= settled:
        task = together[0][1]
        state = "CANCELLED by 0" if task["state"] == "CANCELLED" else task["state"]
        text = ranges([index for index, _ in together])
        yield (f"{array['id']}_[{text}]" if array["is_array"] else str(array["id"])), task, state
    for index, task in alone:
        state = task["state"] if task["changed"] <= settled else task["before"]
        if state == "PENDING" and task["restarts"]:
            state = "REQUEUED"
        if state in (None, "PENDING"):
            continue
        if state == "CANCELLED":
            state = "CANCELLED by 0"
        yield place_of(array, index), task, "RUNNING" if state == "COMPLETING" else state


def account(array: Data, place: str, suffix: str, task: Data, state: str) -> dict[str, str]:
    step = bool(suffix)
    numeric = os.environ.get("SLURM_TIME_FORMAT") == "%s"
    moments = {
        key: (str(int(task[key])) if numeric else iso(task[key], "")) if task[key] else "Unknown"
        for key in ("start", "end")
    }
    elapsed = int((task["end"] or time.time()) - task["start"]) if task["start"] else 0
    clock = f"{elapsed // 3600:02}:{elapsed // 60 % 60:02}:{elapsed % 60:02}"
    cpus = str(array["cpus"] or 1)
    return {
        "jobid": f"{place}{suffix}",
        "jobidraw": f"{place}{suffix}",
        "jobname": "batch" if step else array["name"],
        "state": (task["step"] or state) if step else state,
        "exitcode": f"{task['exit']}:{task['signal']}",
        "nodelist": task["node"] or "None assigned",
        "reason": "" if step else task["reason"] or "None",
        "submit": iso(array["submitted"], "Unknown"),
        **moments,
        "elapsed": clock,
        "elapsedraw": str(elapsed),
        "totalcpu": clock,
        "alloccpus": cpus,
        "reqcpus": cpus,
        "reqmem": "" if step else array["memory"],
        "alloctres": f"cpu={cpus},node=1",
        "allocnodes": "1" if task["start"] else "0",
        "maxrss": task["memory"] if step else "",
        "timelimit": "" if step else array["time"],
        "timelimitraw": "" if step else str(int((seconds_of(array["time"]) or 0) // 60)),
        "partition": "" if step else array["partition"],
        "account": array["account"],
        "qos": "" if step else array["qos"],
    }
