"""PUT and GET, LIST, REMOVE and COPY FILES: what moves the files of stages.

PUT and GET only say what is to be moved, and give a pass for it; the client moves the bytes by
itself, through `server.objects`. It also expands wildcards, compresses, and leaves out what is
there (OVERWRITE = FALSE), which it asks the store about.

Clients of connector 5.x speak S3's language over plain HTTP. Those of 4.x insist on TLS there, and
get an address for each file, as on an account at Google: for a PUT they send the statement once
more for each file to learn its address (`stages.resent`), and cannot know what is there. Then a
file that is there stays as it is, and the client reports it as UPLOADED.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from functools import lru_cache
from typing import Any, TypeVar

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, compilation_error, invalid_value
from flowdist.emulator.result import Kind, Result, Transfer, rows
from flowdist.emulator.server.objects import BUCKET, address
from flowdist.emulator.session import Session
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.stages.files import shown_name
from flowdist.emulator.stages.store import UnsafePath, safe_path
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.types import FIXED

T = TypeVar("T")

THRESHOLD = 64 << 20
"""From which size on a client uploads in parts, in bytes."""
MOST_NAMED = 1000
"""How many files COPY FILES takes by name."""
REGION = "us-east-1"
COMPRESSIONS = (
    "AUTO_DETECT",
    "GZIP",
    "BZ2",
    "BROTLI",
    "ZSTD",
    "DEFLATE",
    "RAW_DEFLATE",
    "NONE",
)


@statement("PUT")
def put(context: Context, parse: Parser) -> Transfer:
    """PUT 'file://...' '@stage/path'."""
    source = _local(parse)
    stage, path = _location(context, parse, "PUT")
    said = parse.properties(
        {
            "PARALLEL": _parallel,
            "AUTO_COMPRESS": Parser.boolean,
            "SOURCE_COMPRESSION": _compression,
            "OVERWRITE": Parser.boolean,
        }
    )
    parse.end()
    context.account.files.require(context.session, stage, "WRITE")
    overwrite = said.get("OVERWRITE", False)
    return Transfer(
        {
            "command": "UPLOAD",
            "src_locations": [source],
            "parallel": said.get("PARALLEL", 4),
            "autoCompress": said.get("AUTO_COMPRESS", True),
            "sourceCompression": said.get("SOURCE_COMPRESSION", "auto_detect"),
            "overwrite": overwrite,
            "threshold": THRESHOLD,
            **_common(),
            "stageInfo": _upload_info(context, stage, _folder(path), source, overwrite),
        }
    )


@statement("GET")
def get(context: Context, parse: Parser) -> Transfer:
    """GET '@stage/path' 'file://...'."""
    stage, path = _location(context, parse, "GET")
    target = _local(parse)
    said = parse.properties({"PARALLEL": _parallel, "PATTERN": _pattern})
    parse.end()
    context.account.files.require(context.session, stage, "READ")
    wanted = said.get("PATTERN", _everything)
    found = [name for name, _ in context.account.files.stats(stage, path) if wanted(name)]
    info, addresses = _download_info(context, stage, found)
    return Transfer(
        {
            "command": "DOWNLOAD",
            "src_locations": found,
            "localLocation": target,
            "parallel": said.get("PARALLEL", 10),
            "threshold": THRESHOLD,
            **_common(),
            "stageInfo": info,
            "presignedUrls": addresses,
        }
    )


@statement("LIST")
def list_files(context: Context, parse: Parser) -> Result:
    """LIST '@stage/path' [PATTERN = '...']."""
    stage, path = _location(context, parse, "LIST")
    wanted = parse.properties({"PATTERN": _pattern}).get("PATTERN", _everything)
    parse.end()
    context.account.files.require(context.session, stage, "READ")
    first = shown_name(stage)
    return rows(
        ["name", ("size", FIXED), "md5", "last_modified"],
        [
            (first + file.path, file.size, file.md5, _moment(int(file.modified)))
            for file in context.account.files.listing(stage, path)
            if wanted(file.path)
        ],
    )


@statement("REMOVE")
def remove(context: Context, parse: Parser) -> Result:
    """REMOVE '@stage/path' [PATTERN = '...']: all whose paths begin so."""
    stage, path = _location(context, parse, "REMOVE")
    wanted = parse.properties({"PATTERN": _pattern}).get("PATTERN", _everything)
    parse.end()
    files = context.account.files
    files.require(context.session, stage, "WRITE")
    found = [file for file in files.stats(stage, path) if wanted(file[0])]
    gone = files.remove(stage, _until_stopped(context, found))
    first = shown_name(stage)
    return rows(["name", "result"], [(first + name, "removed") for name in gone])


def _until_stopped(context: Context, found: Iterable[T]) -> Iterator[T]:
    for one in found:
        context.query.check()
        yield one


@statement("COPY", "FILES", "INTO")
def copy_files(context: Context, parse: Parser) -> Result:
    """COPY FILES INTO '@stage/path/' FROM '@stage/path/'."""
    to, to_path = _location(context, parse, "COPY FILES")
    parse.expect("FROM")
    if parse.word() == "(":
        raise parse.unsupported()
    stage, path = _location(context, parse, "COPY FILES")
    said = parse.properties(
        {
            "FILES": lambda p: p.parenthesised(Parser.text),
            "PATTERN": _pattern,
            "DETAILED_OUTPUT": Parser.boolean,
        }
    )
    parse.end()
    if "user stage" in (to.kind, stage.kind):
        raise compilation_error("COPY FILES does not support the stages of users.", 2, "0A000")
    files = context.account.files
    files.require(context.session, stage, "READ")
    files.require(context.session, to, "WRITE")
    made = []
    for name in _named(context, stage, path, said):
        context.query.check()
        # What follows the directory that the source names keeps its place.
        target = _folder(to_path) + name[len(path[: path.rfind("/") + 1]) :]
        try:
            files.copy(stage, name, to, target)
        except FileNotFoundError:
            continue
        made.append(target)
    if said.get("DETAILED_OUTPUT", True):
        return rows(["file"], [(name,) for name in made], Kind.DML)
    return rows([("numOfFilesCopied", FIXED)], [(len(made),)], Kind.DML)


def _named(context: Context, stage: Object, path: str, said: dict[str, Any]) -> list[str]:
    """The files of a stage that COPY FILES is to copy; those that are not there are left out."""
    wanted = said.get("PATTERN", _everything)
    if "FILES" not in said:
        return [n for n, _ in context.account.files.stats(stage, path) if wanted(n)]
    if len(said["FILES"]) > MOST_NAMED:
        raise invalid_value(len(said["FILES"]), "FILES")
    found = []
    for name in said["FILES"]:
        whole = _safe(_folder(path) + name)
        if wanted(whole) and context.account.files.find(stage, whole) is not None:
            found.append(whole)
    return found


@statement("COPY", "INTO")
def copy_into(context: Context, parse: Parser) -> Result:
    """Refused: loading and unloading of tables."""
    raise SqlError(2, "0A000", f"not supported by the emulator: COPY INTO {parse.rest()}"[:240])


# -- reading a statement


def _local(parse: Parser) -> str:
    """A path on the client's machine, from ``file://...``."""
    begin = parse.peek()
    found = parse.location()
    if not found.startswith("file://"):
        shown = begin.text if begin else found
        raise compilation_error(f"a path of the client begins with file://, not: {shown}", 1003)
    return found.removeprefix("file://")


def _location(context: Context, parse: Parser, verb: str) -> tuple[Object, str]:
    found = parse.location()
    if found.startswith("file://"):
        raise compilation_error(f"a stage begins with @, not: {found}", 1003)
    return context.account.files.locate(found, context.session, verb)


def _parallel(parse: Parser) -> int:
    found = parse.integer()
    if not 1 <= found <= 99:
        raise invalid_value(found, "PARALLEL")
    return found


def _compression(parse: Parser) -> str:
    found = parse.text_or_word().upper()
    if found not in COMPRESSIONS:
        raise invalid_value(found, "SOURCE_COMPRESSION")
    return found.lower()


def _everything(path: str) -> bool:
    return True


def _pattern(parse: Parser) -> Callable[[str], bool]:
    """A regular expression as Java has them, that has to match a whole path."""
    text = parse.text()
    if re.search(r"\\[pPQEGhHvVXRzk]|&&", text):
        raise SqlError(2, "0A000", f"not supported by the emulator: PATTERN = '{text}'")
    try:
        # Java names its groups in another way.
        compiled = re.compile(re.sub(r"\(\?<([A-Za-z])", r"(?P<\1", text))
    except re.error as error:
        raise compilation_error(
            f"Invalid regular expression: '{text}', {error}", 100048, "2201B"
        ) from None
    return lambda path: compiled.fullmatch(path) is not None


def _folder(path: str) -> str:
    """A path as the directory that a target means, whether or not it ends with a slash."""
    return f"{path}/" if path and not path.endswith("/") else path


def _safe(path: str) -> str:
    try:
        return safe_path(path)
    except UnsafePath as unsafe:
        raise compilation_error(str(unsafe), 1011) from None


@lru_cache(maxsize=4096)
def _moment(seconds: int) -> str:
    """A time as LIST shows it; many files are of the same second."""
    return formatdate(seconds, usegmt=True)


# -- what a client is told


def _common() -> dict[str, Any]:
    return {
        "clientShowEncryptionParameter": True,
        "encryptionMaterial": None,
        "operation": "Node",
        "presignedUrls": None,
    }


def _speaks_s3(session: Session) -> bool:
    """Whether a client can do without TLS where it speaks to S3."""
    match = re.match(r"PythonConnector (\d+)\.", session.application)
    return match is None or int(match.group(1)) >= 5


def _upload_info(
    context: Context, stage: Object, folder: str, source: str, overwrite: bool
) -> dict[str, Any]:
    if _speaks_s3(context.session):
        return _s3(context, stage, folder, write=True)
    context.account.files.resent.note(context.session.id, context.query.text)
    path = _safe(folder + posixpath.basename(source))
    leave = context.account.files.passes.issue(
        stage.id, path, write=True, exact=True, overwrite=overwrite
    )
    return _google(context, stage, folder, _address(context, stage, path, leave))


def _download_info(
    context: Context, stage: Object, found: list[str]
) -> tuple[dict[str, Any], list[str] | None]:
    if _speaks_s3(context.session):
        return _s3(context, stage, "", write=False), None
    passes = context.account.files.passes
    addresses = [
        _address(context, stage, path, passes.issue(stage.id, path, write=False, exact=True))
        for path in found
    ]
    return _google(context, stage, "", None), addresses


def _address(context: Context, stage: Object, path: str, leave: str) -> str:
    return address(context.account.url, stage.id, path, leave)


def _s3(context: Context, stage: Object, folder: str, *, write: bool) -> dict[str, Any]:
    leave = context.account.files.passes.issue(stage.id, folder, write=write)
    creds = {
        # The store looks at the token only; a client signs with the other two.
        "AWS_KEY_ID": f"ASIA{leave[-16:].upper()}",
        "AWS_SECRET_KEY": leave[-40:],
        "AWS_TOKEN": leave,
        "AWS_ID": f"ASIA{leave[-16:].upper()}",
        "AWS_KEY": leave[-40:],
    }
    info = _stage_info("S3", stage, folder)
    return {**info, "creds": creds, "endPoint": context.account.url}


def _google(context: Context, stage: Object, folder: str, url: str | None) -> dict[str, Any]:
    # A client that has got no address for a file makes one up at this end point, by TLS, which
    # fails at once; by default it would be at Google's.
    end_point = context.account.url.partition("://")[2]
    return {**_stage_info("GCS", stage, folder), "presignedUrl": url, "endPoint": end_point}


def _stage_info(kind: str, stage: Object, folder: str) -> dict[str, Any]:
    return {
        "locationType": kind,
        "location": f"{BUCKET}/{stage.id}/{folder}",
        "path": folder,
        "region": REGION,
        "storageAccount": None,
        "isClientSideEncrypted": False,
        "creds": {},
        "presignedUrl": None,
        "endPoint": None,
    }
