"""Files between a directory and a folder of a stage: many in one statement, each whole, under odd
names too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from cloud import Cloud

from flowdist.errors import BackendError
from flowdist.snowflake import stage as module
from flowdist.snowflake.connection import Client
from flowdist.snowflake.names import Place
from flowdist.snowflake.stage import Mirror, StageFolder
from flowdist.store import RunFiles

ODD = ["a b.bin", "it's.bin", "[x]*.bin", "größe.bin", "a+b&c=d.bin", "100%.bin"]


@pytest.fixture(scope="module")
def client(cloud: Cloud) -> Client:
    return cloud.client()


@pytest.fixture
def folder(client: Client, tmp_path: Path) -> StageFolder:
    """A folder of its own for each test."""
    return StageFolder(client, Place.parse(f"@flowdist.public.runs/runs/{tmp_path.name}"))


@pytest.fixture
def mirror(folder: StageFolder, tmp_path: Path) -> Mirror:
    """Of a run whose directory here is empty."""
    return Mirror(RunFiles.at(tmp_path / "here"), folder)


def written(directory: Path, names: Iterable[str], content: str = "") -> Path:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content or name)
    return directory


def statements(client: Client, before: int) -> int:
    return client.statements - before


# Files -------------------------------------------------------------------------------------------


def test_files_go_and_come_with_a_statement_for_each_folder(
    client: Client, folder: StageFolder, tmp_path: Path
) -> None:
    names = ["run.json", *(f"parts/{i}.arrow" for i in range(20))]
    written(tmp_path / "from", names)
    before = client.statements

    folder.put(tmp_path / "from", names)
    assert statements(client, before) == 2
    assert folder.sizes() == {name: len(name) for name in names}
    came = folder.get(tmp_path / "to", "parts")

    assert sorted(came) == sorted(name.partition("/")[2] for name in names[1:])
    assert (tmp_path / "to/parts/7.arrow").read_text() == "parts/7.arrow"
    assert statements(client, before) == 4


def test_odd_names_survive_in_odd_places(folder: StageFolder, tmp_path: Path) -> None:
    odd = tmp_path / "it's [odd] * größe"
    written(odd, [f"parts/{name}" for name in ODD])

    folder.put(odd, [f"parts/{name}" for name in ODD])
    folder.get(odd / "back", "parts", ODD)

    assert sorted(path.name for path in (odd / "back/parts").iterdir()) == sorted(ODD)
    assert {path.read_text() for path in (odd / "back/parts").iterdir()} == {
        f"parts/{name}" for name in ODD
    }


def test_only_what_is_asked_for_comes(folder: StageFolder, tmp_path: Path) -> None:
    names = ["parts/1.arrow", "parts/11.arrow", "parts/1xarrow"]
    folder.put(written(tmp_path / "from", names), names)

    assert folder.get(tmp_path, "parts", ["1.arrow"]) == ["1.arrow"]
    assert folder.get(tmp_path, "parts", []) == []
    assert folder.get(tmp_path, "nothing") == []
    assert set(folder.sizes(pattern=r"parts/1\.arrow")) == {"parts/1.arrow"}


def test_a_file_that_is_not_here_cannot_be_put(folder: StageFolder, tmp_path: Path) -> None:
    written(tmp_path, ["a"])
    with pytest.raises(BackendError, match="b is not there to be put on @FLOWDIST"):
        folder.put(tmp_path, ["a", "b"])


def test_removing_a_folder_leaves_its_neighbours(client: Client, tmp_path: Path) -> None:
    base = Place.parse(f"@flowdist.public.runs/{tmp_path.name}")
    for run in ("flow-1", "flow-12", "flow-1.firing"):
        StageFolder(client, base / run).put(written(tmp_path, ["run.json"]), ["run.json"])

    StageFolder(client, base / "flow-1").remove()

    assert set(StageFolder(client, base).sizes()) == {"flow-12/run.json", "flow-1.firing/run.json"}


# The mirror of a run -----------------------------------------------------------------------------


def test_what_is_here_is_not_fetched_again(
    client: Client, folder: StageFolder, mirror: Mirror, tmp_path: Path
) -> None:
    there = written(tmp_path / "there", ["parts/1.arrow", "parts/2.arrow", "events/a.jsonl"])
    folder.put(there, ["parts/1.arrow", "parts/2.arrow", "events/a.jsonl"])
    assert sorted(mirror.pull("parts", "events")) == [
        "events/a.jsonl", "parts/1.arrow", "parts/2.arrow"
    ]  # fmt: skip
    folder.put(written(there, ["parts/3.arrow"]), ["parts/3.arrow"])
    before = client.statements

    assert mirror.pull("parts", "events") == ["parts/3.arrow"]
    assert mirror.pull("parts", "events") == []

    assert statements(client, before) == 3


def test_a_part_that_came_in_half_comes_again(
    folder: StageFolder, mirror: Mirror, tmp_path: Path
) -> None:
    folder.put(written(tmp_path, ["parts/1.arrow"], "whole"), ["parts/1.arrow"])
    written(tmp_path / "here", ["parts/1.arrow"], "wh")

    mirror.pull("parts")

    assert (tmp_path / "here/parts/1.arrow").read_text() == "whole"


def test_heartbeats_are_fetched_anew_though_their_size_is_the_same(
    folder: StageFolder, mirror: Mirror, tmp_path: Path
) -> None:
    name = "beats/00000-1.json"
    folder.put(written(tmp_path, [name], '{"state": "running"}'), [name])
    mirror.pull_results()
    folder.put(written(tmp_path, [name], '{"state": "stopped"}'), [name], overwrite=True)

    mirror.pull_results()

    assert mirror.files.read_json(name) == {"state": "stopped"}


def test_nothing_but_files_of_the_run_lies_in_its_folders_while_they_come(
    folder: StageFolder, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"events/{i}.jsonl" for i in range(3)]
    folder.put(written(tmp_path, names), names)
    seen: list[list[str]] = []
    real = Client.run

    def looked(self: Client, sql: str, *args: object, **options: object) -> int:
        found = real(self, sql, *args, **options)  # type: ignore[arg-type]
        seen.append(mirror.files.store.list("events"))
        return found

    monkeypatch.setattr(Client, "run", looked)
    mirror.pull("events")

    assert seen == [[]]
    assert len(mirror.files.store.list("events")) == 3
    assert os.listdir(mirror.files.directory) == ["events"]


def test_a_hidden_file_comes_once_it_is_seen(
    cloud: Cloud, folder: StageFolder, mirror: Mirror, tmp_path: Path
) -> None:
    names = ["parts/1.arrow", "parts/2.arrow"]
    folder.put(written(tmp_path, names), names)

    with cloud.emulator.faults.hide(f"{folder.place.path}/parts/2.arrow"):
        assert mirror.pull("parts") == ["parts/1.arrow"]
    assert mirror.pull("parts") == ["parts/2.arrow"]


def test_a_run_comes_with_its_manifest_last(
    folder: StageFolder, mirror: Mirror, tmp_path: Path
) -> None:
    assert mirror.pull_run() is False
    names = [*RunFiles.WRITTEN, "parts/1.arrow", "launches/0001.json", "artifacts/fit/1.pkl"]
    folder.put(written(tmp_path, names), names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mirror, "_pull", _fails_at("launches", Mirror._pull))
        with pytest.raises(BackendError):
            mirror.pull_run()
        assert not mirror.files.path(RunFiles.RUN).exists()

    assert mirror.pull_run() is True

    assert mirror.files.path(RunFiles.RUN).read_text() == RunFiles.RUN
    assert mirror.files.parts() == ["parts/1.arrow"]
    assert not mirror.files.path("artifacts").exists()


def _fails_at(wanted: str, real: object) -> object:
    def pull(self: Mirror, there: dict[str, int], folder: str) -> list[str]:
        if folder == wanted:
            raise BackendError("the network is gone")
        return real(self, there, folder)  # type: ignore[operator,no-any-return]

    return pull


def test_an_artifact_brings_others_of_its_stage_while_there_is_room(
    client: Client,
    folder: StageFolder,
    mirror: Mirror,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"artifacts/fit/{i}.pkl" for i in range(6)]
    folder.put(written(tmp_path, names, "x" * 10), names)
    monkeypatch.setattr(module, "ARTIFACTS_AT_ONCE", 30)
    before = client.statements

    mirror.pull_artifact(names[5])

    here = sorted((tmp_path / "here/artifacts/fit").iterdir())
    assert len(here) == 3
    assert here[-1].name == "5.pkl"
    assert statements(client, before) == 2


def test_hundreds_of_parts_are_a_few_statements(
    client: Client, folder: StageFolder, mirror: Mirror, tmp_path: Path
) -> None:
    names = [f"parts/{job:05d}-1-0000.arrow" for job in range(500)]
    folder.put(written(tmp_path, names, "x" * 1000), names)
    before = client.statements

    assert len(mirror.pull("parts")) == 500

    assert statements(client, before) == 2
