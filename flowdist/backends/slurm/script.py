"""From a plan to the text that sbatch reads: pure, and the one place where its words are quoted.

`#SBATCH` lines are read by sbatch itself, which knows quotes and backslashes in a way of its own;
what follows them is read by bash. Nothing that a user writes leaves the word it is put into.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence

from flowdist.backends.slurm.plans import Slurm
from flowdist.errors import PlanError

__all__ = [
    "array_texts",
    "index_ranges",
    "literal",
    "parse_ranges",
    "sbatch_script",
    "sbatch_time",
]

MIB = 1024**2

# SLURM refuses longer lists of indices ("other parameter too long"), the limit %N included.
LONGEST_ARRAY = 4_000


def sbatch_script(
    plan: Slurm,
    *,
    name: str,
    command: Sequence[str],
    output: str,
    array: str | None = None,
    dependency: str | None = None,
    limit: int | None = None,
) -> str:
    """The batch script of one array of jobs (or, without `array`, of one job).

    Args:
        plan: the plan of the stage, as `Slurm.for_stage` gives it.
        name: the job's name.
        command: what each task runs, as words; it takes the place of the shell.
        output: the file for what it prints, in sbatch's filename pattern; `literal` protects a path
            that is part of it.
        array: the indices, as from `index_ranges` or `array_texts`.
        dependency: as sbatch takes it; a job whose dependency can never be fulfilled is removed.
        limit: how many tasks of the array run at the same time.

    Raises:
        PlanError: a text that no directive can hold.

    >>> from flowdist.backends.slurm.plans import slurm
    >>> plan = slurm(workers=4, memory="8GB", time="90min", modules=["gcc/12"])
    >>> print(sbatch_script(plan, name="run-1", command=["python", "-m", "task"],
    ...     output="/r/%a.log", array="0-9", limit=4))
    #!/bin/bash
    #SBATCH --job-name="run-1"
    #SBATCH --output="/r/%a.log"
    #SBATCH --open-mode="append"
    #SBATCH --array="0-9%4"
    #SBATCH --nodes="1"
    #SBATCH --ntasks="1"
    #SBATCH --cpus-per-task="4"
    #SBATCH --mem="8192M"
    #SBATCH --time="1:30:00"
    #SBATCH --requeue
    command -v module >/dev/null || source /etc/profile
    module load gcc/12 || exit 1
    exec python -m task
    """
    tasks = f"{array}%{limit}" if array is not None and limit is not None else array
    directives: dict[str, object] = {
        "job-name": name,
        "output": output,
        "open-mode": "append",
        "array": tasks,
        "dependency": dependency,
        "kill-on-invalid-dep": None if dependency is None else "yes",
        **_request(plan),
        **plan.extra,
    }
    lines = ["#!/bin/bash"]
    lines += [_directive(key, value) for key, value in directives.items() if value is not None]
    lines += _shell(plan)
    lines.append(f"exec {' '.join(map(_quoted, command))}")
    return "\n".join(lines) + "\n"


def _request(plan: Slurm) -> dict[str, object]:
    """The directives that say what one job needs, in sbatch's words."""
    asked = plan.resources
    several = plan.job_nodes > 1
    return {
        "partition": plan.partition,
        "account": plan.account,
        "qos": plan.qos,
        "constraint": plan.constraint,
        "reservation": plan.reservation,
        # MPI tasks without a number of nodes go where SLURM finds room for them.
        "nodes": None if plan.ntasks is not None and plan.nodes is None else plan.job_nodes,
        "ntasks": plan.ntasks if several or plan.ntasks is not None else 1,
        "cpus-per-task": None if plan.sized_at_start else plan.job_cpus(),
        "exclusive": True if plan.exclusive else None,
        "mem": None if asked.memory is None else _mebibytes(asked.memory),
        "time": None if asked.time is None else sbatch_time(asked.time),
        "gres": plan.gres or (f"gpu:{asked.gpus}" if asked.gpus else None),
        "mail-type": plan.mail_type,
        "mail-user": plan.mail_user,
        "requeue" if plan.requeue else "no-requeue": True,
    }


def _shell(plan: Slurm) -> Iterator[str]:
    for name, value in plan.environment.items():
        yield f"export {name}={_quoted(value)}"
    if plan.modules:
        # A function of interactive shells, unless the site's profile defined it.
        yield "command -v module >/dev/null || source /etc/profile"
    for module in plan.modules:
        yield f"module load {_quoted(module)} || exit 1"
    yield from plan.setup


def _quoted(word: str) -> str:
    """A word for bash."""
    if "\r" not in word:
        return shlex.quote(word)
    # sbatch refuses a script in which a line ends as on Windows.
    escaped = word.replace("\\", "\\\\").replace("'", "\\'").replace("\r", "\\r")
    return f"$'{escaped}'"


def _directive(option: str, value: object) -> str:
    if value is True:
        return f"#SBATCH --{option}"
    text = str(value)
    if not text.isprintable():
        raise PlanError(f"{option}: {text!r} cannot stand in a batch script; give printable text")
    # Inside double quotes sbatch knows the backslash, and nothing else.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'#SBATCH --{option}="{escaped}"'


def literal(path: str) -> str:
    """A path as part of sbatch's filename pattern, in which % begins a replacement.

    Raises PlanError for a path with a backslash, which would turn all replacements off.

    >>> literal("/data/50%/run")
    '/data/50%%/run'
    """
    if "\\" in path:
        raise PlanError(
            f"{path}: SLURM replaces nothing in file names with a backslash; choose another root"
        )
    return path.replace("%", "%%")


def _mebibytes(size: int) -> str:
    return f"{-(-size // MIB)}M" if size else "0"


def sbatch_time(seconds: int) -> str:
    """A duration for --time, rounded up to the minutes in which SLURM counts.

    >>> sbatch_time(90), sbatch_time(7200), sbatch_time(129_600)
    ('0:02:00', '2:00:00', '1-12:00:00')
    """
    minutes = -(-seconds // 60)
    days, rest = divmod(minutes, 24 * 60)
    clock = f"{rest // 60}:{rest % 60:02}:00"
    return f"{days}-{rest // 60:02}:{rest % 60:02}:00" if days else clock


def index_ranges(indices: Iterable[int]) -> str:
    """Array indices as sbatch takes them, sorted, each once.

    >>> index_ranges([5, 0, 1, 2, 7, 8])
    '0-2,5,7-8'
    """
    said: list[str] = []
    first = last = None
    for index in [*sorted(set(indices)), None]:
        if first is not None and last is not None and index != last + 1:
            said.append(str(first) if first == last else f"{first}-{last}")
            first = None
        first, last = index if first is None else first, index
    return ",".join(said)


def array_texts(indices: Iterable[int], longest: int = LONGEST_ARRAY) -> list[str]:
    """Array indices in as few texts as SLURM takes: each is for an array of its own.

    >>> array_texts([0, 1, 2, 5, 7, 8], longest=6)
    ['0-2,5', '7-8']
    """
    texts: list[str] = []
    for item in filter(None, index_ranges(indices).split(",")):
        if texts and len(texts[-1]) + 1 + len(item) <= longest:
            texts[-1] += f",{item}"
        else:
            texts.append(item)
    return texts


def parse_ranges(text: str) -> list[int]:
    """The indices that a text such as ``0-2,5`` or ``0-8:4%10`` means, sorted.

    SLURM's ``%`` limit is left aside. Raises ValueError for any other text.

    >>> parse_ranges("0-2,5,7-8%4")
    [0, 1, 2, 5, 7, 8]
    """
    indices: set[int] = set()
    for item in text.strip().strip("[]").partition("%")[0].split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", item.strip())
        if found is None:
            raise ValueError(f"{text!r} is not a list of array indices such as 0-2,5")
        first = int(found[1])
        indices.update(range(first, int(found[2] or first) + 1, int(found[3] or 1)))
    return sorted(indices)
