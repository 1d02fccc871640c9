"""Declarations of outputs: from what users write as a type to a `Field`.

A declaration may be a Python or NumPy type, a construct of `typing`, an Arrow type or its name, the
markers `artifact`, `optional` and `table`, or a nested dict, dataclass, NamedTuple, TypedDict or
pydantic model. What the fields of a whole stage are is for `schema` to say.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from flowdist.artifacts import ARTIFACT_TYPE, ArtifactType, codec_named
from flowdist.errors import ArtifactError, SchemaError, nearest
from flowdist.schema.encode import unsupported
from flowdist.schema.fields import Field
from flowdist.schema.widen import unify


@dataclass(frozen=True)
class OptionalType:
    """A field that may be None; made by `optional`."""

    inner: Any

    def __repr__(self) -> str:
        return f"optional({_spelt(self.inner)})"


@dataclass(frozen=True)
class TableType:
    """A field that is a table of its own; made by `table`."""

    columns: Mapping[str, Any]

    def __or__(self, other: None) -> OptionalType:
        return optional(self)

    def __repr__(self) -> str:
        return f"table({', '.join(f'{n}={_spelt(t)}' for n, t in self.columns.items())})"


def optional(declared: Any) -> OptionalType:
    """Lets an output field be None: `returns={"slope": optional(float)}`, as does `float | None`.

    >>> optional("float32")
    optional('float32')
    """
    return OptionalType(declared)


def table(**columns: Any) -> TableType:
    """Declares an output field that holds a small table for each row: a frame, or a list of dicts.

    The rows of all of them, each with the row of the grid it belongs to, are `run.table(stage)`.

    >>> table(day=int, sales=float)
    table(day=int, sales=float)
    """
    return TableType(columns)


def _spelt(declared: Any) -> str:
    return declared.__name__ if isinstance(declared, type) else repr(declared)


class _Place(NamedTuple):
    """Where a declaration stands, for the errors."""

    where: str
    path: str

    def inside(self, step: str) -> _Place:
        return _Place(self.where, self.path + step)

    def __str__(self) -> str:
        return f"{self.where}, field '{self.path}'"


def unaliased(declared: Any) -> Any:
    """What a ``type X = ...`` alias stands for (Python 3.12; numpy's NDArray is one)."""
    origin = typing.get_origin(declared)
    if type(declared).__name__ == "TypeAliasType":
        return unaliased(declared.__value__)
    if type(origin).__name__ == "TypeAliasType":
        return unaliased(origin.__value__[typing.get_args(declared)])
    return declared


def field_of(name: str, declared: Any, where: str) -> Field:
    """The field that a declaration stands for; `where` says where it was written, for the errors.

    Raises `SchemaError` where it means nothing, or too little for a column.

    >>> field_of("x", list[float], "stage 'fit': returns").spelt
    'list[float]'
    """
    try:
        found = _translate(declared, _Place(where, name))
    except RecursionError:
        raise SchemaError(f"{_Place(where, name)}: {_spelt(declared)} contains itself") from None
    return replace(found, name=name)


def _value(arrow: pa.DataType, nullable: bool = False, choices: tuple[str, ...] = ()) -> Field:
    return Field("", arrow, nullable or pa.types.is_null(arrow), choices=choices)


def _translate(declared: Any, place: _Place) -> Field:
    declared = unaliased(declared)
    if isinstance(declared, str):
        return _value(_named(declared, place))
    if isinstance(declared, (pa.DataType, pa.Field)):
        return _arrow(declared, place)
    if isinstance(declared, np.dtype):
        return _scalar_class(declared.type, place)
    if isinstance(declared, OptionalType):
        return replace(_translate(declared.inner, place), nullable=True)
    if isinstance(declared, ArtifactType):
        return _artifact(declared, place)
    if isinstance(declared, TableType):
        if not declared.columns:
            raise SchemaError(f"{place}: table() names no column; write table(x=float)")
        return Field("", pa.list_(_item(_struct(declared.columns, place))), kind="table")
    if isinstance(declared, Mapping):
        return _value(_struct(declared, place))
    if typing.get_origin(declared) is not None or not isinstance(declared, type):
        return _construct(declared, place)
    members = members_of(declared, place)
    return (
        _value(_struct(members, place)) if members is not None else _scalar_class(declared, place)
    )


# Arrow's "float" has 32 bits, and "int" and "str" it does not know.
_PYTHON_NAMES = {"float": pa.float64(), "int": pa.int64(), "str": pa.string(), "bytes": pa.binary()}
_ARROW_NAMES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
_ARROW_NAMES += ["float16", "float32", "float64", "string", "binary", "date32", "timestamp[us]"]


def _named(alias: str, place: _Place) -> pa.DataType:
    if alias in _PYTHON_NAMES:
        return _PYTHON_NAMES[alias]
    try:
        return pa.type_for_alias(alias)
    except ValueError:
        known = [*_PYTHON_NAMES, *_ARROW_NAMES]
        raise SchemaError(
            f"{place}: no type is named '{alias}'{nearest(alias, known)} (known are Arrow's names,"
            f" such as {', '.join(_ARROW_NAMES[3:5] + _ARROW_NAMES[11:])})"
        ) from None


def _arrow(declared: pa.DataType | pa.Field, place: _Place) -> Field:
    if isinstance(declared, pa.Field):
        field = declared
    else:
        field = pa.field("", declared, nullable=pa.types.is_null(declared))
    if field.type == ARTIFACT_TYPE:
        return Field("", ARTIFACT_TYPE, field.nullable, kind="artifact")
    alien = unsupported(field.type)
    if alien is not None:
        raise SchemaError(f"{place}: columns of the Arrow type {alien} cannot be made from outputs")
    return _value(field.type, field.nullable)


def _artifact(declared: ArtifactType, place: _Place) -> Field:
    if declared.codec is not None:
        try:
            codec_named(declared.codec)
        except ArtifactError as error:
            raise SchemaError(f"{place}: {error}") from None
    return Field("", ARTIFACT_TYPE, codec=declared.codec, kind="artifact")


def _struct(members: Mapping[Any, Any], place: _Place) -> pa.DataType:
    fields = []
    for name, declared in members.items():
        if not isinstance(name, str):
            raise SchemaError(f"{place}: {name!r} is no name for a field; names are text")
        field = replace(_translate(declared, place.inside(f".{name}")), name=name)
        if field.kind == "artifact":
            raise SchemaError(
                f"{place}: '{name}' is an artifact inside of another field; make it a field of the"
                " stage's output, or declare the whole as artifact"
            )
        fields.append(field.nested())
    return pa.struct(fields)


def _item(arrow: pa.DataType) -> pa.Field:
    return pa.field("item", arrow, nullable=False)


def _construct(declared: Any, place: _Place) -> Field:
    """A construct of the typing module, or something that is no type at all."""
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if hasattr(declared, "__supertype__"):  # NewType
        return _translate(declared.__supertype__, place)
    if origin in (typing.Annotated, typing.Final, typing.Required):
        return _translate(arguments[0], place)
    if origin is typing.NotRequired:
        raise SchemaError(
            f"{place}: a column is in every row, so no field may be left out; declare it as "
            f"{_spelt(arguments[0])} | None and return the None"
        )
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, place)
    if origin is typing.Literal:
        return _literal(arguments, place)
    if origin in (list, tuple, collections.abc.Sequence):
        items = [a for a in arguments if a is not Ellipsis]
        found = [_translate(a, place.inside("[]")) for a in items]
        if not found or any(f != found[0] for f in found) or found[0].kind == "artifact":
            raise SchemaError(
                f"{place}: a list column holds values of one type, not {_spelt(declared)}; write"
                " list[float], say, or declare it as artifact"
            )
        return _value(pa.list_(replace(found[0], name="item").nested()))
    if isinstance(origin, type) and issubclass(origin, (dict, collections.abc.Mapping)):
        raise SchemaError(f"{place}: name the keys of {_spelt(declared)}: {{'a': float, 'b': int}}")
    if isinstance(origin, type):
        return _translate(origin, place)
    raise SchemaError(f"{place}: {declared!r} is no type that a column can have; see {_WAYS}")


_WAYS = "float, int, str, list[float], optional(float), table(x=float), an Arrow type, or artifact"


def _union(arguments: tuple[Any, ...], place: _Place) -> Field:
    found = [_translate(a, place) for a in arguments if a is not types.NoneType]
    nullable = types.NoneType in arguments or any(f.nullable for f in found)
    if len(found) == 1:
        return replace(found[0], nullable=nullable)
    arrow: pa.DataType | None = pa.null()
    for field in found:
        arrow = None if arrow is None or field.kind != "value" else unify(arrow, field.type)
    if arrow is None:
        named = " | ".join(_spelt(a) for a in arguments)
        raise SchemaError(
            f"{place}: no column holds {named}; choose one, or declare it as artifact"
        )
    return _value(arrow, nullable)


def _literal(values: tuple[Any, ...], place: _Place) -> Field:
    known = [v for v in values if v is not None]
    kinds = {type(v) for v in known}
    if kinds == {str}:
        return _value(pa.string(), len(known) < len(values), tuple(known))
    if len(kinds) == 1 and kinds <= {int, bool, bytes}:
        raise SchemaError(
            f"{place}: a Literal may list texts, not {known[0]!r}; declare {kinds.pop().__name__}"
        )
    raise SchemaError(f"{place}: a Literal of {known} has no one type; list texts only")


def members_of(cls: Any, place: object) -> dict[str, Any] | None:
    """The fields of a dataclass, NamedTuple, TypedDict or pydantic model and their types; None for
    any other type. Raises `SchemaError` where the types cannot be told.

    >>> class Line(typing.NamedTuple):
    ...     slope: float
    >>> members_of(Line, "")
    {'slope': <class 'float'>}
    """
    if not isinstance(cls, type):
        return None
    of_model = getattr(cls, "model_fields", None)
    if isinstance(of_model, Mapping):
        return {name: info.annotation for name, info in of_model.items()}
    if dataclasses.is_dataclass(cls):
        names = [f.name for f in dataclasses.fields(cls)]
    elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
        names = list(cls._fields)
    elif typing.is_typeddict(cls):
        names = list(cls.__annotations__)
    else:
        return None
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
        return {name: hints[name] for name in names}
    except RecursionError:
        raise
    except Exception as error:
        raise SchemaError(f"{place}: the types in {cls.__name__} cannot be told: {error}") from None


_CLASSES: list[tuple[type, pa.DataType]] = [
    # In this order: a bool is an int, a datetime is a date, NumPy's float64 is a float.
    (bool, pa.bool_()),
    (np.float64, pa.float64()),
    (np.bool_, pa.bool_()),
    (np.str_, pa.string()),
    (np.bytes_, pa.binary()),
    (np.datetime64, pa.timestamp("ns")),
    (np.timedelta64, pa.duration("ns")),
    (int, pa.int64()),
    (float, pa.float64()),
    (str, pa.string()),
    (bytes, pa.binary()),
    (bytearray, pa.binary()),
    (dt.datetime, pa.timestamp("us")),
    (dt.date, pa.date32()),
    (dt.time, pa.time64("us")),
    (dt.timedelta, pa.duration("us")),
    (Decimal, pa.decimal128(38, 18)),
]

_TOO_WIDE = (object, list, tuple, dict, set, frozenset, types.NoneType, np.generic)


def _scalar_class(cls: type, place: _Place) -> Field:
    if issubclass(cls, Enum):
        return _value(pa.string(), choices=tuple(cls.__members__))
    # pandas' Timestamp and Timedelta are those of Python with nanoseconds.
    if hasattr(cls, "to_datetime64"):
        return _value(pa.timestamp("ns"))
    if hasattr(cls, "to_timedelta64"):
        return _value(pa.duration("ns"))
    for base, arrow in _CLASSES:
        if issubclass(cls, base):
            return _value(arrow)
    if issubclass(cls, np.number):
        try:
            return _value(pa.from_numpy_dtype(np.dtype(cls)))
        except (TypeError, NotImplementedError):
            raise SchemaError(
                f"{place}: Arrow has no {cls.__name__}; choose one such as np.float64, or artifact"
            ) from None
    abstract = inspect.isabstract(cls) or cls.__module__ in ("collections.abc", "numbers", "typing")
    if cls in _TOO_WIDE or abstract:
        raise SchemaError(f"{place}: '{cls.__name__}' says too little for a column; see {_WAYS}")
    # Any other class is that of an object that no column holds: a frame, an array, a model.
    return Field("", ARTIFACT_TYPE, kind="artifact")
