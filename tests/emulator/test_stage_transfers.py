"""PUT and GET by the connectors themselves, unmodified, of both lines."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulator_server import Server

CLIENT = Path(__file__).parent / "stage_client.py"
MEGABYTE = 1 << 20


def run5(script: Path, *arguments: Any) -> Any:
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        # Else Amazon's library looks for credentials of a machine in its cloud.
        env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("line", [5, 4])
def test_files_are_sent_and_fetched(
    server: Server, line: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Callable[..., Any] = run5 if line == 5 else request.getfixturevalue("run4")
    folder = tmp_path / "client"
    folder.mkdir()
    said = run(CLIENT, server.parameters(), str(folder))

    assert said["version"].startswith(f"{line}.")
    name = "with blank.txt"
    assert said["put"] == [[name, name, 5, 5, "NONE", "NONE", "UPLOADED", ""]]
    # The older line cannot know that the file is there; it stays as it is all the same.
    status = "SKIPPED" if line == 5 else "UPLOADED"
    assert said["put again"] == [[name, name, 6, 6, "NONE", "NONE", status, ""]]
    assert [row[:2] for row in said["after put again"]] == [[f"files/in the/dark/{name}", 5]]
    assert said["overwrite"] == [[name, name, 6, 6, "NONE", "NONE", "UPLOADED", ""]]
    assert [[*row[:3], *row[4:7]] for row in said["pattern"]] == [
        [f"{x}.csv", f"{x}.csv.gz", 2000, "NONE", "GZIP", "UPLOADED"] for x in "ab"
    ]
    assert said["stream"][0][:2] == ["stream.bin", "stream.bin"]
    assert said["empty"][0][6] == "UPLOADED"
    assert [(row[0], row[1]) for row in said["list"] if not row[0].endswith("gz")] == [
        (f"files/in the/dark/{name}", 6),
        ("files/nothing", 0),
        ("files/stream.bin", 9),
    ]
    odd = ["100% #1+[ü].txt", "it's.txt", "nothing"]
    assert said["odd"] == [*([f"passing/{n}", 0] for n in odd), ["odd/it's.txt", 0]]
    assert {(Path(row[0]).name, row[2]) for row in said["get"]} == {
        (path, "DOWNLOADED") for path in said["got"]
    }
    got = {path: bytes.fromhex(data) for path, data in said["got"].items()}
    assert gzip.decompress(got.pop("a.csv.gz")) == gzip.decompress(got.pop("b.csv.gz"))
    assert got == {name: b"second", "nothing": b"", "stream.bin": b"\0" * 9}
    assert [row[0] for row in said["get pattern"]] == ["b.csv.gz"]
    assert "does not exist" in said["get nothing"]
    assert "Stage 'FLOWDIST.PUBLIC.NOWHERE' does not exist" in said["put to nowhere"]
    assert "exist" in said["put of nothing"]


def test_a_large_file_is_sent_in_parts(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    cursor = server.connect().cursor()
    cursor.execute("CREATE STAGE files")
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(70 * MEGABYTE)
        file.write(b"end")

    (row,) = cursor.execute(f"PUT file://{large} @files AUTO_COMPRESS = FALSE").fetchall()
    assert row[6] == "UPLOADED"
    (listed,) = cursor.execute("LIST @files").fetchall()
    assert listed[1] == large.stat().st_size
    assert "-" in listed[2], "the digest of a file that came in parts says how many"
    (tmp_path / "out").mkdir()
    cursor.execute(f"GET @files/large.bin file://{tmp_path}/out/")
    done = subprocess.run(["cmp", str(large), str(tmp_path / "out" / "large.bin")], check=False)
    assert done.returncode == 0


def test_a_presigned_address_needs_no_session(server: Server, tmp_path: Path) -> None:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    cursor = server.connect().cursor()
    cursor.execute("CREATE STAGE files")
    (tmp_path / "a b.txt").write_text("hello")
    cursor.execute(f"PUT 'file://{tmp_path}/a b.txt' @files/in AUTO_COMPRESS = FALSE")

    (address,) = cursor.execute("SELECT GET_PRESIGNED_URL(@files, 'in/a b.txt', 60)").fetchone()
    assert urlopen(address).read() == b"hello"
    with pytest.raises(HTTPError, match="403"):
        urlopen(address[:-1] + ("0" if address[-1] != "0" else "1"))


def test_a_directory_table_is_queried(server: Server, tmp_path: Path) -> None:
    cursor = server.connect().cursor()
    cursor.execute("CREATE STAGE files DIRECTORY = (ENABLE = TRUE)")
    (tmp_path / "a.txt").write_text("hello")
    cursor.execute(f"PUT file://{tmp_path}/a.txt @files/in AUTO_COMPRESS = FALSE")
    cursor.execute("ALTER STAGE files REFRESH")

    cursor.execute(
        "SELECT RELATIVE_PATH, SIZE, LAST_MODIFIED FROM DIRECTORY(@files) WHERE SIZE > 1"
    )
    ((path, size, modified),) = cursor.fetchall()
    assert (path, size) == ("in/a.txt", 5)
    assert modified.tzinfo is not None
