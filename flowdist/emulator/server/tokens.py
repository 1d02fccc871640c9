"""Tokens of sessions, users and containers: given out, checked, renewed, expired.

Only hashes of tokens are kept. They and the sessions that they belong to are in an
SQLite file, so that clients go on after the server was killed; checking a token reads memory only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flowdist.emulator.errors import SqlError
from flowdist.emulator.session import Session
from flowdist.emulator.sqlite import open_file

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["Login", "Pair", "Tokens"]

_log = logging.getLogger(__name__)

SESSION_SECONDS = 3600
"""As in Snowflake; the client renews the token with the master token."""
MASTER_SECONDS = 4 * 3600
SERVICE_SECONDS = 3600
"""The longest that a container may sign in with a token it was given."""
USER_SECONDS = 15 * 86400
"""What Snowflake gives a programmatic access token by default."""
REMEMBERED_SECONDS = 86400
"""How long an expired token is told from one that never was."""
SWEEP_SECONDS = 60
"""How often what has expired is looked for, at the most."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (hash BLOB PRIMARY KEY, json TEXT);
CREATE TABLE IF NOT EXISTS sessions (id INTEGER PRIMARY KEY, json TEXT);
"""


@dataclass(frozen=True)
class Pair:
    """What a client gets: tokens, and for how many seconds each is good."""

    session_token: str
    master_token: str
    validity: int = SESSION_SECONDS
    master_validity: int = MASTER_SECONDS


@dataclass(frozen=True)
class Login:
    """Who may sign in with a token, and what the session then has; None leaves it to the user.

    ``name`` is that of a programmatic access token; ``service_id`` tells a service from one that
    had the same name.
    """

    user: str
    role: str | None = None
    database: str | None = None
    schema: str | None = None
    warehouse: str | None = None
    service: str | None = None
    name: str = ""
    service_id: int = 0


@dataclass
class _Token:
    """`kind` is session, master, service or user; the first two belong to a session."""

    kind: str
    expires: float
    session: int = 0
    login: Login | None = None


class Tokens:
    """All tokens of an account; every method may be called from any thread."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._lock = threading.Lock()
        path = account.directory / "tokens.sqlite"
        self._file = open_file(path)
        self._file.executescript(_SCHEMA)
        self._tokens: dict[bytes, _Token] = {}
        self._saved: dict[int, str] = {}
        """The sessions as they were last written."""
        self._lost: set[int] = set()
        """The sessions whose transactions the end of an earlier server has rolled back."""
        self._next_sweep = 0.0
        self._read()

    def start(self) -> None:
        """Begin what runs in the background."""

    def close(self) -> None:
        """Let go of the file; sessions stay in it."""
        with self._lock:
            self._file.close()

    # -- sessions

    def issue(self, session: Session) -> Pair:
        """Tokens for a new session."""
        self._end_idle(self._account.clock.time())
        self.save(session)
        return self._pair(session.id)

    def session_of(self, token: str) -> Session:
        """The session of a request; SqlError 390112 where the token has expired, 390104 where it
        is none.
        """
        found = self._tokens.get(_hashed(token))
        if found is None or found.kind != "session":
            raise SqlError(390104, "08001", "Session token is invalid. Please sign in again.")
        if found.expires <= self._account.clock.time():
            raise SqlError(390112, "08001", "Your session has expired. Please login again.")
        return self._session(found)

    def renew(self, master: str) -> tuple[Session, Pair]:
        """New tokens for a master token; SqlError 390114 where that has expired, 390115 else."""
        found = self._tokens.get(_hashed(master))
        if found is None or found.kind != "master":
            raise SqlError(390115, "08001", "Master token is invalid.")
        if found.expires <= self._account.clock.time():
            raise SqlError(
                390114,
                "08001",
                "Authentication token has expired. The user must authenticate again.",
            )
        return self._session(found), self._pair(found.session)

    def revoke(self, session: Session) -> None:
        """Forget a session that was closed, with its tokens."""
        with self._lock:
            gone = [h for h, t in self._tokens.items() if t.session == session.id]
            self._forget(gone)
            self._saved.pop(session.id, None)
            self._file.execute("DELETE FROM sessions WHERE id = ?", (session.id,))

    def save(self, session: Session) -> None:
        """Write down what a session has, if that has changed; cheap where it has not."""
        made = _written(session, self._account.engine.in_transaction(session))
        with self._lock:
            if self._saved.get(session.id) != made:
                self._saved[session.id] = made
                self._file.execute(
                    "INSERT OR REPLACE INTO sessions VALUES (?, ?)", (session.id, made)
                )

    def lost_transaction(self, session: Session) -> bool:
        """Whether the server was killed while the session had a transaction open; said once."""
        with self._lock:
            if session.id not in self._lost:
                return False
            self._lost.remove(session.id)
            return True

    # -- signing in without a password

    def issue_user(self, login: Login, seconds: float = USER_SECONDS) -> str:
        """A token with which a user may sign in: a programmatic access token, or OAuth's."""
        return self._give("user", login, seconds)

    def issue_service(
        self,
        service: str,
        role: str,
        database: str | None = None,
        schema: str | None = None,
        warehouse: str | None = None,
        service_id: int = 0,
    ) -> str:
        """A token with which the containers of a service may sign in, for an hour; `service` is
        its full name.
        """
        user = service.rsplit(".", 1)[-1]
        login = Login(user, role, database, schema, warehouse, service, service_id=service_id)
        return self._give("service", login, SERVICE_SECONDS)

    def login_of(self, token: str) -> Login:
        """Who may sign in with a token; SqlError 390318 where it has expired, 390303 where it is
        none.
        """
        found = self._tokens.get(_hashed(token))
        if found is None or found.login is None:
            raise SqlError(390303, "08001", "Invalid OAuth access token.")
        if found.expires <= self._account.clock.time():
            raise SqlError(390318, "08001", "OAuth access token expired.")
        return found.login

    def revoke_service(self, service: str, service_id: int = 0) -> None:
        """No container of a service may sign in with the tokens that it was given; those of a
        later one of the same name still may.
        """
        with self._lock:
            self._forget(
                [
                    key
                    for key, token in self._tokens.items()
                    if token.login
                    and (token.login.service, token.login.service_id) == (service, service_id)
                ]
            )

    def names_of(self, user: str) -> set[str]:
        """The names of a user's access tokens that have not expired."""
        now = self._account.clock.time()
        with self._lock:
            return {
                t.login.name for t in self._of_user(user).values() if t.login and t.expires > now
            }

    def revoke_user(self, user: str, name: str | None = None) -> bool:
        """Forget an access token of a user, or all of them; whether there was one."""
        with self._lock:
            gone = [
                key
                for key, token in self._of_user(user).items()
                if token.login and name in (None, token.login.name)
            ]
            self._forget(gone)
            return bool(gone)

    def _of_user(self, user: str) -> dict[bytes, _Token]:
        return {
            key: token
            for key, token in self._tokens.items()
            if token.kind == "user" and token.login and token.login.user == user
        }

    # -- faults

    def expire(self, kind: str) -> int:
        """Let all tokens of a kind expire now: "session", "master", "service" or "user"; how many
        there were.
        """
        now = self._account.clock.time()
        with self._lock:
            hit = [h for h, t in self._tokens.items() if t.kind == kind and t.expires > now]
            for key in hit:
                self._tokens[key].expires = now
                self._write(key)
        return len(hit)

    # -- inside

    def _pair(self, session: int) -> Pair:
        pair = Pair(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
        now = self._account.clock.time()
        with self._lock:
            self._keep(pair.session_token, _Token("session", now + pair.validity, session))
            self._keep(pair.master_token, _Token("master", now + pair.master_validity, session))
        return pair

    def _give(self, kind: str, login: Login, seconds: float) -> str:
        token = secrets.token_urlsafe(32)
        now = self._account.clock.time()
        with self._lock:
            self._keep(token, _Token(kind, now + seconds, login=login))
        return token

    def _session(self, token: _Token) -> Session:
        try:
            return self._account.sessions[token.session]
        except KeyError:
            raise SqlError(
                390111,
                "08001",
                "Session no longer exists. New login required to access the service.",
            ) from None

    def _keep(self, token: str, made: _Token) -> None:
        key = _hashed(token)
        self._tokens[key] = made
        self._write(key)

    def _write(self, key: bytes) -> None:
        text = json.dumps(asdict(self._tokens[key]))
        self._file.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?)", (key, text))

    def _forget(self, keys: list[bytes]) -> None:
        for key in keys:
            del self._tokens[key]
        self._file.executemany("DELETE FROM tokens WHERE hash = ?", [(key,) for key in keys])

    def _end_idle(self, now: float) -> None:
        """Forget tokens that have long expired, and close the sessions that had them."""
        with self._lock:
            if now < self._next_sweep:
                return
            self._next_sweep = now + SWEEP_SECONDS
            self._forget(
                [h for h, t in self._tokens.items() if t.expires + REMEMBERED_SECONDS < now]
            )
            alive = {t.session for t in self._tokens.values()}
            idle = [i for i in self._saved if i not in alive]
        for identity in idle:
            session = self._account.sessions.get(identity)
            if session is not None:
                self.revoke(session)
                self._account.close_session(session)

    def _read(self) -> None:
        for key, text in self._file.execute("SELECT hash, json FROM tokens"):
            values = json.loads(text)
            login = values.pop("login")
            self._tokens[key] = _Token(**values, login=Login(**login) if login else None)
        for identity, text in self._file.execute("SELECT id, json FROM sessions").fetchall():
            try:
                session, in_transaction = _read_session(identity, text)
            except (KeyError, TypeError, ValueError) as error:
                _log.warning("session %d is lost: %s", identity, type(error).__name__)
                self._file.execute("DELETE FROM sessions WHERE id = ?", (identity,))
                continue
            self._saved[identity] = text
            self._account.sessions[identity] = session
            if in_transaction:
                self._lost.add(identity)


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


# -- sessions as text

_KEPT = (
    "user",
    "role",
    "database",
    "schema",
    "warehouse",
    "service",
    "application",
    "parameters",
    "secondary_roles",
    "variables",
)
_KINDS: dict[type, tuple[str, Callable[[str], Any]]] = {
    Decimal: ("decimal", Decimal),
    datetime: ("datetime", datetime.fromisoformat),
    date: ("date", date.fromisoformat),
    time: ("time", time.fromisoformat),
    bytes: ("bytes", bytes.fromhex),
}


def _written(session: Session, in_transaction: bool) -> str:
    values = {name: getattr(session, name) for name in _KEPT}
    return json.dumps({**values, "in_transaction": in_transaction}, default=_marked)


def _marked(value: Any) -> dict[str, str] | str:
    if type(value) not in _KINDS:
        return str(value)
    name, _ = _KINDS[type(value)]
    if isinstance(value, bytes):
        return {name: value.hex()}
    return {name: str(value) if isinstance(value, Decimal) else value.isoformat()}


def _unmarked(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if len(value) > 1:  # a TIMESTAMP_TZ, as results have it
        return {name: _unmarked(one) for name, one in value.items()}
    ((name, text),) = value.items()
    return dict(_KINDS.values())[name](text)


def _read_session(identity: int, text: str) -> tuple[Session, bool]:
    values = json.loads(text)
    in_transaction = values.pop("in_transaction")
    variables = {name: _unmarked(value) for name, value in values.pop("variables").items()}
    return Session(identity, variables=variables, **values), in_transaction
