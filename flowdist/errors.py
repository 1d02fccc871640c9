"""Every exception that flowdist raises on purpose.

The tree::

    FlowdistError
    ├── UsageError                what was asked for cannot be done; nothing was started
    │   ├── GridError             the parameter table
    │   ├── FlowError             stages and how their parameters are filled
    │   ├── SchemaError           a declaration of outputs
    │   ├── PlanError             a plan or its arithmetic
    │   ├── ResourceError         cpus, memory, time, gpus
    │   ├── ProfileError          named profiles
    │   └── PreflightError        checks that found something; ``.checks`` has all of them
    ├── RunError                  a run that exists
    │   ├── RunNotFound           no such run in this root
    │   ├── RowsFailed            collect(errors="raise") met failed rows
    │   ├── RunIncomplete         rows are missing and partial results were not asked for
    │   ├── WaitTimeout           wait(timeout=...) ran out; the run goes on
    │   ├── TypeClash             two rows gave types that no column can hold together
    │   ├── PayloadError          the pickled flow cannot be loaded here
    │   └── ArtifactError         an artifact is missing or is not what was written
    ├── RowError                  a row cannot go on; recorded with the row, not raised
    │   ├── OutputMismatch        a stage's output does not fit its declaration
    │   ├── StageTimeout          a stage ran longer than its ``timeout``
    │   ├── WorkerDied            the process that ran the row was killed
    │   └── ScriptFailed          an external program failed
    └── BackendError              the scheduler or service refused, failed or did not answer

A message names the thing, the value, the place, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class FlowdistError(Exception):
    """Base of all errors raised by flowdist."""


class UsageError(FlowdistError):
    """What was asked for cannot be done; nothing was started."""


class GridError(UsageError):
    """The parameter table is not usable."""


class FlowError(UsageError):
    """A stage does not fit into the flow."""


class SchemaError(UsageError):
    """A declaration of outputs makes no sense."""


class PlanError(UsageError):
    """A plan, or its arithmetic over a grid, makes no sense."""


class ResourceError(UsageError):
    """A request for cpus, memory, time or gpus makes no sense."""


class ProfileError(UsageError):
    """A profile cannot be found, read or written."""


class PreflightError(UsageError):
    """Preflight found at least one error; ``checks`` holds every finding."""

    def __init__(self, message: str, checks: list[Any]) -> None:
        super().__init__(message)
        self.checks = checks


class RunError(FlowdistError):
    """Something about a run that exists."""


class RunNotFound(RunError):
    """No run of that id in this root."""


class RowsFailed(RunError):
    """Rows failed and ``errors="raise"`` was asked for."""


class RunIncomplete(RunError):
    """Rows have no result and ``partial=True`` was not given."""


class WaitTimeout(RunError, TimeoutError):
    """``wait(timeout=...)`` ran out; the run itself goes on."""


class TypeClash(RunError):
    """An undeclared output has types in two rows that no column can hold together."""


class PayloadError(RunError):
    """The pickled flow cannot be loaded here, or is not the one that was submitted."""


class ArtifactError(RunError):
    """An artifact is missing, or is not what was written."""


class RowError(FlowdistError):
    """A row cannot go on. Recorded with the row; the run continues."""


class OutputMismatch(RowError):
    """A stage's output does not fit its declaration.

    ``index`` is the position in the batch that was checked; it is for the executor, not for people.
    """

    def __init__(self, stage: str, field: str, expected: str, got: str, index: int = 0) -> None:
        super().__init__(f"stage '{stage}', field '{field}': expected {expected}, got {got}")
        self.stage, self.field, self.expected, self.got, self.index = (
            stage,
            field,
            expected,
            got,
            index,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.stage, self.field, self.expected, self.got, self.index)


class StageTimeout(RowError, TimeoutError):
    """A stage ran longer than its ``timeout``."""


class WorkerDied(RowError):
    """The process that ran the row ended without a result."""


class ScriptFailed(RowError):
    """An external program ended with a non-zero code or without its declared outputs."""


class BackendError(FlowdistError):
    """The scheduler or service refused, failed or did not answer."""


def nearest(name: str, candidates: Iterable[object]) -> str:
    """The clause that helps after a misspelt name; empty where nothing is near.

    >>> nearest("signl", ["signal", "n"])
    "; did you mean 'signal'?"
    """
    found = difflib.get_close_matches(name, [str(c) for c in candidates], n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""
