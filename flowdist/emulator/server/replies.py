"""What a query has answered, as the reply that the connector reads; large results in chunks.

Chunks are made when they are fetched, so that a large result is in memory once, as Arrow. The
address of a chunk has a signature in it, because clients fetch chunks without their token.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flowdist.emulator.errors import SqlError
from flowdist.emulator.queries import Query, State
from flowdist.emulator.result import Kind, Result, Transfer
from flowdist.emulator.server.describe import Description
from flowdist.emulator.server.encode import (
    arrow_stream,
    arrow_text,
    json_rows,
    row_types,
    to_wire,
    wire_schema,
)
from flowdist.emulator.server.login import parameter_list
from flowdist.emulator.server.protocol import failure

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.session import Session

__all__ = ["Replies", "gone", "is_small", "status_of"]

INLINE_BYTES = 1_000_000
"""How much of a result comes with the reply, where it comes in chunks."""
FEW_ROWS = 100
"""So many rows never come in chunks; to ask Arrow for their size would take longer than they do."""
CHUNK_BYTES = 16_000_000
"""About as large as Snowflake's chunks, before compression."""

PUT, GET = 0x7101, 0x7102
_IDS = {
    "SHOW": 0x4400,
    "DESCRIBE": 0x4500,
    "DESC": 0x4500,
    "LIST": 0x4700,
    "LS": 0x4700,
}
"""Statements that answer rows and are no SELECT: Snowflake sends them as JSON."""


@dataclass(frozen=True)
class _Chunk:
    """Rows of a result, by the query's id; ``form`` is "json" or "arrow"."""

    query: str
    form: str
    first: int
    count: int

    @property
    def path(self) -> str:
        return f"{self.query}/{self.form}/{self.first}/{self.count}"


class Replies:
    """Makes the replies of an account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._secret = secrets.token_bytes(16)
        self._parameters: dict[str, str] = {}
        self._schemas: OrderedDict[str, pa.Schema] = OrderedDict()

    def ended(self, query: Query, session: Session, base: str) -> str:
        """The reply, as JSON, for a query that has ended; `base` is where its client sees us."""
        if query.error is not None:
            return json.dumps(failure(query.error, query.id))
        outcome = query.outcome
        if outcome is None:
            return json.dumps(failure(gone(query.id), query.id))
        if isinstance(outcome, Transfer):
            data = {"statementTypeId": _transfer_id(query.text), **outcome.data}
            parts = [json.dumps(data)[1:-1]]
        elif outcome.kind is Kind.MULTI:
            parts = [self._children(outcome), self._rows(query, outcome, session, base)]
        else:
            parts = [self._rows(query, outcome, session, base)]
        return _joined([*parts, self._common(query, session)])

    def running(self, query: Query, *, detached: bool) -> str:
        """The reply for one that has not: where its result will be."""
        data = {
            "queryId": query.id,
            "getResultUrl": f"/queries/{query.id}/result",
            "queryAbortsAfterSecs": 300,
            "progressDesc": None,
        }
        return json.dumps(
            {
                "data": data,
                "code": "333334" if detached else "333333",
                "message": "Query execution in progress.",
                "success": True,
            }
        )

    def described(self, found: Description, session: Session, query: Query) -> str:
        """The reply to a request that wants the columns only."""
        own = json.dumps(
            {
                "rowset": [],
                "total": 0,
                "returned": 0,
                "numberOfBinds": found.binds,
                "arrayBindSupported": found.arrays,
                "statementTypeId": int(found.kind),
                "queryResultFormat": "json",
            }
        )[1:-1]
        types = f'"rowtype":{row_types(found.columns)}'
        return _joined([own, types, self._common(query, session)])

    def chunk(self, path: str, signature: str) -> tuple[bytes, str]:
        """The content of a chunk and its media type; KeyError where there is none such."""
        name, form, first, count = path.split("/")
        made = _Chunk(name, form, int(first), int(count))
        query = self._account.queries.find(name)
        if query is None or not hmac.compare_digest(signature, self._sign(made)):
            raise KeyError(path)
        if not isinstance(query.outcome, Result):
            raise KeyError(path)
        columns, table = query.outcome.columns, query.outcome.table
        rows = table.slice(made.first, made.count)
        if form == "arrow":
            wire = to_wire(columns, rows, self._schema(query.id, query.outcome))
            return arrow_stream(wire), "application/octet-stream"
        # The rows without brackets around them: the client puts these.
        return json.dumps(json_rows(columns, rows))[1:-1].encode(), "application/json"

    # -- inside

    def _rows(self, query: Query, result: Result, session: Session, base: str) -> str:
        form = _form(query, result, session)
        table, columns = result.table, result.columns
        first, chunks = self._cut(query.id, form, table, base)
        inline = table if not chunks else table.slice(0, first)
        if form == "json":
            rowset = f'"rowset":{json.dumps(json_rows(columns, inline))}'
        else:
            schema = self._schema(query.id, result) if chunks else None
            rowset = f'"rowsetBase64":"{arrow_text(to_wire(columns, inline, schema))}"'
        if chunks:
            rowset += f',"chunks":{json.dumps(chunks)},"chunkHeaders":{{}}'
        return (
            f'"rowtype":{row_types(columns)},{rowset},"total":{table.num_rows},'
            f'"returned":{table.num_rows},"queryResultFormat":"{form}",'
            f'"statementTypeId":{_statement_id(query, result)}{_stats(result)}'
        )

    def _cut(
        self, query_id: str, form: str, table: pa.Table, base: str
    ) -> tuple[int, list[dict[str, Any]]]:
        """How many rows come with the reply, and the chunks for the rest; none if all do."""
        total = table.num_rows
        if total <= FEW_ROWS or (size := table.nbytes) <= CHUNK_BYTES:
            return total, []
        first = max(1, total * INLINE_BYTES // size)
        step = max(1, total * CHUNK_BYTES // size)
        chunks = []
        for start in range(first, total, step):
            chunk = _Chunk(query_id, form, start, min(step, total - start))
            signed = f"{chunk.path}?signature={self._sign(chunk)}"
            chunks.append(
                {
                    "url": f"{base}/results/{signed}",
                    "rowCount": chunk.count,
                    "uncompressedSize": size * chunk.count // total,
                    "compressedSize": size * chunk.count // total,
                }
            )
        return first, chunks

    def _schema(self, query_id: str, result: Result) -> pa.Schema:
        """The schema of all chunks of a result, which takes a look at all of it."""
        found = self._schemas.get(query_id)
        if found is None:
            found = self._schemas[query_id] = wire_schema(result.columns, result.table)
            if len(self._schemas) > 100:
                self._schemas.popitem(last=False)
        return found

    def _sign(self, chunk: _Chunk) -> str:
        return hmac.new(self._secret, chunk.path.encode(), hashlib.sha256).hexdigest()

    def _children(self, result: Result) -> str:
        children = [self._account.queries.find(name) for name in result.children]
        kinds = [
            str(int(child.outcome.kind))
            for child in children
            if child is not None and isinstance(child.outcome, Result)
        ]
        return json.dumps({"resultIds": ",".join(result.children), "resultTypes": ",".join(kinds)})[
            1:-1
        ]

    def _common(self, query: Query, session: Session) -> str:
        """What every reply says of the query, and of the session as it is now."""
        own = json.dumps(
            {
                "queryId": query.id,
                "sqlState": "00000",
                "databaseProvider": None,
                "finalDatabaseName": session.database,
                "finalSchemaName": session.schema,
                "finalWarehouseName": session.warehouse,
                "finalRoleName": session.role,
                "version": 1,
                "sendResultTime": int((query.ended or query.started) * 1000),
            }
        )[1:-1]
        return f'{own},"queryContext":{{"entries":[]}},"parameters":{self._told(session)}'

    def _told(self, session: Session) -> str:
        """The parameters as JSON, kept as long as they are the same."""
        key = repr(session.parameters)
        if key not in self._parameters:
            if len(self._parameters) > 1000:
                self._parameters.clear()
            self._parameters[key] = json.dumps(parameter_list(session))
        return self._parameters[key]


def _joined(parts: list[str]) -> str:
    return f'{{"data":{{{",".join(parts)}}},"code":null,"message":null,"success":true}}'


def gone(query_id: str) -> SqlError:
    """The query is not remembered, or its result is not."""
    return SqlError(612, "02000", f"Result for query {query_id} not found")


def is_small(query: Query) -> bool:
    """Whether the reply for a query is made in no time."""
    return not isinstance(query.outcome, Result) or query.outcome.table.num_rows <= FEW_ROWS


def _first_word(query: Query) -> str:
    return query.text.lstrip().split(None, 1)[0].upper() if query.text.strip() else ""


def _statement_id(query: Query, result: Result) -> int:
    if result.kind is Kind.SELECT:
        return _IDS.get(_first_word(query), int(Kind.SELECT))
    return int(result.kind)


def _transfer_id(text: str) -> int:
    return GET if text.lstrip()[:3].upper() == "GET" else PUT


def _form(query: Query, result: Result, session: Session) -> str:
    wanted = query.result_format or session.parameter("PYTHON_CONNECTOR_QUERY_RESULT_FORMAT")
    if wanted == "JSON" or result.kind is not Kind.SELECT or _first_word(query) in _IDS:
        return "json"
    return "arrow"


_COUNTS = {
    "number of rows inserted": "numRowsInserted",
    "number of rows updated": "numRowsUpdated",
    "number of rows deleted": "numRowsDeleted",
}


def _stats(result: Result) -> str:
    if result.kind & 0xF000 != Kind.DML or result.table.num_rows != 1:
        return ""
    counts = {
        _COUNTS[column.name]: int(values[0].as_py())
        for column, values in zip(result.columns, result.table.columns, strict=True)
        if column.name in _COUNTS
    }
    return f',"stats":{json.dumps({"numDmlDuplicates": 0, **counts})}' if counts else ""


def status_of(query: Query, now: float) -> dict[str, Any]:
    """What /monitoring/queries says of a query; times in milliseconds."""
    found: dict[str, Any] = {
        "id": query.id,
        "status": "ABORTING"
        if query.stop.is_set() and not query.state.ended
        else query.state.value,
        "state": query.state.value,
        "sessionId": query.session_id,
        "userName": query.user,
        "roleName": query.role,
        "databaseName": query.database,
        "schemaName": query.schema,
        "warehouseName": query.warehouse,
        "queryTag": query.tag,
        "sqlText": query.text,
        "startTime": int(query.started * 1000),
        "endTime": int((query.ended or 0) * 1000),
        "totalDuration": int(((query.ended or now) - query.started) * 1000),
    }
    if query.error is not None and query.state in (State.FAILED, State.ABORTED):
        found["errorCode"] = query.error.code
        found["errorMessage"] = query.error.message
    return found
