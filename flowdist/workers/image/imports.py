"""Which modules the stages of a flow need where they run: those that the pickled program names, and
those that its functions import when they are called.
"""

from __future__ import annotations

import contextlib
import dis
import importlib.util
import io
import pickle
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from types import CodeType
from typing import Any

__all__ = ["distributions_of", "modules_of"]

_NOT_ASKED = frozenset({"__main__", "builtins", "flowdist", "cloudpickle"})


def modules_of(payload: bytes) -> tuple[str, ...]:
    """The modules that a pickled program needs, of those that are installed here and are no part of
    Python. The program is one of this very user: it is loaded.
    """
    reader = _Reader(io.BytesIO(payload))
    reader.load()
    return tuple(sorted(name for name in reader.modules if _asked(name)))


def distributions_of(modules: tuple[str, ...]) -> dict[str, str]:
    """The name of the distribution that each module comes from, where it is known."""
    known = packages_distributions()
    found = {name: known.get(name.partition(".")[0]) for name in modules}
    return {name: places[0] for name, places in found.items() if places}


class _Reader(pickle.Unpickler):
    """Loads a program, and notes what it imports and what its code will import."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.modules: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        self.modules.add(module)
        if module.startswith("cloudpickle"):
            return self._watched(name, found)
        return self._code if found is CodeType else found

    def _watched(self, name: str, found: Any) -> Any:
        if name == "subimport":
            return self._subimport(found)
        if name == "_builtin_type":
            return lambda kind: self._code if kind == "CodeType" else found(kind)
        return found

    def _subimport(self, found: Callable[[str], Any]) -> Callable[[str], Any]:
        def subimport(name: str) -> Any:
            self.modules.add(name)
            return found(name)

        return subimport

    def _code(self, *parts: Any) -> CodeType:
        made = CodeType(*parts)
        self.modules.update(_imports(made))
        return made


def _imports(code: CodeType) -> Iterator[str]:
    """The modules that a piece of code imports when it runs."""
    before: list[Any] = [None, None]
    for instruction in dis.get_instructions(code):
        # What is relative (a level above 0) is of the module's own package.
        if instruction.opname == "IMPORT_NAME" and before[0] == 0:
            yield str(instruction.argval)
        if instruction.opname != "EXTENDED_ARG":
            before = [before[1], instruction.argval]


def _asked(name: str) -> bool:
    top = name.partition(".")[0]
    if not top or top in _NOT_ASKED or top in sys.stdlib_module_names:
        return False
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        # What cannot be imported here either is tried by the code, and done without.
        return importlib.util.find_spec(name) is not None
    return False
