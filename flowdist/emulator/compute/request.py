"""From the text of a specification and a session to what a service is made from, checked.

Access is checked as documented: the role needs READ on images, mounted stages and secrets, and
BIND SERVICE ENDPOINT on the account for public endpoints.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.compute.amounts import invalid_spec
from flowdist.emulator.compute.families import find_family
from flowdist.emulator.compute.records import Revision, Service
from flowdist.emulator.compute.resolved import digest, shown
from flowdist.emulator.errors import invalid_value, unsupported
from flowdist.emulator.names import FullName
from flowdist.emulator.session import Session
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements.secrets import secret_values

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.compute.spec import SecretName, Specification

__all__ = ["Request", "check_name", "new_revision", "new_service", "secret_name"]

_LABEL = re.compile(r"[A-Z]([A-Z0-9_]{0,61}[A-Z0-9])?")


@dataclass
class Request:
    """A service or job to be made. ``replicas`` is None where REPLICAS was not given."""

    name: FullName
    pool: Object
    revision: Revision
    owner: str
    query_id: str
    job: bool
    comment: str = ""
    asynchronous: bool = False
    replicas: int | None = None
    minimum: int = 1
    maximum: int = 1
    minimum_ready: int | None = None
    auto_resume: bool = True
    auto_suspend: int = 0
    warehouse: str | None = None
    integrations: list[str] = field(default_factory=list)
    log_level: str | None = None
    task: dict[str, Any] | None = None
    asked: dict[str, Any] | None = None


def check_name(name: FullName) -> None:
    """SqlError 1008 where a service cannot have that name. It becomes a label of its DNS name, so
    that it and those of its schema and database have to be unquoted identifiers.
    """
    for part in (name.database, name.schema):
        if not re.fullmatch(r"[A-Z_][A-Z0-9_$]*", part):
            raise invalid_value(part, "NAME")
    if not _LABEL.fullmatch(name.name):
        raise invalid_value(name.name, "NAME")


def new_revision(
    account: Account, session: Session, text: str, pool: Object, *, job: bool
) -> Revision:
    """The specification of a service, with the images as they are now; SqlError where it is not
    valid, names what is not there, or wants what the role may not have.
    """
    # When the first one comes: what reads it takes a fifth of the time that a server starts in.
    from flowdist.emulator.compute.spec import read_spec

    model = read_spec(text)
    _check_kind(model, job)
    family = find_family(pool.data["instance_family"])
    images: dict[str, dict[str, Any]] = {}
    urls: dict[str, tuple[str, str]] = {}
    for container in model.spec.containers:
        image = account.images.resolve(container.image, session)
        if image.architecture != family.architecture:
            raise invalid_spec(
                f"image {container.image} is for linux/{image.architecture}; nodes of "
                f"{family.name} need linux/{family.architecture}"
            )
        url = account.images.url(image.path)
        images[container.name] = {**asdict(image), "url": url}
        urls[container.image] = url, image.digest
        for secret in container.secrets:
            values = secret_values(account, secret_name(secret.snowflake_secret), session)
            if secret.secret_key_ref is not None and secret.secret_key_ref not in values:
                raise invalid_spec(
                    f"secret {secret.snowflake_secret.object_name} has no {secret.secret_key_ref}"
                )
    for volume in model.spec.volumes:
        if volume.stage is not None:
            stage, _ = account.files.locate(volume.stage, session)
            account.access.require(session, "READ", stage)
    if any(endpoint.public for endpoint in model.spec.endpoints):
        account.access.require_account(session, "BIND SERVICE ENDPOINT")
    return Revision(model.plain(), shown(model, family, urls), images)


def _check_kind(model: Specification, job: bool) -> None:
    """SqlError for what a service of that kind cannot have, there or here."""
    if model.spec.resource_management is not None:
        if job:
            raise invalid_spec("spec.resourceManagement is for long-running services, not for jobs")
        raise unsupported("spec.resourceManagement.autoScalingPolicies")
    for volume in model.spec.volumes:
        block = volume.block_config
        if block is not None and block.initial_contents is not None:
            raise unsupported(f"blockConfig.initialContents.fromSnapshot of volume {volume.name}")
        if block is not None and block.snapshot_on_delete:
            raise unsupported(f"blockConfig.snapshotOnDelete: true of volume {volume.name}")
    if model.capabilities is not None:
        context = model.capabilities.security_context
        if context.execute_as_caller:
            raise unsupported("capabilities.securityContext.executeAsCaller: true")
        if context.enable_custom_credentials:
            raise unsupported("capabilities.securityContext.enableCustomCredentials: true")


def secret_name(secret: SecretName) -> tuple[str, ...]:
    """The name of a secret as its parts; references of native apps are not known here."""
    if secret.object_name is None:
        raise unsupported(f"secrets.snowflakeSecret.objectReference: {secret.object_reference}")
    parse = Parser(secret.object_name)
    parts = parse.name()
    parse.end()
    return parts


def new_service(request: Request, kept: Object) -> Service:
    """The record of a service whose object has been made."""
    made = digest(request.revision.shown)
    return Service(
        id=kept.id,
        database=kept.database,
        schema=kept.schema,
        name=kept.name,
        owner=request.owner,
        pool=request.pool.id,
        pool_name=request.pool.name,
        job=request.job,
        created=kept.created_on,
        query_id=request.query_id,
        digest=made,
        revisions={made: request.revision},
        asynchronous=request.asynchronous,
        replicas=request.replicas or 1,
        counted=request.replicas is not None,
        minimum=request.minimum,
        maximum=request.maximum,
        minimum_ready=request.minimum_ready or request.minimum,
        auto_resume=request.auto_resume,
        auto_suspend=request.auto_suspend,
        warehouse=request.warehouse,
        integrations=request.integrations,
        log_level=request.log_level,
        task=request.task,
        asked=request.asked,
        message="Job is pending." if request.job else "",
    )
