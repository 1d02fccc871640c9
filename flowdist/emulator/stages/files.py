"""The files of stages: which stage a location means, what is on it, and who may see it.

The bytes are ordinary files below the account's directory (`store`), so that a mount can show them
and that a file of any size passes without being held in memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, already_exists, compilation_error, unsupported
from flowdist.emulator.names import FullName, fold
from flowdist.emulator.session import Session
from flowdist.emulator.stages.index import Index, Known
from flowdist.emulator.stages.passes import Passes, new_key
from flowdist.emulator.stages.resent import Resent
from flowdist.emulator.stages.store import StageStore, UnsafePath, safe_path

if TYPE_CHECKING:
    import os

    from flowdist.emulator.account import Account

__all__ = ["StageFile", "StageFiles", "Within", "shown_name"]

Within = Session | tuple[str, str]
"""Where a name without database or schema is looked for: a session, or a database and a schema."""

SMALL = 1 << 20
"""Files of so many bytes are read at once, which is faster than in pieces."""
MOST_GONE = 1000
"""Of so many files that are gone the digests may stay."""
_UNKNOWN = ("", -1, -1, "")

_PART = r'(?:"(?:[^"]|"")*"|[A-Za-z_][A-Za-z0-9_$]*)'
_LOCATION = re.compile(rf"@?(~|{_PART}?(?:\.{_PART}?){{0,2}})((?:/.*)?)\Z", re.DOTALL)
_NAME_PART = re.compile(_PART)
_TABLE_STAGE = re.compile(rf"@?(?:{_PART}\.){{0,2}}%")


class StageFile(NamedTuple):
    """A file on a stage; ``modified`` is Unix time in seconds."""

    path: str
    size: int
    md5: str
    modified: float


def shown_name(stage: Object) -> str:
    """What the names that LIST shows begin with: the name of the stage, in lower case."""
    return "" if stage.kind == "user stage" else f"{stage.name.lower()}/"


class StageFiles:
    """The files of all stages. Every method may be called from any thread."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._root = account.directory / "stages"
        self._root.mkdir(exist_ok=True)
        self.index = Index(self._root / "index.sqlite")
        key = account.catalog.setting("stage_key")
        if key is None:
            key = new_key()
            account.catalog.keep("stage_key", key)
        self.passes = Passes(key, account.clock.time)
        self.resent = Resent()
        self._lock = threading.Lock()
        self._stores: dict[int, StageStore] = {}
        self._temporary: dict[tuple[int, FullName], Object] = {}
        for saved in account.catalog.setting("temporary_stages", []):
            stage = Object(**saved)
            self._temporary[stage.data["session"], stage.full_name] = stage
        least = min((s.id for s in self._temporary.values()), default=0)
        self._temporary_ids = itertools.count(least - 1, -1)

    def start(self) -> None:
        """Remove the files of stages that are gone, and what broken uploads have left."""
        with self._lock:
            for key in [k for k in self._temporary if k[0] not in self._account.sessions]:
                del self._temporary[key]
            self._keep_temporary()
        living = {str(stage.id) for stage in self._all()}
        for directory in self._root.iterdir():
            if directory.is_dir() and directory.name not in living:
                self._delete(int(directory.name))
        for stage in self._all():
            self.store(stage).clean(self._account.clock.time())

    def close(self) -> None:
        """Let go of the index."""
        self.index.close()

    # -- stages

    def create_temporary(self, session: Session, name: FullName, **rest: Any) -> Object:
        """A stage that only a session sees, and that goes with it; SqlError 2002 where the session
        has one of that name.
        """
        with self._lock:
            if (session.id, name) in self._temporary:
                raise already_exists(name)
            made = Object(
                next(self._temporary_ids),
                "stage",
                name.database,
                name.schema,
                name.name,
                self._account.access.owner_role(session),
                self._account.clock.time(),
                rest.pop("comment", ""),
                {**rest, "session": session.id},
            )
            self._temporary[session.id, name] = made
            self._keep_temporary()
            return made

    def temporary(self, session: Session, name: FullName | None = None) -> list[Object]:
        """The temporary stages of a session, or the one of a name."""
        with self._lock:
            found = self._temporary.items()
            return [s for (i, n), s in found if i == session.id and name in (None, n)]

    def update(self, stage: Object, *, comment: str | None = None, **data: Any) -> None:
        """Change a stage, temporary or not, and write it down."""
        if "session" not in stage.data:
            self._account.catalog.update(stage, comment=comment, **data)
            return
        with self._lock:
            stage.data.update(data)
            stage.comment = stage.comment if comment is None else comment
            self._keep_temporary()

    def drop(self, stage: Object) -> None:
        """Remove a stage with its files."""
        if "session" in stage.data:
            with self._lock:
                self._temporary.pop((stage.data["session"], stage.full_name), None)
                self._keep_temporary()
        else:
            self._account.catalog.drop(stage)
        self._delete(stage.id)

    def forget(self, session: Session) -> None:
        """Remove the temporary stages of a session that has ended."""
        self.resent.forget(session.id)
        for stage in self.temporary(session):
            self.drop(stage)

    def find_stage(self, name: FullName, within: Within) -> Object | None:
        """The stage of that name; a temporary one of the session hides a permanent one."""
        if isinstance(within, Session):
            for stage in self.temporary(within, name):
                return stage
        return self._account.catalog.find("stage", name)

    def by_id(self, identity: int) -> Object | None:
        """The stage of that id, of whatever kind."""
        if identity > 0:
            found = self._account.catalog.by_id(identity)
            return found if found is not None and found.kind in ("stage", "user stage") else None
        with self._lock:
            return next((s for s in self._temporary.values() if s.id == identity), None)

    def locate(self, location: str, within: Within, verb: str = "SELECT") -> tuple[Object, str]:
        """The stage and the path that a location means: ``@db.schema.stage/a/b``, ``stage/a``,
        ``@"my stage"``, ``@~/a``. The path has no slash before it, and keeps one at its end.

        SqlError 2003 where there is no such stage; whether it may be used is for :meth:`require`.
        """
        if _TABLE_STAGE.match(location):
            raise unsupported(f"the stage of a table: {location}")
        match = _LOCATION.match(location)
        if match is None or match.group(1) == "":
            raise compilation_error(f"invalid stage location '{location}'", 1011, "42601")
        try:
            path = safe_path(match.group(2))
        except UnsafePath as unsafe:
            raise compilation_error(f"{unsafe}", 1011, "42601") from None
        if match.group(1) == "~":
            return self._user_stage(within), path
        name = self.name_of(_name_parts(match.group(1)), within, verb)
        found = self.find_stage(name, within)
        return found or self._account.catalog.require("stage", name), path

    def name_of(self, parts: tuple[str, ...], within: Within, verb: str) -> FullName:
        """The full name of a stage."""
        if isinstance(within, Session):
            return within.resolve(parts, verb)
        *above, name = parts
        database, schema = [*within[: 2 - len(above)], *above]
        return FullName(database, schema, name)

    def require(self, session: Session, stage: Object, privilege: str) -> None:
        """SqlError 2003 or 3001 where a session may not READ or WRITE the files of a stage."""
        if stage.kind == "stage" and "session" not in stage.data:
            self._account.access.require(session, privilege, stage)

    # -- files

    def store(self, stage: Object) -> StageStore:
        """The directories of a stage, which are there."""
        found = self._stores.get(stage.id)
        if found is None:
            found = StageStore(self._root / str(stage.id))
            found.make()
            self._stores[stage.id] = found
        return found

    def directory(self, stage: Object) -> Path:
        """The directory with the files of a stage, under their own names."""
        return self.store(stage).files

    def listing(self, stage: Object, prefix: str = "") -> list[StageFile]:
        """The files whose paths begin with a prefix, ordered by path, without those that are hidden
        or not visible yet.
        """
        store = self.store(stage)
        known = self.index.digests(stage.id, prefix)
        found, new = [], []
        for path, stat in self.stats(stage, prefix):
            _, size, changed, md5 = known.pop(path, _UNKNOWN)
            if size != stat.st_size or changed != stat.st_mtime_ns:
                try:
                    md5 = _digest(store.name(path), stat.st_size)
                except FileNotFoundError:
                    continue
                new.append((path, stat, Known(md5, {})))
            found.append(StageFile(path, stat.st_size, md5, stat.st_mtime))
        self.index.note_all(stage.id, new)
        # What is left was removed, by mounts for example; or it is hidden, and comes back.
        if len(known) > MOST_GONE and not self._account.faults.hides:
            self.index.forget_all(stage.id, [row[:3] for row in known.values()])
        return found

    def stats(self, stage: Object, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """The same without digests, which take time to compute."""
        store = self.store(stage)
        store.settle(self._account.clock.time())
        faults = self._account.faults
        if not faults.hides:
            return store.walk(prefix)
        return (file for file in store.walk(prefix) if not faults.hidden(stage, file[0]))

    def find(self, stage: Object, path: str) -> os.stat_result | None:
        """Of the file at a path; None where there is none or it is hidden."""
        store = self.store(stage)
        store.settle(self._account.clock.time())
        if not path or self._account.faults.hidden(stage, path):
            return None
        return store.stat(path)

    def known(self, stage: Object, path: str, stat: os.stat_result) -> Known:
        """The digest of a file, computed once, and what its upload has said of it."""
        found = self.index.find(stage.id, path, stat)
        if found is None:
            found = Known(_digest(self.store(stage).name(path), stat.st_size), {})
            self.index.note(stage.id, path, stat, found)
        return found

    def place(self, stage: Object, upload: Path, path: str, known: Known | None = None) -> None:
        """Let an upload of :meth:`StageStore.upload` appear at its path."""
        store = self.store(stage)
        stat = upload.stat()
        store.place(upload, path)
        if known is not None:
            self.index.note(stage.id, path, stat, known)

    def copy(self, stage: Object, path: str, to: Object, to_path: str) -> None:
        """Copy a file, as a whole or not at all."""
        with self.store(to).upload() as upload:
            shutil.copyfile(self.store(stage).local(path), upload)
            self.place(to, upload, to_path)

    def remove(self, stage: Object, files: Iterable[tuple[str, os.stat_result]]) -> list[str]:
        """Remove files, as :meth:`stats` gives them; the paths of those that were there. What makes
        `files` may end it by an exception.
        """
        store = self.store(stage)
        gone = {}
        try:
            for path, stat in files:
                if store.remove(path):
                    gone[path] = path, stat.st_size, stat.st_mtime_ns
        finally:
            self.index.forget_all(stage.id, gone.values())
        return list(gone)

    # -- inside

    def _all(self) -> list[Object]:
        catalog = self._account.catalog
        with self._lock:
            temporary = list(self._temporary.values())
        return [*catalog.all("stage"), *catalog.all("user stage"), *temporary]

    def _user_stage(self, within: Within) -> Object:
        if not isinstance(within, Session):
            raise unsupported("the stage of a user, here")
        catalog = self._account.catalog
        with catalog.lock:
            found = catalog.find("user stage", (within.user,))
            return found or catalog.create("user stage", (within.user,), owner=within.user)

    def _keep_temporary(self) -> None:
        stages = [dataclasses.asdict(stage) for stage in self._temporary.values()]
        self._account.catalog.keep("temporary_stages", stages)

    def _delete(self, identity: int) -> None:
        self._stores.pop(identity, None)
        self.index.forget(identity)
        shutil.rmtree(self._root / str(identity), ignore_errors=True)


def _digest(path: str, size: int) -> str:
    """The MD5 of a file of about that size."""
    with open(path, "rb", buffering=0) as file:
        if size <= SMALL:
            return hashlib.md5(file.readall(), usedforsecurity=False).hexdigest()
        return hashlib.file_digest(file, "md5").hexdigest()


def _name_parts(text: str) -> tuple[str, ...]:
    """The parts of a name of a stage, folded; two dots stand for the schema PUBLIC.

    >>> _name_parts('db.s."my stage"'), _name_parts("db..s")
    (('DB', 'S', 'my stage'), ('DB', 'PUBLIC', 'S'))
    """
    parts = []
    at = 0
    while at <= len(text):
        match = _NAME_PART.match(text, at)
        parts.append(fold(match.group()) if match else "PUBLIC")
        at = (match.end() if match else at) + 1
    if len(parts) > 3 or not text or text.startswith(".") or text.endswith("."):
        raise SqlError(1011, "42601", f"SQL compilation error:\ninvalid stage location '@{text}'")
    return tuple(parts)
