"""A disk that is full: what fails says so, and nothing is half done."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asking import As
from emulator_server import Server

from flowdist.emulator.account import Account
from flowdist.emulator.catalog import Catalog
from flowdist.emulator.stages.store import StageStore


@contextmanager
def full(catalog: Catalog) -> Iterator[None]:
    """While SQLite finds no room for another page."""
    file = catalog._file
    (pages,) = file.execute("PRAGMA page_count").fetchone()
    file.execute(f"PRAGMA max_page_count = {pages}")
    yield
    file.execute("PRAGMA max_page_count = 1073741823")


def test_a_statement_that_cannot_be_written_changes_nothing(account: Account) -> None:
    run = As(account)
    run("CREATE STAGE old COMMENT = 'before'")
    long = "x" * 100_000

    with full(account.catalog):
        for sql in (
            f"CREATE STAGE new COMMENT = '{long}'",
            f"ALTER STAGE old SET COMMENT = '{long}'",
        ):
            failed = run.error(sql)
            assert (failed.errno, "disk is full" in failed.message) == (603, True)

    assert [(row["name"], row["comment"]) for row in run("SHOW STAGES")] == [("OLD", "before")]
    run("CREATE STAGE new")


def test_an_upload_that_is_written_in_part_is_not_acknowledged(tmp_path: Path) -> None:
    # A disk that fills up takes a part of the last write without an error, as this limit does.
    program = """
import asyncio, resource, signal, sys
from pathlib import Path
from flowdist.emulator.server import objects

class Request:
    headers = {}
    async def stream(self):
        yield bytes(700_000)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    print(asyncio.run(objects._receive(Request(), Path(sys.argv[1]))))
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "upload")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "File too large\n"


def test_an_upload_that_finds_no_room_fails_and_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    new_upload = StageStore.new_upload

    def nowhere(store: StageStore) -> Path:
        path = new_upload(store)
        path.symlink_to("/dev/full")
        return path

    monkeypatch.setattr(StageStore, "new_upload", nowhere)
    (tmp_path / "a.txt").write_text("hello")
    cursor = server.connect().cursor()
    cursor.execute("CREATE STAGE files")

    with pytest.raises(Exception, match=r"a\.txt|space|409|507"):
        cursor.execute(f"PUT file://{tmp_path}/a.txt @files AUTO_COMPRESS = FALSE")

    assert cursor.execute("LIST @files").fetchall() == []
    (store,) = (server.account.directory / "stages").glob("*/uploads")
    assert list(store.iterdir()) == []
