"""Certificates for tests, made by openssl: an authority, and servers' certificates signed by it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """An authority in a folder of its own; `root` is what clients must believe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = Pair(folder / "root.crt", folder / "root.key")
        # Without its use and the identifiers below, Python 3.13 does not verify by it.
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=authority",
                 "-addext", "keyUsage=critical,keyCertSign,cRLSign",
                 "-keyout", self._own.key, "-out", self._own.cert)  # fmt: skip
        self.root = self._own.cert

    def issue(self, name: str, subject: str = "DNS:localhost,IP:127.0.0.1") -> Pair:
        """A certificate for a server; `subject` is its subjectAltName."""
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        request, extension = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extension.write_text(f"subjectAltName={subject}\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n")
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", pair.key, "-out", request)
        _openssl("x509", "-req", "-in", request, "-CA", self._own.cert, "-CAkey", self._own.key, "-CAcreateserial",
                 "-days", "30", "-extfile", extension, "-out", pair.cert)  # fmt: skip
        return pair


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
