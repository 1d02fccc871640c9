"""The pickled flow: what travels to workers, and how they know it is what was submitted.

Functions of the project's own modules are pickled by value, so that editing a file changes nothing
that is queued. A module is the project's own when it is neither part of Python nor installed in
site-packages.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import pickle
import platform
import site
import sys
import sysconfig
import threading
from collections import ChainMap
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle

from flowdist.artifacts import adopt_codecs
from flowdist.errors import PayloadError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from flowdist.flow import Program
    from flowdist.store import RunFiles


def dump_program(program: Program) -> bytes:
    """Pickle a program by value. Raises whatever pickling raises; preflight explains it."""
    buffer = io.BytesIO()
    with project_modules_by_value():
        dump(program, buffer)
    return buffer.getvalue()


def dump(value: object, file: SupportsWrite[bytes]) -> None:
    """Pickle a value as programs are pickled; `project_modules_by_value` is to be open."""
    _Pickler(file).dump(value)


def describe(data: bytes) -> dict[str, Any]:
    """What the manifest says about a payload: its digest and the versions that made it."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "versions": versions()}


def load_program(files: RunFiles) -> Program:
    """The program of a run, its digest checked against the manifest.

    Raises:
        PayloadError: the payload is not what was submitted, or this interpreter cannot load it.
    """
    said = files.manifest()["payload"]
    owner = files.path(files.FLOW).stat().st_uid
    if owner != os.getuid():
        raise PayloadError(
            f"{files.path(files.FLOW)} belongs to another user (id {owner}); loading it would run "
            "their code as you, so it is not loaded"
        )
    data = files.store.get(files.FLOW)
    if hashlib.sha256(data).hexdigest() != said["sha256"]:
        raise PayloadError(
            f"{files.path(files.FLOW)} is not the flow that was submitted (its digest differs from "
            "the manifest's); it is not loaded. Submit the flow again"
        )
    try:
        program: Program = pickle.loads(data)
    except Exception as error:
        raise PayloadError(
            f"the flow cannot be loaded here: {type(error).__name__}: "
            f"{error}{difference(said['versions'])}"
        ) from error
    adopt_codecs(program.codecs)
    return program


def versions() -> dict[str, str]:
    """Versions that decide whether a payload can be loaded."""
    from flowdist import __version__

    return {
        "python": platform.python_version(),
        "flowdist": __version__,
        "cloudpickle": cloudpickle.__version__,
    }


def difference(there: Mapping[str, str]) -> str:
    """The clause that names the versions that differ from ours; empty where none does."""
    here = versions()
    differing = [
        f"{name} {there[name]} when submitted, {here[name]} here"
        for name in here
        if name in there and there[name] != here[name]
    ]
    return f" ({'; '.join(differing)})" if differing else ""


CachedFunction: Any = type(functools.lru_cache(lambda: None))
"""The type of functions under `functools.cache` and `lru_cache`, which has no name of its own."""


def _reduce_cached(function: Any) -> Any:
    """A function under functools.cache: by value where it is the project's own.

    cloudpickle would pickle it by its name, which no worker could import.
    """
    home = function.__module__
    if home != "__main__" and not is_project_module(sys.modules.get(home)):
        return str(function.__qualname__)
    parameters = function.cache_parameters()
    return _cached, (function.__wrapped__, parameters["maxsize"], parameters["typed"])


def _cached(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_code(code: CodeType) -> Any:
    """Code with the name of its file, which tracebacks show; cloudpickle may replace it."""
    rebuild, parts = cloudpickle.CloudPickler.dispatch_table[CodeType](code)
    return rebuild, tuple(code.co_filename if p == "<dynamic-code>" else p for p in parts)


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    # A table of our own: the one of CloudPickler is shared by all who pickle in this process.
    dispatch_table: ClassVar[Any] = ChainMap(
        {CachedFunction: _reduce_cached, CodeType: _reduce_code},
        cloudpickle.CloudPickler.dispatch_table,
    )


_BY_VALUE = threading.RLock()


@contextlib.contextmanager
def project_modules_by_value() -> Iterator[None]:
    """While this is open, cloudpickle pickles the project's own modules by value."""
    # One thread at a time: what one registers is the whole process's, until it takes it back.
    with _BY_VALUE:
        registered: list[ModuleType] = []
        known = cloudpickle.list_registry_pickle_by_value()
        try:
            for name, module in list(sys.modules.items()):
                own = getattr(module, "__name__", None) == name and is_project_module(module)
                if own and name not in known:
                    cloudpickle.register_pickle_by_value(module)
                    registered.append(module)
            yield
        finally:
            for module in registered:
                cloudpickle.unregister_pickle_by_value(module)


def is_project_module(module: ModuleType | None) -> bool:
    """Whether a module is the user's own code: not Python's, not installed, not flowdist.

    >>> import json, flowdist
    >>> is_project_module(json), is_project_module(flowdist)
    (False, False)
    """
    name = getattr(module, "__name__", None)
    path = getattr(module, "__file__", None)
    if not isinstance(module, ModuleType) or not name or not path or name == "__main__":
        return False
    # cloudpickle looks a module up by its name, so an alias in sys.modules cannot be registered.
    if sys.modules.get(name) is not module or name.partition(".")[0] == "flowdist":
        return False
    return _is_project_file(name, path)


@functools.cache  # hundreds of modules are asked about at each submit
def _is_project_file(name: str, path: str) -> bool:
    resolved = os.path.realpath(path) if os.path.islink(path) else _resolved(path)
    if not _importable(name, resolved):
        return True
    # Other installations may be on the path too: clusters offer packages by PYTHONPATH.
    if not {"site-packages", "dist-packages"}.isdisjoint(resolved.split(os.sep)):
        return False
    return not resolved.startswith(_installed_places())


def _resolved(path: str) -> str:
    """The path without links on the way to the file, which is none itself."""
    directory, file = os.path.split(path)
    return os.path.join(_real_directory(directory), file)


_real_directory = functools.cache(os.path.realpath)


def _importable(name: str, path: str) -> bool:
    """Whether another process would find the module by its name, wherever it lies."""
    parts = os.path.splitext(path)[0].removesuffix(f"{os.sep}__init__").split(os.sep)
    if parts[-name.count(".") - 1 :] == name.split("."):
        return True
    # It was loaded by its path, under a name of somebody's choice, or it is a compiled part.
    return PathFinder.find_spec(name.partition(".")[0]) is not None


@functools.cache
def _installed_places() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    places = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    with contextlib.suppress(AttributeError):
        places += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple(os.path.join(os.path.realpath(place), "") for place in dict.fromkeys(places))
