"""The report of a run: one page that needs nothing else, and the same as data."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flowdist import report as reports
from flowdist.advice import PhaseUsage, suggest
from flowdist.cli.output import plain
from flowdist.flow import flow
from flowdist.grid import param_grid
from flowdist.plan import local
from flowdist.report import build_report, write_report
from flowdist.run import Run
from flowdist.show_usage import standing_out, usage_tables
from flowdist.submission import write_run
from flowdist.usage import JobUsage, measures


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Twenty rows in two jobs and a reduce; row 7 fails, row 11 takes longest."""

    def fit(x: int) -> float:
        import time

        if x == 7:
            raise ValueError("not <script>alert(1)</script> a number")
        time.sleep(0.2 if x == 11 else 0.0)
        return float(x)

    root = str(tmp_path_factory.mktemp("runs"))
    work = flow(param_grid(x=range(20)), name="a & b").stage("fit", fit, retry=1, timeout="1h")
    work = work.reduce("total", lambda fit: {"sum": fit["value"].sum()})
    plan = local(root=root, within="sequential", target_jobs=2)
    return work.distribute(plan).submit().wait()


class Page(HTMLParser):
    """What a browser makes of the page: its text, and elements left open."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = write_report(run, tmp_path_factory.mktemp("page") / "new" / "run.html")
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_is_whole_and_needs_nothing_else(page: Page) -> None:
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not {"src", "href"} & {name for name, _ in page.attributes}


def test_the_page_tells_the_run(page: Page, run: Run) -> None:
    for text in (run.id, "a & b", "done", "20 rows, 1 group, 20 chunks, 2 jobs", "retry(1)"):
        assert text in page.text
    for heading in ("Plan", "Jobs", "Asked for and used", "Failed rows", "Slowest rows"):
        assert heading in page.text


def test_what_users_wrote_is_text_on_the_page(page: Page) -> None:
    assert "ValueError: not <script>alert(1)</script> a number" in page.text


def test_an_example_of_a_failed_row_has_its_traceback(page: Page) -> None:
    assert "row 7 (x=7): stage 'fit' failed after 2 attempts" in page.text
    assert "Traceback (most recent call last)" in page.text


def test_jobs_have_their_rows(run: Run) -> None:
    jobs = {job.name: (job.state, job.rows, job.failed) for job in build_report(run).jobs}

    assert jobs == {"0": ("done", 10, 1), "1": ("done", 10, 0), "reduce total": ("done", 1, 0)}


def test_the_slowest_row_comes_first(run: Run) -> None:
    found = build_report(run)

    assert (found.slowest[0]["row"], found.slowest[0]["parameters"]) == (11, {"x": 11})
    assert found.row_seconds is not None
    assert found.slowest[0]["seconds"] == found.row_seconds[2] >= 0.2


def test_of_very_many_jobs_those_that_failed_are_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MOST_JOBS", 1)

    found = build_report(run)

    assert [job.name for job in found.jobs] == ["0"]
    assert found.jobs_left_out == 2


def test_a_report_is_data_too(run: Run) -> None:
    data = json.loads(json.dumps(plain(build_report(run).to_dict())))

    assert data["status"]["failed"] == 1
    assert data["errors"][0]["type"] == "ValueError"
    assert data["example"]["row"] == 7
    assert [phase["name"] for phase in data["usage"]] == ["rows", "reduce total"]
    assert data["usage"][0]["jobs"][0]["cpus_asked"] == 1


def test_a_run_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    work = flow(param_grid(x=[1, 2])).stage("fit", lambda x: x)
    written = Run(write_run(work.distribute(local(root=str(tmp_path))), "early"))

    page = Page(written.report(tmp_path / "early.html").read_text(encoding="utf-8"))

    assert "its process never started" in page.text
    assert "Slowest rows" not in page.text


# What jobs asked for and used ---------------------------------------------------------------------

GB = 1024**3


def used(job: int, share: float = 0.5, **known: Any) -> JobUsage:
    """A job that used a share of everything that it asked for."""
    asked = JobUsage(job, 1, "done", f"n{job}", 4, None, 8 * GB, None, 7200)
    seconds = 7200 * share
    figures = {"seconds": seconds, "cpu_seconds": 4 * share * seconds}
    return replace(asked, **{**figures, "memory_used": int(8 * GB * share), **known})


def printed(jobs: list[JobUsage], name: str = "", width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    phase = PhaseUsage(name, jobs, measures(jobs), suggest(jobs, local(workers=4)))
    console.print(usage_tables([phase]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_each_of_a_few_jobs_has_what_it_asked_for_beside_what_it_used() -> None:
    line = printed([used(0), used(1, 0.25)]).splitlines()[2]

    said = " ".join(line.split())
    assert said == "1 done n1 1 of 4 25 % 2 GiB of 8 GiB 25 % 30 min of 2 h 25 %"


def test_many_jobs_are_a_few_numbers_and_those_that_stand_out() -> None:
    jobs = [used(n, 0.5) for n in range(50)]
    jobs[20] = used(20, 0.9)
    jobs[30] = used(30, 0.5, cpu_seconds=1.0)

    text = printed(jobs)

    cores = next(line for line in text.splitlines() if line.startswith("cores"))
    assert cores.split()[:5] == ["cores", "4", "0", "2", "3.6"]
    numbers = [line.split()[0] for line in text.splitlines() if " done " in line]
    assert {"20", "30"} <= set(numbers)
    assert len(numbers) <= 9


def test_those_that_stand_out_are_the_fullest_the_longest_and_the_idlest() -> None:
    jobs = [used(n) for n in range(20)]
    jobs[3] = used(3, memory_used=7 * GB)
    jobs[7] = used(7, seconds=7000.0)
    jobs[11] = used(11, cpu_seconds=0.0)

    assert [one.job for one in standing_out(jobs, each=1)] == [3, 7, 11]


def test_what_to_ask_for_next_time_stands_below() -> None:
    text = printed([used(0, 0.1)])

    assert "Next time\n→ memory='1.25GB' would do" in text


def test_where_jobs_tell_themselves_the_report_says_so() -> None:
    assert "From heartbeats" in printed([used(0, source="heartbeats")])
    assert "From heartbeats" not in printed([used(0)])


def test_a_job_that_was_started_again_has_a_line_for_each_start() -> None:
    text = printed([used(0, state="requeued"), used(0, start=1)])

    assert [line.split()[:3] for line in text.splitlines()[:3]] == [
        ["job", "start", "state"],
        ["0", "1.1", "requeued"],
        ["0", "1.2", "done"],
    ]


def test_a_usage_table_fits_a_terminal() -> None:
    long = used(123, state="out of memory", node="node-a-0123", memory_used=int(7.77 * GB))

    assert all(len(line) <= 100 for line in printed([long, replace(long, start=1)]).splitlines())
    assert "out of memory" in printed([long, replace(long, start=1)])


def test_a_row_that_runs_in_several_launches_took_all_of_its_time(tmp_path: Path) -> None:
    def slow_then_fails(x: int) -> int:
        import time

        time.sleep(0.05)
        raise ValueError(x)

    root = str(tmp_path)
    work = flow(param_grid(x=[1])).stage("fit", slow_then_fails)
    run = work.distribute(local(root=root, within="sequential")).submit().wait()
    run.resume(failed=True).wait()

    found = build_report(run)

    assert found.slowest[0]["seconds"] >= 0.1
    assert len(found.slowest) == 1
