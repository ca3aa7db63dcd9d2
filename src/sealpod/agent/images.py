# SPDX-License-Identifier: Apache-2.0
"""Getting an image into the guest: registry, key broker client and unpacking put together.

The key broker client is opened when the agent starts, not at the first pull: opening takes the launch secret
out of the secret area and wipes it there, and that should happen before any container exists. What goes
wrong then is kept and raised when a key is first needed, because a plain image can be run without.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from sealpod.agent import lighthttp
from sealpod.agent.console import Console
from sealpod.agent.parameters import Parameters
from sealpod.errors import RefusedError, SealpodError, UsageError

if TYPE_CHECKING:
    from sealpod.image.ports import ImageSource
    from sealpod.image.pull import PulledImage
    from sealpod.kbc.port import KeyBrokerClient
    from sealpod.oci.reference import ImageReference
    from sealpod.ocicrypt.packet import AnnotationPacket
    from sealpod.secret import SecretBytes

Puller = Callable[[str], "PulledImage"]
"""An image reference in, the image in the guest's store out."""


class Keys:
    """The key broker client of this guest, opened once."""

    def __init__(self, aa_kbc_params: str) -> None:
        self._params = aa_kbc_params
        self._lock = threading.Lock()
        self._client: KeyBrokerClient | None = None
        self._error: SealpodError | None = None

    def open(self) -> None:
        """Open the client, if the command line names one and it was not tried before."""
        from sealpod.kbc.table import open_kbc

        with self._lock:
            if self._params and self._client is None and self._error is None:
                try:
                    self._client = open_kbc(self._params)
                except SealpodError as exc:
                    self._error = exc

    def unwrap(self, packet: AnnotationPacket) -> SecretBytes:
        """See :class:`sealpod.kbc.port.KeyBrokerClient`."""
        self.open()
        if self._error is not None:
            raise self._error
        if self._client is None:
            raise UsageError(
                "the image is encrypted and this guest has no key broker client",
                code="kbc.none",
                remedy="ask for the runtime kata-qemu-sev, or start it with `--kbc online` or `offline`",
            )
        return self._client.unwrap(packet)


class Images:
    """Pulls images into ``store`` by what the measured command line allows."""

    def __init__(self, parameters: Parameters, store: str, console: Console) -> None:
        self._parameters = parameters
        self._store = store
        self._console = console
        self._keys = Keys(parameters.aa_kbc_params)
        self._ready = threading.Event()

    def prepare(self) -> None:
        """Take the launch secret and import what a pull needs, which is slow: run it beside the calls."""
        try:
            if self._parameters.aa_kbc_params:
                self._keys.open()
            lighthttp.load()
            from sealpod.image import pull, runtime  # noqa: F401 (imported for later)
            from sealpod.registry import transports  # noqa: F401
        finally:
            self._ready.set()

    def pull(self, text: str) -> PulledImage:
        """Fetch, verify, decrypt and unpack the image ``text`` names."""
        from sealpod.image.pull import pull
        from sealpod.oci.reference import ImageReference

        self._refuse_unsigned()
        self._ready.wait()
        reference = ImageReference.parse(text)
        self._console.debug(f"pulling {reference}")
        only = self._parameters.encrypted_only
        return pull(self._source(reference), reference, self._keys.unwrap, self._store, encrypted_only=only)

    def _source(self, reference: ImageReference) -> ImageSource:
        from sealpod.registry.transports import Access, registry_source

        # This guest's own loopback is no registry's; only what the measured command line names is spoken to
        # without TLS.
        access = Access(insecure=self._parameters.insecure_registries, plain_loopback=False)
        return registry_source(reference, access)

    def _refuse_unsigned(self) -> None:
        if self._parameters.verify_signatures:
            raise RefusedError(
                "this guest must run signed images only, and verifying signatures is not supported yet",
                code="image.signatures-unsupported",
                remedy="set agent.enable_signature_verification=false, which changes the launch digest",
            )
