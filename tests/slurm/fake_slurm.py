"""A SLURM in small: what `sbatch`, `squeue`, `sacct`, `scancel`, `scontrol`, `sinfo` and `sacctmgr`
of the fake run.

`python -S -E fake_slurm.py DIRECTORY COMMAND ARGUMENTS...`: every command reads and changes the
state in DIRECTORY, and says what the real one says (SLURM 22.05). Tasks are run by
`fake_controller.py`; a test arranges faults through `fake_fixture.py`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator

import fake_state
from fake_lists import sacct, squeue
from fake_state import OPEN, Data, Refused, change, indices, new_task, require_database, seconds_of

# sbatch ----------------------------------------------------------------------------------------

FLAGS = {"parsable", "test-only", "requeue", "no-requeue", "exclusive", "hold", "overcommit"}
VALUES = {
    "account", "array", "chdir", "comment", "constraint", "cpus-per-task", "dependency", "error",
    "exclusive", "export", "gres", "job-name", "kill-on-invalid-dep", "licenses", "mail-type",
    "mail-user", "mem", "nice", "nodes", "ntasks", "open-mode", "output", "partition", "qos",
    "reservation", "signal", "time", "wrap",
}  # fmt: skip


def sbatch(data: Data, arguments: list[str], directory: str) -> str:
    given, rest = options(arguments)
    if "wrap" in given:
        script = f"#!/bin/sh\n{given['wrap']}\n"
    elif rest:
        with open(rest[0]) as file:
            script = file.read()
    else:
        script = sys.stdin.read()
    asked = {**directives(script), **given}
    array = new_array(data, asked)
    if "test-only" in given:
        when = time.strftime("%Y-%m-%dT%H:%M:%S")
        sys.stderr.write(
            f"sbatch: Job {data['next_id']} to start at {when} using {array['cpus'] or 1} "
            f"processors on nodes {data['nodes'][0]} in partition {array['partition']}\n"
        )
        data["next_id"] += 1
        return ""
    number = array["id"]
    path = f"{directory}/scripts/{number}"
    with open(path, "w") as file:
        file.write(script)
    os.chmod(path, 0o700)
    data["arrays"][str(number)] = array
    # The ids of the tasks are those after the array's.
    data["next_id"] += len(array["tasks"])
    return f"{number}\n" if "parsable" in given else f"Submitted batch job {number}\n"


def options(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    found: dict[str, str] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if not word.startswith("--"):
            rest.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if name in FLAGS and not equals:
            found[name] = "yes"
        elif name in VALUES:
            found[name] = value if equals else next(words)
        else:
            raise Refused(
                f"sbatch: unrecognized option '--{name}'\n"
                'Try "sbatch --help" for more information'
            )
    return found, rest


def directives(script: str) -> dict[str, str]:
    import shlex

    words: list[str] = []
    for line in script.splitlines():
        if line.startswith("#SBATCH"):
            words += shlex.split(line[7:], comments=True)
        elif line.strip() and not line.startswith("#"):
            break
    return options(words)[0]


def new_array(data: Data, asked: dict[str, str]) -> Data:
    start = "allocation failure" if "test-only" in asked else "Batch job submission failed"
    partition = asked.get("partition", next(iter(data["partitions"])))
    tasks = indices(asked["array"]) if "array" in asked else [0]
    if partition not in data["partitions"]:
        raise Refused(
            f"sbatch: error: invalid partition specified: {partition}\n"
            f"sbatch: error: {start}: Invalid partition name specified"
        )
    problem = ""
    if asked.get("qos", "normal") not in data["qos"]:
        problem = "Invalid qos specification"
    elif asked.get("account", "lab") not in data["accounts"]:
        problem = "Invalid account or account/partition combination specified"
    elif max(tasks) >= data["max_array_size"]:
        problem = "Invalid job array specification"
    elif int(asked.get("cpus-per-task", "1")) > data["cores"]:
        problem = "Requested node configuration is not available"
    if problem.startswith("Requested node"):
        remember_refused(data, asked, tasks)
    if problem:
        raise Refused(f"sbatch: error: {start}: {problem}")
    for reason, limit in data["limits"].items():
        if "Submit" in reason and unended(data) + len(tasks) > limit:
            raise Refused(
                f"sbatch: error: {reason}\nsbatch: error: {start}: Job violates accounting/QOS "
                "policy (job submit limit, user's size and/or time limits)"
            )
    number = data["next_id"]
    return {
        "id": number,
        "live": True,
        "name": asked.get("job-name", "wrap"),
        "partition": partition,
        "account": asked.get("account", "lab"),
        "qos": asked.get("qos", "normal"),
        "submitted": time.time(),
        "is_array": "array" in asked,
        "throttle": int(asked.get("array", "").partition("%")[2] or 0),
        "dependency": dependencies(asked.get("dependency", "")),
        "kill_on_invalid_dep": asked.get("kill-on-invalid-dep") == "yes",
        "requeue": "requeue" in asked or "no-requeue" not in asked,
        "held": "JobHeldUser" if "hold" in asked else "",
        "cpus": int(asked.get("cpus-per-task", "0")),
        "memory": asked.get("mem", ""),
        "time": asked.get("time", ""),
        "limit_seconds": seconds_of(asked.get("time", ""), data["minute"]),
        "output": asked.get("output", "slurm-%A_%a.out" if "array" in asked else "slurm-%j.out"),
        "append": asked.get("open-mode") == "append",
        "directory": asked.get("chdir", os.getcwd()),
        "environment": dict(os.environ),
        "asked": asked,
        "tasks": {str(task): new_task() for task in tasks},
    }


def remember_refused(data: Data, asked: dict[str, str], tasks: list[int]) -> None:
    """SLURM keeps a record of what it refused so late, under an id that it told nobody."""
    number = data["next_id"]
    data["next_id"] += 1
    now = time.time()
    refused = {"reason": "BadConstraints", "end": now, "exit": 1}
    data["arrays"][str(number)] = {
        "id": number,
        "live": False,
        "name": asked.get("job-name", "wrap"),
        "partition": "debug",
        "account": "lab",
        "qos": "normal",
        "submitted": now,
        "is_array": "array" in asked,
        "throttle": 0,
        "held": "",
        "cpus": 1,
        "memory": "",
        "time": "",
        "tasks": {str(task): new_task("FAILED", **refused) for task in tasks},
    }


def dependencies(text: str) -> list[tuple[str, list[int]]]:
    clauses = (clause.partition(":") for clause in text.split(",") if clause)
    return [(kind, [int(i.split("_")[0]) for i in ids.split(":")]) for kind, _, ids in clauses]


def unended(data: Data) -> int:
    return sum(t["state"] in OPEN for a in data["arrays"].values() for t in a["tasks"].values())


# scancel, scontrol, sinfo, sacctmgr --------------------------------------------------------------


def scancel(data: Data, arguments: list[str], directory: str) -> str:
    unknown = []
    for word in (word for word in arguments if not word.startswith("-")):
        chosen = list(named(data, word))
        if not chosen:
            unknown.append(word)
        for _, task in chosen:
            if task["pid"]:
                task["kill"] = {"state": "CANCELLED"}
            elif task["state"] == "PENDING":
                change(task, "CANCELLED", task["reason"], end=time.time())
    if unknown:
        lines = (
            f"scancel: error: Kill job error on job id {word}: Invalid job id specified"
            for word in unknown
        )
        raise Refused("\n".join(lines))
    return ""


def named(data: Data, word: str) -> Iterator[tuple[Data, Data]]:
    number, _, inside = word.partition("_")
    array = data["arrays"].get(number)
    if array is None:
        return
    wanted = set(indices(inside.strip("[]"))) if inside else None
    for index, task in array["tasks"].items():
        if wanted is None or int(index) in wanted:
            yield array, task


def scontrol(data: Data, arguments: list[str], directory: str) -> str:
    words = [word for word in arguments if not word.startswith("-")]
    if words[:1] == ["requeue"]:
        for word in words[1].split(","):
            requeue(data, word)
        return ""
    if words[:2] == ["show", "config"]:
        return "Configuration data as of now\n" + "".join(
            f"{name:<23} = {value}\n"
            for name, value in {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "ClusterName": "fake",
                "JobRequeue": 1,
                "KillWait": f"{data['kill_wait']:g} sec",
                "MaxArraySize": data["max_array_size"],
                "MaxJobCount": 10000,
                "MinJobAge": f"{data['min_job_age']:g} sec",
                "SLURM_VERSION": "22.05.8",
            }.items()
        )
    if words[:2] == ["show", "partition"]:
        return "".join(
            f"PartitionName={name} AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL "
            f"Default={'NO' if number else 'YES'} QoS=N/A DefaultTime=NONE Hidden=NO "
            f"MaxNodes=UNLIMITED MaxTime={clock(limit)} OverSubscribe=NO State=UP "
            f"TotalCPUs={len(data['nodes']) * data['cores']} TotalNodes={len(data['nodes'])}\n"
            for number, (name, limit) in enumerate(data["partitions"].items())
        )
    raise Refused(f"invalid keyword: {words[0]}")


def requeue(data: Data, word: str) -> None:
    chosen = list(named(data, word))
    if not chosen:
        raise Refused(f"Invalid job id specified for job {word}")
    for array, task in chosen:
        if task["state"] == "PENDING":
            raise Refused(f"Job is pending execution for job {word}")
        if not array["requeue"]:
            raise Refused(f"Requested operation is presently disabled for job {word}")
        if task["pid"]:
            task["kill"] = {"again": True}
        else:
            change(task, "PENDING", "BeginTime", begin=time.time() + data["requeue_delay"])
            task["restarts"] += 1


def clock(limit: float | None) -> str:
    if limit is None:
        return "UNLIMITED"
    days, rest = divmod(int(limit), 86400)
    return (f"{days}-" if days else "") + f"{rest // 3600:02}:{rest // 60 % 60:02}:00"


def sinfo(data: Data, arguments: list[str], directory: str) -> str:
    cards = [node for node in data["nodes"] if node in data["gpu_nodes"]]
    plain = len(data["nodes"]) - len(cards)
    return "".join(
        f"{name}|{count}|{data['cores']}|4000|{gres}|idle|(null)\n"
        for name in data["partitions"]
        for count, gres in ((plain, "(null)"), (len(cards), "gpu:1"))
        if count
    )


def sacctmgr(data: Data, arguments: list[str], directory: str) -> str:
    require_database(data, "sacctmgr")
    if data["accounting"] == "off":
        raise Refused("You are not running a supported accounting_storage plugin\n")
    limits = data["limits"]

    def of(*reasons: str) -> str:
        return "|".join(str(limits.get(reason, "")) for reason in reasons)

    if "user" in arguments:
        own = of(
            "AssocMaxJobsLimit",
            "AssocMaxSubmitJobLimit",
            "AssocGrpJobsLimit",
            "AssocGrpSubmitJobsLimit",
        )
        return f"{arguments[arguments.index('user') + 1]}|lab|lab||{','.join(data['qos'])}||{own}\n"
    own = of(
        "QOSMaxJobsPerUserLimit",
        "QOSMaxSubmitJobPerUserLimit",
        "MaxJobsPerAccount",
        "MaxSubmitJobsPerAccount",
        "QOSGrpJobsLimit",
        "QOSGrpSubmitJobsLimit",
    )
    return f"{data['qos'][0]}|{own}\n"


# All of them -------------------------------------------------------------------------------------


COMMANDS = {f.__name__: f for f in (sbatch, squeue, sacct, scancel, scontrol, sinfo, sacctmgr)}


def main(directory: str, command: str, arguments: list[str]) -> int:
    with open(f"{directory}/calls.log", "a") as file:
        file.write(json.dumps([command, *arguments]) + "\n")
    fault = next_fault(directory, command)
    if fault is not None and not fault["works"]:
        return fail(fault)
    changes = command in ("sbatch", "scancel", "scontrol")
    code, output = 0, ""
    with fake_state.shared(directory, write=changes) as data:
        try:
            output = COMMANDS[command](data, arguments, directory)
        except Refused as refusal:
            sys.stderr.write(f"{refusal}\n")
            code = 1
    if fault is not None:
        return fail(fault)
    sys.stdout.write(output)
    return code


def next_fault(directory: str, command: str) -> Data | None:
    """What this call does instead of, or beside, what it should; None for nothing."""
    if not fake_state.read(directory)["faults"].get(command):
        return None
    with fake_state.shared(directory) as data:
        faults = data["faults"].get(command, [])
        fault: Data | None = faults[0] if faults else None
        if fault is not None:
            fault["times"] -= 1
            data["faults"][command] = [each for each in faults if each["times"] > 0]
    return fault


def fail(fault: Data) -> int:
    if fault["hangs"]:
        time.sleep(3600)
    sys.stderr.write(fault["text"] + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
