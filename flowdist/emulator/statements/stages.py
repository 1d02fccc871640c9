"""CREATE, ALTER, DROP, DESCRIBE and SHOW STAGE, and the directory tables of stages.

A temporary stage is its session's alone (see `StageFiles`). What moves files is in `transfers`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import (
    SqlError,
    already_exists,
    compilation_error,
    does_not_exist,
    invalid_value,
)
from flowdist.emulator.names import FullName, shown
from flowdist.emulator.result import Kind, Result, message, rows
from flowdist.emulator.server.objects import address
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.stages.store import UnsafePath, safe_path
from flowdist.emulator.statements import Context, scalar, statement, table
from flowdist.emulator.statements.creating import already_there, owner_role_type, replacing
from flowdist.emulator.statements.showing import moment, read_filter
from flowdist.emulator.types import FIXED, LTZ, DataType

ENCRYPTIONS = ("SNOWFLAKE_FULL", "SNOWFLAKE_SSE")
LONGEST_URL = 604_800
"""For how many seconds GET_PRESIGNED_URL may be asked to be good."""

_DESCRIBED = (
    ("STAGE_FILE_FORMAT", "TYPE", "String", "CSV"),
    ("STAGE_FILE_FORMAT", "RECORD_DELIMITER", "String", "\\n"),
    ("STAGE_FILE_FORMAT", "FIELD_DELIMITER", "String", ","),
    ("STAGE_FILE_FORMAT", "FILE_EXTENSION", "String", ""),
    ("STAGE_FILE_FORMAT", "SKIP_HEADER", "Integer", "0"),
    ("STAGE_FILE_FORMAT", "DATE_FORMAT", "String", "AUTO"),
    ("STAGE_FILE_FORMAT", "TIME_FORMAT", "String", "AUTO"),
    ("STAGE_FILE_FORMAT", "TIMESTAMP_FORMAT", "String", "AUTO"),
    ("STAGE_FILE_FORMAT", "BINARY_FORMAT", "String", "HEX"),
    ("STAGE_FILE_FORMAT", "ESCAPE", "String", "NONE"),
    ("STAGE_FILE_FORMAT", "ESCAPE_UNENCLOSED_FIELD", "String", "\\\\"),
    ("STAGE_FILE_FORMAT", "TRIM_SPACE", "Boolean", "false"),
    ("STAGE_FILE_FORMAT", "FIELD_OPTIONALLY_ENCLOSED_BY", "String", "NONE"),
    ("STAGE_FILE_FORMAT", "NULL_IF", "List", "[\\\\N]"),
    ("STAGE_FILE_FORMAT", "COMPRESSION", "String", "AUTO"),
    ("STAGE_FILE_FORMAT", "ERROR_ON_COLUMN_COUNT_MISMATCH", "Boolean", "true"),
    ("STAGE_FILE_FORMAT", "VALIDATE_UTF8", "Boolean", "true"),
    ("STAGE_FILE_FORMAT", "SKIP_BLANK_LINES", "Boolean", "false"),
    ("STAGE_FILE_FORMAT", "REPLACE_INVALID_CHARACTERS", "Boolean", "false"),
    ("STAGE_FILE_FORMAT", "EMPTY_FIELD_AS_NULL", "Boolean", "true"),
    ("STAGE_FILE_FORMAT", "SKIP_BYTE_ORDER_MARK", "Boolean", "true"),
    ("STAGE_FILE_FORMAT", "ENCODING", "String", "UTF8"),
    ("STAGE_COPY_OPTIONS", "ON_ERROR", "String", "ABORT_STATEMENT"),
    ("STAGE_COPY_OPTIONS", "SIZE_LIMIT", "Long", ""),
    ("STAGE_COPY_OPTIONS", "PURGE", "Boolean", "false"),
    ("STAGE_COPY_OPTIONS", "RETURN_FAILED_ONLY", "Boolean", "false"),
    ("STAGE_COPY_OPTIONS", "ENFORCE_LENGTH", "Boolean", "true"),
    ("STAGE_COPY_OPTIONS", "TRUNCATECOLUMNS", "Boolean", "false"),
    ("STAGE_COPY_OPTIONS", "FORCE", "Boolean", "false"),
    ("STAGE_LOCATION", "URL", "String", ""),
)
"""Parent, property, type and default, as DESCRIBE STAGE lists them for an internal stage."""

_COLUMNS = (
    ("created_on", LTZ),
    "name",
    "database_name",
    "schema_name",
    "url",
    "has_credentials",
    "has_encryption_key",
    "owner",
    "comment",
    "region",
    "type",
    "cloud",
    "notification_channel",
    "storage_integration",
    "endpoint",
    "owner_role_type",
    "directory_enabled",
)


@statement("CREATE", "STAGE")
def create(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] [TEMPORARY] STAGE [IF NOT EXISTS]."""
    account, session = context.account, context.session
    replace = replacing(parse, "TEMPORARY")
    temporary = "TEMPORARY" in parse.modifiers
    if_not_exists = parse.if_not_exists()
    if replace and if_not_exists:
        raise compilation_error("options IF NOT EXISTS and OR REPLACE are incompatible.", 1003)
    name = session.resolve(parse.name())
    said = _properties(parse, external=True)
    account.access.require_create(session, "STAGE", name)
    old = _existing(context, name, temporary)
    if old is not None:
        if if_not_exists:
            return already_there(name.name)
        if not replace:
            raise already_exists(name)
        if not temporary:
            account.access.require_owner(session, old)
        account.files.drop(old)
    data: dict[str, Any] = {
        "encryption": said.get("ENCRYPTION", ENCRYPTIONS[0]),
        "directory": said.get("DIRECTORY", False),
        "refreshed": None,
    }
    comment = said.get("COMMENT", "")
    if temporary:
        account.files.create_temporary(session, name, comment=comment, **data)
    else:
        owner = account.access.owner_role(session)
        account.catalog.create("stage", name, owner=owner, comment=comment, **data)
    return message(f"Stage area {shown(name.name)} successfully created.")


def _existing(context: Context, name: FullName, temporary: bool) -> Object | None:
    if temporary:
        return next(iter(context.account.files.temporary(context.session, name)), None)
    return context.account.catalog.find("stage", name)


def _properties(parse: Parser, *, external: bool = False) -> dict[str, Any]:
    """The properties of an internal stage, to the end of the statement."""
    found = parse.properties(
        {"ENCRYPTION": _encryption, "DIRECTORY": _directory, "COMMENT": Parser.text}
        if external
        else {"DIRECTORY": _directory, "COMMENT": Parser.text}
    )
    if not parse.ended and parse.word() != ";":
        if parse.word() in _ELSEWHERE:
            raise parse.unsupported()
        raise parse.error()
    parse.end()
    return found


_ELSEWHERE = (
    "URL",
    "STORAGE_INTEGRATION",
    "CREDENTIALS",
    "FILE_FORMAT",
    "COPY_OPTIONS",
    "WITH",
    "TAG",
    "CLONE",
    "ENCRYPTION",
)
"""Clauses that Snowflake has, too."""


def _encryption(parse: Parser) -> str:
    parse.expect("(")
    found = parse.properties({"TYPE": Parser.text_or_word})
    parse.expect(")")
    kind = str(found.get("TYPE", ENCRYPTIONS[0])).upper()
    if kind not in ENCRYPTIONS:
        raise invalid_value(f"'{kind}'", "ENCRYPTION TYPE")
    return kind


def _directory(parse: Parser) -> bool:
    parse.expect("(")
    start = parse.position()
    found = parse.properties(
        {
            "ENABLE": Parser.boolean,
            "AUTO_REFRESH": Parser.boolean,
            "REFRESH_ON_CREATE": Parser.boolean,
        }
    )
    if found.get("AUTO_REFRESH"):
        clause = parse.sql[start : parse.position()].strip()
        raise SqlError(2, "0A000", f"not supported by the emulator: DIRECTORY = ({clause})")
    parse.expect(")")
    return bool(found.get("ENABLE", False))


@statement("ALTER", "STAGE")
def alter(context: Context, parse: Parser) -> Result:
    """ALTER STAGE ... SET, REFRESH, RENAME TO."""
    if_exists = parse.if_exists()
    name = context.session.resolve(parse.name(), "ALTER")
    try:
        stage = _find(context, name)
    except SqlError as missing:
        if not if_exists or missing.errno != 2003:
            raise
        parse.rest()
        return message("Statement executed successfully.")
    if parse.accept("RENAME", "TO"):
        return _rename(context, parse, stage)
    if parse.accept("REFRESH"):
        return _refresh(context, parse, stage)
    if not parse.accept("SET"):
        if parse.word() == "UNSET":
            raise parse.unsupported()
        raise parse.error()
    if parse.ended:
        raise parse.error()
    said = _properties(parse)
    _require_owner(context, stage)
    if "DIRECTORY" in said:
        context.account.files.update(stage, directory=said["DIRECTORY"])
    if "COMMENT" in said:
        context.account.files.update(stage, comment=said["COMMENT"])
    return message("Statement executed successfully.")


def _rename(context: Context, parse: Parser, stage: Object) -> Result:
    name = context.session.resolve(parse.name(), "ALTER")
    parse.end()
    if _is_temporary(stage):
        raise SqlError(2, "0A000", "not supported by the emulator: RENAME of a temporary stage")
    _require_owner(context, stage)
    context.account.access.require_create(context.session, "STAGE", name)
    context.account.catalog.rename(stage, name)
    return message("Statement executed successfully.")


@statement("DROP", "STAGE")
def drop(context: Context, parse: Parser) -> Result:
    """DROP STAGE [IF EXISTS], with its files."""
    if_exists = parse.if_exists()
    name = context.session.resolve(parse.name(), "DROP")
    parse.end()
    try:
        stage = _find(context, name)
    except SqlError as missing:
        if not if_exists or missing.errno != 2003:
            raise
        done = "Drop statement executed successfully"
        return message(f"{done} ({shown(name.name)} already dropped).")
    _require_owner(context, stage)
    context.account.files.drop(stage)
    if not _is_temporary(stage):
        context.account.access.dropped(stage)
    return message(f"{shown(stage.name)} successfully dropped.")


@statement("SHOW", "STAGES")
def show(context: Context, parse: Parser) -> Result:
    """SHOW STAGES [LIKE] [IN]."""
    account, session = context.account, context.session
    wanted = read_filter(parse, session)
    parse.end()
    hidden = {stage.full_name for stage in account.files.temporary(session)}
    permanent = [
        stage
        for stage in account.catalog.all("stage")
        if stage.full_name not in hidden and account.access.visible(session, stage)
    ]
    found = [*permanent, *account.files.temporary(session)]
    found.sort(key=lambda stage: (stage.database, stage.schema, stage.name))
    return rows(_COLUMNS, [_row(stage) for stage in wanted.apply(found)])


def _row(stage: Object) -> tuple[Any, ...]:
    return (
        moment(stage.created_on),
        stage.name,
        stage.database,
        stage.schema,
        "",
        "N",
        "N",
        stage.owner,
        stage.comment,
        None,
        _type(stage),
        None,
        None,
        None,
        None,
        owner_role_type(stage),
        "Y" if stage.data["directory"] else "N",
    )


def _type(stage: Object) -> str:
    if _is_temporary(stage):
        return "INTERNAL TEMPORARY"
    return "INTERNAL" if stage.data["encryption"] == ENCRYPTIONS[0] else "INTERNAL NO CSE"


@statement("DESCRIBE", "STAGE")
def describe(context: Context, parse: Parser) -> Result:
    """DESCRIBE STAGE."""
    stage = _find(context, context.session.resolve(parse.name(), "DESCRIBE"))
    parse.end()
    found = [(*said, said[-1]) for said in _DESCRIBED]
    enabled = "true" if stage.data["directory"] else "false"
    if stage.data["directory"]:
        when = stage.data["refreshed"]
        text = "" if when is None else f"{datetime.fromtimestamp(when, UTC):%Y-%m-%d %H:%M:%S}"
        text = f"{text}.{int(when * 1000) % 1000:03d} +0000" if when is not None else text
        found.append(("DIRECTORY", "LAST_REFRESHED_ON", "Timestamp", text, ""))
    found.append(("DIRECTORY", "ENABLE", "Boolean", enabled, "false"))
    found.append(("DIRECTORY", "AUTO_REFRESH", "Boolean", "false", "false"))
    columns = (
        "parent_property",
        "property",
        "property_type",
        "property_value",
        "property_default",
    )
    return rows(columns, found)


# -- directory tables


def _refresh(context: Context, parse: Parser, stage: Object) -> Result:
    below = ""
    if parse.accept("SUBPATH"):
        parse.expect("=")
        try:
            below = safe_path(parse.text())
        except UnsafePath as unsafe:
            raise compilation_error(str(unsafe), 1011) from None
    parse.end()
    _require_owner(context, stage)
    _require_directory(stage)
    files = context.account.files
    path = files.store(stage).root / "directory.json"
    before = {row[0]: row for row in _snapshot(context, stage)}
    after = {path: row for path, row in before.items() if not path.startswith(below)}
    for file in files.listing(stage, below):
        after[file.path] = [file.path, file.size, file.modified, file.md5]
    made = path.with_suffix(".new")
    made.write_text(json.dumps(sorted(after.values())))
    made.replace(path)
    files.update(stage, refreshed=context.account.clock.time())
    changes = [
        (name, "REGISTERED_NEW", "File registered successfully.")
        if name not in before
        else (name, "REGISTERED_UPDATE", "File metadata updated successfully.")
        for name in sorted(after)
        if before.get(name) != after[name]
    ]
    gone = [
        (name, "UNREGISTERED", "File unregistered successfully.")
        for name in sorted(before.keys() - after.keys())
    ]
    return rows(["file", "status", "description"], [*changes, *gone], Kind.DDL)


def _snapshot(context: Context, stage: Object) -> list[list[Any]]:
    try:
        text = (context.account.files.store(stage).root / "directory.json").read_text()
    except FileNotFoundError:
        return []
    found: list[list[Any]] = json.loads(text)
    return found


def _require_directory(stage: Object) -> None:
    if not stage.data.get("directory"):
        raise compilation_error(
            f"Stage '{stage}' does not have a directory table: "
            "ALTER STAGE ... SET DIRECTORY = (ENABLE = TRUE) gives it one.",
            1003,
        )


@table("DIRECTORY")
def directory(context: Context, location: str) -> Result:
    """``DIRECTORY(@stage)``: the files as of the last REFRESH."""
    stage, path = context.account.files.locate(location, context.session)
    context.account.files.require(context.session, stage, "READ")
    if path:
        raise compilation_error(f"a directory table is of a whole stage: '{location}'", 1011)
    _require_directory(stage)
    place = "/".join(quote(part, safe="") for part in (stage.database, stage.schema, stage.name))
    url = f"{context.account.url}/api/files/{place}"
    return rows(
        [
            "RELATIVE_PATH",
            ("SIZE", FIXED),
            ("LAST_MODIFIED", DataType("TIMESTAMP_TZ", precision=0, scale=3)),
            "MD5",
            "ETAG",
            "FILE_URL",
        ],
        [
            (
                name,
                size,
                {"t": datetime.fromtimestamp(modified, UTC), "o": 0},
                md5,
                md5,
                f"{url}/{quote(name, safe='')}",
            )
            for name, size, modified, md5 in _snapshot(context, stage)
        ],
    )


# -- addresses of files


@scalar("GET_PRESIGNED_URL")
def presigned_url(context: Context, location: str, path: str, seconds: Any = 3600) -> str:
    """``GET_PRESIGNED_URL(@stage, 'path', seconds)``: an address that needs no session."""
    stage, above = context.account.files.locate(location, context.session)
    context.account.files.require(context.session, stage, "READ")
    if not 0 < int(seconds) <= LONGEST_URL:
        raise invalid_value(seconds, "expiration_time")
    try:
        whole = safe_path(f"{above}/{path}")
    except UnsafePath as unsafe:
        raise compilation_error(str(unsafe), 1011) from None
    leave = context.account.files.passes.issue(
        stage.id, whole, write=False, exact=True, seconds=float(seconds)
    )
    return address(context.account.url, stage.id, whole, leave)


@scalar("BUILD_SCOPED_FILE_URL")
def scoped_url(context: Context, *arguments: Any) -> str:
    """Refused: nobody serves such an address here."""
    raise _no_url("BUILD_SCOPED_FILE_URL")


@scalar("BUILD_STAGE_FILE_URL")
def stage_url(context: Context, *arguments: Any) -> str:
    """Refused likewise."""
    raise _no_url("BUILD_STAGE_FILE_URL")


def _no_url(function: str) -> SqlError:
    return SqlError(2, "0A000", f"not supported by the emulator: {function}; GET_PRESIGNED_URL is")


# -- inside


def _find(context: Context, name: FullName) -> Object:
    """A stage that the session may see; its temporary ones first."""
    found = context.account.files.find_stage(name, context.session)
    if found is None:
        raise does_not_exist("stage", name)
    if not _is_temporary(found):
        context.account.access.require_visible(context.session, found)
    return found


def _require_owner(context: Context, stage: Object) -> None:
    if not _is_temporary(stage):
        context.account.access.require_owner(context.session, stage)


def _is_temporary(stage: Object) -> bool:
    return "session" in stage.data
