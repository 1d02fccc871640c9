"""What SHOW and DESCRIBE say of services and jobs, their instances, containers and endpoints."""

from __future__ import annotations

import json
from typing import Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.compute.observed import dns_domain, naive_iso
from flowdist.emulator.compute.records import Box, Instance, Service
from flowdist.emulator.result import Result, rows
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.showing import moment, read_filter
from flowdist.emulator.types import FIXED, LTZ, DataType

Columns = tuple[str | tuple[str, DataType], ...]
ANY = ("OWNERSHIP", "USAGE", "MONITOR", "OPERATE")

COLUMNS: Columns = (
    "name",
    "status",
    "database_name",
    "schema_name",
    "owner",
    "compute_pool",
    "spec",
    "dns_name",
    ("current_instances", FIXED),
    ("target_instances", FIXED),
    ("min_ready_instances", FIXED),
    ("min_instances", FIXED),
    ("max_instances", FIXED),
    "auto_resume",
    "external_access_integrations",
    ("created_on", LTZ),
    ("updated_on", LTZ),
    ("resumed_on", LTZ),
    ("suspended_on", LTZ),
    ("auto_suspend_secs", FIXED),
    "comment",
    "owner_role_type",
    "query_warehouse",
    "is_job",
    "is_async_job",
    "spec_digest",
    "is_upgrading",
    "managing_object_domain",
    "managing_object_name",
)
"""Of DESCRIBE SERVICE; `spec` is there for the owner only."""


def find_service(context: Context, name: tuple[str, ...], verb: str, *privileges: str) -> Object:
    """The service of that name, for a session that has one of the privileges on it; `verb` is what
    cannot be done where the name is not full and the session has no schema.
    """
    access, session = context.account.access, context.session
    full_name = session.resolve(name, verb)
    access.schema(session, full_name.database, full_name.schema)
    found = access.find(session, "service", full_name)
    access.require_any(session, privileges, found)
    return found


def _values(context: Context, kept: Object) -> dict[str, Any]:
    """The columns of a service by name. The store's lock is held."""
    service = context.account.compute.service(kept)
    instances = list(service.instances.values())
    settled = service.over
    least, most = (
        (service.replicas, service.replicas) if service.job else (service.minimum, service.maximum)
    )
    label = service.name.lower().replace("_", "-")
    return {
        "name": service.name,
        "status": service.status,
        "database_name": service.database,
        "schema_name": service.schema,
        "owner": service.owner,
        "compute_pool": service.pool_name,
        "spec": service.revision.shown,
        "dns_name": f"{label}.{dns_domain(context.account, service.database, service.schema)}",
        "current_instances": 0 if settled else sum(i.holds for i in instances),
        "target_instances": 0 if settled else service.wanted,
        "min_ready_instances": least if service.job else service.minimum_ready,
        "min_instances": least,
        "max_instances": most,
        "auto_resume": _word(service.auto_resume),
        "external_access_integrations": (
            json.dumps(service.integrations) if service.integrations else None
        ),
        "created_on": moment(service.created),
        "updated_on": moment(service.updated or service.created),
        "resumed_on": moment(service.resumed),
        "suspended_on": moment(service.suspended),
        "auto_suspend_secs": service.auto_suspend,
        "comment": kept.comment or None,
        "owner_role_type": "ROLE",
        "query_warehouse": service.warehouse,
        "is_job": _word(service.job),
        "is_async_job": _word(service.asynchronous),
        "spec_digest": service.digest,
        "is_upgrading": _word(any(i.digest != service.digest for i in instances)),
        "managing_object_domain": None,
        "managing_object_name": None,
    }


def _word(value: bool) -> str:
    return "true" if value else "false"


def _table(columns: Columns, values: list[dict[str, Any]]) -> Result:
    names = [column if isinstance(column, str) else column[0] for column in columns]
    return rows(columns, [[one[name] for name in names] for one in values])


def _without(*names: str) -> Columns:
    return tuple(c for c in COLUMNS if (c if isinstance(c, str) else c[0]) not in names)


@statement("DESCRIBE", "SERVICE")
def describe_service(context: Context, parse: Parser) -> Result:
    """DESCRIBE SERVICE name"""
    name = parse.name()
    parse.end()
    kept = find_service(context, name, "DESCRIBE", *ANY)
    with context.account.compute.store.lock:
        values = _values(context, kept)
    owner = context.account.access.can(context.session, "OWNERSHIP", kept)
    return _table(COLUMNS if owner else _without("spec"), [values])


@statement("SHOW", "SERVICES")
def show_services(context: Context, parse: Parser) -> Result:
    """SHOW SERVICES [EXCLUDE JOBS] [LIKE ...] [IN ...] [STARTS WITH ...] [LIMIT ...]"""
    if parse.accept("EXCLUDE", "JOBS"):
        return _show(context, parse, _without("spec", "is_job", "is_async_job"), jobs=False)
    return _show(context, parse, _without("spec"), jobs=None)


@statement("SHOW", "JOB", "SERVICES")
def show_jobs(context: Context, parse: Parser) -> Result:
    """SHOW JOB SERVICES, with the same clauses."""
    return _show(context, parse, _without("spec", "is_job"), jobs=True)


def _show(context: Context, parse: Parser, columns: Columns, *, jobs: bool | None) -> Result:
    wanted = read_filter(parse, context.session, ("COMPUTE POOL",))
    if parse.word() == "OF":
        raise parse.unsupported()
    parse.end()
    access, session = context.account.access, context.session
    pool = wanted.within[1] if wanted.within is not None else None
    found = [
        kept
        for kept in context.account.catalog.all("service")
        if (jobs is None or kept.data["is_job"] == jobs)
        and (pool is None or (kept.data["compute_pool"],) == pool)
        and access.visible(session, kept)
    ]
    with context.account.compute.store.lock:
        return _table(columns, [_values(context, kept) for kept in wanted.apply(found)])


@statement("SHOW", "SERVICE", "INSTANCES", "IN", "SERVICE")
def show_instances(context: Context, parse: Parser) -> Result:
    """SHOW SERVICE INSTANCES IN SERVICE name"""
    name = parse.name()
    parse.end()
    kept = find_service(context, name, "SHOW", "OWNERSHIP", "MONITOR")
    with context.account.compute.store.lock:
        service = context.account.compute.service(kept)
        found = [
            [
                *_place(service),
                str(instance.number),
                instance.status,
                instance.digest,
                _iso(instance.created),
                _iso(instance.started),
                instance.address,
            ]
            for _, instance in sorted(service.instances.items())
        ]
    return rows(
        [
            "database_name",
            "schema_name",
            "service_name",
            "service_status",
            "instance_id",
            "status",
            "spec_digest",
            "creation_time",
            "start_time",
            "ip_address",
        ],
        found,
    )


@statement("SHOW", "SERVICE", "CONTAINERS", "IN", "SERVICE")
def show_containers(context: Context, parse: Parser) -> Result:
    """SHOW SERVICE CONTAINERS IN SERVICE name; one row of NULLs where there is no instance."""
    name = parse.name()
    parse.end()
    kept = find_service(context, name, "SHOW", "OWNERSHIP", "MONITOR")
    with context.account.compute.store.lock:
        service = context.account.compute.service(kept)
        found = [
            [*_place(service), *_container(service, instance, box)]
            for _, instance in sorted(service.instances.items())
            for box in instance.boxes
        ]
        if not found:
            found = [[*_place(service), *[None] * 11]]
    return rows(
        [
            "database_name",
            "schema_name",
            "service_name",
            "service_status",
            "instance_id",
            "instance_status",
            "container_name",
            "status",
            "message",
            "image_name",
            "image_digest",
            ("restart_count", FIXED),
            "start_time",
            ("last_exit_code", FIXED),
            "last_restart_time",
        ],
        found,
    )


def _place(service: Service) -> list[Any]:
    return [service.database, service.schema, service.name, service.status]


def _container(service: Service, instance: Instance, box: Box) -> list[Any]:
    image = service.revisions[instance.digest].images[box.name]
    return [
        str(instance.number),
        instance.status,
        box.name,
        box.status,
        box.message,
        image["url"],
        image["digest"],
        box.restarts,
        _iso(box.started),
        box.exit_code,
        _iso(box.restarted) or None,
    ]


def _iso(seconds: float | None) -> str:
    """A time as these statements have it; empty where there is none."""
    return "" if seconds is None else naive_iso(seconds)


@statement("SHOW", "ENDPOINTS", "IN", "SERVICE")
def show_endpoints(context: Context, parse: Parser) -> Result:
    """SHOW ENDPOINTS IN SERVICE name. A public endpoint is where its container listens: there is
    no ingress in the emulator.
    """
    name = parse.name()
    parse.end()
    kept = find_service(context, name, "SHOW", "OWNERSHIP", "USAGE")
    model = context.account.compute.service(kept).revision.model
    return rows(
        ["name", ("port", FIXED), "port_range", "protocol", "is_public", "ingress_url"],
        [
            (
                endpoint.name,
                endpoint.port,
                endpoint.port_range,
                endpoint.protocol,
                _word(endpoint.public),
                f"localhost:{endpoint.port}" if endpoint.public else None,
            )
            for endpoint in model.spec.endpoints
        ],
    )


@statement("SHOW", "ROLES", "IN", "SERVICE")
def show_service_roles(context: Context, parse: Parser) -> Result:
    """SHOW ROLES IN SERVICE name: the role that every service has, and those of its
    specification.
    """
    name = parse.name()
    parse.end()
    kept = find_service(context, name, "SHOW", "OWNERSHIP", "USAGE")
    model = context.account.compute.service(kept).revision.model
    names = ["ALL_ENDPOINTS_USAGE", *(role.name.upper() for role in model.service_roles)]
    created = moment(kept.created_on)
    return rows(
        [("created_on", LTZ), "name", "comment"], [(created, role, "") for role in sorted(names)]
    )
