"""Accounts and servers for the emulator's tests, and the connector of the older line."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emulator_server import Server, run_script, served
from leftovers import nothing_is_left as nothing_is_left

from flowdist.emulator.account import Account

# The connector looks for credentials of the cloud it may run in, and would wait for an answer.
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    """A new account in this process, with the ready-made objects, that nobody serves."""
    made = Account(tmp_path / "account")
    yield made
    made.close()


@pytest.fixture(scope="module")
def one_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """One account for all tests of a module: a new one takes a tenth of a second."""
    made = Account(tmp_path_factory.mktemp("emulator") / "account")
    yield made
    made.close()


@pytest.fixture
def serve(account: Account) -> Iterator[Callable[..., Server]]:
    """Serves the account, with the options of `create_app`, until the end of the test."""
    ends: list[Callable[[], None]] = []

    def serve(**options: Any) -> Server:
        server, end = served(account, **options)
        ends.append(end)
        return server

    yield serve
    for end in ends:
        end()


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """The account, served."""
    return serve()


@pytest.fixture(scope="session")
def connector4() -> str:
    """The interpreter that has snowflake-connector-python 4.x: the one that the environment
    variable FLOWDIST_CONNECTOR4_PYTHON names, or the one that ``make test`` installs.
    """
    named = os.environ.get("FLOWDIST_CONNECTOR4_PYTHON")
    found = named or str(REPOSITORY / ".venv-connector4" / "bin" / "python")
    if not Path(found).exists():
        missing = f"no connector 4.x: {found} is not there (see FLOWDIST_CONNECTOR4_PYTHON)"
        if named or os.environ.get("CI", "") not in ("", "0", "false"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return found


@pytest.fixture
def run4(connector4: str) -> Callable[..., Any]:
    """Runs a script with connector 4.x, as `run_script` does."""
    return functools.partial(run_script, connector4)
