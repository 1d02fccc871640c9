"""Scripts as runs: what travels, what `main` is given, what becomes of what it returns."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from flowdist import attach, exec_flow, local, runs
from flowdist.backends.slurm.plans import slurm_queue
from flowdist.backends.snowflake.plans import spcs_queue
from flowdist.cli import cli
from flowdist.errors import ScriptFailed, UsageError
from flowdist.execute import exec_plan, parse_config


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWDIST_ROOT", raising=False)
    return tmp_path


def script(folder: Path, text: str, name: str = "job.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def cli_exec(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["exec", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


# -- config ----------------------------------------------------------------------------------------


def test_every_worker_gets_the_config_and_its_own_number(here: Path) -> None:
    path = script(here, "def main(config):\n    return {'seen': repr(sorted(config.items()))}\n")
    config = {"rate": 0.5, "layers": [8, 8], "where": {"a": None}}

    table = exec_flow(path, config, replicas=2, on=local(workers=1)).collect()

    for index, seen in enumerate(table["main.seen"]):
        wanted = {**config, "worker_index": index, "worker_count": 2}
        assert seen == repr(sorted(wanted.items()))


def test_words_win_over_the_file_and_are_json_where_they_can_be(here: Path) -> None:
    file = here / "config.toml"
    file.write_text('n = 1\nkeep = "me"\n[model]\ndepth = 2\n')

    found = parse_config(["n=2", "name=plain text", "flag=true", 'tags=["a"]', "eq=a=b"], file)

    assert found == {
        "n": 2,
        "keep": "me",
        "model": {"depth": 2},
        "name": "plain text",
        "flag": True,
        "tags": ["a"],
        "eq": "a=b",
    }


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("absent.json", None, "No such file"),
        ("list.json", "[1]", "names and values, not list"),
        ("broken.json", "{", "it is not JSON"),
        ("broken.toml", "a b", "it is not TOML"),
        ("config.yaml", "a: 1", ".json or .toml file"),
    ],
)
def test_a_config_file_that_says_nothing_is_refused(
    tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    # A predecessor looked for its config under another name than it had written it under, and went
    # on with none.
    if text is not None:
        (tmp_path / name).write_text(text)

    with pytest.raises(UsageError, match=said):
        parse_config([], tmp_path / name)


def test_what_workers_are_told_is_no_name_for_a_config(tmp_path: Path) -> None:
    path = script(tmp_path, "def main(config): pass\n")

    with pytest.raises(UsageError, match="its own 'worker_index'"):
        exec_flow(path, {"worker_index": 3})


# -- the script ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def mian(config): pass\n", "no function 'main'; did you mean 'mian'"),
        ("def main(config):\n  x = (\n", "line 2: SyntaxError"),
        ("def main(): pass\n", r"line 1: main\(\) has to take one argument"),
        ("def main(config, other): pass\n", "has to take one argument"),
        ("def main(config, *, other): pass\n", "has to take one argument"),
        ("async def main(config): pass\n", "is async"),
        ("def main(config):\n    yield 1\n", "is a generator"),
        ("class Job:\n    def main(config): pass\n", "no function 'main'"),
    ],
)
def test_a_script_that_cannot_run_is_refused_before_anything_starts(
    here: Path, text: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        exec_flow(script(here, text))
    assert runs() == []


@pytest.mark.parametrize(
    "text",
    [
        "def main(config, more=None): return 1\n",
        "from helper import main\n",
        "main = lambda config: 1\n",
        "if True:\n  def main(config):\n    def each():\n      yield 1\n    return 1\n",
        "class main:\n    def __init__(self, config): pass\n",
    ],
)
def test_what_may_well_run_is_believed(tmp_path: Path, text: str) -> None:
    assert exec_flow(script(tmp_path, text)).stages[0].name == "main"


def test_a_script_that_is_not_there_names_one_that_is(tmp_path: Path) -> None:
    script(tmp_path, "def main(config): pass\n", "train.py")

    with pytest.raises(UsageError, match=r"tran.py does not exist; did you mean 'train.py'"):
        exec_flow(tmp_path / "tran.py")


def test_modules_beside_the_script_travel_with_it(here: Path) -> None:
    # In two replicas that one worker runs: the second gets modules of its own.
    (here / "lib").mkdir()
    (here / "lib" / "__init__.py").write_text("from lib.deep import add\n")
    (here / "lib" / "deep.py").write_text("import constants\n"
                                          "def add(n): return n + constants.TEN\n")  # fmt: skip
    (here / "constants.py").write_text("TEN = 10\n")
    path = script(
        here,
        """
        import sys
        SEEN = []
        def main(config):
            from lib import add
            SEEN.append(1)
            return {'sum': add(len(SEEN)), 'path': 'job' in sys.modules}
        """,
    )
    flow = exec_flow(path, replicas=2, on=local(dispatch="queue"))
    for file in [*here.rglob("*.py")]:
        file.unlink()

    table = flow.distribute(local(workers=1)).collect()

    assert table["main.sum"].tolist() == [11, 11]
    assert table["main.path"].all()


def test_editing_a_script_does_not_change_what_is_queued(tmp_path: Path) -> None:
    path = script(tmp_path, "def main(config): return 'as submitted'\n")
    flow = exec_flow(path)
    path.write_text("def main(config): return 'edited'\n")

    assert flow.try_row(0) == {"main": {"value": "as submitted"}}


def test_the_guarded_part_of_a_script_does_not_run(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        def main(config): return __name__
        if __name__ == '__main__':
            raise RuntimeError('ran')
        """,
    )

    assert exec_flow(path).try_row(0) == {"main": {"value": "job"}}


# -- failures --------------------------------------------------------------------------------------


def test_what_a_script_raises_is_a_failed_row(here: Path) -> None:
    # One that caught errors and ended with 0 was taken for one that had gone well.
    path = script(
        here,
        """
        def main(config):
            if config["worker_index"]:
                raise ValueError("diverged")
            return "fine"
        """,
    )

    code, _, said = cli_exec(path, "--replicas", 2, "--json", "--output", "out.csv")
    kept = runs()[0].collect("arrow", errors="keep")

    assert code == 1
    assert kept["_status"].to_pylist() == ["ok", "failed"]
    assert kept["main.value"].to_pylist() == ["fine", None]
    assert 'raise ValueError("diverged")' in said  # the traceback, with the line
    assert not (here / "out.csv").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [("3", "sys.exit(3)"), ("'no data'", "sys.exit('no data')"), ("", None), ("0", None)],
)
def test_the_code_that_a_script_ends_with_decides(
    tmp_path: Path, code: str, said: str | None
) -> None:
    flow = exec_flow(script(tmp_path, f"import sys\ndef main(config): sys.exit({code})\n"))

    if said is None:
        assert flow.try_row(0) == {"main": {"value": None}}
    else:
        with pytest.raises(ScriptFailed) as failed:
            flow.try_row(0)
        assert str(failed.value) == f"job.py ended with {said}"


def test_a_script_that_ends_python_when_it_is_imported_fails(tmp_path: Path) -> None:
    flow = exec_flow(script(tmp_path, "import sys\ndef main(config): pass\nsys.exit()\n"))

    with pytest.raises(ScriptFailed, match=r"before main\(\) was called"):
        flow.try_row(0)


# -- results ---------------------------------------------------------------------------------------


def test_tables_are_put_one_below_the_other_and_written(here: Path) -> None:
    path = script(
        here,
        """
        import pandas as pd
        def main(config):
            me = config['worker_index']
            return pd.DataFrame({'n': [me, me + 10], 'tags': [['a'], []]})
        """,
    )

    code, printed, _ = cli_exec(path, "--replicas", 2, "--output", "out.parquet")

    assert code == 0
    assert "Wrote file out.parquet: 4 rows" in printed
    table = pd.read_parquet("out.parquet")
    assert table["worker_index"].tolist() == [0, 0, 1, 1]
    assert table["n"].tolist() == [0, 10, 1, 11]


def test_a_dict_is_a_row_in_every_format(here: Path) -> None:
    path = script(here, "def main(config): return {'score': config['x'] / 2, 'nothing': None}\n")

    for suffix in ("csv", "json"):
        assert cli_exec(path, "--config", "x=3", "-o", f"out.{suffix}")[0] == 0

    assert (here / "out.csv").read_text().splitlines()[1].startswith("0,1.5")
    wanted = [{"worker_index": 0, "score": 1.5, "nothing": None}]
    assert json.loads((here / "out.json").read_text()) == wanted


def test_a_script_can_be_submitted_and_looked_at_later(here: Path) -> None:
    path = script(here, "def main(config):\n    print('hello')\n    return 1\n")

    code, printed, _ = cli_exec(path, "--submit-only", "--json", "--name", "later")
    run = attach(json.loads(printed)["id"]).wait(30)

    assert code == 0
    assert run.name == "later"
    assert run.table("main")["value"].tolist() == [1]
    assert "hello" in list(run.logs())


def test_what_can_never_be_written_is_refused_at_once(here: Path) -> None:
    path = script(here, "def main(config): pass\n")

    for words, said in (
        (["--output", "out.xlsx"], "is written as .parquet"),
        (["--output", "out.csv", "--submit-only"], "returns before"),
        (["--config", "novalue"], "sets nothing"),
        (["--entry", "train"], "no function 'train'"),
        (["--on", "nowhere"], "there is no profile 'nowhere'"),
        (["--set", "workers=4"], "each of --replicas N workers is a job of its own"),
    ):
        code, _, error = cli_exec(path, *words)
        assert (code, said in error) == (2, True), error
    assert runs() == []


# -- plans -----------------------------------------------------------------------------------------


def test_a_profile_says_where_and_replicas_how_many() -> None:
    nodes = slurm_queue(nodes=8, cores_per_node=4, by="subject", time="1h")
    pool: dict[str, Any] = {"compute_pool": "p", "image": "/d/s/r/i:1", "stage": "d.s.runs"}

    slurm = exec_plan(nodes, 2)
    cloud = exec_plan(spcs_queue(**pool, instance_family="CPU_X64_M", replicas=9), 2)

    assert (slurm.by, slurm.target_jobs, slurm.workers, slurm.threads()) == ((), 2, 1, 4)
    assert (cloud.replicas, cloud.workers, cloud.cpus_per_worker) == (2, 1, 6)  # type: ignore[attr-defined]


def test_replicas_run_side_by_side(here: Path) -> None:
    path = script(
        here,
        """
        import pathlib, time
        def main(config):
            folder = pathlib.Path(config['folder'])
            (folder / str(config['worker_index'])).touch()
            end = time.monotonic() + 30
            while len(list(folder.iterdir())) < config['worker_count']:
                assert time.monotonic() < end
                time.sleep(0.01)
        """,
    )
    (here / "meeting").mkdir()

    table = exec_flow(path, {"folder": str(here / "meeting")}, replicas=2).collect()

    assert len(table) == 2


def test_it_is_a_command(here: Path) -> None:
    script(here, "def main(config): return 'from a shell'\n")

    done = subprocess.run(
        [sys.executable, "-m", "flowdist.cli", "exec", "job.py"], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert "from a shell" in done.stdout
