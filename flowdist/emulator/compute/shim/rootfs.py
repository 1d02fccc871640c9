"""What a process that plays a container sees of the machine: namespaces, and a root of its own.

The container has the machine's file system, so that the machine's Python works, with the volumes of
its specification at the paths where the specification has them, whether or not the machine has such
paths, and with a /tmp and /dev/shm of its own. Nothing on the machine changes for it: the root is a
tmpfs in a mount namespace, into which the machine's directories are bound; a directory in which a
mount point is missing is replaced by another tmpfs likewise.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False  # typing takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any

__all__ = ["enter", "guard", "separate"]

NEWNS = 0x0002_0000
NEWUSER = 0x1000_0000
NEWPID = 0x2000_0000

_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _REC, _SLAVE = 32, 4096, 16384, 1 << 19
_DETACH = 2
_KEPT_FLAGS = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}
"""Flags of statvfs as flags of mount: a remount in a user namespace has to keep them."""
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36

SHARED_MEMORY = "64m"
"""Size of /dev/shm, as container runtimes have it; a memory volume there replaces it."""

_libc = ctypes.CDLL(None, use_errno=True)


def guard(death_signal: int = 0, subreaper: bool = False) -> None:
    """Get a signal when the parent dies; become the parent of descendants that lose theirs."""
    if not hasattr(_libc, "prctl"):
        return
    if death_signal:
        _libc.prctl(_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if subreaper:
        _libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def separate() -> None:
    """Give the children that come a PID namespace, as root or by a user namespace; OSError where
    the machine does not allow it. The calling process must have one thread only.
    """
    if os.geteuid() == 0:
        _call("unshare", NEWPID)
        return
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", NEWUSER | NEWPID)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def enter(launch: dict[str, Any], root: str) -> None:
    """Make the container's file system at the empty directory `root` and move into it; OSError.

    The calling process is to be the first of its PID namespace.
    """
    _call("unshare", NEWNS)
    # What the machine unmounts later is to go away here too, and nothing the other way round.
    _mount(None, "/", None, _REC | _SLAVE)
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "mode=755")
    tree = _Tree(root)
    tree.show_machine()
    tree.bind(os.path.join(launch["directory"], "tmp"), "/tmp", True)
    for path in launch["visible"]:
        tree.bind(path, path, True)
    for bind in sorted(launch["binds"], key=lambda b: len(b["target"])):
        if bind["memory"] is not None:
            tree.provide_memory(bind["target"], bind["memory"])
        else:
            tree.bind(bind["source"], bind["target"], bind["writable"])
    if launch["working_directory"]:
        tree.provide(launch["working_directory"], directory=True)
    _pivot(root)


class _Tree:
    """The root under construction; paths in it are given as the container sees them."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._own = {"/"}
        """Directories that exist in the container only, where anything may be made."""
        self._bound: list[str] = []

    def show_machine(self) -> None:
        """Bind what the machine has at its top, but for what a container has of its own."""
        for entry in os.scandir("/"):
            if entry.name in ("proc", "tmp"):
                continue
            self._show(entry)
        self.provide("/proc", directory=True)
        _mount("proc", self._at("/proc"), "proc", _NOSUID | _NODEV | _NOEXEC)
        self.provide("/tmp", directory=True)
        if os.path.isdir("/dev/shm"):
            options = f"mode=1777,size={SHARED_MEMORY}"
            _mount("tmpfs", self._at("/dev/shm"), "tmpfs", _NOSUID | _NODEV, options)

    def bind(self, source: str, target: str, writable: bool) -> None:
        """Make `source`, a path of the machine, seen at `target`."""
        directory = os.path.isdir(source)
        target = self.provide(target, directory)
        at = self._at(target)
        _mount(source, at, None, _BIND | _REC)
        if not writable:
            found = os.statvfs(at).f_flag
            kept = sum(flag for bit, flag in _KEPT_FLAGS.items() if found & bit)
            _mount(None, at, None, _BIND | _REMOUNT | _RDONLY | kept)
        if directory:
            self._bound.append(target)

    def provide_memory(self, target: str, size: int) -> None:
        """Give the container `size` bytes of memory as a directory at `target`."""
        target = self.provide(target, directory=True)
        _mount("tmpfs", self._at(target), "tmpfs", _NOSUID | _NODEV, f"mode=1777,size={size}")
        self._bound.append(target)

    def provide(self, target: str, directory: bool) -> str:
        """Make sure that a path exists; the path without symbolic links."""
        current = "/"
        parts = [p for p in target.split("/") if p]
        for _ in range(40):  # as many links as Linux follows
            if not parts:
                return current
            part = parts.pop(0)
            path = os.path.normpath(os.path.join(current, part))
            if os.path.islink(self._at(path)):
                link = os.path.normpath(os.path.join(current, os.readlink(self._at(path))))
                current, parts = "/", [p for p in link.split("/") if p] + parts
                continue
            if not os.path.lexists(self._at(path)):
                self._open_up(current)
                self._make(path, directory or bool(parts))
            current = path
        return current

    def _open_up(self, path: str) -> None:
        """Make a directory one in which mount points can be made, without a trace on the machine.

        What was bound is the container's own anyway, and is written to as container runtimes do.
        """
        if path in self._own or any(path == b or path.startswith(b + "/") for b in self._bound):
            return
        entries = list(os.scandir(path))
        mode = os.stat(path).st_mode & 0o7777
        _mount("tmpfs", self._at(path), "tmpfs", _NOSUID | _NODEV, f"mode={mode:o}")
        self._own.add(path)
        for entry in entries:
            self._show(entry)

    def _show(self, entry: os.DirEntry[str]) -> None:
        at = self._at(entry.path)
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), at)
            return
        self._make(entry.path, entry.is_dir(), own=False)
        try:
            _mount(entry.path, at, None, _BIND | _REC)
        except OSError:
            return  # not to be seen by this user: it is not to be seen in the container either

    def _make(self, path: str, directory: bool, own: bool = True) -> None:
        at = self._at(path)
        if directory:
            os.mkdir(at)
            if own:
                self._own.add(path)
        else:
            os.close(os.open(at, os.O_CREAT | os.O_WRONLY, 0o644))

    def _at(self, path: str) -> str:
        return self._root + path if path != "/" else self._root


def _pivot(root: str) -> None:
    os.chdir(root)
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(f"pivot_root is not known for {os.uname().machine}")
    _check(_libc.syscall(number, b".", b"."), "pivot_root")
    # The old root now lies over the new one.
    _call("umount2", b".", _DETACH)
    os.chdir("/")


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    encoded = [None if v is None else os.fsencode(v) for v in (source, target, kind, options)]
    result = _libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3])
    _check(result, f"mount of {source or kind or 'flags'} at {target}")


def _call(name: str, *args: Any) -> None:
    if not hasattr(_libc, name):
        raise OSError(f"this system has no {name}")
    _check(getattr(_libc, name)(*args), name)


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
