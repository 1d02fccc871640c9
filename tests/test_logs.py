"""Log files are followed until somebody says that no more will come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flowdist.clock import ManualClock
from flowdist.logs import tail


class Writer(ManualClock):
    """A clock during whose sleeps things happen, one a sleep."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        super().__init__()
        self.steps = list(steps)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.steps.pop(0)()

    def done(self) -> bool:
        return not self.steps


def append(path: Path, text: str) -> Callable[[], object]:
    def write() -> None:
        with path.open("a") as file:
            file.write(text)

    return write


def test_without_following_what_is_there_is_all(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(b"one\r\ntwo\nno newline \xff")

    assert list(tail(lambda: [log])) == ["one", "two", "no newline �"]


def test_new_lines_come_until_the_end(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text("start\n")
    clock = Writer(append(log, "middle\n"), lambda: None, append(log, "end\n"))

    assert list(tail(lambda: [log], clock.done, clock)) == ["start", "middle", "end"]


def test_a_line_is_given_once_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    clock = Writer(append(log, "half a"), append(log, " line\nand the "), append(log, "last"))

    assert list(tail(lambda: [log], clock.done, clock)) == ["half a line", "and the last"]


def test_files_that_appear_later_are_followed_too(tmp_path: Path) -> None:
    first, second = tmp_path / "0.log", tmp_path / "1.log"
    first.write_text("a\n")
    clock = Writer(append(second, "b\n"), append(first, "c\n"), append(first, "d\n"))

    lines = list(tail(lambda: sorted(tmp_path.glob("*.log")), clock.done, clock))

    assert lines == ["a", "==> 1.log <==", "b", "==> 0.log <==", "c", "d"]


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert list(tail(lambda: [tmp_path / "none.log"])) == []


def test_it_looks_less_often_while_nothing_comes(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    clock = Writer(*[lambda: None] * 20, append(log, "news\n"), lambda: None)

    list(tail(lambda: [log], clock.done, clock))

    assert clock.slept[:20] == sorted(clock.slept[:20])
    assert clock.slept[0] < clock.slept[19]
    assert clock.slept[-1] < clock.slept[19]
