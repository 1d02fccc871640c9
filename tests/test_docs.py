"""The README and the pages under docs/, run.

The ``python`` and ``console`` blocks of a page run in order, in an empty directory, as a reader who
follows the page would run them. The python blocks share one namespace; of a console block the lines
that begin with ``$ flowdist`` run, and must end with exit code 0.

What a page shows of the output is held against it: the ``text`` block that follows a python block,
the lines that follow a command. Three dots stand for anything, and white space does not count. A
python block may end with an exception where its text block does.

An HTML comment right before a block says that it is something else: ``<!-- not run: why -->``, or
``<!-- file: name -->`` for the content of a file that later blocks use.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from flowdist import artifacts, flow, param_grid
from flowdist.backends import base
from flowdist.cli import cli
from flowdist.plan import PLANS
from flowdist.profiles import lookup

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|file): (?P<said>.+?) -->\n)?"
    r"^```(?P<kind>\w+)\n(?P<body>.*?)^```$"
    r"(?:\n+```text\n(?P<shown>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of a page that does something, and what the page shows of its output."""

    page: Path
    line: int
    kind: str
    body: str
    shown: str | None = None
    file: str | None = None

    def check(self, got: str, wanted: str) -> None:
        pieces = re.split(r" ?\.\.\. ?", " ".join(wanted.split()))
        pattern = ".*".join(map(re.escape, pieces))
        if not re.fullmatch(pattern, " ".join(got.split())):
            place = f"{self.page.relative_to(ROOT)}, line {self.line}"
            pytest.fail(f"{place}\nthe page shows:\n{wanted}\nit gave:\n{got}", pytrace=False)


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("body"))
        file = found["said"] if found["mark"] == "file" else None
        if file is not None or (found["mark"] is None and found["kind"] in ("python", "console")):
            yield Block(page, line, found["kind"], found["body"], found["shown"], file)


def run_python(block: Block, names: dict[str, Any]) -> None:
    # The page's own line numbers, for whoever has to find a failure.
    source = "\n" * block.line + block.body
    code = compile(source, str(block.page), "exec", dont_inherit=True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            exec(code, names)
        except Exception as error:
            if block.shown is None:
                raise
            out.write(f"{type(error).__name__}: {error}\n")
    if block.shown is not None:
        block.check(out.getvalue(), block.shown)


def run_console(block: Block) -> None:
    for step in re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]:
        command, _, wanted = step.partition("\n")
        words = shlex.split(command, comments=True)
        if words[0] != "flowdist":
            continue
        done = subprocess.run(
            [sys.executable, "-m", "flowdist.cli", *words[1:]],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        if wanted.strip():
            block.check(done.stdout, wanted)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty directory, and settings that are the same on every machine."""
    before = dict(os.environ)
    for name in [n for n in before if n.startswith("FLOWDIST_")]:
        del os.environ[name]
    os.environ["FLOWDIST_CONFIG"] = str(tmp_path / "config" / "flowdist.toml")
    os.environ["FLOWDIST_CORES"] = "2"
    monkeypatch.setattr(lookup, "_registered", {})
    monkeypatch.setattr(artifacts, "_CODECS", dict(artifacts._CODECS))
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_is_what_happens(page: Path, reader: None) -> None:
    # Functions of __main__ travel by value, as those of a script or a notebook do.
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.file is not None:
            Path(block.file).write_text(block.body, encoding="utf-8")
        elif block.kind == "python":
            run_python(block, names)
        else:
            run_console(block)


def test_every_command_has_an_example() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")

    assert [n for n in cli.list_commands(click.Context(cli)) if f"$ flowdist {n}" not in text] == []


def test_the_example_of_a_backend_runs_a_flow(
    reader: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs" / "internals.md"
    names: dict[str, Any] = {"__name__": "__main__"}
    run_python(next(b for b in blocks(page) if "class PatientBackend" in b.body), names)
    entry = SimpleNamespace(name="patient", load=lambda: names["PatientBackend"])
    monkeypatch.setattr(base, "entry_points", lambda group: [entry])
    monkeypatch.setitem(PLANS, "patient", names["Patient"])
    work = flow(param_grid(x=[1, 2, 3])).stage("square", lambda x: x * x)
    work = work.reduce("total", lambda square: int(square["value"].sum()))

    run = work.distribute(names["Patient"](workers=1)).submit()

    assert run.collect()["square.value"].tolist() == [1, 4, 9]
    assert run.table("total")["value"].tolist() == [14]
