"""Advice about connections that TLS has refused: no more certain than the reason is."""

from __future__ import annotations

import ssl

import pytest

from slotwise.routing.remedies import explain


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (
            "EOF occurred in violation of protocol (_ssl.c:1006)",
            "the server may be restarting; or .* ssl_certfile",
        ),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required", "the server asks for"),
    ],
)
def test_the_advice_follows_the_reason(reason: str, remedy: str) -> None:
    failure = ssl.SSLError(reason)
    explain(failure)
    with pytest.raises(ssl.SSLError, match=remedy):
        raise failure
    # Once only.
    text = str(failure)
    explain(failure)
    assert str(failure) == text
