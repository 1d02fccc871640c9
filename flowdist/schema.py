"""Declared outputs (being written): the public surface; bodies follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from flowdist.artifacts import ARTIFACT_TYPE, ArtifactType, SaveFn, artifact
from flowdist.encode import MISSING, encode_declared
from flowdist.infer import infer_column, kind_of, unify_fields

__all__ = [
    "ARTIFACT_TYPE",
    "MISSING",
    "ArtifactType",
    "Field",
    "SaveFn",
    "Schema",
    "artifact",
    "encode_declared",
    "infer_column",
    "kind_of",
    "optional",
    "split_output",
    "table",
    "unify_fields",
]


@dataclass(frozen=True)
class Field:
    name: str
    type: pa.DataType
    nullable: bool = False
    codec: str | None = None
    kind: Literal["value", "artifact", "table"] = "value"
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    fields: tuple[Field, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields)

    def arrow(self, prefix: str = "") -> list[pa.Field]:
        raise NotImplementedError

    @classmethod
    def of(cls, declaration: Any, where: str) -> Schema:
        raise NotImplementedError

    @classmethod
    def of_annotation(cls, fn: Callable[..., Any]) -> Schema | None:
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Schema:
        raise NotImplementedError


def optional(t: Any) -> Any:
    raise NotImplementedError


def table(**columns: Any) -> Any:
    raise NotImplementedError


def split_output(out: Any) -> dict[str, Any]:
    raise NotImplementedError
