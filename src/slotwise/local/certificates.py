"""Certificates for servers and clients on this machine, made by the ``openssl`` command."""

from __future__ import annotations

import secrets
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from slotwise.local.errors import LocalError

# Long enough for whatever runs on a developer's machine.
_DAYS = 30
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """The PEM files of a certificate and of its private key."""

    file: Path
    key: Path


class Authority:
    """A certificate authority of one's own, whose files lie in ``folder`` as NAME.pem and NAME.key.

    Raises LocalError when there is no ``openssl`` command, or when it fails.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        #: What those who trust the authority load.
        self.certificate = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
        made = ("-keyout", str(self.certificate.key), "-out", str(self.certificate.file))
        _openssl("req", "-x509", *_KEY, "-days", str(_DAYS), "-subj", f"/CN={name}", *made)

    def issue(self, name: str, *, subject: str = "IP:127.0.0.1", days: int = _DAYS) -> Certificate:
        """A certificate for ``subject``, such as ``DNS:localhost``; with negative ``days`` it has expired.

        One of this name in the folder is replaced.
        """
        issued = Certificate(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={subject}\n")
        _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", str(issued.key), "-out", str(request))
        authority = ("-CA", str(self.certificate.file), "-CAkey", str(self.certificate.key))
        serial = ("-set_serial", str(secrets.randbits(63)))
        lifetime = ("-days", str(days))
        files = ("-in", str(request), "-extfile", str(extensions), "-out", str(issued.file))
        _openssl("x509", "-req", *authority, *serial, *lifetime, *files)
        request.unlink()
        extensions.unlink()
        return issued


@dataclass(frozen=True)
class Tls:
    """What a cluster with ``tls=True`` works with: all of it lies in its folder, and may be replaced there."""

    authority: Authority
    node: Certificate
    client: Certificate

    @classmethod
    def make(cls, folder: Path) -> Tls:
        """An authority, a certificate for all nodes and one for clients."""
        authority = Authority(folder)
        return cls(authority, authority.issue("node"), authority.issue("client"))

    @property
    def options(self) -> dict[str, str]:
        """The keywords of a client that name its files."""
        return {
            "ssl_ca_certs": str(self.authority.certificate.file),
            "ssl_certfile": str(self.client.file),
            "ssl_keyfile": str(self.client.key),
        }

    @property
    def query(self) -> str:
        """The same as the end of a URL."""
        return f"?{urlencode(self.options)}"

    def context(self) -> ssl.SSLContext:
        """What a plain socket is wrapped with; reads the files."""
        context = ssl.create_default_context(cafile=self.authority.certificate.file)
        context.load_cert_chain(self.client.file, self.client.key)
        return context


def _openssl(*arguments: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise LocalError("certificates are made by the `openssl` command, and there is none on PATH")
    run = subprocess.run([program, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode:
        raise LocalError(f"openssl {arguments[0]} failed: {run.stderr.strip()}")
