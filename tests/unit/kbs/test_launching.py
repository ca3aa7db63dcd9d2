# SPDX-License-Identifier: Apache-2.0
"""Remembered chains, the clock that does not go back, and what binds an online reply to its request."""

from __future__ import annotations

import hashlib
import struct

import kbsload
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, SealpodError, VerificationError
from sealpod.kbs.core import launching
from sealpod.kbs.core.clock import SteadyClock
from sealpod.kbs.core.launching import ChainVerifier
from sealpod.wire.binding import request_digest


@pytest.fixture(scope="module")
def platform() -> kbsload.LoadPlatform:
    return kbsload.LoadPlatform()


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every chain that was really verified."""
    done: list[object] = []
    real = launching.verify_chain

    def counted(chain: object, trusted: object) -> object:
        done.append(chain)
        return real(chain, trusted)  # type: ignore[arg-type]

    monkeypatch.setattr(launching, "verify_chain", counted)
    return done


class TestChains:
    def test_a_chain_is_verified_once(self, platform: kbsload.LoadPlatform, verified: list[object]) -> None:
        chains = ChainVerifier({platform.fingerprint: "model"}, size=4)
        first, second = (chains.verify(kbsload.b64(platform.chain)) for _ in range(2))
        assert first is second
        assert len(verified) == 1
        assert first.platform.root == "model"
        assert first.platform.kind == "model"
        assert first.platform.ark == platform.fingerprint
        assert first.platform.chain == hashlib.sha256(platform.chain).hexdigest()
        assert first.platform.chip == hashlib.sha256(platform.parts.cek.pubkey).hexdigest()

    def test_without_a_cache_every_time(self, platform: kbsload.LoadPlatform, verified: list[object]) -> None:
        chains = ChainVerifier({platform.fingerprint: "model"}, size=0)
        for _ in range(3):
            chains.verify(kbsload.b64(platform.chain))
        assert len(verified) == 3
        assert len(chains) == 0

    def test_any_other_byte_is_another_chain(
        self, platform: kbsload.LoadPlatform, verified: list[object]
    ) -> None:
        chains = ChainVerifier({platform.fingerprint: "model"}, size=4)
        chains.verify(kbsload.b64(platform.chain))
        for offset in range(0, len(platform.chain), 499):
            damaged = bytearray(platform.chain)
            damaged[offset] ^= 1
            try:
                chains.verify(kbsload.b64(bytes(damaged)))
            except SealpodError:
                continue
            # Bytes that nothing signs, as the empty signature slots: a chain of its own, verified for itself.
            assert len(verified) > 1

    def test_no_refusal_is_remembered(self, platform: kbsload.LoadPlatform, verified: list[object]) -> None:
        chains = ChainVerifier({"0" * 64: "other"}, size=4)
        for _ in range(2):
            with pytest.raises(VerificationError) as caught:
                chains.verify(kbsload.b64(platform.chain))
            assert caught.value.code == "chain.untrusted-root"
        assert len(verified) == 2
        assert len(chains) == 0
        with pytest.raises(DecodeError):
            chains.verify("not base64")

    def test_other_roots_forget_it(self, platform: kbsload.LoadPlatform) -> None:
        chains = ChainVerifier({platform.fingerprint: "model"}, size=4)
        chains.verify(kbsload.b64(platform.chain))
        chains.trust({"0" * 64: "other"})
        with pytest.raises(VerificationError):
            chains.verify(kbsload.b64(platform.chain))
        chains.trust({platform.fingerprint: "AMD Milan"})
        assert chains.verify(kbsload.b64(platform.chain)).platform.kind == "silicon"

    def test_roots_that_change_while_a_chain_is_verified(
        self, platform: kbsload.LoadPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was verified up to a root that is no longer trusted is not remembered."""
        chains = ChainVerifier({platform.fingerprint: "model"}, size=4)
        real = launching.verify_chain

        def meanwhile(chain: object, trusted: object) -> object:
            chains.trust({"0" * 64: "other"})
            return real(chain, trusted)  # type: ignore[arg-type]

        monkeypatch.setattr(launching, "verify_chain", meanwhile)
        chains.verify(kbsload.b64(platform.chain))
        assert len(chains) == 0

    def test_the_oldest_go_first(self, platform: kbsload.LoadPlatform, verified: list[object]) -> None:
        chains = ChainVerifier({platform.fingerprint: "model"}, size=2)
        # What follows a chain is ignored, and makes it another one to remember.
        one, two, three = (kbsload.b64(platform.chain + bytes(size)) for size in (3, 6, 9))
        for text in (one, two, one, three, one):
            chains.verify(text)
        assert len(verified) == 3
        chains.verify(two)
        assert len(verified) == 4
        assert len(chains) == 2


class TestClock:
    def test_set_back_it_goes_on(self) -> None:
        wall, passed = 1000.0, 10.0
        clock = SteadyClock(lambda: wall, lambda: passed)
        assert clock() == 1000.0
        wall, passed = 400.0, 15.0
        assert clock() == 1005.0
        wall, passed = 1004.0, 20.0
        assert clock() == 1010.0
        wall, passed = 1500.0, 21.0
        assert clock() == 1500.0

    @given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 100)), min_size=1, max_size=20))
    def test_never_backwards_and_never_behind(self, steps: list[tuple[float, float]]) -> None:
        wall, passed = 0.0, 0.0
        clock = SteadyClock(lambda: wall, lambda: passed)
        before = clock()
        for wall, more in steps:
            passed += more
            now = clock()
            assert now >= before
            assert now >= wall - 1e-3
            before = now


class TestBinding:
    def test_known_answer(self) -> None:
        """Put together by hand from the description of the format."""
        texts = [b"client", b"guid", b"binary", b"key", b"key_id1", b"", b""]
        plain = b"sealpod online request 1" + b"".join(struct.pack("<Q", len(one)) + one for one in texts)
        found = request_digest("client", [("guid", "binary", "key", "key_id1", "", "")])
        assert found == hashlib.sha256(plain).digest()

    @given(st.lists(st.text(max_size=8), min_size=13, max_size=13), st.data())
    def test_every_text_counts_and_its_borders(self, texts: list[str], data: st.DataObject) -> None:
        def digest(values: list[str]) -> bytes:
            return request_digest(values[0], [values[1:7], values[7:]])

        at = data.draw(st.integers(0, 12))
        changed = [*texts]
        changed[at] = data.draw(st.text(max_size=8).filter(lambda text: text != texts[at]))
        assert digest(texts) != digest(changed)
        moved = [*texts]
        moved[0], moved[1] = texts[0] + texts[1], ""
        assert moved == texts or digest(texts) != digest(moved)
