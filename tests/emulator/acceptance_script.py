"""What a user does with Snowflake's container services, from signing in to fetching results.

Runs under whatever interpreter has a snowflake-connector-python, 4.x and 5.x alike; not a test
itself (see test_acceptance.py). Prints one JSON object; fails with a traceback.

    python acceptance_script.py CONNECTION.json WORK-DIRECTORY
    (acceptance.lab has an image repository `images`, and in it python:latest, which is Python)
    python acceptance_script.py claim CONNECTION.json WORKER    # one of the processes that claim
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Processes that only send statements go without what the connector would import for more.
LIGHT = dict.fromkeys(("numpy", "pandas", "pyarrow"))
if sys.argv[1:2] == ["claim"]:
    sys.modules.update(LIGHT)  # type: ignore[arg-type]

import snowflake.connector  # noqa: E402

PLACE = {"database": "ACCEPTANCE", "schema": "LAB", "role": "ACCOUNTADMIN"}
REPLICAS, ROWS, CLAIMANTS = 20, 5000, 8
LEAVES, HUBS = 81, 3  # 1 root + 3 hubs + 243 leaves + 3 joins: 250 tasks

WORKER = (
    f"import sys; sys.modules.update({LIGHT})"
    """
import json, os, pathlib, snowflake.connector
index = int(os.environ["SNOWFLAKE_JOB_INDEX"])
given = json.loads(pathlib.Path("/stage/input/numbers.json").read_text())
token = pathlib.Path("/snowflake/session/token").read_text()
with snowflake.connector.connect(
    host=os.environ["SNOWFLAKE_HOST"], port=int(os.environ["SNOWFLAKE_PORT"]),
    protocol=os.environ["SNOWFLAKE_PROTOCOL"], account=os.environ["SNOWFLAKE_ACCOUNT"],
    authenticator="oauth", token=token,
    database=os.environ["SNOWFLAKE_DATABASE"], schema=os.environ["SNOWFLAKE_SCHEMA"],
) as connection:
    cursor = connection.cursor()
    cursor.execute(
        "UPDATE replicas SET total = %s, who = CURRENT_USER() WHERE id = %s",
        (given[index] ** 2, index),
    )
    assert cursor.rowcount == 1, cursor.rowcount
pathlib.Path("/stage/output").mkdir(exist_ok=True)
pathlib.Path(f"/stage/output/{index:03}.json").write_text(json.dumps({"index": index}))
print("replica", index, "of", os.environ["SNOWFLAKE_JOBS_COUNT"])
"""
)

SPECIFICATION = """
spec:
  containers:
  - name: main
    image: /acceptance/lab/images/python:latest
    args: ["-c", "import runpy; runpy.run_path('/stage/code/worker.py')"]
    volumeMounts: [{name: stage, mountPath: /stage}]
    resources:
      requests: {cpu: "0.15", memory: 512M}
  volumes:
  - name: stage
    source: stage
    stageConfig: {name: "@acceptance.lab.files"}
"""


SETUP = """
USE ROLE ACCOUNTADMIN;
USE SCHEMA acceptance.lab;
CREATE COMPUTE POOL acceptance_pool MIN_NODES = 4 MAX_NODES = 4 INSTANCE_FAMILY = CPU_X64_XS;
CREATE STAGE files ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE') DIRECTORY = (ENABLE = TRUE);
CREATE HYBRID TABLE replicas (id INT PRIMARY KEY, total NUMBER(38,0), who VARCHAR);
CREATE HYBRID TABLE queue (
  id INT PRIMARY KEY, state VARCHAR NOT NULL, owner VARCHAR, lease TIMESTAMP_NTZ,
  attempts INT DEFAULT 0, INDEX by_state (state));
CREATE TABLE graph_log (task VARCHAR, state VARCHAR)
"""


def main(connection: dict[str, Any], folder: Path) -> dict[str, Any]:
    with snowflake.connector.connect(**connection) as connected:
        cursor = connected.cursor()
        create(cursor)
        return {
            "connector": snowflake.connector.__version__,
            "job": run_job(cursor, folder),
            "graph": run_graph(cursor),
            "claims": run_claims(cursor, connection, folder),
        }


def create(cursor: Any) -> None:
    for statement in SETUP.split(";\n"):
        cursor.execute(statement)


def run_job(cursor: Any, folder: Path) -> dict[str, Any]:
    numbers = [random.Random(7).randrange(1000) for _ in range(REPLICAS)]
    (folder / "numbers.json").write_text(json.dumps(numbers))
    (folder / "worker.py").write_text(WORKER)
    for name, target in (("numbers.json", "input"), ("worker.py", "code")):
        put = f"PUT 'file://{folder / name}' '@files/{target}/' AUTO_COMPRESS = FALSE"
        (row,) = cursor.execute(put).fetchall()
        assert row[6] == "UPLOADED", row
    cursor.executemany(
        "INSERT INTO replicas (id, total) VALUES (%s, %s)", [(i, None) for i in range(REPLICAS)]
    )
    cursor.execute(
        "EXECUTE JOB SERVICE IN COMPUTE POOL acceptance_pool NAME = squares ASYNC = TRUE"
        f" REPLICAS = {REPLICAS} QUERY_WAREHOUSE = FLOWDIST_WH"
        f" FROM SPECIFICATION $${SPECIFICATION}$$"
    )
    cursor.execute("CALL squares!SPCS_WAIT_FOR('DONE', 120)")
    cursor.execute("SHOW SERVICE CONTAINERS IN SERVICE squares")
    at = [column[0] for column in cursor.description].index("status")
    states = [row[at] for row in cursor.fetchall()]
    assert states == ["DONE"] * REPLICAS, states
    cursor.execute("SELECT id, total, who FROM replicas ORDER BY id")
    found = cursor.fetchall()
    assert [row[1] for row in found] == [n**2 for n in numbers], found
    assert {row[2] for row in found} == {"SQUARES"}, found
    logs = cursor.execute("SELECT SYSTEM$GET_SERVICE_LOGS('squares', 3, 'main')").fetchone()[0]
    assert f"replica 3 of {REPLICAS}" in logs, logs
    (folder / "output").mkdir(exist_ok=True)
    cursor.execute(f"GET '@files/output/' 'file://{folder / 'output'}/'")
    files = sorted(path.name for path in (folder / "output").iterdir())
    assert files == [f"{i:03}.json" for i in range(REPLICAS)], files
    return {"replicas": len(states)}


def run_graph(cursor: Any) -> dict[str, Any]:
    cursor.execute("CREATE TASK root WAREHOUSE = FLOWDIST_WH AS SELECT 1")
    for hub in range(HUBS):
        task(cursor, f"hub_{hub}", ["root"])
        leaves = [f"leaf_{hub}_{i}" for i in range(LEAVES)]
        for leaf in leaves:
            task(cursor, leaf, [f"hub_{hub}"])
        task(cursor, f"join_{hub}", leaves)
    cursor.execute(
        "CREATE TASK finish WAREHOUSE = FLOWDIST_WH FINALIZE = root AS "
        """DECLARE
             root_id STRING;
             begun TIMESTAMP_LTZ;
           BEGIN
             root_id := (CALL SYSTEM$TASK_RUNTIME_INFO('CURRENT_ROOT_TASK_UUID'));
             begun := (CALL SYSTEM$TASK_RUNTIME_INFO(
               'CURRENT_TASK_GRAPH_ORIGINAL_SCHEDULED_TIMESTAMP'));
             INSERT INTO graph_log
               SELECT name, state FROM TABLE(INFORMATION_SCHEMA.TASK_HISTORY(
                 ROOT_TASK_ID => :root_id, SCHEDULED_TIME_RANGE_START => :begun,
                 RESULT_LIMIT => 10000))
               WHERE name != 'FINISH';
           END;"""
    )
    cursor.execute("SELECT SYSTEM$TASK_DEPENDENTS_ENABLE('acceptance.lab.root')")
    cursor.execute("ALTER TASK finish RESUME") if suspended(cursor, "FINISH") else None
    cursor.execute("EXECUTE TASK root")
    want = 1 + HUBS * (LEAVES + 2)
    for _ in range(1200):
        cursor.execute("SELECT COUNT(*), COUNT_IF(state = 'SUCCEEDED') FROM graph_log")
        count, succeeded = cursor.fetchone()
        if count:
            break
        time.sleep(0.1)
    assert (count, succeeded) == (want, want), (count, succeeded)
    cursor.execute("ALTER TASK root SUSPEND")
    return {"tasks": count}


def suspended(cursor: Any, name: str) -> bool:
    cursor.execute(f"SHOW TASKS LIKE '{name}'")
    at = [column[0] for column in cursor.description].index("state")
    return bool(cursor.fetchone()[at] == "suspended")


def task(cursor: Any, name: str, after: list[str]) -> None:
    cursor.execute(
        f"CREATE TASK {name} WAREHOUSE = FLOWDIST_WH AFTER {', '.join(after)} AS SELECT 1"
    )


def run_claims(cursor: Any, connection: dict[str, Any], folder: Path) -> dict[str, Any]:
    cursor.execute(
        "INSERT INTO queue (id, state)"
        f" SELECT SEQ4(), 'PENDING' FROM TABLE(GENERATOR(ROWCOUNT => {ROWS}))"
    )
    path = folder / "claim.json"
    path.write_text(json.dumps({**connection, **PLACE}))
    path.chmod(0o600)
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, "claim", str(path), f"w{i}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(CLAIMANTS)
    ]
    for worker in workers:  # all are connected before the first one claims
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    claimed: list[int] = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        assert worker.stdout is not None
        claimed += json.loads(worker.stdout.readline())
        assert worker.wait(60) == 0
    assert sorted(claimed) == list(range(ROWS)), (len(claimed), len(set(claimed)))
    cursor.execute("SELECT COUNT(*) FROM queue WHERE state = 'DONE' AND attempts = 1")
    assert cursor.fetchone()[0] == ROWS
    return {"rows": len(claimed)}


CLAIM = """UPDATE queue SET state = 'RUNNING', owner = ?, attempts = attempts + 1,
    lease = DATEADD('second', 60, SYSDATE())
  WHERE id IN (SELECT id FROM queue WHERE state = 'PENDING' ORDER BY id LIMIT 10)
    AND state = 'PENDING'"""


def claim(connection: dict[str, Any], worker: str) -> None:
    """Claim rows in batches until none is left, complete each batch, print what was claimed."""
    snowflake.connector.paramstyle = "qmark"
    mine: list[int] = []
    with snowflake.connector.connect(**connection) as connected:
        cursor = connected.cursor()
        say("ready")
        sys.stdin.readline()
        for batch in range(ROWS):
            token = f"{worker}-{batch}"
            cursor.execute(CLAIM, (token,))
            if not cursor.rowcount:
                cursor.execute("SELECT COUNT(*) FROM queue WHERE state = 'PENDING'")
                if cursor.fetchone()[0] == 0:
                    break
                time.sleep(0.02)
                continue
            cursor.execute("SELECT id FROM queue WHERE owner = ?", (token,))
            mine += [row[0] for row in cursor.fetchall()]
            cursor.execute("UPDATE queue SET state = 'DONE' WHERE owner = ?", (token,))
    say(json.dumps(mine))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["claim"]:
        claim(json.loads(Path(sys.argv[2]).read_text()), sys.argv[3])
    else:
        say(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))))
