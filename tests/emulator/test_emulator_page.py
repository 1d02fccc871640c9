"""The page at ``/``: who may see it, and what a browser makes of it."""

from __future__ import annotations

import html
import http.client
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from debian import IN_CI, install

from flowdist.emulator import Emulator
from flowdist.emulator.names import quoted

ODD = '<img src=x onerror="document.title=1">'
POOL = """CREATE COMPUTE POOL crunch MIN_NODES = 1 MAX_NODES = 2
INSTANCE_FAMILY = CPU_X64_XS INITIALLY_SUSPENDED = TRUE"""
FAILING = """EXECUTE JOB SERVICE IN COMPUTE POOL brief NAME = broken FROM SPECIFICATION
'{spec: {containers: [{name: main, image: /flowdist/public/images/work:1}]}}'"""
ALONE = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> str:
    """Chromium, which CI installs where it is missing, and never does without."""
    found = _browser()
    if found is None and IN_CI:
        install("chromium")
        found = _browser()
    if found is None:
        (pytest.fail if IN_CI else pytest.skip)("the page is tested with chromium installed")
    return str(found)


def _browser() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """One with something of everything in it."""
    with Emulator(seed=3) as made:
        with made.connect() as connection:
            cursor = connection.cursor()
            for sql in (
                POOL,
                "CREATE STAGE results",
                "CREATE IMAGE REPOSITORY images",
                f"CREATE STAGE {quoted(ODD)}",
                "CREATE TASK nightly SCHEDULE = '60 MINUTES' AS SELECT 1",
                "ALTER SESSION SET QUERY_TAG = 'the tag of a run'",
                f"SELECT '</script>{ODD}' AS oddity",
            ):
                cursor.execute(sql)
            with pytest.raises(Exception, match="NOWHERE"):
                cursor.execute("SELECT * FROM nowhere")
        made.faults.unavailable(path="^/never/", times=3)
        yield made


def get(
    emulator: Emulator, path: str, host: str | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, str]:
    server = emulator.server
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    sent = {} if host is None else {"Host": host}
    connection.request("GET", path, headers={**sent, **headers})
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply, text


def cookie_of(emulator: Emulator) -> str:
    reply, _ = get(emulator, f"/?token={emulator.server.page_token}")
    return reply.headers["Set-Cookie"].partition(";")[0]


# -- who may see it


def test_without_the_token_it_says_how_it_is_opened(emulator: Emulator) -> None:
    for path in ("/", "/?token=wrong"):
        reply, text = get(emulator, path)

        assert reply.status == 401
        assert "flowdist emulator status" in text
        assert "CRUNCH" not in text


def test_the_token_leaves_the_address_for_a_cookie(emulator: Emulator) -> None:
    reply, _ = get(emulator, f"/?token={emulator.server.page_token}")

    assert (reply.status, reply.headers["Location"]) == (303, "/")
    assert "HttpOnly" in reply.headers["Set-Cookie"]
    assert get(emulator, "/", Cookie=cookie_of(emulator))[0].status == 200


def test_the_cookie_shows_and_changes_nothing(emulator: Emulator) -> None:
    cookie = cookie_of(emulator)

    assert get(emulator, "/control/state.json", Cookie=cookie)[0].status == 200
    assert get(emulator, "/control/faults", Cookie=cookie)[0].status == 401
    assert get(emulator, "/control/state.json")[0].status == 401


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/control/health",
        "/control/state.json",
        "/session/heartbeat",
        "/queries/7/result",
        "/results/7",
        "/flowdist-stages/1/a",
        "/v2/",
    ],
)
def test_nothing_is_answered_under_a_foreign_name(emulator: Emulator, path: str) -> None:
    # A site could let its name resolve to this machine, and ask from a browser here.
    cookie = cookie_of(emulator)
    token = f"Bearer {emulator.server.token}"

    reply, _ = get(emulator, path, host="evil.example", Cookie=cookie, Authorization=token)

    assert reply.status == 421
    for host in ("localhost", "127.0.0.1:1", "[::1]", "host.containers.internal"):
        assert get(emulator, path, host=host)[0].status != 421


def test_it_may_load_nothing_from_elsewhere(emulator: Emulator) -> None:
    reply, text = get(emulator, "/", Cookie=cookie_of(emulator))

    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert not re.findall(r'(?:src|href)=(?!"data:)', text.partition("<script")[0])


# -- what is on it


def test_it_knows_what_is_going_on(emulator: Emulator) -> None:
    _, text = get(emulator, "/control/state.json", Cookie=cookie_of(emulator))
    found = json.loads(text)

    (pool,) = found["pools"]
    assert (pool["name"], pool["state"], pool["max_nodes"]) == ("CRUNCH", "SUSPENDED", 2)
    assert [stage["name"] for stage in found["stages"]][1] == "FLOWDIST.PUBLIC.RESULTS"
    (task,) = found["tasks"]
    assert (task["state"], task["when"]) == ("suspended", "60 MINUTES")
    failed, *_ = [query for query in found["queries"] if query["error"]]
    assert failed["text"] == "SELECT * FROM nowhere"
    assert failed["error"].startswith("002003: ")
    assert found["faults"][0]["on"] == "path ^/never/, at most 3 times"
    assert found["settings"]["seed"] == 3


def test_it_knows_why_a_job_failed(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("12345")
    emulator.push_image(
        "/flowdist/public/images/work:1",
        entrypoint=["/bin/sh", "-c", "echo begun; echo '<b>broken' >&2; exit 7"],
    )
    with emulator.connect() as connection:
        cursor = connection.cursor()
        cursor.execute(f"PUT file://{tmp_path}/own.txt @~ AUTO_COMPRESS = FALSE")
        cursor.execute(POOL.replace("crunch", "brief"))
        with pytest.raises(Exception, match="exited with code 7"):
            cursor.execute(FAILING)
        cookie = cookie_of(emulator)
        state = json.loads(get(emulator, "/control/state.json", Cookie=cookie)[1])
        (job,) = state["services"]
        path = f"/control/services/{job['id']}.json"
        ((container,), closed) = (
            json.loads(get(emulator, path, Cookie=cookie)[1]),
            get(emulator, path),
        )
        for sql in ("DROP SERVICE broken", "DROP COMPUTE POOL brief", "REMOVE @~"):
            cursor.execute(sql)

    assert job["message"].endswith("1 ended with code 7")
    assert (container["instance"], container["name"], container["exit_code"]) == (0, "main", 7)
    assert container["status"] == "FAILED"
    assert container["message"]
    assert [(line["stream"], line["text"]) for line in container["log"]] == [
        ("stdout", "begun"),
        ("stderr", "<b>broken"),
    ]
    assert closed[0].status == 401
    assert get(emulator, path, Cookie=cookie)[1] == "null"  # it is dropped
    own = [(s["files"], s["bytes"]) for s in state["stages"] if s["name"] == "@~ of FLOWDIST"]
    assert own == [(1, 5)]


def test_markup_in_data_cannot_end_the_script(emulator: Emulator) -> None:
    _, text = get(emulator, "/", Cookie=cookie_of(emulator))

    assert "oddity" in text
    assert ODD not in text
    assert text.count("</script>") == 2


def test_a_browser_shows_it(browser: str, emulator: Emulator, tmp_path: Path) -> None:
    text, title = rendered(browser, emulator, tmp_path)

    assert title == "flowdist emulator"
    for shown in (
        emulator.url,
        "CRUNCH",
        "SUSPENDED",
        "RESULTS",
        ODD,
        "NIGHTLY",
        "60 MINUTES",
        "the tag of a run",
        "FAILED_WITH_ERROR",
        "unavailable",
        "as of ",
    ):
        assert shown in text, shown


def rendered(browser: str, emulator: Emulator, profile: Path) -> tuple[str, str]:
    """The text and the title of the page, after its scripts have run for a while."""
    options: dict[str, Any] = {"env": {**os.environ, "HOME": str(profile)}}
    done = subprocess.run(
        [
            browser,
            *ALONE,
            f"--user-data-dir={profile / 'chromium'}",
            "--virtual-time-budget=3000",  # past the first refresh
            "--dump-dom",
            emulator.page,
        ],
        capture_output=True, text=True, timeout=90, **options,
    )  # fmt: skip
    body = re.sub(r"<(script|style)\b.*?</\1>", "", done.stdout, flags=re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]*>", "", body))
    (title,) = re.findall(r"<title>(.*?)</title>", done.stdout) or [""]
    return text, title
