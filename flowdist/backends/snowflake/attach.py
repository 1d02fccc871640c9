"""Runs on a stage, for a machine that has not submitted them: a mirror of the run's directory is
made here, and from then on the run is like one of its own.

What keeps a mirror up to date is `flowdist.backends.snowflake.backend`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowdist.backends.snowflake.remote import RUNS_FOLDER
from flowdist.errors import RunNotFound, UsageError, nearest
from flowdist.settings import default_root
from flowdist.snowflake.connection import Client, client_for, connection_name
from flowdist.snowflake.firing import firing_time
from flowdist.snowflake.names import Place
from flowdist.snowflake.stage import Mirror, StageFolder
from flowdist.store import RUN_ID, RunFiles

__all__ = ["addresses", "attach_run", "attach_runs", "mirror_run"]

# Runs that are fetched side by side, over a connection each.
AT_ONCE = 8


def attach_run(address: str, *, connection: Any = None, root: Path | None = None) -> RunFiles:
    """The run at ``@db.schema.stage/runs/ID``, mirrored in `root` (default: where runs go by
    default), with what it has written up to now.

    `connection` is what plans take; None: what the mirror was made with before, else the default
    connection.

    Raises:
        RunNotFound: there is none, naming the nearest ids.
        UsageError: this is no such place.
    """
    place = Place.parse(address, "run")
    run_id = place.folder.rpartition("/")[2]
    if not RUN_ID.fullmatch(run_id):
        raise UsageError(f"{address!r} names no run; write @database.schema.stage/runs/ID")
    directory = (root or default_root()) / run_id
    known = RunFiles.at(directory).read_json(RunFiles.REMOTE) or {}
    name = connection_name(connection) if connection is not None else known.get("connection")
    with _client(name) as client:
        place = _resolved(place, client)
        runs = Place(place.stage, place.folder.rpartition("/")[0])
        if not mirror_run(client, name, runs, directory):
            ids = _ids(client, runs)
            raise RunNotFound(
                f"there is no run '{run_id}' in {runs}{nearest(run_id, ids)} "
                f"({len(ids)} run{'' if len(ids) == 1 else 's'} there)"
            )
    return RunFiles.at(directory)


def attach_runs(
    address: str, *, connection: Any = None, root: Path | None = None
) -> list[RunFiles]:
    """All runs on a stage, mirrored in `root`, the latest first.

    `address` is the stage as plans name it, with an ``@``, or the folder of runs on it.
    """
    base, name = root or default_root(), connection_name(connection)
    with _client(name) as client:
        runs = _runs_folder(address, client)
        ids = _ids(client, runs)
        with ThreadPoolExecutor(max(1, min(AT_ONCE, len(ids)))) as threads:
            made = list(threads.map(lambda id_: mirror_run(client, name, runs, base / id_), ids))
    return [RunFiles.at(base / id_) for id_, there in zip(ids, made, strict=True) if there]


def addresses(address: str, *, connection: Any = None) -> dict[str, str]:
    """Where each run on a stage is, by its id; the latest first."""
    with _client(connection_name(connection)) as client:
        runs = _runs_folder(address, client)
        return {id_: (runs / id_).path for id_ in _ids(client, runs)}


# Private -----------------------------------------------------------------------------------------


@contextmanager
def _client(name: str | None) -> Iterator[Client]:
    with contextlib.closing(client_for(name)) as client:
        yield client


def _resolved(place: Place, client: Client) -> Place:
    place = client.full_place(place)
    if len(place.stage.parts) < 3:
        raise UsageError(
            f"{place} has no database or schema, and neither has the session; write "
            "@database.schema.stage"
        )
    return place


def _runs_folder(address: str, client: Client) -> Place:
    place = _resolved(Place.parse(address, "stage"), client)
    return place if place.folder.rpartition("/")[2] == RUNS_FOLDER else place / RUNS_FOLDER


def _ids(client: Client, runs: Place) -> list[str]:
    """The ids of the runs in a folder, the latest first: by the time that each has in its name."""
    there = StageFolder(client, runs).sizes(pattern=f"[^/]+/{RunFiles.RUN}")
    ids = {name.partition("/")[0] for name in there if name.count("/") == 1}
    return sorted(ids, key=lambda id_: (id_.split("-")[-3:], id_), reverse=True)


def mirror_run(client: Client, name: str | None, runs: Place, directory: Path) -> bool:
    """Bring the directory up to what is on the stage; False where no run is there."""
    files = RunFiles.at(directory)
    found = Mirror(files, StageFolder(client, runs / directory.name)).pull_run()
    if found:
        said = {"runs": runs.path, "connection": name}
        files.store.replace(RunFiles.REMOTE, json.dumps(said).encode())
        _named_as_its_place(files)
    return found


def _named_as_its_place(files: RunFiles) -> None:
    """A firing of a schedule is a copy of its template, under an id of its own."""
    manifest = files.manifest()
    if manifest["id"] != files.directory.name:
        own = files.directory.name
        manifest |= {"id": own, "template": manifest["id"]}
        with contextlib.suppress(ValueError):  # a copy that somebody has made
            manifest["created"] = firing_time(own)
        files.store.replace(RunFiles.RUN, json.dumps(manifest, indent=1).encode())
