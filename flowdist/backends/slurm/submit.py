"""Handing the arrays of a launch to SLURM, all of them or as many as it takes at a time."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from flowdist.backends.base import Handle
from flowdist.backends.slurm.arrays import (
    Array,
    first_jobs,
    is_reduce_array,
    log_of,
    with_keeper,
)
from flowdist.backends.slurm.client import SlurmClient, SlurmError
from flowdist.backends.slurm.plans import Slurm
from flowdist.backends.slurm.script import index_ranges, literal, sbatch_script
from flowdist.backends.slurm.states import job_state
from flowdist.clock import Clock
from flowdist.plan import Plan, plan_of

# How sbatch says that the user has as many jobs as a limit allows. It uses the same words for a
# request that is too large, which one task alone meets as well.
_TOO_MANY = re.compile(r"submit limit|SubmitJob|MaxSubmit", re.IGNORECASE)
# Cancelled tasks that run have SLURM's KillWait, 30 s by default, to end.
LEAVE_SECONDS = 90.0


class Submission:
    """Submits the arrays of one launch, as far as SLURM takes them."""

    def __init__(
        self, client: SlurmClient, handle: Handle, known: Sequence[int], clock: Clock
    ) -> None:
        self._client = client
        self._handle = handle
        self._known = known
        self._clock = clock
        self._manifest = handle.files.manifest()
        self._intent = handle.files.read_json(handle.files.intent(handle.attempt)) or {}
        self.arrays: list[Array] = []
        # The ids of arrays that were submitted and taken back.
        self.dropped: list[int] = []
        self._refusal: SlurmError | None = None

    @property
    def name(self) -> str:
        return self._handle.files.directory.name

    @property
    def ids(self) -> list[int]:
        return [array.id for array in self.arrays if array.id is not None]

    def submit_all(self, arrays: Sequence[Array]) -> None:
        """Submit the arrays in order. Where a limit of the user's jobs does not allow all of them,
        the first jobs of every phase of rows, and a keeper that starts the rest when these have
        ended.
        """
        whole = with_keeper(self._manifest, arrays) if self._manifest["escalates"] else arrays
        if self._submit_some(whole) or any(array.phase is None for array in self.arrays):
            return  # what is missing are reduces at most: the keeper starts them
        rows = [array for array in arrays if not is_reduce_array(self._manifest, array)]
        self._submit_turn(rows, number=len(whole))

    def _submit_turn(self, rows: Sequence[Array], number: int) -> None:
        """Take back what was submitted, and submit as many jobs of every phase as fit beside a
        keeper; `number` is the first that no array has had.
        """
        phases = len({array.phase for array in rows})
        jobs, tried = sum(len(array.tasks) for array in self.arrays), 0
        while jobs and tried != 1:
            tried = max(1, (jobs - 1) // phases)
            self._take_back()
            turn = with_keeper(self._manifest, first_jobs(rows, tried, number))
            number += len(turn)
            if self._submit_some(turn):
                return
            jobs = sum(len(array.tasks) for array in self.arrays)
        assert self._refusal is not None
        raise self._refusal

    def _submit_some(self, arrays: Sequence[Array]) -> bool:
        """Submit arrays, the last in part where SLURM takes no more; whether it took them all."""
        for array in arrays:
            tasks = array.tasks
            while tasks:
                try:
                    self._submit(replace(array, tasks=tasks))
                    break
                except SlurmError as error:
                    if not _TOO_MANY.search(str(error)):
                        raise
                    self._refusal = error
                    tasks = tasks[: len(tasks) // 2]
            if tasks != array.tasks:
                return False
        return True

    def _take_back(self) -> None:
        """Cancel what was submitted; until it has left the queue it counts against the limit."""
        self._client.cancel(self.ids)
        self.dropped += self.ids
        self.arrays = []
        deadline = self._clock.monotonic() + LEAVE_SECONDS
        while self._clock.monotonic() < deadline:
            queued = self._client.queue(self.name)
            if all(job_state(r).ended for r in queued if r.array in self.dropped):
                return
            self._clock.sleep(0.5)

    def _submit(self, array: Array) -> None:
        known = [*self._known, *self.dropped, *self.ids]
        found = self._client.submit(self._script(array), name=self.name, known=known)
        self.arrays.append(replace(array, id=found))

    def _script(self, array: Array) -> str:
        files, attempt = self._handle.files, self._handle.attempt
        directory = str(files.directory.absolute())
        plan = self._plan(array.phase)
        command = [directory, str(attempt)]
        if array.phase is not None:
            command += [str(array.number), str(array.base)]
        module = "keeper" if array.phase is None else "task"
        task = "0" if array.phase is None else "%a"
        id_of = {a.number: a.id for a in self.arrays}
        dependency = ",".join(
            f"{how}:{':'.join(str(id_of[number]) for number in numbers)}"
            for how, numbers in array.after
        )
        return sbatch_script(
            plan,
            name=self.name,
            command=[
                plan.python or sys.executable, "-m", f"flowdist.backends.slurm.{module}", *command
            ],
            output=f"{literal(directory)}/{log_of(attempt, array.number)}-{task}.log",
            array=None if array.phase is None else index_ranges(array.tasks),
            dependency=dependency or None,
            limit=array.limit,
        )  # fmt: skip

    def _plan(self, phase: int | None) -> Slurm:
        if phase is None:
            return cast(Slurm, Plan.from_json(self._manifest["plan"])).for_keeper()
        described = self._manifest["phases"][phase]
        plan = cast(Slurm, Plan.from_json(described["plan"]))
        scale = (self._intent.get("scale") or {}).get(described["table"])
        if scale:
            plan = cast(Slurm, plan_of(plan, resources=plan.resources.scale(**scale)))
        return plan
