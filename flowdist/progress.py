"""A run's progress while somebody waits: a bar to look at, or a line now and then in a log.

It is told statuses and shows them; asking for them is the run's. Everything goes to standard error,
so that what a program prints stays clean.
"""
# ruff: noqa: TID253  (imported only where something is printed)

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.text import Text

from flowdist.clock import Clock, SystemClock
from flowdist.explain import left, roughly, seconds_at_work
from flowdist.phases import reduce_phases
from flowdist.settings import in_ci
from flowdist.show import STATE_STYLE, pace

if TYPE_CHECKING:
    from flowdist.run import Run
    from flowdist.status import Status

__all__ = ["progress"]

Show = Callable[["Status"], None]

# A log line is due after this many seconds, and then once another tenth of the time or of the rows
# has gone by: a run of a minute gives a few lines, one of a night some sixty, not thousands.
LINE_SECONDS = 10.0
LINE_SHARE = 0.1


@contextlib.contextmanager
def progress(
    run: Run, *, console: Console | None = None, clock: Clock | None = None
) -> Iterator[Show]:
    """A context whose value shows a status; call it with each new one, the last one included.

    >>> from flowdist import flow, param_grid
    >>> run = flow(param_grid(x=[1, 2])).stage("sq", lambda x: x * x).submit().wait()
    >>> with progress(run) as show:
    ...     show(run.status())
    """
    console = console or Console(stderr=True, highlight=False)
    if console.is_jupyter:
        yield _Notebook(run)
    elif console.is_terminal and not in_ci():
        with _Bar(run, console) as bar:
            yield bar
    else:
        yield _Lines(run, console, clock or SystemClock())


class _Said(ProgressColumn):
    """A text that the task carries in one of its fields."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def render(self, task: Task) -> RenderableType:
        text: Text = task.fields[self._name]
        return text


class _Mark(SpinnerColumn):
    """Something that turns while the run goes on, then how it ended."""

    def render(self, task: Task) -> RenderableType:
        mark: Text | None = task.fields["mark"]
        return super().render(task) if mark is None else mark


class _Bar:
    """One line that is drawn anew: rows done of total, rate, failed, time left."""

    def __init__(self, run: Run, console: Console) -> None:
        self._run = run
        self._progress = Progress(
            _Mark(),
            _Said("name"),
            BarColumn(bar_width=28, complete_style="cyan", finished_style="green"),
            _Said("rows"),
            _Said("rest"),
            console=console,
        )
        self._task = self._progress.add_task(
            "",
            total=max(run.rows, 1),
            mark=None,
            name=Text(run.name, style="bold"),
            rows=Text(),
            rest=Text("starting", style="dim"),
        )

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def __call__(self, status: Status) -> None:
        rest = [Text(text, style=style) for text, style in _rest(self._run, status)]
        self._progress.update(
            self._task,
            # A run of no rows is full at once.
            completed=status.done if status.rows else 1,
            mark=_mark(status),
            rows=Text(f"{status.done:,}/{status.rows:,} rows"),
            rest=Text(", ", style="dim").join(rest),
        )
        if status.ended:
            self._progress.stop_task(self._task)


class _Notebook:
    """The bar of a notebook: an output of the cell that is replaced, which needs no widgets."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._output: Any = None

    def __call__(self, status: Status) -> None:
        import IPython.display

        display: Any = IPython.display.display
        shown = {"text/html": self._html(status), "text/plain": str(status)}
        if self._output is None:
            self._output = display(shown, raw=True, display_id=True)
        else:
            self._output.update(shown, raw=True)

    def _html(self, status: Status) -> str:
        rest = ", ".join(escape(text) for text, _ in _rest(self._run, status))
        bar = f'<progress value="{status.done}" max="{max(status.rows, 1)}"></progress>'
        rows = f"{status.done:,}/{status.rows:,} rows"
        return f"<div><b>{escape(status.name)}</b> {bar} {rows}, {rest}</div>"


class _Lines:
    """A line when there is news."""

    def __init__(self, run: Run, console: Console, clock: Clock) -> None:
        self._run = run
        self._console = console
        self._clock = clock
        self._started = clock.monotonic()
        self._last: tuple[float, int] | None = None
        self._over = False

    def __call__(self, status: Status) -> None:
        if self._over or not (status.ended or self._due(status)):
            return
        self._over = status.ended
        self._last = (self._clock.monotonic(), status.done)
        share = f" ({status.done / status.rows:.0%})" if 0 < status.done < status.rows else ""
        rows = f"{status.done:,} of {status.rows:,} rows"
        rest = ", ".join(text for text, _ in _rest(self._run, status))
        self._console.print(
            ", ".join(filter(None, [f"{status.id}: {rows}{share}", rest])),
            markup=False,
            soft_wrap=True,
        )

    def _due(self, status: Status) -> bool:
        if self._last is None:
            return True
        when, done = self._last
        now = self._clock.monotonic()
        if now - when < LINE_SECONDS:
            return False
        return status.done - done >= LINE_SHARE * status.rows or now - when >= LINE_SHARE * (
            now - self._started
        )


def _mark(status: Status) -> Text | None:
    """None while the run goes on."""
    if not status.ended:
        return None
    if status.state == "done":
        return (
            Text("!", style="red")
            if status.failed or status.groups_failed
            else Text("✓", style="green")
        )
    return Text("✗", style=STATE_STYLE[status.state])


def _rest(run: Run, status: Status) -> list[tuple[str, str]]:
    """What is said beside the rows: text and style, the most telling first."""
    said: list[tuple[str, str]] = []
    if status.failed:
        said.append((f"{status.failed:,} failed", "red"))
    if status.skipped:
        said.append((f"{status.skipped:,} skipped", "yellow"))
    if status.ended:
        took = roughly(seconds_at_work(run.files))
        words = f"done in {took}" if status.state == "done" else f"{status.state}: {status.reason}"
        return [*said, (words, STATE_STYLE[status.state])]
    if status.state == "pending":
        return [*said, ("waiting to start", "yellow")]
    if status.state == "scheduled":
        return [*said, (f"runs {status.reason}", "cyan")]
    if status.rate:
        said.append((pace(status.rate), ""))
    if status.done == status.rows:
        reduces = [p["table"] for p in reduce_phases(run.manifest)]
        running = [w["stage"] for w in status.working_on if w["stage"] in reduces]
        said.append((f"reduce {running[0]}" if running else "finishing", "cyan"))
    elif status.seconds_left is not None:
        said.append((f"{left(status.seconds_left)} left", "cyan"))
    return said
