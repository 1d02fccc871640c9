"""Statuses, and the words for them: what follows from containers, and how events and SHOW put it.

The messages are those of Snowflake's table of platform events.
"""

from __future__ import annotations

from typing import Any

from flowdist.emulator.compute import containers
from flowdist.emulator.compute.containers import ContainerState
from flowdist.emulator.compute.records import Box, Instance, Service

__all__ = [
    "container_event",
    "failure",
    "instance_event",
    "instance_status",
    "not_ready",
    "property_event",
    "remark",
    "service_event",
    "service_status",
    "summary",
    "unschedulable",
]

WAITING = "Waiting to start"
RUNNING = "Running"
COMPLETED = "Completed successfully"
PROVISIONING = "Compute pool node(s) are being provisioned"
UNSCHEDULABLE = "Unschedulable due to insufficient"
FATAL = "Encountered fatal error"
RETRYING = "Encountered fatal error, retrying"
FATAL_RUNNING = "Encountered fatal error while running, check container logs"
FATAL_STARTING = "Encountered fatal error while starting container"
OUT_OF_MEMORY = "Container was OOMKilled due to resource usage"
CANCELLED = "Stopped since the job was cancelled"
STOPPED = "Stopped as requested"
NOT_STARTED = "Job was cancelled before the container was started"


def unschedulable(resource: str) -> str:
    """Why an instance waits although no node will come: "memory", "cpu", "gpu" or unknown."""
    return f"{UNSCHEDULABLE} {resource + ' ' if resource else ''}resources"


def not_ready(path: str, port: int) -> str:
    """What is said of a container whose readiness probe fails."""
    return f"Readiness probe is failing at path: {path}, port: {port}"


def failure(state: ContainerState, *, retrying: bool) -> str:
    """What is said of a container that has failed."""
    if state.reason == containers.OUT_OF_MEMORY:
        return OUT_OF_MEMORY
    if state.reason == containers.NOT_STARTED:
        return f"{FATAL_STARTING}: {state.message}" if state.message else FATAL_STARTING
    return RETRYING if retrying else FATAL_RUNNING


def instance_status(service: Service, instance: Instance) -> str:
    """The status of an instance by its containers'."""
    statuses = [box.status for box in instance.boxes]
    if instance.ending is not None and instance.ended is None:
        return "TERMINATING"
    if "FAILED" in statuses:
        return "FAILED"
    if service.job and all(status == "DONE" for status in statuses):
        return "SUCCEEDED"
    if all(status in ("READY", "DONE") for status in statuses):
        return "READY" if service.job or "DONE" not in statuses else "PENDING"
    return "PENDING"


def service_status(service: Service) -> str:
    """The status of a service by those of its instances, as the documentation derives it."""
    instances = list(service.instances.values())
    if service.dropped is not None:
        return "DELETING" if any(i.ended is None for i in instances) else "DELETED"
    if not service.job:
        return _service_status(service, instances)
    if service.cancelling:
        return "CANCELLED" if all(i.ended is not None for i in instances) else "CANCELLING"
    statuses = {instance.status for instance in instances}
    if "FAILED" in statuses:
        return "FAILED"
    if statuses == {"SUCCEEDED"}:
        return "DONE"
    running = any(box.status in ("READY", "DONE") for i in instances for box in i.boxes)
    return "RUNNING" if running else "PENDING"


def _service_status(service: Service, instances: list[Instance]) -> str:
    if service.suspending:
        return "SUSPENDING" if instances else "SUSPENDED"
    if sum(i.status == "READY" for i in instances) >= service.minimum_ready:
        return "RUNNING"
    return "FAILED" if any(i.status == "FAILED" for i in instances) else "PENDING"


def summary(service: Service, status: str | None = None) -> str:
    """The message of a job in its history."""
    return {
        "PENDING": "Job is pending.",
        "RUNNING": "Job is running.",
        "DONE": "Job completed successfully.",
        "FAILED": "Job failed.",
        "CANCELLING": "Job is being canceled.",
        "CANCELLED": "Job has been canceled.",
    }.get(status or service.status, "")


_SERVICE = {
    "PENDING": "{} is pending",
    "FAILED": "{} has failed",
    "INTERNAL_ERROR": "{} has encountered an error",
    "DONE": "{} is completed",
    "CANCELLING": "{} is being canceled",
    "CANCELLED": "{} has been canceled",
    "RESUMING": "{} is resuming",
    "SUSPENDING": "{} is suspending",
    "SUSPENDED": "{} has suspended",
    "UPGRADING": "{} is upgrading",
    "UPGRADED": "{} has been upgraded",
    "DELETING": "{} is deleting",
    "DELETED": "{} has been deleted",
}
_INSTANCE = {
    "PENDING": "{} instance is pending",
    "READY": "{} instance is running",
    "TERMINATING": "{} instance is terminating",
    "SUCCEEDED": "{} instance has completed",
    "FAILED": "{} instance failed",
}


def _severity(status: str, message: str = "") -> str:
    return "ERROR" if status in ("FAILED", "INTERNAL_ERROR") or "Failed" in message else "INFO"


def service_event(service: Service) -> dict[str, Any]:
    """The event for the status that a service has now."""
    return remark(service, service.status)


def remark(service: Service, status: str) -> dict[str, Any]:
    """An event of a service, also for what is not a status of it (UPGRADING, DELETED ...)."""
    if status == "RUNNING":
        message = "Job is running" if service.job else "Service is ready"
    else:
        message = _SERVICE[status].format(service.word)
    return {
        "service": service.id,
        "name": "SERVICE.STATUS_CHANGE",
        "severity": _severity(status),
        "message": message,
        "status": status,
    }


def property_event(service: Service, message: str) -> dict[str, Any]:
    """The event for ALTER SERVICE ... SET and UNSET."""
    return {
        "service": service.id,
        "name": "SERVICE.PROPERTY_CHANGE",
        "severity": "INFO",
        "message": message,
        "status": "",
    }


def instance_event(service: Service, instance: Instance) -> dict[str, Any]:
    """The event for the status that an instance has now."""
    return {
        "service": service.id,
        "name": "SERVICE_INSTANCE.STATUS_CHANGE",
        "severity": _severity(instance.status),
        "message": _INSTANCE[instance.status].format(service.word),
        "status": instance.status,
        "instance": instance.number,
        "node": instance.node,
    }


def container_event(service: Service, instance: Instance, box: Box) -> dict[str, Any]:
    """The event for the status that a container has now."""
    return {
        "service": service.id,
        "name": "CONTAINER.STATUS_CHANGE",
        "severity": _severity(box.status, box.message),
        "message": box.message,
        "status": box.status,
        "instance": instance.number,
        "container": box.name,
        "node": instance.node,
    }
