"""DuckDB's errors as Snowflake's."""

from __future__ import annotations

import re

import duckdb

from flowdist.emulator.errors import SqlError, cancelled

__all__ = ["from_duckdb", "is_conflict", "is_duplicate", "transaction_aborted"]

_OWN = re.compile(r"(\d{6})\|(\w{5})\|(.*)", re.DOTALL)
_CONVERT = r"[Cc]ould not (?:convert|cast) (?:string|value) ['\"](.*?)['\"] to "
_PATTERNS: tuple[tuple[str, int, str, str], ...] = (
    (
        _CONVERT + r"(?:INT|UINT|DECIMAL|DOUBLE|FLOAT)",
        100038,
        "22018",
        "Numeric value '{0}' is not recognized",
    ),
    (
        _CONVERT + "BOOL",
        100037,
        "22018",
        "Boolean value '{0}' is not recognized",
    ),
    (
        r"(?:invalid timestamp field format|timestamp field value out of range): \"(.*?)\"",
        100035,
        "22007",
        "Timestamp '{0}' is not recognized",
    ),
    (
        r"Could not parse string \"(.*?)\" according to format specifier",
        100035,
        "22007",
        "Can't parse '{0}' as timestamp with that format",
    ),
    (
        r"Failed to parse format specifier|strftime format|strptime format",
        2,
        "0A000",
        "not supported by the emulator: that format of dates and times",
    ),
    (
        r"(?:invalid date field format|date field value out of range): \"(.*?)\"",
        100040,
        "22007",
        "Date '{0}' is not recognized",
    ),
    (
        r"(?:invalid time field format|time field value out of range): \"(.*?)\"",
        100108,
        "22007",
        "Time '{0}' is not recognized",
    ),
    (
        r"NOT NULL constraint failed: [^.]*\.(.*)",
        100072,
        "22000",
        "NULL result in a non-nullable column",
    ),
    (r"[Dd]ivision by zero", 100051, "22012", "Division by zero"),
    (r"Malformed JSON.*|.*Could not parse JSON", 100069, "22P02", "Error parsing JSON"),
    (
        r"Could not cast value (\S+) .*to DECIMAL|Overflow in|out of range",
        100046,
        "22003",
        "Number out of representable range",
    ),
    (
        r"More than one row returned by a subquery",
        100132,
        "22000",
        "Single-row subquery returns more than one row.",
    ),
    (
        r"column \"(.*?)\" must appear in the GROUP BY clause",
        979,
        "42601",
        "SQL compilation error:\n[{0}] is not a valid group by expression",
    ),
    (
        r"Ambiguous reference to column name \"(.*?)\"",
        2028,
        "42601",
        "SQL compilation error:\nambiguous column name '{0}'",
    ),
)
_COMPILED = [(re.compile(p), errno, state, text) for p, errno, state, text in _PATTERNS]


def is_conflict(error: Exception) -> bool:
    """Whether another transaction has changed what this one wants to change."""
    return isinstance(error, duckdb.TransactionException) and "onflict" in str(error)


def is_duplicate(error: Exception) -> bool:
    """Whether a key is there already."""
    text = str(error)
    return isinstance(error, duckdb.Error) and (
        "uplicate key" in text or "PRIMARY KEY or UNIQUE constraint violat" in text
    )


def from_duckdb(error: Exception) -> SqlError:
    """The error that Snowflake would give."""
    if isinstance(error, SqlError):
        return error
    if isinstance(error, duckdb.InterruptException):
        return cancelled()
    text = str(error)
    own = _OWN.search(text)
    if own is not None:
        message = own.group(3).split("\n\nLINE 1:")[0].strip()
        return SqlError(int(own.group(1)), own.group(2), message)
    if is_duplicate(error):
        return duplicate(error)
    for pattern, errno, state, shown in _COMPILED:
        match = pattern.search(text)
        if match is not None:
            return SqlError(errno, state, shown.format(*match.groups()))
    first = text.split("\n\nLINE 1:")[0].split("\n\tCandidate")[0].strip()
    if isinstance(error, duckdb.BinderException | duckdb.ParserException | duckdb.CatalogException):
        return SqlError(1065, "22023", f"SQL compilation error:\n{first}")
    if isinstance(error, duckdb.DataError):
        return SqlError(100132, "22000", first)
    return SqlError(603, "XX000", f"SQL execution internal error:\n{first}")


def transaction_aborted() -> SqlError:
    """What the next statement gets after a transaction that was idle for too long; that it is
    aborted is documented, the number of the error is not.
    """
    return SqlError(
        628,
        "40000",
        "The transaction was aborted and rolled back: it has written hybrid tables and was idle "
        "for 5 minutes.",
    )


def duplicate(error: Exception) -> SqlError:
    """A primary key or unique value that is there already."""
    if "unique constraint" in str(error) and "PRIMARY" not in str(error):
        name = "unique constraint"
        return SqlError(200001, "22000", f"Duplicate key value violates {name}: {_key(str(error))}")
    return SqlError(200001, "22000", "A primary key already exists.")


def _key(text: str) -> str:
    match = re.search(r"[Dd]uplicate key \"(.*?)\"", text)
    return match.group(1) if match else ""
