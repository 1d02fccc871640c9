"""The service specification: its text in YAML or JSON as a checked, immutable model.

What the reference does not know is refused with the path to it, as in
``unknown key spec.container; did you mean spec.containers?``. What a specification becomes on a
certain machine (resources that are missing, image digests) and how DESCRIBE SERVICE shows it is in
`resolved.py`; templates are in `template.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from flowdist.emulator.compute.amounts import MEMORY, cores, invalid_spec, memory_bytes
from flowdist.emulator.compute.fields import (
    Absolute,
    Count,
    Cpu,
    Flag,
    Memory,
    Model,
    Name,
    Port,
    RoleName,
    Size,
    Word,
    Words,
    explained,
    pattern,
    refuse,
)

__all__ = [
    "Container",
    "Endpoint",
    "Probe",
    "Resources",
    "Secret",
    "SecretName",
    "Specification",
    "Volume",
    "read_spec",
]

MOST_CONTAINERS, MOST_ENDPOINTS, MOST_VOLUMES, MOST_SECRETS, MOST_BLOCKS = 20, 100, 20, 50, 3
"""Of one service, as documented; volumes of source `block` may be three."""
RESERVED = ("SNOWFLAKE_RUNNING_INSIDE_SPCS",)
"""Environment variables that a specification may not set, as documented."""


class Probe(Model):
    """An HTTP GET that has to answer 200."""

    port: Port
    path: str
    period_seconds: Count | None = None
    failure_threshold: Count = 3


class VolumeMount(Model):
    """Where a container sees a volume."""

    name: str
    mount_path: Absolute


class Amounts(Model):
    """What is requested, or the limit; the values are as written."""

    memory: Memory | None = None
    cpu: Cpu | None = None
    gpu: Annotated[int, Field(ge=0, strict=True)] | None = Field(None, alias="nvidia.com/gpu")


class Resources(Model):
    """What a container requests and what it may use at the most."""

    requests: Amounts = Amounts.model_validate({})
    limits: Amounts = Amounts.model_validate({})

    @model_validator(mode="after")
    def _consistent(self) -> Resources:
        asked, most = self.requests, self.limits
        if (asked.gpu or 0) != (most.gpu or 0):
            raise refuse("requests and limits of nvidia.com/gpu have to be the same")
        if asked.memory and most.memory and memory_bytes(asked.memory) > memory_bytes(most.memory):
            raise refuse("the request of memory is above its limit")
        if asked.cpu and most.cpu and cores(asked.cpu) > cores(most.cpu):
            raise refuse("the request of cpu is above its limit")
        return self


class SessionTokenConfig(Model):
    """Where the token of the session is, who may read it, and whether connections.toml is made."""

    path: (
        Annotated[
            str,
            pattern(
                r"(/(?!\.{1,2}(/|\Z))[A-Za-z0-9_.-]+)+",
                "is not a normalized absolute path of letters, digits, '-', '_' and '.'",
            ),
        ]
        | None
    ) = None
    permission: (
        Annotated[
            str,
            Field(strict=True),
            pattern(
                r"0[46][04][04]", 'is not a mode within "0644" that the owner may read, as "0600"'
            ),
        ]
        | None
    ) = None
    mount_connection_config: Flag | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SessionTokenConfig:
        if not self.model_fields_set:
            raise refuse("has to contain at least one field")
        if self.permission is not None and self.path is None:
            raise refuse("permission can be given only together with path")
        return self


class SecretName(Model):
    """A secret, by name or by the reference of a native app."""

    object_name: str | None = None
    object_reference: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        return {"objectName": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one(self) -> SecretName:
        if (self.object_name is None) == (self.object_reference is None):
            raise refuse("needs either objectName or objectReference")
        return self


class Secret(Model):
    """A secret that a container gets, as a variable or as files."""

    snowflake_secret: SecretName
    directory_path: Absolute | None = None
    env_var_name: str | None = None
    secret_key_ref: Literal["username", "password", "secret_string"] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Secret:
        if (self.directory_path is None) == (self.env_var_name is None):
            raise refuse("needs either directoryPath or envVarName")
        if (self.env_var_name is None) != (self.secret_key_ref is None):
            raise refuse("secretKeyRef goes with envVarName, and only with it")
        return self


class Container(Model):
    """A container of every instance."""

    name: Name
    image: str
    command: Words | None = None
    args: Words | None = None
    env: dict[str, Word] = Field(default_factory=dict)
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    volume_mounts: tuple[VolumeMount, ...] = ()
    resources: Resources = Resources.model_validate({})
    mount_session_token: Flag = True
    session_token_config: SessionTokenConfig | None = None
    secrets: tuple[Secret, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Container:
        if not self.mount_session_token and self.session_token_config is not None:
            raise refuse("sessionTokenConfig cannot be given where mountSessionToken is false")
        for name in RESERVED:
            if name in self.env or any(secret.env_var_name == name for secret in self.secrets):
                raise refuse(f"the environment variable {name} is reserved")
        paths = [mount.mount_path for mount in self.volume_mounts]
        paths += [s.directory_path for s in self.secrets if s.directory_path is not None]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise refuse(f"two things are mounted at {twice}")
        return self


class CorsSettings(Model):
    """The headers that let pages of other origins call a public endpoint."""

    allow_origin: tuple[str, ...] = Field(alias="Access-Control-Allow-Origin")
    allow_methods: tuple[str, ...] = Field((), alias="Access-Control-Allow-Methods")
    allow_headers: tuple[str, ...] = Field((), alias="Access-Control-Allow-Headers")
    expose_headers: tuple[str, ...] = Field((), alias="Access-Control-Expose-Headers")


class Endpoint(Model):
    """A port, or a range of ports, that other services may reach."""

    name: Name
    port: Port | None = None
    port_range: Annotated[str, pattern(r"\d+-\d+", "is not a range of ports")] | None = None
    public: Flag = False
    protocol: Literal["TCP", "HTTP", "HTTPS"] = "HTTP"
    cors_settings: CorsSettings | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Endpoint:
        if (self.port is None) == (self.port_range is None):
            raise refuse("needs either port or portRange")
        if self.port_range is not None and (self.public or self.protocol != "TCP"):
            raise refuse("portRange needs protocol TCP and public false")
        if self.public and self.protocol == "TCP":
            raise refuse("a public endpoint has to have protocol HTTP")
        return self


class InitialContents(Model):
    """What a block volume begins with."""

    from_snapshot: str


class BlockConfig(Model):
    """Further properties of a block volume."""

    initial_contents: InitialContents | None = None
    iops: Count | None = None
    throughput: Count | None = None
    encryption: Literal["SNOWFLAKE_SSE", "SNOWFLAKE_FULL"] | None = None
    snapshot_on_delete: Flag | None = None
    snapshot_delete_after: (
        Annotated[str, pattern(r"\d+[hd]", "is not a time as 12h or 7d")] | None
    ) = None


class StageConfig(Model):
    """The stage of a stage volume, and what the component that provides it may use."""

    name: Annotated[str, pattern(r"@.+", "is not a stage, as @db.schema.stage/directory")]
    metadata_cache: (
        Annotated[str, pattern(r"(?=.)(\d+h)?(\d+m)?(\d+s)?", "is not a time as 90s, 5m or 1h30m")]
        | None
    ) = None
    resources: Resources = Resources.model_validate({})


class Volume(Model):
    """A volume; ``source`` is local, memory, block, stage, or ``@stage/directory``.

    The last one is the deprecated form of a stage volume. Snowflake still takes it, and so does the
    emulator; its mount behaves as that of the new form.
    """

    name: Name
    source: Annotated[
        str, pattern(r"local|memory|block|stage|@.+", "is not local, memory, block, stage")
    ]
    size: Size | None = None
    uid: Annotated[int, Field(ge=0, strict=True)] | None = None
    gid: Annotated[int, Field(ge=0, strict=True)] | None = None
    block_config: BlockConfig | None = None
    stage_config: StageConfig | None = None

    @property
    def stage(self) -> str | None:
        """The location that a stage volume mounts, with its ``@``."""
        if self.stage_config is not None:
            return self.stage_config.name
        return self.source if self.source.startswith("@") else None

    @model_validator(mode="after")
    def _consistent(self) -> Volume:
        if self.source == "memory" and not MEMORY.match(self.size or ""):
            raise refuse("a memory volume needs a size with a unit: M, Mi, G or Gi")
        if self.source == "block" and not re.fullmatch(r"[1-9]\d*Gi", self.size or ""):
            raise refuse("a block volume needs a size that is a whole number of Gi")
        if self.source not in ("memory", "block") and self.size is not None:
            raise refuse("size is for memory and block volumes")
        if (self.source == "stage") != (self.stage_config is not None):
            raise refuse("a volume of source stage needs stageConfig, and no other may have it")
        if self.block_config is not None and self.source != "block":
            raise refuse("blockConfig is for block volumes")
        if (self.uid, self.gid) != (None, None) and self.source in ("local", "memory"):
            raise refuse("uid and gid are for stage and block volumes")
        return self


class EventTableConfig(Model):
    """Which lines of the containers' output go to the event table."""

    log_level: Literal["INFO", "ERROR", "NONE"] = "INFO"


class LogExporters(Model):
    """Where the output of containers goes."""

    event_table_config: EventTableConfig = EventTableConfig.model_validate({})


class MetricConfig(Model):
    """The groups of metrics that are recorded."""

    groups: tuple[Literal["system", "system_limits", "network", "storage", "status"], ...]


class PlatformMonitor(Model):
    """Metrics that Snowflake records."""

    metric_config: MetricConfig


class TargetScaling(Model):
    """Scaling in proportion to a metric."""

    target_value: float


class ScalingStep(Model):
    """By how much to scale where a metric is in a range."""

    lower_bound: float | None = None
    upper_bound: float | None = None
    target_adjustment: float


class StepScaling(Model):
    """Scaling in steps."""

    adjustment_type: Literal[
        "changeInstanceCount", "exactInstanceCount", "percentChangeInstanceCount"
    ]
    scaling_steps: tuple[ScalingStep, ...]


class MetricCondition(Model):
    """When to scale."""

    metric_name: str
    labels: dict[str, Word] = Field(default_factory=dict)
    aggregation_type: Literal["min", "max", "avg"]
    stabilization_period_secs: Count
    target_scaling: TargetScaling | None = None
    step_scaling: StepScaling | None = None


class Condition(Model):
    """One condition of a policy."""

    metric_condition: MetricCondition


class Policy(Model):
    """When to scale up, scale down or suspend."""

    any_conditions: tuple[Condition, ...] = ()
    all_conditions: tuple[Condition, ...] = ()


class AutoScalingPolicies(Model):
    """At most one policy of each kind."""

    scale_up: Policy | None = None
    scale_down: Policy | None = None
    suspend: Policy | None = None


class ResourceManagement(Model):
    """How a service scales."""

    auto_scaling_policies: AutoScalingPolicies


class Spec(Model):
    """What is under ``spec``."""

    containers: tuple[Container, ...] = Field(min_length=1, max_length=MOST_CONTAINERS)
    endpoints: tuple[Endpoint, ...] = Field((), max_length=MOST_ENDPOINTS)
    volumes: tuple[Volume, ...] = Field((), max_length=MOST_VOLUMES)
    log_exporters: LogExporters | None = None
    platform_monitor: PlatformMonitor | None = None
    resource_management: ResourceManagement | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        for kind, named in (
            ("containers", self.containers),
            ("endpoints", self.endpoints),
            ("volumes", self.volumes),
        ):
            names = [one.name for one in named]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise refuse(f"two {kind} are named {twice}")
        volumes = [volume.name for volume in self.volumes]
        for container in self.containers:
            for mount in container.volume_mounts:
                if mount.name not in volumes:
                    raise refuse(
                        f"container {container.name} mounts volume {mount.name}, which is not "
                        "among the volumes"
                    )
        if sum(len(container.secrets) for container in self.containers) > MOST_SECRETS:
            raise refuse(f"more than {MOST_SECRETS} secrets")
        if sum(volume.source == "block" for volume in self.volumes) > MOST_BLOCKS:
            raise refuse(f"more than {MOST_BLOCKS} block volumes")
        return self


class SecurityContext(Model):
    """With whose rights containers may connect."""

    execute_as_caller: Flag = False
    enable_custom_credentials: Flag = False


class Capabilities(Model):
    """What the application means to do."""

    security_context: SecurityContext = SecurityContext.model_validate({})


class ServiceRole(Model):
    """A role that lets others use some endpoints."""

    name: RoleName
    endpoints: tuple[str, ...]


class Specification(Model):
    """A whole specification."""

    spec: Spec
    capabilities: Capabilities | None = None
    service_roles: tuple[ServiceRole, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Specification:
        known = {endpoint.name for endpoint in self.spec.endpoints}
        for role in self.service_roles:
            for name in role.endpoints:
                if name not in known:
                    raise refuse(f"service role {role.name} names endpoint {name}, which is none")
        return self

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it, with what was given only: what :meth:`model_validate` takes."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def read_spec(text: str) -> Specification:
    """The specification that a text is; SqlError where it is not YAML or not a specification.

    >>> read_spec("spec: {container: []}")
    Traceback (most recent call last):
    ...
    flowdist.emulator.errors.SqlError: Invalid spec: unknown key spec.container; did you mean ...
    """
    try:
        data = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as failed:
        raise invalid_spec(f"not valid YAML: {' '.join(str(failed).split())}") from None
    try:
        return Specification.model_validate(data)
    except ValidationError as failed:
        raise invalid_spec(explained(failed)) from None
