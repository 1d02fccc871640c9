"""A folder of a stage seen from outside: files go and come many at a time, never one by one.

`Mirror` keeps the directory of a run here in step with its folder on the stage: what the driver
writes is put there before jobs start, what jobs have written is fetched when somebody wants to read
it. Containers see the folder as a directory and need none of this.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from flowdist.errors import BackendError
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.names import Place, literal
from flowdist.store import RunFiles

__all__ = ["Mirror", "StageFolder"]

# Files that travel side by side.
PARALLEL = 16
# What GET says where no file is there, or none any more.
NO_FILE = 253006
# So many names fit in one pattern; where more are wanted, and not almost all of a folder, several
# statements ask for them.
NAMES_AT_ONCE = 400
# Who loads an artifact loads others of its stage soon: they come with it, up to so much.
ARTIFACTS_AT_ONCE = 256 << 20


class StageFolder:
    """Files under one folder of a stage, by names relative to it."""

    def __init__(self, client: Client, place: Place) -> None:
        self.client = client
        self.place = place

    def put(self, directory: Path, names: Iterable[str], *, overwrite: bool = False) -> None:
        """Upload files of a local directory under their names; one statement for each folder.

        Raises:
            BackendError: a file did not arrive.
        """
        for folder, members in _by_folder(names).items():
            self._put(directory / folder, folder, members, overwrite=overwrite)

    def _put(self, source: Path, folder: str, names: Sequence[str], *, overwrite: bool) -> None:
        if absent := [name for name in names if not (source / name).is_file()]:
            raise BackendError(f"{source / absent[0]} is not there to be put on {self.place}")
        # A directory of their own: the path is a pattern to PUT, and the run's may hold anything.
        with tempfile.TemporaryDirectory(prefix="flowdist-") as outgoing:
            for name in names:
                Path(outgoing, name).symlink_to((source / name).absolute())
            found = self.client.rows(
                f"PUT {literal(f'file://{outgoing}/*')} {(self.place / folder).file('')} "
                f"AUTO_COMPRESS = FALSE PARALLEL = {PARALLEL} "
                f"OVERWRITE = {'TRUE' if overwrite else 'FALSE'}"
            )
        bad = [row for row in found if str(row["status"]).upper() not in ("UPLOADED", "SKIPPED")]
        if bad or len(found) != len(names):
            said = f": {bad[0]['source']}: {bad[0]['status']} {bad[0]['message']}" if bad else ""
            raise BackendError(
                f"{len(names)} files were to go to {self.place / folder}, and "
                f"{len(found) - len(bad)} arrived{said}"
            )

    def sizes(self, folder: str = "", pattern: str = "") -> dict[str, int]:
        """Sizes in bytes of the files under a folder, at any depth, by name relative to here; those
        of which the end of the path fits the regular expression `pattern`.
        """
        target = self.place / folder
        prefix = f"{target.folder}/" if target.folder else ""
        asked = f" PATTERN = {_ending(pattern)}" if pattern else ""
        found: dict[str, int] = {}
        for row in self.client.rows(f"LIST {target.file('')}{asked}"):
            # The stage's own name comes first, in whatever case.
            path = str(row["name"]).partition("/")[2]
            if path.startswith(prefix):
                relative = path[len(prefix) :]
                found[f"{folder}/{relative}" if folder else relative] = int(row["size"])
        return found

    def get(self, directory: Path, folder: str, names: Sequence[str] | None = None) -> list[str]:
        """Fetch files that lie directly in a folder (default: all) into the same folder of a local
        directory, where they replace what is there; returns the file names that came.
        """
        target, came = self.place / folder, list[str]()
        into = directory / folder
        for pattern in _patterns(names):
            with _incoming(directory) as incoming:
                # A file is never seen half here: it is moved once it is whole.
                try:
                    self.client.run(
                        f"GET {target.file('')} {literal(f'file://{incoming}/')} "
                        f"PARALLEL = {PARALLEL}{pattern}"
                    )
                except SnowflakeError as error:
                    if error.errno != NO_FILE:
                        raise
                into.mkdir(mode=0o700, parents=True, exist_ok=True)
                for path in incoming.iterdir():
                    path.replace(into / path.name)
                    came.append(path.name)
        return came

    def remove(self, folder: str = "") -> None:
        """Remove everything under a folder, and nothing of one whose name begins with its."""
        self.client.run(f"REMOVE {(self.place / folder).file('')}")


class Mirror:
    """A run's directory here and its folder on a stage.

    Files are written once, so that one of the same size is the same file; heartbeats alone are
    replaced, and fetched anew each time.
    """

    # What is written once, in the order in which it has to come: a launch that is said to have
    # ended has all its parts here.
    FOLDERS = ("parts", "events", "logs", "feeds", "launches")

    def __init__(self, files: RunFiles, stage: StageFolder) -> None:
        self.files = files
        self.stage = stage

    def push(self, names: Iterable[str]) -> None:
        """Put files of the run on the stage."""
        self.stage.put(self.files.directory, names)

    def pull(self, *folders: str) -> list[str]:
        """Fetch what is in folders of the stage and not here; names relative to the run.

        One statement to list them, and one more for each folder that has news.
        """
        there = self.stage.sizes(pattern=f"({'|'.join(folders)})/[^/]+")
        return [name for folder in folders for name in self._pull(there, folder)]

    def _pull(self, there: Mapping[str, int], folder: str) -> list[str]:
        known = [name for name in there if name.rpartition("/")[0] == folder]
        missing = [name for name in known if self._size(name) != there[name]]
        # Where most are missing, all are fetched: that is one statement.
        everything = folder and 2 * len(missing) > len(known) > NAMES_AT_ONCE
        wanted = None if everything else [name.rpartition("/")[2] for name in missing]
        self.stage.get(self.files.directory, folder, wanted)
        return missing

    def pull_results(self) -> None:
        """Fetch what jobs have written so far, artifacts left out, and what others have fed."""
        self.refresh_beats()
        self.pull("parts", "events", "feeds")

    def refresh_beats(self, names: Sequence[str] | None = None) -> None:
        """Fetch heartbeats, all or those of the given file names."""
        self.stage.get(self.files.directory, "beats", names)

    def pull_run(self) -> bool:
        """Fetch a whole run, artifacts left out, its manifest last; False where there is none."""
        folders = "|".join(("beats", *self.FOLDERS))
        files = "|".join(map(re.escape, RunFiles.WRITTEN))
        there = self.stage.sizes(pattern=f"({folders})/[^/]+|{files}")
        if RunFiles.RUN not in there:
            return False
        if any(name.startswith("beats/") for name in there):
            self.refresh_beats()
        for folder in self.FOLDERS:
            self._pull(there, folder)
        manifest = there.pop(RunFiles.RUN)
        self._pull(there, "")
        if not self.files.path(RunFiles.RUN).is_file():
            self._pull({RunFiles.RUN: manifest}, "")
        return True

    def pull_artifact(self, name: str) -> None:
        """Fetch an artifact, and others of its stage while there is room."""
        folder = str(PurePosixPath(name).parent)
        there = self.stage.sizes(folder)
        room = ARTIFACTS_AT_ONCE - there.pop(name, 0)
        chosen = {name}
        for other, size in there.items():
            if self._size(other) != size and (room := room - size) >= 0:
                chosen.add(other)
        for place, names in _by_folder(chosen).items():
            self.stage.get(self.files.directory, place, names)

    def _size(self, name: str) -> int | None:
        try:
            return self.files.path(name).stat().st_size
        except FileNotFoundError:
            return None


def _by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    """File names by the folder that they are in."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, _, file = name.rpartition("/")
        found[folder].append(file)
    return found


def _ending(pattern: str) -> str:
    """A pattern for the ends of paths, in SQL: it has to fit the whole, and where that begins (at
    the stage, or at the folder that is asked for) no documentation says.

    >>> _ending("parts/[^/]+")
    "'(.*/)?(parts/[^/]+)'"
    """
    return literal(f"(.*/)?({pattern})")


def _patterns(names: Sequence[str] | None) -> Iterator[str]:
    """The PATTERN clauses that ask for file names; one that is empty where all are wanted."""
    if names is None:
        yield ""
        return
    for first in range(0, len(names), NAMES_AT_ONCE):
        some = "|".join(re.escape(name) for name in names[first : first + NAMES_AT_ONCE])
        yield f" PATTERN = {_ending(some)}"


@contextmanager
def _incoming(directory: Path) -> Iterator[Path]:
    """A temporary directory on the same filesystem."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".flowdist-", dir=directory))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
