"""Runs one program inside limits: a script for a process of its own, standard library alone, started by `sandbox.py`.

Enters: settings as JSON in the first argument, the program's input as standard input. Leaves: what the program writes to
standard output. The first line is the jail's own: what it could not do on this machine. Then it starts the program, waits for it until
time is over, and ends everything that it started.
"""

import ctypes
import json
import math
import os
import resource
import signal
import sys
import time

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC = 1, 2, 4, 4096, 16384
MOUNT_SETATTR, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, 0x8000, 1
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 24, 36, 38
LINUX = sys.platform.startswith("linux")


class _Attributes(ctypes.Structure):
    """`struct mount_attr` of mount_setattr(2)."""

    _fields_ = [("set", ctypes.c_uint64), ("clear", ctypes.c_uint64), ("propagation", ctypes.c_uint64), ("namespace", ctypes.c_uint64)]


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount a file system, as the system call of that name. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()):
        raise OSError(ctypes.get_errno(), f"mounting {target}")


def close_off(folder: str, hidden: list[str], kept: list[str], size: int) -> None:
    """Make everything read-only but `folder`, and empty the `hidden` folders but for what is `kept` in them. Raises OSError."""
    held = [(path, os.open(path, os.O_PATH)) for path in kept]
    for place in hidden:
        mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path, handle in held:
        if any(path == place or path.startswith(place + "/") for place in hidden):
            inside = os.path.isdir(f"/proc/self/fd/{handle}")
            os.makedirs(path if inside else os.path.dirname(path), exist_ok=True)
            if not inside:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            mount(f"/proc/self/fd/{handle}", path, "none", MS_BIND | MS_REC)
        os.close(handle)
    os.makedirs(folder, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = _Attributes(MOUNT_ATTR_RDONLY, 0, 0, 0)
    if libc.syscall(MOUNT_SETATTR, -100, b"/", AT_RECURSIVE, ctypes.byref(wanted), ctypes.sizeof(wanted)):
        raise OSError(ctypes.get_errno(), "making the file system read-only")
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},mode=777")
    mount("tmpfs", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k")


def become(user: int) -> None:
    """Another user, who owns nothing. Raises OSError."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def restrict(settings: dict) -> None:
    """Limits of the process and of what it starts, and no way to privileges."""
    for name, value in (
        ("RLIMIT_CORE", 0), ("RLIMIT_CPU", math.ceil(settings["seconds"])), ("RLIMIT_AS", settings["memory"]),
        ("RLIMIT_FSIZE", settings["disk"]), ("RLIMIT_NOFILE", 64), ("RLIMIT_NPROC", settings["processes"]),
    ):  # fmt: skip
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (OSError, ValueError, AttributeError):  # a lower one holds already, or the system has none
            continue
    if LINUX:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in range(64):
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def below(top: int) -> list[int]:
    """Every process that descends from one, by /proc."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else []):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    found, more = set[int](), {top}
    while more := {child for child, parent in parents.items() if parent in more} - found:
        found |= more
    return sorted(found)


def end_all() -> None:
    """Kill what is left below this process, again and again, for it may start more in between."""
    for _ in range(200):
        left = below(os.getpid())
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except OSError:
                continue
        if not left:
            return
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            continue


def wait_for(child: int, seconds: float) -> None:
    """Until the child has ended or time is over; what it left behind is taken in."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if hasattr(signal, "sigtimedwait"):
            signal.sigtimedwait([signal.SIGCHLD], left)
        else:
            time.sleep(min(left, 0.02))
        while True:
            try:
                ended, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if ended == child:
                return
            if not ended:
                break


def main() -> None:
    """Close off, start, wait, end."""
    settings = json.loads(sys.argv[1])
    lacks = []
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    if LINUX:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if settings["closed"]:
        try:
            close_off(settings["folder"], settings["hidden"], settings["kept"], settings["disk"])
        except OSError as error:
            lacks.append(f"files outside its folder can be read and changed: {error}")
    if settings["user"] is not None and (lacks or not settings["closed"]):
        os.chown(settings["folder"], settings["user"], settings["user"])
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        os.chdir(settings["folder"])
        restrict(settings)
        if settings["user"] is not None:
            try:
                become(settings["user"])
            except OSError as error:
                os.write(told, f"it runs as root: {error}".encode())
        os.close(told)
        os.execve(settings["python"], [settings["python"], "-I", "-c", settings["program"]], {})  # noqa: S606
    os.close(told)
    lacks += [text] if (text := os.read(ready, 1000).decode()) else []
    os.write(1, (json.dumps({"lacks": lacks}) + "\n").encode())
    wait_for(child, settings["seconds"])
    if not settings["apart"]:  # else the kernel ends them with this process, the first of its namespace
        end_all()


main()
