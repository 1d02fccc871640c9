"""Profiles from partitions: read from what a real cluster answered, written as TOML."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from flowdist.backends.slurm.client import SlurmClient
from flowdist.backends.slurm.cluster import NodeType, Partition, parse_partitions
from flowdist.backends.slurm.discover import discover
from flowdist.backends.slurm.plans import Slurm
from flowdist.cli import cli
from flowdist.plan import profile
from flowdist.profiles import files

# `scontrol show partition -a -o` and `sinfo` of a cluster of SLURM 22.05, shortened.
PARTITIONS = """\
PartitionName=batch AllowGroups=ALL AllowAccounts=bio,chem AllowQos=ALL Default=NO QoS=N/A \
DefaultTime=01:00:00 MaxNodes=8 MaxTime=2-00:00:00 OverSubscribe=NO State=UP TotalNodes=3
PartitionName=debug AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=YES QoS=N/A \
DefaultTime=NONE MaxNodes=UNLIMITED MaxTime=UNLIMITED OverSubscribe=EXCLUSIVE State=UP TotalNodes=1
PartitionName=gpu.a100 AllowGroups=ALL AllowAccounts=ALL AllowQos=long Default=NO QoS=N/A \
DefaultTime=NONE MaxNodes=UNLIMITED MaxTime=1-00:00:00 State=DOWN TotalCPUs=64 TotalNodes=1
PartitionName=empty AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=NO QoS=N/A \
DefaultTime=NONE MaxNodes=UNLIMITED MaxTime=00:05:00 State=UP TotalCPUs=0 TotalNodes=0
"""
NODES = """\
batch|1|32|128000|(null)|idle|old
batch|1|32|128000|(null)|down*|old
batch|1|64|257000|(null)|mixed|new
debug|1|4|4000|(null)|idle|(null)
gpu.a100|1|64|515000|gpu:a100:4(S:0-1)|idle|(null)
"""


@pytest.fixture
def partitions() -> list[Partition]:
    return parse_partitions(PARTITIONS, NODES)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWDIST_CONFIG", str(tmp_path / "user.toml"))
    return tmp_path


def test_a_partition_becomes_a_profile_for_the_nodes_it_has_most_of(
    partitions: list[Partition],
) -> None:
    (batch,) = [one for one in discover(partitions) if one.name == "batch"]

    assert batch.toml().splitlines() == [
        (
            "# 3 nodes: 2 of 32 cores, 125 GiB, features old (1 usable now); "
            "1 of 64 cores, 251 GiB, features new"
        ),
        "# a job runs 2 d at most, and 1 h where nothing is said",
        "# a job has at most 8 nodes",
        "# only for accounts bio, chem",
        "[profiles.batch]",
        'description = "partition batch: 3 nodes of 32 cores, 125 GiB"',
        'kind = "slurm"',
        'partition = "batch"',
        "cores_per_node = 32",
        'resources.memory = "125 GiB"',
        'resources.time = "2 d"',
    ]


def test_the_default_partition_comes_first(partitions: list[Partition]) -> None:
    first = discover(partitions)[0]

    assert first.name == "debug"
    assert "jobs that name no partition go here" in first.comment
    assert first.fields["exclusive"] is True
    assert "time" not in first.fields


def test_a_node_with_gpus_has_a_worker_for_each(partitions: list[Partition]) -> None:
    (gpu,) = [one for one in discover(partitions) if one.fields["partition"] == "gpu.a100"]
    plan = Slurm(**{k: v for k, v in gpu.fields.items() if k != "description"})

    assert gpu.name == "gpu-a100"
    assert (plan.worker_count(), plan.resources.cpus, plan.resources.gpus) == (4, 16, 4)
    assert "it takes no jobs now: it is DOWN" in gpu.comment
    assert "only with QOS long" in gpu.comment


def test_a_partition_without_nodes_says_what_is_known(partitions: list[Partition]) -> None:
    empty = discover(partitions)[-1]

    assert empty.comment == ("0 nodes", "a job runs 5 min at most")
    assert set(empty.fields) == {"description", "kind", "partition", "time"}


def test_every_profile_makes_a_plan(partitions: list[Partition], project: Path) -> None:
    found = discover(partitions)
    (project / "flowdist.toml").write_text("\n".join(one.toml() for one in found))

    for one in found:
        plan = profile(one.name)
        assert isinstance(plan, Slurm)
        assert plan.partition == one.fields["partition"]


def test_memory_is_never_rounded_up_to_more_than_a_node_has() -> None:
    size = 3999 * 1024**2
    node = NodeType(nodes=1, usable=1, cores=4, memory=size, gpus=0)

    (one,) = discover([Partition("p", nodes=1, types=(node,))])

    assert one.fields["memory"] == "3999 MiB"


@pytest.mark.parametrize(
    ("partition", "name"),
    [
        ("batch", "batch"),
        ("1day", "slurm-1day"),
        ("a b", "a-b"),
        ("small", "slurm-small"),
        ("naïve", "na-ve"),
    ],
)
def test_a_name_is_one_that_profiles_may_have_and_that_is_free(partition: str, name: str) -> None:
    (one,) = discover([Partition(partition)], taken=["laptop", "small"])

    assert one.name == name
    assert list(files.parse(one.toml(), "here")) == [name]


def test_no_two_partitions_share_a_name() -> None:
    names = [one.name for one in discover([Partition("a.b"), Partition("a_b"), Partition("a-b")])]

    assert names == ["a-b", "a_b", "slurm-a-b"]


# The command -------------------------------------------------------------------------------------


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, partitions: list[Partition]) -> None:
    monkeypatch.setattr(SlurmClient, "partitions", lambda self: partitions)


@pytest.mark.usefixtures("cluster")
def test_the_command_prints_what_a_file_may_hold(project: Path) -> None:
    result = CliRunner().invoke(cli, ["profiles", "discover"], catch_exceptions=False)

    assert result.exit_code == 0
    assert list(files.parse(result.stdout, "here")) == ["debug", "batch", "gpu-a100", "empty"]
    assert list(project.iterdir()) == []


@pytest.mark.usefixtures("cluster")
def test_written_profiles_leave_those_that_are_there(project: Path) -> None:
    path = project / "flowdist.toml"
    before = '# mine\n[profiles.batch]\nkind = "local"\n'
    path.write_text(before)

    result = CliRunner().invoke(cli, ["profiles", "discover", "--write"], catch_exceptions=False)

    assert result.exit_code == 0
    assert path.read_text().startswith(before)
    assert list(files.read(path)) == ["batch", "debug", "gpu-a100", "empty"]
    assert "Left profile 'batch' as it is" in result.output

    CliRunner().invoke(cli, ["profiles", "discover", "--write"], catch_exceptions=False)
    assert list(files.read(path)) == ["batch", "debug", "gpu-a100", "empty"]


@pytest.mark.usefixtures("cluster")
def test_they_are_written_where_one_says(project: Path) -> None:
    CliRunner().invoke(cli, ["profiles", "discover", "--write", "x.toml"], catch_exceptions=False)

    assert [path.name for path in project.iterdir()] == ["x.toml"]


def test_without_slurm_the_command_says_so(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setenv("PATH", str(project))

    result = CliRunner().invoke(cli, ["profiles", "discover"])

    assert result.exit_code == 3
    assert "scontrol cannot be called on " in result.output
