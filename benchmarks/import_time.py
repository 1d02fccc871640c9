"""How long `import flowdist` takes, over a bare interpreter: the budget is 100 ms.

Fresh interpreters with and without the import take turns, so that both see the same machine; the
difference of the medians is what counts. Ends with code 1 where it is over the budget.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

BUDGET_MS = 100.0


def seconds(code: str) -> float:
    """Wall time of one fresh interpreter that runs `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def modules_added() -> int:
    """How many modules the import leaves behind that a bare interpreter does not have."""
    code = "import sys; n = len(sys.modules); import flowdist; print(len(sys.modules) - n)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout)


def measure(rounds: int) -> dict[str, float]:
    """Medians in milliseconds over `rounds` pairs; one pair before them warms the file cache."""
    pairs = [(seconds("pass"), seconds("import flowdist")) for _ in range(rounds + 1)][1:]
    bare, loaded = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    return {
        "bare_ms": round(bare, 1),
        "import_ms": round(loaded, 1),
        "added_ms": round(loaded - bare, 1),
        "budget_ms": BUDGET_MS,
        "modules_added": modules_added(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Time of `import flowdist`.")
    parser.add_argument("--rounds", type=int, default=15, help="pairs of interpreters (15)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args()
    found = measure(options.rounds)
    if options.json:
        print(json.dumps(found))
    else:
        print(
            "import flowdist: {added_ms} ms over bare Python ({import_ms} against {bare_ms}), "
            "{modules_added} modules; budget {budget_ms:.0f} ms".format(**found)
        )
    return 0 if found["added_ms"] <= BUDGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())
