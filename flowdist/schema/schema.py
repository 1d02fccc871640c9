"""`Schema`: the output fields that a stage declares.

A schema comes from `returns=` or from a function's return annotation. It knows the Arrow type of
each output field, goes with the run as JSON, and is what the workers hold outputs to. Reading one
declaration is left to `declare`, making columns and checking them to `encode`.
"""

from __future__ import annotations

import base64
import functools
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flowdist.artifacts import ArtifactType
from flowdist.errors import SchemaError
from flowdist.schema.declare import TableType, field_of, members_of, unaliased
from flowdist.schema.fields import KIND_KEY, Field


@dataclass(frozen=True)
class Schema:
    """The declared output fields of a stage, in the order they were declared.

    >>> from flowdist import artifact
    >>> schema = Schema.of({"slope": float, "model": artifact}, "stage 'fit'")
    >>> schema.names
    ('slope', 'model')
    >>> print(schema)
    slope: float, model: artifact
    """

    fields: tuple[Field, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(field.name for field in self.fields)

    def __str__(self) -> str:
        return ", ".join(f"{field.name}: {field.spelt}" for field in self.fields)

    def arrow(self, prefix: str = "") -> list[pa.Field]:
        """The columns of the fields, each named `prefix` and its name. The metadata of a column of
        artifacts or nested tables says so under the key `flowdist.kind`.

        >>> Schema.of(float, "stage 'fit'").arrow("fit.")
        [pyarrow.Field<fit.value: double not null>]
        """
        return [
            pa.field(
                prefix + field.name,
                field.type,
                field.nullable,
                None if field.kind == "value" else {KIND_KEY: field.kind.encode()},
            )
            for field in self.fields
        ]

    @classmethod
    def of(cls, declaration: Any, where: str) -> Schema:
        """The schema that a declaration stands for.

        A dict, dataclass, NamedTuple, TypedDict, pydantic model or `pa.Schema` declares the fields
        by name; a `table(...)` is the one field "table"; any other type is the one field "value".
        `where` says in errors which stage it is. Raises `SchemaError` naming the field.

        >>> print(Schema.of({"n": int, "path": list[float], "note": str | None}, "stage 'fit'"))
        n: int, path: list[float], note: str or None
        """
        if isinstance(declaration, Schema):
            return declaration
        if isinstance(declaration, pa.Schema):
            members: Mapping[Any, Any] | None = {field.name: field for field in declaration}
            if len(set(declaration.names)) < len(declaration.names):
                raise SchemaError(f"{where}: the Arrow schema has two fields of one name")
        elif isinstance(declaration, Mapping):
            members = declaration
        else:
            members = members_of(declaration, where)
        if members is None:
            name = "table" if isinstance(declaration, TableType) else "value"
            return cls((field_of(name, declaration, where),))
        if not members:
            raise SchemaError(f"{where}: no field is declared; name at least one, or leave it out")
        for name in members:
            if not isinstance(name, str) or not name.isidentifier():
                raise SchemaError(
                    f"{where}: {name!r} is no name for a field; use letters, digits and underscores"
                )
        return cls(tuple(field_of(name, declared, where) for name, declared in members.items()))

    @classmethod
    def of_annotation(cls, fn: Callable[..., Any]) -> Schema | None:
        """The schema that a function's return annotation declares; None where it says too little.

        That is so for no annotation, Any, dict, frames, types that no column can have, and names
        that cannot be resolved: an annotation is a hint, so nothing in it is an error.

        >>> def fit(signal) -> float: ...
        >>> print(Schema.of_annotation(fit))
        value: float
        """
        annotation = _return_annotation(fn)
        if annotation is None:
            return None
        try:
            return cls.of(annotation, "the annotation") if _is_definite(annotation) else None
        except SchemaError:
            return None

    def to_json(self) -> dict[str, Any]:
        """The schema as a plain dict that JSON can hold; `from_json` reads it."""
        bare = pa.schema([pa.field(f.name, f.type, f.nullable) for f in self.fields])
        return {
            "fields": [
                {
                    "name": f.name,
                    "type": f.spelt,  # for people; the types proper are in "arrow"
                    "kind": f.kind,
                    "codec": f.codec,
                    "choices": list(f.choices),
                }
                for f in self.fields
            ],
            "arrow": base64.b64encode(bare.serialize().to_pybytes()).decode("ascii"),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schema:
        """The schema that `to_json` wrote.

        >>> schema = Schema.of({"x": float}, "stage 'fit'")
        >>> Schema.from_json(schema.to_json()) == schema
        True
        """
        bare = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(data["arrow"])))
        return cls(
            tuple(
                Field(f.name, f.type, f.nullable, d["codec"], d["kind"], tuple(d["choices"]))
                for f, d in zip(bare, data["fields"], strict=True)
            )
        )


def _return_annotation(fn: Any) -> Any:
    """What a call of `fn` is annotated to return, resolved; None where nothing can be said."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, type):
        return fn
    if not hasattr(fn, "__annotations__"):
        fn = getattr(type(fn), "__call__", None)  # noqa: B004 - its annotations are wanted
    try:
        found = fn.__annotations__["return"]
        # Parameters are left out: one that cannot be resolved says nothing about the result.
        only = types.SimpleNamespace(__annotations__={"return": found})
        return typing.get_type_hints(only, getattr(fn, "__globals__", None))["return"]
    except Exception:
        return None


def _is_definite(annotation: Any) -> bool:
    """Whether all that a function so annotated returns has the fields that the annotation declares.

    Of "Line | None" a Line gives its own fields and None the field "value"; and a class that is no
    column's type may be the base of a record or a frame.
    """
    annotation = unaliased(annotation)
    if members_of(annotation, "") is not None:
        return True
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    parts = typing.get_args(annotation) if union else (annotation,)
    return all(_is_one_value(part) for part in parts if part is not types.NoneType)


def _is_one_value(part: Any) -> bool:
    if members_of(part, "") is not None:
        return False
    part = unaliased(part)
    is_array = (typing.get_origin(part) or part) is np.ndarray
    return is_array or isinstance(part, ArtifactType) or field_of("", part, "").kind != "artifact"
