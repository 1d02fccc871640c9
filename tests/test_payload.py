"""The pickled flow: the project's own code travels in it, and it is what was submitted."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import cloudpickle
import pytest

from flowdist import flow, param_grid
from flowdist.errors import PayloadError
from flowdist.flow import Flow, Program
from flowdist.payload import (
    describe,
    difference,
    dump_program,
    is_project_module,
    load_program,
    project_modules_by_value,
    versions,
)
from flowdist.retry import exponential, retry
from flowdist.store import RunFiles


@pytest.fixture
def project(tmp_path: Path, monkeypatch: Any) -> Iterator[Callable[..., ModuleType]]:
    """Writes modules of a project and imports them; they are forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(name: str, text: str) -> ModuleType:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def forget(*names: str) -> None:
    for name in names:
        del sys.modules[name]


def submitted(program: Program, directory: Path) -> RunFiles:
    """A run with this program."""
    files = RunFiles.at(directory)
    data = dump_program(program)
    files.store.put(files.FLOW, data)
    files.put_json(files.RUN, {"payload": describe(data)})
    return files


def square(f: Any = lambda x: x * x) -> Flow:
    return flow(param_grid(x=[1, 2, 3])).stage("sq", f)


def call(program: Program, *arguments: Any) -> Any:
    """Call the function of the first stage."""
    return program.stages[0].fn(*arguments)


# By value -----------------------------------------------------------------------------------------


def test_editing_a_module_changes_nothing_that_is_queued(project: Any, tmp_path: Path) -> None:
    fit = project("mine_fit", "K = 10\ndef helper(x): return K * x\ndef fit(x): return helper(x)")
    data = dump_program(square(fit.fit).program)
    forget("mine_fit")
    project("mine_fit", "def fit(x): return 'new'")

    assert call(pickle.loads(data), 2) == 20


def test_a_module_that_a_stage_imports_from_travels_too(project: Any) -> None:
    project("mine.__init__", "")
    project("mine.tools", "def twice(x): return 2 * x")
    fit = project("mine_stages", "from mine.tools import twice\ndef fit(x): return twice(x)")
    data = dump_program(square(fit.fit).program)

    there = f"import pickle; print(pickle.loads({data!r}).stages[0].fn(4))"
    done = subprocess.run([sys.executable, "-c", there], capture_output=True, text=True, cwd="/")

    assert (done.stdout, done.stderr) == ("8\n", "")


def test_classes_of_the_project_travel_too(project: Any) -> None:
    fit = project(
        "mine_classes",
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Fit:\n    slope: float\n"
        "def fit(x: int) -> Fit: return Fit(x / 2)",
    )
    data = dump_program(square(fit.fit).program)
    forget("mine_classes")

    program = pickle.loads(data)

    assert call(program, 1).slope == 0.5
    assert program.stages[0].returns.names == ("slope",)


@pytest.mark.parametrize("decorator", ["functools.cache", "functools.lru_cache(maxsize=2)"])
def test_cached_functions_of_the_project_travel_too(project: Any, decorator: str) -> None:
    fib = project(
        "mine_cached",
        f"import functools\n@{decorator}\n"
        "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
        "def fit(x): return fib(x)",
    )
    data = dump_program(square(fib.fit).program)
    forget("mine_cached")

    assert call(pickle.loads(data), 30) == 832040


def test_cached_functions_of_other_libraries_are_pickled_by_name() -> None:
    program = pickle.loads(dump_program(square(lambda x: urlsplit).program))

    assert call(program, 1) is urlsplit


def test_lambdas_closures_and_partials_are_pickled() -> None:
    k = 10

    program = pickle.loads(
        dump_program(square(functools.partial(lambda x, m: m * k * x, m=2)).program)
    )

    assert call(program, 3) == 60


def test_everything_about_a_stage_travels(tmp_path: Path) -> None:
    f = (
        flow(param_grid(x=[1]), seed=3, const={"k": [1, 2]}, retry=2)
        .stage("a", lambda x, k: x, timeout="2h", returns={"value": int}, skip_when=lambda x: x > 1)
        .stage("b", lambda a: a, retry=retry(3, on="crash", backoff=exponential()))
        .script("c", ["true"], env={"A": "{x}"})
        .reduce("d", lambda b: len(b), by="x", errors="keep")
    )

    program = load_program(submitted(f.program, tmp_path))

    assert (program.seed, program.const) == (3, {"k": [1, 2]})
    for back, sent in zip(program.stages, f.program.stages, strict=True):
        assert (back.name, back.bindings, back.returns, back.timeout) == (
            (sent.name, sent.bindings, sent.returns, sent.timeout)
        )
        assert (repr(back.retry), back.by, back.on_failed) == (
            (repr(sent.retry), sent.by, sent.on_failed)
        )


def test_what_cannot_be_pickled_raises() -> None:
    import threading

    lock = threading.Lock()

    with pytest.raises(TypeError, match="lock"):
        dump_program(square(lambda x: lock).program)


# Which modules are the project's ------------------------------------------------------------------


def test_modules_of_python_and_of_installed_packages_are_not_the_projects() -> None:
    import numpy.linalg
    import pyarrow

    import flowdist.grid

    others = [json, sys, pyarrow, numpy.linalg, flowdist.grid, sys.modules["__main__"], None]

    assert not any(map(is_project_module, others))


def test_modules_beside_the_users_files_are_the_projects(project: Any) -> None:
    assert is_project_module(project("mine_own", ""))
    assert is_project_module(project("mine_pkg.deep.module", ""))


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_packages_of_another_installation_on_the_path_are_not_the_projects(
    tmp_path: Path, monkeypatch: Any, folder: str
) -> None:
    # As of an environment module on a cluster, which sets PYTHONPATH.
    there = tmp_path / "apps" / "lib" / folder
    there.mkdir(parents=True)
    (there / f"central_{folder[:4]}.py").write_text("")
    monkeypatch.syspath_prepend(str(there))

    assert not is_project_module(importlib.import_module(f"central_{folder[:4]}"))


def test_an_alias_of_a_module_is_left_alone(project: Any, monkeypatch: Any) -> None:
    module = project("mine_real", "def fit(x): return x")
    monkeypatch.setitem(sys.modules, "mine_alias", module)

    with project_modules_by_value():
        assert "mine_real" in cloudpickle.list_registry_pickle_by_value()


def test_modules_are_pickled_by_value_only_meanwhile(project: Any) -> None:
    project("mine_meanwhile", "")
    mine = project("mine_already", "")
    cloudpickle.register_pickle_by_value(mine)

    with project_modules_by_value():
        assert "mine_meanwhile" in cloudpickle.list_registry_pickle_by_value()

    assert "mine_meanwhile" not in cloudpickle.list_registry_pickle_by_value()
    assert "mine_already" in cloudpickle.list_registry_pickle_by_value()
    cloudpickle.unregister_pickle_by_value(mine)


def test_how_others_pickle_is_left_alone() -> None:
    dump_program(square().program)

    assert type(functools.cache(len)) not in cloudpickle.CloudPickler.dispatch_table


# What is loaded -----------------------------------------------------------------------------------


def test_a_program_is_loaded_from_its_run(tmp_path: Path) -> None:
    files = submitted(square().program, tmp_path)

    assert call(load_program(files), 3) == 9


def test_a_payload_that_is_not_the_one_submitted_is_not_loaded(tmp_path: Path) -> None:
    files = submitted(square().program, tmp_path)

    class Harm:
        def __reduce__(self) -> Any:
            return (tmp_path / "harmed").touch, ()

    files.path(files.FLOW).write_bytes(pickle.dumps(Harm()))

    with pytest.raises(PayloadError, match=r"flow\.pkl is not the flow that was submitted"):
        load_program(files)
    assert not (tmp_path / "harmed").exists()


def test_a_truncated_payload_is_not_loaded(tmp_path: Path) -> None:
    files = submitted(square().program, tmp_path)
    path = files.path(files.FLOW)
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(PayloadError, match="its digest differs"):
        load_program(files)


def test_a_payload_that_cannot_be_loaded_says_why_and_which_versions_differ(tmp_path: Path) -> None:
    class Absent:
        def __reduce__(self) -> Any:
            return importlib.import_module, ("not_installed_here",)

    files = RunFiles.at(tmp_path)
    data = pickle.dumps(Absent())
    said = describe(data)
    said["versions"]["cloudpickle"] = "1.0"
    files.store.put(files.FLOW, data)
    files.put_json(files.RUN, {"payload": said})

    with pytest.raises(PayloadError) as caught:
        load_program(files)

    assert "ModuleNotFoundError: No module named 'not_installed_here'" in str(caught.value)
    here = cloudpickle.__version__
    assert str(caught.value).endswith(f"(cloudpickle 1.0 when submitted, {here} here)")


def test_the_same_versions_are_no_difference() -> None:
    assert difference(versions()) == ""


def test_every_version_that_differs_is_named() -> None:
    there = dict.fromkeys(versions(), "0.0")

    assert all(f"{name} 0.0 when submitted" in difference(there) for name in there)


def test_the_description_is_json() -> None:
    said = json.loads(json.dumps(describe(b"abc")))

    assert (said["bytes"], len(said["sha256"]), set(said["versions"])) == (
        (3, 64, {"python", "flowdist", "cloudpickle"})
    )


def test_an_installed_file_that_is_loaded_under_another_name_is_pickled_by_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "site-packages" / "package" / "example.py"
    path.parent.mkdir(parents=True)
    path.write_text("def work(x): return x + 1\n")
    spec = importlib.util.spec_from_file_location("an_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "an_example", module)
    spec.loader.exec_module(module)

    assert is_project_module(module)
