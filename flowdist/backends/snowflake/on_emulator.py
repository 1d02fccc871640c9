"""Making an emulator ready for flows: what set-up makes on an account, and a worker image.

An emulator runs containers as processes of this machine, so that the image is a name for the Python
that runs here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowdist.backends.snowflake.plans import SpcsQueue
from flowdist.backends.snowflake.setup import Step, set_up
from flowdist.backends.snowflake.setup_plan import Setup
from flowdist.errors import BackendError, ProfileError
from flowdist.plan import profile
from flowdist.snowflake.client import Client
from flowdist.snowflake.connection import client_for, register_connection
from flowdist.snowflake.names import Place

if TYPE_CHECKING:
    from flowdist.emulator.client import Emulator

__all__ = ["Prepared", "emulator_plan", "prepare"]

FAMILY = "CPU_X64_S"


@dataclass(frozen=True)
class Prepared:
    """An emulator that is ready; `steps` say what was there and what was made."""

    client: Client
    setup: Setup
    steps: Sequence[Step]

    def undo(self) -> None:
        """Drop what was made, and nothing that was there before."""
        made = {(step.kind, step.name) for step in self.steps if step.state == "created"}
        for thing in reversed(self.setup.things):
            if (thing.kind.lower(), thing.name.sql) in made:
                self.client.run(thing.drop)


def emulator_plan() -> SpcsQueue:
    """The plan of the profile `emulator`.

    Raises:
        ProfileError: the user has a profile of that name which is something else.
    """
    plan = profile("emulator")
    if not isinstance(plan, SpcsQueue):
        raise ProfileError(
            f"the profile 'emulator' is of kind {plan.kind} here, and the emulator is made ready "
            "for one of kind spcs-queue; give yours another name"
        )
    return plan


def prepare(emulator: Emulator, plan: SpcsQueue) -> Prepared:
    """Make what a plan needs and an emulator lacks; what is there stays as it is. From then on the
    plan's connection is to this emulator, in this process.

    Raises:
        BackendError: something of it cannot be made.
    """
    database, schema, stage = Place.parse(plan.stage).stage.parts
    setup = Setup(
        compute_pool=plan.compute_pool,
        instance_family=FAMILY,
        nodes=plan.replicas,
        database=database,
        schema=schema,
        stage=stage,
        queue=plan.queue,
        repository=plan.image.strip("/").split("/")[2],
        warehouse=plan.warehouse,
    )
    # By the plan's name for it, whatever a file of the user's calls so.
    name = register_connection(plan.connection or "emulator", emulator.connection_parameters())
    client = client_for(name)
    steps = set_up(client, setup)
    if bad := [step for step in steps if not step.ok]:
        said = "; ".join(f"{step.kind} {step.name}: {step.note}" for step in bad)
        raise BackendError(f"the emulator in {emulator.directory} cannot be made ready: {said}")
    emulator.push_image(plan.image, entrypoint=[sys.executable, "-m", "flowdist.workers"])
    return Prepared(client, setup, steps)
