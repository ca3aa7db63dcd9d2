# SPDX-License-Identifier: Apache-2.0
"""GetOnlineSecret: what a running guest gets with the connection of its launch."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sealpod.errors import SealpodError
from sealpod.kbc.online import OnlineClient
from sealpod.secret import SecretBytes

GUID = "2cf13667-ea72-4013-9dd6-155e89c5a28f"
CONNECTION_GUID = "1ee27366-0c87-43a6-af48-28543eaf7cb0"
KEY_B64 = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="
KEY = base64.b64decode(KEY_B64)


def test_a_guest_asks_as_often_as_it_likes(host: Any) -> None:
    connection = host.connect()
    for _ in range(3):
        assert host.client.fetch(connection, (GUID, "binary", "key", "key_id1")) == {GUID: KEY}


def test_several_secrets_and_the_guid_text_as_sent(host: Any) -> None:
    found = host.client.fetch(
        host.connect(),
        (GUID.upper(), "binary", "key", "key_id1"),
        ("any text", "json", "key", "key_id1"),
        ("bundle", "", "bundle", "KEYSET-1"),
    )
    assert found == {
        GUID.upper(): KEY,
        "any text": f'{{"id":"key_id1","payload":"{KEY_B64}"}}'.encode(),
        "bundle": f'{{"key_id1":"{KEY_B64}"}}'.encode(),
    }


def test_a_connection_can_make_another(host: Any) -> None:
    connection = host.connect()
    minted = json.loads(host.client.fetch(connection, (GUID, "", "connection", ""))[GUID])
    assert set(minted) == {"client_id", "key"}
    assert host.client.fetch(minted, (GUID, "binary", "key", "key_id1")) == {GUID: KEY}


def test_nonces_differ(host: Any) -> None:
    connection = host.connect()
    replies = [
        host.client.online(connection["client_id"], (GUID, "binary", "key", "key_id1")) for _ in range(2)
    ]
    assert replies[0][2] != replies[1][2]
    assert all(len(base64.b64decode(reply[2])) == 12 for reply in replies)


def test_the_launch_is_written_down(host: Any, database: Any) -> None:
    launched = host.launch(policy=0xFF000003)
    reply = host.client.secret(
        (CONNECTION_GUID, "JSON", "connection", ""),
        **launched.claim,
        policy=0xFF000003,
        description="two\nlines \U0001f512",
    )
    connection = json.loads(launched.open(reply)[CONNECTION_GUID])
    (row,) = database.query(
        "SELECT policy, fw_api_major, fw_api_minor, fw_build_id, launch_description, delete_date, symkey "
        f"FROM conn_bundle WHERE id='{connection['client_id']}'"
    )
    # The policy column is signed, as simple-kbs' is.
    assert row[:-1] == (0xFF000003 - 2**32, 0, 24, 15, "two?lines ?", None)
    assert row[-1].startswith("sealpod:1:")


def test_policies_see_the_launch(host: Any, owner: Any) -> None:
    connection = host.connect()
    owner(
        "REPLACE INTO policy VALUES (10,'[\"x\"]','[]',0,0,'[]',CURRENT_TIMESTAMP,NULL,1)",
        "UPDATE secrets SET polid=10",
    )
    refused = host.client.refusal(
        host.client.online, connection["client_id"], (GUID, "binary", "key", "key_id1")
    )
    assert refused.text == "Policy validation failed: fw digest not valid"


def test_a_policy_with_a_high_policy_word(host: Any, owner: Any) -> None:
    word = 0xFF000003
    launched = host.launch(policy=word)
    reply = host.client.secret((CONNECTION_GUID, "", "connection", ""), **launched.claim, policy=word)
    connection = json.loads(launched.open(reply)[CONNECTION_GUID])
    owner(
        f"REPLACE INTO policy VALUES (10,'[]','[{word}]',0,0,'[]',NULL,NULL,1)", "UPDATE secrets SET polid=10"
    )
    assert host.client.fetch(connection, (GUID, "binary", "key", "key_id1")) == {GUID: KEY}


def test_unknown_client(host: Any) -> None:
    refused = host.client.refusal(
        host.client.online, "00000000-0000-4000-8000-000000000000", (GUID, "binary", "key", "key_id1")
    )
    assert refused.text == (
        "Connection not found: no rows returned by a query that expected to return at least one row"
    )
    assert refused.code == "connection.unknown"
    assert refused.remedy


def test_a_withdrawn_connection_is_unknown(host: Any, owner: Any) -> None:
    connection = host.connect()
    owner(f"UPDATE conn_bundle SET delete_date=CURRENT_TIMESTAMP WHERE id='{connection['client_id']}'")
    refused = host.client.refusal(host.client.online, connection["client_id"])
    assert refused.code == "connection.unknown"


@pytest.mark.parametrize(
    ("column", "code"),
    [("symkey='short'", "malformed"), ("symkey=NULL", "malformed"), ("fw_digest=NULL", "malformed")],
)
def test_a_broken_connection_is_refused(host: Any, owner: Any, column: str, code: str) -> None:
    connection = host.connect()
    owner(f"UPDATE conn_bundle SET {column} WHERE id='{connection['client_id']}'")
    refused = host.client.refusal(host.client.online, connection["client_id"])
    assert refused.code == f"connection.{code}"
    assert "short" not in refused.text


def test_text_where_a_number_should_be(host: Any, owner: Any, database: Any) -> None:
    connection = host.connect()
    statement = f"UPDATE conn_bundle SET fw_api_major='many' WHERE id='{connection['client_id']}'"
    if database.kind != "sqlite":
        with pytest.raises(RuntimeError, match=r"fw_api_major|integer"):
            owner(statement)
        return
    owner(statement)
    refused = host.client.refusal(host.client.online, connection["client_id"])
    assert refused.code == "connection.malformed"


@pytest.mark.parametrize("text", ["", "x", "0" * 40, "{00000000-0000-4000-8000-000000000000}"])
def test_malformed_client(host: Any, text: str) -> None:
    refused = host.client.refusal(host.client.online, text)
    assert refused.text.startswith("Malformed Client ID: ")


@pytest.mark.parametrize(
    ("details", "prefix", "code"),
    [
        ([(GUID, "binary", "key", "nope")], "Cannot fulfill secret request: no rows", "secret.unknown"),
        ([(GUID, "", "nope", "")], "Bad secret request: Unknown Secret Type", "request.unknown-type"),
        ([(GUID, "", "report", "")], "Cannot fulfill secret request: no rows", "report-key.unknown"),
        ([("sealpod-request-sha256", "", "connection", "")], "Bad secret request: ", "request.reserved-guid"),
        (
            [(GUID, "binary", "key", "key_id1"), (GUID, "json", "key", "key_id1")],
            "Bad secret request: ",
            "request.duplicate-guid",
        ),
        ([("x" * 129, "", "bundle", "KEYSET-1")], "Bad secret request: ", "request.malformed"),
    ],
)
def test_bad_requests(host: Any, details: Any, prefix: str, code: str) -> None:
    refused = host.client.refusal(host.client.online, host.connect()["client_id"], *details)
    assert refused.text.startswith(prefix)
    assert refused.code == code


def test_the_guests_own_client(host: Any, broker: Any) -> None:
    """HTTP/2 and protobuf of the guest side, which share no code with gRPC's."""
    address, port = broker.address.rsplit(":", 1)
    connection = host.connect()
    secret = SecretBytes(json.dumps(connection).encode())
    client = OnlineClient.open(f"{address}:{port}", lambda _: secret)
    assert client.get_secret("key", "key_id1").reveal() == KEY
    with pytest.raises(SealpodError, match="no rows returned") as caught:
        client.get_secret("key", "nope")
    assert caught.value.code == "secret.unknown"
