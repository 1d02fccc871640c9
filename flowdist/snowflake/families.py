"""Instance families: the machines that the nodes of a compute pool are.

The tables are Snowflake's of November 2026: `FAMILIES` those of accounts on AWS, `ELSEWHERE` what
only Azure and Google Cloud have. vCPUs and memory are what is left for containers.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ELSEWHERE", "FAMILIES", "GIB", "Family", "family_named"]

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

_AZURE, _GOOGLE, _BOTH = "Azure", "Google Cloud", "Azure and Google Cloud"
_T4, _L4 = "NVIDIA T4", "NVIDIA L4"
_OTHERS = (
    (_BOTH, Family("HIGHMEM_X64_SL", 60, 492)),
    (_AZURE, Family("GEN_X64_G2_16", 14, 58)),
    (_AZURE, Family("MEM_X64_G2_96", 92, 652)),
    (_AZURE, _gpu("GPU_NV_XS", 3, 26, 100, 10, 1, _T4, 16)),
    (_AZURE, _gpu("GPU_NV_SM", 32, 424, 100, 10, 1, _A10G, 24)),
    (_AZURE, _gpu("GPU_NV_2M", 68, 858, 100, 5, 2, _A10G, 24)),
    (_AZURE, _gpu("GPU_NV_3M", 44, 424, 100, None, 2, _A100, 80)),
    (_AZURE, _gpu("GPU_NV_SL", 92, 858, 100, None, 4, _A100, 80)),
    (_GOOGLE, _gpu("GPU_GCP_NV_L4_1_24G", 6, 28, 100, 10, 1, _L4, 24)),
    (_GOOGLE, _gpu("GPU_GCP_NV_L4_4_24G", 44, 178, 100, 10, 4, _L4, 24)),
    (_GOOGLE, _gpu("GPU_GCP_NV_A100_8_40G", 92, 654, 100, None, 8, _A100, 40)),
    (_GOOGLE, _gpu("GPU_A100_G1_12", 10, 77, 100, None, 1, _A100, 40)),
    (_GOOGLE, _gpu("GPU_A100_G1_48", 44, 324, 100, None, 4, _A100, 40)),
)
ELSEWHERE = {family.name: (where, family) for where, family in _OTHERS}
"""By name: where it exists, and what it is."""


def family_named(name: str) -> Family | None:
    """The family of that name on any cloud, whatever its case; None where it is not known here.

    >>> family_named("cpu_x64_s").memory_gib, family_named("NEW_ONE")
    (13, None)
    """
    found = FAMILIES.get(name.upper())
    return found or ELSEWHERE.get(name.upper(), ("", None))[1]
