"""Task graphs for the jobs of a launch, as plain data: which tasks there are, what comes after
what, and the statements that make and remove them. Pure: nothing here talks to Snowflake.

A graph has at most 1,000 tasks, and a task at most 100 children and 100 predecessors
(https://docs.snowflake.com/en/user-guide/tasks-graphs). So above 100 jobs there are helpers in
between, and above `MOST_JOBS` there are several graphs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flowdist.snowflake.firing import THIS_FIRING
from flowdist.snowflake.names import Name, Place, literal

__all__ = [
    "MOST_JOBS",
    "Graph",
    "Recipe",
    "Task",
    "blocks",
    "creations",
    "graphs",
    "job_of",
    "make_folder",
    "removals",
    "write_statistics",
]

MOST_RELATIVES = 100
# 900 jobs, 9 helpers to start them and 9 to wait for them, and room.
MOST_JOBS = 900
# What one statement to Snowflake does at most: a block of so many, of so many characters in all
# (the text of a statement may have a million).
IN_A_BLOCK, LONGEST_BLOCK = 100, 400_000

T = TypeVar("T")
_JOB = re.compile(r".*_JOB_(\d+)")


@dataclass(frozen=True)
class Task:
    """A task that comes after others. `job` is the number of the job of the rows that it runs,
    `reduces` whether it runs the reduces; it is a helper where neither.
    """

    name: str
    after: tuple[str, ...]
    job: int | None = None
    reduces: bool = False


@dataclass(frozen=True)
class Graph:
    """A root, the tasks after it in the order in which they can be made, and a finalizer."""

    root: str
    tasks: tuple[Task, ...]

    @property
    def finalizer(self) -> str:
        return f"{self.root}_END"

    @property
    def names(self) -> list[str]:
        return [self.root, *(task.name for task in self.tasks), self.finalizer]


def graphs(prefix: str, jobs: Sequence[int], *, reduces: bool) -> list[Graph]:
    """The graphs that run jobs of the rows and then, where there is one graph, the reduces.

    >>> [graph] = graphs("FD_X_1_TASKS", [0, 2], reduces=True)
    >>> [(task.name[13:], [name[13:] for name in task.after]) for task in graph.tasks]
    [('0_JOB_00000', ['0']), ('0_JOB_00002', ['0']), ('0_REDUCES', ['0_JOB_00000', '0_JOB_00002'])]
    """
    count = max(1, -(-len(jobs) // MOST_JOBS))
    cuts = [len(jobs) * i // count for i in range(count + 1)]
    return [
        _graph(f"{prefix}_{i}", jobs[cuts[i] : cuts[i + 1]], reduces=reduces and count == 1)
        for i in range(count)
    ]


def _graph(root: str, jobs: Sequence[int], *, reduces: bool) -> Graph:
    tasks: list[Task] = []
    direct = len(jobs) <= MOST_RELATIVES
    for number, some in enumerate(_portions(jobs)):
        above = root if direct else f"{root}_OUT_{number:02d}"
        if not direct:
            tasks.append(Task(above, (root,)))
        tasks += [Task(f"{root}_JOB_{job:05d}", (above,), job=job) for job in some]
    if reduces:
        last = [task.name for task in tasks if task.job is not None] or [root]
        if not direct:
            waits = [
                Task(f"{root}_IN_{number:02d}", tuple(some))
                for number, some in enumerate(_portions(last))
            ]
            tasks += waits
            last = [task.name for task in waits]
        tasks.append(Task(f"{root}_REDUCES", tuple(last), reduces=True))
    return Graph(root, tuple(tasks))


def _portions(things: Sequence[T]) -> list[Sequence[T]]:
    """In order, each as large as the number of a task's relatives may be."""
    return [
        things[first : first + MOST_RELATIVES] for first in range(0, len(things), MOST_RELATIVES)
    ]


def job_of(name: str) -> int | None:
    """The job that a task of that name runs.

    >>> job_of("FD_X_1_TASKS_0_JOB_00012"), job_of("FD_X_1_TASKS_0_REDUCES")
    (12, None)
    """
    found = _JOB.fullmatch(name)
    return None if found is None else int(found[1])


# -- statements -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """What the tasks of a launch have in common, for `creations`.

    Attributes:
        schema: any name in the schema of the tasks.
        warehouse: the one they run in; None: serverless.
        seconds: how long a graph may take.
        retries: how often Snowflake runs what has failed again.
        schedule: when the graph runs; None: when it is told to.
        config: what tasks and containers may ask for by SYSTEM$GET_TASK_GRAPH_CONFIG.
        comment: of every task.
        root: what the root does.
        run: the statement that runs a job; of the reduces for None.
        finish: what the finalizer does.
    """

    schema: Name
    warehouse: Name | None
    seconds: int
    retries: int
    schedule: str | None
    config: Mapping[str, Any]
    comment: str
    root: str
    run: Callable[[int | None], str]
    finish: str
    # Consecutive failed runs after which a schedule is suspended.
    failures: int = field(default=10)

    @property
    def compute(self) -> str:
        if self.warehouse is not None:
            return f"WAREHOUSE = {self.warehouse.sql}"
        # They do next to nothing themselves; the default is MEDIUM.
        return "USER_TASK_MANAGED_INITIAL_WAREHOUSE_SIZE = 'XSMALL'"


def creations(graph: Graph, recipe: Recipe) -> Iterator[str]:
    """The statements that make the tasks of a graph, none of which runs then, except that the
    finalizer is ready.
    """
    schedule = "" if recipe.schedule is None else f" SCHEDULE = {literal(recipe.schedule)}"
    failures = recipe.failures if recipe.schedule is not None else 0
    yield _creation(
        recipe,
        graph.root,
        f"{schedule} CONFIG = {literal(json.dumps(recipe.config))} OVERLAP_POLICY = NO_OVERLAP "
        # The default is an hour, for the whole graph.
        f"USER_TASK_TIMEOUT_MS = {recipe.seconds * 1000} "
        f"SUSPEND_TASK_AFTER_NUM_FAILURES = {failures}",
        f" TASK_AUTO_RETRY_ATTEMPTS = {recipe.retries}",
        recipe.root,
    )
    for task in graph.tasks:
        runs = task.reduces or task.job is not None
        # A statement may take two days by default, and the job ends with its statement.
        timeout = f" STATEMENT_TIMEOUT_IN_SECONDS = {recipe.seconds}" if runs else ""
        after = ", ".join(recipe.schema.beside(name).sql for name in task.after)
        body = recipe.run(task.job) if runs else "SELECT 1"
        yield _creation(recipe, task.name, timeout, f" AFTER {after}", body)
    root = recipe.schema.beside(graph.root).sql
    yield _creation(recipe, graph.finalizer, "", f" FINALIZE = {root}", recipe.finish)
    yield f"ALTER TASK {recipe.schema.beside(graph.finalizer).sql} RESUME"


def _creation(recipe: Recipe, name: str, before: str, after: str, body: str) -> str:
    return (
        f"CREATE TASK IF NOT EXISTS {recipe.schema.beside(name).sql} {recipe.compute}{before} "
        f"COMMENT = {literal(recipe.comment)}{after} AS {body}"
    )


def removals(schema: Name, prefix: str, names: Sequence[str]) -> Iterator[str]:
    """The statements that remove the tasks of graphs, whose names begin with `prefix`. DROP TASK of
    a root leaves its children, as roots of their own: each task is dropped, and the roots last.
    """
    roots = [name for name in names if name.removeprefix(prefix).isdigit()]
    for name in roots:
        yield f"ALTER TASK IF EXISTS {schema.beside(name).sql} SUSPEND"
    for name in [*(name for name in names if name not in set(roots)), *roots]:
        yield f"DROP TASK IF EXISTS {schema.beside(name).sql}"


def blocks(statements: Iterable[str], *, quiet: bool = False) -> Iterator[str]:
    """Statements as blocks of Snowflake Scripting, many in one, that run them one by one; `quiet`
    blocks go on where one fails.

    >>> list(blocks(["DROP TASK A", "DROP TASK B"]))
    ["BEGIN\\nEXECUTE IMMEDIATE 'DROP TASK A';\\nEXECUTE IMMEDIATE 'DROP TASK B';\\nEND"]
    """
    lines: list[str] = []
    for statement in statements:
        line = f"EXECUTE IMMEDIATE {literal(statement)};"
        if quiet:
            line = f"BEGIN {line} EXCEPTION WHEN OTHER THEN NULL; END;"
        full = len(lines) == IN_A_BLOCK or sum(map(len, lines)) + len(line) > LONGEST_BLOCK
        if lines and full:
            yield _block(lines)
            lines = []
        lines.append(line)
    if lines:
        yield _block(lines)


def _block(lines: Sequence[str]) -> str:
    return "\n".join(["BEGIN", *lines, "END"])


def make_folder(runs: Place, run_id: str) -> str:
    """What the root of a scheduled graph does: it makes the folder of the firing, with the files of
    the run that was submitted.
    """
    template = (runs / run_id).file("")
    return f"""DECLARE
  firing VARCHAR;
  copying VARCHAR;
BEGIN
  firing := (SELECT {literal(f"{run_id}.")} || {THIS_FIRING});
  copying := REPLACE({literal(f"COPY FILES INTO {runs.file('<>/')} FROM {template}")},
    '<>', firing);
  EXECUTE IMMEDIATE :copying;
  CALL SYSTEM$SET_RETURN_VALUE(:firing);
END"""


def write_statistics(table: Name, run_id: str, *, scheduled: bool) -> str:
    """What a finalizer does: a row for each task of this run of its graph, those of an earlier
    attempt among them. That it could not be done is not worth a failed graph.
    """
    run = literal(run_id)
    if scheduled:
        run = f"{literal(f'{run_id}.')} || {THIS_FIRING}"
    history = Name((table.parts[0], "INFORMATION_SCHEMA", "TASK_HISTORY")).sql
    return f"""DECLARE
  root VARCHAR;
  grp VARCHAR;
  run VARCHAR;
BEGIN
  root := (SELECT SYSTEM$TASK_RUNTIME_INFO('CURRENT_ROOT_TASK_UUID'));
  grp := (SELECT SYSTEM$TASK_RUNTIME_INFO('CURRENT_TASK_GRAPH_RUN_GROUP_ID'));
  run := (SELECT {run});
  DELETE FROM {table.sql} WHERE RUN_ID = :run AND GRAPH_RUN_GROUP_ID = :grp;
  INSERT INTO {table.sql} (RUN_ID, GRAPH_RUN_GROUP_ID, ATTEMPT_NUMBER, NAME, STATE, RETURN_VALUE,
      QUERY_START_TIME, COMPLETED_TIME, SECONDS, SPCS_JOB_ID, ERROR_MESSAGE)
    SELECT :run, GRAPH_RUN_GROUP_ID, ATTEMPT_NUMBER, NAME, STATE, RETURN_VALUE,
      QUERY_START_TIME, COMPLETED_TIME,
      DATEDIFF('millisecond', QUERY_START_TIME, COMPLETED_TIME) / 1000, SPCS_JOB_ID, ERROR_MESSAGE
    FROM TABLE({history}(ROOT_TASK_ID => :root, RESULT_LIMIT => 10000))
    WHERE GRAPH_RUN_GROUP_ID = :grp AND COMPLETED_TIME IS NOT NULL;
EXCEPTION
  WHEN OTHER THEN
    RETURN SQLERRM;
END"""
