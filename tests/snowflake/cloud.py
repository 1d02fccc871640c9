"""An emulator that is set up for flows, and plans on it: for tests of this folder and others."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flowdist import Plan
from flowdist.backends.snowflake.plans import spcs_jobs, spcs_queue, spcs_tasks
from flowdist.emulator import Emulator
from flowdist.snowflake.connection import Client, client_for, connection_name

# Connectors look for credentials of the cloud they may run in, which takes a while.
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

IMAGE = "/flowdist/public/images/flowdist:1"
CONSTRUCTORS: dict[str, Callable[..., Plan]] = {
    "spcs-jobs": spcs_jobs,
    "spcs-tasks": spcs_tasks,
    "spcs-queue": spcs_queue,
}


def plan_on(connection: Mapping[str, Any], kind: str, **options: Any) -> Plan:
    """A plan on an emulator that is set up; two jobs, unless `options` say otherwise."""
    required: dict[str, Any] = {
        "compute_pool": "cells",
        "image": IMAGE,
        "stage": "flowdist.public.runs",
        "connection": connection,
    }
    if kind == "spcs-queue":
        required |= {"warehouse": "FLOWDIST_WH", "replicas": 2}
    elif not {"target_jobs", "chunks_per_job"} & set(options):
        required["target_jobs"] = 2
    return CONSTRUCTORS[kind](**{**required, **options})


@dataclass
class Cloud:
    """An emulator with a pool, a stage, an image repository and a worker image."""

    emulator: Emulator

    @property
    def connection(self) -> dict[str, Any]:
        return self.emulator.connection_parameters()

    def client(self) -> Client:
        return client_for(connection_name(self.connection))

    def plan(self, kind: str, root: Path, **options: Any) -> Plan:
        """A plan on it; two jobs with one worker each, unless `options` say otherwise."""
        connection = options.pop("connection", self.connection)
        return plan_on(connection, kind, **{"root": root, "workers": 1, **options})


def set_up(emulator: Emulator, *, nodes: int = 2) -> Cloud:
    """Make what flows need on an emulator."""
    with emulator.connect(role="ACCOUNTADMIN") as connection:
        size = f"MIN_NODES = {nodes} MAX_NODES = {nodes} INSTANCE_FAMILY = CPU_X64_M"
        for sql in (
            f"CREATE COMPUTE POOL cells {size}",
            "GRANT USAGE, MONITOR ON COMPUTE POOL cells TO ROLE FLOWDIST_ROLE",
        ):
            connection.cursor().execute(sql)
    with emulator.connect() as connection:
        for sql in (
            "CREATE STAGE runs ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')",
            "CREATE IMAGE REPOSITORY images",
        ):
            connection.cursor().execute(sql)
    emulator.push_image(IMAGE, entrypoint=[sys.executable, "-m", "flowdist.workers"])
    return Cloud(emulator)


def containers_of(run_id: str) -> list[psutil.Process]:
    """The commands of a run's containers, which are processes of this machine."""
    found = {}
    for process in psutil.process_iter(["cmdline", "ppid"]):
        words = process.info["cmdline"] or []
        if words[1:4] == ["-m", "flowdist.workers", "container"] and run_id in " ".join(words):
            found[process.pid] = process
    # Workers are forked, and have the command of the job.
    return [process for process in found.values() if process.info["ppid"] not in found]
