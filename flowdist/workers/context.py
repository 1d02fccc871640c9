"""The row's context: what a stage gets as the parameter ``ctx``."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

from flowdist.clock import Clock, SystemClock


class Context:
    """What a stage may want to know about the row it runs for.

    Attributes:
        row: the row's number in the grid (for a reduce: the group's number).
        stage: the name of the stage that is running.
        attempt: 1 on the first try.
        scratch: an empty directory of the row's own, made on first use and removed after the row.
        logger: a logger whose lines go to the job's log.

    >>> Context(row=3).attempt
    1
    """

    def __init__(
        self,
        row: int,
        *,
        deadline: float | None = None,
        folder: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.row = row
        self.stage = ""
        self.attempt = 1
        self._deadline = deadline
        self._folder = folder
        self._clock = clock or SystemClock()
        self._scratch: Path | None = None

    def time_left(self) -> float | None:
        """Seconds until the job's time limit; None where there is none."""
        return None if self._deadline is None else self._deadline - self._clock.time()

    @property
    def scratch(self) -> Path:
        if self._scratch is None:
            # The name tells whoever buries a killed process what it has left behind.
            prefix = f"flowdist-{os.getpid()}-row{self.row}-"
            self._scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=self._folder))
        return self._scratch

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        return logging.LoggerAdapter(
            logging.getLogger(f"flowdist.stage.{self.stage}"), {"row": self.row}
        )

    def close(self) -> None:
        """Remove the scratch directory, if one was made."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def __repr__(self) -> str:
        return f"Context(row={self.row}, stage={self.stage!r}, attempt={self.attempt})"
