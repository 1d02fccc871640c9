"""flowdist: run Python functions over every row of a parameter grid, on whatever compute there is.

This module only names the public things and where they live; each is imported when it is first
used, so that ``import flowdist`` costs next to nothing. What a name does is said at its home.

``flow``, ``refine`` and ``retry`` are functions that live in modules of the same name. On this
package those names always mean the functions, whatever was imported before; the modules are reached
with ``from flowdist.retry import Policy``.

>>> import flowdist
>>> flowdist.retry(times=2) | flowdist.never
retry(2) | never
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowdist.artifacts import Artifact as Artifact
    from flowdist.artifacts import artifact as artifact
    from flowdist.artifacts import register_codec as register_codec
    from flowdist.backends.slurm.plans import slurm as slurm
    from flowdist.backends.slurm.plans import slurm_allocation as slurm_allocation
    from flowdist.backends.slurm.plans import slurm_queue as slurm_queue
    from flowdist.backends.snowflake.plans import spcs_jobs as spcs_jobs
    from flowdist.backends.snowflake.plans import spcs_queue as spcs_queue
    from flowdist.backends.snowflake.plans import spcs_tasks as spcs_tasks
    from flowdist.errors import FlowdistError as FlowdistError
    from flowdist.execute import exec_flow as exec_flow
    from flowdist.executor import Executor as Executor
    from flowdist.flow import Flow as Flow
    from flowdist.flow import flow as flow
    from flowdist.grid import Grid as Grid
    from flowdist.grid import combine_grids as combine_grids
    from flowdist.grid import lhs_grid as lhs_grid
    from flowdist.grid import param_grid as param_grid
    from flowdist.grid import read_grid as read_grid
    from flowdist.mapping import MapRun as MapRun
    from flowdist.mapping import flow_map as flow_map
    from flowdist.mapping import slurm_map as slurm_map
    from flowdist.plan import Plan as Plan
    from flowdist.plan import local as local
    from flowdist.plan import profile as profile
    from flowdist.profiles import register_profile as register_profile
    from flowdist.refine import Refined as Refined
    from flowdist.refine import refine as refine
    from flowdist.resources import Resources as Resources
    from flowdist.retry import exponential as exponential
    from flowdist.retry import fixed as fixed
    from flowdist.retry import linear as linear
    from flowdist.retry import never as never
    from flowdist.retry import retry as retry
    from flowdist.retry import retry_oom as retry_oom
    from flowdist.retry import retry_timeout as retry_timeout
    from flowdist.run import Run as Run
    from flowdist.run import attach as attach
    from flowdist.run import runs as runs
    from flowdist.schema import optional as optional
    from flowdist.schema import table as table
    from flowdist.snowflake.connection import register_connection as register_connection
    from flowdist.workers.context import Context as Context

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "Artifact": "flowdist.artifacts",
    "Context": "flowdist.workers.context",
    "Executor": "flowdist.executor",
    "Flow": "flowdist.flow",
    "FlowdistError": "flowdist.errors",
    "Grid": "flowdist.grid",
    "MapRun": "flowdist.mapping",
    "Plan": "flowdist.plan",
    "Refined": "flowdist.refine",
    "Resources": "flowdist.resources",
    "Run": "flowdist.run",
    "artifact": "flowdist.artifacts",
    "attach": "flowdist.run",
    "combine_grids": "flowdist.grid",
    "exec_flow": "flowdist.execute",
    "exponential": "flowdist.retry",
    "fixed": "flowdist.retry",
    "flow": "flowdist.flow",
    "flow_map": "flowdist.mapping",
    "lhs_grid": "flowdist.grid",
    "linear": "flowdist.retry",
    "local": "flowdist.plan",
    "never": "flowdist.retry",
    "optional": "flowdist.schema",
    "param_grid": "flowdist.grid",
    "profile": "flowdist.plan",
    "read_grid": "flowdist.grid",
    "refine": "flowdist.refine",
    "register_codec": "flowdist.artifacts",
    "register_connection": "flowdist.snowflake.connection",
    "register_profile": "flowdist.profiles",
    "retry": "flowdist.retry",
    "retry_oom": "flowdist.retry",
    "retry_timeout": "flowdist.retry",
    "runs": "flowdist.run",
    "slurm": "flowdist.backends.slurm.plans",
    "slurm_allocation": "flowdist.backends.slurm.plans",
    "slurm_map": "flowdist.mapping",
    "slurm_queue": "flowdist.backends.slurm.plans",
    "spcs_jobs": "flowdist.backends.snowflake.plans",
    "spcs_queue": "flowdist.backends.snowflake.plans",
    "spcs_tasks": "flowdist.backends.snowflake.plans",
    "table": "flowdist.schema",
}

__all__ = list(_HOMES)


class _Package(ModuleType):
    """This package, except that a submodule never takes the place of a public name.

    Python binds a submodule to its package once it is loaded: without this, ``flowdist.retry``
    would be the function or the module depending on what was imported first.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
