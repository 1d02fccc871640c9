"""Why a run is not done: what it waits for, what went wrong, and what to do about it.

Data first: `explain` gathers facts and advice, each with a sentence and with what the sentence is
made of. Showing them is left to `flowdist.show`. It reads what the run has written and asks its
backend once; it changes nothing.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from flowdist.clock import Clock, SystemClock
from flowdist.phases import reduce_phases, row_phases
from flowdist.settings import default_root
from flowdist.store import JobAttempt, RunFiles

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flowdist.backends.base import Remark
    from flowdist.run import Run
    from flowdist.status import Status

__all__ = [
    "Advice",
    "ErrorGroup",
    "Explanation",
    "Fact",
    "command",
    "error_groups",
    "explain",
    "left",
    "roughly",
    "seconds_at_work",
]

# Jobs replace their heartbeat every 2 s; on a shared filesystem it may be seen a while later.
SILENCE_SECONDS = 30.0
# A row is called slow when it runs this many times longer than rows did so far, and for a while.
SLOW_FACTOR, SLOW_SECONDS = 10.0, 10.0
# What systems say where a disk, or a user's share of it, is full.
_NO_ROOM = ("No space left on device", "Disk quota exceeded")
# What a person reads of a list of rows or of errors.
MOST = 5
LOG_LINES = 5


@dataclass(frozen=True)
class Fact:
    """One thing that is known: `kind` and `data` for programs, `text` for people."""

    kind: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Advice:
    """One thing to do, with the command that does it where there is one."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class ErrorGroup:
    """Rows that failed in one stage with one type of error; `message` is that of the row `row`."""

    stage: str
    type: str
    kind: str
    count: int
    row: int
    message: str


@dataclass(frozen=True)
class Explanation:
    """The answer to "why is it not done?".

    Attributes:
        summary: the answer in one sentence.
        facts: what it rests on, the most important first.
        advice: what can be done.
    """

    id: str
    state: str
    summary: str
    facts: tuple[Fact, ...]
    advice: tuple[Advice, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)

    def __rich__(self) -> RenderableType:
        from flowdist.show import explanation

        return explanation(self)

    def __str__(self) -> str:
        lines = [f"{self.id}: {self.summary}"]
        lines += [f"  {fact.text}" for fact in self.facts]
        lines += [f"  -> {a.text}" + (f": {a.command}" if a.command else "") for a in self.advice]
        return "\n".join(lines)


def explain(run: Run, clock: Clock | None = None) -> Explanation:
    """Why `run` is not done, or what became of it.

    >>> from flowdist import flow, param_grid
    >>> run = flow(param_grid(x=[1, 2])).stage("sq", lambda x: x * x).submit().wait()
    >>> run.explain().summary
    'It is done: every row has a result.'
    """
    status = run.status()
    view = _View(
        run, status, dict(run.files.beats(status.attempt)), (clock or SystemClock()).time()
    )
    if status.state == "scheduled":
        facts = list(_firings(view))
        advice = [
            Advice("see how they are", command(run, "runs --of")),
            Advice("end it", command(run, "cancel")),
        ]
        return Explanation(run.id, status.state, _summary(view, ()), tuple(facts), tuple(advice))
    groups = [] if status.clean else error_groups(run)
    facts = [*_rows(view), *_errors(view, groups)]
    if not status.ended:
        facts += [*_in_work(view), *_waiting(view), *_jobs(view), *_silent(view)]
    remarks = run.remarks()
    facts += [Fact(remark.kind, remark.text, remark.data) for remark in remarks]
    facts += [*_reduces(view), *_lost_workers(view), *_attempts(view), *_cost(view)]
    facts += _last_words(view)
    advice = [*(Advice(r.advice) for r in remarks if r.advice), *_advice(view, facts)]
    return Explanation(
        status.id, status.state, _summary(view, remarks), tuple(facts), tuple(advice)
    )


def error_groups(run: Run) -> list[ErrorGroup]:
    """The failed rows so far, and the failed groups of reduces, by stage and type of error, the
    most frequent first.
    """
    tables = [("rows", run.rows), *((p["table"], p["groups"]) for p in reduce_phases(run.manifest))]
    found = [group for table, rows in tables for group in _groups_of(run.files, table, rows)]
    return sorted(found, key=lambda g: -g.count)


def _groups_of(files: RunFiles, table: str, rows: int) -> list[ErrorGroup]:
    from flowdist.parts import FAILED
    from flowdist.states import load_parts, row_states

    failed = row_states(files, rows, table) == FAILED
    latest: dict[int, tuple[int, str]] = {}
    for attempt, part in load_parts(files, table, ("_row", "_error")):
        found = part.filter(part.column("_error").is_valid()).to_pydict()
        for row, error in zip(found["_row"], found["_error"], strict=True):
            # A row that failed once may be ok now: the error of an earlier attempt is history.
            if failed[row] and (row not in latest or attempt >= latest[row][0]):
                latest[row] = (attempt, error)
    groups: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for row in sorted(latest):
        error = json.loads(latest[row][1])
        if "stage" not in error:
            continue  # of a phase in which the row went well at a later attempt
        key = (error["stage"], error["type"], error["kind"])
        groups.setdefault(key, []).append((row, error["message"]))
    return [
        ErrorGroup(stage, type_, kind, len(members), *members[0])
        for (stage, type_, kind), members in groups.items()
    ]


def command(run: Run, verb: str, *options: str) -> str:
    """What to type to do something with a run, from any directory that its root does not depend on.

    >>> from flowdist import flow, param_grid
    >>> run = flow(param_grid(x=[1])).stage("sq", lambda x: x * x).submit().wait()
    >>> command(run, "errors") == f"flowdist errors {run.id}"
    True
    """
    words = ["flowdist", *verb.split(), run.id, *options]
    root = run.directory.parent
    if root != default_root():
        words += ["--root", str(root)]
    return shlex.join(words)


def roughly(seconds: float) -> str:
    """A duration for people, to two units.

    >>> roughly(0.26), roughly(32.4), roughly(3725), roughly(90_000)
    ('0.3 s', '32 s', '1 h 2 min', '1 d 1 h')
    """
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    rest = round(seconds)
    said: list[str] = []
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or said:
            said.append(f"{count} {name}" if count else "")
        if len(said) == 2:
            break
    return " ".join(filter(None, said))


def left(seconds: float) -> str:
    """A duration that is an estimate, for people.

    >>> left(0.2), left(8.3), left(130)
    ('about 1 s', 'about 8 s', 'about 2 min 10 s')
    """
    return f"about {max(1, round(seconds))} s" if seconds < 59.5 else f"about {roughly(seconds)}"


def seconds_at_work(files: RunFiles, now: float | None = None) -> float:
    """Seconds for which a run has been at work.

    Each launch counts from its start to its last sign of life, or the latest to `now`. A pause
    between a stop and a resume does not count.
    """
    last: Counter[int] = Counter()
    created = float(files.manifest()["created"])
    for who, beat in files.beats():
        last[who.attempt] = max(last[who.attempt], int(1000 * float(beat["time"])))
    total = 0.0
    attempts = files.attempts()
    for attempt in attempts:
        intent = files.read_json(files.intent(attempt))
        if intent is None:
            continue
        end = now if now is not None and attempt == attempts[-1] else last[attempt] / 1000
        # A firing of a schedule has the intent of the run that was submitted.
        total += max(0.0, end - max(float(intent["time"]), created))
    return total


# -- what is known -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """What everything below looks at."""

    run: Run
    status: Status
    beats: Mapping[JobAttempt, Mapping[str, Any]]
    now: float

    @property
    def reduces(self) -> list[str]:
        return [phase["table"] for phase in reduce_phases(self.run.manifest)]

    def timeout(self, stage: str) -> float | None:
        found = (s["timeout"] for s in self.run.manifest["stages"] if s["name"] == stage)
        return next(found, None)

    def row_at(self, position: int) -> tuple[int, dict[str, Any]]:
        """The number and the parameters of the row at a position of the layout."""
        from flowdist.tables import map_table

        grid = map_table(self.run.files.path(self.run.files.GRID))
        row = grid.slice(position, 1).to_pylist()[0]
        return row.pop("_row", position), row

    def mean_seconds(self) -> float | None:
        """How long a row took, in this launch, so far."""
        beats = [b for b in self.beats.values() if b.get("table", "rows") == "rows"]
        done = sum(int(b["ok"]) + int(b["failed"]) for b in beats)
        return sum(float(b.get("seconds", 0.0)) for b in beats) / done if done else None


def _summary(view: _View, remarks: Sequence[Remark]) -> str:
    status = view.status
    if status.state == "done":
        if status.failed:
            return f"It is done, and {_many(status.failed, 'row')} failed."
        if status.groups_failed:
            return f"It is done, and a reduce failed for {_many(status.groups_failed, 'group')}."
        return "It is done: every row has a result."
    if status.ended:
        words = {
            "stopped": "It was stopped",
            "failed": "Its jobs could not run",
            "lost": "It is lost",
        }
        return f"{words[status.state]}: {status.reason}."
    if status.state == "scheduled":
        return f"It runs {status.reason}: its firings are runs of their own."
    if status.state == "pending":
        why = remarks[0].text if remarks else "its jobs were started and have not reported yet"
        return f"It {'waits to go on' if status.done else 'has not begun'}: {why}."
    if status.done == status.rows:
        reduces = [f"'{name}'" for name in view.reduces]
        if reduces:
            return f"All rows have ended; what is left is reduce {', '.join(reduces)}."
        return "All rows have ended; the last results are being written."
    rest = f"; {left(status.seconds_left)} left" if status.seconds_left else ""
    if not status.waiting:
        return f"It is running its last {_many(status.running, 'row')}{rest}."
    said = [f"{_many(status.running, 'row')} in work"] if status.running else []
    said.append(f"{_many(status.waiting, 'row')} waiting")
    return f"It is running: {', '.join(said)}{rest}."


def _rows(view: _View) -> Iterator[Fact]:
    s = view.status
    data = {"rows": s.rows, "ok": s.ok, "failed": s.failed, "skipped": s.skipped,
            "running": s.running, "waiting": s.waiting}  # fmt: skip
    parts = [f"{s.ok:,} ok", f"{s.failed:,} failed"]
    parts += [f"{s.skipped:,} skipped"] if s.skipped else []
    yield Fact("rows", f"{s.done:,} of {_many(s.rows, 'row')} have ended: {', '.join(parts)}", data)


def _firings(view: _View) -> Iterator[Fact]:
    found = view.run.firings()
    last = f"; the last one, {found[-1].id}, is {found[-1].status().state}" if found else ""
    text = f"it has started {_many(len(found), 'run') if found else 'none'} so far{last}"
    yield Fact("firings", text, {"firings": [run.id for run in found]})


def _errors(view: _View, groups: Sequence[ErrorGroup]) -> Iterator[Fact]:
    for group in groups[:MOST]:
        where = f"in stage '{group.stage}'"
        yield Fact(
            "errors",
            f"{group.count:,} × {group.type} {where}, as in row {group.row}: "
            f"{_short(group.message)}",
            asdict(group),
        )
    rest = groups[MOST:]
    if rest:
        count = sum(g.count for g in rest)
        yield Fact(
            "errors",
            f"{count:,} more of {_many(len(rest), 'other kind')}",
            {"count": count, "groups": [asdict(g) for g in rest]},
        )


def _in_work(view: _View) -> Iterator[Fact]:
    """Rows that are running, the longest first."""
    working = [w for w in view.status.working_on if w["stage"] not in view.reduces]
    working.sort(key=lambda w: -w["seconds"])
    mean = view.mean_seconds()
    for one in working[:MOST]:
        row, params = view.row_at(one["position"])
        timeout = view.timeout(one["stage"])
        slow = bool(mean is not None and one["seconds"] > max(SLOW_SECONDS, SLOW_FACTOR * mean))
        text = f"row {row} ({_shown(params)}) has been in stage '{one['stage']}' "
        text += f"for {roughly(one['seconds'])}"
        text += f" of at most {roughly(timeout)}" if timeout else ""
        text += (
            f"; rows took {roughly(mean)} on average so far" if slow and mean is not None else ""
        )
        yield Fact(
            "slow row" if slow else "running row",
            text,
            {"row": row, "parameters": params, **one, "timeout": timeout, "mean_seconds": mean},
        )
    if len(working) > MOST:
        more = len(working) - MOST
        yield Fact("running rows", f"{_many(more, 'more row')} in work", {"count": more})


def _waiting(view: _View) -> Iterator[Fact]:
    status = view.status
    if not status.waiting or status.state != "running":
        return
    busy = status.jobs.get("running", 0)
    workers = int(row_phases(view.run.manifest)[0]["workers"] or 1) * busy
    pace = f", which finish {_pace(status.rate)}" if status.rate else ""
    yield Fact(
        "waiting",
        f"{_many(status.waiting, 'row')} {_verb(status.waiting, 'wait')} for one of "
        f"{_many(workers, 'worker')}{pace}",
        {"waiting": status.waiting, "workers": workers, "rate": status.rate,
         "seconds_left": status.seconds_left},
    )  # fmt: skip


def _jobs(view: _View) -> Iterator[Fact]:
    jobs = view.status.jobs
    pending, running, unknown = (jobs.get(s, 0) for s in ("pending", "running", "unknown"))
    # Those of the reduces come last by nature; they have a sentence of their own.
    pending = max(0, pending - len(view.reduces)) if running else pending
    unknown -= min(unknown, len(view.reduces)) if view.status.waiting else 0
    data = {"pending": pending, "running": running}
    if pending and running:
        at_once = int(view.run.manifest["jobs_at_once"])
        limit = f"; the plan runs {at_once:,} at a time" if pending + running > at_once else ""
        yield Fact("jobs", f"{_many(pending, 'job')} pending, {running:,} running{limit}", data)
    elif pending:
        yield Fact("jobs", f"{_many(pending, 'job')} pending, none running yet", data)
    if unknown:
        text = f"nothing is known of {_many(unknown, 'job')}: the scheduler did not say"
        yield Fact("unknown jobs", text, {"unknown": unknown})


def _silent(view: _View) -> Iterator[Fact]:
    """Jobs at work that have not been heard of for long."""
    for who, beat in sorted(view.beats.items()):
        quiet = view.now - float(beat["time"])
        said = "a worker of the pool" if who.visitor else f"job {who.job}"
        if beat["state"] == "running" and quiet > SILENCE_SECONDS:
            yield Fact(
                "silent job",
                f"{said} on {beat['host']} was last heard of {roughly(quiet)} ago",
                {"job": who.job, "host": beat["host"], "seconds": round(quiet, 1)},
            )


def _reduces(view: _View) -> Iterator[Fact]:
    if view.status.state == "done" or not view.reduces:
        return
    running = {w["stage"] for w in view.status.working_on} & set(view.reduces)
    for name in view.reduces:
        said = "is running" if name in running else "follows when all rows have ended"
        if view.status.ended:
            said = "has no result for every group" if view.status.done == view.status.rows else ""
        if said:
            yield Fact(
                "reduce", f"reduce '{name}' {said}", {"reduce": name, "running": name in running}
            )


def _lost_workers(view: _View) -> Iterator[Fact]:
    lost = sum(int(b.get("lost_workers", 0)) for b in view.beats.values())
    if lost:
        yield Fact(
            "lost workers", f"{_many(lost, 'worker process', 'es')} died while running rows",
            {"count": lost},
        )  # fmt: skip


def _attempts(view: _View) -> Iterator[Fact]:
    if view.status.attempt > 1:
        times = view.status.attempt - 1
        text = f"it has been started again {'once' if times == 1 else f'{times} times'}"
        yield Fact("attempts", text, {"attempt": view.status.attempt})


def _cost(view: _View) -> Iterator[Fact]:
    """What the run has taken so far, where compute is paid for."""
    from flowdist.usage import run_cost

    cost = run_cost(view.run)
    if cost is not None and cost.node_seconds:
        so_far = "" if view.status.ended else " so far"
        text = f"its jobs have taken {cost.text}{so_far}; nodes that start or idle come on top"
        yield Fact("cost", text, cost.to_dict())


def _last_words(view: _View) -> Iterator[Fact]:
    """The end of the log of a run that could not go on."""
    if view.status.state not in ("failed", "lost"):
        return
    path = view.run.last_log()
    if path is None:
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").strip().splitlines()[-LOG_LINES:]
    if lines:
        yield Fact(
            "log", "\n".join(["its log ends with:", *lines]), {"lines": lines, "path": str(path)}
        )


# -- what to do --------------------------------------------------------------------------------


def _advice(view: _View, facts: Sequence[Fact]) -> Iterator[Advice]:
    run, status = view.run, view.status
    kinds = {fact.kind for fact in facts}
    if status.failed:
        yield Advice("see what failed", command(run, "errors"))
    if "lost workers" in kinds:
        yield Advice(
            "processes that die are most often killed for their memory: run fewer at once "
            "(workers=), or let the stage hold less"
        )
    if status.state == "done":
        if status.failed:
            yield Advice("run the failed rows again", command(run, "resume", "--failed"))
        yield Advice(
            "take the table", command(run, "collect", *(["--errors"] if status.failed else []))
        )
    elif status.ended:
        if any(words in status.reason for words in _NO_ROOM):
            yield Advice(f"make room in {run.directory.parent}, where the run is")
        if status.state != "stopped":
            yield Advice("read the log", command(run, "logs"))
        yield Advice("start what is missing", command(run, "resume"))
        if status.done:
            yield Advice("take what is there", command(run, "collect", "--partial"))
    else:
        yield from _advice_at_work(view, facts)


def _advice_at_work(view: _View, facts: Sequence[Fact]) -> Iterator[Advice]:
    for fact in facts:
        if fact.kind == "slow row" and fact.data["timeout"] is None:
            stage = fact.data["stage"]
            yield Advice(
                f"a timeout on stage '{stage}' would end rows that hang: "
                f".stage('{stage}', ..., timeout='10min')"
            )
            break
    if any(fact.kind == "silent job" for fact in facts):
        yield Advice(
            "if its machine is gone, end the run and start what is missing",
            f"{command(view.run, 'cancel')} && {command(view.run, 'resume')}",
        )
    yield Advice("watch it", command(view.run, "watch"))


# -- words -------------------------------------------------------------------------------------


def _many(count: int, thing: str, plural: str = "s") -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}{plural}"


def _verb(count: int, verb: str) -> str:
    return f"{verb}s" if count == 1 else verb


def _pace(rate: float) -> str:
    if rate >= 0.95:
        return f"{rate:,.0f} a second" if rate >= 9.5 else f"{rate:.1f} a second"
    return f"one every {roughly(1 / rate)}"


def _shown(params: Mapping[str, Any]) -> str:
    return _short(", ".join(f"{k}={v!r}" for k, v in params.items()))


def _short(text: str, most: int = 160) -> str:
    """The first line, cut where it is long."""
    line = next(iter(text.strip().splitlines()), "")
    return line if len(line) <= most else f"{line[: most - 1]}…"
