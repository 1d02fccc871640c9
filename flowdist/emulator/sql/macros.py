"""DuckDB macros that the translations use; they are made when the file is opened."""

from __future__ import annotations

__all__ = ["MACROS", "PREFIX"]

PREFIX = "sf_"

_DEFINITIONS = {
    "fit(a, n)": "CASE WHEN length(a) > n THEN error('100078|22000|String ''' || a || "
    "''' is too long and would be truncated') ELSE a END",
    "cut(a, n, safe)": "CASE WHEN length(a) <= n THEN a WHEN NOT safe THEN substr(a, 1, n) END",
    "quotient(a, b)": "a / CASE WHEN b = 0 THEN error('100051|22012|Division by zero') ELSE b END",
    "mod(a, b)": "a % CASE WHEN b = 0 THEN error('100051|22012|Division by zero') ELSE b END",
    "real_text(a)": "regexp_replace(CAST(a AS VARCHAR), '\\.0$', '')",
    "offset_text(o)": "(CASE WHEN o < 0 THEN '-' ELSE '+' END) || "
    "lpad(CAST(abs(o) // 60 AS VARCHAR), 2, '0') || lpad(CAST(abs(o) % 60 AS VARCHAR), 2, '0')",
    "offset(t)": "CAST(date_diff('minute', timezone('UTC', t), CAST(t AS TIMESTAMP)) AS INTEGER)",
    "ltz_text(a)": "strftime(CAST(a AS TIMESTAMP), '%Y-%m-%d %H:%M:%S.%g') || ' ' || "
    "sf_offset_text(sf_offset(a))",
    "tz_local(z)": "timezone('UTC', z.t) + to_minutes(z.o)",
    "tz_of(local, o)": "CASE WHEN local IS NULL THEN NULL "
    "ELSE {'t': timezone('UTC', local - to_minutes(o)), 'o': o} END",
    "tz_text(z)": "strftime(sf_tz_local(z), '%Y-%m-%d %H:%M:%S.%g') || ' ' || sf_offset_text(z.o)",
    "zone(a)": "regexp_extract(a, '[0-9]:[0-9.:]+ *(Z|[+-][0-9]{2}:?[0-9]{0,2})$', 1)",
    # Digits in a string are seconds, milliseconds, microseconds or nanoseconds, by their number.
    "epoch(a)": "make_timestamp(CAST(CASE WHEN abs(CAST(a AS DOUBLE)) < 31536000000 "
    "THEN CAST(a AS DECIMAL(38, 6)) * 1000000 WHEN abs(CAST(a AS DOUBLE)) < 31536000000000 "
    "THEN CAST(a AS DECIMAL(38, 6)) * 1000 WHEN abs(CAST(a AS DOUBLE)) < 31536000000000000 "
    "THEN CAST(a AS DECIMAL(38, 6)) ELSE CAST(a AS DECIMAL(38, 6)) / 1000 END AS BIGINT))",
    "without_zone(a)": "CASE WHEN regexp_full_match(trim(a), '-?[0-9]+(\\.[0-9]+)?') "
    "THEN CAST(sf_epoch(a) AS VARCHAR) "
    "ELSE regexp_replace(trim(a), '([0-9]:[0-9.:]+) *(Z|[+-][0-9]{2}:?[0-9]{0,2})$', '\\1') END",
    "date_text(a)": "regexp_replace(sf_without_zone(a), '[ T][0-9:.]+$', '')",
    "with_zone(a)": "CASE WHEN regexp_full_match(trim(a), '-?[0-9]+(\\.[0-9]+)?') "
    "THEN CAST(sf_epoch(a) AS VARCHAR) || '+00' ELSE regexp_replace(regexp_replace(trim(a), "
    "'([0-9]:[0-9.:]+) +(Z$|[+-])', '\\1\\2'), "
    "'([0-9]:[0-9.:]+[+-][0-9]{2})([0-9]{2})$', '\\1:\\2') END",
    "zone_minutes(o)": "CASE WHEN o IN ('', 'Z') THEN 0 ELSE "
    "(CASE WHEN o[1] = '-' THEN -1 ELSE 1 END) * (CAST(o[2:3] AS INTEGER) * 60 + "
    "coalesce(TRY_CAST(nullif(right(replace(o, ':', '')[4:], 2), '') AS INTEGER), 0)) END",
    "tz(a)": "CASE WHEN a IS NULL THEN NULL ELSE {'t': CAST(sf_with_zone(a) AS TIMESTAMPTZ), "
    "'o': CASE WHEN sf_zone(trim(a)) = '' THEN sf_offset(CAST(sf_with_zone(a) AS TIMESTAMPTZ)) "
    "ELSE sf_zone_minutes(sf_zone(trim(a))) END} END",
    "tz_read(t, a)": "CASE WHEN t IS NULL THEN NULL ELSE {'t': t, "
    "'o': sf_zone_minutes(regexp_extract(a, '(Z|[+-][0-9]{2}:?[0-9]{0,2}) *$', 1))} END",
    "boolean(a, safe)": "CASE WHEN lower(a) IN ('true', 't', 'yes', 'y', 'on', '1') THEN true "
    "WHEN lower(a) IN ('false', 'f', 'no', 'n', 'off', '0') THEN false "
    "WHEN a IS NULL OR safe THEN NULL "
    "ELSE error('100037|22018|Boolean value ''' || a || ''' is not recognized') END",
    "colon(o)": "left(o, 3) || ':' || right(o, 2)",
    "parse_json(a)": "CASE WHEN a IS NULL OR trim(a) = '' THEN NULL WHEN json_valid(a) "
    "THEN CAST(a AS JSON) ELSE error('100069|22P02|Error parsing JSON: ' || a) END",
    "array_size(a)": "CASE WHEN json_type(a) = 'ARRAY' THEN json_array_length(a) END",
    "typeof(a)": "CASE json_type(a) WHEN 'NULL' THEN 'NULL_VALUE' WHEN 'UBIGINT' THEN 'INTEGER' "
    "WHEN 'BIGINT' THEN 'INTEGER' ELSE json_type(a) END",
    "as_array(a)": "CASE WHEN json_type(a) = 'ARRAY' OR a IS NULL THEN a ELSE json_array(a) END",
}
MACROS = tuple(
    f"CREATE OR REPLACE MACRO {PREFIX}{signature} AS {body}"
    for signature, body in _DEFINITIONS.items()
)
