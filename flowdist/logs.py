"""Following log files: the lines that are there, then those that come, until no more will.

Which files there are is asked again at every look, because jobs that start later have logs of their
own. What the files are named and where they are is the backend's to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flowdist.clock import Clock, SystemClock

__all__ = ["tail"]

# Short enough to follow by eye, long enough that the question whether a run has ended costs
# nothing.
FIRST_PAUSE, LONGEST_PAUSE, PAUSE_GROWTH = 0.1, 1.0, 1.3
BLOCK = 1 << 20


def tail(
    paths: Callable[[], list[Path]],
    ended: Callable[[], bool] | None = None,
    clock: Clock | None = None,
) -> Iterator[str]:
    """Lines of files, without their newline.

    Of several files, each stretch of lines follows a line ``==> name <==``.

    Args:
        paths: the files there are now. One that is missing, or not there yet, has no lines.
        ended: whether nothing more will be written. None: what is there now is all.
        clock: what to sleep by between looks.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = Path(folder, "job.log")
    ...     _ = log.write_text("started\\nended")
    ...     list(tail(lambda: [log]))
    ['started', 'ended']
    """
    clock = clock or SystemClock()
    files: dict[Path, _File] = {}
    shown: Path | None = None
    pause = FIRST_PAUSE
    while True:
        # Asked before reading, so that what was written until the end is read after it.
        last = ended is None or ended()
        now = paths()
        for path in now:
            files.setdefault(path, _File(path))
        for path in now:
            for line in files[path].lines(last):
                if len(files) > 1 and path != shown:
                    yield f"==> {path.name} <=="
                shown = path
                pause = FIRST_PAUSE
                yield line
        if last:
            return
        clock.sleep(pause)
        pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE)


@dataclass
class _File:
    """A file that grows, and how far it was read."""

    path: Path
    offset: int = 0
    rest: bytes = b""

    def lines(self, last: bool) -> Iterator[str]:
        """The lines since the last call; one without a newline only when it is the `last` call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                while block := file.read(BLOCK):
                    self.offset += len(block)
                    *whole, self.rest = (self.rest + block).split(b"\n")
                    for line in whole:
                        yield _text(line)
        except FileNotFoundError:
            return
        if last and self.rest:
            rest, self.rest = self.rest, b""
            yield _text(rest)


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode(errors="replace")
