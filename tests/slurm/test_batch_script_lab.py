"""Batch scripts before a real SLURM: accepted, and every word arrives as it was written."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from flowdist import slurm, slurm_allocation, slurm_queue
from flowdist.backends.slurm.client import SlurmClient
from flowdist.backends.slurm.plans import Slurm
from flowdist.backends.slurm.script import LONGEST_ARRAY, array_texts, literal, sbatch_script
from flowdist.plan import profile

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lab")]

NASTY = "a b\"c'd\\e;$(touch pwned)`touch pwned` # &&\r\n--wrap=x -x %a"
PRINTABLE = NASTY.replace("\r\n", " ")


@pytest.mark.parametrize(
    "plan",
    [
        slurm(),
        slurm(workers=2, cpus=2, memory="1GB", time="90s"),
        slurm(exclusive=True, memory="0"),
        slurm(nodes=2),
        slurm(nodes=2, ntasks=4),
        slurm(ntasks=3),
        slurm(requeue=False, mail_type="time_limit_90,array_tasks", mail_user="root@localhost"),
        slurm(extra={"nice": 100, "overcommit": True, "comment": PRINTABLE, "exclusive": "user"}),
        slurm(extra={"begin": "now+1hour", "cpu_freq": "high", "mem-bind": "local"}),
        slurm_queue(nodes=2, cores_per_node=4),
        slurm_allocation(nodes=2, cores_per_node=4, oversubscribe=2),
    ],
    ids=repr,
)
def test_slurm_takes_what_a_plan_asks_for(plan: Slurm) -> None:
    script = sbatch_script(
        plan,
        name=PRINTABLE,
        command=["true"],
        output="/tmp/%a.log",
        array="0-3",
        limit=2,
        dependency="singleton",
    )

    assert " to start at " in SlurmClient().test_only(script)


def test_the_profile_of_the_lab_fits_the_lab() -> None:
    plan = profile("slurm-lab")
    assert isinstance(plan, Slurm)

    script = sbatch_script(plan, name="x", command=["true"], output="/tmp/%a.log", array="0-3")

    assert "using 4 processors" in SlurmClient().test_only(script)


def test_slurm_takes_lists_of_indices_of_the_length_that_is_given() -> None:
    # Of one index said many times over, so that it fits however few tasks an array may have.
    most = ",".join(["1"] * (LONGEST_ARRAY // 2))
    assert len(array_texts(range(0, 4000, 2))) > 1

    script = sbatch_script(
        slurm(), name="x", command=["true"], output="/tmp/%a.log", array=most, limit=1000
    )

    assert " to start at " in SlurmClient().test_only(script)


def test_words_arrive_as_they_were_written_and_nothing_else_happens(tmp_path: Path) -> None:
    folder = tmp_path / "50% \"of\" 'it' $(touch pwned)"
    folder.mkdir()
    plan = slurm(
        environment={"VALUE": NASTY},
        setup=f"cd {tmp_path}",
        memory="100MB",
        time="5min",
        extra={"comment": PRINTABLE},
    )
    script = sbatch_script(
        plan,
        name="words",
        command=["bash", "-c", r'printf "%s|" "$@" "$VALUE"; echo end', "show", NASTY, "-n", ""],
        output=f"{literal(str(folder))}/%a.log",
        array="1",
    )

    subprocess.run(["sbatch", "--wait"], input=script, text=True, timeout=90, check=True)

    log = folder / "1.log"
    for _ in range(500):
        if log.exists() and log.read_bytes().endswith(b"end\n"):
            break
        time.sleep(0.02)
    assert log.read_bytes().decode() == f"{NASTY}|-n||{NASTY}|end\n"
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == [log]
