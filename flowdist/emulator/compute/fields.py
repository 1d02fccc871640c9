"""What the fields of a service specification may hold: names, amounts, paths, and how they fail."""

from __future__ import annotations

import difflib
import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from flowdist.emulator.errors import SqlError

__all__ = [
    "MEMORY",
    "Absolute",
    "Count",
    "Cpu",
    "Flag",
    "Memory",
    "Model",
    "Name",
    "Port",
    "RoleName",
    "Word",
    "cores",
    "invalid_spec",
    "memory_bytes",
    "pattern",
    "refuse",
]

INVALID_SPEC = 395018
"""The number of the error for a specification that does not make sense."""
_UNITS = {"M": 1000**2, "Mi": 1024**2, "G": 1000**3, "Gi": 1024**3}
MEMORY = re.compile(r"(\d+(?:\.\d+)?)(Mi|M|Gi|G)\Z")


def invalid_spec(what: str) -> SqlError:
    """The error for a specification, to be raised."""
    return SqlError(INVALID_SPEC, "22023", f"Invalid spec: {what.rstrip('.')}")


def memory_bytes(text: str) -> int:
    """Bytes of an amount of memory.

    >>> memory_bytes("2G"), memory_bytes("0.5Gi")
    (2000000000, 536870912)
    """
    match = MEMORY.match(text)
    if match is None:
        raise ValueError(text)
    return int(float(match[1]) * _UNITS[match[2]])


def cores(text: str) -> float:
    """vCPUs of an amount of them.

    >>> cores("500m"), cores("1.5")
    (0.5, 1.5)
    """
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


def refuse(what: str) -> PydanticCustomError:
    """The error for a value that a specification may not have, to be raised in a validator."""
    return PydanticCustomError("spec", "{what}", {"what": what})  # a brace in it is harmless so


def pattern(regex: str, hint: str) -> AfterValidator:
    """A validator of text that has to match as a whole; `hint` follows the value in the error."""
    compiled = re.compile(regex)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise refuse(f"'{value}' {hint}")
        return value

    return AfterValidator(check)


def _cpu(value: object) -> str:
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"\d+(\.\d*)?|\.\d+|\d+m", text):
        raise refuse(f"'{text}' is not a number of vCPUs, as 1, 0.5 or 500m")
    return text


def _word(value: object) -> str:
    """A scalar as the text that a process gets for it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise refuse(f"'{json.dumps(value, default=str)}' is not a string")


Name = Annotated[
    str,
    pattern(
        r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
        "is not a name of up to 63 lower-case letters, digits and '-', a letter first",
    ),
]
RoleName = Annotated[
    str, pattern(r"[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?", "is not the name of a service role")
]
Memory = Annotated[
    str, pattern(MEMORY.pattern[:-2], "is not an amount of memory; it needs a unit: M, Mi, G, Gi")
]
Cpu = Annotated[str, BeforeValidator(_cpu)]
Word = Annotated[str, BeforeValidator(_word)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Absolute = Annotated[str, pattern(r"/.*", "is not an absolute path")]
Flag = Annotated[bool, Field(strict=True)]


class Model(BaseModel):
    """A part of a specification: immutable, its keys in camel case, others refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise refuse("has to be a mapping")
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                context = {"key": str(key), "near": near[0] if near else ""}
                raise PydanticCustomError("unknown_key", "unknown key {key}", context)
        return data
