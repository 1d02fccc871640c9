"""Handing the arrays of a launch to SLURM, all of them or as many as it takes at a time."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from flowdist.backends.base import Handle
from flowdist.backends.slurm.arrays import Array, log_of, waiting
from flowdist.backends.slurm.client import SlurmClient, SlurmError
from flowdist.backends.slurm.plans import Slurm
from flowdist.backends.slurm.script import index_ranges, literal, sbatch_script
from flowdist.phases import job_count
from flowdist.plan import Plan, plan_of

# How sbatch says that the user has as many jobs as a limit allows. It uses the same words for a
# request that is too large, which one task alone meets as well.
_TOO_MANY = re.compile(r"submit limit|SubmitJob|MaxSubmit", re.IGNORECASE)


class Submission:
    """Submits the arrays of one launch, as far as SLURM takes them."""

    def __init__(self, client: SlurmClient, handle: Handle, known: Sequence[int]) -> None:
        self._client = client
        self._handle = handle
        self._known = known
        self._manifest = handle.files.manifest()
        self._intent = handle.files.read_json(handle.files.intent(handle.attempt)) or {}
        self.arrays: list[Array] = []

    @property
    def name(self) -> str:
        return self._handle.files.directory.name

    @property
    def ids(self) -> list[int]:
        return [array.id for array in self.arrays if array.id is not None]

    def submit_all(self, arrays: Sequence[Array]) -> None:
        """Submit the arrays in order. Where a limit of the user's jobs allows only some, these, and
        a keeper that starts the rest when they have ended.
        """
        rows = [array for array in arrays if not self._is_reduce(array)]
        reduces = arrays[len(rows) :]
        whole = all(self._submit_what_fits(array) for array in rows)
        if whole and not self._manifest["escalates"]:
            for array in reduces:
                self._submit(array)
            return
        keeper = self._submit_keeper(len(arrays))
        for array in reduces if whole else ():
            self._submit(replace(array, after=(*array.after, ("afterok", (keeper,)))))

    def _is_reduce(self, array: Array) -> bool:
        return array.phase is not None and "by" in self._manifest["phases"][array.phase]

    def _submit_what_fits(self, array: Array) -> bool:
        """Submit an array, or the first part of it that SLURM takes; whether that was all."""
        tasks = array.tasks
        while True:
            try:
                self._submit(replace(array, tasks=tasks))
                return tasks == array.tasks
            except SlurmError as error:
                if not _TOO_MANY.search(str(error)) or len(tasks) * len(self.arrays) == 1:
                    raise
                if len(tasks) == 1 and not self.arrays:
                    raise
                if len(tasks) == 1:
                    return False
                tasks = tasks[: len(tasks) // 2]

    def _submit_keeper(self, number: int) -> int:
        """Submit the job that looks after the launch when its rows have ended; returns its number
        in the launch. The last array makes room for it where it has to.
        """
        while True:
            waits = waiting("afterany", [array.number for array in self.arrays])
            base = job_count(self._manifest)
            try:
                self._submit(Array(number, phase=None, base=base, tasks=(0,), after=waits))
                return number
            except SlurmError as error:
                if not _TOO_MANY.search(str(error)) or len(self.arrays) < 2:
                    raise
                last = self.arrays.pop()
                if last.id is not None:
                    self._client.cancel([last.id])

    def _submit(self, array: Array) -> None:
        script = self._script(array)
        found = self._client.submit(script, name=self.name, known=[*self._known, *self.ids])
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
