"""TLS connections of one client, which share what was read from the files."""

from __future__ import annotations

from typing import Any

from redis.connection import SSLConnection

from slotwise.tls import SharedContext


class TLSConnection(SSLConnection):
    """redis-py's, with a context that others share."""

    def __init__(self, *, ssl_shared: SharedContext, **options: Any) -> None:
        self._shared = ssl_shared
        super().__init__(**options)

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        if self.ssl_validate_ocsp or self.ssl_validate_ocsp_stapled:
            return super()._wrap_socket_with_ssl(sock)
        context = self._shared.get(
            keyfile=self.keyfile,
            certfile=self.certfile,
            cert_reqs=self.cert_reqs,
            include_verify_flags=self.ssl_include_verify_flags,
            exclude_verify_flags=self.ssl_exclude_verify_flags,
            ca_certs=self.ca_certs,
            ca_data=self.ca_data,
            ca_path=self.ca_path,
            check_hostname=self.check_hostname,
            min_version=self.ssl_min_version,
            ciphers=self.ssl_ciphers,
            password=self.certificate_password,
        )
        return context.wrap_socket(sock, server_hostname=self.host)
