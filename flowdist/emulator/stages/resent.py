"""PUT statements as clients of connector 4.x send them again, once for each file.

Such a client learns where a file goes by sending its PUT once more with the name of the file in
place of the path. It finds the path by looking for the next quote or blank, replaces it wherever it
occurs, and escapes nothing: what comes is often no SQL, ``PUT 'file://it's.txt's.txt' @s``. Then it
takes the file to Google's own store. From the statement before, what it means can be told.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

from flowdist.emulator.sql.lexer import tokens

__all__ = ["Resent"]

MOST = 100
"""Of so many PUT statements of a session it is known how they come again."""
_ESCAPED = re.compile(r"\\['\\]|''")


@dataclass(frozen=True)
class _Sent:
    """A PUT: what the client takes for its path, and where the literal is that has it."""

    text: str
    path: str
    start: int
    end: int

    def name_in(self, text: str) -> str | None:
        """The name that stands in a text for the path; None where the text differs otherwise."""
        pieces = self.text.split(self.path)
        length, rest = divmod(len(text) - sum(map(len, pieces)), len(pieces) - 1)
        if rest or length <= 0:
            return None
        name = text[len(pieces[0]) :][:length]
        return name if name.join(pieces) == text else None


class Resent:
    """What was sent in each session; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: dict[int, list[_Sent]] = {}

    def note(self, session: int, text: str) -> None:
        """Remember a PUT that may come again, file by file."""
        text = text.strip()
        literal = next((t for t in tokens(text) if t.value.startswith("file://")), None)
        if literal is None:
            return
        begin = text.index("file://", literal.start) + len("file://")
        quoted = text[begin - len("file://") - 1] == "'"
        path = re.split("'" if quoted else "[ \n;]", text[begin:], maxsplit=1)[0]
        if path:
            with self._lock:
                known = self._sent.setdefault(session, [])
                known.append(_Sent(text, path, literal.start, literal.end))
                del known[:-MOST]

    def meant(self, session: int, text: str) -> str:
        """A statement as its client means it: the text itself, but where it is such a PUT."""
        with self._lock:
            known = list(self._sent.get(session, ()))
        stripped = text.strip()
        for sent in reversed(known):
            name = sent.name_in(stripped)
            if name == sent.path:
                return text
            # A path, or what is escaped, was written by somebody who knows how.
            if name is not None and "/" not in name and not _ESCAPED.search(name):
                escaped = name.replace("\\", "\\\\").replace("'", "\\'")
                return f"{sent.text[: sent.start]}'file://{escaped}'{sent.text[sent.end :]}"
        return text

    def forget(self, session: int) -> None:
        """Forget what a session has sent."""
        with self._lock:
            self._sent.pop(session, None)
