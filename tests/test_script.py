"""Scripts: what an external program is given, what is read back, and what its failure says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from flowdist import flow, param_grid
from flowdist.artifacts import artifact
from flowdist.errors import FlowError, ScriptFailed
from flowdist.flow import Flow
from flowdist.script import INTERPRETERS, FileOutput


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a script and returns its path."""

    def write(name: str, text: str, *, mode: int = 0o644) -> str:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return write


def one(**columns: Any) -> Flow:
    """A flow of one row."""
    return flow(param_grid(**columns))


def sh(code: str) -> list[str]:
    """The words that run shell code; its braces are literal."""
    return ["sh", "-c", code.replace("{", "{{").replace("}", "}}")]


def said(f: Flow) -> dict[str, Any]:
    """The outputs of the stage "s" in the first row."""
    out: dict[str, Any] = f.try_row()["s"]
    return out


# What a program is given --------------------------------------------------------------------------


def test_a_script_gets_every_column_as_an_option(write: Any) -> None:
    path = write("echo.sh", """printf '{"args": "%s"}\\n' "$*" """)

    out = said(one(x=3, name="a b").script("s", path, returns={"args": str}))

    assert out == {"args": "--x=3 --name=a b"}


def test_args_replaces_the_options(write: Any) -> None:
    path = write("echo.sh", """printf '{"args": "%s"}\\n' "$*" """)

    f = one(x=3, y=4).script("s", path, args=["-n", "{y}"], returns={"args": str})

    assert said(f) == {"args": "-n 4"}
    assert [b.parameter for b in f.stages[0].bindings] == ["y", "ctx"]


def test_words_of_a_command_are_filled_by_name() -> None:
    f = flow(param_grid(x=[3]), const={"k": "v"}).stage(
        "a", lambda x: {"n": x + 1}, returns={"n": int}
    )

    f = f.script("s", ["echo", '{{"out": "{x} {k} {n}"}}'], returns={"out": str})

    assert said(f) == {"out": "3 v 4"}


@pytest.mark.parametrize("value", ["a b", "$HOME", "`id`", "; exit 1", "'", "{x}", "*", "", "é\n"])
def test_a_value_is_one_word_whatever_is_in_it(write: Any, value: str) -> None:
    path = write("echo.py", "import json, sys; print(json.dumps({'argv': sys.argv[1:]}))")

    out = said(one(x=value).script("s", path, args=["{x}"], returns={"argv": list[str]}))

    assert out == {"argv": [value]}


@pytest.mark.parametrize(
    ("value", "word"), [(True, "True"), (0.1, "0.1"), (None, ""), (["a", "b"], '["a", "b"]')]
)
def test_values_are_written_as_text_and_lists_as_json(write: Any, value: Any, word: str) -> None:
    path = write("echo.py", "import json, sys; print(json.dumps({'argv': sys.argv[1:]}))")

    f = flow([{"x": value}]).script("s", path, args=["{x}"], returns={"argv": list[str]})

    assert said(f) == {"argv": [word]}


def test_numbers_in_args_and_env_are_words_too() -> None:
    f = one(x=1).script(
        "s", sh('echo "{\\"v\\": [$0, $N]}"'), args=[3], env={"N": 4}, returns={"v": list[int]}
    )

    assert said(f) == {"v": [3, 4]}


def test_a_column_may_be_called_script(write: Any) -> None:
    path = write("echo.sh", """printf '{"args": "%s"}\\n' "$*" """)

    assert said(one(script="mine").script("s", path, returns={"args": str})) == {
        "args": "--script=mine"
    }
    assert said(
        one(script="mine").script("s", ["echo", '{{"v": "{script}"}}'], returns={"v": str})
    ) == {"v": "mine"}


def test_the_environment_says_row_stage_and_attempt() -> None:
    shown = "$FLOWDIST_ROW $FLOWDIST_STAGE $FLOWDIST_ATTEMPT ${FLOWDIST_SEED-none}"
    code = f'echo "{{\\"v\\": \\"{shown}\\"}}"'

    f = flow(param_grid(x=[1, 2])).script("s", sh(code), returns={"v": str})

    assert f.try_row(1)["s"] == {"v": "1 s 1 none"}


def test_a_seeded_flow_gives_its_rows_seeds() -> None:
    f = flow(param_grid(x=[1, 2]), seed=42).script(
        "s", sh('echo "{\\"v\\": $FLOWDIST_SEED}"'), returns={"v": int}
    )
    same = flow(param_grid(x=[1, 2]), seed=42).stage("s", lambda seed: seed)

    assert [f.try_row(row)["s"]["v"] for row in (0, 1)] == [
        same.try_row(row)["s"]["value"] for row in (0, 1)
    ]


def test_env_adds_variables_with_placeholders() -> None:
    f = one(x=3).script(
        "s", sh('echo "{\\"v\\": \\"$LEVEL\\"}"'), env={"LEVEL": "x is {x}"}, returns={"v": str}
    )

    assert said(f) == {"v": "x is 3"}


def test_the_environment_is_inherited_unless_said_otherwise(monkeypatch: Any) -> None:
    monkeypatch.setenv("MINE", "here")
    command = sh('echo "{\\"v\\": \\"${MINE-gone}, ${PATH:+path}\\"}"')

    given = one(x=1).script("s", command, returns={"v": str})
    clean = one(x=1).script("s", command, inherit_env=False, returns={"v": str})

    assert (said(given)["v"], said(clean)["v"]) == ("here, path", "gone, path")


def test_a_program_runs_in_an_empty_directory_that_is_removed() -> None:
    f = one(x=1).script(
        "s",
        sh('echo "{\\"dir\\": \\"$PWD\\", \\"files\\": \\"$(ls)\\"}"'),
        returns={"dir": str, "files": str},
    )

    out = said(f)

    assert out["files"] == ""
    assert not Path(out["dir"]).exists()


def test_cwd_is_where_the_program_runs(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    f = one(x=1).script(
        "s", sh('echo "{\\"dir\\": \\"$(pwd -P)\\"}"'), cwd="work", returns={"dir": str}
    )
    monkeypatch.chdir("/")

    assert said(f) == {"dir": str((tmp_path / "work").resolve())}


def test_standard_input_is_empty() -> None:
    assert said(one(x=1).script("s", sh("cat; echo '{\"v\": 1}'"), returns={"v": int})) == {"v": 1}


# What is read back --------------------------------------------------------------------------------


def test_the_last_line_is_the_output_whatever_is_said_before() -> None:
    code = """echo starting; echo '{"y": 0}'; echo noise >&2; printf '{"y": 1, "more": 2}\\n\\n'"""

    assert said(one(x=1).script("s", sh(code), returns={"y": int})) == {"y": 1}


def test_types_of_json_are_those_of_the_declaration() -> None:
    code = """echo '{"f": 1, "b": true, "l": [1.5], "s": "é", "n": null}'"""
    returns = {"f": float, "b": bool, "l": list[float], "s": str, "n": int | None}

    assert said(one(x=1).script("s", sh(code), returns=returns)) == {
        "f": 1,
        "b": True,
        "l": [1.5],
        "s": "é",
        "n": None,
    }


@pytest.mark.parametrize("character", ["\u2028", "\x85"])
def test_only_a_newline_ends_a_line(write: Any, character: str) -> None:
    path = write("echo.sh", f"""echo '{{"v": "a{character}b"}}'""")

    assert said(one(x=1).script("s", path, returns={"v": str})) == {"v": f"a{character}b"}


@pytest.mark.parametrize("line", ["done", "[1]", "3", "{'y': 1}", ""])
def test_a_last_line_that_is_no_json_object_fails_the_row(line: str) -> None:
    f = one(x=1).script(
        "s",
        ["sh", "-c", 'echo hint >&2; echo "$0"', line.replace("{", "{{").replace("}", "}}")],
        returns={"y": int},
    )

    with pytest.raises(
        ScriptFailed, match="the last line of standard output must be a JSON object"
    ) as caught:
        f.try_row()
    assert repr(line) in str(caught.value)
    assert str(caught.value).endswith("\nhint")


def test_a_program_without_declared_outputs_says_what_it_likes() -> None:
    assert said(one(x=1).script("s", ["echo", "done"])) == {}


def test_a_declared_file_is_an_artifact_with_its_content() -> None:
    f = one(x=3).script(
        "s", sh("echo three > out-$0.txt"), args=["{x}"], files={"report": "out-{x}.txt"}
    )

    out = said(f)["report"]

    assert (out.data, out.codec, out.load()) == (b"three\n", "text", "three\n")
    assert [(d.name, d.kind) for d in f.stages[0].returns.fields] == [("report", "artifact")]


def test_files_and_the_last_line_go_together() -> None:
    code = """echo "1,2" > t.csv; echo '{"n": 2}'"""

    out = said(
        one(x=1).script("s", sh(code), files={"t": "t.csv"}, returns={"n": int, "t": artifact})
    )

    assert (out["n"], out["t"].data) == (2, b"1,2\n")


def test_files_alone_need_no_json() -> None:
    out = said(one(x=1).script("s", sh("echo done; : > f"), files={"f": "f"}))

    assert out["f"].data == b""


def test_a_file_is_found_where_the_program_ran(tmp_path: Path) -> None:
    f = one(x=1).script("s", sh("echo here > f"), files={"f": "f"}, cwd=str(tmp_path))

    assert said(f)["f"].data == b"here\n"
    assert (tmp_path / "f").exists()


def test_a_declared_file_that_is_not_there_fails_the_row() -> None:
    f = one(x=1).script("s", sh("echo no room >&2"), files={"plot": "plot.png"})

    with pytest.raises(
        ScriptFailed, match=r"(?s)declared file 'plot' is not there: plot.png.*no room"
    ):
        f.try_row()


def test_files_are_loaded_by_their_suffix(write: Any) -> None:
    path = write("save.py", "import numpy; numpy.save('a.npy', numpy.arange(3))")
    f = (
        one(x=1)
        .script("s", path, args=[], files={"a": "a.npy"})
        .stage("sum", lambda a: int(a.load().sum()))
    )

    assert f.try_row()["sum"] == {"value": 3}


def test_a_file_of_unknown_suffix_is_bytes() -> None:
    assert FileOutput(".dat", b"\x00").load() == b"\x00"


def test_outputs_of_a_script_fill_the_parameters_of_later_stages() -> None:
    f = (
        one(x=1)
        .script("s", sh("""echo '{"y": 5}'"""), returns={"y": int})
        .stage("t", lambda y, s: [y, s["y"]])
    )

    assert f.try_row()["t"] == {"value": [5, 5]}


# Failures -----------------------------------------------------------------------------------------


def test_a_failure_says_the_exit_code_and_the_end_of_standard_error(write: Any) -> None:
    path = write("fail.sh", "echo fine; echo 'no such file: data.csv' >&2; exit 3")

    with pytest.raises(ScriptFailed) as caught:
        one(x=1).script("s", path).try_row()

    assert str(caught.value) == "stage 's': 'sh' ended with exit code 3\nno such file: data.csv"


def test_a_long_standard_error_is_cut_to_its_end() -> None:
    with pytest.raises(ScriptFailed) as caught:
        one(x=1).script("s", sh("yes x | head -c 100000 >&2; echo reason >&2; exit 1")).try_row()

    assert str(caught.value).endswith("reason")
    assert len(str(caught.value)) < 5000


def test_a_standard_error_that_is_no_utf8_is_shown_as_far_as_it_goes() -> None:
    with pytest.raises(ScriptFailed, match="caf\ufffd"):
        one(x=1).script("s", sh(r"printf 'caf\351' >&2; exit 1")).try_row()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_is_named(number: signal.Signals) -> None:
    with pytest.raises(ScriptFailed, match=f"'sh' was ended by {number.name}"):
        one(x=1).script("s", sh(f"kill -{number.value} $$")).try_row()


def test_a_signal_without_a_name_is_numbered() -> None:
    with pytest.raises(ScriptFailed, match="'sh' was ended by signal 40"):
        one(x=1).script("s", sh("kill -40 $$")).try_row()


def test_a_command_that_is_not_there_fails_the_row() -> None:
    with pytest.raises(ScriptFailed, match="cannot start 'no-such-program': No such file"):
        one(x=1).script("s", ["no-such-program", "{x}"]).try_row()


def test_a_working_directory_that_is_gone_fails_the_row(tmp_path: Path) -> None:
    with pytest.raises(ScriptFailed, match=r"the working directory .*gone does not exist here"):
        one(x=1).script("s", ["true"], cwd=str(tmp_path / "gone")).try_row()


def test_what_a_program_started_is_not_waited_for_longer_than_the_program() -> None:
    code = """sleep 30 >/dev/null 2>&1 & echo "{\\"pid\\": $!}" """

    out = said(one(x=1).script("s", sh(code), returns={"pid": int}))

    os.kill(out["pid"], signal.SIGKILL)


# Snapshots ----------------------------------------------------------------------------------------


def test_editing_a_script_does_not_change_what_was_added(write: Any) -> None:
    path = write("v.sh", """echo '{"v": 1}'""")
    f = one(x=1).script("s", path, returns={"v": int})
    write("v.sh", """echo '{"v": 2}'""")

    assert said(f) == {"v": 1}


def test_a_snapshot_travels_without_its_file(write: Any) -> None:
    path = write("v.py", """print('{"v": 1}')""")
    data = cloudpickle.dumps(one(x=1).script("s", path, args=[], returns={"v": int}))
    Path(path).unlink()

    assert said(cloudpickle.loads(data)) == {"v": 1}


def test_in_place_the_file_is_run_as_it_is_then(write: Any) -> None:
    path = write("v.sh", """echo '{"v": 1}'""")
    f = one(x=1).script("s", path, snapshot=False, returns={"v": int})
    write("v.sh", """echo '{"v": 2}'""")

    assert said(f) == {"v": 2}


def test_in_place_a_path_is_absolute_and_may_have_braces(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "{a}").mkdir()
    (tmp_path / "{a}" / "v.sh").write_text("""echo '{"v": 1}'""")
    monkeypatch.chdir(tmp_path / "{a}")
    f = one(x=1).script("s", "v.sh", snapshot=False, returns={"v": int})
    monkeypatch.chdir("/")

    assert said(f) == {"v": 1}


@pytest.mark.parametrize("snapshot", [True, False])
def test_an_executable_runs_by_itself(write: Any, snapshot: bool) -> None:
    path = write("tool", """#!/bin/sh\necho '{"v": 1}'\n""", mode=0o755)

    assert said(one(x=1).script("s", path, snapshot=snapshot, returns={"v": int})) == {"v": 1}


# Refused when the stage is added ------------------------------------------------------------------


def test_a_script_that_is_not_there_is_refused() -> None:
    with pytest.raises(FlowError, match=r"stage 's': there is no script 'fit.R' here"):
        one(x=1).script("s", "fit.R")


def test_a_command_line_in_one_text_is_refused_with_the_way_out() -> None:
    with pytest.raises(FlowError, match="a command with arguments is given as a list of words"):
        one(x=1).script("s", "sh -c true")


def test_a_script_of_unknown_kind_is_refused(write: Any) -> None:
    with pytest.raises(FlowError, match=r"no interpreter known for 'notes.md'"):
        one(x=1).script("s", write("notes.md", ""))


def test_an_interpreter_that_is_not_installed_is_refused(write: Any, monkeypatch: Any) -> None:
    path = write("fit.jl", "")
    monkeypatch.setenv("PATH", "")

    with pytest.raises(FlowError, match=r"'fit.jl' needs 'julia', which is not on PATH"):
        one(x=1).script("s", path)


@pytest.mark.parametrize(
    "command", [[], ["sh", "{"], ["echo", '{"y": 1}'], ["a", "{}"], ["a", "{0}"], ["a", "{x.y}"]]
)
def test_a_command_that_could_not_be_filled_is_refused(command: list[str]) -> None:
    with pytest.raises(
        FlowError, match=r"stage 's': (an empty command|.*a literal brace is written twice)"
    ):
        one(x=1).script("s", command)


@pytest.mark.parametrize("word", ["{x:.2f}", "{x!r}", "{x:{y}}"])
def test_a_placeholder_with_a_format_is_refused(word: str) -> None:
    with pytest.raises(FlowError, match=r"stage 's': .*a placeholder is a name alone"):
        one(x=1, y=2).script("s", ["echo", word])


def test_the_context_is_no_word() -> None:
    with pytest.raises(FlowError, match=r"stage 's': .*'ctx'"):
        one(x=1).script("s", ["echo", "{ctx}"])


def test_a_placeholder_that_nothing_fills_is_refused() -> None:
    with pytest.raises(FlowError, match="stage 's': nothing fills parameter 'z'"):
        one(x=1).script("s", ["echo"], env={"Z": "{z}"})


def test_args_in_one_text_are_refused() -> None:
    with pytest.raises(FlowError, match="stage 's': args='-n 3'; expected a list of words"):
        one(x=1).script("s", ["echo"], args="-n 3")


@pytest.mark.parametrize("suffix", [".py", ".R", ".sh", ".jl"])
def test_common_languages_have_an_interpreter(suffix: str) -> None:
    assert INTERPRETERS[suffix]
