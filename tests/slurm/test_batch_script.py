"""Batch scripts: each field has its directive, and nothing a user writes gets out of its word."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowdist import slurm, slurm_allocation, slurm_queue
from flowdist.backends.slurm.plans import Slurm
from flowdist.backends.slurm.script import (
    array_texts,
    index_ranges,
    literal,
    parse_ranges,
    sbatch_script,
    sbatch_time,
)
from flowdist.errors import PlanError

NASTY = "a b\"c'd\\e;$(touch pwned)`touch pwned` # &&\\\n--wrap=x -x %a \"\"''"


def script_of(plan: Slurm, **options: Any) -> str:
    given: dict[str, Any] = {"name": "run-1", "command": ["true"], "output": "/r/%a.log", **options}
    return sbatch_script(plan, **given)


def options_of(script: str) -> dict[str, str]:
    """The options as sbatch reads them."""
    found = {}
    for line in script.splitlines()[1:]:
        if not line.startswith("#SBATCH"):
            break
        (word,) = words_of(line.removeprefix("#SBATCH"))
        name, _, value = word.removeprefix("--").partition("=")
        found[name] = value
    return found


def words_of(line: str) -> list[str]:
    """The words of a directive, as `get_argument` in SLURM's source takes them apart."""
    words: list[str] = []
    word, quote, escaped, inside = "", "", False, False
    for c in line:
        if escaped:
            word, escaped = word + c, False
        elif c == "\\":
            escaped = inside = True
        elif quote:
            word, quote = (word, "") if c == quote else (word + c, quote)
        elif c in "\"'":
            quote, inside = c, True
        elif c.isspace():
            words, word, inside = ([*words, word], "", False) if inside else (words, "", False)
        elif c == "#" and not inside:
            return words
        else:
            word, inside = word + c, True
    assert not quote
    return [*words, word] if inside else words


def bash(script: str) -> str:
    """What bash prints that runs the script, without the site's profile."""
    done = subprocess.run(["bash", "-s"], input=script.encode(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


# What is in a script -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "options"),
    [
        (slurm(), {"nodes": "1", "ntasks": "1", "cpus-per-task": "1", "requeue": ""}),
        (slurm(workers=4, cpus=2), {"cpus-per-task": "8"}),
        (slurm_allocation(nodes=9, cores_per_node=196), {"nodes": "1", "cpus-per-task": "196"}),
        (slurm_queue(nodes=9, cores_per_node=16), {"nodes": "1", "cpus-per-task": "16"}),
        (slurm(memory="8GB"), {"mem": "8192M"}),
        (slurm(memory=(1 << 20) + 1), {"mem": "2M"}),
        (slurm(memory="0"), {"mem": "0"}),
        (slurm(time="2h"), {"time": "2:00:00"}),
        (slurm(time="1-12:00:00"), {"time": "1-12:00:00"}),
        (slurm(time=61), {"time": "0:02:00"}),
        (slurm(gpus=2), {"gres": "gpu:2"}),
        (slurm(gpus=2, gres="gpu:a100:2"), {"gres": "gpu:a100:2"}),
        (slurm(nodes=2, ntasks=8), {"nodes": "2", "ntasks": "8"}),
        (slurm(exclusive=True), {"exclusive": ""}),
        (slurm(requeue=False), {"no-requeue": ""}),
        (slurm(mail_type="end,fail"), {"mail-type": "END,FAIL"}),
        (slurm(mail_user="a@b.org"), {"mail-user": "a@b.org"}),
        (slurm(partition="p", account="a"), {"partition": "p", "account": "a"}),
        (slurm(qos="q"), {"qos": "q"}),
        (slurm(constraint="a&b", reservation="r"), {"constraint": "a&b", "reservation": "r"}),
        (slurm(extra={"nice": 5, "overcommit": True}), {"nice": "5", "overcommit": ""}),
    ],
)  # fmt: skip
def test_a_field_has_its_directive(plan: Slurm, options: dict[str, str]) -> None:
    assert options.items() <= options_of(script_of(plan)).items()


@pytest.mark.parametrize(
    ("plan", "option"),
    [
        (slurm(exclusive=True), "cpus-per-task"),
        (slurm(nodes=2), "ntasks"),
        (slurm(ntasks=8), "nodes"),
        (slurm(gpus=0), "gres"),
        (slurm(), "mem"),
        (slurm(), "time"),
        (slurm(), "array"),
        (slurm(), "kill-on-invalid-dep"),
    ],
)
def test_what_is_left_to_slurm_is_not_said(plan: Slurm, option: str) -> None:
    assert option not in options_of(script_of(plan))


def test_an_array_and_what_it_waits_for() -> None:
    options = options_of(script_of(slurm(), array="0-9", limit=4, dependency="afterany:12:13"))

    assert options["array"] == "0-9%4"
    assert options["dependency"] == "afterany:12:13"
    assert options["kill-on-invalid-dep"] == "yes"
    assert options["open-mode"] == "append"


def test_environment_comes_first_then_modules_then_setup_then_the_command() -> None:
    plan = slurm(environment={"A": "1"}, modules=["gcc/12"], setup=["ulimit -n 9", "cd /x"])

    assert script_of(plan, command=["python", "-m", "x y"]).splitlines()[-6:] == [
        "export A=1",
        "command -v module >/dev/null || source /etc/profile",
        "module load gcc/12 || exit 1",
        "ulimit -n 9",
        "cd /x",
        "exec python -m 'x y'",
    ]


def test_a_module_that_is_missing_ends_the_job() -> None:
    script = script_of(slurm(modules="nonsense/1"), command=["echo", "ran"])
    script = script.replace("#!/bin/bash\n", "#!/bin/bash\nmodule() { return 1; }\n")

    done = subprocess.run(["bash", "-s"], input=script, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (1, "")


# Nothing gets out of its word --------------------------------------------------------------------

printable = st.text().map(lambda text: "".join(c for c in text if c.isprintable()))


@given(printable, printable)
@example(NASTY.replace("\n", ""), "\\")
@example("# no comment", "'\"\\\"'")
def test_a_directive_holds_any_printable_text(name: str, comment: str) -> None:
    options = options_of(script_of(slurm(extra={"comment": comment}), name=name))

    assert (options["job-name"], options["comment"]) == (name, comment)


@pytest.mark.parametrize("field", ["name", "output", "dependency", "array"])
def test_a_directive_never_has_a_second_line(field: str) -> None:
    with pytest.raises(PlanError, match="give printable text"):
        script_of(slurm(), **{field: "x\n#SBATCH --uid=0"})


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@settings(max_examples=60, deadline=None)
@given(st.lists(words, max_size=3), words)
def test_bash_sees_each_word_and_value_as_it_was_given(given_: list[str], value: str) -> None:
    show = ["bash", "-c", r'printf "%s\0" "$@" "$VALUE"', "show", *given_]

    said = bash(script_of(slurm(environment={"VALUE": value}), command=show))

    assert said.encode().split(b"\0") == [w.encode() for w in [*given_, value, ""]]


@pytest.mark.parametrize(
    "nasty", [NASTY, "-n", "--", "", "$HOME", "`id`", "'", '"', "\\", "\n", "\r\\'"]
)
def test_what_looks_like_shell_is_text(nasty: str) -> None:
    show = ["bash", "-c", r'printf "%s|" "$1" "$VALUE"', "show", nasty]

    assert bash(script_of(slurm(environment={"VALUE": nasty}), command=show)) == f"{nasty}|" * 2


def test_no_line_ends_as_on_windows_which_sbatch_refuses() -> None:
    plan = slurm(environment={"A": "1\r\n2"}, setup="ulimit -n 9\r\ncd /x\r\n")

    assert "\r" not in script_of(plan, command=["echo", "a\r\nb"])


def test_a_path_keeps_its_percent_signs() -> None:
    assert literal("/data/50%a/run") == "/data/50%%a/run"
    with pytest.raises(PlanError, match="choose another root"):
        literal("/data/a\\b")


# Times and indices -------------------------------------------------------------------------------


@given(st.integers(1, 10**8))
def test_a_time_is_never_cut(seconds: int) -> None:
    said = sbatch_time(seconds)
    days, _, clock = said.rpartition("-")
    hours, minutes, rest = map(int, clock.split(":"))

    assert 0 <= ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest - seconds < 60
    assert minutes < 60
    assert not days or hours < 24


@given(st.sets(st.integers(0, 300)))
def test_ranges_say_each_index_once(indices: set[int]) -> None:
    text = index_ranges(indices)

    assert (parse_ranges(text) if text else []) == sorted(indices)
    assert index_ranges([*indices, *indices]) == text


@given(st.sets(st.integers(0, 300), min_size=1))
def test_texts_for_arrays_are_short_and_lose_nothing(indices: set[int]) -> None:
    texts = array_texts(indices, longest=20)

    assert all(len(text) <= 20 for text in texts)
    assert [i for text in texts for i in parse_ranges(text)] == sorted(indices)


@pytest.mark.parametrize("text", ["", "a", "1-", "3,,4", "-1", "1;2"])
def test_what_is_no_list_of_indices_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a list of array indices"):
        parse_ranges(text)


def test_ranges_are_read_with_steps_limits_and_brackets() -> None:
    assert parse_ranges("[0-8:4,3%2]") == [0, 3, 4, 8]
