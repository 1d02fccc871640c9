"""Named profiles: where they are found, what overrides what, and what a mistake is told."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowdist import slurm
from flowdist.backends.slurm.plans import Slurm, SlurmAllocation
from flowdist.errors import ProfileError
from flowdist.plan import Local, local, profile
from flowdist.profiles import (
    Profile,
    add_profile,
    files,
    list_profiles,
    lookup,
    register_profile,
    resolve,
    user_file,
)
from flowdist.resources import Resources

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty project, an absent user file, no registered profile, nothing in the environment."""
    for variable in [name for name in os.environ if name.startswith("FLOWDIST_")]:
        monkeypatch.delenv(variable)
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("FLOWDIST_CONFIG", str(tmp_path / "home" / "flowdist.toml"))
    monkeypatch.setattr(lookup, "_registered", {})


@pytest.fixture
def project_file() -> Write:
    def write(text: str) -> Path:
        path = Path("flowdist.toml").absolute()
        path.write_text(text)
        return path

    return write


@pytest.fixture
def users_file() -> Write:
    def write(text: str) -> Path:
        path = user_file()
        path.parent.mkdir()
        path.write_text(text)
        return path

    return write


# Finding a profile -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["laptop", "small"])
def test_the_built_in_profiles_are_plans_for_this_machine(name: str) -> None:
    plan = profile(name, by="subject")

    assert isinstance(plan, Local)
    assert plan.by == ("subject",)


def test_small_is_one_worker_in_sequence() -> None:
    assert resolve("small").fields == {"kind": "local", "within": "sequential", "workers": 1}


def test_the_first_place_that_has_a_name_decides(project_file: Write, users_file: Write) -> None:
    def workers() -> Any:
        return resolve("small").fields["workers"]

    found = [workers()]
    users_file('[profiles.small]\nkind = "local"\nworkers = 2')
    found.append(workers())
    project_file('[profiles.small]\nkind = "local"\nworkers = 3')
    found.append(workers())
    register_profile("small", kind="local", workers=4)
    found.append(workers())

    assert found == [1, 2, 3, 4]
    assert "within" not in resolve("small").fields  # places hide each other, they do not mix


def test_one_file_that_is_both_the_projects_and_the_users_is_read_once(
    project_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWDIST_CONFIG", "flowdist.toml")
    project_file('[profiles.laptop]\nextends = "laptop"\nworkers = 2')

    assert resolve("laptop").fields["workers"] == 2


def test_the_users_file_is_in_the_config_directory_unless_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWDIST_CONFIG", "~/my.toml")
    assert user_file() == Path.home() / "my.toml"

    monkeypatch.delenv("FLOWDIST_CONFIG")
    assert user_file().name == "flowdist.toml"
    assert user_file().is_absolute()


# Extending ---------------------------------------------------------------------------------------


def test_extends_keeps_what_is_not_said_again_resource_by_resource(project_file: Write) -> None:
    project_file("""
        [profiles.base]
        kind = "local"
        workers = 4
        [profiles.base.resources]
        memory = "8GB"
        time = "1h"

        [profiles.night]
        extends = "base"
        time = "8h"
        """)

    fields = resolve("night").fields

    assert fields == {
        "kind": "local",
        "workers": 4,
        "resources": {"memory": "8GB", "time": "8h"},
    }


def test_a_profile_may_extend_the_one_that_it_hides(project_file: Write) -> None:
    path = project_file('[profiles.small]\nextends = "small"\nworkers = 2')

    found = resolve("small")

    assert found.fields == {"kind": "local", "within": "sequential", "workers": 2}
    assert found.sources == {
        "kind": "profile 'small' (built-in)",
        "within": "profile 'small' (built-in)",
        "workers": f"profile 'small' ({path})",
    }


def test_a_circle_is_named(project_file: Write) -> None:
    project_file("""
        [profiles.a]
        extends = "b"
        [profiles.b]
        extends = "c"
        [profiles.c]
        extends = "b"
        """)

    with pytest.raises(ProfileError, match=r"profile 'c' \(.*\): extends .*: b -> c -> b$"):
        resolve("a")


@pytest.mark.parametrize(
    ("parent", "said"),
    [
        ("lone", "extends itself, and hides no other profile of that name"),
        ("laptpo", "extends 'laptpo', which does not exist; did you mean 'laptop'"),
    ],
)
def test_extending_nothing_is_refused(project_file: Write, parent: str, said: str) -> None:
    path = project_file(f'[profiles.lone]\nextends = "{parent}"')

    with pytest.raises(ProfileError, match=said) as caught:
        resolve("lone")

    assert str(path) in str(caught.value)


# What overrides what -----------------------------------------------------------------------------


def test_the_caller_wins_over_the_environment_and_that_over_files(
    project_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_file('[profiles.my-box]\nkind = "local"\nworkers = 1')
    given: list[tuple[Any, str]] = []

    def note(overrides: dict[str, Any]) -> None:
        found = resolve("my-box", overrides)
        given.append((found.fields["workers"], found.sources["workers"]))

    monkeypatch.setenv("FLOWDIST_PLAN_WORKERS", "2")
    note({})
    monkeypatch.setenv("FLOWDIST_PROFILE_MY_BOX_WORKERS", "3")
    note({})
    note({"workers": 4})

    assert given == [
        (2, "environment variable FLOWDIST_PLAN_WORKERS"),
        (3, "environment variable FLOWDIST_PROFILE_MY_BOX_WORKERS"),
        (4, "the call"),
    ]


@pytest.mark.parametrize(
    "resources",
    [{"memory": "4GB"}, {"resources": {"memory": "4GB"}}, {"resources": Resources(memory="4GB")}],
)
def test_a_resource_is_overridden_alone_however_it_is_given(
    project_file: Write, resources: dict[str, Any]
) -> None:
    project_file('[profiles.x]\nkind = "local"\nmemory = "8GB"\ntime = "1h"')

    plan = profile("x", **resources)

    assert plan.resources == Resources(memory="4GB", time="1h")


def test_none_from_the_caller_takes_a_value_back() -> None:
    assert profile("small", workers=None).workers is None


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("ROWS_PER_CHUNK", "10", "rows_per_chunk", 10),
        ("BY", '["a", "b"]', "by", ["a", "b"]),
        ("BY", "subject", "by", "subject"),
        ("FAIL_FAST", "true", "fail_fast", True),
        ("ROOT", "/scratch/me # runs", "root", "/scratch/me # runs"),
        ("TIME", "01:30:00", "resources", {"time": "01:30:00"}),
        ("MEMORY", "8GB", "resources", {"memory": "8GB"}),
        ("RESOURCES", '{cpus = 2, memory = "8GB"}', "resources", {"cpus": 2, "memory": "8GB"}),
    ],
)
def test_a_variable_is_read_as_a_file_would_be(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, field: str, value: Any
) -> None:
    monkeypatch.setenv(f"FLOWDIST_PLAN_{variable}", text)

    assert resolve("laptop").fields[field] == value


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWDIST_PLAN_WORKERS", "")

    assert "workers" not in resolve("laptop").fields


def test_of_two_names_a_variable_is_for_the_longer(
    project_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_file('[profiles.gpu]\nkind = "local"\n[profiles.gpu_big]\nkind = "local"')
    monkeypatch.setenv("FLOWDIST_PROFILE_GPU_BIG_WORKERS", "8")

    assert resolve("gpu_big").fields["workers"] == 8
    assert "workers" not in resolve("gpu").fields


# Mistakes ----------------------------------------------------------------------------------------


def test_an_unknown_name_is_told_the_nearest_and_where_was_looked() -> None:
    with pytest.raises(ProfileError) as caught:
        resolve("latpop")

    assert str(caught.value).startswith("there is no profile 'latpop' (there are: emulator, ")
    assert str(caught.value).endswith("; did you mean 'laptop'?")
    assert str(user_file()) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[profiles.x]\nworkers = = 2", r"not valid TOML: .*line 2"),
        ('[profile.x]\nkind = "local"', "'profile' means nothing here.*did you mean 'profiles'"),
        ("profiles = 3", r"profiles = 3 is not a table"),
        ("[profiles]\nx = 3", r"profile 'x' \(.*\): 3 is not a table; write \[profiles.x\]"),
        ('[profiles."a b"]', "profile 'a b'.* a name is letters"),
        ("[profiles.x]\nextends = 3", "extends = 3 is not a string"),
        ("[profiles.x]\nresources = 3", "resources = 3 is not a table; write"),
        ("[profiles.x]\nworkers = 2", "says no kind of plan; add kind = "),
        ('[profiles.x]\nkind = "loacl"', "no plan of kind 'loacl'; did you mean 'local'"),
        (
            '[profiles.x]\nextends = "small"\nworker = 2',
            r"no field 'worker'; allowed: kind, by, .*memory.*; did you mean 'workers'\?$",
        ),
        ('[profiles.x]\nkind = "local"\nmemory = "much"', "memory: 'much' is not an amount"),
        (
            '[profiles.x]\nkind = "local"\nresources.cpu = 2',
            "no field 'cpu'; .*did you mean 'cpus'",
        ),
    ],
)
def test_a_mistake_in_a_file_names_the_file(project_file: Write, text: str, said: str) -> None:
    path = project_file(text)

    with pytest.raises(ProfileError, match=said) as caught:
        resolve("x")

    assert str(path) in str(caught.value)


def test_a_file_that_is_no_text_is_named() -> None:
    Path("flowdist.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(ProfileError, match=r"flowdist\.toml: cannot be read"):
        resolve("laptop")


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("FLOWDIST_PLAN_WORKRES", "2", "no field 'workres'; .*did you mean 'workers'"),
        ("FLOWDIST_PROFILE_LAPTOP_WORKRES", "2", "no field 'workres'; .*did you mean 'workers'"),
        ("FLOWDIST_PLAN_MEMORY", "much", "memory: 'much' is not an amount"),
        ("FLOWDIST_PLAN_RESOURCES", "much", "resources = 'much' is not a table"),
        ("FLOWDIST_PLAN_KIND", "loacl", "no plan of kind 'loacl'"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, said: str
) -> None:
    monkeypatch.setenv(variable, text)

    with pytest.raises(ProfileError, match=said) as caught:
        resolve("laptop")

    assert f"environment variable {variable}" in str(caught.value)


def test_a_variable_for_all_plans_may_suit_only_some_kinds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Cluster(Local):
        partition: str = ""

    monkeypatch.setattr("flowdist.plan.PLANS", {"local": Local, "cluster": Cluster})
    monkeypatch.setenv("FLOWDIST_PLAN_PARTITION", "long")

    assert "partition" not in resolve("laptop").fields
    assert resolve("laptop", {"kind": "cluster"}).fields["partition"] == "long"


# Listing and adding ------------------------------------------------------------------------------


def test_the_list_has_each_name_once_and_says_what_is_wrong_with_one(project_file: Write) -> None:
    path = project_file("""
        [profiles.small]
        extends = "small"
        description = "mine"
        [profiles.broken]
        workers = 2
        """)

    listed = {one.name: one for one in list_profiles()}

    assert list(listed) == ["small", "broken", "laptop", "slurm-lab", "emulator"]
    assert (listed["small"].place, listed["small"].description) == (str(path), "mine")
    assert (listed["small"].kind, listed["small"].problem) == ("local", "")
    assert listed["broken"].kind == ""
    assert "says no kind of plan" in listed["broken"].problem


def test_an_added_profile_is_found_and_the_rest_of_the_file_is_as_it_was(
    project_file: Write,
) -> None:
    before = '# ours\n[profiles.one]\nkind = "local"  # here'
    path = project_file(before)

    add_profile(path, "two", {"extends": "one", "by": ["subject"], "resources": {"time": "2h"}})

    assert path.read_text().startswith(before + "\n\n")
    assert resolve("two").fields == {
        "kind": "local",
        "by": ["subject"],
        "resources": {"time": "2h"},
    }


def test_adding_makes_the_file_and_its_directory() -> None:
    add_profile(user_file(), "mine", {"kind": "local"})

    assert resolve("mine").sources["kind"] == f"profile 'mine' ({user_file()})"


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("one", {"kind": "local"}, "has a profile 'one' already"),
        ("two words", {"kind": "local"}, "a name is letters"),
        ("two", {}, "says no kind"),
        ("two", {"kind": "local", "worker": 2}, "no field 'worker'"),
        ("two", {"extends": "two"}, "extends itself"),
        ("two", {"kind": "local", "workers": None}, "workers=None cannot be written"),
    ],
)
def test_what_cannot_be_added_leaves_the_file_as_it_was(
    project_file: Write, name: str, fields: dict[str, Any], said: str
) -> None:
    path = project_file('[profiles.one]\nkind = "local"\n')
    before = path.read_bytes()

    with pytest.raises(ProfileError, match=said):
        add_profile(path, name, fields)

    assert path.read_bytes() == before


def test_a_file_that_takes_no_table_at_its_end_is_left_alone(project_file: Write) -> None:
    path = project_file('profiles = {one = {kind = "local"}}\n')

    with pytest.raises(ProfileError, match="not valid TOML"):
        add_profile(path, "two", {"kind": "local"})

    assert "two" not in path.read_text()


values = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["kind", "by", "root", "workers"]), values), st.text())
def test_whatever_is_written_is_read_back(fields: dict[str, Any], description: str) -> None:
    wrote = Profile.of("mine", "here", {**fields, "description": description})

    assert files.parse(files.table(wrote), "here") == {"mine": wrote}


def test_a_variable_holds_columns_with_commas_and_memory_with_its_unit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWDIST_PLAN_BY", "subject, session")
    assert profile("laptop").by == ("subject", "session")

    monkeypatch.setenv("FLOWDIST_PLAN_MEMORY", "8")
    with pytest.raises(ProfileError, match="FLOWDIST_PLAN_MEMORY: memory: '8' has no unit"):
        profile("laptop")


def test_a_profile_without_a_kind_is_told_both_ways_out() -> None:
    register_profile("mine", workers=2)

    with pytest.raises(ProfileError, match=r'add kind = "local" .*, or extend.*extends = "laptop"'):
        profile("mine")


# Tables of a plan --------------------------------------------------------------------------------

CLUSTER = """
    [profiles.cluster]
    kind = "slurm"
    partition = "batch"
    account = "lab"
    gres = "gpu:1"
    setup = ["ulimit -n 4096", "cd /scratch"]
    resources.memory = "8GB"
    environment = {LANG = "C", N = 3}
    extra.nice = 100

    [profiles.cluster.stages.train]
    partition = "gpu"
    gpus = 1

    [profiles.mine]
    extends = "cluster"
    environment = {LANG = "en_GB.UTF-8"}
    extra.licenses = "matlab:1"
    """


def test_a_profile_for_slurm_has_all_fields_of_its_plan(project_file: Write) -> None:
    project_file(CLUSTER)

    assert profile("cluster", by="subject") == slurm(
        by="subject",
        partition="batch",
        account="lab",
        gres="gpu:1",
        setup=["ulimit -n 4096", "cd /scratch"],
        memory="8GB",
        environment={"LANG": "C", "N": "3"},
        extra={"nice": 100},
        stages={"train": {"partition": "gpu", "gpus": 1}},
    )


def test_a_table_is_extended_value_by_value_and_each_says_where_it_is_from(
    project_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project_file(CLUSTER)
    monkeypatch.setenv("FLOWDIST_PROFILE_MINE_EXTRA", "{nice = 5}")

    found = resolve("mine")

    assert found.fields["environment"] == {"LANG": "en_GB.UTF-8", "N": 3}
    assert found.fields["extra"] == {"nice": 5, "licenses": "matlab:1"}
    assert found.sources["environment.N"] == f"profile 'cluster' ({path})"
    assert found.sources["environment.LANG"] == f"profile 'mine' ({path})"
    assert found.sources["extra.nice"] == "environment variable FLOWDIST_PROFILE_MINE_EXTRA"
    assert found.sources["stages.train"] == f"profile 'cluster' ({path})"


def test_none_from_the_caller_takes_a_value_of_a_table_back(project_file: Write) -> None:
    project_file(CLUSTER)

    plan = profile("cluster", extra={"nice": None}, environment={"N": None})

    assert isinstance(plan, Slurm)
    assert (plan.extra, plan.environment) == ({}, {"LANG": "C"})


def test_an_empty_table_takes_nothing_away(project_file: Write) -> None:
    project_file(CLUSTER.replace('extra.licenses = "matlab:1"', "extra = {}"))

    assert resolve("mine").fields["extra"] == {"nice": 100}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("partition = {a = 1}", "partition is not a table, and 'partition.a' no field"),
        ("partiton.a = 1", "no field 'partiton'; .*did you mean 'partition'"),
        ("resources.cpu = 1", "no field 'cpu'; .*did you mean 'cpus'"),
    ],
)
def test_a_table_where_none_belongs_is_refused(project_file: Write, line: str, said: str) -> None:
    path = project_file(f'[profiles.x]\nkind = "slurm"\n{line}')

    with pytest.raises(ProfileError, match=rf"profile 'x' \({re.escape(str(path))}\): .*{said}"):
        resolve("x")


def test_a_variable_for_all_plans_leaves_alone_what_has_no_such_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWDIST_PLAN_EXTRA", "{nice = 5}")
    monkeypatch.setenv("FLOWDIST_PLAN_PARTITION", "batch")

    lab = profile("slurm-lab")

    assert isinstance(lab, SlurmAllocation)
    assert (lab.extra, lab.partition) == ({"nice": 5}, "batch")
    assert profile("laptop") == local(within="processes")


def test_a_comment_stands_above_an_added_profile(project_file: Write) -> None:
    path = project_file('[profiles.one]\nkind = "local"\n')

    add_profile(path, "two", {"kind": "slurm", "environment": {"A": "1"}}, ["4 nodes", "1 d"])

    assert path.read_text().splitlines()[2:] == [
        "",
        "# 4 nodes",
        "# 1 d",
        "[profiles.two]",
        'kind = "slurm"',
        'environment.A = "1"',
    ]


def test_the_lab_has_a_job_on_each_node_with_a_worker_on_each_core() -> None:
    lab = profile("slurm-lab")

    assert isinstance(lab, SlurmAllocation)
    assert (lab.nodes, lab.worker_count(), lab.job_cpus()) == (4, 4, 4)
    assert lab.default_jobs(rows=1000, workers=4)[0] == 4
    assert lab.resources == Resources(memory="3GB", time="10min")
