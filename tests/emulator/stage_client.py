"""A client that sends files to a stage and fetches them, under whatever connector runs it.

Not a test itself (see test_stage_transfers.py): its argument is JSON, the keywords of a connection
and a directory to work in; it prints as JSON what it was answered.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import snowflake.connector


def main(parameters: dict[str, Any], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"version": snowflake.connector.__version__}
    with snowflake.connector.connect(**parameters) as connection:
        cursor = connection.cursor()

        def run(sql: str, **options: Any) -> list[list[Any]]:
            return [list(row) for row in cursor.execute(sql, **options).fetchall()]

        run("CREATE OR REPLACE STAGE files")
        blank = folder / "with blank.txt"
        put = f"PUT 'file://{blank}' '@files/in the/dark' AUTO_COMPRESS = FALSE"
        blank.write_text("first")
        found["put"] = run(put)
        blank.write_text("second")
        found["put again"] = run(put)
        found["after put again"] = run("LIST @files")
        found["overwrite"] = run(f"{put} OVERWRITE = TRUE PARALLEL = 2")
        for name in ("a.csv", "b.csv"):
            (folder / name).write_text("1,2\n" * 500)
        found["pattern"] = run(f"PUT file://{folder}/*.csv @files/tables/")
        found["stream"] = run(
            "PUT file://stream.bin @files AUTO_COMPRESS = FALSE", file_stream=io.BytesIO(b"\0" * 9)
        )
        (folder / "nothing").write_bytes(b"")
        found["empty"] = run(f"PUT file://{folder}/nothing @files AUTO_COMPRESS = FALSE")
        found["list"] = run("LIST @files")
        run("CREATE TEMPORARY STAGE passing")
        odd = folder / "odd"
        odd.mkdir(exist_ok=True)
        for name in ("it's.txt", "100% #1+[ü].txt", "nothing"):
            (odd / name).write_text("")
        run(f"PUT file://{odd}/* @passing AUTO_COMPRESS = FALSE")
        run(f"PUT 'file://{odd}/it\\'s.txt' @~/odd AUTO_COMPRESS = FALSE")
        run(f"GET '@~/odd/it\\'s.txt' file://{odd}/")
        found["odd"] = [row[:2] for row in run("LIST @passing") + run("LIST @~")]
        out = folder / "out"
        out.mkdir(exist_ok=True)
        found["get"] = run(f"GET @files file://{out}/")
        found["got"] = {path.name: path.read_bytes().hex() for path in sorted(out.iterdir())}
        one = folder / "one"
        one.mkdir(exist_ok=True)
        found["get pattern"] = run(f"GET @files 'file://{one}' PATTERN = '.*/b[.]csv.*'")
        for name, sql in {
            "get nothing": f"GET @files/nowhere/ file://{out}/",
            "put to nowhere": f"PUT file://{blank.parent}/a.csv @nowhere",
            "put of nothing": f"PUT file://{folder}/nowhere/*.csv @files",
        }.items():
            try:
                found[name] = run(sql)
            except snowflake.connector.errors.Error as error:
                found[name] = str(error.msg)
    return found


if __name__ == "__main__":
    given, where = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps(main(given, Path(where))) + "\n")
