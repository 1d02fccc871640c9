"""The report of a run: one page that needs nothing else, and the same as data."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flowdist import report as reports
from flowdist.cli.output import plain
from flowdist.flow import flow
from flowdist.grid import param_grid
from flowdist.plan import local
from flowdist.report import build_report, write_report
from flowdist.run import Run
from flowdist.submission import write_run


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
    for heading in ("Plan", "Jobs", "Failed rows", "Slowest rows"):
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


def test_a_run_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    work = flow(param_grid(x=[1, 2])).stage("fit", lambda x: x)
    written = Run(write_run(work.distribute(local(root=str(tmp_path))), "early"))

    page = Page(written.report(tmp_path / "early.html").read_text(encoding="utf-8"))

    assert "its process never started" in page.text
    assert "Slowest rows" not in page.text
