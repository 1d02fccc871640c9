"""The command line, as people and scripts use it: most of it in this process, some for real."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pyarrow as pa
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner, Result

from flowdist.cli import Root, cli
from flowdist.cli.output import Output, plain
from flowdist.run import Run, attach, runs

SUMS = """
from flowdist import flow, param_grid, local

grid = param_grid(group=["a", "b"], x=[1, 2, 3])

def square(x):
    return {"y": x * x, "half": x / 2}

work = (
    flow(grid)
    .stage("square", square, returns={"y": int, "half": float})
    .reduce("total", lambda square: {"sum": int(square["y"].sum())}, by="group")
    .distribute(local(within="sequential"))
)
"""

# Row 4 fails until there is a file "mended" beside the flow.
TROUBLE = """
from pathlib import Path
from flowdist import flow, param_grid, local

here = Path(__file__).parent

def fit(x):
    if x == 4 and not (here / "mended").exists():
        raise ValueError("no [signal] in 4")
    return {"y": x, "parts": [x] * x, "image": b"ab"}

work = flow(param_grid(x=range(6))).stage("fit", fit).distribute(local(within="sequential"))
"""

# Row 0 is quick; the others wait for a file "go" beside the flow.
SLOW = """
import time
from pathlib import Path
from flowdist import flow, param_grid, local

here = Path(__file__).parent

def wait(x):
    while x and not (here / "go").exists():
        time.sleep(0.02)
    return x

work = flow(param_grid(x=range(4))).stage("wait", wait).distribute(local(within="sequential"))
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of one's own to work in, with its own runs and without anybody's profiles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWDIST_ROOT", str(tmp_path / "runs"))
    monkeypatch.setenv("FLOWDIST_CONFIG", str(tmp_path / "user.toml"))
    for name, text in (("sums", SUMS), ("trouble", TROUBLE), ("slow", SLOW)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def flowdist(*arguments: str, code: int = 0) -> Result:
    """Run the command in this process; it has to end with the exit code."""
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def shell(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flowdist.cli", *arguments],
        capture_output=True, text=True, timeout=100, **options,
    )  # fmt: skip


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it never came true")


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of which row 4 failed; it is only looked at."""
    folder = tmp_path_factory.mktemp("failed")
    (folder / "trouble.py").write_text(TROUBLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWDIST_ROOT", str(folder / "runs"))
        flowdist("run", str(folder / "trouble.py"), code=1)
        return runs()[0]


# -- help ------------------------------------------------------------------------------------------


def commands() -> list[str]:
    assert isinstance(cli, Root)
    return cli.list_commands(click.Context(cli))


def test_the_help_page_has_every_command_on_one_line() -> None:
    lines = flowdist("--help").stdout.splitlines()

    for name in commands():
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.endswith("."), line


@pytest.mark.parametrize("name", commands())
def test_every_help_page_shows_how_to_type_it(name: str) -> None:
    page = flowdist(name, "--help").stdout

    assert f"\n    flowdist {name}" in page


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from flowdist.cli import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "print('loaded:', {'pyarrow', 'pandas', 'rich', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "loaded: set()" in done.stdout, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_a_command_takes_no_core_but_its_own_unless_it_is_asked_to(tmp_path: Path) -> None:
    (tmp_path / "seen.py").write_text(
        "import os, numpy\n"
        "from flowdist import flow\n"
        "open('threads', 'w').write(str(len(os.listdir('/proc/self/task'))))\n"
        "seen = flow([{'x': 1}]).stage('f', lambda x: x)\n"
    )
    here = {n: v for n, v in os.environ.items() if not n.startswith(("OPENBLAS", "OMP"))}

    def threads(**environment: str) -> int:
        assert shell("plan", "seen.py", cwd=tmp_path, env=here | environment).returncode == 0
        return int((tmp_path / "threads").read_text())

    assert threads(OPENBLAS_NUM_THREADS="2") == threads() + 1


def test_a_misspelt_command_is_told_the_right_one() -> None:
    assert "did you mean 'status'?" in flowdist("stauts", code=2).stderr


# -- flows in files --------------------------------------------------------------------------------


def test_init_writes_a_flow_that_runs_and_never_overwrites(project: Path) -> None:
    flowdist("init", "mine/darts.py")
    text = (project / "mine/darts.py").read_text()
    assert "flowdist run mine/darts.py" in text

    assert flowdist("run", "mine/darts.py").stdout.count("100 ok") == 1
    assert "there already" in flowdist("init", "mine/darts.py", code=2).stderr
    assert (project / "mine/darts.py").read_text() == text


def test_the_only_flow_of_a_file_needs_no_name() -> None:
    assert json.loads(flowdist("plan", "sums.py", "--json").stdout)["rows"] == 6


def test_of_several_flows_one_has_to_be_named(project: Path) -> None:
    (project / "two.py").write_text(SUMS + "\nfewer = flow(grid.head(2)).stage('s', square)\n")

    error = flowdist("plan", "two.py", code=2).stderr
    assert "several flows: work, fewer; say which, as in two.py:fewer" in error
    assert json.loads(flowdist("plan", "two.py:fewer", "--json").stdout)["rows"] == 2
    assert "did you mean 'fewer'?" in flowdist("plan", "two.py:fewr", code=2).stderr


def test_a_flow_may_be_made_by_a_function(project: Path) -> None:
    (project / "made.py").write_text(
        SUMS.replace("work = (", "def make(rows: int = 2) -> 'Flow':\n  return (").replace(
            "flow(grid)", "flow(grid.head(rows))"
        )
    )

    assert json.loads(flowdist("plan", "made.py:make", "--json").stdout)["rows"] == 2
    assert json.loads(flowdist("plan", "made.py", "--json").stdout)["rows"] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nosuch", "line 1: ModuleNotFoundError: No module named 'nosuch'"),
        ("def f(:", "line 1: SyntaxError"),
        ("x = 1\nraise SystemExit('no data')", "line 2: it ended Python (no data)"),
        ("x = 1", "has no flow"),
        ("from flowdist import flow\n\nflow([{'a b': 1}])", "line 3: column 'a b'"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_named_with_the_line(
    project: Path, text: str, said: str
) -> None:
    (project / "bad.py").write_text(text)

    error = flowdist("plan", "bad.py", code=2).stderr

    assert "bad.py" in error
    assert said in error
    assert "Traceback" not in error


def test_debug_shows_the_traceback(project: Path) -> None:
    (project / "bad.py").write_text("import nosuch")

    assert "Traceback" in flowdist("plan", "bad.py", "--debug", code=2).stderr
    assert "Traceback" in flowdist("--debug", "plan", "bad.py", code=2).stderr


def test_a_file_called_as_a_module_in_use_is_refused(project: Path) -> None:
    (project / "json.py").write_text(SUMS)

    assert "rename the file" in flowdist("plan", "json.py", code=2).stderr
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("target", "said"),
    [("sum.py", "did you mean 'sums.py'?"), (".", "is a directory"), ("sums.py:x-y", "not a name")],
)
def test_a_flow_that_is_not_there(target: str, said: str) -> None:
    assert said in flowdist("plan", target, code=2).stderr


def test_what_a_file_prints_does_not_mix_with_json(project: Path) -> None:
    (project / "loud.py").write_text("print('hello')\n" + SUMS)

    result = flowdist("plan", "loud.py", "--json")

    assert json.loads(result.stdout)["rows"] == 6
    assert "hello" in result.stderr


# -- plans -----------------------------------------------------------------------------------------


def planned(*options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(flowdist("plan", "sums.py", *options, "--json").stdout)
    return found


def test_options_change_the_plan() -> None:
    assert planned("--by", "group")["jobs"] == 2
    assert planned("--by", "group,x", "--set", "target_jobs=3")["jobs"] == 3
    assert planned("--set", "within=threads", "--workers", "3")["workers"] == 3


def test_on_takes_a_profile_in_place_of_the_flows_own_plan() -> None:
    flowdist("profiles", "add", "night", "extends=small", "by=group")

    assert planned("--on", "night")["jobs"] == 2
    assert planned("--on", "night", "--by", "x")["jobs"] == 3
    assert "did you mean 'night'?" in flowdist("plan", "sums.py", "--on", "nigth", code=2).stderr


def test_a_field_that_no_plan_has_is_wrong_usage() -> None:
    error = flowdist("run", "sums.py", "--set", "worker=2", code=2).stderr

    assert error == "Error: local: there is no field 'worker'; did you mean 'workers'?\n"


def test_preflight_says_what_to_do_and_fails_on_errors(project: Path) -> None:
    assert "Nothing stands in the way" in flowdist("preflight", "sums.py").stdout
    tried = flowdist("preflight", "trouble.py", "--try-row", "4", "--json", code=2)
    (check,) = [c for c in json.loads(tried.stdout) if c["severity"] == "error"]
    assert "no [signal] in 4" in check["what"]


# -- running ---------------------------------------------------------------------------------------


def test_run_shows_progress_and_ends_with_a_summary() -> None:
    result = flowdist("run", "sums.py")

    assert "6 of 6 rows, done in" in result.stderr
    assert "6 ok, 0 failed" in result.stdout
    assert f"flowdist collect {runs()[0].id}" in result.stdout


def test_a_run_is_called_like_its_flow_or_its_file_or_as_one_says() -> None:
    flowdist("run", "sums.py")
    assert runs()[0].name == "sums"
    flowdist("run", "sums.py", "--name", "night")
    assert runs()[0].name == "night"


def test_failed_rows_are_exit_code_1_until_they_are_mended(project: Path) -> None:
    result = flowdist("run", "trouble.py", code=1)
    assert "ValueError" in result.stdout
    assert "resume" in result.stdout
    assert "Nothing is missing" in flowdist("resume", "last").stdout

    (project / "mended").touch()
    assert "6 ok, 0 failed" in flowdist("resume", "last", "--failed", "--watch").stdout


def test_submit_returns_and_watch_waits(project: Path) -> None:
    started = json.loads(flowdist("submit", "slow.py", "--json").stdout)
    assert not attach(started["id"]).status().ended
    assert "cancel it before deleting it" in flowdist("delete", "last", "--yes", code=2).stderr
    assert "cancel it before resuming" in flowdist("resume", "last", code=2).stderr

    (project / "go").touch()

    assert json.loads(flowdist("watch", "last", "--json").stdout)["ok"] == 4


def test_cancel_keeps_what_is_done_and_resume_goes_on(project: Path) -> None:
    run = attach(json.loads(flowdist("submit", "slow.py", "--json").stdout)["id"])
    wait_until(lambda: bool(run.status().working_on) or run.status().ok > 0)

    assert "is stopped: 1 of 4 rows are finished" in flowdist("cancel", run.id).stdout
    assert "--partial takes what is there" in flowdist("collect", run.id, code=1).stderr
    partial = flowdist("collect", run.id, "--partial", "--drop-failed", "--json").stdout
    assert json.loads(partial) == [{"x": 0, "wait.value": 0}]

    (project / "go").touch()
    assert "3 of 4 rows to go" in flowdist("resume", run.id, "--watch").stdout
    assert "had ended already" in flowdist("cancel", run.id).stdout


def test_ctrl_c_ends_the_run_and_says_how_to_go_on(project: Path) -> None:
    command = [sys.executable, "-m", "flowdist.cli", "run", "slow.py"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # Its first line of progress says that the run is being watched.
        assert "of 4 rows" in process.stderr.readline()
        wait_until(lambda: runs()[0].status().state == "running")
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()

    assert process.returncode == 130
    assert f"flowdist resume {runs()[0].id} --watch" in said
    assert "Traceback" not in said
    assert runs()[0].status().state == "stopped"


def test_a_run_whose_process_was_killed_is_exit_code_3() -> None:
    run = attach(json.loads(flowdist("submit", "slow.py", "--json").stdout)["id"])
    launched = run.files.read_json(run.files.launch(1))
    assert launched is not None
    os.kill(launched["pid"], signal.SIGKILL)

    result = flowdist("watch", run.id, code=3)

    assert "lost" in result.stdout
    assert f"flowdist resume {run.id}" in result.stdout
    assert "It is lost" in flowdist("explain", run.id).stdout


def test_the_installed_command_runs_a_flow() -> None:
    script = Path(sys.executable).with_name("flowdist")
    done = subprocess.run([str(script), "run", "sums.py", "--json"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] == 6


def test_python_m_runs_it_too() -> None:
    assert shell("--version").stdout.startswith("flowdist, version")
    assert shell("status", "last").returncode == 2


# -- which run -------------------------------------------------------------------------------------


def test_a_run_is_named_by_id_prefix_directory_or_last(
    failed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(failed.directory.parent)
    for text in (failed.id, failed.id[:9], "last"):
        shown = flowdist("status", text, "--root", root, "--json").stdout
        assert json.loads(shown)["id"] == failed.id
    assert failed.id in flowdist("status", str(failed.directory)).stdout
    monkeypatch.chdir(failed.directory)
    assert failed.id in flowdist("status", ".").stdout


def test_a_prefix_of_several_runs_names_them() -> None:
    for name in ("night-a", "night-b"):
        flowdist("run", "sums.py", "--name", name)

    error = flowdist("status", "night", code=2).stderr

    assert "could be 2 runs" in error
    assert all(run.id in error for run in runs())


def test_a_run_that_is_not_there(failed: Run) -> None:
    assert "there are no runs in" in flowdist("status", "last", code=2).stderr
    assert "There are no runs" in flowdist("runs").stdout
    assert json.loads(flowdist("runs", "--json").stdout) == []
    root = str(failed.directory.parent)
    wrong = failed.id.replace("trouble", "truble")
    assert (
        f"did you mean '{failed.id}'?" in flowdist("status", wrong, "--root", root, code=2).stderr
    )


def test_runs_are_listed_latest_first() -> None:
    for name in ("one", "two", "three"):
        flowdist("run", "sums.py", "--name", name)

    listed = json.loads(flowdist("runs", "--json").stdout)

    assert [run["name"] for run in listed] == ["three", "two", "one"]
    assert "1 older ones" in flowdist("runs", "-n", "2").stdout


# -- looking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "status",
        "watch",
        "errors",
        "errors --row 4",
        "explain",
        "report",
        "collect --errors",
        "resume",
    ],
)
def test_json_is_all_that_standard_output_holds(failed: Run, words: str) -> None:
    name, *rest = words.split()
    result = CliRunner().invoke(cli, [name, str(failed.directory), *rest, "--json"])

    assert result.exit_code == (1 if name == "watch" else 0)
    assert json.loads(result.stdout)


def test_errors_are_listed_with_their_parameters(failed: Run) -> None:
    result = flowdist("errors", str(failed.directory))

    assert "x=4" in result.stdout
    assert "ValueError: no [signal] in 4" in result.stdout
    assert "--row 4" in result.stdout


def test_one_failed_row_is_shown_with_its_traceback(failed: Run) -> None:
    assert "Traceback" in flowdist("errors", str(failed.directory), "--row", "4").stdout
    error = flowdist("errors", str(failed.directory), "--row", "3", code=2).stderr
    assert "row 3" in error
    assert "has not failed" in error


def test_a_run_without_errors_says_so() -> None:
    flowdist("run", "sums.py")

    assert "has failed" in flowdist("errors", "last").stdout
    assert json.loads(flowdist("errors", "last", "--json").stdout) == []


def test_logs_have_what_stages_print(project: Path) -> None:
    (project / "loud.py").write_text(SUMS.replace("return {", "print('x is', x); return {"))
    flowdist("run", "loud.py")

    for words in (["logs", "last"], ["logs", "last", "0"], ["logs", "last", "-f"]):
        assert flowdist(*words).stdout.count("x is 3") == 2
    assert "jobs 0 to 1, not 9" in flowdist("logs", "last", "9", code=2).stderr


def test_a_report_is_printed_or_written(failed: Run, project: Path) -> None:
    assert "Slowest rows" in flowdist("report", str(failed.directory)).stdout

    flowdist("report", str(failed.directory), "--html", "run.html")

    assert failed.id in (project / "run.html").read_text()


# -- taking results --------------------------------------------------------------------------------


def test_collect_prints_the_first_rows() -> None:
    flowdist("run", "sums.py")

    lines = flowdist("collect", "last").stdout.splitlines()

    assert lines[0].split() == ["group", "x", "square.y", "square.half"]
    assert lines[-1].split() == ["b", "3", "9", "1.5"]


def test_collect_writes_what_is_asked_for(project: Path) -> None:
    flowdist("run", "sums.py")
    for name in ("t.parquet", "t.csv", "out/t.arrow"):
        flowdist("collect", "last", "-o", name)

    with pa.memory_map("out/t.arrow") as file:
        arrow = pa.ipc.open_file(file).read_pandas()
    expected = runs()[0].collect()
    for frame in (pd.read_parquet("t.parquet"), pd.read_csv("t.csv"), arrow):
        pd.testing.assert_frame_equal(frame, expected, check_dtype=False)
    assert [p.name for p in project.iterdir() if p.name.startswith(".")] == []


def test_collect_takes_the_table_of_a_reduce() -> None:
    flowdist("run", "sums.py")

    rows = json.loads(flowdist("collect", "last", "--table", "total", "--json").stdout)

    assert rows == [{"group": "a", "sum": 14}, {"group": "b", "sum": 14}]


def test_collect_asks_what_to_do_with_failed_rows(failed: Run) -> None:
    run = str(failed.directory)

    error = flowdist("collect", run, code=1).stderr
    assert "1 of 6 rows" in error
    assert "--errors keeps them" in error
    kept = json.loads(flowdist("collect", run, "--errors", "--json").stdout)
    assert [row["_status"] for row in kept].count("failed") == 1
    assert len(json.loads(flowdist("collect", run, "--drop-failed", "--json").stdout)) == 5
    assert "opposite" in flowdist("collect", run, "--errors", "--drop-failed", code=2).stderr


def test_csv_holds_lists_as_json(failed: Run) -> None:
    flowdist("collect", str(failed.directory), "--errors", "-o", "t.csv")

    frame = pd.read_csv("t.csv")

    assert json.loads(frame["fit.parts"][2]) == [2, 2]
    assert pd.isna(frame["fit.parts"][4])


def test_an_unknown_format_is_refused_before_anything_is_read() -> None:
    assert "'.xlsx'" in flowdist("collect", "nothing", "-o", "t.xlsx", code=2).stderr


def test_delete_asks_and_removes() -> None:
    flowdist("run", "sums.py")
    run = runs()[0]

    refused = CliRunner().invoke(cli, ["delete", "last"], input="n\n")
    assert refused.exit_code == 1
    assert run.directory.exists()
    flowdist("delete", "last", "--yes")
    assert not run.directory.exists()


# -- setting up ------------------------------------------------------------------------------------


def test_profiles_say_where_values_come_from(project: Path) -> None:
    flowdist("profiles", "add", "night", "extends=laptop", "workers=8", "memory=8GB")

    shown = flowdist("profiles", "show", "night").stdout
    assert "profile 'night'" in shown
    assert "profile 'laptop' (built-in)" in shown
    fields = json.loads(flowdist("profiles", "show", "night", "--json").stdout)["fields"]
    assert (fields["workers"], fields["resources"]) == (8, {"memory": "8GB"})
    assert "night" in flowdist("profiles", "list").stdout
    assert "already" in flowdist("profiles", "add", "night", "extends=small", code=2).stderr
    flowdist("profiles", "add", "mine", "extends=small", "--user")
    assert "[profiles.mine]" in (project / "user.toml").read_text()


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(name: str) -> None:
    assert "_FLOWDIST_COMPLETE" in flowdist("completion", name).stdout


def test_shells_complete_commands_runs_and_profiles(failed: Run) -> None:
    shells = BashComplete(cli, {}, "flowdist", "_FLOWDIST_COMPLETE")
    root = str(failed.directory.parent)

    assert "status" in {item.value for item in shells.get_completions([], "st")}
    words = ["status", "--root", root]
    assert {i.value for i in shells.get_completions(words, "")} == {"last", failed.id}
    words = ["plan", "sums.py", "--on"]
    assert {i.value for i in shells.get_completions(words, "lap")} == {"laptop"}


def test_worker_is_what_backends_start() -> None:
    flowdist("worker", code=2)


# -- output ----------------------------------------------------------------------------------------


def test_there_is_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(json=True)
    out.message("a remark")
    out.data({"x": 1})

    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"x": 1}
    assert captured.err == "a remark\n"
    with pytest.raises(AssertionError):
        out.data({"x": 2})


def test_everything_in_a_table_becomes_json() -> None:
    row = {"when": pd.Timestamp("2024-02-29"), "gone": float("nan"), "n": pa.scalar(3).as_py()}

    assert plain([row]) == [{"when": "2024-02-29T00:00:00", "gone": None, "n": 3}]


# Slips -------------------------------------------------------------------------------------------


def test_init_names_a_file_that_would_do() -> None:
    assert "as in flow.py" in flowdist("init", "flow.txt", code=2).stderr


def test_a_row_that_there_is_not_is_told_from_one_that_went_well(failed: Run) -> None:
    where = str(failed.directory)
    assert "has rows 0 to 5, not 6" in flowdist("errors", where, "--row", "6", code=2).stderr
    assert "row 1 of run" in flowdist("errors", where, "--row", "1", code=2).stderr


def test_silence_is_told_apart_from_nothing(failed: Run) -> None:
    shown = flowdist("logs", str(failed.directory))

    assert shown.stdout == ""
    assert shown.stderr.startswith("Nothing has been printed")


def test_memory_without_a_unit_is_refused_here_too(project: Path) -> None:
    (project / "sums.py").write_text(SUMS)

    assert "has no unit" in flowdist("plan", "sums.py", "--set", "memory=8", code=2).stderr


def test_groups_that_failed_are_told_from_rows(project: Path) -> None:
    bad = SUMS.replace('{"sum": int(square["y"].sum())}', "1 / 0")
    (project / "bad.py").write_text(bad)
    flowdist("run", "bad.py", code=1)

    assert re.search(r"group 1 +group=b +total", flowdist("errors", "last").stdout)
    page = flowdist("errors", "last", "--row", "1").stdout
    assert "group 1 (group=b): reduce 'total' failed" in page
    assert "--errors keeps" in flowdist("collect", "last", "--table", "total", code=1).stderr
    kept = flowdist("collect", "last", "--table", "total", "--errors").stdout
    assert "ZeroDivisionError" in kept
    refused = flowdist("collect", "last", "--table", "total", "--partial", code=2)
    assert "without --table" in refused.stderr
