"""What the nodes see, judged by a mount table; what quotas leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowdist.backends.slurm.places import (
    Mount,
    Places,
    environment_checks,
    mount_of,
    parse_quota,
    quota_checks,
    root_checks,
)
from flowdist.preflight import Check

TABLE = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /dev/shm rw - tmpfs tmpfs rw
34 21 0:40 / /home rw shared:2 - nfs4 server:/home rw
35 21 0:41 / /lustre\\040big rw - lustre mds@tcp:/big rw
36 34 0:42 / /home/ann/image rw - squashfs /dev/loop0 rw
broken line
"""


def places(table: str = TABLE, said: str = "") -> Places:
    return Places(mounts=lambda: table, which=lambda name: name, run=lambda command: said)


def root_of(directory: str, kind: str) -> list[Check]:
    table = f"21 1 8:1 / / rw - {kind} source rw"
    return list(root_checks(Path(directory), places(table)))


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/home/ann/runs", "/home", "nfs4"),
        ("/home", "/home", "nfs4"),
        ("/homes/ann", "/", "ext4"),
        ("/home/ann/image/x", "/home/ann/image", "squashfs"),
        ("/lustre big/x", "/lustre big", "lustre"),
    ],
)
def test_a_path_lies_on_the_innermost_mount(path: str, point: str, kind: str) -> None:
    found = mount_of(Path(path), TABLE)

    assert found is not None
    assert (found.point, found.kind) == (point, kind)


def test_of_two_mounts_on_one_point_the_later_counts() -> None:
    table = "1 0 8:1 / / rw - ext4 a rw\n2 1 8:1 / / rw - overlay b rw"

    assert mount_of(Path("/x"), table) == Mount("/", "overlay", "b")


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph"])
def test_a_root_that_nodes_share_is_no_finding(kind: str) -> None:
    assert root_of("/data/runs", kind) == []


@pytest.mark.parametrize("kind", ["ext4", "xfs", "overlay", "tmpfs"])
def test_a_root_on_this_machine_alone_is_a_warning(kind: str) -> None:
    (warning,) = root_of("/data/runs", kind)

    assert (warning.severity, warning.name) == ("warning", "root")
    assert kind in warning.what
    assert "root=" in warning.remedy


def test_a_root_in_tmp_is_a_warning_whatever_is_mounted_there_but_what_is_shared() -> None:
    assert [c.severity for c in root_of("/tmp/runs", "strangefs")] == ["warning"]
    assert root_of("/tmp/runs", "nfs4") == []


def test_a_filesystem_that_nobody_knows_is_not_judged() -> None:
    assert root_of("/data/runs", "strangefs") == []


def test_a_machine_without_a_mount_table_is_not_judged() -> None:
    def none() -> str:
        raise FileNotFoundError

    assert list(root_checks(Path("/data/runs"), Places(mounts=none))) == []


def test_an_environment_on_this_machine_alone_is_a_warning() -> None:
    (warning,) = environment_checks(None, "/data/env", places())

    assert warning.what.startswith("the Python environment /data/env: jobs may not see it")


def test_the_interpreter_that_the_plan_names_is_the_one_that_counts() -> None:
    assert list(environment_checks("/home/ann/env/bin/python", "/data/env", places())) == []


def test_an_interpreter_that_is_looked_up_on_the_node_is_not_judged() -> None:
    assert list(environment_checks("python3", "/data/env", places())) == []


def test_a_system_python_is_on_every_machine() -> None:
    assert list(environment_checks(None, "/usr", places())) == []


# Quotas ------------------------------------------------------------------------------------------


def test_a_quota_of_lustre_may_be_on_two_lines() -> None:
    text = "/lustre/a/very/long/name\n    900 800 1000 - 12 0 100 -\n"

    (quota,) = parse_quota(text)

    assert (quota.place, quota.used, quota.files_limit) == (
        "/lustre/a/very/long/name",
        900 * 1024,
        100,
    )


def test_a_full_quota_is_an_error() -> None:
    said = "/dev/sda1 1000* 900 1000 0 12 0 0 0"

    (error,) = quota_checks(Path("/data"), "ann", places(said=said), files=10)

    assert error.severity == "error"
    assert "1000 KiB of 1000 KiB are used" in error.what


def test_more_files_than_the_quota_has_left_are_a_warning() -> None:
    said = "/dev/sda1 10 900 1000 0 500 0 1000 0"

    (warning,) = quota_checks(Path("/data"), "ann", places(said=said), files=600)

    assert warning.severity == "warning"
    assert "500 of 1,000 files are used, and this run may write 600" in warning.what


@pytest.mark.parametrize(
    "said", ["", "Disk quotas for user ann (uid 1): none", "/dev/sdb1 10 9 10 0 1 0 0 0"]
)
def test_no_quota_on_this_filesystem_is_no_finding(said: str) -> None:
    assert list(quota_checks(Path("/data"), "ann", places(said=said), files=10)) == []
