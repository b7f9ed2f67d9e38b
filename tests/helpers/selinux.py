"""What SELinux would ask a policy when a program makes the system calls that strace(1) saw.

The questions are those of the kernel's security/selinux/hooks.c, in the functions named here, at the places
where fs/namei.c, fs/open.c and fs/exec.c call them:

    any path            search on each directory on the way (selinux_inode_permission)
    open                open, and read, write or append as it is opened (selinux_file_open); to read, write
                        or list it later asks for the same again (selinux_file_permission)
      of a new file     also create on it, add_name and write on its directory (may_create)
    mkdir               create on it, add_name and write on its directory (may_create)
    unlink              unlink on it, remove_name and write on its directory (may_link)
    rename              rename on it, remove_name, add_name and write on the directory (may_rename)
      over another      also unlink on that
    stat, getxattr      getattr (selinux_inode_getattr, selinux_inode_getxattr)
    chmod, chown,
    utimensat, setxattr setattr (selinux_inode_setattr, selinux_inode_setxattr)
    ftruncate, and
    utimensat to now    write (selinux_inode_setattr)
    access              read, write or execute as it asks, nothing for F_OK (selinux_inode_permission)
    ioctl               ioctl (selinux_file_ioctl, for the requests that occur here)
    flock               lock (selinux_file_lock)
    fcntl               lock for its locks; write to set flags where the file is no longer to be appended to,
                        else nothing for flags (selinux_file_fcntl)
    execve              execute, read and open, and execute_no_trans where the domain stays the same
                        (selinux_bprm_creds_for_exec)

"write" on a directory is what selinux_inode_permission makes of any change of its entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Callable, NamedTuple

from helpers.strace import Call

CALL = re.compile(r"\w+\((?P<arguments>.*)\) += (?:-1 (?P<error>E\w+).*|\d.*)", re.DOTALL)
DESCRIPTOR = re.compile(r"\d+<(?P<path>/[^>]*)>")
# With the directory from which a call "at" one counts.
NAMED = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<directory>[^>]*)>, )?"(?P<name>(?:[^"\\]|\\.)*)"')

# These ask nothing, or what the opening of the file has asked. Here and below, which call a library makes for
# one purpose depends on its version.
SILENT = {
    *("close", "dup", "dup2", "dup3", "fadvise64", "fdatasync", "fsync", "getdents64", "lseek"),
    *("copy_file_range", "pread64", "pwrite64", "read", "readv", "sendfile", "write", "writev"),
}
ON_DESCRIPTOR = {
    "fchmod": "setattr",
    "fchown": "setattr",
    "fgetxattr": "getattr",
    "flistxattr": "getattr",
    "flock": "lock",
    "fremovexattr": "setattr",
    "fsetxattr": "setattr",
    "fstat": "getattr",
    "ftruncate": "write",
    "ioctl": "ioctl",
    "utimensat": "setattr",
}
BY_NAME = {"getxattr": "getattr", "newfstatat": "getattr", "statx": "getattr"}
# fcntl(2) by its command; what it asks for F_SETFL depends on how the file was opened.
FCNTL = {
    **dict.fromkeys(("F_DUPFD", "F_DUPFD_CLOEXEC", "F_GETFD", "F_SETFD", "F_GETFL"), []),
    **dict.fromkeys(("F_GETLK", "F_SETLK", "F_SETLKW", "F_OFD_SETLK", "F_OFD_SETLKW"), ["lock"]),
}
ACCESS = {"R_OK": "read", "W_OK": "write", "X_OK": "execute"}
# After these errors nothing but the directories on the way was asked about.
NOT_REACHED = {"EEXIST", "ENOENT", "ENOTDIR"}
# A directory where a file has to be: found out when nothing but a change of the entries had been asked for.
WRONG_KIND = {"EISDIR"}
# Not what such a file can do or has: found out when SELinux had been asked.
UNSUITABLE = {"ENODATA", "ENOTTY"}


class Need(NamedTuple):
    """A permission on a file or directory. One that is created has the type of the directory it is in."""

    path: Path
    kind: str  # its class, "file" or "dir"
    permission: str

    @property
    def labelled(self) -> Path:
        """The path whose type counts."""
        return self.path.parent if self.permission == "create" else self.path


class Observer:
    """Turns system calls, in their order, into what a policy has to allow for them in the directory `top`.

    It has to be made before the program starts: what a call needs depends on what is there. `needs` holds,
    for each need, the first call that had it.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.needs: dict[Need, str] = {}
        # Whether the last opening was to append.
        self._appends: dict[Path, bool] = {}
        self._kinds = {path: "dir" if path.is_dir() else "file" for path in [top, *top.rglob("*")]}
        self._changes: dict[str, Callable[..., None]] = {
            "mkdir": self._mkdir,
            "openat": self._open,
            "rename": self._rename,
            "unlink": self._unlink,
        }

    def see(self, calls: Iterable[Call]) -> None:
        """Take in the calls. AssertionError: one of them does something in `top` that is not known here."""
        for call in calls:
            if call.name not in SILENT and str(self.top) in call.text:
                self._see(call)

    def _see(self, call: Call) -> None:
        match = CALL.fullmatch(call.text)
        assert match, f"not understood: {call.text}"
        arguments, error = match["arguments"], match["error"]
        paths = self._paths(call.name, arguments)
        for path in paths:
            self._need(call, "search", *(above for above in path.parents if self._kinds.get(above) == "dir"))
        if error in WRONG_KIND:
            self._need(call, "write", *(path.parent for path in paths))
        elif error not in NOT_REACHED:
            assert error is None or error in UNSUITABLE, f"not foreseen: {call.text}"
            self._done(call, arguments, paths)

    def _paths(self, name: str, arguments: str) -> list[Path]:
        """The paths that a call is about."""
        if name == "fcntl" or name in ON_DESCRIPTOR and not (name == "utimensat" and arguments[0] == "A"):
            match = DESCRIPTOR.match(arguments)
            assert match, f"not by descriptor: {name}({arguments})"
            return [Path(match["path"])]
        named = list(NAMED.finditer(arguments))[: 2 if name == "rename" else 1]
        assert named, f"not known: {name}({arguments})"
        return [Path(match["directory"] or "/", match["name"]) for match in named]

    def _done(self, call: Call, arguments: str, paths: list[Path]) -> None:
        if call.name in self._changes:
            self._changes[call.name](call, arguments, *paths)
            return
        [path] = paths
        for permission in self._asked(call, arguments, path):
            self._need(call, permission, path)

    def _asked(self, call: Call, arguments: str, path: Path) -> list[str]:
        """What a call that changes no directory asks of its file."""
        if call.name == "utimensat" and arguments.endswith(", NULL, 0"):
            return ["write"]
        if call.name in ON_DESCRIPTOR:
            return [ON_DESCRIPTOR[call.name]]
        if call.name == "access":
            return [ACCESS[mode] for mode in re.findall(r"[RWX]_OK", arguments)]
        if call.name == "execve":
            return ["execute", "execute_no_trans", "open", "read"]
        if call.name == "fcntl":
            return self._asked_by_fcntl(call, arguments, path)
        assert call.name in BY_NAME, f"not known: {call.text}"
        return [BY_NAME[call.name]]

    def _asked_by_fcntl(self, call: Call, arguments: str, path: Path) -> list[str]:
        _descriptor, command, *value = arguments.split(", ", 2)
        if command == "F_SETFL" and path in self._appends:
            return ["write"] if self._appends[path] and "O_APPEND" not in value[0] else []
        assert command in FCNTL, f"not known: {call.text}"
        return FCNTL[command]

    def _open(self, call: Call, arguments: str, path: Path) -> None:
        flags = set(re.findall(r"\bO_\w+", arguments.rpartition('"')[2]))
        if path not in self._kinds:
            self._add(call, path, "file")
        self._appends[path] = "O_APPEND" in flags
        self._need(call, "open", path)
        if "O_WRONLY" not in flags:
            self._need(call, "read", path)
        if flags & {"O_WRONLY", "O_RDWR"}:
            self._need(call, "append" if "O_APPEND" in flags else "write", path)

    def _mkdir(self, call: Call, _arguments: str, path: Path) -> None:
        self._add(call, path, "dir")

    def _unlink(self, call: Call, _arguments: str, path: Path) -> None:
        self._entry(call, "remove_name", path)
        self._need(call, "unlink", path)
        del self._kinds[path]

    def _rename(self, call: Call, arguments: str, old: Path, new: Path) -> None:
        assert old.parent == new.parent, f"not foreseen: {call.text}"
        if new in self._kinds:
            self._unlink(call, arguments, new)
        self._entry(call, "remove_name", old)
        self._entry(call, "add_name", new)
        self._need(call, "rename", old)
        self._kinds[new] = self._kinds.pop(old)

    def _add(self, call: Call, path: Path, kind: str) -> None:
        self._kinds[path] = kind
        self._entry(call, "add_name", path)
        self._need(call, "create", path)

    def _entry(self, call: Call, permission: str, path: Path) -> None:
        self._need(call, permission, path.parent)
        self._need(call, "write", path.parent)

    def _need(self, call: Call, permission: str, *paths: Path) -> None:
        for path in paths:
            if path == self.top or self.top in path.parents:
                self.needs.setdefault(Need(path, self._kinds[path], permission), call.text)
