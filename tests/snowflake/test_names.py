"""Names and texts in SQL: whatever they are, they mean themselves and nothing more."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowdist.errors import UsageError
from flowdist.snowflake.names import Name, Place, json_block, literal, quote

PARTS = st.text(min_size=1).filter(lambda text: "\0" not in text)


@given(st.lists(PARTS, min_size=1, max_size=3))
def test_a_name_is_read_back_as_it_was(parts: list[str]) -> None:
    name = Name(tuple(parts))

    assert Name.parse(name.sql) == name


@given(PARTS)
def test_a_part_that_is_not_quoted_is_a_plain_word(part: str) -> None:
    written = quote(part)

    assert written.startswith('"') or written.isidentifier() or "$" in written
    assert written.startswith('"') or written == written.upper()


@given(st.text())
def test_a_text_ends_where_its_quotes_end(text: str) -> None:
    inside = literal(text)[1:-1]

    assert re.sub(r"\\(.)|'(')", r"\1\2", inside, flags=re.DOTALL) == text
    assert "'" not in inside.replace("''", "")


@given(st.dictionaries(st.text(), st.text(alphabet="$u0024'\\ab")))
def test_a_specification_is_one_block(value: dict[str, str]) -> None:
    block = json_block(value)

    assert block.startswith("$${")
    assert block.endswith("}$$")
    assert "$$" not in block[2:-2]
    assert json.loads(block[2:-2]) == value


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("runs", "RUNS"),
        ("a.b.runs", "A.B.RUNS"),
        ('a."My Schema".c', 'A."My Schema".C'),
        ('"with ""quotes"""', '"with ""quotes"""'),
        ("select", '"SELECT"'),
        ("_x$1", "_X$1"),
    ],
)
def test_names_as_people_write_them(text: str, sql: str) -> None:
    assert Name.parse(text).sql == sql


@pytest.mark.parametrize("text", ["", "a b", "a..b", ".a", "a.", '"a', "a;drop", "1a", "a.b.c.d"])
def test_what_is_no_name_is_refused_and_named(text: str) -> None:
    with pytest.raises(UsageError, match="stage="):
        Name.parse(text, "stage")


def test_a_place_keeps_its_folder_and_gets_the_rest_of_its_name() -> None:
    place = Place.parse("@runs/night/1") / "parts"

    assert place.within("DB", "SC").path == "@DB.SC.RUNS/night/1/parts"
    assert place.file("a'b") == "'@RUNS/night/1/parts/a''b'"


@pytest.mark.parametrize("text", ["runs/../other", "runs/a\\b", "@"])
def test_a_folder_that_leads_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="stage="):
        Place.parse(text)
