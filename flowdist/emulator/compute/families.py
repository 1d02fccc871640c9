"""Instance families: the machines that the nodes of a compute pool are.

The table is Snowflake's of November 2026 for accounts on AWS; `_ELSEWHERE` has what only Azure and
Google Cloud have, so that a pool made for one of these is refused with a word on where it exists.
vCPUs and memory are what is left for containers. Names are compared without regard to case.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from flowdist.emulator.errors import SqlError

__all__ = ["FAMILIES", "Family", "find_family"]

GIB = 1024**3


@dataclass(frozen=True)
class Family:
    """A machine: ``memory_gib`` in GiB, ``storage_gb`` in GB (10^9 bytes), as the table gives them.

    ``node_limit`` is how many of them an account may have; None where Snowflake has to be asked.
    ``gpu_memory_gb`` is that of one GPU.
    """

    name: str
    vcpu: int
    memory_gib: int
    storage_gb: int = 100
    node_limit: int | None = 150
    gpu: str = ""
    gpu_count: int = 0
    gpu_memory_gb: int = 0
    arm: bool = False

    @property
    def memory(self) -> int:
        """Bytes of memory."""
        return self.memory_gib * GIB

    @property
    def storage_gib(self) -> float:
        """As SHOW COMPUTE POOL INSTANCE FAMILIES gives it, with two digits."""
        return round(self.storage_gb * 1e9 / GIB, 2)

    @property
    def architecture(self) -> str:
        """The platform that its images have to be built for."""
        return "arm64" if self.arm else "amd64"

    @property
    def description(self) -> str:
        """A sentence for SHOW COMPUTE POOL INSTANCE FAMILIES."""
        if self.gpu:
            return f"NVIDIA GPU instance with {self.gpu_count} x {self.gpu}"
        kind = "High memory" if "MEM" in self.name else "General purpose"
        return f"{kind} {'ARM' if self.arm else 'x86-64'} instance"


def _gpu(name: str, vcpu: int, memory: int, disk: int, limit: int | None, *gpu: object) -> Family:
    count, model, each = gpu
    return Family(name, vcpu, memory, disk, limit, str(model), int(str(count)), int(str(each)))


_A10G, _A100, _L40S, _R6K = "NVIDIA A10G", "NVIDIA A100", "NVIDIA L40S", "NVIDIA RTX PRO 6000"

_AWS = (
    Family("CPU_X64_XS", 1, 6, node_limit=500),
    Family("CPU_X64_S", 3, 13, node_limit=500),
    Family("CPU_X64_M", 6, 28, node_limit=500),
    Family("CPU_X64_SL", 14, 58, node_limit=500),
    Family("CPU_X64_L", 28, 116, node_limit=500),
    Family("HIGHMEM_X64_S", 6, 58, node_limit=500),
    Family("HIGHMEM_X64_M", 28, 240, node_limit=500),
    Family("HIGHMEM_X64_L", 124, 984, node_limit=500),
    Family("GEN_X64_G2_2", 1, 6),
    Family("GEN_X64_G2_4", 3, 13),
    Family("GEN_X64_G2_8", 6, 28),
    Family("GEN_X64_G2_32", 28, 116),
    Family("GEN_ARM_G1_2", 1, 6, arm=True),
    Family("GEN_ARM_G1_4", 3, 13, arm=True),
    Family("GEN_ARM_G1_8", 6, 28, arm=True),
    Family("GEN_ARM_G1_16", 14, 58, arm=True),
    Family("GEN_ARM_G1_32", 28, 116, arm=True),
    Family("MEM_X64_G2_8", 6, 58),
    Family("MEM_X64_G2_32", 28, 240),
    Family("MEM_X64_G2_64", 60, 492),
    Family("MEM_X64_G2_192", 188, 1436),
    _gpu("GPU_NV_S", 6, 28, 450, 150, 1, _A10G, 24),
    _gpu("GPU_NV_M", 44, 178, 3800, 10, 4, _A10G, 24),
    _gpu("GPU_NV_L", 92, 1112, 100, None, 8, _A100, 40),
    _gpu("GPU_L40S_G1_8", 6, 58, 450, 5, 1, _L40S, 48),
    _gpu("GPU_L40S_G1_16", 14, 116, 600, 5, 1, _L40S, 48),
    _gpu("GPU_L40S_G1_48", 44, 368, 3800, None, 4, _L40S, 48),
    _gpu("GPU_L40S_G1_192", 188, 1436, 3800, None, 8, _L40S, 48),
    _gpu("GPU_R6K_G1_8", 6, 58, 1900, 5, 1, _R6K, 96),
    _gpu("GPU_R6K_G1_16", 14, 116, 1900, 5, 1, _R6K, 96),
    _gpu("GPU_R6K_G1_32", 28, 240, 1900, 5, 1, _R6K, 96),
    _gpu("GPU_R6K_G1_48", 44, 490, 3800, None, 2, _R6K, 96),
    _gpu("GPU_R6K_G1_96", 92, 984, 7600, None, 4, _R6K, 96),
    _gpu("GPU_R6K_G1_192", 188, 1843, 11400, None, 8, _R6K, 96),
)
FAMILIES = {family.name: family for family in _AWS}
"""By name, what an account on AWS has."""

_ELSEWHERE = {
    "HIGHMEM_X64_SL": "Azure and Google Cloud",
    "GEN_X64_G2_16": "Azure",
    "MEM_X64_G2_96": "Azure",
    "GPU_NV_XS": "Azure",
    "GPU_NV_SM": "Azure",
    "GPU_NV_2M": "Azure",
    "GPU_NV_3M": "Azure",
    "GPU_NV_SL": "Azure",
    "GPU_GCP_NV_L4_1_24G": "Google Cloud",
    "GPU_GCP_NV_L4_4_24G": "Google Cloud",
    "GPU_GCP_NV_A100_8_40G": "Google Cloud",
    "GPU_A100_G1_12": "Google Cloud",
    "GPU_A100_G1_48": "Google Cloud",
}


def find_family(name: str) -> Family:
    """The family of that name; SqlError 1008 where there is none.

    >>> find_family("cpu_x64_s").memory_gib
    13
    """
    found = FAMILIES.get(name.upper())
    if found is not None:
        return found
    message = f"SQL compilation error:\ninvalid value [{name}] for parameter 'INSTANCE_FAMILY'"
    place = _ELSEWHERE.get(name.upper())
    near = difflib.get_close_matches(name.upper(), FAMILIES, 1)
    if place is not None:
        message += f"; it exists on {place} only"
    elif near:
        message += f"; did you mean {near[0]}?"
    raise SqlError(1008, "22023", message)
