"""Progress is a bar where somebody looks, and a line now and then in a log."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import nbclient
import nbformat
import pytest
from rich.console import Console

from flowdist.clock import ManualClock
from flowdist.flow import flow
from flowdist.grid import param_grid
from flowdist.plan import local
from flowdist.progress import progress
from flowdist.run import Run
from flowdist.status import Status
from flowdist.submission import write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that was written and never launched: what is shown, the tests say."""
    work = flow(param_grid(x=range(100)), name="study").stage("work", lambda x: {"y": x})
    work = work.reduce("total", lambda work: 1).distribute(local(root=str(tmp_path)))
    return Run(write_run(work, "study"))


@pytest.fixture
def running() -> Status:
    return Status(
        id="study-1",
        name="study",
        state="running",
        rows=100,
        ok=38,
        failed=2,
        skipped=0,
        running=2,
        jobs={"running": 1},
        attempt=1,
        created=0.0,
        rate=4.0,
        seconds_left=15.0,
    )


class Log:
    """Progress in a log, under a clock that the test moves."""

    def __init__(self, run: Run) -> None:
        self.clock = ManualClock()
        self._file = io.StringIO()
        self._context = progress(
            run, console=Console(file=self._file, width=80, highlight=False), clock=self.clock
        )
        self.show = self._context.__enter__()

    @property
    def lines(self) -> list[str]:
        return self._file.getvalue().splitlines()


def drawn(run: Run, *statuses: Status) -> str:
    """What a terminal is sent, without its control codes."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system=None)
    with progress(run, console=console) as show:
        for status in statuses:
            show(status)
    return file.getvalue()


def test_a_line_in_a_log_says_how_far_it_is(run: Run, running: Status) -> None:
    log = Log(run)

    log.show(running)

    assert log.lines == ["study-1: 40 of 100 rows (40%), 2 failed, 4.0 rows/s, about 15 s left"]


def test_lines_are_ten_seconds_apart(run: Run, running: Status) -> None:
    log = Log(run)

    for done in range(0, 100, 20):
        log.show(replace(running, ok=done))
        log.clock.advance(2.5)

    assert [line.split(" of ")[0] for line in log.lines] == ["study-1: 2", "study-1: 82"]


def test_a_night_gives_some_dozens_of_lines(run: Run, running: Status) -> None:
    log = Log(run)

    for second in range(0, 8 * 3600, 2):
        log.show(replace(running, rows=30_000, ok=second, failed=0))
        log.clock.advance(2)

    assert 20 < len(log.lines) < 100


def test_the_end_is_said_at_once_and_once(run: Run, running: Status) -> None:
    log = Log(run)
    ended = replace(running, state="stopped", reason="cancelled; 60 rows have no result")

    log.show(running)
    log.show(ended)
    log.show(ended)

    assert len(log.lines) == 2
    assert log.lines[-1].endswith("2 failed, stopped: cancelled; 60 rows have no result")


def test_a_terminal_gets_a_bar(run: Run, running: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)

    page = drawn(run, running)

    assert "study" in page
    assert "━" in page
    assert "40/100 rows 2 failed, 4.0 rows/s, about 15 s left" in page


def test_the_bar_tells_how_it_ended(
    run: Run, running: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)

    assert "✓ study" in drawn(run, replace(running, state="done", ok=100, failed=0))
    assert "! study" in drawn(run, replace(running, state="done", ok=98))
    assert "✗ study" in drawn(run, replace(running, state="lost", reason="its process is gone"))


def test_rows_that_have_all_ended_are_not_the_end_where_a_reduce_follows(
    run: Run, running: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    work = [{"position": 0, "stage": "total", "seconds": 1.0}]

    page = drawn(run, replace(running, ok=98, running=1, working_on=work, seconds_left=0.0))

    assert "100/100 rows" in page
    assert "reduce total" in page


def test_a_terminal_that_nobody_watches_gets_lines(
    run: Run, running: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")

    assert drawn(run, running).startswith("study-1: 40 of 100 rows")


def test_names_are_not_taken_for_markup(
    run: Run, running: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    lost = replace(running, state="lost", reason="killed [/bold] by [red]")

    assert "lost: killed [/bold] by [red]" in drawn(run, lost)


def test_standard_output_stays_clean(
    run: Run, running: Status, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(run) as show:
        show(running)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "40 of 100 rows" in captured.err


def test_a_notebook_shows_one_bar_that_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWDIST_ROOT", str(tmp_path))
    cell = nbformat.v4.new_code_cell(
        "from flowdist import flow, param_grid\n"
        "f = flow(param_grid(x=range(50)), name='study').stage('f', lambda x: x)\n"
        "f.collect()['f.value'].sum()"
    )

    nbclient.NotebookClient(nbformat.v4.new_notebook(cells=[cell]), timeout=60).execute()

    bar, result = (output["data"] for output in cell["outputs"])
    assert '<progress value="50" max="50">' in bar["text/html"]
    assert "50/50 rows, done in" in bar["text/html"]
    assert bar["text/plain"].endswith("50 of 50 rows (50 ok, 0 failed, 0 skipped)")
    assert result["text/plain"].endswith("1225)")
