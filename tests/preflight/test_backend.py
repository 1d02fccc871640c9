"""What the backend is asked before a run: each different request, and on request a look from where
jobs run."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from preflight_support import make

from flowdist import flow, local, param_grid
from flowdist.backends.slurm.plans import slurm
from flowdist.cli import cli
from flowdist.errors import BackendError
from flowdist.flow import Flow
from flowdist.plan import Plan, PlanSummary
from flowdist.preflight import Check, preflight
from flowdist.preflight.backend import requests
from flowdist.resources import Resources

Backend = Callable[..., "Site"]


class Site:
    """A cluster that finds what it is told to find of each plan, and can be probed."""

    def __init__(self, find: Callable[[Plan], list[Check]]) -> None:
        self.find = find
        self.probed: list[Plan] = []
        self.closed = 0

    def check(self, plan: Plan, summary: PlanSummary, *, brief: bool = False) -> list[Check]:
        return self.find(plan)

    def probe(self, plans: Sequence[Plan]) -> list[Check]:
        self.probed += plans
        return [Check("probe", "info", "a job ran")]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Backend:
    def use(find: Callable[[Plan], list[Check]] = lambda plan: []) -> Site:
        made = Site(find)
        base = importlib.import_module("flowdist.backends.base")
        monkeypatch.setattr(base, "backend_named", lambda kind: made)
        return made

    return use


def two_stages() -> Flow:
    """'fit' as the plan says, 'train' in another partition."""
    f = flow(param_grid(x=[1, 2])).stage("fit", lambda x: x).stage("train", lambda fit: fit)
    return f.distribute(slurm(partition="batch", stages={"train": {"partition": "gpu"}}))


def partition_of(plan: Plan) -> list[Check]:
    return [Check("partition", "error", f"no partition {plan.partition}")]  # type: ignore[attr-defined]


def test_stages_with_needs_of_their_own_make_requests_of_their_own() -> None:
    f = two_stages()

    found = requests(f)

    assert [(names, plan.partition) for names, plan in found] == [  # type: ignore[attr-defined]
        ("'fit'", "batch"),
        ("'train'", "gpu"),
    ]


def test_stages_that_need_the_same_make_one_request() -> None:
    f = flow(param_grid(x=[1])).stage("a", lambda x: x).stage("b", lambda a: a)
    f = f.stage("c", lambda b: b, resources=Resources(memory="8GB"))

    found = requests(f.distribute(slurm(workers=1)))

    assert [names for names, _ in found] == ["'a', 'b'", "'c'"]


def test_what_is_about_one_request_names_its_stage(site: Backend) -> None:
    site(partition_of)

    found = [c.what for c in preflight(two_stages()) if c.name == "partition"]

    assert found == ["stage 'fit': no partition batch", "stage 'train': no partition gpu"]


def test_what_is_about_all_requests_is_said_once(site: Backend) -> None:
    site(lambda plan: [Check("root", "warning", "jobs may not see it")])

    found = [c.what for c in preflight(two_stages()) if c.name == "root"]

    assert found == ["jobs may not see it"]


def test_a_backend_that_fails_is_a_finding_and_let_go(site: Backend) -> None:
    def fail(plan: Plan) -> list[Check]:
        raise BackendError("no answer")

    cluster = site(fail)

    assert [c.what for c in preflight(two_stages()) if c.name == "backend"] == ["no answer"]
    assert cluster.closed == 1


def test_fields_for_a_stage_that_is_not_there_are_a_finding() -> None:
    f = flow(param_grid(x=[1])).stage("fit", lambda x: x)

    checks = f.distribute(slurm(stages={"ft": {"gpus": 1}})).preflight()

    (error,) = [c for c in checks if c.severity == "error"]
    assert "did you mean 'fit'?" in error.what


def test_nothing_is_probed_unless_asked_for(site: Backend) -> None:
    cluster = site()

    preflight(two_stages())

    assert cluster.probed == []


def test_a_probe_looks_for_every_request(site: Backend) -> None:
    cluster = site()

    checks = preflight(two_stages(), probe=True)

    assert len(cluster.probed) == 2
    assert "a job ran" in [c.what for c in checks]


def test_what_would_not_run_is_not_probed(site: Backend) -> None:
    cluster = site(partition_of)

    preflight(two_stages(), probe=True)

    assert cluster.probed == []


def test_on_this_machine_there_is_nothing_to_probe() -> None:
    checks = make(lambda x: x).distribute(local(workers=1)).preflight(probe=True)

    (info,) = [c for c in checks if c.name == "probe"]
    assert info.what == "there is nothing to probe: jobs run on this machine"


def test_the_command_line_probes_too(site: Backend, tmp_path: Path) -> None:
    cluster = site()
    file = tmp_path / "flow.py"
    file.write_text(
        "from flowdist import flow, param_grid, slurm\n"
        "f = flow(param_grid(x=[1])).stage('fit', lambda x: x).distribute(slurm(time='1h'))\n"
    )

    done = CliRunner().invoke(cli, ["preflight", str(file), "--probe"])

    assert (done.exit_code, len(cluster.probed)) == (0, 1)
    assert "a job ran" in done.output
