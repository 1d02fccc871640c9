"""The notation in which the documentation writes grammars, and how tokens are matched against it.

In a grammar words stand for themselves, [ ] is what may be left out, { | } one of several, and
{* | *} any of several in any order, each once. What is in < > is a class: a function that says
where, from a token on, something of it may end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = ["Class", "Match", "Token", "Wrong", "tokens_of"]

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*)|(?P<block>\$\$.*?\$\$)|(?P<str>'(?:[^'\\]|''|\\.)*')
      |(?P<quoted>"(?:[^"]|"")+")|(?P<place>@[\w."$/-]+)|(?P<number>\d+(?:\.\d+)?)
      |(?P<word>[A-Za-z_][\w$]*)|(?P<other>=>|.)""",
    re.DOTALL | re.VERBOSE,
)


class Wrong(Exception):
    """A statement has not the form that it should have."""


@dataclass(frozen=True)
class Token:
    kind: str
    text: str

    @property
    def upper(self) -> str:
        return self.text.upper() if self.kind == "word" else self.text


def tokens_of(sql: str) -> list[Token]:
    found = [Token(m.lastgroup or "", m.group()) for m in _TOKEN.finditer(sql.strip().rstrip(";"))]
    return [token for token in found if token.kind != "space"]


Class = Callable[[Sequence[Token], int], Iterator[int]]


class Match:
    """Tokens against a grammar, with all its choices."""

    def __init__(
        self, tokens: Sequence[Token], grammar: str, classes: Mapping[str, Class], kind: str
    ) -> None:
        self.tokens, self.kind, self.furthest, self.wrong = tokens, kind, 0, ""
        self.grammar, self.classes = _parsed(grammar), classes

    def run(self) -> None:
        for end in self.sequence(self.grammar, 0):
            if end == len(self.tokens):
                return
            self.furthest = max(self.furthest, end)
        before = " ".join(t.text for t in self.tokens[max(0, self.furthest - 4) : self.furthest])
        there = " ".join(t.text for t in self.tokens[self.furthest : self.furthest + 3])[:80]
        raise Wrong(f"{self.kind}: {self.wrong or f'after `{before}` comes `{there}`'}")

    def sequence(self, nodes: Sequence[Any], at: int) -> Iterator[int]:
        if not nodes:
            yield at
            return
        for end in self.node(nodes[0], at):
            yield from self.sequence(nodes[1:], end)

    def node(self, node: Any, at: int) -> Iterator[int]:
        if isinstance(node, str):
            yield from self.atom(node, at)
        elif node[0] == "optional":
            yield from self.sequence(node[1], at)
            yield at
        elif node[0] == "one":
            for choice in node[1]:
                yield from self.sequence(choice, at)
        else:
            yield from self.any_order(node[1], at)

    def any_order(self, choices: Sequence[Any], at: int) -> Iterator[int]:
        for i, choice in enumerate(choices):
            for end in self.sequence(choice, at):
                yield from self.any_order([*choices[:i], *choices[i + 1 :]], end)
        yield at

    def atom(self, text: str, at: int) -> Iterator[int]:
        self.furthest = max(self.furthest, at)
        if text.startswith("<"):
            try:
                yield from self.classes[text](self.tokens, at)
            except Wrong as wrong:
                self.wrong = str(wrong)
        elif at < len(self.tokens) and self.tokens[at].upper == text:
            yield at + 1


@cache
def _parsed(text: str) -> list[Any]:
    tokens = re.findall(r"\{\*|\*\}|<\w+>|[\w$]+|[^\s\w]", text)
    nodes, end = _sequence(tokens, 0)
    assert end == len(tokens), text
    return nodes


def _sequence(tokens: Sequence[str], at: int) -> tuple[list[Any], int]:
    nodes: list[Any] = []
    while at < len(tokens) and tokens[at] not in ("]", "}", "*}", "|"):
        opening = tokens[at]
        if opening in ("[", "{", "{*"):
            choices = []
            while tokens[at] in (opening, "|"):
                choice, at = _sequence(tokens, at + 1)
                choices.append(choice)
            at += 1
            kind = {"[": "optional", "{": "one", "{*": "any"}[opening]
            nodes.append((kind, choices[0] if kind == "optional" else choices))
        else:
            nodes.append(opening)
            at += 1
    return nodes, at
