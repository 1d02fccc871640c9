"""An external program as a stage, and a Python stage that goes on with its result.

flowdist run examples/script_stage.py --on laptop
"""

from pathlib import Path

from flowdist import flow

PLANETS = [
    {"planet": "Mercury", "axis": 0.387},
    {"planet": "Venus", "axis": 0.723},
    {"planet": "Earth", "axis": 1.0},
    {"planet": "Mars", "axis": 1.524},
    {"planet": "Jupiter", "axis": 5.203},
    {"planet": "Saturn", "axis": 9.537},
]


def in_days(years: float) -> float:
    """The same period in days."""
    return years * 365.25


orbits = (
    flow(PLANETS, name="orbits")
    .script("orbit", str(Path(__file__).with_name("orbit.sh")), returns={"years": float})
    .stage("days", in_days)
)
