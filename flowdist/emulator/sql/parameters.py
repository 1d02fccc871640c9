"""The values that a translated statement gets when it runs: binds, and what the session says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Bind", "Call", "Constant", "Now", "Parameter"]


@dataclass(frozen=True)
class Bind:
    """The value of the ``?`` of that position, from 0."""

    position: int


@dataclass(frozen=True)
class Now:
    """The time at which the statement began."""


@dataclass(frozen=True)
class Constant:
    """The value of an expression of constants in DuckDB's SQL, with the parameters it has."""

    sql: str
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True)
class Call:
    """A registered function, called once before the statement runs.

    An argument is a parameter whose value is passed, or a constant.
    """

    name: str
    arguments: tuple[Any, ...]


Parameter = Bind | Now | Constant | Call
