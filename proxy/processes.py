"""Which process of this machine a client's socket belongs to.

Enters: a client's address and a process's number. Leaves: whether the socket is its own. Source: proc(5),
`/proc/net/tcp` and `/proc/PID/fd`. Where those cannot be read, or the client is elsewhere, nobody is.
"""

from __future__ import annotations

import os
import socket
import sys
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

_ESTABLISHED: Final = "01"


def is_of(client: str, pid: int) -> bool:
    """True where the process holds the connected socket whose own end is `client`, an address with its port."""
    host, _, port = client.rpartition(":")
    if not port.isdecimal():
        return False
    inodes = _sockets(host.strip("[]"), int(port))
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


def _sockets(host: str, port: int) -> set[str]:
    """The connected sockets of this machine with this own end, as /proc/PID/fd names them."""
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) < 10 or words[3] != _ESTABLISHED:
                continue
            address, _, number = words[1].partition(":")
            if int(number, 16) == port and _plain(_address(address)) == _plain(host):
                found.add(f"socket:[{words[9]}]")
    return found


def _address(written: str) -> str:
    """An address of the table: words of 32 bits in the machine's order."""
    raw = bytes.fromhex(written)
    if sys.byteorder == "little":
        raw = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _plain(host: str) -> str:
    """One spelling of an address, an IPv4 one inside of IPv6 as itself; what is none stays."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
