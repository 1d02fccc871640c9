"""Faults on demand: what goes wrong with a real account, at the moment a test wants it.

A :class:`Rule` says what is to happen to which requests or statements, and how often. Rules decide
in the order in which requests arrive, each with random numbers of its own, so that the same seed
and the same requests give the same faults. Rules live as long as the server process; what they and
the immediate faults (a container killed, tokens expired) have done is in :meth:`Faults.log`.

What happens on a connection is carried out by `server.control`, which asks :meth:`on_request`.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from flowdist.emulator.errors import SqlError
from flowdist.emulator.hidden import Entry, covers, write
from flowdist.emulator.names import FullName, fold
from flowdist.emulator.sql.parser import Parser
from flowdist.errors import UsageError, nearest

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.catalog import Object
    from flowdist.emulator.queries import Query

__all__ = ["Faults", "Kind", "Rule"]

KEPT = 10_000
"""How many faults the log remembers."""

STEP = 0.05
"""How often a statement that is slow on purpose looks whether it was aborted, in seconds."""

_QUERY_IN_PATH = re.compile(r"/queries/([0-9a-fA-F-]{36})(?:/|\Z)")
_LOCATION = re.compile(r"""@((?:"(?:[^"]|"")*"|[^/"])+)(?:/(.*))?\Z""", re.DOTALL)


class Kind(StrEnum):
    """What a rule does."""

    DROP = "drop"
    """The connection is closed before the request is looked at."""
    LOSE = "lose"
    """The request is carried out; instead of a reply the connection is closed."""
    UNAVAILABLE = "unavailable"
    """The request is answered with HTTP 503."""
    DELAY = "delay"
    """The request waits before it is looked at."""
    FAIL = "fail"
    """The statement fails with an error of one's choice."""
    SLOW = "slow"
    """The statement takes longer."""
    HIDE = "hide"
    """Files of a stage are not to be seen: in listings, downloads and mounts."""
    PAUSE = "pause"
    """A compute pool starts nothing."""


_OF_REQUESTS = (Kind.DELAY, Kind.UNAVAILABLE, Kind.DROP, Kind.LOSE)
_OF_STATEMENTS = (Kind.SLOW, Kind.FAIL)


@dataclass
class Rule:
    """A fault that waits for its occasion.

    ``path`` and ``statement`` are regular expressions, searched for in a request's path and in the
    text of the statement that it brings or asks about. Of the occasions that match, the first
    ``after`` are let pass; then each ``every``-th, with ``probability``, is hit, at most ``times``.
    """

    id: int
    kind: Kind
    path: str = ""
    statement: str = ""
    probability: float = 1.0
    every: int = 1
    after: int = 0
    times: int | None = None
    seed: int | None = None
    seconds: float | None = None
    errno: int = 603
    sqlstate: str = "XX000"
    message: str = "SQL execution internal error:\nfault on demand"
    location: str = ""
    pool: str = ""
    seen: int = 0
    """How many occasions have matched."""
    hits: int = 0
    """How many of them were hit."""
    _random: random.Random = field(default_factory=random.Random, repr=False)

    def matches(self, path: str, statement: str) -> bool:
        """Whether the rule is about such a request or statement."""
        return bool(
            re.search(self.path, path) and re.search(self.statement, statement, re.I | re.S)
        )

    def decides(self) -> bool:
        """Whether this occasion, which matches, is hit; to be asked once for each."""
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.hits >= self.times):
            return False
        if (self.seen - self.after) % self.every:
            return False
        if self.probability < 1 and self._random.random() >= self.probability:
            return False
        self.hits += 1
        return True

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON has it."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name[0] != "_"}


# What whoever makes a rule may say, by kind; the rest of a rule is found out.
_OFTEN = {"probability", "every", "after", "times", "seed"}
_WHICH = {"path", "statement"} | _OFTEN
_OPTIONS: dict[Kind, set[str]] = {
    Kind.DROP: _WHICH,
    Kind.LOSE: _WHICH,
    Kind.UNAVAILABLE: _WHICH,
    Kind.DELAY: _WHICH | {"seconds"},
    Kind.FAIL: {"statement", "errno", "sqlstate", "message"} | _OFTEN,
    Kind.SLOW: {"statement", "seconds"} | _OFTEN,
    Kind.HIDE: {"location", "seconds"},
    Kind.PAUSE: {"pool"},
}
_NEEDED = {
    Kind.DELAY: "seconds",
    Kind.SLOW: "seconds",
    Kind.HIDE: "location",
    Kind.PAUSE: "pool",
}


class Faults:
    """All rules of an account; every method may be called from any thread.

    ``connections`` has the transport of each open connection by the client's address, so that one
    can be cut; the server keeps it.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._lock = threading.RLock()
        self._rules: dict[int, Rule] = {}
        self._made = 0
        self._since_clear = 0
        self._log: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._entries: dict[int, Entry] = {}
        self._of_kind: frozenset[Kind] = frozenset()
        self.connections: dict[tuple[str, int], asyncio.Transport] = {}

    def start(self) -> None:
        """Begin with nothing hidden or paused: rules end with the process that had them."""
        write(self._account.directory, [])
        for pool in self._account.catalog.all("compute pool"):
            if pool.data.get("paused"):
                self._account.catalog.update(pool, paused=False)

    def close(self) -> None:
        """Let go of nothing: rules need no cleaning up."""

    # -- rules

    def add(self, kind: str, **options: Any) -> Rule:
        """A new rule; UsageError where it makes no sense, SqlError where its pool is not there."""
        made = _checked(kind, options)
        # Not under the lock: it is taken in threads that hold the catalog's.
        entry = self._entry(made) if made.kind is Kind.HIDE else None
        if made.kind is Kind.PAUSE:
            self._account.compute.pause(made.pool)
        with self._lock:
            self._made += 1
            self._since_clear += 1
            made.id = self._made
            seed = self._account.settings.seed if made.seed is None else made.seed
            made._random = random.Random(f"{seed}:{self._since_clear}")
            self._rules[made.id] = made
            if entry is not None:
                self._entries[made.id] = entry
                self._note(made, made.location)
            elif made.kind is Kind.PAUSE:
                self._note(made, made.pool)
            self._changed()
        return made

    def remove(self, rule_id: int) -> Rule | None:
        """End a rule; the rule as it was, or None where it is not there any more."""
        with self._lock:
            rule = self._rules.pop(rule_id, None)
            self._entries.pop(rule_id, None)
            self._changed()
            still = {other.pool for other in self._rules.values()}
        if rule is not None and rule.kind is Kind.PAUSE and rule.pool not in still:
            self._account.compute.unpause(rule.pool)
        return rule

    def clear(self) -> None:
        """End all rules, and begin the random numbers again; the log stays."""
        for rule in self.rules():
            self.remove(rule.id)
        with self._lock:
            self._since_clear = 0

    def rules(self) -> list[Rule]:
        """Those that there are, in the order in which they were made."""
        with self._lock:
            return list(self._rules.values())

    def log(self) -> list[dict[str, Any]]:
        """What was injected, oldest first: time (Unix, seconds), kind, rule (or None), what."""
        with self._lock:
            return list(self._log)

    # -- what happens by itself

    @property
    def of_requests(self) -> bool:
        """Whether any rule is about requests: with none, requests go by untouched."""
        return not self._of_kind.isdisjoint(_OF_REQUESTS)

    def on_request(self, method: str, path: str, statement: str = "") -> list[Rule]:
        """The rules that hit a request, in the order in which they are to be carried out.

        `statement` is the text that the request brings; for one that asks about a query it is
        found by the id in the path.
        """
        named = _QUERY_IN_PATH.search(path)
        if named and not statement:
            query = self._account.queries.find(named.group(1))
            statement = query.text if query is not None else ""
        with self._lock:
            hits = [
                rule
                for rule in self._rules.values()
                if rule.kind in _OF_REQUESTS and rule.matches(path, statement) and rule.decides()
            ]
            for rule in hits:
                self._note(rule, f"{method} {path}")
        return sorted(hits, key=lambda rule: _OF_REQUESTS.index(rule.kind))

    def before_statement(self, query: Query) -> None:
        """Make a statement slow, or fail with SqlError, where a rule says so."""
        if self._of_kind.isdisjoint(_OF_STATEMENTS):
            return
        with self._lock:
            hits = [
                rule
                for rule in self._rules.values()
                if rule.kind in _OF_STATEMENTS and rule.matches("", query.text) and rule.decides()
            ]
            for rule in hits:
                self._note(rule, f"query {query.id}")
        for rule in sorted(hits, key=lambda rule: _OF_STATEMENTS.index(rule.kind)):
            if rule.kind is Kind.FAIL:
                raise SqlError(rule.errno, rule.sqlstate, rule.message)
            self._wait(query, rule.seconds or 0.0)

    @property
    def hides(self) -> bool:
        """Whether any rule is about files: with none, nothing is hidden."""
        return Kind.HIDE in self._of_kind

    def hidden(self, stage: Object, path: str) -> bool:
        """Whether a file of a stage is not to be seen now."""
        if not self.hides:
            return False
        now = self._account.clock.time()
        with self._lock:
            for rule_id, entry in self._entries.items():
                if (
                    entry.stage == stage.id
                    and (entry.until is None or now < entry.until)
                    and covers(entry.pattern, path)
                ):
                    self._rules[rule_id].seen += 1
                    self._rules[rule_id].hits += 1
                    return True
        return False

    # -- what happens at once

    def kill_container(self, service: str, instance: int = 0, container: str | None = None) -> None:
        """Kill a container as if it had crashed (SIGKILL); the first of the instance where none
        is named. SqlError where it is not there.
        """
        self._account.compute.kill_container(self.object_of(service), instance, container)
        self._now("kill_container", f"{service} {instance} {container or ''}".rstrip())

    def kill_node(self, pool: str, node: int | str = 0) -> None:
        """Take a node away, with all that runs on it: by its place among them, or its id."""
        self._account.compute.kill_node(fold(pool), node)
        self._now("kill_node", f"{pool} {node}")

    def expire_tokens(self, which: str = "session") -> None:
        """Make all tokens of a kind expire: "session", "master", "service" or "user"."""
        if which not in ("session", "master", "service", "user"):
            raise UsageError(f"tokens are session, master, service or user, not {which!r}")
        self._account.tokens.expire(which)
        self._now("expire_tokens", which)

    # -- inside

    def object_of(self, name: str) -> FullName:
        """A full name from text; what lives in the ready-made schema needs no more than its own."""
        parts = Parser(name).name()
        database, schema, last = ("FLOWDIST", "PUBLIC")[: 3 - len(parts)] + parts
        return FullName(database, schema, last)

    def _entry(self, rule: Rule) -> Entry:
        match = _LOCATION.match(rule.location)
        if match is None:
            raise UsageError(f"{rule.location!r} is no place in a stage: @db.schema.stage/path")
        stage = self._account.catalog.find("stage", self.object_of(match.group(1)))
        if stage is None:
            raise UsageError(f"there is no stage {match.group(1)}")
        until = None if rule.seconds is None else self._account.clock.time() + rule.seconds
        return Entry(stage.id, match.group(2) or "", until)

    def _changed(self) -> None:
        """Note what kinds there are, and tell the processes of mounts; the lock is held."""
        hides = Kind.HIDE in self._of_kind
        self._of_kind = frozenset(rule.kind for rule in self._rules.values())
        if hides or self._entries:
            write(self._account.directory, self._entries.values())

    def _note(self, rule: Rule, what: str) -> None:
        self._log.append(
            {
                "time": self._account.clock.time(),
                "kind": str(rule.kind),
                "rule": rule.id,
                "what": what,
            }
        )

    def _now(self, kind: str, what: str) -> None:
        with self._lock:
            self._log.append(
                {"time": self._account.clock.time(), "kind": kind, "rule": None, "what": what}
            )

    def _wait(self, query: Query, seconds: float) -> None:
        clock = self._account.clock
        end = clock.monotonic() + seconds
        while (left := end - clock.monotonic()) > 0:
            query.check()
            clock.sleep(min(STEP, left))
        query.check()


def _checked(kind: str, options: dict[str, Any]) -> Rule:
    """A rule from what a request says; UsageError where that makes no sense."""
    if kind not in set(Kind):
        raise UsageError(f"there is no fault {kind!r}{nearest(kind, Kind)}")
    known = _OPTIONS[Kind(kind)]
    for name in options:
        if name not in known:
            raise UsageError(f"fault {kind!r} has no option {name!r}{nearest(name, known)}")
    rule = Rule(0, Kind(kind))
    for name, value in options.items():
        _check(name, value)
        setattr(rule, name, value)
    needed = _NEEDED.get(rule.kind)
    if needed is not None and not options.get(needed):
        raise UsageError(f"fault {kind!r} needs {needed!r}")
    rule.pool = fold(rule.pool)
    return rule


def _check(name: str, value: Any) -> None:
    if name in ("path", "statement"):
        try:
            re.compile(value)
        except (re.error, TypeError) as error:
            raise UsageError(f"{name}={value!r} is no regular expression: {error}") from None
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = whole or isinstance(value, float)
    checks: dict[str, Callable[[], bool]] = {
        "probability": lambda: number and 0 <= value <= 1,
        "every": lambda: whole and value >= 1,
        "after": lambda: whole and value >= 0,
        "times": lambda: value is None or (whole and value >= 1),
        "seed": lambda: value is None or whole,
        "seconds": lambda: value is None or (number and value >= 0),
        "errno": lambda: whole and 1 <= value <= 999_999,
        "sqlstate": lambda: isinstance(value, str) and len(value) == 5,
    }
    good = checks.get(name, lambda: isinstance(value, str))
    if not good():
        raise UsageError(f"{name}={value!r} makes no sense for a fault")
