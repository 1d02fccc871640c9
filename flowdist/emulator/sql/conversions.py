"""Casts and the implicit conversions around operators.

Values in DuckDB have the types of `datatypes.storage`. What DuckDB would convert differently from
Snowflake, or not at all, is converted here; where a type is not known DuckDB decides.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace

from sqlglot import exp

from flowdist.emulator.errors import compilation_error
from flowdist.emulator.sql import datatypes, formats
from flowdist.emulator.sql.dialect import template, type_of, typed
from flowdist.emulator.types import FIXED, LTZ, REAL, TEXT, VARIANT, DataType

__all__ = [
    "OUTPUT_FORMATS",
    "arithmetic",
    "cast",
    "comparable",
    "element",
    "formatted",
    "instant",
    "kind",
    "local",
    "number",
    "store",
    "text",
    "unified",
    "variant",
    "windowed",
    "zoned",
]

_AS_TEXT = {
    "TEXT": "{0}",
    "TIMESTAMP_NTZ": "strftime({0}, '%Y-%m-%d %H:%M:%S.%g')",
    "TIMESTAMP_LTZ": "sf_ltz_text({0})",
    "TIMESTAMP_TZ": "sf_tz_text({0})",
    "TIME": "strftime(DATE '1970-01-01' + {0}, '%H:%M:%S')",
    "REAL": "sf_real_text({0})",
    "BINARY": "hex({0})",
    "VARIANT": "({0} ->> '$')",
    "OBJECT": "CAST({0} AS VARCHAR)",
    "ARRAY": "CAST({0} AS VARCHAR)",
}
_NUMBERS = ("FIXED", "REAL")
_EXACT = replace(FIXED, scale=9)
"""What text and variants become that are compared with numbers."""
_TIMESTAMPS = ("TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ")
_MOMENTS = ("DATE", *_TIMESTAMPS)


def kind(node: exp.Expr) -> str:
    """The name of an expression's type, empty where it is not known."""
    found = type_of(node)
    return found.name if found else ""


OUTPUT_FORMATS: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("formats", default=())
"""What the statement that is translated has in place of the default formats, by type; its binder
sets it.
"""


def text(node: exp.Expr) -> exp.Expr:
    """As VARCHAR, in the session's formats."""
    found = kind(node)
    if found == "TEXT" or isinstance(node, exp.Null):
        return node
    for name, model in OUTPUT_FORMATS.get():
        if name == found:
            return formatted(node, model)
    return template(_AS_TEXT.get(found, "CAST({0} AS VARCHAR)"), node, type=TEXT)


def formatted(node: exp.Expr, model: str) -> exp.Expr:
    """A date, time or timestamp as VARCHAR in one of Snowflake's format models."""
    found = kind(node)
    clock = local(node)
    if found == "TIMESTAMP_LTZ":
        clock = template("CAST({0} AS TIMESTAMP)", node)
    elif found == "TIME":
        clock = template("(DATE '1970-01-01' + {0})", node)
    offsets = {"TIMESTAMP_TZ": "{1}.o", "TIMESTAMP_LTZ": "sf_offset({1})"}
    text_ = formats.printed(model).replace("{o}", offsets.get(found, "0"))
    return template(text_, clock, node, type=TEXT)


def variant(node: exp.Expr) -> exp.Expr:
    """As JSON."""
    found = kind(node)
    if found in datatypes.JSON_TYPES or isinstance(node, exp.Null):
        return node
    if found in ("DATE", *_TIMESTAMPS, "TIME", "BINARY"):
        return template("to_json({0})", text(node), type=VARIANT)
    return template("to_json({0})", node, type=VARIANT)


def instant(node: exp.Expr) -> exp.Expr:
    """A TIMESTAMP_TZ as the TIMESTAMP_LTZ it is."""
    return template("{0}.t", node, type=LTZ) if kind(node) == "TIMESTAMP_TZ" else node


def local(node: exp.Expr) -> exp.Expr:
    """A TIMESTAMP_TZ as the TIMESTAMP_NTZ that a clock in its zone shows."""
    if kind(node) != "TIMESTAMP_TZ":
        return node
    return template("sf_tz_local({0})", node, type=datatypes.NTZ)


def zoned(made: exp.Expr, start: exp.Expr) -> exp.Expr:
    """What was made of a TIMESTAMP_TZ's :func:`local` time, in the same zone again."""
    if kind(start) != "TIMESTAMP_TZ":
        return made
    return template("sf_tz_of({0}, {1}.o)", made, start, type=datatypes.TZ)


def cast(node: exp.Expr, target: DataType, safe: bool = False) -> exp.Expr:
    """``node::target``; NULL where that fails if `safe`."""
    found = kind(node)
    made = _cast(node, found, target, "TRY_CAST" if safe else "CAST")
    if target.name == "TEXT" and target.length != TEXT.length:
        made = template(f"sf_cut({{0}}, {target.length}, {str(safe).lower()})", made)
    made = typed(made, target)
    if "nullable" in node.meta and not safe:
        made.meta["nullable"] = node.meta["nullable"]
    return made


def _cast(node: exp.Expr, found: str, target: DataType, word: str) -> exp.Expr:
    name, storage = target.name, datatypes.storage(target)
    if isinstance(node, exp.Null):
        return template(f"CAST(NULL AS {storage})")
    if name == "TEXT":
        return template("{0}", text(node))
    if name in datatypes.JSON_TYPES:
        return _to_json(node, found, target)
    if found in datatypes.JSON_TYPES:
        node, found = template("({0} ->> '$')", node, type=TEXT), "TEXT"
    if name == "TIMESTAMP_TZ":
        return _to_tz(node, found)
    node = instant(node) if name == "TIMESTAMP_LTZ" else local(node)
    if name == "BINARY" and found in ("TEXT", ""):
        return template("unhex({0})", node)
    if name == "FIXED" and found in ("", "TEXT"):
        return template(f"{word}(trim(CAST({{0}} AS VARCHAR)) AS {storage})", node)
    if name == "FIXED" and found == "BOOLEAN":
        return template(f"CAST(CAST({{0}} AS INTEGER) AS {storage})", node)
    if name == "BOOLEAN" and found == "TEXT":
        return template(f"sf_boolean({{0}}, {str(word == 'TRY_CAST').lower()})", node)
    if name in (*_MOMENTS, "TIME") and not found:  # a function of the emulator's gives text
        node, found = template("CAST({0} AS VARCHAR)", node, type=TEXT), "TEXT"
    if name in (*_MOMENTS, "TIME") and found == "TEXT":
        return template(_PARSED[name].format(w=word), node)
    if name in _MOMENTS and found == "FIXED":
        made = "make_timestamp(CAST({0} AS BIGINT) * 1000000)"
        # Seconds since 1970 in UTC, whatever the zone of the session is.
        made = f"timezone('UTC', {made})" if name == "TIMESTAMP_LTZ" else made
        return template(f"CAST({made} AS {storage})", node)
    if name == "TIME" and found == "TIMESTAMP_LTZ":
        return template("CAST(CAST({0} AS TIMESTAMP) AS TIME)", node)
    return template(f"{word}({{0}} AS {storage})", node)


_PARSED = {
    # A time without a zone is what is written, whatever zone is written behind it.
    "TIMESTAMP_NTZ": "{w}(sf_without_zone({{0}}) AS TIMESTAMP)",
    "TIMESTAMP_LTZ": "{w}(sf_with_zone({{0}}) AS TIMESTAMPTZ)",
    "DATE": "{w}(sf_date_text({{0}}) AS DATE)",
    "TIME": "{w}({{0}} AS TIME)",
}


def _to_json(node: exp.Expr, found: str, target: DataType) -> exp.Expr:
    if found in datatypes.JSON_TYPES:
        if target.name == "ARRAY" and found == "VARIANT":
            return template("sf_as_array({0})", node)
        return template("{0}", node)
    if target.name != "VARIANT" and found:
        raise compilation_error(f"invalid type [CAST(... AS {target.name})] for parameter")
    return template("{0}", variant(node))


def _to_tz(node: exp.Expr, found: str) -> exp.Expr:
    if found == "TIMESTAMP_TZ":
        return template("{0}", node)
    if found == "TEXT":
        return template("sf_tz({0})", node)
    if found == "FIXED":
        node = cast(node, LTZ)
    return template("sf_tz(CAST(CAST({0} AS TIMESTAMPTZ) AS VARCHAR))", node)


def store(node: exp.Expr, target: DataType) -> exp.Expr:
    """A value as it is put into a column: converted, and refused where it is too long."""
    found = kind(node)
    if isinstance(node, exp.Null):
        return node
    if target.name == "TEXT":
        made = text(node)
        if target.length == TEXT.length:
            return made
        known = type_of(node)
        if found == "TEXT" and known is not None and (known.length or 0) <= (target.length or 0):
            return made
        return template(f"sf_fit({{0}}, {target.length})", made)
    if target.name in datatypes.JSON_TYPES:
        return variant(node)
    same = found == target.name and (found != "FIXED" or type_of(node) == target)
    return node if same else cast(node, target)


def number(node: exp.Expr) -> exp.Expr:
    """As a number, where it is known not to be one."""
    found = kind(node)
    if found == "TEXT":
        return template("CAST({0} AS DECIMAL(18, 5))", node, type=replace(FIXED, scale=5))
    if found == "VARIANT":
        return template("CAST(({0} ->> '$') AS DOUBLE)", node, type=REAL)
    return node


def comparable(left: exp.Expr, right: exp.Expr) -> tuple[exp.Expr, exp.Expr]:
    """Both sides of a comparison, the one converted that Snowflake converts."""
    a, b = kind(left), kind(right)
    if a == b or not a or not b:
        return left, right
    if a in datatypes.JSON_TYPES or b in datatypes.JSON_TYPES:
        return _like_other(left, right), _like_other(right, left)
    for text_side, other in ((a, b), (b, a)):
        if text_side == "TEXT" and other in (*_NUMBERS, *_MOMENTS, "TIME", "BOOLEAN"):
            known = type_of(left if other == a else right)
            target = _EXACT if other == "FIXED" else known
            if target is None:
                break
            if text_side == a and a != other:
                return cast(left, target), right
            return left, cast(right, target)
    return left, right


def _like_other(node: exp.Expr, other: exp.Expr) -> exp.Expr:
    """A variant as the type of what it is compared with."""
    if kind(node) not in datatypes.JSON_TYPES:
        return node
    wanted = type_of(other)
    if wanted is None or wanted.name in datatypes.JSON_TYPES:
        return node
    if wanted.name == "FIXED":
        return cast(node, _EXACT)
    return cast(node, TEXT if wanted.name == "TEXT" else wanted)


def arithmetic(node: exp.Expr, left: exp.Expr, right: exp.Expr) -> exp.Expr:
    """``+ - * / %``; the scale of a quotient is Snowflake's."""
    if isinstance(node, exp.Add | exp.Sub):
        moved = _moved(node, left, right)
        if moved is not None:
            return moved
    left, right = number(instant(left)), number(instant(right))
    a, b = type_of(left), type_of(right)
    exact = a is not None and b is not None and a.name == b.name == "FIXED"
    if isinstance(node, exp.Div):
        return _quotient(left, right, a if exact else None, b if exact else None)
    if isinstance(node, exp.Mod):
        return template("sf_mod({0}, {1})", left, right, type=a if exact else None)
    node.set("this", left)
    node.set("expression", right)
    if exact and a is not None and b is not None:
        if isinstance(left.meta.get("literal"), int):  # DuckDB's type of it may be too small
            node.set("this", template(f"CAST({{0}} AS DECIMAL({FIXED.precision}, 0))", left))
        scales = a.scale or 0, b.scale or 0
        scale = sum(scales) if isinstance(node, exp.Mul) else max(scales)
        return typed(node, replace(FIXED, scale=min(scale, 37)))
    real = a is not None and b is not None and "REAL" in (a.name, b.name)
    return typed(node, REAL if real else None)


def _quotient(left: exp.Expr, right: exp.Expr, a: DataType | None, b: DataType | None) -> exp.Expr:
    if a is None or b is None:
        return template("sf_quotient(CAST({0} AS DOUBLE), CAST({1} AS DOUBLE))", left, right)
    own = a.scale or 0
    scale = max(own, min(own + 6, 12))
    return template(
        f"CAST(round(sf_quotient({{0}}, {{1}}), {scale}) AS DECIMAL(38, {scale}))",
        left,
        right,
        type=replace(FIXED, scale=scale),
    )


def _moved(node: exp.Expr, left: exp.Expr, right: exp.Expr) -> exp.Expr | None:
    """A moment and an interval, a date and a number of days, or two dates."""
    a, b = kind(left), kind(right)
    sign = "+" if isinstance(node, exp.Add) else "-"
    moment = type_of(left)
    if _is_interval(right):
        if a == "TEXT":
            left, moment = cast(left, datatypes.NTZ), datatypes.NTZ
        made = template(f"({{0}} {sign} {{1}})", local(left), right, type=_after(moment, right))
        return zoned(made, left)
    if _is_interval(left) and sign == "+":
        return zoned(
            template("({1} + {0})", left, local(right), type=_after(type_of(right), left)), right
        )
    if a == "DATE" and b == "FIXED":
        text_ = f"({{0}} {sign} CAST({{1}} AS INTEGER))"
        return template(text_, left, right, type=datatypes.DATE)
    if a == b == "DATE" and sign == "-":
        return template("CAST(({0} - {1}) AS DECIMAL(38, 0))", left, right, type=FIXED)
    return None


def _is_interval(node: exp.Expr) -> bool:
    return str(node.args.get("text", "")).startswith("INTERVAL ")


def _after(moment: DataType | None, interval: exp.Expr) -> DataType | None:
    return datatypes.NTZ if moment is not None and moment.name == "DATE" else moment


def element(node: exp.Expr, index: exp.Expr) -> exp.Expr:
    """``v['a']`` or ``v[0]``."""
    if kind(index) == "TEXT":
        return template(
            "json_extract({0}, '$.\"' || replace({1}, '\"', '\\\"') || '\"')",
            node,
            index,
            type=VARIANT,
        )
    return template(
        "json_extract({0}, '$[' || CAST(CAST({1} AS BIGINT) AS VARCHAR) || ']')",
        node,
        index,
        type=VARIANT,
    )


def unified(
    values: list[exp.Expr],
) -> tuple[list[exp.Expr], DataType | None]:
    """The branches of CASE, COALESCE and the like in one type."""
    types = [type_of(v) for v in values if not isinstance(v, exp.Null)]
    names = {t.name if t else "" for t in types}
    if not types or "" in names:
        return [instant(v) for v in values], None
    if len(names) == 1:
        return values, _widest([t for t in types if t is not None])
    if names & set(datatypes.JSON_TYPES):
        return [variant(v) for v in values], VARIANT
    if "TEXT" in names and names & {*_MOMENTS, "TIME"} and len(names) == 2:
        target = next(t for t in types if t is not None and t.name != "TEXT")
        return [cast(v, target) if kind(v) == "TEXT" else v for v in values], target
    if names == {"FIXED", "REAL"}:
        return values, REAL
    if names == {"FIXED", "TEXT"}:
        return [number(v) for v in values], None
    if names <= set(_MOMENTS):
        target = LTZ if names & {"TIMESTAMP_LTZ", "TIMESTAMP_TZ"} else datatypes.NTZ
        return [cast(instant(v), target) for v in values], target
    return [instant(v) for v in values], None


def _widest(types: list[DataType]) -> DataType:
    first = types[0]
    if first.name == "TEXT":
        return replace(first, length=max(t.length or 0 for t in types))
    if first.name == "FIXED":
        scale = max(t.scale or 0 for t in types)
        digits = max((t.precision or 38) - (t.scale or 0) for t in types)
        return replace(first, precision=min(38, digits + scale), scale=scale)
    return first


def windowed(window: exp.Expr, function: exp.Expr) -> exp.Expr:
    """A window around a call; what is around the aggregate itself goes around the window."""
    outer = function.meta.get("around")
    found = type_of(function)
    if outer is None:
        return typed(window, found)
    return template(str(outer), window, type=found)
