"""Image repositories and the images in them."""

from __future__ import annotations

import json
import sys

import pytest

from flowdist.emulator.account import Account
from flowdist.emulator.errors import SqlError
from flowdist.emulator.session import Session

PATH = "/flowdist/public/images/python:3.12"


@pytest.fixture
def session(account: Account) -> Session:
    made = account.open_session(
        "FLOWDIST", "FLOWDIST_ROLE", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    account.execute(made, "CREATE IMAGE REPOSITORY images COMMENT = 'mine'")
    return made


def _rows(account: Account, session: Session, sql: str) -> list[dict[str, object]]:
    result = account.execute(session, sql)
    names = [column.name for column in result.columns]
    return [dict(zip(names, row, strict=True)) for row in result.rows()]


def test_a_repository_is_created_shown_and_dropped(account: Account, session: Session) -> None:
    (row,) = _rows(account, session, "SHOW IMAGE REPOSITORIES LIKE 'im%' IN SCHEMA")
    assert list(row) == [
        "created_on",
        "name",
        "database_name",
        "schema_name",
        "repository_url",
        "owner",
        "owner_role_type",
        "comment",
        "encryption",
    ]
    assert str(row["repository_url"]).endswith("/flowdist/public/images")
    assert (row["name"], row["owner"], row["comment"]) == ("IMAGES", "FLOWDIST_ROLE", "mine")
    assert row["encryption"] == "SNOWFLAKE_FULL"
    result = account.execute(session, "DROP IMAGE REPOSITORY images")
    assert result.rows() == [("IMAGES successfully dropped.",)]
    assert _rows(account, session, "SHOW IMAGE REPOSITORIES") == []


def test_a_repository_that_is_there_is_left_or_replaced(account: Account, session: Session) -> None:
    account.images.push(PATH)
    with pytest.raises(SqlError) as refused:
        account.execute(session, "CREATE IMAGE REPOSITORY images")
    assert refused.value.errno == 2002
    result = account.execute(session, "CREATE IMAGE REPOSITORY IF NOT EXISTS images")
    assert result.rows() == [("IMAGES already exists, statement succeeded.",)]
    assert account.images.resolve(PATH, session).path == PATH
    sql = "CREATE OR REPLACE IMAGE REPOSITORY images ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')"
    account.execute(session, sql)
    with pytest.raises(SqlError):
        account.images.resolve(PATH, session)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE IMAGE REPOSITORY r WITH TAG (a = 'b')",
        'CREATE IMAGE REPOSITORY "Quoted"',
        "CREATE IMAGE REPOSITORY r ENCRYPTION = (TYPE = 'NONE')",
        "ALTER IMAGE REPOSITORY images RENAME TO other",
    ],
)
def test_what_is_not_supported_is_refused(account: Account, session: Session, sql: str) -> None:
    with pytest.raises(SqlError):
        account.execute(session, sql)


@pytest.mark.parametrize(
    "reference",
    [
        PATH,
        "flowdist/public/images/python:3.12",
        "images/python:3.12",
        "myorg-acct.registry.snowflakecomputing.com" + PATH,
        "/FLOWDIST/public/images/python:3.12",
    ],
)
def test_an_image_is_found_by_every_form_of_its_name(
    account: Account, session: Session, reference: str
) -> None:
    pushed = account.images.push(
        PATH, entrypoint=["python"], cmd=["-V"], env={"A": "1"}, working_directory="/app"
    )
    assert account.images.resolve(reference, session) == pushed
    assert pushed.digest.startswith("sha256:")
    by_digest = f"/flowdist/public/images/python@{pushed.digest}"
    assert account.images.resolve(by_digest, session) == pushed


def test_an_image_without_a_tag_is_the_latest(account: Account, session: Session) -> None:
    pushed = account.images.push("/flowdist/public/images/team/model")
    assert pushed.path == "/flowdist/public/images/team/model:latest"
    assert account.images.resolve("/flowdist/public/images/team/model", session) == pushed


def test_an_image_that_nobody_pushed_is_refused(account: Account, session: Session) -> None:
    account.images.push(PATH)
    for reference in ("/flowdist/public/images/python:3.13", "/flowdist/public/images/other:3.12"):
        with pytest.raises(SqlError, match=f"Failed to retrieve image {reference}"):
            account.images.resolve(reference, session)
    with pytest.raises(SqlError, match=r"'FLOWDIST\.PUBLIC\.NONE' does not exist"):
        account.images.resolve("/flowdist/public/none/python:3.12", session)
    with pytest.raises(SqlError, match="account's own repositories"):
        account.images.resolve("docker.io/library/python:3.12", session)
    with pytest.raises(SqlError, match="Image repository"):
        account.images.push("/flowdist/public/none/python:3.12")


def test_a_tag_moves_to_the_image_that_is_pushed_last(account: Account, session: Session) -> None:
    first = account.images.push(PATH, cmd=["a"])
    second = account.images.push(PATH, cmd=["b"])
    assert first.digest != second.digest
    assert account.images.resolve(PATH, session) == second
    assert len(_rows(account, session, "SHOW IMAGES IN IMAGE REPOSITORY images")) == 1


def test_images_are_listed(account: Account, session: Session) -> None:
    account.images.push(PATH)
    account.images.push("/flowdist/public/images/model:1")
    found = _rows(account, session, "SHOW IMAGES IN IMAGE REPOSITORY flowdist.public.images")
    assert list(found[0]) == ["created_on", "image_name", "tags", "digest", "image_path"]
    assert [(row["image_name"], row["tags"], row["image_path"]) for row in found] == [
        ("model", "1", "flowdist/public/images/model:1"),
        ("python", "3.12", "flowdist/public/images/python:3.12"),
    ]


def test_the_old_function_lists_names(account: Account, session: Session) -> None:
    from flowdist.emulator.statements import SCALARS, Context

    account.images.push(PATH)
    query, _ = account.query(session, "SELECT 1")
    listed = SCALARS["SYSTEM$REGISTRY_LIST_IMAGES"](
        Context(account, session, query), "/flowdist/public/images"
    )
    assert json.loads(listed) == {"images": ["python"]}


def test_reading_a_repository_needs_a_privilege(account: Account, session: Session) -> None:
    account.images.push(PATH)
    admin = account.open_session("FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC")
    account.execute(admin, "CREATE ROLE reader")
    account.execute(admin, "GRANT USAGE ON DATABASE flowdist TO ROLE reader")
    account.execute(admin, "GRANT USAGE ON SCHEMA flowdist.public TO ROLE reader")
    reader = account.open_session("FLOWDIST", "READER", database="FLOWDIST", schema="PUBLIC")
    with pytest.raises(SqlError, match="does not exist or not authorized"):
        account.images.resolve(PATH, reader)
    account.execute(admin, "GRANT READ ON IMAGE REPOSITORY images TO ROLE reader")
    assert account.images.resolve(PATH, reader).path == PATH


def test_this_python_becomes_an_image(account: Account, session: Session) -> None:
    pushed = account.images.push_here(PATH)
    assert pushed.entrypoint == (sys.executable,)


def test_images_survive_the_server(account: Account, session: Session) -> None:
    pushed = account.images.push(PATH, cmd=["a"])
    account.close()
    again = Account(account.directory)
    try:
        assert again.images.resolve(PATH, session) == pushed
    finally:
        again.close()
