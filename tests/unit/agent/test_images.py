# SPDX-License-Identifier: Apache-2.0
"""Keys and images as the command line allows them."""

from __future__ import annotations

import pytest

from sealpod.agent.console import Console
from sealpod.agent.images import Images, Keys
from sealpod.agent.parameters import Parameters
from sealpod.errors import NotFoundError, RefusedError, SealpodError, UsageError
from sealpod.kbc import table
from sealpod.ocicrypt.packet import AnnotationPacket
from sealpod.secret import SecretBytes

PACKET = AnnotationPacket("k", b"", bytes(16), "aes_256_ctr")


class Client:
    def unwrap(self, packet: AnnotationPacket) -> SecretBytes:
        return SecretBytes(packet.kid.encode())


def test_the_client_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(table, "open_kbc", lambda params: opened.append(params) or Client())
    keys = Keys("offline_sev_kbc::null")
    keys.open()
    assert keys.unwrap(PACKET) == keys.unwrap(PACKET) == SecretBytes(b"k")
    assert opened == ["offline_sev_kbc::null"]


def test_what_went_wrong_early_is_told_when_a_key_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(params: str) -> Client:
        raise NotFoundError("no secret was injected", code="kbc.no-secret")

    monkeypatch.setattr(table, "open_kbc", fail)
    keys = Keys("offline_sev_kbc::null")
    keys.open()
    for _ in range(2):
        with pytest.raises(NotFoundError, match="no secret"):
            keys.unwrap(PACKET)


def test_without_a_client_encrypted_images_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Keys("").unwrap(PACKET)
    assert caught.value.code == "kbc.none"
    assert "runtime kata-qemu-sev" in caught.value.remedy


def images(**settings: object) -> Images:
    made = Images(Parameters(**settings), "/nonexistent", Console())  # type: ignore[arg-type]
    made.prepare()
    return made


def test_signatures_are_asked_for_and_not_built_so_nothing_is_pulled() -> None:
    with pytest.raises(RefusedError) as caught:
        images(verify_signatures=True).pull("registry.example/x")
    assert caught.value.code == "image.signatures-unsupported"


def test_a_bad_reference_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(SealpodError) as caught:
        images().pull("NOT A NAME")
    assert caught.value.code == "image.reference"


def test_the_owners_word_about_plain_images_reaches_the_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("sealpod.image.pull.pull", lambda *_, encrypted_only: asked.append(encrypted_only))
    images(encrypted_only=True).pull("registry.example/x")
    images().pull("registry.example/x")
    assert asked == [True, False]


def test_loopback_is_no_exception_from_tls() -> None:
    """In a guest nobody's registry runs on loopback; plain HTTP needs the measured command line's word."""
    with pytest.raises(SealpodError) as caught:
        images().pull("127.0.0.1:1/x:1")
    assert caught.value.code != "image.reference"
