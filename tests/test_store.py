"""The store: blobs written once, every path of a run, and reading what somebody still writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support import beat

from flowdist.clock import ManualClock
from flowdist.errors import RunError
from flowdist.settings import host
from flowdist.store import (
    LATE_SECONDS,
    RUN_ID,
    DirectoryStore,
    JobAttempt,
    RunFiles,
    await_parts,
)

# Blobs -------------------------------------------------------------------------------------------


def test_a_blob_is_read_back_as_it_was_put(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)

    store.put("a/b/c.bin", b"\x00\xff")

    assert store.get("a/b/c.bin") == b"\x00\xff"
    assert store.path("a/b/c.bin") == tmp_path / "a" / "b" / "c.bin"


def test_a_name_is_written_once(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a", b"first")

    with pytest.raises(FileExistsError):
        store.put("a", b"second")
    assert store.get("a") == b"first"


def test_a_heartbeat_may_be_replaced(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.replace("beats/a", b"a long first one")

    store.replace("beats/a", b"second")

    assert store.get("beats/a") == b"second"


def test_a_blob_that_is_not_there_is_an_error_and_a_folder_that_is_not_there_is_empty(
    tmp_path: Path,
) -> None:
    store = DirectoryStore(tmp_path)

    with pytest.raises(FileNotFoundError):
        store.get("a")
    assert store.list("folder") == []


def test_a_folder_is_listed_in_order_without_what_lies_deeper(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for name in ("f/b", "f/a", "f/c/deep", "other"):
        store.put(name, b"")

    assert store.list("f") == ["a", "b", "c"]


def test_delete_removes_everything(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "run")
    store.put("a/b", b"")

    store.delete()

    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/passwd"])
def test_no_name_leads_out_of_the_store(tmp_path: Path, name: str) -> None:
    store = DirectoryStore(tmp_path)

    with pytest.raises(RunError, match="not a name inside the run"):
        store.path(name)
    with pytest.raises(RunError):
        store.put(name, b"")


def test_what_is_written_is_the_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0o000)
    try:
        DirectoryStore(tmp_path / "run").put("a/b", b"")
    finally:
        os.umask(old)

    assert (tmp_path / "run" / "a" / "b").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "run" / "a").stat().st_mode & 0o777 == 0o700


# Names -------------------------------------------------------------------------------------------


def test_every_file_of_a_job_is_named_after_its_attempt() -> None:
    files, who = RunFiles.at("run"), JobAttempt(12, 3)

    assert files.part(who, 7) == "parts/00012-3-0007.arrow"
    assert files.beat(who) == "beats/00012-3.json"
    assert files.log(who) == "logs/00012-3.log"


@pytest.mark.parametrize("name", ["00012-3-0007.arrow", "00012-3.json", "00012-3.log", "00012-3"])
def test_an_attempt_is_known_from_the_names_of_its_files(name: str) -> None:
    assert JobAttempt.of(name) == JobAttempt(12, 3)


def test_an_attempt_beyond_the_digits_of_a_name_is_still_found() -> None:
    who = JobAttempt(1_234_567, 12)

    assert JobAttempt.of(f"{who}-0001.arrow") == who


@pytest.mark.parametrize("text", ["demo-1114-101500-a3f2", "a", "x.y_z-1"])
def test_ids_of_runs(text: str) -> None:
    assert RUN_ID.fullmatch(text)


@pytest.mark.parametrize("text", ["", ".", "..", "../x", "a/b", "-x", "a b", "a" * 101])
def test_what_is_no_id_of_a_run(text: str) -> None:
    assert not RUN_ID.fullmatch(text)


# The manifest and other JSON ---------------------------------------------------------------------


def test_the_manifest_is_read_back(tmp_path: Path) -> None:
    files = RunFiles.at(tmp_path)

    files.put_json(files.RUN, {"id": "a", "where": Path("/x")})

    assert files.manifest() == {"id": "a", "where": "/x"}


def test_a_directory_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run: there is no run\.json"):
        RunFiles.at(tmp_path).manifest()


@pytest.mark.parametrize("content", ["", '{"id": "a"', "[1]", "\udcff"])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_bytes(content.encode(errors="surrogateescape"))

    with pytest.raises(RunError, match=r"run\.json is damaged"):
        RunFiles.at(tmp_path).manifest()


@pytest.mark.parametrize("content", [None, "", '{"pid": 1', "3"])
def test_json_that_is_not_there_or_not_whole_yet_reads_as_none(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "a.json").write_text(content)

    assert RunFiles.at(tmp_path).read_json("a.json") is None


# Launches, beats, events -------------------------------------------------------------------------


def test_only_one_process_can_intend_a_launch(tmp_path: Path) -> None:
    files = RunFiles.at(tmp_path)
    files.put_json(files.intent(1), {"by": "first"})

    with pytest.raises(FileExistsError):
        files.put_json(files.intent(1), {"by": "second"})


def test_launches_are_numbered_by_their_intents(tmp_path: Path) -> None:
    files = RunFiles.at(tmp_path)
    for attempt in (2, 1, 10):
        files.put_json(files.intent(attempt), {})
    files.put_json(files.launch(1), {})

    assert files.attempts() == [1, 2, 10]


def test_beats_are_those_of_the_asked_attempt_that_are_whole(tmp_path: Path) -> None:
    files = RunFiles.at(tmp_path)
    files.put_beat(JobAttempt(0, 1), {"ok": 1})
    files.put_beat(JobAttempt(0, 2), {"ok": 2})
    files.put_beat(JobAttempt(1, 2), {"ok": 3})
    files.path(files.beat(JobAttempt(2, 2))).write_text('{"ok": ')  # replaced this instant

    assert dict(files.beats(2)) == {JobAttempt(0, 2): {"ok": 2}, JobAttempt(1, 2): {"ok": 3}}
    assert len(list(files.beats())) == 3


def test_a_launch_is_asked_to_stop_once(tmp_path: Path) -> None:
    files = RunFiles.at(tmp_path)

    answers = [files.request_stop(1, reason, 5.0) for reason in ("cancelled", "too late")]

    assert answers == [True, False]
    assert json.loads(files.store.get(files.stop(1)))["reason"] == "cancelled"


def test_events_of_all_writers_are_read_in_order_of_time(tmp_path: Path) -> None:
    files = RunFiles.at(tmp_path)
    files.store.put("events/a.jsonl", b'{"time": 3}\n{"time": 1}\n')
    files.store.put("events/b.jsonl", b'{"time": 2}\n{"time": 4, "eve')  # killed while writing

    assert [event["time"] for event in files.events()] == [1, 2, 3]


# What other machines have written ----------------------------------------------------------------


def said(files: RunFiles, parts: int, *, host: str = "elsewhere", time: float = 1000.0) -> None:
    """The heartbeat of job 0, which has written so many parts."""
    files.put_beat(JobAttempt(0, 1), beat("done", parts=parts, host=host, time=time))


def test_parts_that_show_late_are_waited_for(tmp_path: Path) -> None:
    class Late(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.time() > 1020.0 and not files.parts():
                files.store.put(files.part(JobAttempt(0, 1), 0), b"")

    files, clock = RunFiles.at(tmp_path), Late(1000.0)
    said(files, 1)

    assert await_parts(files, 1, clock) == []
    assert 1020.0 < clock.time() < 1030.0


def test_parts_that_never_show_are_named_after_a_while(tmp_path: Path) -> None:
    files, clock = RunFiles.at(tmp_path), ManualClock(1000.0)
    files.store.put(files.part(JobAttempt(0, 1), 0), b"")
    said(files, 2)

    assert await_parts(files, 1, clock) == ["parts/00000-1-0001.arrow"]
    assert clock.time() <= 1000.0 + 2 * LATE_SECONDS


@pytest.mark.parametrize("known", [{"host": host()}, {"time": 1000.0 - LATE_SECONDS - 1}])
def test_what_was_written_here_or_long_ago_is_not_late(
    tmp_path: Path, known: dict[str, Any]
) -> None:
    files, clock = RunFiles.at(tmp_path), ManualClock(1000.0)
    said(files, 1, **known)

    await_parts(files, 1, clock)

    assert clock.time() == 1000.0


def test_parts_of_a_job_are_found_by_name(tmp_path: Path) -> None:
    files = RunFiles.at(tmp_path)
    for job, attempt, seq in [(0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0)]:
        files.store.put(files.part(JobAttempt(job, attempt), seq), b"")

    assert files.parts_of(0, attempts=2) == [
        "parts/00000-1-0000.arrow", "parts/00000-1-0001.arrow", "parts/00000-2-0000.arrow"
    ]  # fmt: skip
    assert files.parts_of(0, attempts=1)[-1] == "parts/00000-1-0001.arrow"
