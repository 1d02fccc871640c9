"""Artifacts: outputs that no Arrow column can hold, written by a codec and loaded on demand.

An artifact field of a stage holds any object: a fitted model, an array, a frame. A codec turns the
object into bytes and back; `choose_codec` picks one by type, a declaration may name one, and
`register_codec` adds one. In a part an artifact is a small struct (`ARTIFACT_TYPE`): the codec, the
size, the digest, and either the payload itself (up to `INLINE_BYTES`) or the path of a file in the
run. What a user gets back after collect is an `Artifact`, which reads and checks it in `load`.

Where the files of a run lie, and writing them, is the store's business; see the `SaveFn` type.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import importlib.util
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias

import cloudpickle
import numpy as np
import pyarrow as pa

from flowdist.errors import ArtifactError, UsageError, nearest
from flowdist.frames import frame_kind

ARTIFACT_TYPE = pa.struct(
    [
        pa.field("codec", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("path", pa.string()),
        pa.field("data", pa.binary()),
    ]
)
"""The Arrow type of artifacts: exactly one of `path` (relative to the run) and `data` is set."""

INLINE_BYTES = 256 * 1024
"""Payloads up to this size travel inside the part. A file costs a network filesystem a few
milliseconds of metadata whatever its size, as long as it takes to write about this much."""

SaveFn: TypeAlias = Callable[[str, str, int, Any, "str | None"], dict[str, Any]]
"""`save(stage, field, index, obj, codec)` stores an object, returns its `ARTIFACT_TYPE` struct."""


@dataclass(frozen=True)
class ArtifactType:
    """The type of an output field that is stored as an object; use the instance `artifact`.

    >>> artifact
    artifact
    >>> artifact(codec="npy")
    artifact(codec='npy')
    """

    codec: str | None = None

    def __call__(self, codec: str | None = None) -> ArtifactType:
        """The same marker with a codec of your choice; None chooses by the type of the object."""
        return ArtifactType(codec)

    def __or__(self, other: None) -> Any:
        from flowdist.schema.declare import optional

        return optional(self)

    def __repr__(self) -> str:
        return "artifact" if self.codec is None else f"artifact(codec={self.codec!r})"


artifact = ArtifactType()
"""Marks an output field as an artifact: `returns={"model": artifact}`."""


@dataclass(frozen=True)
class Codec:
    """How objects of some kind become bytes; made by `register_codec`."""

    name: str
    dump: Callable[[Any, BinaryIO], None]
    load: Callable[[BinaryIO], Any]
    handles: Callable[[Any], bool]
    suffix: str


_CODECS: dict[str, Codec] = {}


def register_codec(
    name: str,
    dump: Callable[[Any, BinaryIO], None],
    load: Callable[[BinaryIO], Any],
    handles: type | tuple[type, ...] | Callable[[Any], bool] | None,
    suffix: str,
) -> None:
    """Teach flowdist to store objects in a format of yours; a name in use is replaced.

    `handles` says which objects take the codec without being told: a class, several, or a
    predicate; None leaves it to declarations that name it. The codec registered last is asked
    first. A flow takes the codecs with it that are registered when it is submitted; a process that
    only reads artifacts has to register them itself.

    Raises `UsageError` where the name is no identifier or the suffix does not look like `.png`.

    >>> register_codec("ascii", lambda text, file: file.write(text.encode("ascii")),
    ...                lambda file: file.read().decode("ascii"), handles=None, suffix=".txt")
    >>> dumps("abc", "ascii")
    ('ascii', b'abc')
    """
    if not name.isidentifier():
        raise UsageError(f"codec name {name!r}: use letters, digits and underscores")
    if not (suffix.startswith(".") and suffix[1:].isalnum()):
        raise UsageError(f"codec '{name}': suffix {suffix!r} should look like '.png'")
    _CODECS.pop(name, None)
    _CODECS[name] = Codec(name, dump, load, _predicate(handles), suffix)


def _predicate(
    handles: type | tuple[type, ...] | Callable[[Any], bool] | None,
) -> Callable[[Any], bool]:
    if handles is None:
        return lambda obj: False
    if isinstance(handles, (type, tuple)):
        return lambda obj: isinstance(obj, handles)
    return handles


def codec_named(name: str) -> Codec:
    """The codec of that name. Raises `ArtifactError` naming the nearest known one.

    >>> codec_named("npy").suffix
    '.npy'
    """
    try:
        return _CODECS[name]
    except KeyError:
        raise ArtifactError(
            f"no artifact codec '{name}'{nearest(name, _CODECS)} (known: {', '.join(_CODECS)});"
            " a codec of your own must be registered with register_codec in this process too"
        ) from None


def choose_codec(obj: object) -> str:
    """The name of the codec that stores `obj` where the declaration names none.

    >>> choose_codec(np.zeros(3)), choose_codec(pa.table({"x": [1]})), choose_codec({1, 2})
    ('npy', 'parquet', 'cloudpickle')
    """
    return next(
        (c.name for c in reversed(_CODECS.values()) if c.handles(obj)),
        "cloudpickle",
    )


def dumps(obj: object, codec: str | None = None) -> tuple[str, bytes]:
    """The codec used and the payload. With `codec=None` the codec goes by type, and an object that
    it cannot hold after all (a frame with two columns of one name, say) is pickled instead.

    Raises `ArtifactError` where the object cannot be written.

    >>> dumps(b"abc")
    ('bytes', b'abc')
    """
    chosen = codec_named(codec if codec is not None else choose_codec(obj))
    try:
        return chosen.name, _dump(chosen, obj)
    except Exception as error:
        if codec is None and chosen.name != "cloudpickle":
            return dumps(obj, "cloudpickle")
        raise ArtifactError(
            f"codec '{chosen.name}' cannot write a {type(obj).__name__}: {error}"
        ) from error


def _dump(codec: Codec, obj: object) -> bytes:
    buffer = io.BytesIO()
    codec.dump(obj, buffer)
    return buffer.getvalue()


def loads(codec: str, data: bytes) -> Any:
    """The object that `dumps` gave. Raises `ArtifactError` where it cannot be read.

    >>> loads(*dumps({"a": (1, 2)}))
    {'a': (1, 2)}
    """
    known = codec_named(codec)
    try:
        return known.load(io.BytesIO(data))
    except Exception as error:
        raise ArtifactError(
            f"codec '{codec}' cannot read {len(data)} bytes: {type(error).__name__}: {error};"
            " is what the object is made of installed here, in the version that wrote it?"
        ) from error


def artifact_struct(codec: str, data: bytes, path: str | None = None) -> dict[str, Any]:
    """The `ARTIFACT_TYPE` value of a payload: inline, or a reference where it was written to `path`
    (relative to the run, with forward slashes).

    >>> artifact_struct("bytes", b"abc", "artifacts/fit/k.bin")["data"] is None
    True
    """
    return {
        "codec": codec,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "path": path,
        "data": data if path is None else None,
    }


@dataclass(frozen=True)
class Payload:
    """An object that was dumped already: its codec and its bytes, to be stored as they are."""

    codec: str
    data: bytes


@dataclass(frozen=True, repr=False)
class Artifact:
    """A reference to an object that a stage returned; `load()` gives the object.

    It is immutable and can be pickled. `root` is the directory of the run on this machine and
    `path` is relative to it, or `data` is the payload itself; `bytes` is the size of the payload,
    `sha256` its digest in hexadecimal.

    >>> a = Artifact.from_struct(artifact_struct(*dumps("hello")), root="/runs/r1")
    >>> a
    <Artifact text, 5 bytes, inline>
    >>> a.load()
    'hello'
    """

    codec: str
    bytes: int
    sha256: str
    path: str | None = None
    root: str | None = field(default=None, compare=False)
    data: builtins.bytes | None = field(default=None, compare=False)

    @classmethod
    def from_struct(cls, struct: Mapping[str, Any], root: str) -> Artifact:
        """The reference that one value of an artifact column stands for, in the run at `root`."""
        return cls(
            struct["codec"], struct["bytes"], struct["sha256"], struct["path"], root, struct["data"]
        )

    def load(self) -> Any:
        """The object, read anew at each call, after its size and digest were checked.

        Raises `ArtifactError` where the payload is absent or not what was written. The codecs
        `cloudpickle` and `joblib` run code on loading: load only from runs you trust.
        """
        return loads(self.codec, self._checked())

    def _checked(self) -> builtins.bytes:
        data, place = (self.data, "its part") if self.data is not None else self._read()
        if len(data) != self.bytes:
            problem = f"{len(data)} bytes, not the {self.bytes} that were written"
        elif hashlib.sha256(data).hexdigest() != self.sha256:
            problem = "not the content that was written (its SHA-256 differs)"
        else:
            return data
        raise ArtifactError(
            f"the artifact in {place} has {problem}; resume the run to compute its row again, or"
            " restore the file"
        )

    def _read(self) -> tuple[builtins.bytes, str]:
        relative = PurePosixPath(self.path or "")
        # The path comes out of a file that others may have written: it must not leave the run.
        if not self.path or self.root is None or relative.is_absolute() or ".." in relative.parts:
            raise ArtifactError(
                f"an artifact has the path {self.path!r} under {self.root!r}, which lies in no run;"
                " read it through the run that wrote it"
            )
        file = Path(self.root, *relative.parts)
        if not file.exists():
            _bring(self.root, str(relative))
        try:
            return file.read_bytes(), str(file)
        except OSError as error:
            raise ArtifactError(
                f"the artifact at {file} cannot be read ({error.strerror or error}); was the run"
                " moved or deleted? Attach it where it lies now, or resume it"
            ) from error

    def __repr__(self) -> str:
        return f"<Artifact {self.codec}, {_size(self.bytes)}, {self.path or 'inline'}>"


def _bring(root: str, name: str) -> None:
    """Let the backend of a run bring an artifact that lies elsewhere, as on a stage."""
    from flowdist.backends.base import Handle, backend_named
    from flowdist.store import RunFiles

    files = RunFiles.at(root)
    if files.path(files.RUN).is_file():
        with contextlib.closing(backend_named(files.manifest()["plan"]["kind"])) as backend:
            backend.fetch(Handle(files, 0, ()), name)


def _size(n: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"


# The built-in codecs. A codec must not take on its own account what it would change, so subclasses
# (a GeoDataFrame, a masked array, a str with attributes) are left to cloudpickle.

_FRAME_KEY = b"flowdist.frame"


# What an object column of pandas may hold to come back from Parquet as it was.
_PLAIN_OBJECTS = frozenset({"string", "bytes", "date", "empty"})


def _is_plain_frame(obj: Any) -> bool:
    try:
        schema = _frame_schema(obj)
        return schema is not None and _survives_parquet(schema)
    except (ValueError, TypeError, NotImplementedError):
        return False


def _frame_schema(obj: Any) -> pa.Schema | None:
    """What a frame becomes in Arrow; None for what is no frame, or more than one."""
    if type(obj) is pa.Table:
        return obj.schema
    kind = frame_kind(obj)
    if kind in (None, "arrow") or type(obj).__module__.partition(".")[0] != kind:
        return None
    if kind == "polars":
        return pa.table(obj).schema if "Object" not in map(str, obj.dtypes) else None
    from pandas.api.types import infer_dtype

    kinds = (infer_dtype(c, skipna=True) for _, c in obj.items() if c.dtype == object)
    if not _PLAIN_OBJECTS.issuperset(kinds):
        return None
    # Categories get another width in Parquet, which pandas chooses anew on its own.
    return pa.schema([f for f in pa.Schema.from_pandas(obj) if not pa.types.is_dictionary(f.type)])


def _survives_parquet(schema: pa.Schema) -> bool:
    """Whether Parquet keeps all types: it has no seconds as a unit, for one."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(schema.empty_table(), buffer)
    return bool(pq.read_schema(buffer).equals(schema))


def _dump_parquet(obj: Any, file: BinaryIO) -> None:
    import pyarrow.parquet as pq

    kind = frame_kind(obj)
    if kind is None:
        raise TypeError("expected a pandas or polars DataFrame or an Arrow table")
    if kind == "pandas":
        table = pa.Table.from_pandas(obj)
    elif kind == "polars":
        table = pa.table(obj)
    else:
        table = pa.Table.from_batches([obj]) if isinstance(obj, pa.RecordBatch) else obj
    metadata = {**(table.schema.metadata or {}), _FRAME_KEY: kind.encode()}
    pq.write_table(table.replace_schema_metadata(metadata), file)


def _load_parquet(file: BinaryIO) -> Any:
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    metadata = dict(table.schema.metadata or {})
    kind = metadata.pop(_FRAME_KEY, b"arrow")
    table = table.replace_schema_metadata(metadata or None)
    if kind == b"pandas":
        return table.to_pandas()
    if kind == b"polars":
        import polars

        return polars.from_arrow(table)
    return table


def _dump_npy(obj: Any, file: BinaryIO) -> None:
    if not isinstance(obj, np.ndarray):
        raise TypeError("only arrays come back as what they were; make one with np.asarray")
    np.save(file, obj, allow_pickle=False)


def _load_npy(file: BinaryIO) -> Any:
    return np.load(file, allow_pickle=False)


def _dump_joblib(obj: Any, file: BinaryIO) -> None:
    import joblib

    joblib.dump(obj, file)


def _load_joblib(file: BinaryIO) -> Any:
    import joblib

    return joblib.load(file)


def _is_estimator(obj: object) -> bool:
    # joblib pickles classes by reference, so one that lives in the user's script could not be
    # loaded by another process; cloudpickle takes those along.
    return (
        type(obj).__module__.partition(".")[0] == "sklearn"
        and callable(getattr(obj, "get_params", None))
        and importlib.util.find_spec("joblib") is not None
    )


def _dump_json(obj: Any, file: BinaryIO) -> None:
    file.write(json.dumps(obj, ensure_ascii=False).encode())


def _dump_text(obj: str, file: BinaryIO) -> None:
    file.write(obj.encode("utf-8", "surrogatepass"))


def _load_text(file: BinaryIO) -> str:
    return file.read().decode("utf-8", "surrogatepass")


def _dump_bytes(obj: bytes, file: BinaryIO) -> None:
    file.write(obj)


register_codec("cloudpickle", cloudpickle.dump, cloudpickle.load, None, ".pkl")
register_codec("json", _dump_json, json.load, None, ".json")
register_codec("bytes", _dump_bytes, lambda file: file.read(), lambda o: type(o) is bytes, ".bin")
register_codec("text", _dump_text, _load_text, lambda o: type(o) is str, ".txt")
register_codec("joblib", _dump_joblib, _load_joblib, _is_estimator, ".joblib")
register_codec(
    "npy",
    _dump_npy,
    _load_npy,
    lambda o: type(o) is np.ndarray and not o.dtype.hasobject,
    ".npy",
)
register_codec("parquet", _dump_parquet, _load_parquet, _is_plain_frame, ".parquet")


_BUILT_IN = dict(_CODECS)


def own_codecs() -> tuple[Codec, ...]:
    """The codecs that were registered by others: what a flow takes to its workers."""
    return tuple(c for name, c in _CODECS.items() if _BUILT_IN.get(name) is not c)


def adopt_codecs(codecs: Iterable[Codec]) -> None:
    """Know the codecs that came with a flow."""
    for codec in codecs:
        _CODECS.pop(codec.name, None)
        _CODECS[codec.name] = codec
