"""What the fields of a service specification may hold: names, amounts, paths, and how they fail."""

from __future__ import annotations

import difflib
import json
import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from flowdist.emulator.compute.amounts import MEMORY

__all__ = [
    "Absolute",
    "Count",
    "Cpu",
    "Flag",
    "Memory",
    "Model",
    "Name",
    "Port",
    "RoleName",
    "Size",
    "Word",
    "Words",
    "explained",
    "pattern",
    "refuse",
]


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


def _amount(value: object) -> object:
    """A number without a unit as text, so that it is refused as that."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _words(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise refuse("has to be a list of strings")
    return value


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
Size = Annotated[str, BeforeValidator(_amount)]
Memory = Annotated[
    Size,
    pattern(MEMORY.pattern[:-2], "is not an amount of memory; it needs a unit: M, Mi, G or Gi"),
]
Cpu = Annotated[str, BeforeValidator(_cpu)]
Word = Annotated[str, BeforeValidator(_word)]
Words = Annotated[tuple[Word, ...], BeforeValidator(_words)]
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


_SAID = {
    "string_type": "has to be a string",
    "bool_type": "has to be true or false",
    "int_type": "has to be a whole number",
    "float_type": "has to be a number",
    "float_parsing": "has to be a number",
    "tuple_type": "has to be a list",
    "dict_type": "has to be a mapping",
    "literal_error": "has to be {expected}",
    "greater_than_equal": "has to be at least {ge}",
    "less_than_equal": "has to be at most {le}",
    "too_short": "needs at least {min_length}",
    "too_long": "has {actual_length} entries; {max_length} at the most are allowed",
}
"""What is said of the errors that pydantic finds by itself, by their type."""


def explained(failed: ValidationError) -> str:
    """The first error in words, with the path to its place."""
    error = failed.errors()[0]
    path = ""
    for part in error["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    if error["type"] == "unknown_key":
        key, near = error["ctx"]["key"], error["ctx"]["near"]
        before = f"{path}." if path else ""
        hint = f"; did you mean {before}{near}?" if near else ""
        return f"unknown key {before}{key}{hint}"
    if error["type"] == "missing":
        return f"missing key {path}"
    said = error["msg"]
    if error["type"] in _SAID:
        said = _SAID[error["type"]].format_map(error.get("ctx", {}))
    colon = "" if said.startswith(("has ", "needs ")) else ":"
    return f"{path or 'the specification'}{colon} {said}"
