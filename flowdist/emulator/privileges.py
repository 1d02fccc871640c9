"""Which privileges there are on which kinds of objects, as GRANT's reference lists them.

A kind is the word that the catalog has for it, in lower case; GRANT calls some of them by another
word ("INTEGRATION"), which :data:`WORDS` holds.
"""

from __future__ import annotations

__all__ = ["ACCOUNT_PRIVILEGES", "PLURALS", "PRIVILEGES", "TRANSFERABLE", "WORDS", "granted_on"]

ACCOUNT_PRIVILEGES: tuple[str, ...] = (
    "APPLY MASKING POLICY",
    "APPLY ROW ACCESS POLICY",
    "APPLY TAG",
    "AUDIT",
    "BIND SERVICE ENDPOINT",
    "CREATE ACCOUNT",
    "CREATE APPLICATION",
    "CREATE APPLICATION PACKAGE",
    "CREATE COMPUTE POOL",
    "CREATE CUSTOM RUNTIME ENVIRONMENT",
    "CREATE DATABASE",
    "CREATE EXTERNAL ACCESS INTEGRATION",
    "CREATE EXTERNAL VOLUME",
    "CREATE INTEGRATION",
    "CREATE NETWORK POLICY",
    "CREATE ROLE",
    "CREATE SHARE",
    "CREATE USER",
    "CREATE WAREHOUSE",
    "EXECUTE ALERT",
    "EXECUTE MANAGED ALERT",
    "EXECUTE MANAGED TASK",
    "EXECUTE TASK",
    "IMPORT SHARE",
    "MANAGE GRANTS",
    "MANAGE WAREHOUSES",
    "MODIFY LOG LEVEL",
    "MODIFY SESSION LOG LEVEL",
    "MODIFY SESSION TRACE LEVEL",
    "MODIFY TRACE LEVEL",
    "MONITOR EXECUTION",
    "MONITOR SECURITY",
    "MONITOR USAGE",
    "READ SESSION",
    "RESOLVE ALL",
)

_TABLE = (
    "APPLYBUDGET",
    "DELETE",
    "EVOLVE SCHEMA",
    "INSERT",
    "REFERENCES",
    "SELECT",
    "TRUNCATE",
    "UPDATE",
)
_IN_SCHEMA = (
    "ALERT",
    "DYNAMIC TABLE",
    "EVENT TABLE",
    "EXTERNAL TABLE",
    "FILE FORMAT",
    "FUNCTION",
    "GIT REPOSITORY",
    "HYBRID TABLE",
    "ICEBERG TABLE",
    "IMAGE REPOSITORY",
    "MATERIALIZED VIEW",
    "MODEL",
    "NETWORK RULE",
    "NOTEBOOK",
    "PIPE",
    "PROCEDURE",
    "SECRET",
    "SEQUENCE",
    "SERVICE",
    "SNAPSHOT",
    "STAGE",
    "STREAM",
    "STREAMLIT",
    "TABLE",
    "TAG",
    "TASK",
    "VIEW",
)

PRIVILEGES: dict[str, tuple[str, ...]] = {
    "account": ACCOUNT_PRIVILEGES,
    "compute pool": ("MODIFY", "MONITOR", "OPERATE", "USAGE"),
    "database": (
        "APPLYBUDGET",
        "CREATE DATABASE ROLE",
        "CREATE SCHEMA",
        "IMPORTED PRIVILEGES",
        "MODIFY",
        "MONITOR",
        "USAGE",
    ),
    "external access integration": ("USAGE", "USE_ANY_ROLE"),
    "image repository": ("READ", "SERVICE READ", "SERVICE WRITE", "WRITE"),
    "network rule": (),
    "role": ("USAGE",),
    "schema": (
        "ADD SEARCH OPTIMIZATION",
        "APPLYBUDGET",
        *(f"CREATE {kind}" for kind in _IN_SCHEMA),
        "MODIFY",
        "MONITOR",
        "USAGE",
    ),
    "secret": ("READ", "USAGE"),
    "sequence": ("USAGE",),
    "service": ("MONITOR", "OPERATE", "USAGE"),
    "snapshot": ("USAGE",),
    "stage": ("READ", "USAGE", "WRITE"),
    "table": _TABLE,
    "task": ("APPLYBUDGET", "MONITOR", "OPERATE"),
    "user": ("IMPERSONATE", "MODIFY PROGRAMMATIC AUTHENTICATION METHODS", "MONITOR"),
    "view": ("REFERENCES", "SELECT"),
    "warehouse": ("APPLYBUDGET", "MODIFY", "MONITOR", "OPERATE", "USAGE"),
}
"""What may be granted on an object of a kind; OWNERSHIP on all of them, by GRANT OWNERSHIP."""

WORDS: dict[str, str] = {
    "INTEGRATION": "external access integration",
    "COMPUTE POOL": "compute pool",
    "DATABASE": "database",
    "IMAGE REPOSITORY": "image repository",
    "NETWORK RULE": "network rule",
    "ROLE": "role",
    "SCHEMA": "schema",
    "SECRET": "secret",
    "SEQUENCE": "sequence",
    "SERVICE": "service",
    "SNAPSHOT": "snapshot",
    "STAGE": "stage",
    "TABLE": "table",
    "TASK": "task",
    "USER": "user",
    "VIEW": "view",
    "WAREHOUSE": "warehouse",
}
"""The words after ON, and the kind that they stand for."""

PLURALS: dict[str, str] = {
    "IMAGE REPOSITORIES": "image repository",
    "NETWORK RULES": "network rule",
    "SCHEMAS": "schema",
    "SECRETS": "secret",
    "SEQUENCES": "sequence",
    "SERVICES": "service",
    "SNAPSHOTS": "snapshot",
    "STAGES": "stage",
    "TABLES": "table",
    "TASKS": "task",
    "VIEWS": "view",
}
"""The words after ON ALL and ON FUTURE."""

TRANSFERABLE = frozenset(PRIVILEGES) - {"account", "service"}
"""Kinds whose ownership may be granted: services keep theirs for life."""


def granted_on(kind: str) -> str:
    """The kind of an object as SHOW GRANTS has it.

    >>> granted_on("compute pool"), granted_on("external access integration")
    ('COMPUTE_POOL', 'INTEGRATION')
    """
    if kind == "external access integration":
        return "INTEGRATION"
    return kind.upper().replace(" ", "_")
