"""Which process of this machine a client's socket belongs to.

Enters: a client's address and a process's number. Leaves: whether the socket is its own. Source: proc(5),
`/proc/net/tcp` and `/proc/PID/fd`. Where those cannot be read, or the client is elsewhere, nobody is.
"""

from __future__ import annotations

import os
from pathlib import Path


def is_of(client: str, pid: int) -> bool:
    """True where the process holds the socket whose own end is `client`, an address with its port."""
    port = client.rpartition(":")[2]
    if not port.isdecimal():
        return False
    inodes = _sockets(int(port))
    if not inodes:
        return False
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                try:
                    if os.readlink(entry.path) in inodes:
                        return True
                except OSError:
                    continue
    except OSError:
        return False
    return False


def _sockets(port: int) -> set[str]:
    """The sockets of this machine with a local port, as /proc/PID/fd names them."""
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) > 9 and int(words[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{words[9]}]")
    return found
