"""What Snowflake's functions are in DuckDB.

A function is a :class:`Function`: how its arguments are converted, a template of DuckDB SQL for
each number of arguments, and its type. Those that depend on more than that are Python functions in
`functions_moments.py`, `functions_json.py` and `functions_aggregate.py`. One that is nowhere is
unknown, as Snowflake would say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from flowdist.emulator.errors import SqlError, unsupported
from flowdist.emulator.sql import conversions as to
from flowdist.emulator.sql.dialect import duck, template, type_of, typed
from flowdist.emulator.sql.functions_unsupported import is_documented
from flowdist.emulator.sql.parameters import Bind, Call, Constant, Parameter
from flowdist.emulator.sql.scopes import GENERATED, Scope, name_of
from flowdist.emulator.types import BOOLEAN, FIXED, REAL, TEXT, DataType

if TYPE_CHECKING:
    from flowdist.emulator.sql.expressions import Expressions

__all__ = ["FUNCTIONS", "Function", "call", "function", "visit_call"]

Build = Callable[["Expressions", list[exp.Expr], exp.Expr], exp.Expr]
"""Makes the expression from the translator, the translated arguments and the call as it was."""

FIRST = "first"
"""In place of a type: that of the first argument."""


@dataclass(frozen=True)
class Function:
    """``arguments`` has a letter for each: t text, n number, v variant, ``.`` as it is, r raw; the
    last one repeats where there are more. ``texts`` are templates by the number of arguments.
    """

    arguments: str
    texts: dict[int, str]
    type: DataType | str | None

    def __call__(self, visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
        text = self.texts.get(len(given))
        if text is None:
            raise wrong_arguments(node, len(given))
        converted = [
            _CONVERT[self.arguments[min(i, len(self.arguments) - 1)]](argument)
            for i, argument in enumerate(given)
        ]
        found = type_of(given[0]) if self.type == FIRST and given else self.type
        return template(text, *converted, type=found if isinstance(found, DataType) else None)


_CONVERT: dict[str, Callable[[exp.Expr], exp.Expr]] = {
    "t": to.text,
    "n": to.number,
    "v": to.variant,
    "r": lambda node: node,
    ".": to.instant,
}

FUNCTIONS: dict[str, Build] = {}


def function(*names: str) -> Callable[[Build], Build]:
    """Register a function of SQL."""

    def register(build: Build) -> Build:
        for name in names:
            FUNCTIONS[name] = build
        return build

    return register


def _simple(
    names: str, arguments: str, text: str | dict[int, str], type_: DataType | str | None
) -> None:
    holes = {part.split("}")[0] for part in text.split("{")[1:]} if isinstance(text, str) else ()
    texts = text if isinstance(text, dict) else {len(holes): text}
    for name in names.split():
        FUNCTIONS[name] = Function(arguments, texts, type_)


def _same(names: str, arguments: str, counts: str, type_: DataType | str | None) -> None:
    """Functions that DuckDB has by the same name; `counts` are the numbers of arguments."""
    for name in names.split():
        texts = {
            int(n): f"{name.lower()}({', '.join(f'{{{i}}}' for i in range(int(n)))})"
            for n in counts
        }
        FUNCTIONS[name] = Function(arguments, texts, type_)


_same("UPPER LOWER REVERSE MD5 TRANSLATE", "t", "1", TEXT)
_same("LTRIM RTRIM TRIM", "t", "12", TEXT)
_same("LEFT RIGHT REPEAT", "tn", "2", TEXT)
_same("ASCII", "t", "1", FIXED)
_same("SIGN", "n", "1", FIXED)
_same("ABS", "n", "1", FIRST)
_same("SQRT EXP LN SIN COS TAN ASIN ACOS ATAN DEGREES RADIANS CBRT", "n", "1", REAL)
_same("ATAN2", "n", "2", REAL)
_same("PI", ".", "0", REAL)
_simple("TRANSLATE", "ttt", "translate({0}, {1}, {2})", TEXT)
_simple("LENGTH LEN", "t", "length({0})", FIXED)
_simple("MD5_HEX", "t", "md5({0})", TEXT)
_simple("SHA1 SHA1_HEX", "t", "sha1({0})", TEXT)
_simple("SHA2 SHA2_HEX", "tn", {1: "sha256({0})"}, TEXT)
_simple("HEX_ENCODE", "t", "hex({0})", TEXT)
_simple("BASE64_ENCODE", "t", "base64(encode({0}))", TEXT)
_simple("BASE64_DECODE_STRING", "t", "decode(from_base64({0}))", TEXT)
_simple("REPLACE", "ttt", {2: "replace({0}, {1}, '')", 3: "replace({0}, {1}, {2})"}, TEXT)
_simple(
    "SUBSTR SUBSTRING",
    "tnn",
    {
        2: "substr({0}, CAST({1} AS BIGINT))",
        3: "substr({0}, CAST({1} AS BIGINT), CAST({2} AS BIGINT))",
    },
    TEXT,
)
_simple("LPAD", "tnt", {2: "lpad({0}, {1}, ' ')", 3: "lpad({0}, {1}, {2})"}, TEXT)
_simple("RPAD", "tnt", {2: "rpad({0}, {1}, ' ')", 3: "rpad({0}, {1}, {2})"}, TEXT)
_simple("SPLIT_PART", "ttn", {3: "split_part({0}, {1}, CASE {2} WHEN 0 THEN 1 ELSE {2} END)"}, TEXT)
_simple("SPLIT", "tt", "to_json(string_split({0}, {1}))", DataType("ARRAY"))
_simple("STARTSWITH", "tt", "starts_with({0}, {1})", BOOLEAN)
_simple("ENDSWITH", "tt", "ends_with({0}, {1})", BOOLEAN)
_simple("CONTAINS", "tt", "contains({0}, {1})", BOOLEAN)
_simple("CHARINDEX", "tt", "strpos({1}, {0})", FIXED)
_simple("CHR CHAR", "n", "chr(CAST({0} AS INTEGER))", TEXT)
_simple("EDITDISTANCE", "tt", "levenshtein({0}, {1})", FIXED)
_simple("UUID_STRING", ".", {0: "CAST(uuid() AS VARCHAR)"}, TEXT)
_simple("REGEXP_LIKE RLIKE", "tt", "regexp_full_match({0}, {1}, 's')", BOOLEAN)
_simple(
    "REGEXP_REPLACE",
    "ttt",
    {2: "regexp_replace({0}, {1}, '', 'gs')", 3: "regexp_replace({0}, {1}, {2}, 'gs')"},
    TEXT,
)
_simple("REGEXP_SUBSTR", "tt", "nullif(regexp_extract_all({0}, {1})[1], NULL)", TEXT)
_simple("REGEXP_COUNT", "tt", "len(regexp_extract_all({0}, {1}))", FIXED)
_simple(
    "RANDOM",
    ".",
    {0: "CAST(hash(uuid()) // 2 AS BIGINT)", 1: "CAST(hash({0}) // 2 AS BIGINT)"},
    FIXED,
)
_simple("POWER POW", "nn", "power({0}, {1})", REAL)
_simple("LOG", "nn", "(ln({1}) / ln({0}))", REAL)
_simple("BITAND", "nn", "(CAST({0} AS BIGINT) & CAST({1} AS BIGINT))", FIXED)
_simple("BITOR", "nn", "(CAST({0} AS BIGINT) | CAST({1} AS BIGINT))", FIXED)
_simple("BITXOR", "nn", "xor(CAST({0} AS BIGINT), CAST({1} AS BIGINT))", FIXED)
_simple("BITSHIFTLEFT", "nn", "(CAST({0} AS BIGINT) << CAST({1} AS INTEGER))", FIXED)
_simple("BITSHIFTRIGHT", "nn", "(CAST({0} AS BIGINT) >> CAST({1} AS INTEGER))", FIXED)
_simple("ZEROIFNULL", "n", "coalesce({0}, 0)", FIRST)
_simple("NULLIFZERO", "n", "nullif({0}, 0)", FIRST)
_simple("EQUAL_NULL", "..", "({0} IS NOT DISTINCT FROM {1})", BOOLEAN)
_simple("BOOLAND", "..", "({0} AND {1})", BOOLEAN)
_simple("BOOLOR", "..", "({0} OR {1})", BOOLEAN)
_simple("BOOLNOT", ".", "(NOT {0})", BOOLEAN)
_simple(
    "HASH",
    ".",
    {
        n: f"CAST(hash({', '.join(f'{{{i}}}' for i in range(n))}) // 2 AS BIGINT)"
        for n in range(1, 20)
    },
    FIXED,
)


def wrong_arguments(node: exp.Expr, given: int) -> SqlError:
    """The error for a number of arguments that a function does not take here."""
    if given == 0:
        text = f"not enough arguments for function [{node.sql('snowflake')}]"
        return SqlError(938, "22023", f"SQL compilation error:\n{text}")
    return unsupported(node.sql("snowflake"))


def call(visit: Expressions, name: str, arguments: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    """A function with arguments that are translated."""
    return FUNCTIONS[name](visit, arguments, node)


def visit_call(visit: Expressions, node: exp.Expr, scope: Scope) -> exp.Expr:
    """Translate a call: a function of SQL, of the session, or one that is registered."""
    from flowdist.emulator.sql import functions_aggregate, functions_moments

    if isinstance(node, exp.WithinGroup):
        return functions_aggregate.within_group(visit, node, scope)
    name, inner = _named(node)
    if name in functions_aggregate.AGGREGATES:
        return functions_aggregate.aggregate(visit, name, inner, scope)
    if name in ("SEQ1", "SEQ2", "SEQ4", "SEQ8"):
        return _sequence(scope)
    given = list(inner.args.get("expressions") or [])
    build = FUNCTIONS.get(name)
    if build is not None:
        if name in functions_moments.WITH_UNIT and given:
            given[:1] = [functions_moments.unit(given[0])]
        if name.startswith("OBJECT_CONSTRUCT") and [type(e) for e in given] == [exp.Star]:
            return build(visit, visit.row(scope), node)
        return build(visit, [visit(e, scope, raw=True) for e in given], node)
    registered = name.replace("METHOD$", "!") if name.startswith("METHOD$") else name
    if visit.binder.env.scalar(registered):
        return _registered(visit, registered, given)
    if is_documented(name):
        raise unsupported(node.sql("snowflake"))
    raise SqlError(2140, "42601", f"SQL compilation error:\nUnknown function {name}")


def _sequence(scope: Scope) -> exp.Expr:
    """SEQ4(): the number of a generated row, or else of a row of the result."""
    for source in scope.sources:
        if source.output(GENERATED) is not None:
            return typed(exp.column(GENERATED, source.name, quoted=True), FIXED)
    return template("(row_number() OVER () - 1)", type=FIXED)


def _named(node: exp.Expr) -> tuple[str, exp.Expr]:
    if isinstance(node, exp.Anonymous):
        return node.name.upper(), node
    if isinstance(node, exp.CurrentUser):
        return "CURRENT_USER", exp.Anonymous(this="CURRENT_USER")
    if isinstance(node, exp.CurrentRole):
        return "CURRENT_ROLE", exp.Anonymous(this="CURRENT_ROLE")
    if isinstance(node, exp.Dot):
        parts = [name_of(part) for part in node.flatten() if not isinstance(part, exp.Anonymous)]
        last = node.expression
        if isinstance(last, exp.Anonymous):
            return ".".join([*parts, last.name.upper()]), last
    raise unsupported(node.sql("snowflake"))


def _registered(visit: Expressions, name: str, arguments: list[exp.Expr]) -> exp.Expr:
    values = tuple(constant_of(visit, argument) for argument in arguments)
    return visit.binder.parameter(Call(name, values), None)


def constant_of(visit: Expressions, node: exp.Expr) -> Any:
    """A constant expression as a Python value, or as the parameter that will have it."""
    from flowdist.emulator.sql.binder import Binder
    from flowdist.emulator.sql.expressions import expressions_of

    if node.find(exp.Column) is not None:
        raise unsupported(f"{node.sql('snowflake')} as an argument: it is not a constant")
    inner = Binder(visit.binder.env)
    made = expressions_of(inner)(node.copy(), Scope())
    visit.binder.cacheable = visit.binder.cacheable and inner.cacheable
    if "literal" in made.meta:
        return made.meta["literal"]
    if isinstance(made, exp.Boolean):
        return bool(made.this)
    if isinstance(made, exp.Null):
        return None
    text = duck(made)
    if len(inner.parameters) == 1 and text == "$1" and isinstance(inner.parameters[0], Bind):
        return inner.parameters[0]
    parameters: tuple[Parameter, ...] = tuple(inner.parameters)
    return Constant(f"SELECT {text}", parameters)


# -- conditionals


@function("IFF")
def _iff(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    if len(given) != 3:
        raise wrong_arguments(node, len(given))
    (a, b), found = to.unified(given[1:])
    return template("CASE WHEN {0} THEN {1} ELSE {2} END", given[0], a, b, type=found)


@function("NVL", "IFNULL", "COALESCE", "GREATEST", "LEAST")
def _first_of(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    if len(given) < 1:
        raise wrong_arguments(node, 0)
    made, found = to.unified(given)
    name = node.name.upper()
    duck_name = name if name in ("GREATEST", "LEAST") else "COALESCE"
    holes = ", ".join(f"{{{i}}}" for i in range(len(made)))
    if duck_name == "COALESCE":
        return template(f"COALESCE({holes})", *made, type=found)
    # Snowflake's are NULL where any argument is.
    nulls = " OR ".join(f"{{{i}}} IS NULL" for i in range(len(made)))
    return template(f"CASE WHEN {nulls} THEN NULL ELSE {duck_name}({holes}) END", *made, type=found)


@function("NVL2")
def _nvl2(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    if len(given) != 3:
        raise wrong_arguments(node, len(given))
    (a, b), found = to.unified(given[1:])
    text = "CASE WHEN {0} IS NOT NULL THEN {1} ELSE {2} END"
    return template(text, given[0], a, b, type=found)


@function("NULLIF")
def _nullif(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    if len(given) != 2:
        raise wrong_arguments(node, len(given))
    a, b = to.comparable(to.instant(given[0]), to.instant(given[1]))
    return template(
        "CASE WHEN {1} = {2} THEN NULL ELSE {0} END", given[0], a, b, type=type_of(given[0])
    )


@function("DECODE")
def _decode(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    if len(given) < 3:
        raise wrong_arguments(node, len(given))
    subject, rest = to.instant(given[0]), given[1:]
    default = rest.pop() if len(rest) % 2 else None
    results, found = to.unified([*rest[1::2], *([default] if default is not None else [])])
    pieces: list[str] = []
    arguments: list[exp.Expr] = []
    for search, result in zip(rest[::2], results, strict=False):
        left, right = to.comparable(subject, to.instant(search))
        n = len(arguments)
        pieces.append(f"WHEN {{{n}}} IS NOT DISTINCT FROM {{{n + 1}}} THEN {{{n + 2}}}")
        arguments += [left.copy(), right, result]
    if default is not None:
        pieces.append(f"ELSE {{{len(arguments)}}}")
        arguments.append(results[-1])
    return template(f"CASE {' '.join(pieces)} END", *arguments, type=found)


# -- text and numbers


@function("CONCAT")
def _concat(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    if not given:
        raise wrong_arguments(node, 0)
    holes = " || ".join(f"{{{i}}}" for i in range(len(given)))
    return template(f"({holes})", *[to.text(e) for e in given], type=TEXT)


@function("CONCAT_WS")
def _concat_ws(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    if len(given) < 2:
        raise wrong_arguments(node, len(given))
    made = [to.text(e) for e in given]
    holes = " || {0} || ".join(f"{{{i}}}" for i in range(1, len(made)))
    return template(f"({holes})", *made, type=TEXT)


@function("ROUND", "CEIL", "FLOOR", "TRUNC", "TRUNCATE")
def _rounded(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    name = node.name.upper().replace("TRUNCATE", "TRUNC")
    if (
        name == "TRUNC"
        and given
        and to.kind(given[0]) in ("DATE", "TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ")
    ):
        return call(visit, "DATE_TRUNC", given[::-1], node)
    if not 1 <= len(given) <= 2:
        raise wrong_arguments(node, len(given))
    subject = to.number(given[0])
    found = type_of(subject)
    places = given[1].meta.get("literal", None) if len(given) == 2 else 0
    if not isinstance(places, int):
        raise unsupported(node.sql("snowflake"))
    text = {
        "ROUND": f"round({{0}}, {places})",
        "TRUNC": "trunc({0})" if places == 0 else f"(trunc({{0}} * 1e{places}) / 1e{places})",
    }.get(name) or (
        f"{name.lower()}({{0}})"
        if places == 0
        else f"({name.lower()}({{0}} * 1e{places}) / 1e{places})"
    )
    if found is not None and found.name == "FIXED":
        scale = min(max(places, 0), found.scale or 0)
        target = DataType("FIXED", precision=38, scale=scale)
        return template(f"CAST({text} AS DECIMAL(38, {scale}))", subject, type=target)
    return template(text, subject, type=found)


@function("MOD")
def _mod(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    if len(given) != 2:
        raise wrong_arguments(node, len(given))
    return to.arithmetic(exp.Mod(), *given)


@function("SYSTEM$TYPEOF")
def _system_typeof(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    """The type of an expression, and how Snowflake stores it."""
    if len(given) != 1:
        raise wrong_arguments(node, len(given))
    found = type_of(given[0])
    if isinstance(given[0], exp.Null):
        return template("'NULL[LOB]'", type=TEXT)
    if found is None:
        raise unsupported(node.sql("snowflake"))
    text = "CASE WHEN {{0}} IS NULL THEN '{0}' ELSE '{0}' END"  # it may have a parameter
    stored = _STORED.get(found.name, "LOB")
    if found.name == "FIXED":
        stored = next(size for digits, size in _SIZES if (found.precision or 38) <= digits)
    return template(text.format(f"{found}[{stored}]"), given[0], type=TEXT)


_SIZES = ((2, "SB1"), (4, "SB2"), (9, "SB4"), (18, "SB8"), (38, "SB16"))
_STORED = {
    "BOOLEAN": "SB1",
    "DATE": "SB4",
    "REAL": "DOUBLE",
    "TIME": "SB8",
    "TIMESTAMP_LTZ": "SB16",
    "TIMESTAMP_NTZ": "SB16",
    "TIMESTAMP_TZ": "SB16",
}


@function("DIV0", "DIV0NULL")
def _div0(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    if len(given) != 2:
        raise wrong_arguments(node, len(given))
    above, below = (to.number(one) for one in given)
    zero = "coalesce({0}, 0) = 0" if node.name.upper() == "DIV0NULL" else "{0} = 0"
    safe = template("nullif({0}, 0)", below.copy(), type=type_of(below))
    made = to.arithmetic(exp.Div(), above, safe)
    return template(f"CASE WHEN {zero} THEN 0 ELSE {{1}} END", below, made, type=type_of(made))


@function("RANDSTR")
def _randstr(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    """Letters and digits, of 64 that a hash selects."""
    length = given[0].meta.get("literal") if len(given) == 2 else None
    if not isinstance(length, int):
        raise unsupported(node.sql("snowflake"))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    pick = f"'{letters}'[1 + CAST(hash({{0}}, i) % 62 AS INTEGER)]"
    text = f"array_to_string(list_transform(range({length}), lambda i: {pick}), '')"
    return template(text, given[1], type=TEXT)


@function("UNIFORM")
def _uniform(visit: Expressions, given: list[exp.Expr], node: exp.Expr) -> exp.Expr:
    if len(given) != 3:
        raise wrong_arguments(node, len(given))
    low, high = (e.meta.get("literal") for e in given[:2])
    if isinstance(low, int) and isinstance(high, int):
        text = f"CAST({low} + CAST(hash({{0}}) % {high - low + 1} AS BIGINT) AS DECIMAL(38, 0))"
        return template(text, given[2], type=FIXED)
    text = "({0} + ({1} - {0}) * (hash({2}) / 18446744073709551615.0))"
    return template(text, *given, type=REAL)
