"""Network rules and external access integrations, as far as job specifications need them."""

from __future__ import annotations

import pytest
from asking import As

from flowdist.emulator.account import Account

RULE = "CREATE NETWORK RULE out TYPE = HOST_PORT MODE = EGRESS VALUE_LIST = ('a.com', 'b.com:80')"
INTEGRATION = "CREATE EXTERNAL ACCESS INTEGRATION web ALLOWED_NETWORK_RULES = (out) ENABLED = TRUE"


@pytest.fixture
def ask(account: Account) -> As:
    return As(account)


def test_a_rule_is_made_shown_and_described(ask: As) -> None:
    assert ask.status(RULE) == "Network rule OUT successfully created."
    (shown,) = ask("SHOW NETWORK RULES")
    assert (shown["type"], shown["mode"], shown["entries_in_valuelist"]) == (
        "HOST_PORT",
        "EGRESS",
        2,
    )
    ask("ALTER NETWORK RULE out SET VALUE_LIST = ('c.com')")
    assert ask("DESCRIBE NETWORK RULE out")[0]["value_list"] == "c.com"


def test_an_integration_names_egress_rules_that_exist(ask: As) -> None:
    assert ask.error(INTEGRATION).errno == 2003
    ask("CREATE NETWORK RULE inward TYPE = IPV4 VALUE_LIST = ('10.0.0.0/8')")
    refused = ask.error(INTEGRATION.replace("(out)", "(inward)"))
    assert "not an egress rule" in refused.message
    ask(RULE)
    assert ask.status(INTEGRATION) == "Integration WEB successfully created."
    (shown,) = ask("SHOW EXTERNAL ACCESS INTEGRATIONS LIKE 'w%'")
    assert (shown["name"], shown["type"], shown["enabled"]) == ("WEB", "EXTERNAL_ACCESS", "true")
    described = {r["property"]: r["property_value"] for r in ask("DESCRIBE INTEGRATION web")}
    assert described["ALLOWED_NETWORK_RULES"] == "[FLOWDIST.PUBLIC.OUT]"


def test_a_rule_in_use_stays(ask: As) -> None:
    ask(RULE)
    ask(INTEGRATION)
    assert ask.error("DROP NETWORK RULE out").sqlstate == "2BP01"
    ask("DROP INTEGRATION web")
    ask("DROP NETWORK RULE out")


def test_usage_is_granted_on_integration(account: Account, ask: As) -> None:
    ask(RULE)
    ask(INTEGRATION)
    As(account, "ACCOUNTADMIN")("CREATE ROLE worker")
    worker = As(account, "WORKER", user="NOBODY")
    assert worker("SHOW INTEGRATIONS") == []
    hidden = worker.error("DESCRIBE INTEGRATION web")
    assert "Integration 'WEB' does not exist or not authorized." in hidden.message
    ask("GRANT USAGE ON INTEGRATION web TO ROLE worker")
    assert [r["name"] for r in worker("SHOW INTEGRATIONS")] == ["WEB"]
    assert worker.error("ALTER EXTERNAL ACCESS INTEGRATION web SET ENABLED = FALSE").errno == 3001


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("CREATE NETWORK RULE r TYPE = HOST_PORT VALUE_LIST = ('a')", "'MODE'"),
        ("CREATE NETWORK RULE r TYPE = DNS VALUE_LIST = ('a')", "'TYPE'"),
        ("CREATE NETWORK RULE r TYPE = HOST_PORT MODE = EGRESS", "[VALUE_LIST]"),
        ("CREATE EXTERNAL ACCESS INTEGRATION i ENABLED = TRUE", "[ALLOWED_NETWORK_RULES]"),
    ],
)
def test_what_lacks_something_is_refused(ask: As, statement: str, words: str) -> None:
    assert words in ask.error(statement).message
