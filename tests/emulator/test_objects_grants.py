"""GRANT, REVOKE and SHOW GRANTS."""

from __future__ import annotations

import pytest
from asking import As

from flowdist.emulator.account import Account


@pytest.fixture
def admin(account: Account) -> As:
    made = As(account, "ACCOUNTADMIN")
    made("CREATE ROLE reader")
    made("CREATE ROLE other")
    return made


@pytest.fixture
def owner(account: Account, admin: As) -> As:
    return As(account)


def held(asked: As, role: str) -> set[tuple[str, str, str]]:
    rows = asked(f"SHOW GRANTS TO ROLE {role}")
    return {(r["privilege"], r["granted_on"], r["name"]) for r in rows}


def test_show_grants_has_the_documented_columns(owner: As) -> None:
    to = "created_on privilege granted_on name granted_to grantee_name grant_option granted_by"
    assert owner.columns("SHOW GRANTS TO ROLE flowdist_role") == to.split()
    assert owner.columns("SHOW GRANTS ON DATABASE flowdist") == [
        *to.split(),
        "granted_by_role_type",
    ]
    of = "created_on role granted_to grantee_name granted_by"
    assert owner.columns("SHOW GRANTS OF ROLE flowdist_role") == of.split()
    assert owner.columns("SHOW GRANTS TO USER flowdist") == of.split()


def test_privileges_on_objects_of_every_level(owner: As, admin: As) -> None:
    admin("GRANT EXECUTE TASK, CREATE ROLE ON ACCOUNT TO ROLE reader")
    owner("GRANT USAGE ON DATABASE flowdist TO ROLE reader")
    owner("GRANT USAGE, CREATE HYBRID TABLE, CREATE IMAGE REPOSITORY ON SCHEMA public TO reader")
    owner("GRANT OPERATE ON WAREHOUSE flowdist_wh TO ROLE reader WITH GRANT OPTION")
    assert held(admin, "reader") == {
        ("EXECUTE TASK", "ACCOUNT", "EMULATOR"),
        ("CREATE ROLE", "ACCOUNT", "EMULATOR"),
        ("USAGE", "DATABASE", "FLOWDIST"),
        ("USAGE", "SCHEMA", "FLOWDIST.PUBLIC"),
        ("CREATE HYBRID TABLE", "SCHEMA", "FLOWDIST.PUBLIC"),
        ("CREATE IMAGE REPOSITORY", "SCHEMA", "FLOWDIST.PUBLIC"),
        ("OPERATE", "WAREHOUSE", "FLOWDIST_WH"),
    }
    options = {r["privilege"]: r["grant_option"] for r in admin("SHOW GRANTS TO ROLE reader")}
    assert (options["OPERATE"], options["USAGE"]) == ("true", "false")


def test_all_privileges(owner: As, admin: As) -> None:
    owner("GRANT ALL PRIVILEGES ON WAREHOUSE flowdist_wh TO ROLE reader")
    assert {p for p, _, _ in held(admin, "reader")} == {
        "APPLYBUDGET",
        "MODIFY",
        "MONITOR",
        "OPERATE",
        "USAGE",
    }


def test_revoked_is_gone(owner: As, admin: As) -> None:
    owner("GRANT USAGE, MONITOR ON DATABASE flowdist TO ROLE reader")
    owner("REVOKE USAGE ON DATABASE flowdist FROM ROLE reader")
    assert held(admin, "reader") == {("MONITOR", "DATABASE", "FLOWDIST")}
    owner("REVOKE USAGE ON DATABASE flowdist FROM ROLE reader")  # no error where there is none


def test_the_grant_option_lets_others_grant_and_cascades(
    account: Account, owner: As, admin: As
) -> None:
    owner("GRANT USAGE ON DATABASE flowdist TO ROLE reader WITH GRANT OPTION")
    reader = As(account, "READER", user="NOBODY")
    reader("GRANT USAGE ON DATABASE flowdist TO ROLE other")
    granted = admin("SHOW GRANTS TO ROLE other")
    assert [r["granted_by"] for r in granted] == ["READER"]
    assert owner.error("REVOKE USAGE ON DATABASE flowdist FROM ROLE reader").errno == 3016
    owner("REVOKE USAGE ON DATABASE flowdist FROM ROLE reader CASCADE")
    assert held(admin, "other") == held(admin, "reader") == set()


def test_who_does_not_own_may_not_grant(account: Account, owner: As, admin: As) -> None:
    owner("GRANT USAGE ON DATABASE flowdist TO ROLE reader")
    reader = As(account, "READER", user="NOBODY")
    assert reader.error("GRANT USAGE ON DATABASE flowdist TO ROLE other").errno == 3001
    assert owner.error("GRANT EXECUTE TASK ON ACCOUNT TO ROLE other").errno == 3001


@pytest.mark.parametrize(
    ("statement", "errno"),
    [
        ("GRANT USAGE ON DATABASE nowhere TO ROLE reader", 2003),
        ("GRANT USAGE ON DATABASE flowdist TO ROLE nobody", 2003),
        ("GRANT SELECT ON DATABASE flowdist TO ROLE reader", 3003),
        ("GRANT FLY ON DATABASE flowdist TO ROLE reader", 3002),
        # Snowflake's grammar says INTEGRATION here.
        ("GRANT USAGE ON EXTERNAL ACCESS INTEGRATION x TO ROLE reader", 1003),
        ("GRANT USAGE ON DATABASE flowdist TO SHARE s", 2),
        ("GRANT USAGE ON FUNCTION f(int) TO ROLE reader", 2),
    ],
)
def test_grants_that_are_refused(owner: As, statement: str, errno: int) -> None:
    assert owner.error(statement).errno == errno


def test_future_grants_are_for_what_comes_later(account: Account, owner: As, admin: As) -> None:
    owner("CREATE SCHEMA before")
    admin("GRANT USAGE ON FUTURE SCHEMAS IN DATABASE flowdist TO ROLE reader")
    owner("CREATE SCHEMA after")
    assert held(admin, "reader") == {("USAGE", "SCHEMA", "FLOWDIST.AFTER")}
    future = admin("SHOW FUTURE GRANTS IN DATABASE flowdist")
    assert [(r["privilege"], r["grant_on"], r["name"]) for r in future] == [
        ("USAGE", "SCHEMA", "FLOWDIST.<SCHEMA>")
    ]
    admin("REVOKE USAGE ON FUTURE SCHEMAS IN DATABASE flowdist FROM ROLE reader")
    owner("CREATE SCHEMA later")
    assert held(admin, "reader") == {("USAGE", "SCHEMA", "FLOWDIST.AFTER")}


def test_a_future_grant_counts_before_anybody_has_looked(
    account: Account, owner: As, admin: As
) -> None:
    owner("GRANT USAGE ON DATABASE flowdist TO ROLE reader")
    admin("GRANT USAGE ON FUTURE SCHEMAS IN DATABASE flowdist TO ROLE reader")
    owner("CREATE SCHEMA after")
    As(account, "READER", user="NOBODY")("USE SCHEMA flowdist.after")


def test_ownership_moves_with_or_without_what_was_granted(owner: As, admin: As) -> None:
    owner("CREATE DATABASE given")
    owner("GRANT USAGE ON DATABASE given TO ROLE other")
    refused = owner.error("GRANT OWNERSHIP ON DATABASE given TO ROLE reader")
    assert refused.errno == 3036
    assert "Dependent grant of privilege 'USAGE'" in refused.message
    owner("GRANT OWNERSHIP ON DATABASE given TO ROLE reader COPY CURRENT GRANTS")
    rows = admin("SHOW GRANTS ON DATABASE given")
    assert [(r["privilege"], r["grantee_name"], r["granted_by"]) for r in rows] == [
        ("OWNERSHIP", "READER", "READER"),
        ("USAGE", "OTHER", "READER"),
    ]
    admin("GRANT OWNERSHIP ON DATABASE given TO ROLE other REVOKE CURRENT GRANTS")
    rows = admin("SHOW GRANTS ON DATABASE given")
    assert [(r["privilege"], r["grantee_name"]) for r in rows] == [("OWNERSHIP", "OTHER")]


def test_write_on_a_stage_asks_for_read_first(account: Account, owner: As) -> None:
    account.catalog.create("stage", ("FLOWDIST", "PUBLIC", "S"), owner="FLOWDIST_ROLE")
    assert "READ" in owner.error("GRANT WRITE ON STAGE s TO ROLE reader").message
    owner("GRANT READ, WRITE ON STAGE s TO ROLE reader")


def test_roles_of_others_are_not_told(account: Account, admin: As) -> None:
    reader = As(account, "READER", user="NOBODY")
    assert reader.error("SHOW GRANTS TO ROLE other").errno == 3001
