"""Image repositories: CREATE, DROP, SHOW, and the images in them."""

from __future__ import annotations

import json
from collections.abc import Callable

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, does_not_exist, invalid_value
from flowdist.emulator.names import FullName
from flowdist.emulator.result import Result, message, rows
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, scalar, statement
from flowdist.emulator.statements.creating import (
    DONE,
    changes,
    created,
    drop,
    free_name,
    owner_role_type,
    replacing,
    visible,
)
from flowdist.emulator.statements.showing import like, moment, read_filter
from flowdist.emulator.types import LTZ

KIND = "image repository"
ENCRYPTIONS = ("SNOWFLAKE_FULL", "SNOWFLAKE_SSE")
READERS = ("READ", "WRITE", "OWNERSHIP")


def _encryption(parse: Parser) -> str:
    parse.expect("(", "TYPE", "=")
    found = parse.text().upper()
    if found not in ENCRYPTIONS:
        raise invalid_value(found, "TYPE")
    parse.expect(")")
    return found


@statement("CREATE", "IMAGE", "REPOSITORY")
def create(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] IMAGE REPOSITORY [IF NOT EXISTS] name ..."""
    replace = replacing(parse)
    if_not_exists = parse.if_not_exists()
    name = context.session.resolve(parse.name())
    given = parse.properties({"ENCRYPTION": _encryption, "COMMENT": Parser.text})
    if parse.word() in ("TAG", "WITH"):
        raise parse.unsupported()
    parse.end()
    _plain(name)
    account = context.account
    account.access.require_create(context.session, KIND, name)
    with account.catalog.lock:
        there = free_name(context, KIND, name, replace, if_not_exists, _remove(context))
        if there is not None:
            return there
        account.catalog.create(
            KIND,
            name,
            owner=account.access.owner_role(context.session),
            comment=given.get("COMMENT", ""),
            encryption=given.get("ENCRYPTION", ENCRYPTIONS[0]),
        )
    return created("Image Repository", name.name)


@statement("ALTER", "IMAGE", "REPOSITORY")
def alter(context: Context, parse: Parser) -> Result:
    """ALTER IMAGE REPOSITORY [IF EXISTS] name { SET COMMENT = '...' | UNSET COMMENT }."""
    if_exists = parse.if_exists()
    name = context.session.resolve(parse.name(), "ALTER")
    if parse.accept("UNSET"):
        parse.expect("COMMENT")
        comment = ""
    elif parse.accept("SET"):
        comment = changes(parse, {"COMMENT": Parser.text}, KIND)["COMMENT"]
    else:
        raise parse.unsupported()
    parse.end()
    if if_exists and context.account.catalog.find(KIND, name) is None:
        return message(DONE)
    target = context.account.access.find(context.session, KIND, name)
    context.account.access.require_owner(context.session, target)
    context.account.catalog.update(target, comment=comment)
    return message(DONE)


@statement("DROP", "IMAGE", "REPOSITORY")
def drop_repository(context: Context, parse: Parser) -> Result:
    """DROP IMAGE REPOSITORY [IF EXISTS] name: its images go with it."""
    return drop(
        context,
        parse,
        KIND,
        lambda parts: context.session.resolve(parts, "DROP"),
        _remove(context),
    )


@statement("SHOW", "IMAGE", "REPOSITORIES")
def show(context: Context, parse: Parser) -> Result:
    """SHOW IMAGE REPOSITORIES [LIKE ...] [IN ...]."""
    wanted = read_filter(parse, context.session)
    parse.end()
    found = visible(context, context.account.catalog.all(KIND))
    images = context.account.images
    return rows(
        [
            ("created_on", LTZ),
            "name",
            "database_name",
            "schema_name",
            "repository_url",
            "owner",
            "owner_role_type",
            "comment",
            "encryption",
        ],
        [
            (
                moment(o.created_on),
                o.name,
                o.database,
                o.schema,
                images.url(_path(o)),
                o.owner,
                owner_role_type(o),
                o.comment,
                o.data["encryption"],
            )
            for o in wanted.apply(found)
        ],
    )


@statement("SHOW", "IMAGES")
def show_images(context: Context, parse: Parser) -> Result:
    """SHOW IMAGES [LIKE ...] IN IMAGE REPOSITORY name: a row for each tag."""
    pattern = parse.text() if parse.accept("LIKE") else None
    parse.expect("IN", "IMAGE", "REPOSITORY")
    name = context.session.resolve(parse.name(), "SHOW")
    parse.end()
    repository = _readable(context, name)
    return rows(
        [("created_on", LTZ), "image_name", "tags", "digest", "image_path"],
        [
            (
                moment(o.created_on),
                o.data["image_name"],
                o.data["tag"],
                o.data["image"]["digest"],
                o.data["image"]["path"].removeprefix("/"),
            )
            for o in context.account.images.objects(repository)
            if pattern is None or like(o.data["image_name"], pattern)
        ],
    )


@scalar("SYSTEM$REGISTRY_LIST_IMAGES")
def list_images(context: Context, path: str) -> str:
    """The names of the images in ``/db/schema/repository``, as JSON."""
    parts = [part.upper() for part in path.split("/") if part]
    if len(parts) != 3:
        raise does_not_exist(KIND, path)
    repository = _readable(context, FullName(*parts))
    found = context.account.images.objects(repository)
    return json.dumps({"images": sorted({o.data["image_name"] for o in found})})


def _readable(context: Context, name: FullName) -> Object:
    repository = context.account.access.find(context.session, KIND, name)
    context.account.access.require_any(context.session, READERS, repository)
    return repository


def _remove(context: Context) -> Callable[[Object], None]:
    return context.account.images.drop_repository


def _path(o: Object) -> str:
    return f"/{o.database}/{o.schema}/{o.name}".lower()


def _plain(name: FullName) -> None:
    """Only names that need no quotes: an image's path has them in lower case."""
    for part in (name.database, name.schema, name.name):
        if not part.replace("_", "A").replace("$", "A").isalnum() or part != part.upper():
            raise SqlError(
                2,
                "0A000",
                f"Unsupported feature 'quoted name in an image repository's path: \"{part}\"'.",
            )
