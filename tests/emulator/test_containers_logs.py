"""Logs of containers: kept by lines, bounded, read from the end."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from flowdist.emulator.compute import logs
from flowdist.emulator.compute.containers import Launch
from flowdist.emulator.compute.processes import ProcessRuntime
from flowdist.emulator.compute.shim import log as shim


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> shim.Log:
    """The log of a container whose directory is `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    return shim.Log()


def _texts(directory: Path, **options: object) -> list[str]:
    return [line.text for line in logs.read(directory, **options)]  # type: ignore[arg-type]


def test_lines_come_back_with_their_time_and_stream(log: shim.Log, tmp_path: Path) -> None:
    before = time.time()
    log.take("stdout", b"one\ntw")
    log.take("stderr", b"oops\n")
    log.take("stdout", b"o\n\n")
    found = logs.read(tmp_path)
    assert [(line.stream, line.text) for line in found] == [
        ("stdout", "one"),
        ("stderr", "oops"),
        ("stdout", "two"),
        ("stdout", ""),
    ]
    assert all(before - 0.001 <= line.time <= time.time() for line in found)


def test_a_line_without_an_end_is_kept_when_the_container_ends(
    log: shim.Log, tmp_path: Path
) -> None:
    log.take("stdout", b"no end")
    assert _texts(tmp_path) == []
    log.close()
    assert _texts(tmp_path) == ["no end"]


def test_only_the_last_lines_are_given(log: shim.Log, tmp_path: Path) -> None:
    log.take("stdout", b"".join(b"%d\n" % i for i in range(50_000)))
    assert _texts(tmp_path, lines=3) == ["49997", "49998", "49999"]
    assert _texts(tmp_path, lines=0) == []


def test_the_last_whole_lines_that_fit_are_given(log: shim.Log, tmp_path: Path) -> None:
    log.take("stdout", b"aaaa\nbbbb\ncccc\n")
    assert _texts(tmp_path, limit_bytes=10) == ["bbbb", "cccc"]
    assert _texts(tmp_path, limit_bytes=9) == ["cccc"]
    assert _texts(tmp_path, limit_bytes=4) == ["ccc"]


def test_a_long_line_is_put_together_again(log: shim.Log, tmp_path: Path) -> None:
    text = b"0123456789" * 30_000
    for at in range(0, len(text), 7_000):
        log.take("stdout", text[at : at + 7_000])
    log.take("stdout", b"\nshort\n")
    assert _texts(tmp_path, limit_bytes=None) == [text.decode(), "short"]
    longest = max(len(line) for line in (tmp_path / "log").read_bytes().split(b"\n"))
    assert longest < shim.LONGEST_LINE + 100


def test_old_lines_make_room(
    log: shim.Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shim, "LOG_BYTES", 10_000)
    for i in range(2_000):
        log.take("stdout", b"line %04d\n" % i)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size <= 20_000
    found = _texts(tmp_path)
    assert found[-1] == "line 1999"
    assert len(found) > 200
    assert found == [f"line {i:04}" for i in range(2_000 - len(found), 2_000)]


def test_bytes_that_are_no_text_do_no_harm(log: shim.Log, tmp_path: Path) -> None:
    log.take("stdout", b"\xff\xfe \x00\n")
    assert _texts(tmp_path) == ["\ufffd\ufffd \x00"]


def test_where_there_is_no_log_there_are_no_lines(tmp_path: Path) -> None:
    assert logs.read(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="containers need Linux")
def test_all_that_a_container_prints_arrives(tmp_path: Path) -> None:
    runtime = ProcessRuntime()
    directory = tmp_path / "box"
    script = "for i in range(20000): print('line', i, 'x' * 50)\nprint('end', end='')"
    runtime.start(Launch(directory, "box", (sys.executable, "-c", script)))
    until = time.monotonic() + 60
    while (state := runtime.state(directory)) is None or not state.status.ended:
        assert time.monotonic() < until
        time.sleep(0.01)
    found = _texts(directory, limit_bytes=None)
    assert len(found) == 20_001
    assert found[-1] == "end"
    assert os.path.getsize(directory / "log") < shim.LOG_BYTES
