"""What to do about a connection that TLS has refused: the library's own words name the fault, and not the keyword."""

from __future__ import annotations

_UNKNOWN_AUTHORITY = "ssl_ca_certs has to name the file of the authority that signed the server's certificate"
_OWN_CERTIFICATE = (
    "the server may ask for a client's certificate, or not accept it: ssl_certfile and ssl_keyfile"
)
_REMEDIES = {
    # The reasons of OpenSSL, as Python's exceptions quote them.
    "self-signed certificate": _UNKNOWN_AUTHORITY,
    "self signed certificate": _UNKNOWN_AUTHORITY,
    "unable to get local issuer": _UNKNOWN_AUTHORITY,
    "certificate has expired": "the server needs a new certificate",
    "certificate is not valid for": "the certificate has to hold the address that the client connects to; "
    "nodes can announce the name that it holds (cluster-announce-hostname), or address_remap translates",
    "CERTIFICATE_REQUIRED": "the server asks for a client's certificate: ssl_certfile and ssl_keyfile",
    "HANDSHAKE_FAILURE": _OWN_CERTIFICATE,
    # Of a server that goes down, or: TLS 1.3 lets the client talk before the server has judged its certificate, and the
    # verdict may be lost.
    "EOF occurred in violation": f"the server may be restarting; or {_OWN_CERTIFICATE}",
    "ALERT_UNKNOWN_CA": "the server does not know the authority that signed the client's certificate, ssl_certfile",
    "No such file or directory": "one of ssl_ca_certs, ssl_certfile and ssl_keyfile names no file",
    "KEY_VALUES_MISMATCH": "ssl_keyfile is not the key of the certificate in ssl_certfile",
}


def explain(failure: Exception) -> None:
    """Adds to the text of ``failure`` what to do about it, where that is known."""
    text = str(failure)
    for reason, remedy in _REMEDIES.items():
        if reason in text and remedy not in text:
            failure.args = (f"{text.removesuffix('.')}: {remedy}.",)
            return
