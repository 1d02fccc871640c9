"""Which connection a name stands for, and how it is opened.

A plan keeps the name of a connection and nothing else of it. Where the name leads is found out in
the process that connects: what was registered there, the session of a container, the user's
``connections.toml``, variables of the environment. What is sent is `flowdist.snowflake.client`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flowdist.clock import Clock
from flowdist.errors import UsageError, nearest
from flowdist.snowflake.client import Client, SnowflakeError, rows_of, words
from flowdist.snowflake.files import Known, known_connections

__all__ = [
    "Client",
    "SnowflakeError",
    "client_for",
    "connect_keywords",
    "connection_name",
    "in_container",
    "register_connection",
]

TOKEN = Path("/snowflake/session/token")
# How long connectors before 5.0 try a request again while nobody answers, in seconds. Later ones
# try six times, and would take this as a limit for whole statements.
NETWORK_SECONDS = 60
# What must not be tried again: five wrong passwords lock a user out.
_WRONG_PASSWORD, _WRONG_ROLE, _NOT_CONNECTED = 390100, 390189, 250001
# What tells one connection from another; it is no secret.
_WHERE = (
    "account", "user", "role", "host", "port", "protocol", "database", "schema", "warehouse",
)  # fmt: skip
# Names of connections that were given as objects begin so.
_GIVEN, _OPEN = "given-", "open-"

# Connections that this process was given by name: parameters, or an open connection.
_registered: dict[str, Mapping[str, Any] | Any] = {}


def register_connection(name: str, connection: Mapping[str, Any] | Any = None, **more: Any) -> str:
    """Let plans of this process find a connection by name: keywords for
    ``snowflake.connector.connect``, or a connection that is open. Returns the name.

    Nothing of it is written anywhere: a run remembers the name alone.

    >>> register_connection("nightly", account="EMULATOR", user="ME", password="...")
    'nightly'
    """
    if connection is None or isinstance(connection, Mapping):
        _registered[name] = {**(connection or {}), **more}
    elif more or not hasattr(connection, "cursor"):
        raise UsageError(
            f"register_connection({name!r}, ...) takes keywords for snowflake.connector.connect, "
            f"or one open connection, not a {type(connection).__name__}"
            f"{' and keywords' if more else ''}"
        )
    else:
        _registered[name] = connection
    return name


def connection_name(given: Any) -> str | None:
    """The name that a plan keeps of what its user gave as ``connection=``.

    Raises:
        UsageError: it is nothing that connects.
    """
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        public = {name: str(given[name]) for name in _WHERE if name in given}
        digest = hashlib.sha256(json.dumps(public, sort_keys=True).encode()).hexdigest()[:8]
        return register_connection(f"{_GIVEN}{digest}", given)
    if not hasattr(given, "cursor"):
        # Not what it is: it may hold a password.
        raise UsageError(
            f"connection= was given a {type(given).__name__}, which is neither the name of a "
            "connection, nor keywords for snowflake.connector.connect, nor an open connection"
        )
    return register_connection(f"{_OPEN}{id(given):x}", given)


def client_for(
    name: str | None = None, *, tag: Mapping[str, str] | None = None, clock: Clock | None = None
) -> Client:
    """A client for a connection: one that was registered in this process; in a container the
    session of its service; else one of ``connections.toml`` by name; without a name the default one
    there, else what the variables SNOWFLAKE_ACCOUNT, SNOWFLAKE_USER ... say.

    Raises:
        UsageError: there is no such connection, or the connector is not installed.
    """
    if importlib.util.find_spec("snowflake") is None or (
        importlib.util.find_spec("snowflake.connector") is None
    ):
        raise UsageError(
            "plans for Snowflake need its connector: pip install 'flowdist[snowflake]'"
        )
    service = {"service": os.environ.get("SNOWFLAKE_SERVICE_NAME", "")} if in_container() else {}
    return Client(_connect_to(name), tag={**service, **(tag or {})}, clock=clock)


def in_container() -> bool:
    """Whether this process runs in a container of Snowflake."""
    return TOKEN.is_file() and bool(os.environ.get("SNOWFLAKE_HOST"))


def _connect_to(name: str | None) -> Callable[[], Any]:
    """What opens the connection of a name; whether there is one is found out at once."""
    if name in _registered:
        given = _registered[name]
        if not isinstance(given, Mapping):
            return lambda: _Borrowed(given)
        return lambda: _opened(f"connection '{name}'", given)
    if in_container():
        # The token is read anew for each connection: it is replaced every few minutes.
        return lambda: _opened("the session of this service", _container_parameters())
    if name is not None and name.startswith((_GIVEN, _OPEN)):
        raise UsageError(
            f"connection '{name}' was given to a plan as an object, which another process does not "
            f"have; flowdist.register_connection({name!r}, account=..., user=..., ...) gives it to "
            "this one"
        )
    known = known_connections()
    wanted = name or known.default
    if wanted in known.connections:
        return lambda: _opened(f"connection '{wanted}' in {known.path}", {}, wanted, known)
    if name == "emulator":
        parameters = _emulator_parameters()
        return lambda: _opened("the emulator", parameters)
    if name is None and (found := _environment_parameters()):
        return lambda: _opened("what the variables SNOWFLAKE_... say", found)
    raise UsageError(_absent(name, known))


def _absent(name: str | None, known: Known) -> str:
    there = ", ".join(known.connections) or "none"
    if name is None:
        named = os.environ.get("SNOWFLAKE_DEFAULT_CONNECTION_NAME")
        said = f"SNOWFLAKE_DEFAULT_CONNECTION_NAME={named} names none" if named else "none is named"
        return (
            f"which connection? {said}, {known.path} has no '{known.default}' (it has: {there}), "
            "and SNOWFLAKE_ACCOUNT is not set; connection=NAME in the plan, or --connection, "
            "says which"
        )
    return (
        f"there is no connection '{name}'{nearest(name, known.connections)} in {known.path} (it "
        f"has: {there}); flowdist.register_connection({name!r}, ...) gives one to this process"
    )


def _opened(
    what: str, given: Mapping[str, Any], name: str | None = None, known: Known | None = None
) -> Any:
    """Open a connection; `name` is that of one in the user's files, which the connector reads."""
    import snowflake.connector
    from snowflake.connector.errors import Error

    there = {} if known is None or name is None else known.connections[name]
    # What is put into a queue is there for workers at once, whatever the user's sessions are like.
    parameters = {**connect_keywords(given, there), "autocommit": True}
    if name is not None:
        parameters["connection_name"] = name
    try:
        return snowflake.connector.connect(**parameters)
    except Error as error:
        raise _refused(what, error) from error


def connect_keywords(
    given: Mapping[str, Any], there: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Keywords for ``snowflake.connector.connect``, with flowdist's own where neither these nor
    what is `there`, in the user's file, say otherwise.
    """
    import snowflake.connector

    ours: dict[str, Any] = {"application": "flowdist"}
    if int(snowflake.connector.__version__.partition(".")[0]) < 5:
        ours["network_timeout"] = NETWORK_SECONDS
    else:
        # Said, since the default is about to change, of which the connector warns: nothing that
        # flowdist sends goes on after its connection is closed.
        ours["enable_server_session_keep_alive_auto_detection"] = False
    return {**{k: v for k, v in ours.items() if k not in (there or {})}, **given}


def _refused(what: str, error: Any) -> SnowflakeError:
    """The error of a connection that cannot be opened."""
    errno, said = words(error)
    advice = {
        _WRONG_PASSWORD: "; user or password are not right",
        _WRONG_ROLE: "; the role is not there, or not granted to the user",
    }.get(errno, "")
    if "permission" in said.lower() and "file" in said.lower():
        advice = "; nobody else may write to it: chmod 0600 that file"
    # Its number alone does not tell a refusal from a network that is down.
    down = errno == _NOT_CONNECTED and _is_network(said)
    if down:
        advice = "; is the account (or host) right, and is there a network?"
    message = f"{what} does not connect: {said.rstrip('.')}{advice} (error {errno})"
    passing = down or (errno != _NOT_CONNECTED and SnowflakeError("", errno).passing)
    return SnowflakeError(message, errno, said=said, passing=passing)


def _is_network(said: str) -> bool:
    refusals = ("incorrect username", "password", "role", "authenticat", "jwt", "token", "denied")
    return not any(word in said.lower() for word in refusals)


def _container_parameters() -> dict[str, Any]:
    names = {
        "host": "SNOWFLAKE_HOST",
        "account": "SNOWFLAKE_ACCOUNT",
        "database": "SNOWFLAKE_DATABASE",
        "schema": "SNOWFLAKE_SCHEMA",
        "warehouse": "SNOWFLAKE_WAREHOUSE",
        "port": "SNOWFLAKE_PORT",
        "protocol": "SNOWFLAKE_PROTOCOL",
    }
    found: dict[str, Any] = {k: os.environ[v] for k, v in names.items() if os.environ.get(v)}
    if "port" in found:
        found["port"] = int(found["port"])
    return {**found, "authenticator": "oauth", "token": TOKEN.read_text().strip()}


def _environment_parameters() -> dict[str, Any]:
    names = (
        "account", "user", "password", "role", "warehouse", "database", "schema", "host", "port",
        "protocol", "authenticator", "token", "token_file_path", "private_key_file",
        "private_key_file_pwd", "passcode",
    )  # fmt: skip
    found: dict[str, Any] = {
        name: os.environ[f"SNOWFLAKE_{name.upper()}"]
        for name in names
        if os.environ.get(f"SNOWFLAKE_{name.upper()}")
    }
    if "port" in found:
        found["port"] = int(found["port"])
    return found if "account" in found else {}


def _emulator_parameters() -> dict[str, Any]:
    from flowdist.emulator.client import Emulator
    from flowdist.settings import default_emulator

    return Emulator.attach(default_emulator()).connection_parameters()


class _Borrowed:
    """A connection that its user has opened, and closes."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute("SHOW PARAMETERS LIKE 'AUTOCOMMIT' IN SESSION")
            found = rows_of(cursor)
        if any(str(row["value"]).lower() == "false" for row in found):
            raise UsageError(
                "the connection that was given has AUTOCOMMIT off, so that nobody else would see "
                "what is put into a queue over it; connection.autocommit(True) turns it on"
            )

    @property
    def role(self) -> Any:
        return getattr(self._connection, "role", None)

    @property
    def rest(self) -> Any:
        return self._connection.rest

    def cursor(self) -> Any:
        return self._connection.cursor()

    def close(self, retry: bool = True) -> None:
        """It is not ours."""
