"""Jobs and commands that do not use pandas start without it.

pyarrow imports pandas, where it is installed, at its first conversion of anything, which takes
longer than all else that a job does before its first row. Here that import is refused once;
pandas is there for whoever wants it, and pyarrow is told then. Snowflake's connector imports it
too, for calls that jobs do not make.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import pyarrow as pa

__all__ = ["defer_pandas", "import_without_pandas"]


class _Deferred:
    """Finds pandas for whoever imports it, and then lets pyarrow know; it alone is refused."""

    refusing = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "pandas":
            return None
        if self.refusing:
            raise ImportError("pandas is imported when a stage wants it")
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_tell(module: ModuleType) -> None:
                execute(module)
                _tell_pyarrow()

            spec.loader.exec_module = execute_and_tell  # type: ignore[method-assign]
        return spec


def _tell_pyarrow() -> None:
    """Have pyarrow try again. It has no public name for that; where the private one is gone, it
    finds pandas as it always did.
    """
    api = getattr(pa.lib, "_pandas_api", None)
    _ = getattr(api, "pd", None)


def defer_pandas() -> None:
    """Keep pyarrow from importing pandas in this process, and those it forks, before others do."""
    if _deferred() is None and "pandas" not in sys.modules and hasattr(pa.lib, "_pandas_api"):
        finder = _Deferred()
        sys.meta_path.insert(0, finder)
        finder.refusing = True
        pa.array([])  # pyarrow tries to import pandas once
        finder.refusing = False


def import_without_pandas(module: str) -> None:
    """Import a module which goes without pandas where there is none, for this process whole."""
    defer_pandas()
    finder = _deferred()
    if finder is not None:
        finder.refusing = True
    try:
        importlib.import_module(module)
    finally:
        if finder is not None:
            finder.refusing = False


def _deferred() -> _Deferred | None:
    return next((finder for finder in sys.meta_path if isinstance(finder, _Deferred)), None)
