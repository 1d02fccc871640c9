"""Roles, what they inherit, and the two ways in which a statement is denied."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import As

from flowdist.emulator.account import Account


@pytest.fixture
def admin(account: Account) -> As:
    return As(account, "ACCOUNTADMIN")


@pytest.fixture
def owner(account: Account) -> As:
    return As(account)


@pytest.fixture
def guest(account: Account, admin: As) -> As:
    """A role that owns nothing, of a user of its own."""
    admin("CREATE ROLE guest")
    admin("CREATE USER visitor PASSWORD = 'secret' DEFAULT_ROLE = guest")
    admin("GRANT ROLE guest TO USER visitor")
    return As(account, "GUEST", user="VISITOR", database=None, schema=None, warehouse=None)


def test_a_new_account_has_what_a_flow_needs(account: Account, owner: As) -> None:
    assert owner("SHOW DATABASES LIKE 'flowdist'")[0]["owner"] == "FLOWDIST_ROLE"
    assert owner("SHOW WAREHOUSES")[0]["name"] == "FLOWDIST_WH"
    assert [r["role"] for r in owner("SHOW GRANTS")] == ["ACCOUNTADMIN", "FLOWDIST_ROLE"]
    held = {r["privilege"] for r in owner("SHOW GRANTS TO ROLE flowdist_role")}
    assert held >= {"CREATE COMPUTE POOL", "EXECUTE TASK", "EXECUTE MANAGED TASK", "OWNERSHIP"}


def test_the_password_is_random_and_outlives_the_process(tmp_path: Path) -> None:
    first = Account(tmp_path / "one")
    password = first.password
    first.close()
    again, other = Account(tmp_path / "one"), Account(tmp_path / "two")
    assert again.password == password != other.password
    assert again.access.check_password("FLOWDIST", password)
    assert again.access.check_password("FLOWDIST", password + "x") is None
    (kept,) = (u.data["password"] for u in again.catalog.all("user"))
    assert password not in kept
    again.close()
    other.close()


def test_a_changed_password_counts_and_is_nowhere_in_the_clear(admin: As) -> None:
    admin("CREATE USER zoe PASSWORD = 'first-word'")
    admin("ALTER USER zoe SET PASSWORD = 'second-word'")
    access = admin.account.access
    assert access.check_password("ZOE", "first-word") is None
    assert access.check_password("ZOE", "second-word")
    admin("ALTER USER flowdist SET PASSWORD = 'mine'")
    assert admin.account.password == "mine"
    assert access.check_password("FLOWDIST", "mine")
    kept = b"".join(p.read_bytes() for p in admin.account.directory.iterdir() if p.is_file())
    assert b"-word" not in kept


def test_missing_and_unauthorized_look_the_same(owner: As, guest: As) -> None:
    hidden = guest.error("DESCRIBE DATABASE flowdist")
    missing = guest.error("DESCRIBE DATABASE nowhere")
    assert (hidden.errno, hidden.sqlstate) == (missing.errno, missing.sqlstate) == (2003, "02000")
    assert hidden.message.replace("FLOWDIST", "NOWHERE") == missing.message


def test_another_privilege_makes_the_object_seen_and_the_denial_3001(owner: As, guest: As) -> None:
    owner("GRANT MONITOR ON DATABASE flowdist TO ROLE guest")
    assert guest.error("CREATE SCHEMA flowdist.mine").errno == 3001
    owner("GRANT CREATE SCHEMA ON DATABASE flowdist TO ROLE guest")
    assert guest.status("CREATE SCHEMA flowdist.mine") == "Schema MINE successfully created."


def test_what_is_in_a_schema_is_hidden_without_a_privilege_on_the_schema(
    account: Account, owner: As, guest: As
) -> None:
    owner("CREATE NETWORK RULE out TYPE=HOST_PORT MODE=EGRESS VALUE_LIST=('example.com')")
    rule = account.catalog.all("network rule")[0]
    account.catalog.give(rule, "GUEST")
    assert not account.access.visible(guest.session, rule)
    owner("GRANT USAGE ON DATABASE flowdist TO ROLE guest")
    assert not account.access.visible(guest.session, rule)
    owner("GRANT USAGE ON SCHEMA flowdist.public TO ROLE guest")
    assert account.access.visible(guest.session, rule)


def test_roles_inherit_what_is_granted_to_roles_below_them(
    account: Account, admin: As, guest: As
) -> None:
    admin("CREATE ROLE below")
    admin("CREATE ROLE between")
    admin("GRANT ROLE below TO ROLE between")
    admin("GRANT USAGE ON WAREHOUSE flowdist_wh TO ROLE below")
    assert guest("SHOW WAREHOUSES") == []
    admin("GRANT ROLE between TO ROLE guest")
    assert [r["name"] for r in guest("SHOW WAREHOUSES")] == ["FLOWDIST_WH"]
    assert guest.status("USE ROLE below") == "Statement executed successfully."
    admin("REVOKE ROLE between FROM ROLE guest")
    assert As(account, "GUEST", user="VISITOR")("SHOW WAREHOUSES") == []


def test_a_cycle_of_roles_is_refused(admin: As) -> None:
    admin("CREATE ROLE a")
    admin("CREATE ROLE b")
    admin("GRANT ROLE a TO ROLE b")
    assert "Cyclic" in admin.error("GRANT ROLE b TO ROLE a").message


def test_secondary_roles_count_but_not_for_creating(account: Account, admin: As, guest: As) -> None:
    admin("CREATE ROLE helper")
    admin("GRANT ROLE helper TO USER visitor")
    admin("GRANT USAGE, CREATE SCHEMA ON DATABASE flowdist TO ROLE helper")
    session = guest.session
    assert session.secondary_roles == "ALL"  # as Snowflake has it for users made by CREATE USER
    guest("USE DATABASE flowdist")
    assert guest.error("CREATE SCHEMA mine").errno == 3001
    guest("USE SECONDARY ROLES NONE")
    assert guest.error("USE DATABASE flowdist").errno == 2043
    guest("USE ROLE helper")
    guest("CREATE SCHEMA flowdist.mine")


def test_use_role_is_for_roles_that_are_granted(guest: As) -> None:
    assert guest.error("USE ROLE accountadmin").errno == 3013
    assert guest.error("USE ROLE nobody").errno == 2043


def test_a_dropped_role_leaves_what_it_owned_to_who_dropped_it(admin: As, guest: As) -> None:
    admin("GRANT CREATE DATABASE ON ACCOUNT TO ROLE guest")
    guest("CREATE DATABASE theirs")
    admin("DROP ROLE guest")
    assert admin("SHOW DATABASES LIKE 'theirs'")[0]["owner"] == "ACCOUNTADMIN"
    assert admin("SHOW GRANTS TO USER visitor") == []


def test_a_grant_does_not_outlive_its_object(owner: As, guest: As) -> None:
    owner("CREATE WAREHOUSE brief")
    owner("GRANT USAGE ON WAREHOUSE brief TO ROLE guest")
    owner("CREATE OR REPLACE WAREHOUSE brief")
    assert guest("SHOW WAREHOUSES") == []


def test_grants_are_kept(tmp_path: Path) -> None:
    first = Account(tmp_path)
    As(first, "ACCOUNTADMIN")("CREATE ROLE kept")
    As(first)("GRANT USAGE ON DATABASE flowdist TO ROLE kept")
    first.close()
    again = Account(tmp_path)
    shown = As(again)("SHOW GRANTS ON DATABASE flowdist")
    assert ("USAGE", "KEPT") in {(r["privilege"], r["grantee_name"]) for r in shown}
    again.close()


def test_a_warehouse_has_to_be_there_and_is_resumed(account: Account, owner: As) -> None:
    owner("ALTER WAREHOUSE flowdist_wh SUSPEND")
    assert account.access.require_warehouse(owner.session).data["state"] == "STARTED"
    owner.session.warehouse = None
    with pytest.raises(Exception, match="No active warehouse selected") as failed:
        account.access.require_warehouse(owner.session)
    assert getattr(failed.value, "errno", None) == 606
