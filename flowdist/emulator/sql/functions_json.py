"""VARIANT, OBJECT and ARRAY, which are JSON in DuckDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from flowdist.emulator.errors import unsupported
from flowdist.emulator.sql import conversions as to
from flowdist.emulator.sql import datatypes
from flowdist.emulator.sql.dialect import template
from flowdist.emulator.sql.functions import FUNCTIONS, Function, function, wrong_arguments
from flowdist.emulator.types import BOOLEAN, FIXED, TEXT, VARIANT, DataType

if TYPE_CHECKING:
    from flowdist.emulator.sql.expressions import Expressions

__all__ = ["path"]

Nodes = list[exp.Expr]


def _simple(names: str, arguments: str, text: str, type_: DataType | None) -> None:
    count = len({part.split("}")[0] for part in text.split("{")[1:]})
    for name in names.split():
        FUNCTIONS[name] = Function(arguments, {count: text}, type_)


_simple("PARSE_JSON", "t", "sf_parse_json({0})", VARIANT)
_simple("TRY_PARSE_JSON", "t", "TRY_CAST({0} AS JSON)", VARIANT)
_simple("TO_JSON", "v", "CAST({0} AS VARCHAR)", TEXT)
_simple("ARRAY_SIZE", "v", "sf_array_size({0})", FIXED)
_simple("TYPEOF", "v", "sf_typeof({0})", TEXT)
_simple("IS_NULL_VALUE", "v", "(json_type({0}) = 'NULL')", BOOLEAN)
_simple(
    "STRIP_NULL_VALUE", "v", "CASE WHEN json_type({0}) = 'NULL' THEN NULL ELSE {0} END", VARIANT
)
_simple("IS_ARRAY", "v", "(json_type({0}) = 'ARRAY')", BOOLEAN)
_simple("IS_OBJECT", "v", "(json_type({0}) = 'OBJECT')", BOOLEAN)
_simple("IS_BOOLEAN", "v", "(json_type({0}) = 'BOOLEAN')", BOOLEAN)
_simple("IS_VARCHAR IS_CHAR", "v", "(json_type({0}) = 'VARCHAR')", BOOLEAN)
_simple("IS_INTEGER", "v", "(json_type({0}) IN ('UBIGINT', 'BIGINT'))", BOOLEAN)
_simple("OBJECT_KEYS", "v", "to_json(list_sort(json_keys({0})))", datatypes.ARRAY)
_simple("ARRAY_CONTAINS", "vv", "json_contains({1}, {0})", BOOLEAN)
_simple("ARRAY_TO_STRING", "vt", "array_to_string(({0} ->> '$[*]'), {1})", TEXT)
_simple(
    "ARRAY_APPEND",
    "vv",
    "to_json(list_append(json_extract({0}, '$[*]'), CAST({1} AS JSON)))",
    datatypes.ARRAY,
)
_simple(
    "ARRAY_CAT",
    "v",
    "to_json(list_concat(json_extract({0}, '$[*]'), json_extract({1}, '$[*]')))",
    datatypes.ARRAY,
)
_simple("AS_ARRAY", "v", "CASE WHEN json_type({0}) = 'ARRAY' THEN {0} END", datatypes.ARRAY)
_simple("AS_OBJECT", "v", "CASE WHEN json_type({0}) = 'OBJECT' THEN {0} END", datatypes.OBJECT)
_simple(
    "AS_VARCHAR AS_CHAR", "v", "CASE WHEN json_type({0}) = 'VARCHAR' THEN {0} ->> '$' END", TEXT
)
_simple("TO_ARRAY", "v", "sf_as_array({0})", datatypes.ARRAY)
_simple("TO_OBJECT", "v", "{0}", datatypes.OBJECT)


@function("TO_VARIANT")
def _to_variant(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) != 1:
        raise wrong_arguments(node, len(given))
    return to.cast(given[0], VARIANT)


@function("OBJECT_CONSTRUCT", "OBJECT_CONSTRUCT_KEEP_NULL")
def _object_construct(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) % 2 or any(isinstance(e, exp.Star) for e in given):
        raise unsupported(node.sql("snowflake"))
    keys = [to.text(e) for e in given[::2]]
    values = [to.variant(e) for e in given[1::2]]
    pairs = [e for pair in zip(keys, values, strict=True) for e in pair]
    if node.name.upper() != "OBJECT_CONSTRUCT" or not pairs:
        holes = ", ".join(f"{{{i}}}" for i in range(len(pairs)))
        return template(f"json_object({holes})", *pairs, type=datatypes.OBJECT)
    # A pair whose value is NULL is left out; one whose value is JSON's null is not.
    members = ", ".join(
        f"CASE WHEN {{{i + 1}}} IS NOT NULL THEN to_json({{{i}}}) || ':' || "
        f"CAST({{{i + 1}}} AS VARCHAR) END"
        for i in range(0, len(pairs), 2)
    )
    text = f"CAST('{{{{' || concat_ws(',', {members}) || '}}}}' AS JSON)"
    return template(text, *pairs, type=datatypes.OBJECT)


@function("ARRAY_CONSTRUCT")
def _array_construct(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    made = [to.variant(e) for e in given]
    holes = ", ".join(f"{{{i}}}" for i in range(len(made)))
    return template(f"json_array({holes})", *made, type=datatypes.ARRAY)


@function("GET")
def _get(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) != 2:
        raise wrong_arguments(node, len(given))
    return to.element(to.variant(given[0]), given[1])


@function("GET_PATH")
def _get_path(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    return template(f"json_extract({{0}}, {path(given, node)})", to.variant(given[0]), type=VARIANT)


@function("JSON_EXTRACT_PATH_TEXT")
def _path_text(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    subject = given[0] if to.kind(given[0]) in datatypes.JSON_TYPES else to.text(given[0])
    return template(f"json_extract_string({{0}}, {path(given, node)})", subject, type=TEXT)


def path(given: Nodes, node: exp.Expr) -> str:
    """The JSON path of GET_PATH's second argument, a constant such as ``a.b[0]``, in quotes."""
    found = given[1].meta.get("literal") if len(given) == 2 else None
    if not isinstance(found, str):
        raise unsupported(node.sql("snowflake"))
    text = found if found.startswith("[") else f".{found}"
    return "'$" + text.replace("'", "''").replace("{", "{{").replace("}", "}}") + "'"
