"""Dates, times and timestamps; and TO_VARCHAR, TO_NUMBER and the like, which have formats."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlglot import exp

from flowdist.emulator.errors import compilation_error, unsupported
from flowdist.emulator.sql import conversions as to
from flowdist.emulator.sql import datatypes, formats
from flowdist.emulator.sql.dialect import template, type_of
from flowdist.emulator.sql.functions import FUNCTIONS, function, wrong_arguments
from flowdist.emulator.types import BOOLEAN, FIXED, LTZ, REAL, TEXT, DataType

if TYPE_CHECKING:
    from flowdist.emulator.sql.expressions import Expressions

__all__ = ["WITH_UNIT", "unit"]

Nodes = list[exp.Expr]

WITH_UNIT = frozenset(
    [
        "DATEADD",
        "TIMEADD",
        "TIMESTAMPADD",
        "DATEDIFF",
        "TIMEDIFF",
        "TIMESTAMPDIFF",
        "DATE_TRUNC",
        "DATE_PART",
        "LAST_DAY_OF",
    ]
)
"""Functions whose first argument is a unit, as a word or a string."""

_UNITS = {
    "YEAR": "YEAR Y YY YYY YYYY YR YEARS YRS",
    "QUARTER": "QUARTER Q QTR QTRS QUARTERS",
    "MONTH": "MONTH MM MON MONS MONTHS",
    "WEEK": "WEEK W WK WEEKOFYEAR WOY WY",
    "DAY": "DAY D DD DAYS DAYOFMONTH",
    "HOUR": "HOUR H HH HR HOURS HRS",
    "MINUTE": "MINUTE M MI MIN MINUTES MINS",
    "SECOND": "SECOND S SEC SECONDS SECS",
    "MILLISECOND": "MILLISECOND MS MSEC MILLISECONDS",
    "MICROSECOND": "MICROSECOND US USEC MICROSECONDS",
    "NANOSECOND": "NANOSECOND NS NSEC NANOSEC NSECOND NANOSECONDS NANOSECS NSECONDS",
    "DAYOFWEEK": "DAYOFWEEK WEEKDAY DOW DW",
    "DAYOFWEEKISO": "DAYOFWEEKISO WEEKDAY_ISO DOW_ISO DW_ISO DAYOFWEEK_ISO",
    "DAYOFYEAR": "DAYOFYEAR YEARDAY DOY DY",
    "EPOCH_SECOND": "EPOCH_SECOND EPOCH EPOCH_SECONDS",
    "EPOCH_MILLISECOND": "EPOCH_MILLISECOND EPOCH_MILLISECONDS",
    "EPOCH_MICROSECOND": "EPOCH_MICROSECOND EPOCH_MICROSECONDS",
    "EPOCH_NANOSECOND": "EPOCH_NANOSECOND EPOCH_NANOSECONDS",
}
_CANONICAL = {word: name for name, words in _UNITS.items() for word in words.split()}
_WHOLE_DAYS = ("YEAR", "QUARTER", "MONTH", "WEEK", "DAY")


def unit(node: exp.Expr) -> exp.Expr:
    """A unit as a string, be it written as a word or as a string."""
    if isinstance(node, exp.Literal) or not isinstance(node, exp.Column | exp.Var):
        return node
    return exp.Literal.string(node.name)


def _unit(node: exp.Expr, whole: exp.Expr) -> str:
    word = str(node.meta.get("literal", "")).upper()
    if word not in _CANONICAL:
        raise compilation_error(
            f"'{word.lower()}' is not a valid date/time component for function "
            f"{whole.name.upper()}.",
            errno=1007,
            sqlstate="22023",
        )
    return _CANONICAL[word]


def moment(node: exp.Expr) -> exp.Expr:
    """A date or timestamp, a TIMESTAMP_TZ as its local time; text and variants are read as
    TIMESTAMP_NTZ.
    """
    found = to.kind(node)
    if found in ("TEXT", "VARIANT") or isinstance(node, exp.Null):
        return to.cast(node, datatypes.NTZ)
    return to.local(node)


@function("DATEADD", "TIMEADD", "TIMESTAMPADD")
def _dateadd(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) != 3:
        raise wrong_arguments(node, len(given))
    word, amount, start = _unit(given[0], node), to.number(given[1]), moment(given[2])
    known = type_of(start)
    number = "CAST(round({1}) AS BIGINT)"
    if to.kind(amount) == "FIXED" and not (type_of(amount) or FIXED).scale:
        number = "CAST({1} AS BIGINT)"
    if word == "NANOSECOND":
        step = f"to_microseconds({number} // 1000)"
    elif word in _UNITS and not word.startswith(("EPOCH", "DAYOF")):
        step = f"INTERVAL ({number}) {word}"
    else:
        raise unsupported(node.sql("snowflake"))
    if known is not None and known.name == "DATE":
        if word in _WHOLE_DAYS:
            return template(f"CAST(({{0}} + {step}) AS DATE)", start, amount, type=datatypes.DATE)
        known = datatypes.NTZ
    made = template(f"({{0}} + {step})", start, amount, type=known)
    return to.zoned(made, given[2])


@function("DATEDIFF", "TIMEDIFF", "TIMESTAMPDIFF")
def _datediff(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) != 3:
        raise wrong_arguments(node, len(given))
    word, a, b = _unit(given[0], node), *(moment(to.instant(one)) for one in given[1:])
    if to.kind(a) != to.kind(b):
        target = LTZ if "TIMESTAMP_LTZ" in (to.kind(a), to.kind(b)) else datatypes.NTZ
        a, b = to.cast(a, target), to.cast(b, target)
    if word.startswith(("EPOCH", "DAYOF")):
        raise unsupported(node.sql("snowflake"))
    if word == "WEEK":  # Mondays in between, where DuckDB counts whole weeks
        days = "date_diff('day', date_trunc('week', {0}), date_trunc('week', {1}))"
        return template(f"({days} // 7)", a, b, type=FIXED)
    factor = ""
    if word == "NANOSECOND":
        word, factor = "MICROSECOND", " * 1000"
    return template(f"(date_diff('{word.lower()}', {{0}}, {{1}}){factor})", a, b, type=FIXED)


@function("DATE_TRUNC")
def _date_trunc(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) != 2:
        raise wrong_arguments(node, len(given))
    word, start = _unit(given[0], node), moment(given[1])
    if word.startswith(("EPOCH", "DAYOF", "NANO")):
        raise unsupported(node.sql("snowflake"))
    known = type_of(start)
    text = f"date_trunc('{word.lower()}', {{0}})"
    if known is not None and known.name == "DATE":
        return template(f"CAST({text} AS DATE)", start, type=known)
    return to.zoned(template(text, start, type=known), given[1])


_PARTS = {
    "WEEK": "week({0})",
    "DAYOFWEEK": "dayofweek({0})",
    "DAYOFWEEKISO": "isodow({0})",
    "DAYOFYEAR": "dayofyear({0})",
    "SECOND": "second({0})",
    "NANOSECOND": "(nanosecond({0}) % 1000000000)",
    "MILLISECOND": "(millisecond({0}) % 1000)",
    "MICROSECOND": "(microsecond({0}) % 1000000)",
    "EPOCH_SECOND": "CAST(floor(epoch({0})) AS BIGINT)",
    "EPOCH_MILLISECOND": "epoch_ms({0})",
    "EPOCH_MICROSECOND": "epoch_us({0})",
    "EPOCH_NANOSECOND": "epoch_ns({0})",
}


@function("DATE_PART")
def _date_part(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) != 2:
        raise wrong_arguments(node, len(given))
    word = _unit(given[0], node)
    start = moment(to.instant(given[1]) if word.startswith("EPOCH") else given[1])
    return template(_PARTS.get(word, f"{word.lower()}({{0}})"), start, type=FIXED)


def _part_of(word: str) -> None:
    @function(word)
    def part(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
        if len(given) != 1:
            raise wrong_arguments(node, len(given))
        name = _CANONICAL.get(word, word)
        return template(_PARTS.get(name, f"{name.lower()}({{0}})"), moment(given[0]), type=FIXED)


for _word in (
    "YEAR",
    "QUARTER",
    "MONTH",
    "WEEK",
    "WEEKOFYEAR",
    "WEEKISO",
    "DAY",
    "DAYOFMONTH",
    "DAYOFWEEK",
    "DAYOFWEEKISO",
    "DAYOFYEAR",
    "HOUR",
    "MINUTE",
    "SECOND",
):
    _part_of(_word)
FUNCTIONS["WEEKISO"] = FUNCTIONS["WEEK"]


@function("LAST_DAY")
def _last_day(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) != 1:
        raise wrong_arguments(node, len(given))
    return template("last_day({0})", moment(given[0]), type=datatypes.DATE)


@function("ADD_MONTHS")
def _add_months(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) != 2:
        raise wrong_arguments(node, len(given))
    start = moment(given[0])
    known = type_of(start)
    text = "({0} + to_months(CAST({1} AS INTEGER)))"
    if known is not None and known.name == "DATE":
        text = f"CAST({text} AS DATE)"
    made = template(text, start, to.number(given[1]), type=known)
    return to.zoned(made, given[0])


@function("DAYNAME", "MONTHNAME")
def _name(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) != 1:
        raise wrong_arguments(node, len(given))
    model = "%a" if node.name.upper() == "DAYNAME" else "%b"
    return template(f"strftime({{0}}, '{model}')", _local(moment(given[0])), type=TEXT)


def _local(node: exp.Expr) -> exp.Expr:
    """A timestamp as the clock of its zone shows it."""
    found = to.kind(node)
    if found == "TIMESTAMP_LTZ":
        return template("CAST({0} AS TIMESTAMP)", node, type=datatypes.NTZ)
    return to.local(node)


@function("CURRENT_TIMESTAMP", "GETDATE", "LOCALTIMESTAMP", "SYSTIMESTAMP")
def _now(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    return visit.now()


@function("SYSDATE")
def _sysdate(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    return template("timezone('UTC', {0})", visit.now(), type=datatypes.NTZ)


@function("CURRENT_DATE")
def _current_date(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    return template("CAST({0} AS DATE)", visit.now(), type=datatypes.DATE)


@function("CURRENT_TIME", "LOCALTIME")
def _current_time(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    return template("CAST(CAST({0} AS TIMESTAMP) AS TIME)", visit.now(), type=datatypes.TIME)


@function("CONVERT_TIMEZONE")
def _convert_timezone(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) == 3:
        return template(
            "timezone({1}, timezone({0}, {2}))",
            given[0],
            given[1],
            to.cast(given[2], datatypes.NTZ),
            type=datatypes.NTZ,
        )
    if len(given) != 2:
        raise wrong_arguments(node, len(given))
    start = given[1]
    if to.kind(start) in ("TIMESTAMP_TZ", "TIMESTAMP_LTZ"):
        start = to.instant(start)
    else:
        start = to.cast(start, LTZ)
    text = (
        "CASE WHEN {1} IS NULL THEN NULL ELSE {{'t': {1}, 'o': CAST(date_diff('minute', "
        "timezone('UTC', {1}), timezone({0}, {1})) AS INTEGER)}} END"
    )
    return template(text, given[0], start, type=datatypes.TZ)


@function("DATE_FROM_PARTS", "DATEFROMPARTS")
def _date_from_parts(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) != 3:
        raise wrong_arguments(node, len(given))
    text = (
        "CAST(make_date(CAST({0} AS INTEGER), 1, 1) + to_months(CAST({1} AS INTEGER) - 1) "
        "+ to_days(CAST({2} AS INTEGER) - 1) AS DATE)"
    )
    return template(text, *given, type=datatypes.DATE)


@function("TIMESTAMP_NTZ_FROM_PARTS", "TIMESTAMPNTZFROMPARTS")
def _from_parts(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if len(given) != 6:
        raise wrong_arguments(node, len(given))
    holes = ", ".join(f"CAST({{{i}}} AS BIGINT)" for i in range(5))
    return template(f"make_timestamp({holes}, CAST({{5}} AS DOUBLE))", *given, type=datatypes.NTZ)


# -- conversions with formats


def _model(given: Nodes, node: exp.Expr) -> str | None:
    """The format, which has to be a constant."""
    if len(given) < 2:
        return None
    found = given[1].meta.get("literal")
    if not isinstance(found, str):
        raise unsupported(node.sql("snowflake"))
    return None if found.upper() == "AUTO" else found


@function("TO_VARCHAR", "TO_CHAR")
def _to_varchar(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    if not 1 <= len(given) <= 2:
        raise wrong_arguments(node, len(given))
    model, subject = _model(given, node), given[0]
    if model is None:
        return to.cast(subject, TEXT)
    if not formats.is_moment(model) or to.kind(subject) in ("FIXED", "REAL"):
        raise unsupported(node.sql("snowflake"))
    if to.kind(subject) == "TEXT":
        subject = to.cast(subject, datatypes.NTZ)
    return to.formatted(subject, model)


def _register_moments() -> None:
    targets = {
        "TO_DATE": datatypes.DATE,
        "DATE": datatypes.DATE,
        "TO_TIME": datatypes.TIME,
        "TIME": datatypes.TIME,
        "TO_TIMESTAMP_NTZ": datatypes.NTZ,
        "TO_TIMESTAMP_LTZ": LTZ,
        "TO_TIMESTAMP_TZ": datatypes.TZ,
        "TO_TIMESTAMP": None,
    }
    for name, target in targets.items():
        FUNCTIONS[name] = _reader(target, safe=False)
        if name.startswith("TO_"):
            FUNCTIONS[f"TRY_{name}"] = _reader(target, safe=True)


class _reader:
    """TO_TIMESTAMP and the like; the target None is what TIMESTAMP is mapped to."""

    def __init__(self, target: DataType | None, safe: bool) -> None:
        self.target = target
        self.safe = safe

    def __call__(self, visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
        if not 1 <= len(given) <= 2:
            raise wrong_arguments(node, len(given))
        target = self.target or _mapped(visit.binder.env.mapping)
        subject = given[0]
        if len(given) == 2 and isinstance(given[1].meta.get("literal"), int):
            return self._scaled(subject, int(given[1].meta["literal"]), target)
        model = _model(given, node)
        if model is None:
            return to.cast(subject, target, self.safe)
        pattern = formats.strptime(model)
        word = "try_strptime" if self.safe else "strptime"
        read = template(
            f"{word}({{0}}, {_quoted(pattern)})",
            to.text(subject),
            type=LTZ if "%z" in pattern else datatypes.NTZ,
        )
        if target.name == "TIMESTAMP_TZ" and pattern.endswith("%z"):
            return template("sf_tz_read({0}, {1})", read, to.text(subject), type=target)
        return to.cast(read, target, self.safe)

    def _scaled(self, subject: exp.Expr, scale: int, target: DataType) -> exp.Expr:
        micros = f"CAST({{0}} * {10 ** (6 - scale)} AS BIGINT)"
        if scale > 6:
            micros = f"CAST({{0}} // {10 ** (scale - 6)} AS BIGINT)"
        made = template(f"make_timestamp({micros})", to.number(subject), type=datatypes.NTZ)
        if target.name in ("TIMESTAMP_LTZ", "TIMESTAMP_TZ"):
            made = template("timezone('UTC', {0})", made, type=LTZ)
        return to.cast(made, target)


def _mapped(mapping: str) -> DataType:
    return {"TIMESTAMP_LTZ": LTZ, "TIMESTAMP_TZ": datatypes.TZ}.get(mapping, datatypes.NTZ)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''").replace("{", "{{").replace("}", "}}") + "'"


_register_moments()


@function(
    "TO_NUMBER", "TO_DECIMAL", "TO_NUMERIC", "TRY_TO_NUMBER", "TRY_TO_DECIMAL", "TRY_TO_NUMERIC"
)
def _to_number(visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
    sizes = [e.meta.get("literal") for e in given[1:]]
    if not given or len(sizes) > 2 or not all(isinstance(s, int) for s in sizes):
        raise unsupported(node.sql("snowflake"))
    target = FIXED
    if sizes:
        scale = sizes[1] if len(sizes) == 2 else 0
        target = replace(FIXED, precision=sizes[0], scale=scale)
    return to.cast(given[0], target, safe=node.name.upper().startswith("TRY_"))


def _register_simple() -> None:
    for name, target in {
        "TO_DOUBLE": REAL,
        "TO_BOOLEAN": BOOLEAN,
        "TO_BINARY": datatypes.BINARY,
    }.items():
        FUNCTIONS[name] = _caster(target, safe=False)
        FUNCTIONS[f"TRY_{name}"] = _caster(target, safe=True)


class _caster:
    """A cast by the name of a function."""

    def __init__(self, target: DataType, safe: bool) -> None:
        self.target = target
        self.safe = safe

    def __call__(self, visit: Expressions, given: Nodes, node: exp.Expr) -> exp.Expr:
        if len(given) != 1:
            raise wrong_arguments(node, len(given))
        return to.cast(given[0], self.target, self.safe)


_register_simple()
