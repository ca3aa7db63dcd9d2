# SPDX-License-Identifier: Apache-2.0
"""aa_kbc_params: names, addresses, and the attestation agent's words for what is wrong."""

from __future__ import annotations

from uuid import UUID

import pytest

from sealpod.errors import NotFoundError, UsageError
from sealpod.kbc.offline import OfflineClient
from sealpod.kbc.online import OnlineClient
from sealpod.kbc.table import CLIENTS, open_kbc, parse_params
from sealpod.secret import SecretBytes
from sealpod.wire.secrettable import OFFLINE_BUNDLE_GUID

CONNECTION = b'{"client_id":"2cf13667-ea72-4013-9dd6-155e89c5a28f","key":"' + b"A" * 43 + b'="}'


def test_names() -> None:
    assert parse_params("offline_sev_kbc::null") == ("offline_sev_kbc", "null")
    assert parse_params("online_sev_kbc::[::1]:44444") == ("online_sev_kbc", "[::1]:44444")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "KBC/KBS pair not found"),
        ("offline_sev_kbc", "KBC/KBS pair not found"),
        ("::null", "missing KBC name"),
        ("offline_sev_kbc::", "missing KBS URI"),
        ("sample_kbc::null", "AA does not support the given KBC module! Module: sample_kbc"),
    ],
)
def test_bad_params(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_kbc(text)
    assert (caught.value.message, caught.value.code) == (message, "kbc.params")


def test_every_name_opens() -> None:
    offline = open_kbc("offline_sev_kbc::null", lambda _: SecretBytes(b"{}"))
    online = open_kbc("online_sev_kbc::broker:44444", lambda _: SecretBytes(CONNECTION))
    assert (type(offline), type(online)) == (OfflineClient, OnlineClient)
    assert len(CLIENTS) == 2


def test_no_secret_is_said_when_opening() -> None:
    def take(guid: UUID) -> SecretBytes:
        assert guid == OFFLINE_BUNDLE_GUID
        raise NotFoundError("no secret was injected", code="kbc.no-secret")

    with pytest.raises(NotFoundError):
        open_kbc("offline_sev_kbc::null", take)
