"""A corpus of documented statements (corpus.sql): each is accepted or refused as documented."""

from __future__ import annotations

import re
from pathlib import Path

from flowdist.emulator.account import Account
from flowdist.emulator.errors import SqlError
from flowdist.emulator.sql.lexer import split

CORPUS = Path(__file__).with_name("corpus.sql")


def statements() -> list[tuple[str, str]]:
    """Every statement with what is expected of it: "", an error number, or "unsupported"."""
    found = []
    expected = ""
    for line in CORPUS.read_text().splitlines():
        if marker := re.match(r"--! (\w+)", line):
            expected = marker.group(1)
        elif line and not line.startswith("--"):
            (text,) = split(line)
            found.append((text, expected))
            expected = ""
    return found


def test_every_statement_is_accepted_or_refused_as_documented(account: Account) -> None:
    session = account.open_session("FLOWDIST", "ACCOUNTADMIN")
    failures = []
    for text, expected in statements():
        if text.startswith("CREATE IMAGE REPOSITORY"):
            account.execute(session, text)
            account.images.push("/shop/sales/images/true:1", entrypoint=["true"])
            account.images.push("/shop/sales/images/sleep:1", entrypoint=["sleep", "60"])
            continue
        try:
            account.execute(session, text)
            outcome = ""
        except SqlError as error:
            refused = error.message.startswith("not supported by the emulator")
            outcome = "unsupported" if refused else str(error.errno)
            text = f"{text}\n    {error.message}"
        if outcome != expected:
            failures.append(f"expected {expected or 'ok'}, was {outcome or 'ok'}: {text}")

    assert not failures, "\n".join(failures)
