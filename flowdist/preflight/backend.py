"""What the backend has to say before a run, of every request that its jobs would make.

Stages with needs of their own have jobs of their own. Each different request is checked; what
holds for all of them is said once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from flowdist.errors import FlowdistError
from flowdist.preflight.check import Check, quoted

if TYPE_CHECKING:
    from flowdist.backends.base import Backend
    from flowdist.flow import Flow
    from flowdist.plan import Plan, PlanSummary

__all__ = ["Probes", "ask_backend", "requests"]


@runtime_checkable
class Probes(Protocol):
    """A backend that can look from where jobs run; others have nothing to look for."""

    def probe(self, plans: Sequence[Plan]) -> list[Check]:
        """What jobs with these requests find where they run, for which a tiny one is started.

        It waits for a bounded time, and leaves nothing running.
        """


def requests(flow: Flow) -> list[tuple[str, Plan]]:
    """The different requests that the jobs of a flow make: for which stages, and the plan of each.

    >>> from flowdist import flow, local, param_grid
    >>> f = flow(param_grid(x=[1])).stage("a", lambda x: x).stage("b", lambda a: a)
    >>> requests(f.distribute(local(workers=1)))
    [("'a', 'b'", local(workers=1))]
    """
    from flowdist.submission import phase_plans

    found: list[tuple[Plan, list[str]]] = []
    for names, plan in phase_plans(flow):
        same = next((known for own, known in found if own == plan), None)
        if same is None:
            found.append((plan, list(names)))
        else:
            same += names
    return [(quoted(names), own) for own, names in found]


def ask_backend(
    flow: Flow, summary: PlanSummary, *, probe: bool = False, brief: bool = False
) -> list[Check]:
    """The findings of the backend; with `probe` also those of a tiny job, unless others say that
    none would run. Where that is `brief`, the backend need only say what would keep jobs from
    running.
    """
    from flowdist.backends.base import backend_named

    asked = requests(flow)
    try:
        backend = backend_named(summary.plan.kind)
    except FlowdistError as error:
        return [Check("backend", "error", str(error))]
    try:
        found = [
            (names, backend.check(own, replace(summary, plan=own), brief=brief))
            for names, own in asked
        ]
        checks = list(_united(found))
        if probe and not any(check.severity == "error" for check in checks):
            checks += _probed(backend, [own for _, own in asked])
        return checks
    except FlowdistError as error:
        return [Check("backend", "error", str(error))]
    finally:
        backend.close()


def _united(found: Sequence[tuple[str, Sequence[Check]]]) -> Iterator[Check]:
    """What holds for all requests once, the rest with the stages that it is about."""
    seen: set[Check] = set()
    for names, checks in found:
        for check in checks:
            if all(check in others for _, others in found):
                if check not in seen:
                    seen.add(check)
                    yield check
            else:
                plural = "s" if "', '" in names else ""
                yield replace(check, what=f"stage{plural} {names}: {check.what}")


def _probed(backend: Backend, plans: Sequence[Plan]) -> list[Check]:
    if isinstance(backend, Probes):
        return backend.probe(plans)
    return [Check("probe", "info", "there is nothing to probe: jobs run on this machine")]
