"""The sub-command that takes results: collect."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowdist.cli import BACKEND_FAILED, INTERRUPTED, ROWS_FAILED, Command, Failure
from flowdist.cli.find import find_run
from flowdist.cli.options import json_option, root_option, run_argument
from flowdist.cli.output import Output, plain
from flowdist.errors import RowsFailed, RunIncomplete, UsageError
from flowdist.explain import command

if TYPE_CHECKING:
    import pyarrow as pa

    from flowdist.run import Run

FORMATS = (".parquet", ".csv", ".json", ".arrow")
HEAD = 10


@click.command(cls=Command)
@run_argument
@click.option("-o", "--output", "path", metavar="FILE", type=click.Path(path_type=Path),
              help="Where to write all of it: .parquet, .csv, .json or .arrow.")  # fmt: skip
@click.option("--table", "stage", metavar="STAGE",
              help="The table of one stage instead, as of a reduce.")  # fmt: skip
@click.option("--errors", "keep", is_flag=True,
              help="Keep failed rows, with _status, _error, _attempts and _seconds.")  # fmt: skip
@click.option("--drop-failed", "drop", is_flag=True, help="Leave failed rows out.")
@click.option("--partial", is_flag=True, help="Take what is there now, without waiting.")
@click.option("--as-text", is_flag=True,
              help="Make undeclared fields text where rows gave types that clash.")  # fmt: skip
@root_option
@json_option
@click.pass_context
def collect(
    ctx: click.Context,
    run_id: str,
    path: Path | None,
    stage: str | None,
    keep: bool,
    drop: bool,
    partial: bool,
    as_text: bool,
    root: str | None,
    as_json: bool,
) -> None:
    """Take the table of a run: a row for each row of the grid.

    Waits for the run to end. Without -o the first rows are printed; with --json, all of them. Where
    rows failed it ends with exit code 1, unless --errors or --drop-failed says what to do with
    them.

    \b
      flowdist collect last
      flowdist collect last -o table.parquet
      flowdist collect last --errors --json
    """
    if keep and drop:
        raise UsageError("--errors and --drop-failed say opposite things; give one of them")
    check_format(path)
    if stage is not None and (partial or as_text):
        raise UsageError("--partial and --as-text are for the table of all rows, without --table")
    errors: Any = "keep" if keep else "drop" if drop else "raise"
    out = Output(json=as_json)
    run = find_run(run_id, root)
    if not partial and not run.status().ended:
        try:
            run.watch()
        except KeyboardInterrupt:
            click.echo("\nThe run goes on; --partial takes what is there.", err=True)
            ctx.exit(INTERRUPTED)
    if stage is not None:
        table = _table(run, stage, errors)
    else:
        table = _collected(run, errors, partial, as_text)
    if path is not None:
        write_table(table, path)
        what = f"{table.num_rows:,} rows, {table.num_columns:,} columns"
        out.message(f"Wrote {path}: {what}, {path.stat().st_size / 1024:,.0f} KiB")
        out.data({"path": str(path), "rows": table.num_rows, "columns": table.column_names})
        return
    print_table(out, table)


def _table(run: Run, stage: str, errors: Any) -> pa.Table:
    """The table of a stage, or a failure that says what to type."""
    try:
        return run.table(stage, as_="arrow", errors=errors)
    except RowsFailed as error:
        raise Failure(
            f"{str(error).splitlines()[0]}. --errors keeps what failed in the table, --drop-failed "
            f"leaves it out; {command(run, 'errors')} lists it",
            ROWS_FAILED,
        ) from None


def _collected(run: Run, errors: Any, partial: bool, as_text: bool) -> pa.Table:
    """The table, or a failure that says what to type."""
    try:
        return run.collect(
            as_="arrow", errors=errors, partial=partial, clashes="text" if as_text else "raise"
        )
    except RowsFailed:
        status = run.status()
        raise Failure(
            f"{status.failed:,} of {status.rows:,} rows of {run.id} failed; --errors keeps them in "
            f"the table, --drop-failed leaves them out. {command(run, 'errors')} lists them",
            ROWS_FAILED,
        ) from None
    except RunIncomplete:
        status = run.status()
        raise Failure(
            f"run {run.id} is {status.state}: {status.reason}. {command(run, 'resume')} "
            "starts them, --partial takes what is there",
            BACKEND_FAILED if status.state in ("failed", "lost") else ROWS_FAILED,
        ) from None


def print_table(out: Output, table: pa.Table) -> None:
    """The first rows for people, all of them for programs."""
    from flowdist.show import frame_table

    if out.json:
        out.data(records(table))
        return
    head = table.slice(0, HEAD)
    out.show(frame_table(records(head), table.column_names))
    if table.num_rows > HEAD:
        out.message(f"\n{HEAD} of {table.num_rows:,} rows; -o table.parquet writes all of them")


def records(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as dicts; of an artifact what it is, not its bytes."""
    from flowdist.artifacts import ARTIFACT_TYPE

    rows: list[dict[str, Any]] = table.to_pylist()
    for field in table.schema:
        if field.type.equals(ARTIFACT_TYPE):
            for row in rows:
                if row[field.name] is not None:
                    row[field.name].pop("data", None)
    return rows


def check_format(path: Path | None) -> None:
    """Refuse a file whose suffix names no format."""
    if path is not None and path.suffix not in FORMATS:
        raise UsageError(f"{path}: a table is written as {', '.join(FORMATS)}, not '{path.suffix}'")


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table in the format that the suffix of `path` names; half of it is never seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write(table, unfinished, path.suffix)
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()


def _write(table: pa.Table, path: Path, suffix: str) -> None:
    import pyarrow as pa

    if suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, path)
    elif suffix == ".csv":
        import pyarrow.csv as pc

        pc.write_csv(_flat(table), path)
    elif suffix == ".json":
        text = json.dumps(plain(records(table)), indent=1, ensure_ascii=False, allow_nan=False)
        path.write_text(f"{text}\n", encoding="utf-8")
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


def _flat(table: pa.Table) -> pa.Table:
    """The table with what CSV cannot hold as JSON text."""
    import pyarrow as pa

    nested = {}
    for field in table.schema:
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
            nested[field.name] = records(table.select([field.name]))
    for name, rows in nested.items():
        texts = [None if r[name] is None else json.dumps(plain(r[name])) for r in rows]
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pa.array(texts, pa.string()))
    return table
