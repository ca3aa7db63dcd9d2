# SPDX-License-Identifier: Apache-2.0
"""What every key broker client offers: turn a layer's key packet into the layer's private options."""

from __future__ import annotations

from typing import Protocol

from sealpod.ocicrypt.packet import AnnotationPacket
from sealpod.secret import SecretBytes


class KeyBrokerClient(Protocol):
    """A way to the image owner's keys. Usable as ``sealpod.image.ports.KeyUnwrapper`` through ``unwrap``."""

    def unwrap(self, packet: AnnotationPacket) -> SecretBytes:
        """The private options JSON inside ``packet``.

        :raise NotFoundError: ``kbc.unknown-key``: no key under the packet's key id.
        :raise RefusedError: the broker's policy decided against it; its own text and code.
        :raise UnavailableError: ``kbc.unreachable``: the broker does not answer.
        :raise VerificationError: the key does not fit, or the answer is forged or replayed.
        :raise DecodeError: the packet or the broker's answer is malformed.
        """
        ...
