"""One field of a stage's output: its declaration, and how its type reads in messages.

This is the ground that the modules about outputs share: `schema` makes fields out of declarations,
`encode` makes columns out of fields and values, `infer` does both where nothing was declared.
"""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias

import pyarrow as pa

from flowdist.artifacts import ARTIFACT_TYPE

Kind: TypeAlias = Literal["value", "artifact", "table"]

KIND_KEY: Final = b"flowdist.kind"
CHOICES_KEY: Final = b"flowdist.choices"


class Missing(Enum):
    """The type of `MISSING`; an enum, so that the sentinel stays itself in a pickle."""

    MISSING = "missing"

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing.MISSING
"""Stands for the value of a field that an output does not have; None is a value."""


@dataclass(frozen=True)
class Field:
    """One declared output.

    `type` is the Arrow type of the column (`ARTIFACT_TYPE` for artifacts, a list of structs for
    nested tables), `codec` names the codec of an artifact (None: by the type of the object),
    `choices` are the allowed texts of a `Literal` or an `Enum` (empty: any).

    >>> Field("slope", pa.float64()).spelt
    'float'
    """

    name: str
    type: pa.DataType
    nullable: bool = False
    codec: str | None = None
    kind: Kind = "value"
    choices: tuple[str, ...] = ()

    @property
    def spelt(self) -> str:
        """The type as one would declare it."""
        return spell(self.type, self.nullable, self.choices)

    def nested(self) -> pa.Field:
        """The field as part of a nested Arrow type, which keeps the choices in its metadata."""
        metadata = {CHOICES_KEY: json.dumps(self.choices).encode()} if self.choices else None
        return pa.field(self.name, self.type, self.nullable, metadata)


def choices_of(field: pa.Field) -> tuple[str, ...]:
    """The allowed texts of a field of a nested type; empty where any goes."""
    metadata = field.metadata
    return tuple(json.loads(metadata[CHOICES_KEY])) if metadata and CHOICES_KEY in metadata else ()


def kind_of(arrow: pa.DataType) -> Kind:
    """What a column of this type is: an artifact, a nested table, or a value.

    >>> kind_of(ARTIFACT_TYPE), kind_of(pa.list_(pa.struct({"x": pa.int64()}))), kind_of(pa.int8())
    ('artifact', 'table', 'value')
    """
    if arrow == ARTIFACT_TYPE:
        return "artifact"
    if pa.types.is_list(arrow) and pa.types.is_struct(arrow.value_type):
        return "table"
    return "value"


_SPELT = {
    pa.null(): "None",
    pa.bool_(): "bool",
    pa.int64(): "int",
    pa.float64(): "float",
    pa.string(): "str",
    pa.binary(): "bytes",
    pa.date32(): "date",
    pa.time64("us"): "time",
    pa.timestamp("us"): "datetime",
    pa.duration("us"): "timedelta",
    pa.float32(): "float32",
    pa.float16(): "float16",
    ARTIFACT_TYPE: "artifact",
}


def spell(arrow: pa.DataType, nullable: bool = False, choices: tuple[str, ...] = ()) -> str:
    """An Arrow type as one would declare it in Python, for messages.

    >>> spell(pa.list_(pa.field("item", pa.float64(), nullable=False)), nullable=True)
    'list[float] or None'
    """
    if choices:
        spelt = "one of " + ", ".join(map(repr, choices))
    elif arrow in _SPELT:
        spelt = _SPELT[arrow]
    elif pa.types.is_struct(arrow):
        spelt = "{" + ", ".join(f"{f.name}: {_spell_nested(f)}" for f in arrow) + "}"
    elif pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        spelt = f"list[{_spell_nested(arrow.value_field)}]"
    else:
        spelt = str(arrow)
    return f"{spelt} or None" if nullable and arrow != pa.null() else spelt


def _spell_nested(field: pa.Field) -> str:
    return spell(field.type, field.nullable, choices_of(field))


_short = reprlib.Repr()
_short.maxother = _short.maxstring = 60
_short.maxlevel = 2


def describe(value: object) -> str:
    """A value in a message: its type and as much of it as is readable.

    >>> describe(1.0), describe(None), describe(MISSING)
    ('float 1.0', 'None', 'nothing (the output has no such field)')
    """
    if value is None:
        return "None"
    if value is MISSING:
        return "nothing (the output has no such field)"
    try:
        text = _short.repr(value)
    except Exception:
        text = "whose repr fails"
    text = " ".join(text.split())
    kind = type(value).__name__
    names_itself = text.partition("(")[0].rpartition(".")[2] == kind
    return text if names_itself else f"{kind} {text}"
