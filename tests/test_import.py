"""`import flowdist` is light, and every public name is found where it is said to live."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import flowdist

HEAVY = ("pyarrow", "pandas", "numpy", "pydantic", "rich", "click", "cloudpickle", "psutil")


def loaded_after(statement: str) -> set[str]:
    """The top-level names in `sys.modules` of a fresh interpreter that ran `statement`."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    return {name.partition(".")[0] for name in run_fresh(code).split()}


def run_fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_no_heavy_library() -> None:
    assert loaded_after("import flowdist").isdisjoint(HEAVY)


def test_asking_for_what_exists_loads_nothing() -> None:
    listing = "import flowdist; dir(flowdist); flowdist.__all__; hasattr(flowdist, 'nonsense')"
    assert loaded_after(listing).isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "module",
    [
        "errors",
        "clock",
        "retry",
        "schema",
        "artifacts",
        "flow",
        "workers.supervise",
        "workers.container",
    ],
)
def test_what_a_job_process_imports_stays_light(module: str) -> None:
    # A job starts thousands of processes: pandas, pydantic and rich would be most of their time.
    assert loaded_after(f"import flowdist.{module}").isdisjoint({"pandas", "pydantic", "rich"})


@pytest.mark.parametrize("name", flowdist.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(flowdist, name)

    assert not isinstance(value, ModuleType)
    assert value is getattr(importlib.import_module(flowdist._HOMES[name]), name)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(flowdist.__file__).read_text(encoding="utf-8"))
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert seen == flowdist._HOMES


def test_dir_shows_the_public_names() -> None:
    assert set(flowdist.__all__) <= set(dir(flowdist))


@pytest.mark.parametrize("name", ["flow", "retry"])
@pytest.mark.parametrize(
    "imports",
    [
        "import flowdist",
        "import flowdist.{name}",
        "import flowdist; flowdist.{name}; import flowdist.{name}",
        "from flowdist import {name}; import flowdist.{name}",
        "from flowdist.{name} import {name}; import flowdist",
        "import importlib; importlib.import_module('flowdist.{name}'); import flowdist",
        "from flowdist import Flow, never; import flowdist",
    ],
)
def test_a_function_named_as_its_module_stays_the_function(imports: str, name: str) -> None:
    run_fresh(
        f"{imports.format(name=name)}\n"
        f"import sys, types, flowdist\n"
        f"from flowdist import {name} as imported\n"
        f"assert isinstance(flowdist.{name}, types.FunctionType), flowdist.{name}\n"
        f"assert imported is flowdist.{name} is sys.modules['flowdist.{name}'].{name}\n"
    )


def test_other_submodules_are_bound_as_usual() -> None:
    errors = importlib.import_module("flowdist.errors")

    assert vars(flowdist)["errors"] is errors


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'flowdist' has no attribute 'parm_grid'") as caught:
        _ = flowdist.parm_grid

    assert caught.value.name == "parm_grid"
    assert caught.value.obj is flowdist


def test_version_is_the_installed_one() -> None:
    assert version("flowdist") == flowdist.__version__
