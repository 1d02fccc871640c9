"""Faults as the user of an emulator asks for them, from another process than the server.

What they mean and when they hit is decided in the server: see `faults`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Fault", "Faults"]

Ask = Callable[..., Any]


class Fault:
    """A fault that waits for its occasion; as a context manager it ends with the block."""

    def __init__(self, ask: Ask, rule: Mapping[str, Any]) -> None:
        self._ask = ask
        self.id = int(rule["id"])
        self.kind = str(rule["kind"])
        self._last = dict(rule)

    @property
    def hits(self) -> int:
        """How often it has happened; the last that is known where it has ended."""
        self._last = self._ask("GET", f"faults/{self.id}") or self._last
        return int(self._last["hits"])

    def remove(self) -> None:
        """End it."""
        self._last = self._ask("DELETE", f"faults/{self.id}") or self._last

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<Fault {self.id}: {self.kind}>"


class Faults:
    """What can go wrong, on demand. All that wait for an occasion give a :class:`Fault`.

    Those about requests and statements take

    - ``path``, a regular expression for the request's path (``POLLS`` for asking after a query);
    - ``statement``, one for the SQL that the request brings, or asks about;
    - ``after``, how many occasions pass before; ``every``, each how-many-th is then hit;
      ``probability``, with which; ``times``, at most how often;
    - ``seed``, for chance of its own. By default it follows from that of the emulator and from how
      many faults were made since the last :meth:`clear`.

    The connector tries again until the server answers::

        with emulator.faults.unavailable(times=3) as fault:
            emulator.connect().cursor().execute("SELECT 1")
            assert fault.hits == 3
    """

    POLLS = r"^/queries/[^/]+/result|^/monitoring/queries/"
    """The paths at which clients ask whether a query has ended, and for its result."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def drop_connections(self, **which: Any) -> Fault:
        """Close connections without a reply, before the request is looked at."""
        return self._add("drop", which)

    def lose_replies(self, **which: Any) -> Fault:
        """Close connections without a reply, once the request has been carried out."""
        return self._add("lose", which)

    def lose_polls(self, **which: Any) -> Fault:
        """The same for the requests that ask after a query."""
        return self._add("lose", {"path": self.POLLS, **which})

    def unavailable(self, **which: Any) -> Fault:
        """Answer requests with HTTP 503."""
        return self._add("unavailable", which)

    def delay(self, seconds: float, **which: Any) -> Fault:
        """Let requests wait before they are looked at."""
        return self._add("delay", {"seconds": seconds, **which})

    def delay_polls(self, seconds: float, **which: Any) -> Fault:
        """The same for the requests that ask after a query."""
        return self._add("delay", {"seconds": seconds, "path": self.POLLS, **which})

    def fail_statement(
        self,
        pattern: str,
        *,
        nth: int = 1,
        errno: int = 603,
        message: str = "SQL execution internal error:\nfault on demand",
        sqlstate: str = "XX000",
        **often: Any,
    ) -> Fault:
        """Let the `nth` statement that a regular expression is found in fail, once unless `times`
        says otherwise (None: all from then on).
        """
        return self._add(
            "fail",
            {
                "statement": pattern,
                "after": nth - 1,
                "times": 1,
                "errno": errno,
                "message": message,
                "sqlstate": sqlstate,
                **often,
            },
        )

    def slow_statements(self, seconds: float, *, statement: str = "", **often: Any) -> Fault:
        """Let statements take longer."""
        return self._add("slow", {"seconds": seconds, "statement": statement, **often})

    def hide(self, location: str, *, seconds: float | None = None) -> Fault:
        """Let nobody see files of a stage, for a while or until the fault ends: a file, all below
        a directory, or a glob, as in ``@db.schema.stage/results/*.parquet``.
        """
        return self._add("hide", {"location": location, "seconds": seconds})

    def pause(self, pool: str) -> Fault:
        """Let a compute pool start nothing until the fault ends."""
        return self._add("pause", {"pool": pool})

    def kill_container(
        self, service: str, *, instance: int = 0, container: str | None = None
    ) -> None:
        """Kill a container with SIGKILL, as if it had crashed."""
        self._now("kill_container", service=service, instance=instance, container=container)

    def kill_node(self, pool: str, *, node: int | str = 0) -> None:
        """Take a node away with all that runs on it: by its place among them, or its id."""
        self._now("kill_node", pool=pool, node=node)

    def expire_tokens(self, kind: str = "session") -> None:
        """Let all tokens of a kind expire now: "session", "master", "service" or "user"."""
        self._now("expire_tokens", which=kind)

    def active(self) -> list[dict[str, Any]]:
        """The faults that wait, with what each has hit."""
        found: list[dict[str, Any]] = self._ask("GET", "faults")
        return found

    def log(self) -> list[dict[str, Any]]:
        """What was injected, oldest first: ``time`` (Unix, seconds), ``kind``, ``rule`` (the id of
        the fault, or None) and ``what``.
        """
        found: list[dict[str, Any]] = self._ask("GET", "faults/log")
        return found

    def clear(self) -> None:
        """End all faults, and let chance begin again."""
        self._ask("DELETE", "faults")

    def _add(self, kind: str, options: Mapping[str, Any]) -> Fault:
        return Fault(self._ask, self._ask("POST", "faults", {"kind": kind, **options}))

    def _now(self, kind: str, **options: Any) -> None:
        self._ask("POST", "faults/now", {"kind": kind, **options})
