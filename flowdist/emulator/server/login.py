"""Sessions over the wire: signing in, renewing tokens, heartbeats, the end."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowdist.emulator.access import SYSTEM_SCHEMA
from flowdist.emulator.errors import SqlError
from flowdist.emulator.names import fold
from flowdist.emulator.parameters import SESSION
from flowdist.emulator.server.protocol import (
    answered,
    bearer,
    envelope,
    json_body,
    json_reply,
    session_of,
)
from flowdist.emulator.server.tokens import Login, Pair
from flowdist.emulator.session import Session

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.server.execute import Runner

__all__ = ["parameter_list", "routes"]

SERVER_VERSION = "9.40.0"
"""The version of Snowflake that clients are told; they compare it with what they can do."""

_CLIENT = {
    "CLIENT_ENABLE_LOG_INFO_STATEMENT_PARAMETERS": False,
    "CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False,
    "CLIENT_PREFETCH_THREADS": 4,
    "CLIENT_RESULT_CHUNK_SIZE": 160,
    # 0: bulk binds come in the request, never by a file in a stage.
    "CLIENT_STAGE_ARRAY_BINDING_THRESHOLD": 0,
    "CLIENT_TELEMETRY_ENABLED": False,
    "CLIENT_TELEMETRY_SESSIONLESS_ENABLED": False,
    "ENABLE_STAGE_S3_PRIVATELINK_FOR_US_EAST_1": False,
    "PYTHON_CONNECTOR_USE_NANOARROW": True,
    "QUERY_CONTEXT_CACHE_SIZE": 5,
    "SERVICE_NAME": "",
}
"""What the connector asks for besides session parameters."""

_TOLD = (
    "AUTOCOMMIT",
    "BINARY_OUTPUT_FORMAT",
    "CLIENT_SESSION_KEEP_ALIVE",
    "CLIENT_SESSION_KEEP_ALIVE_HEARTBEAT_FREQUENCY",
    "DATE_OUTPUT_FORMAT",
    "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT",
    "TIMESTAMP_LTZ_OUTPUT_FORMAT",
    "TIMESTAMP_NTZ_OUTPUT_FORMAT",
    "TIMESTAMP_OUTPUT_FORMAT",
    "TIMESTAMP_TZ_OUTPUT_FORMAT",
    "TIMEZONE",
    "TIME_OUTPUT_FORMAT",
)
"""Session parameters that the client is told with every reply."""


def parameter_list(session: Session) -> list[dict[str, Any]]:
    """The ``parameters`` of a reply."""
    values = {**_CLIENT, **{name: session.parameter(name) for name in _TOLD}}
    return [{"name": name, "value": value} for name, value in values.items()]


def routes(account: Account, runner: Runner) -> list[Route]:
    """Everything about sessions."""

    async def sign_in(request: Request) -> Response:
        body = (await json_body(request)).get("data") or {}
        # In a thread: a password takes a while to check.
        data = await asyncio.get_running_loop().run_in_executor(
            runner.pool, _sign_in, account, body, dict(request.query_params)
        )
        return json_reply(envelope(data))

    async def renew(request: Request) -> Response:
        body = await json_body(request)
        # ISSUE: a further token of the session, for its image registry.
        if body.get("requestType") not in ("RENEW", "ISSUE"):
            raise SqlError(390400, "08001", f"Unknown request type {body.get('requestType')!r}.")
        session, pair = account.tokens.renew(bearer(request))
        return json_reply(
            envelope(
                {
                    "sessionToken": pair.session_token,
                    "validityInSecondsST": pair.validity,
                    "masterToken": pair.master_token,
                    "validityInSecondsMT": pair.master_validity,
                    "sessionId": session.id,
                }
            )
        )

    async def heartbeat(request: Request) -> Response:
        session_of(account, request)
        return json_reply(envelope(None))

    async def end(request: Request) -> Response:
        session = session_of(account, request)
        if request.query_params.get("delete") == "true":
            account.tokens.revoke(session)
            await runner.close_session(session)
        return json_reply(envelope(None))

    async def telemetry(request: Request) -> Response:
        await request.body()
        return json_reply(envelope("Log Received"))

    return [
        Route("/session/v1/login-request", answered(sign_in), methods=["POST"]),
        Route("/session/token-request", answered(renew), methods=["POST"]),
        Route("/session/heartbeat", answered(heartbeat), methods=["POST"]),
        Route("/session", answered(end), methods=["POST"]),
        Route("/telemetry/send", answered(telemetry), methods=["POST"]),
        Route("/telemetry/send/sessionless", answered(telemetry), methods=["POST"]),
    ]


def _sign_in(account: Account, body: dict[str, Any], wanted: dict[str, str]) -> dict[str, Any]:
    login = _login(account, body)
    user = account.catalog.find("user", (login.user,))
    defaults = {} if user is None else user.data
    session = account.open_session(
        login.user,
        _role(account, login, wanted.get("roleName"), defaults),
        service=login.service,
        application=f"{body.get('CLIENT_APP_ID')} {body.get('CLIENT_APP_VERSION')}",
    )
    _place(account, session, login, wanted, defaults)
    if login.role is not None:  # whose token is for one role has no others
        session.secondary_roles = "NONE"
    elif str(body.get("SECONDARY_ROLES") or "").upper() in ("ALL", "NONE"):
        session.secondary_roles = str(body["SECONDARY_ROLES"]).upper()
    _set_parameters(session, body.get("SESSION_PARAMETERS") or {})
    pair = account.tokens.issue(session)
    return _signed_in(session, pair, str(body.get("CLIENT_APP_VERSION") or ""))


def _login(account: Account, body: dict[str, Any]) -> Login:
    """Who signs in, by password or token; SqlError 390100 where the password is wrong."""
    kind = str(body.get("AUTHENTICATOR") or "SNOWFLAKE").upper()
    token, password = body.get("TOKEN"), body.get("PASSWORD")
    name = fold(str(body.get("LOGIN_NAME") or ""))
    if kind in ("OAUTH", "PROGRAMMATIC_ACCESS_TOKEN"):
        login = account.tokens.login_of(str(token or password or ""))
        if name and kind != "OAUTH" and name != login.user:
            raise _refused()
        return login
    if kind not in ("SNOWFLAKE", "USERNAME_PASSWORD_MFA"):
        raise SqlError(390105, "08001", f"not supported by the emulator: authenticator {kind}")
    user = account.access.check_password(name, str(password or ""))
    if user is not None:
        return Login(user.name)
    try:  # an access token may stand where a password does
        login = account.tokens.login_of(str(password or ""))
    except SqlError:
        raise _refused() from None
    if login.user != name or login.service is not None:
        raise _refused()
    return login


def _refused() -> SqlError:
    return SqlError(390100, "08001", "Incorrect username or password was specified.")


def _role(account: Account, login: Login, asked: str | None, defaults: dict[str, Any]) -> str:
    """The role to begin with; SqlError 390189 where it is not the user's."""
    usual = str(login.role or defaults.get("default_role") or "PUBLIC")
    role = fold(asked) if asked else usual
    restricted = login.role is not None and login.service is None
    session = Session(0, login.user, usual, service=login.service)
    if role != usual and (restricted or not account.access.may_use_role(session, role)):
        raise SqlError(
            390189,
            "08001",
            f"Role '{role}' specified in the connect string is not granted to this user. Contact "
            "your local system administrator, or attempt to login with another role, e.g. PUBLIC.",
        )
    return role


def _place(
    account: Account,
    session: Session,
    login: Login,
    wanted: dict[str, str],
    defaults: dict[str, Any],
) -> None:
    """Database, schema and warehouse to begin with; as in Snowflake, none where it is not there."""
    database, _, schema = str(defaults.get("default_namespace") or "").partition(".")
    database = _folded(wanted.get("databaseName")) or login.database or database
    schema = _folded(wanted.get("schemaName")) or login.schema or schema
    warehouse = (
        _folded(wanted.get("warehouse")) or login.warehouse or defaults.get("default_warehouse")
    )
    if database and _seen(account, session, "database", (database,)):
        session.database = database
        schema = schema or "PUBLIC"
        if schema == SYSTEM_SCHEMA or _seen(account, session, "schema", (database, schema)):
            session.schema = schema
    if warehouse and _seen(account, session, "warehouse", (warehouse,)):
        session.warehouse = warehouse


def _seen(account: Account, session: Session, kind: str, name: tuple[str, ...]) -> bool:
    found = account.catalog.find(kind, name)
    return found is not None and account.access.visible(session, found)


def _folded(name: str | None) -> str:
    return fold(name) if name else ""


def _set_parameters(session: Session, given: dict[str, Any]) -> None:
    # Clients send many that are their own business; those are not for the session.
    for name, value in given.items():
        known = SESSION.get(name.upper())
        if known is not None and value is not None:
            session.parameters[known.name] = known.read(value)


def _signed_in(session: Session, pair: Pair, client: str) -> dict[str, Any]:
    return {
        "token": pair.session_token,
        "masterToken": pair.master_token,
        "validityInSeconds": pair.validity,
        "masterValidityInSeconds": pair.master_validity,
        "displayUserName": session.user,
        "serverVersion": SERVER_VERSION,
        "firstLogin": False,
        "remMeToken": None,
        "remMeValidityInSeconds": 0,
        "healthCheckInterval": 45,
        "newClientForUpgrade": None,
        "sessionId": session.id,
        "parameters": parameter_list(session),
        "sessionInfo": {
            "databaseName": session.database,
            "schemaName": session.schema,
            "warehouseName": session.warehouse,
            "roleName": session.role,
        },
        "idToken": None,
        "idTokenValidityInSeconds": 0,
        "responseData": None,
        "mfaToken": None,
        "mfaTokenValidityInSeconds": 0,
        "requestId": str(uuid.uuid4()),
        "clientVersion": client,
    }
