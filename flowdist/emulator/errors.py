"""The errors that the emulator answers with: Snowflake's numbers, SQLSTATEs and words.

A statement that fails raises :class:`SqlError`; the server turns it into a reply of the protocol,
never into an HTTP error. The factories below are the errors that more than one module raises.
"""

from __future__ import annotations

__all__ = [
    "Overtaken",
    "SqlError",
    "already_exists",
    "cancelled",
    "compilation_error",
    "does_not_exist",
    "insufficient_privileges",
    "invalid_value",
    "no_current_database",
    "no_current_schema",
    "overtaken",
    "syntax_error",
    "unsupported",
]


class SqlError(Exception):
    """A statement failed: ``errno`` as the connector has it, SQLSTATE, and Snowflake's words."""

    def __init__(self, errno: int, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.errno = errno
        self.sqlstate = sqlstate
        self.message = message

    @property
    def code(self) -> str:
        """The number with its leading zeros, as on the wire."""
        return f"{self.errno:06d}"


class Overtaken(SqlError):
    """Another statement has changed an object between the look at it and its change: the statement
    is to begin again.
    """


def compilation_error(message: str, errno: int = 2140, sqlstate: str = "42601") -> SqlError:
    """A statement that is well formed and makes no sense."""
    return SqlError(errno, sqlstate, f"SQL compilation error:\n{message}")


def syntax_error(line: int, position: int, token: str) -> SqlError:
    """The grammar does not allow `token` there; lines count from 1, positions from 0."""
    what = f"unexpected '{token}'" if token else "unexpected '<EOF>'"
    return SqlError(
        1003,
        "42000",
        f"SQL compilation error:\nsyntax error line {line} at position {position} {what}.",
    )


def overtaken(name: object) -> Overtaken:
    """Of that object."""
    return Overtaken(603, "XX000", f"SQL execution error:\nObject '{name}' keeps changing.")


def does_not_exist(kind: str, name: object) -> SqlError:
    """What is missing, or may not be seen: the two look the same on purpose."""
    return SqlError(
        2003,
        "02000",
        f"SQL compilation error:\n{kind.capitalize()} '{name}' does not exist or not authorized.",
    )


def already_exists(name: object) -> SqlError:
    """The name is taken among objects of its kind."""
    return SqlError(2002, "42710", f"SQL compilation error:\nObject '{name}' already exists.")


def insufficient_privileges(kind: str, name: object) -> SqlError:
    """The role may see the object, and may not do this with it."""
    return SqlError(
        3001,
        "42501",
        f"SQL access control error:\nInsufficient privileges to operate on {kind} '{name}'.",
    )


def invalid_value(value: object, parameter: str) -> SqlError:
    """A property has a value out of its range or of another type."""
    return SqlError(
        1008,
        "22023",
        f"SQL compilation error:\ninvalid value [{value}] for parameter '{parameter}'",
    )


def no_current_database(verb: str) -> SqlError:
    """A name without a database, in a session that has none."""
    return SqlError(
        90105,
        "22000",
        f"Cannot perform {verb}. This session does not have a current database. "
        "Call 'USE DATABASE', or use a qualified name.",
    )


def no_current_schema(verb: str) -> SqlError:
    """A name without a schema, in a session that has none."""
    return SqlError(
        90106,
        "22000",
        f"Cannot perform {verb}. This session does not have a current schema. "
        "Call 'USE SCHEMA', or use a qualified name.",
    )


def cancelled() -> SqlError:
    """Somebody aborted the statement."""
    return SqlError(604, "57014", "SQL execution canceled")


def unsupported(clause: str) -> SqlError:
    """Snowflake may know it; the emulator does not, and says so instead of pretending."""
    shown = " ".join(clause.split())
    if len(shown) > 200:
        shown = shown[:197] + "..."
    return SqlError(2, "0A000", f"not supported by the emulator: {shown}")
