"""Service specifications: what is taken, what is refused and how, and what becomes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowdist.emulator.compute.families import find_family
from flowdist.emulator.compute.resolved import demand, limits, shown
from flowdist.emulator.compute.spec import read_spec
from flowdist.emulator.compute.template import expand
from flowdist.emulator.errors import SqlError

IMAGE = "/db/s/repo/app:1"


def container(**more: Any) -> dict[str, Any]:
    return {"name": "main", "image": IMAGE, **more}


def read(*containers: dict[str, Any], **rest: Any) -> Any:
    return read_spec(json.dumps({"spec": {"containers": list(containers), **rest}}))


def test_yaml_and_json_are_the_same() -> None:
    text = """
spec:
  containers:
  - name: main
    image: /db/s/repo/app:1
    args: [-n, 2]
    env: {PORT: 8000, DEBUG: true}
"""
    model = read_spec(text)
    assert model == read(container(args=["-n", "2"], env={"PORT": "8000", "DEBUG": "true"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spec: {container: []}", "unknown key spec.container; did you mean spec.containers?"),
        ("spec: {containers: []}", "spec.containers needs at least 1"),
        ("specs: {}", "unknown key specs; did you mean spec?"),
        ("containers: []", "unknown key containers"),
        ("[1]", "has to be a mapping"),
        ("a: [", "not valid YAML"),
        (
            "spec: {containers: [{name: a, image: i, resource: {}}]}",
            "unknown key spec.containers[0].resource; did you mean spec.containers[0].resources?",
        ),
        ("spec: {containers: [{image: i}]}", "missing key spec.containers[0].name"),
    ],
)
def test_what_is_unknown_or_missing_is_named_with_its_path(text: str, message: str) -> None:
    with pytest.raises(SqlError) as error:
        read_spec(text)
    assert message in error.value.message


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "Main", "'Main' is not a name"),
        ("name", "{x}", "'{x}' is not a name"),
        ("env", {"A": [1]}, "env.A: '[1]' is not a string"),
        ("env", {"SNOWFLAKE_RUNNING_INSIDE_SPCS": "x"}, "is reserved"),
        (
            "resources",
            {"requests": {"memory": 2}},
            "resources.requests.memory: '2' is not an amount of memory; it needs a unit: M, Mi, G",
        ),
        ("resources", {"requests": {"cpu": "much"}}, "is not a number of vCPUs"),
        ("resources", {"limits": {"nvidia.com/gpu": 1}}, "have to be the same"),
        ("volumeMounts", [{"name": "v", "mountPath": "/v"}], "mounts volume v, which is not"),
        ("sessionTokenConfig", {}, "at least one field"),
        ("sessionTokenConfig", {"permission": "0600"}, "only together with path"),
        ("sessionTokenConfig", {"path": "/a/../b"}, "not a normalized absolute path"),
        ("sessionTokenConfig", {"path": "/a", "permission": "0777"}, 'within "0644"'),
        ("secrets", [{"snowflakeSecret": "s"}], "either directoryPath or envVarName"),
        ("secrets", [{"snowflakeSecret": "s", "envVarName": "S"}], "secretKeyRef goes with"),
        ("command", "sleep 1", "spec.containers[0].command has to be a list of strings"),
        ("args", {"a": 1}, "spec.containers[0].args has to be a list of strings"),
        ("image", 5, "spec.containers[0].image has to be a string"),
        ("volumeMounts", "v", "spec.containers[0].volumeMounts has to be a list"),
        ("mountSessionToken", "no", "mountSessionToken has to be true or false"),
        ("env", ["A"], "spec.containers[0].env has to be a mapping"),
        ("readinessProbe", {"port": 0, "path": "/"}, "readinessProbe.port has to be at least 1"),
        ("readinessProbe", {"port": "x", "path": "/"}, "port has to be a whole number"),
        (
            "secrets",
            [{"snowflakeSecret": "s", "envVarName": "S", "secretKeyRef": "x"}],
            "secretKeyRef has to be 'username', 'password' or 'secret_string'",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(SqlError) as error:
        read(container(**{field: value}))
    assert message in error.value.message
    assert (error.value.errno, error.value.sqlstate) == (395018, "22023")


@pytest.mark.parametrize(
    "volume",
    [
        {"source": "local"},
        {"source": "memory", "size": "2G"},
        {"source": "block", "size": "10Gi", "blockConfig": {"iops": 3000}, "uid": 1000},
        {"source": "stage", "stageConfig": {"name": "@db.s.st/sub", "metadataCache": "1h30m"}},
        {"source": "@db.s.st/sub", "uid": 65532, "gid": 65532},
    ],
)
def test_volumes_of_every_kind(volume: dict[str, Any]) -> None:
    model = read(
        container(volumeMounts=[{"name": "v", "mountPath": "/v"}]),
        volumes=[{"name": "v", **volume}],
    )
    assert model.spec.volumes[0].source == volume["source"]


@pytest.mark.parametrize(
    "volume",
    [
        {"source": "disk"},
        {"source": "memory"},
        {"source": "memory", "size": 2},
        {"source": "block", "size": "10G"},
        {"source": "stage"},
        {"source": "local", "size": "1Gi"},
        {"source": "stage", "stageConfig": {"name": "db.s.st"}},
    ],
)
def test_volumes_that_lack_something(volume: dict[str, Any]) -> None:
    with pytest.raises(SqlError):
        read(container(), volumes=[{"name": "v", **volume}])


def test_resources_that_are_left_out_are_derived() -> None:
    family = find_family("CPU_X64_S")

    def asked(**resources: Any) -> tuple[float, float]:
        made = demand(read(container(resources=resources)), family)
        return made.cpu, made.memory / 1024**3

    assert asked() == (0.5, 0.5)
    assert asked(limits={"cpu": 2, "memory": "4Gi"}) == (2, 4)
    assert asked(limits={"cpu": "100m", "memory": "0.1Gi"}) == (0.5, 0.5)
    assert asked(limits={"cpu": 64, "memory": "999Gi"}) == (3, 13)
    assert asked(requests={"cpu": "250m", "memory": "1Gi"}, limits={"cpu": 2}) == (0.25, 1)
    most = limits(read(container()).spec.containers[0].resources, family)
    assert (most.cpu, most.memory) == (3, 13 * 1024**3)


def test_what_provides_a_stage_volume_takes_memory_too() -> None:
    volumes = [
        {"name": "a", "source": "stage", "stageConfig": {"name": "@st"}},
        {"name": "b", "source": "@st"},
    ]
    made = demand(read(container(), volumes=volumes), find_family("CPU_X64_S"))
    assert (made.memory, made.mounts) == (1024**3, 2)


def test_the_specification_is_shown_as_snowflake_shows_it() -> None:
    model = read(
        container(env={"SERVER_PORT": 8000}, readinessProbe={"port": 8000, "path": "/health"}),
        endpoints=[{"name": "echo", "port": 8000, "public": True}],
    )
    text = shown(model, find_family("CPU_X64_XS"), {IMAGE: ("host/db/s/repo/app:1", "sha256:1")})
    assert text == (
        "---\n"
        "spec:\n"
        "  containers:\n"
        '  - name: "main"\n'
        '    image: "host/db/s/repo/app:1"\n'
        '    sha256: "@sha256:1"\n'
        "    env:\n"
        '      SERVER_PORT: "8000"\n'
        "    readinessProbe:\n"
        "      port: 8000\n"
        '      path: "/health"\n'
        "    resources:\n"
        "      limits:\n"
        '        memory: "6Gi"\n'
        '        cpu: "1"\n'
        "      requests:\n"
        '        memory: "0.5Gi"\n'
        '        cpu: "0.5"\n'
        "  endpoints:\n"
        '  - name: "echo"\n'
        "    port: 8000\n"
        "    public: true\n"
    )


def test_templates_take_plain_values_and_json() -> None:
    template = "\n".join(
        [
            "image: {{ image }}",
            "tag: app:{{tag}}",
            "env: {{env}}",
            "args: {{ARGS}}",
            "name: {{ name | default('echo-endpoint') }}",
            "blank: {{ blank | default('x', true) }}",
            "kept: [{{ kept | default('x', false) }}]",
        ]
    )
    values = {
        "image": ' "/db/s/repo/app:1" ',
        "tag": "latest",
        "env": '{"A": 1}',
        "ARGS": '["-n", 2]',
        "blank": "",
        "kept": "",
    }
    assert expand(template, values).splitlines() == [
        'image: "/db/s/repo/app:1"',
        "tag: app:latest",
        'env: {"A": 1}',
        'args: ["-n", 2]',
        "name: echo-endpoint",
        "blank: x",
        "kept: []",
    ]


@pytest.mark.parametrize(
    ("template", "values", "message"),
    [
        ("a: {{ tag }}", {"TAG": 1}, "no value is given for the variable 'tag'"),
        ("a: {{ tag }}", {"tag": "a/b"}, "neither alphanumeric nor valid JSON: a/b"),
        ("a: {{ 1 + 1 }}", {}, "is not a variable"),
    ],
)
def test_templates_that_can_not_be_filled(
    template: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(SqlError) as error:
        expand(template, values)
    assert message in error.value.message


def test_a_family_of_another_cloud_is_refused_with_its_place() -> None:
    with pytest.raises(SqlError, match="exists on Azure only"):
        find_family("GPU_NV_SM")
    with pytest.raises(SqlError, match="did you mean CPU_X64_XS"):
        find_family("CPU_X64_XXS")
