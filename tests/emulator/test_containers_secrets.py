"""Secrets: their values reach who may read them, and nothing else shows them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from flowdist.emulator.account import Account
from flowdist.emulator.errors import SqlError
from flowdist.emulator.session import Session
from flowdist.emulator.statements.secrets import masked, secret_values

VALUE = "s3cr'et-value"
CREATE = f"CREATE SECRET token TYPE = GENERIC_STRING SECRET_STRING = '{VALUE}'".replace(
    "r'e", "r''e"
)
LOGIN = "CREATE SECRET login TYPE = PASSWORD USERNAME = 'me' PASSWORD = 'hidden-word' COMMENT = 'c'"


@pytest.fixture
def session(account: Account) -> Session:
    made = account.open_session("FLOWDIST", "FLOWDIST_ROLE", database="FLOWDIST", schema="PUBLIC")
    assert account.execute(made, CREATE).rows() == [("Secret TOKEN successfully created.",)]
    account.execute(made, LOGIN)
    return made


def test_values_are_given_to_who_may_read_them(account: Account, session: Session) -> None:
    assert secret_values(account, ("TOKEN",), session) == {"secret_string": VALUE}
    assert secret_values(account, ("FLOWDIST", "PUBLIC", "LOGIN"), session) == {
        "username": "me",
        "password": "hidden-word",
    }
    stranger = account.open_session("FLOWDIST", "PUBLIC", database="FLOWDIST", schema="PUBLIC")
    with pytest.raises(SqlError, match="does not exist or not authorized"):
        secret_values(account, ("TOKEN",), stranger)


def test_show_and_describe_have_no_values(account: Account, session: Session) -> None:
    shown = account.execute(session, "SHOW SECRETS IN SCHEMA")
    assert [row[1:4] + row[6:7] for row in shown.rows()] == [
        ("LOGIN", "PUBLIC", "FLOWDIST", "PASSWORD"),
        ("TOKEN", "PUBLIC", "FLOWDIST", "GENERIC_STRING"),
    ]
    described = account.execute(session, "DESCRIBE SECRET login")
    assert [column.name for column in described.columns][:8] == [
        "created_on",
        "name",
        "schema_name",
        "database_name",
        "owner",
        "comment",
        "secret_type",
        "username",
    ]
    assert described.rows()[0][7] == "me"
    everything = repr(shown.rows()) + repr(described.rows())
    assert "hidden-word" not in everything
    assert VALUE not in everything


def test_no_history_and_no_catalog_has_a_value(account: Account, session: Session) -> None:
    account.execute(session, "ALTER SECRET token SET SECRET_STRING = $$another-value$$")
    assert secret_values(account, ("TOKEN",), session) == {"secret_string": "another-value"}
    with pytest.raises(SqlError) as failed:
        account.execute(session, CREATE)
    assert VALUE not in failed.value.message
    texts = [query.text for query in account.queries.all()]
    assert f"{CREATE.partition(' = ')[0]} = GENERIC_STRING SECRET_STRING = '***'" in texts
    words = ("s3cr", "another-value", "hidden-word")
    assert not any(word in text for word in words for text in texts)
    assert not any(word in repr(query) for word in words for query in account.queries.all())
    for path in account.directory.rglob("*"):
        if path.is_file() and path.name != "secrets.json":
            assert not any(word.encode() in path.read_bytes() for word in words), path


def test_only_the_owner_reads_the_file(account: Account, session: Session) -> None:
    path: Path = account.directory / "secrets.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_secret_is_altered_replaced_and_dropped(account: Account, session: Session) -> None:
    account.execute(session, "ALTER SECRET login SET PASSWORD = 'new' COMMENT = 'changed'")
    assert secret_values(account, ("LOGIN",), session) == {"username": "me", "password": "new"}
    account.execute(
        session, "CREATE OR REPLACE SECRET login TYPE = GENERIC_STRING SECRET_STRING = 'x'"
    )
    assert secret_values(account, ("LOGIN",), session) == {"secret_string": "x"}
    result = account.execute(session, "DROP SECRET login")
    assert result.rows() == [("LOGIN successfully dropped.",)]
    with pytest.raises(SqlError):
        secret_values(account, ("LOGIN",), session)
    assert '"x"' not in (account.directory / "secrets.json").read_text()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("CREATE SECRET s TYPE = OAUTH2 API_AUTHENTICATION = i", "OAUTH2"),
        ("CREATE SECRET s TYPE = SYMMETRIC_KEY ALGORITHM = GENERIC", "SYMMETRIC_KEY"),
        ("CREATE SECRET s TYPE = PASSWORD USERNAME = 'u'", "PASSWORD"),
        ("CREATE SECRET s SECRET_STRING = 'x'", "TYPE"),
        ("CREATE SECRET s TYPE = GENERIC_STRING SECRET_STRING = 'x' PASSWORD = 'y'", "PASSWORD"),
        ("ALTER SECRET token SET PASSWORD = 'y'", "PASSWORD"),
        ("ALTER SECRET token UNSET COMMENT", "UNSET COMMENT"),
    ],
)
def test_what_is_not_supported_is_refused(
    account: Account, session: Session, sql: str, message: str
) -> None:
    with pytest.raises(SqlError, match=message):
        account.execute(session, sql)


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("create secret s secret_string='a\\'b' comment='c'", "secret_string='***' comment='c'"),
        ("alter user u set password = 'p'", "password = '***'"),
        ("CREATE SECRET s SECRET_STRING = 'never closed", "SECRET_STRING = '***'"),
        ("execute immediate 'alter secret s secret_string = ''it''''s'' '", "string = '***' '"),
        ("execute immediate 'alter secret s secret_string = \\'x\\' '", "string = '***' '"),
        ("create secret s secret_string = '''quoted''' comment = ''", "'***' comment = ''"),
        ("select 'password = ''x'''", "select 'password = ''x'''"),
    ],
)
def test_texts_are_masked(sql: str, shown: str) -> None:
    assert masked(sql).endswith(shown)
