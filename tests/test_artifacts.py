"""Artifacts: any object goes through a codec and comes back as it was, or not at all."""

from __future__ import annotations

import datetime as dt
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowdist import artifacts
from flowdist.artifacts import (
    ARTIFACT_TYPE,
    Artifact,
    artifact,
    artifact_struct,
    choose_codec,
    dumps,
    loads,
    register_codec,
)
from flowdist.errors import ArtifactError, UsageError


@pytest.fixture(autouse=True)
def codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(artifacts, "_CODECS", dict(artifacts._CODECS))


def there_and_back(obj: Any) -> Any:
    return loads(*dumps(obj))


@pytest.mark.parametrize(
    ("obj", "codec"),
    [
        (np.arange(3), "npy"),
        (pd.DataFrame({"x": [1]}), "parquet"),
        (pl.DataFrame({"x": [1]}), "parquet"),
        (pa.table({"x": [1]}), "parquet"),
        (b"raw", "bytes"),
        ("text", "text"),
        ({"a": 1}, "cloudpickle"),
        (lambda: 1, "cloudpickle"),
        # What looks like the above but would come back changed:
        (np.array([{}], object), "cloudpickle"),
        (np.ma.masked_array([1], [True]), "cloudpickle"),
        (pd.DataFrame({"mixed": [1, "a"]}), "cloudpickle"),
        (pd.DataFrame({"tuples": [(1,), (2,)]}), "cloudpickle"),
        (pa.table({"s": pa.array([1], pa.timestamp("s"))}), "cloudpickle"),
    ],
)
def test_the_codec_goes_by_type(obj: object, codec: str) -> None:
    assert choose_codec(obj) == codec


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
        pd.DataFrame({0: [1], 1: [2.5]}),
        pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([(1, "u"), (2, "v")])),
        pd.DataFrame({"a": pd.Categorical(["x", "y"])}),
        pd.DataFrame({"a": pd.date_range("2020", periods=2, tz="Europe/Berlin")}),
        pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
        pd.DataFrame({"a": [dt.date(2020, 1, 1)]}),
        pd.DataFrame({"a": [1, "mixed"]}),
        pd.DataFrame([[1, 2]], columns=["twice", "twice"]),
        pd.DataFrame({"a": pd.Series(["2020-01-01"], dtype="datetime64[s]")}),
        pd.DataFrame(),
    ],
    ids=lambda frame: str(list(frame.dtypes)),
)
def test_a_pandas_frame_comes_back_as_it_was(frame: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(there_and_back(frame), frame)


def test_a_polars_frame_comes_back_as_one() -> None:
    frame = pl.DataFrame({"a": ["x"], "b": [[1]], "c": pl.Series(["u"], dtype=pl.Categorical)})

    back = there_and_back(frame)

    assert isinstance(back, pl.DataFrame)
    assert back.equals(frame)
    assert back.schema == frame.schema


@pytest.mark.parametrize("metadata", [None, {b"k": b"v"}])
def test_an_arrow_table_keeps_its_metadata_and_gets_none(metadata: dict[bytes, bytes]) -> None:
    table = pa.table({"x": [1]}).replace_schema_metadata(metadata)

    assert there_and_back(table).equals(table, check_metadata=True)


@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, min_side=0)))
def test_any_array_comes_back_with_its_dtype(array: np.ndarray[Any, Any]) -> None:
    back = there_and_back(array)

    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(st.one_of(st.binary(), st.text(st.characters(exclude_categories=[])), st.integers()))
def test_plain_values_come_back(value: object) -> None:
    assert there_and_back(value) == value


def test_an_object_of_the_users_script_is_taken_along() -> None:
    def model(x: float) -> float:
        return 2 * x

    assert there_and_back(model)(3.0) == 6.0


class Estimator:
    """As far as codecs can tell, one of scikit-learn."""

    __module__ = "sklearn.linear_model"

    def get_params(self) -> dict[str, Any]:
        return {}


def test_joblib_is_for_estimators() -> None:
    assert choose_codec(Estimator()) == "joblib"


def test_an_estimator_that_joblib_cannot_find_again_is_pickled_by_value() -> None:
    # No module holds the class under its name, so a pickle by reference fails.
    codec, data = dumps(Estimator())

    assert codec == "cloudpickle"
    assert loads(codec, data).get_params() == {}


def test_joblib_stores_what_it_is_told_to() -> None:
    assert loads(*dumps({"w": [1.0]}, "joblib")) == {"w": [1.0]}


def test_a_named_codec_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ArtifactError, match="codec 'npy' cannot write a set"):
        dumps({1}, "npy")


def test_an_object_that_cannot_be_pickled_is_an_error() -> None:
    with pytest.raises(ArtifactError, match="cannot write a generator"):
        dumps(x for x in ())


def test_an_unknown_codec_names_the_nearest() -> None:
    with pytest.raises(ArtifactError, match=r"'parket'; did you mean 'parquet'\?.*register_codec"):
        dumps(1, "parket")


def test_garbage_is_an_error_that_says_what_to_look_at() -> None:
    with pytest.raises(ArtifactError, match=r"codec 'npy' cannot read 4 bytes.*installed"):
        loads("npy", b"junk")


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def dump_point(point: Point, file: BinaryIO) -> None:
    file.write(str(point.x).encode())


def load_point(file: BinaryIO) -> Point:
    return Point(int(file.read()))


@pytest.mark.parametrize("handles", [Point, (int, Point), lambda obj: isinstance(obj, Point)])
def test_a_registered_codec_takes_what_it_handles(handles: Any) -> None:
    register_codec("point", dump_point, load_point, handles, ".txt")

    assert dumps(Point(3)) == ("point", b"3")
    assert there_and_back(Point(3)).x == 3


def test_the_codec_registered_last_is_asked_first() -> None:
    register_codec("first", dump_point, load_point, Point, ".a")
    register_codec("second", dump_point, load_point, Point, ".b")
    register_codec("first", dump_point, load_point, Point, ".c")

    assert choose_codec(Point(1)) == "first"


@pytest.mark.parametrize(("name", "suffix"), [("a/b", ".txt"), ("ok", "../x"), ("ok", "txt")])
def test_names_that_would_become_part_of_a_path_are_checked(name: str, suffix: str) -> None:
    with pytest.raises(UsageError):
        register_codec(name, dump_point, load_point, None, suffix)


def stored(tmp_path: Path, obj: object) -> Artifact:
    codec, data = dumps(obj)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "a").write_bytes(data)
    return Artifact.from_struct(artifact_struct(codec, data, "artifacts/a"), str(tmp_path))


def test_the_struct_of_an_artifact_fits_its_arrow_type() -> None:
    inline = artifact_struct("bytes", b"abc")
    in_file = artifact_struct("bytes", b"abc", "artifacts/a")

    assert pa.array([inline, in_file], ARTIFACT_TYPE).to_pylist() == [inline, in_file]
    assert (inline["path"], in_file["data"]) == (None, None)


def test_a_reference_loads_on_demand(tmp_path: Path) -> None:
    reference = stored(tmp_path, {"a": 1})

    assert reference.load() == {"a": 1}
    assert repr(reference) == f"<Artifact cloudpickle, {reference.bytes} bytes, artifacts/a>"


def test_an_inline_reference_needs_no_file() -> None:
    reference = Artifact.from_struct(artifact_struct(*dumps("hello")), "/nowhere")

    assert pickle.loads(pickle.dumps(reference)).load() == "hello"


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    reference = stored(tmp_path, "hello")
    (tmp_path / "artifacts" / "a").write_bytes(b"hellO")

    with pytest.raises(ArtifactError, match=r"artifacts/a has not the content.*SHA-256.*resume"):
        reference.load()


def test_a_cut_file_is_noticed(tmp_path: Path) -> None:
    reference = stored(tmp_path, "hello")
    (tmp_path / "artifacts" / "a").write_bytes(b"hell")

    with pytest.raises(ArtifactError, match="4 bytes, not the 5"):
        reference.load()


def test_a_missing_file_says_which_and_what_to_do(tmp_path: Path) -> None:
    reference = stored(tmp_path, "hello")
    (tmp_path / "artifacts" / "a").unlink()

    with pytest.raises(ArtifactError, match=r"artifacts/a cannot be read \(No such file.*resume"):
        reference.load()


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "artifacts/../../x", None])
def test_a_path_never_leads_out_of_the_run(tmp_path: Path, path: str | None) -> None:
    struct = artifact_struct("bytes", b"") | {"path": path, "data": None}

    with pytest.raises(ArtifactError, match="lies in no run"):
        Artifact.from_struct(struct, str(tmp_path)).load()


def test_the_marker_works_bare_and_called() -> None:
    assert artifact() == artifact
    assert artifact(codec="npy").codec == "npy"
    assert pickle.loads(pickle.dumps(artifact("npy"))) == artifact("npy")


def test_other_libraries_are_imported_only_where_they_are_used() -> None:
    code = """
import sys
from flowdist.artifacts import dumps
dumps({1}), dumps("x")
print([m for m in ("pandas", "polars", "joblib", "pyarrow.parquet") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_what_is_no_array_does_not_become_one_in_silence() -> None:
    with pytest.raises(ArtifactError, match="cannot write a str: only arrays come back"):
        dumps("text", "npy")
