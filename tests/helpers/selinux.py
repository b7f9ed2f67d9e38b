"""The permissions that SELinux would check for the system calls that strace(1) saw.

The checks are those of the kernel's security/selinux/hooks.c, in the functions named here, where fs/namei.c,
fs/open.c and fs/exec.c call them:

    any path            search on each directory on the way (selinux_inode_permission)
    open                open, and read, write or append as it is opened (selinux_file_open); to read, write
                        or list it later checks the same again (selinux_file_permission)
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
    access              read, write or execute as requested, nothing for F_OK (selinux_inode_permission)
    ioctl               ioctl (selinux_file_ioctl, for the requests that occur here)
    flock               lock (selinux_file_lock)
    fcntl               lock for locks; for flags, write if they remove O_APPEND, else nothing
                        (selinux_file_fcntl)
    execve              execute, read and open, and execute_no_trans if the domain stays the same
                        (selinux_bprm_creds_for_exec)

For selinux_inode_permission, any change of a directory's entries is a "write" on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Callable, NamedTuple

from helpers.strace import Call

CALL = re.compile(r"\w+\((?P<arguments>.*)\) += (?:-1 (?P<error>E\w+).*|\d.*)", re.DOTALL)
DESCRIPTOR = re.compile(r"\d+<(?P<path>/[^>]*)>")
# With the directory that the path of an "at" call is relative to.
NAMED = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<directory>[^>]*)>, )?"(?P<name>(?:[^"\\]|\\.)*)"')

# These check nothing, or what opening the file has checked. Here and below, which call a library uses for a
# purpose depends on its version.
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
# fcntl(2) by its command; the check for F_SETFL depends on how the file was opened.
FCNTL = {
    **dict.fromkeys(("F_DUPFD", "F_DUPFD_CLOEXEC", "F_GETFD", "F_SETFD", "F_GETFL"), []),
    **dict.fromkeys(("F_GETLK", "F_SETLK", "F_SETLKW", "F_OFD_SETLK", "F_OFD_SETLKW"), ["lock"]),
}
ACCESS = {"R_OK": "read", "W_OK": "write", "X_OK": "execute"}
# With these errors, only the directories on the way were checked.
NOT_REACHED = {"EEXIST", "ENOENT", "ENOTDIR"}
# A directory instead of a file: found out when only the change of the entries had been checked.
WRONG_KIND = {"EISDIR"}
# Something that such a file does not have or support: found out after SELinux's check.
UNSUITABLE = {"ENODATA", "ENOTTY"}


class Need(NamedTuple):
    """A permission on a file or directory. A new one has the type of the directory it is in."""

    path: Path
    kind: str  # its class, "file" or "dir"
    permission: str

    @property
    def labelled(self) -> Path:
        """The path whose type counts."""
        return self.path.parent if self.permission == "create" else self.path


class Observer:
    """Translates system calls, in order, into the permissions that they need in the directory `top`.

    Create it before the program starts: what a call needs depends on the existing files. `needs` holds the
    first call for each need.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.needs: dict[Need, str] = {}
        # Whether the file was last opened to append.
        self._appends: dict[Path, bool] = {}
        self._kinds = {path: "dir" if path.is_dir() else "file" for path in [top, *top.rglob("*")]}
        self._changes: dict[str, Callable[..., None]] = {
            "mkdir": self._mkdir,
            "openat": self._open,
            "rename": self._rename,
            "unlink": self._unlink,
        }

    def see(self, calls: Iterable[Call]) -> None:
        """Record the needs of the calls. AssertionError: one of them does something unknown in `top`."""
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
        """Return the paths that a call is about."""
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
        """Return the permissions on its file that a call needs which changes no directory."""
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
