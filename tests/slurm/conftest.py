"""The fixtures of the SLURM tests: `lab` and `lab_alone` run on a real cluster, `fake` on programs
that play one.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # support.py

from fake_fixture import fake as fake
from lab_fixture import cluster as cluster
from lab_fixture import cluster_alone as cluster_alone
from lab_fixture import lab as lab
from lab_fixture import lab_alone as lab_alone
from lab_fixture import pytest_collection_modifyitems as pytest_collection_modifyitems
