"""Statements about stages and their files, as far as no client moves them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowdist.emulator.account import Account, Settings
from flowdist.emulator.errors import SqlError
from flowdist.emulator.result import Transfer
from flowdist.emulator.session import Session
from flowdist.emulator.stages import files
from flowdist.emulator.stages.resent import Resent


@dataclass
class Stages:
    """An account and a session in it, which owns what it makes."""

    account: Account
    session: Session

    def __call__(self, sql: str, session: Session | None = None) -> list[tuple[Any, ...]]:
        return self.account.execute(session or self.session, sql).rows()

    def dicts(self, sql: str) -> list[dict[str, Any]]:
        result = self.account.execute(self.session, sql)
        names = [column.name for column in result.columns]
        return [dict(zip(names, row, strict=True)) for row in result.rows()]

    def transfer(self, sql: str, session: Session | None = None) -> dict[str, Any]:
        query, _ = self.account.query(session or self.session, sql)
        self.account.run(session or self.session, query)
        if query.error is not None:
            raise query.error
        assert isinstance(query.outcome, Transfer)
        return query.outcome.data

    def put(self, location: str, *paths: str) -> None:
        """Place files whose content is their path."""
        stage, above = self.account.files.locate(location, self.session)
        for path in paths:
            upload = self.account.files.store(stage).new_upload()
            upload.write_text(path)
            self.account.files.place(stage, upload, above + path)

    def names(self, location: str) -> list[str]:
        return [row[0] for row in self(f"LIST {location}")]

    def another(self, role: str = "FLOWDIST_ROLE", **rest: Any) -> Session:
        return self.account.open_session(
            "FLOWDIST", role, database="FLOWDIST", schema="PUBLIC", **rest
        )


@pytest.fixture
def stages(account: Account) -> Stages:
    session = account.open_session(
        "FLOWDIST", "FLOWDIST_ROLE", database="FLOWDIST", schema="PUBLIC"
    )
    return Stages(account, session)


def known(stages: Stages) -> list[str]:
    """The files whose digests are known."""
    stage, _ = stages.account.files.locate("@files", stages.session)
    return list(stages.account.files.index.digests(stage.id))


def test_of_files_that_are_gone_nothing_is_kept(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_GONE", 0)
    stages("CREATE STAGE files")
    stages.put("@files", "a/1", "a/2", "b/1", "b/2")
    assert len(stages.names("@files")) == len(known(stages)) == 4

    stages("REMOVE @files/a/")
    assert known(stages) == ["b/1", "b/2"]

    stage, _ = stages.account.files.locate("@files", stages.session)
    (stages.account.files.directory(stage) / "b" / "1").unlink()  # as a mount does it
    assert stages.names("@files/b/") == ["files/b/2"]
    assert known(stages) == ["b/2"]


# -- the stages themselves


def test_a_stage_is_made_shown_described_and_dropped(stages: Stages) -> None:
    made = stages(
        "CREATE STAGE files ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')"
        " DIRECTORY = (ENABLE = TRUE) COMMENT = 'mine'"
    )
    assert made == [("Stage area FILES successfully created.",)]

    (shown,) = stages.dicts("SHOW STAGES LIKE 'fil%' IN SCHEMA flowdist.public")
    created = shown.pop("created_on")
    assert created.tzinfo is not None
    assert shown == {
        "name": "FILES",
        "database_name": "FLOWDIST",
        "schema_name": "PUBLIC",
        "url": "",
        "has_credentials": "N",
        "has_encryption_key": "N",
        "owner": "FLOWDIST_ROLE",
        "comment": "mine",
        "region": None,
        "type": "INTERNAL NO CSE",
        "cloud": None,
        "notification_channel": None,
        "storage_integration": None,
        "endpoint": None,
        "owner_role_type": "ROLE",
        "directory_enabled": "Y",
    }
    described = {(row[0], row[1]): row[3] for row in stages("DESC STAGE files")}
    assert described["STAGE_FILE_FORMAT", "TYPE"] == "CSV"
    assert described["DIRECTORY", "ENABLE"] == "true"
    assert stages("DROP STAGE files") == [("FILES successfully dropped.",)]
    assert stages("SHOW STAGES") == []


def test_a_name_that_is_taken(stages: Stages) -> None:
    stages("CREATE STAGE files")
    stages.put("@files", "a")

    with pytest.raises(SqlError, match="already exists") as failed:
        stages("CREATE STAGE files")
    assert failed.value.errno == 2002
    (row,) = stages("CREATE STAGE IF NOT EXISTS files")
    assert row == ("FILES already exists, statement succeeded.",)
    assert stages.names("@files") == ["files/a"]
    stages("CREATE OR REPLACE STAGE files")
    assert stages.names("@files") == []


def test_a_stage_that_is_missing(stages: Stages) -> None:
    for sql in ("LIST @nowhere", "DROP STAGE nowhere", "DESCRIBE STAGE nowhere", "LS @nowhere/a"):
        with pytest.raises(SqlError) as failed:
            stages(sql)
        assert failed.value.errno == 2003
        assert "Stage 'FLOWDIST.PUBLIC.NOWHERE' does not exist or not authorized." in str(
            failed.value
        )
    (row,) = stages("DROP STAGE IF EXISTS nowhere")
    assert row == ("Drop statement executed successfully (NOWHERE already dropped).",)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE STAGE x URL = 's3://bucket/'",
        "CREATE STAGE x FILE_FORMAT = (TYPE = CSV)",
        "CREATE STAGE x WITH TAG (a = 'b')",
        "CREATE STAGE x CLONE y",
        "CREATE STAGE x DIRECTORY = (ENABLE = TRUE AUTO_REFRESH = TRUE)",
        "LIST @%a_table",
        "COPY INTO t FROM @files",
        "COPY FILES INTO @files FROM (SELECT '@files/a')",
        "LIST @files PATTERN = '\\\\p{Alpha}+'",
        "SELECT $1 FROM @files",
        "SELECT BUILD_SCOPED_FILE_URL(@files, 'a')",
    ],
)
def test_what_is_not_supported_is_said(stages: Stages, sql: str) -> None:
    stages("CREATE STAGE files")

    with pytest.raises(SqlError, match=r"not supported by the emulator: .+"):
        stages(sql)


def test_a_stage_is_altered(stages: Stages) -> None:
    stages("CREATE STAGE files")
    stages.put("@files", "a")

    stages("ALTER STAGE files SET COMMENT = 'new'")
    stages("ALTER STAGE IF EXISTS files SET DIRECTORY = (ENABLE = TRUE)")
    stages("ALTER STAGE IF EXISTS nowhere SET COMMENT = 'x'")
    stages('ALTER STAGE files RENAME TO "My Files"')
    (shown,) = stages.dicts("SHOW STAGES")
    assert (shown["name"], shown["comment"], shown["directory_enabled"]) == ("My Files", "new", "Y")
    assert stages.names("'@\"My Files\"'") == ["my files/a"]


def test_a_temporary_stage_is_its_sessions_alone(stages: Stages) -> None:
    stages("CREATE STAGE files")
    stages.put("@files", "permanent")
    stages("CREATE TEMPORARY STAGE files")
    stages.put("@files", "temporary")
    other = stages.another()
    stages("CREATE TEMP STAGE scratch", other)

    assert stages.names("@files") == ["files/temporary"]
    assert [(s["name"], s["type"]) for s in stages.dicts("SHOW STAGES")] == [
        ("FILES", "INTERNAL TEMPORARY")
    ]
    assert stages("LIST @files", other)[0][0] == "files/permanent"
    directory = stages.account.files.directory(stages.account.files.locate("@scratch", other)[0])
    stages.account.close_session(other)
    assert not directory.exists()
    stages("DROP STAGE files")
    assert stages.names("@files") == ["files/permanent"]


def test_stages_and_files_are_there_after_a_restart(tmp_path: Path) -> None:
    account = Account(tmp_path / "account", Settings())
    session = account.open_session("FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC")
    stages = Stages(account, session)
    stages("CREATE STAGE files")
    stages("CREATE STAGE gone")
    stages.put("@files", "a")
    stages.put("@gone", "b")
    leave = account.files.passes.issue(1, "a", write=False)
    gone = account.files.directory(account.files.locate("@gone", session)[0])
    account.catalog.drop(account.files.locate("@gone", session)[0])
    account.close()

    account = Account(tmp_path / "account", Settings())
    account.files.start()
    session = account.open_session("FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC")
    assert Stages(account, session).names("@files") == ["files/a"]
    assert account.files.passes.check(leave).prefix == "a"
    assert not gone.exists()
    account.close()


# -- their files


def test_list_shows_what_begins_with_a_prefix(stages: Stages) -> None:
    stages("CREATE STAGE files")
    stages.put("@files", "b/deep/x.json", "b.txt", "b/a", "c d/e")

    (first, *_) = stages.dicts("LIST @files")
    assert list(first) == ["name", "size", "md5", "last_modified"]
    assert first["md5"] == hashlib.md5(b"b.txt").hexdigest()
    assert first["last_modified"].endswith(" GMT")
    assert [row[0] for row in stages("LIST @files")] == [
        "files/b.txt",
        "files/b/a",
        "files/b/deep/x.json",
        "files/c d/e",
    ]
    assert stages.names("@flowdist.public.files/b/") == ["files/b/a", "files/b/deep/x.json"]
    assert stages.names("@files/b.") == ["files/b.txt"]
    assert stages.names("'@files/c d/'") == ["files/c d/e"]
    assert stages.names("@files PATTERN = '.*[.]json'") == ["files/b/deep/x.json"]
    assert stages.names("@files PATTERN = 'json'") == []


def test_remove_takes_all_that_begins_with_a_prefix(stages: Stages) -> None:
    stages("CREATE STAGE files")
    stages.put("@files", "my", "my_new/a", "my.csv", "other/a.tmp", "other/b")

    assert stages("REMOVE @files/my") == [
        ("files/my", "removed"),
        ("files/my.csv", "removed"),
        ("files/my_new/a", "removed"),
    ]
    assert stages("RM @files PATTERN = '.*tmp'") == [("files/other/a.tmp", "removed")]
    assert stages.names("@files") == ["files/other/b"]
    assert stages("REMOVE @files/nothing/") == []


@pytest.mark.parametrize(
    "location", ["@files/../x", "'@files/a/./b'", "@", "'@files.'", "@a.b.c.d"]
)
def test_locations_that_make_no_sense(stages: Stages, location: str) -> None:
    stages("CREATE STAGE files")
    with pytest.raises(SqlError) as failed:
        stages(f"LIST {location}")
    assert failed.value.errno in (1003, 1011)


def test_a_file_that_is_hidden_is_neither_listed_nor_found(stages: Stages) -> None:
    stages("CREATE STAGE files")
    stages.put("@files", "a", "b")
    stages.account.faults.add("hide", location="@flowdist.public.files/a")

    assert stages.names("@files") == ["files/b"]
    assert stages.transfer("GET @files file:///tmp/")["src_locations"] == ["b"]


def test_files_are_copied_from_stage_to_stage(stages: Stages) -> None:
    stages("CREATE STAGE one")
    stages("CREATE STAGE two")
    stages.put("@one", "in/a.csv", "in/deep/b.csv", "in/c", "d")

    assert stages("COPY FILES INTO @two/out/ FROM @one/in/ PATTERN = '.*csv'") == [
        ("out/a.csv",),
        ("out/deep/b.csv",),
    ]
    copied = stages("COPY FILES INTO @two FROM @one FILES = ('d', 'no') DETAILED_OUTPUT = FALSE")
    assert copied == [(1,)]
    assert stages.names("@two") == ["two/d", "two/out/a.csv", "two/out/deep/b.csv"]


def test_every_user_has_a_stage(stages: Stages) -> None:
    stages.put("@~", "a/b")

    assert stages.names("@~/a") == ["a/b"]
    assert stages("SHOW STAGES IN ACCOUNT") == []


def test_a_directory_table_shows_the_last_refresh(stages: Stages) -> None:
    context = _context(stages)
    stages("CREATE STAGE files")
    with pytest.raises(SqlError, match="does not have a directory table"):
        stages("ALTER STAGE files REFRESH")
    stages("ALTER STAGE files SET DIRECTORY = (ENABLE = TRUE)")
    stages.put("@files", "a", "in/b")

    assert context("@files") == []
    assert [row[:2] for row in stages("ALTER STAGE files REFRESH")] == [
        ("a", "REGISTERED_NEW"),
        ("in/b", "REGISTERED_NEW"),
    ]
    stages("REMOVE @files/a")
    stages.put("@files", "in/c")
    assert context("@files") == ["a", "in/b"]
    stages("ALTER STAGE files REFRESH SUBPATH = 'in'")
    assert context("@files") == ["a", "in/b", "in/c"]
    (gone,) = stages("ALTER STAGE files REFRESH")
    assert gone[:2] == ("a", "UNREGISTERED")
    assert context("@files") == ["in/b", "in/c"]


# -- what clients are told


def test_put_says_what_is_to_be_sent(stages: Stages) -> None:
    stages("CREATE STAGE files")

    said = stages.transfer(
        "PUT 'file:///tmp/with blank/*.csv' '@files/in/the dark'"
        " PARALLEL = 8, AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = gzip OVERWRITE = TRUE"
    )
    info = said.pop("stageInfo")
    assert (said["command"], said["src_locations"]) == ("UPLOAD", ["/tmp/with blank/*.csv"])
    assert (said["parallel"], said["autoCompress"]) == (8, False)
    assert (said["sourceCompression"], said["overwrite"]) == ("gzip", True)
    stage, _ = stages.account.files.locate("@files", stages.session)
    assert info["locationType"] == "S3"
    assert info["location"] == f"flowdist-stages/{stage.id}/in/the dark/"
    leave = stages.account.files.passes.check(info["creds"]["AWS_TOKEN"])
    assert (leave.prefix, leave.write) == ("in/the dark/", True)
    said = stages.transfer("PUT file:///tmp/a.csv @files")
    assert (said["parallel"], said["autoCompress"], said["overwrite"]) == (4, True, False)
    assert said["sourceCompression"] == "auto_detect"


def test_older_connectors_get_an_address_for_each_file(stages: Stages) -> None:
    stages("CREATE STAGE files")
    stages.put("@files", "in/a b")
    older = stages.another(application="PythonConnector 4.8.1")

    info = stages.transfer("PUT file:///tmp/x/a.csv @files/in", older)["stageInfo"]
    assert info["locationType"] == "GCS"
    address, _, leave = info["presignedUrl"].partition("?pass=")
    assert address.endswith("/in/a.csv")
    allowed = stages.account.files.passes.check(leave)
    assert (allowed.prefix, allowed.exact, allowed.overwrite) == ("in/a.csv", True, False)
    said = stages.transfer("GET @files file:///tmp", older)
    assert said["src_locations"] == ["in/a b"]
    assert "/in/a%20b?pass=" in said["presignedUrls"][0]


@pytest.mark.parametrize(
    ("sent", "again", "meant"),
    [
        ("PUT 'file:///x/it\\'s' @s", "PUT 'file://it's's' @s", "PUT 'file://it\\'s' @s"),
        ("PUT file:///x/* @s/x/*", "PUT file://a b @sa b", "PUT 'file://a b' @s/x/*"),
        ("PUT 'file:///x/*' @s", "PUT 'file://a\\b' @s", "PUT 'file://a\\\\b' @s"),
        ("PUT 'file:///x/*' @s", "PUT 'file://it\\'s' @s", "PUT 'file://it\\'s' @s"),
        ("PUT 'file:///x/*' @s", "PUT 'file:///y/*' @s", "PUT 'file:///y/*' @s"),
        ("PUT 'file:///x/*' @s", "SELECT 1", "SELECT 1"),
    ],
)
def test_what_older_connectors_send_again_is_understood(sent: str, again: str, meant: str) -> None:
    resent = Resent()
    resent.note(1, sent)

    assert resent.meant(1, sent) == sent
    assert resent.meant(1, again) == meant
    assert resent.meant(2, again) == again
    resent.forget(1)
    assert resent.meant(1, again) == again


def test_an_older_connector_without_an_address_stays_here(stages: Stages) -> None:
    stages("CREATE STAGE files")
    stages.account.url = "http://127.0.0.1:1"
    older = stages.another(application="PythonConnector 4.8.1")

    info = stages.transfer("PUT file:///tmp/a @files", older)["stageInfo"]

    assert info["endPoint"] == "127.0.0.1:1"  # else it would be one of Google's


@pytest.mark.parametrize(
    ("sql", "errno"),
    [
        ("PUT @files file:///tmp/a", 1003),
        ("PUT file:///tmp/a file:///tmp/b", 1003),
        ("PUT file:///tmp/a @files PARALLEL = 100", 1008),
        ("PUT file:///tmp/a @files SOURCE_COMPRESSION = rar", 1008),
        ("PUT file:///tmp/a @files COLOUR = red", 1003),
        ("GET file:///tmp @files", 1003),
        ("GET @files file:///tmp PATTERN = '*'", 100048),
    ],
)
def test_transfers_that_make_no_sense(stages: Stages, sql: str, errno: int) -> None:
    stages("CREATE STAGE files")
    with pytest.raises(SqlError) as failed:
        stages.transfer(sql)
    assert failed.value.errno == errno


def test_transfers_are_for_clients_and_alone(stages: Stages) -> None:
    stages("CREATE STAGE files")
    with pytest.raises(SqlError, match="PUT and GET are for clients only"):
        stages("GET @files file:///tmp")

    query, _ = stages.account.query(stages.session, "LIST @files; GET @files file:///tmp")
    stages.account.run(stages.session, query, count=0)
    assert "cannot be one of several statements" in str(query.error)


def test_privileges_on_stages(stages: Stages) -> None:
    stages("CREATE STAGE files")
    stages.put("@files", "a")
    admin = stages.another("ACCOUNTADMIN")
    stages("CREATE ROLE reader", admin)
    stages("GRANT USAGE ON DATABASE flowdist TO ROLE reader", admin)
    stages("GRANT USAGE ON SCHEMA flowdist.public TO ROLE reader", admin)
    reader = stages.another("READER")

    def errno(act: Callable[[], object]) -> int | None:
        try:
            act()
        except SqlError as failed:
            return failed.errno
        return None

    reads = (
        lambda: stages("LIST @files", reader),
        lambda: stages.transfer("GET @files file:///tmp", reader),
    )
    writes = (
        lambda: stages("REMOVE @files/none", reader),
        lambda: stages.transfer("PUT file:///tmp/a @files", reader),
    )
    assert [errno(act) for act in (*reads, *writes)] == [2003] * 4
    stages("GRANT READ ON STAGE flowdist.public.files TO ROLE reader", admin)
    assert [errno(act) for act in (*reads, *writes)] == [None, None, 3001, 3001]
    stages("GRANT WRITE ON STAGE flowdist.public.files TO ROLE reader", admin)
    assert [errno(act) for act in writes] == [None, None]
    assert errno(lambda: stages("DROP STAGE files", reader)) == 3001
    assert errno(lambda: stages("CREATE STAGE mine", reader)) == 3001


def _context(stages: Stages) -> Callable[[str], list[str]]:
    """Reads a directory table as the SQL engine does."""
    from flowdist.emulator.statements import TABLES, Context

    query, _ = stages.account.query(stages.session, "SELECT 1")
    context = Context(stages.account, stages.session, query)
    return lambda location: [row[0] for row in TABLES["DIRECTORY"](context, location).rows()]
