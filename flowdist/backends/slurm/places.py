"""Whether what a run needs lies where the nodes of a cluster see it, judged from this machine.

A mount table says what kind of filesystem a path is on; quotas are asked of the tools that are
there. All of it is a guess about other machines: a probe job, which looks from a node, knows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowdist.preflight.check import Check
from flowdist.resources import format_memory

__all__ = ["Mount", "Places", "environment_checks", "mount_of", "quota_checks", "root_checks"]

# What clusters share among nodes, by the names that the kernel gives.
SHARED = frozenset((
    "afs", "beegfs", "ceph", "cifs", "fhgfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs",
    "fuse.juicefs", "fuse.mfs", "fuse.quobyte", "fuse.sshfs", "gfs2", "glusterfs", "gpfs", "lustre",
    "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "quobyte", "smb3", "vast", "wekafs",
))  # fmt: skip
# What is of one machine for certain: memory, the layers of a container.
MEMORY = frozenset(("aufs", "devtmpfs", "overlay", "ramfs", "rootfs", "squashfs", "tmpfs"))
# Disks: of one machine, unless it exports them or is itself the node.
DISKS = frozenset((
    "apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "hfs", "jfs", "vfat", "xfs", "zfs",
))  # fmt: skip
# Where each machine has files of its own, whatever is mounted there.
OWN_DIRECTORIES = (
    "/tmp",
    "/var/tmp",
    "/dev/shm",
    "/run",
    "/scratch/local",
    "/local",
    "/localscratch",
)

QUOTA_SECONDS = 5.0
# Quotas are often hit by the number of files rather than by their size.
NEARLY_FULL = 0.9


@dataclass(frozen=True)
class Mount:
    """A line of the mount table."""

    point: str
    kind: str
    source: str = ""


@dataclass(frozen=True)
class Places:
    """What is asked of this machine; a test gives answers of its own."""

    mounts: Callable[[], str] = lambda: Path("/proc/self/mountinfo").read_text()
    which: Callable[[str], str | None] = shutil.which
    run: Callable[[Sequence[str]], str] = lambda command: _output(command)


def mount_of(path: Path, table: str) -> Mount | None:
    """The mount that `path` lies on, by the text of ``/proc/self/mountinfo``.

    >>> table = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\\n34 21 0:40 / /home rw - nfs4 srv:/home rw"
    >>> mount_of(Path("/home/ann/runs"), table)
    Mount(point='/home', kind='nfs4', source='srv:/home')
    """
    best: Mount | None = None
    for line in table.splitlines():
        before, separator, after = line.partition(" - ")
        words, kinds = before.split(), after.split()
        if not separator or len(words) < 5 or not kinds:
            continue
        point = _unescaped(words[4])
        # Of mounts on one point, the last hides the others.
        if path.is_relative_to(point) and (best is None or len(point) >= len(best.point)):
            best = Mount(point, kinds[0], _unescaped(kinds[1]) if len(kinds) > 1 else "")
    return best


def _unescaped(text: str) -> str:
    """The kernel writes blanks in paths as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def seen_by_nodes(path: Path, places: Places) -> tuple[bool | None, str]:
    """Whether the nodes see `path`, and the reason to doubt it; None where nothing is known."""
    try:
        mount = mount_of(path, places.mounts())
    except OSError:  # no Linux
        mount = None
    if mount is not None and mount.kind in SHARED:
        return True, ""
    own = next((name for name in OWN_DIRECTORIES if path.is_relative_to(name)), None)
    if own is not None:
        return False, f"{own} is of each machine alone"
    if mount is None:
        return None, ""
    where = f"{mount.point} ({mount.kind})"
    if mount.kind in MEMORY:
        return False, f"{where} is of this machine alone"
    if mount.kind in DISKS:
        return False, f"{where} is a disk of this machine, unless it exports it to the nodes"
    return None, ""


def root_checks(root: Path, places: Places) -> Iterator[Check]:
    """Whether nodes see where runs are kept."""
    existing = next(p for p in (root, *root.parents) if os.path.exists(p)).resolve()
    seen, why = seen_by_nodes(existing, places)
    if seen is False:
        yield Check(
            "root",
            "warning",
            f"root {root}: jobs may not see it: {why}",
            "choose a directory on the shared filesystem with root= or $FLOWDIST_ROOT; "
            "flowdist preflight --probe looks from a node",
        )


def environment_checks(python: str | None, prefix: str, places: Places) -> Iterator[Check]:
    """Whether nodes see the interpreter: `python` where the plan names one, `prefix` this one's."""
    path = Path(python) if python else Path(prefix)
    if not path.is_absolute():
        return  # looked up on the node
    named = f"python={python!r}" if python else f"the Python environment {prefix}"
    seen, why = seen_by_nodes(path.resolve(), places)
    if seen is False and not _system(path):
        yield Check(
            "python",
            "warning",
            f"{named}: jobs may not see it: {why}",
            "install it on the shared filesystem, or name one of the nodes with python=; "
            "flowdist preflight --probe starts it on a node",
        )


def _system(path: Path) -> bool:
    """Whether a path is where every machine has an installation of its own."""
    return any(path.is_relative_to(own) for own in ("/usr", "/opt", "/bin"))


# -- quotas --------------------------------------------------------------------------------------


def quota_checks(root: Path, user: str, places: Places, *, files: int) -> Iterator[Check]:
    """Whether a quota leaves room, where a tool tells; `files` is how many the run may write."""
    existing = next(p for p in (root, *root.parents) if os.path.exists(p)).resolve()
    try:
        mount = mount_of(existing, places.mounts())
    except OSError:
        return
    for quota in _quotas(mount, user, places):
        said = "; ".join(quota.problems(files))
        if said:
            yield Check(
                "quota",
                "error" if quota.is_full else "warning",
                f"root {root}: your quota on {quota.place}: {said}",
                "delete old runs (flowdist runs, flowdist delete), or choose another root",
            )


@dataclass(frozen=True)
class Quota:
    """What one user may keep on one filesystem: bytes and files, 0 where there is no limit."""

    place: str
    used: int
    limit: int
    files: int
    files_limit: int

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be written."""
        return 0 < self.limit <= self.used or 0 < self.files_limit <= self.files

    def problems(self, more_files: int) -> Iterator[str]:
        """What is nearly used up, or would be with `more_files`."""
        if self.limit and self.used >= NEARLY_FULL * self.limit:
            yield f"{format_memory(self.used or 1)} of {format_memory(self.limit)} are used"
        if self.files_limit and self.files + more_files >= NEARLY_FULL * self.files_limit:
            yield (
                f"{self.files:,} of {self.files_limit:,} files are used, and this run may write "
                f"{more_files:,}"
            )


def _quotas(mount: Mount | None, user: str, places: Places) -> Iterator[Quota]:
    if mount is None:
        return
    if mount.kind == "lustre" and places.which("lfs"):
        yield from parse_quota(places.run(["lfs", "quota", "-q", "-u", user, mount.point]))
    elif mount.kind not in MEMORY and places.which("quota"):
        # -A would ask every server; -w keeps a filesystem on one line, -p gives plain seconds.
        yield from (
            quota
            for quota in parse_quota(places.run(["quota", "-w", "-p", "-u", user]))
            if quota.place in (mount.source, mount.point)
        )


def parse_quota(text: str) -> Iterator[Quota]:
    """The lines of ``quota -w`` and ``lfs quota -q``: place, KiB used, soft, hard limit, time;
    files alike.

    A mark at a number says that it is beyond its limit; lines that are none of this are passed
    over.

    >>> list(parse_quota("/dev/sda1 900* 800 1000 6days 12 0 0 -"))
    [Quota(place='/dev/sda1', used=921600, limit=1024000, files=12, files_limit=0)]
    """
    place: list[str] = []
    for line in text.splitlines():
        words = place + line.split()
        place = words if len(words) == 1 else []  # a long name has a line of its own
        numbers = [
            int(word.rstrip("*")) if word.rstrip("*").isdecimal() else None for word in words
        ]
        if len(words) < 8 or None in (*numbers[1:4], *numbers[5:8]):
            continue
        used, soft, hard, files, files_soft, files_hard = (
            n or 0 for n in (*numbers[1:4], *numbers[5:8])
        )
        yield Quota(words[0], used * 1024, (hard or soft) * 1024, files, files_hard or files_soft)


def _output(command: Sequence[str], environ: Mapping[str, str] | None = None) -> str:
    """What a command prints; nothing where it is not there, fails to start or takes too long."""
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=QUOTA_SECONDS,
            env={**os.environ, "LC_ALL": "C"} if environ is None else dict(environ),
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
