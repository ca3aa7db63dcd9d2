# SPDX-License-Identifier: Apache-2.0
"""The platform port over ``/dev/sev``. One launch on it is in :mod:`.launch`.

The firmware cannot sign its own chip's key. The whole chain, up to AMD's root, is read from a file that
``sealpod sev export --full`` has written, and must be this platform's as it is now.
"""

from __future__ import annotations

import hmac
from typing import Final

from sealpod.errors import ConflictError, NotFoundError, UnavailableError
from sealpod.platform.checks import check_spec
from sealpod.platform.device.cpuid import Encryption, encryption
from sealpod.platform.device.ioctls import DeviceCommand
from sealpod.platform.device.launch import DeviceLaunch
from sealpod.platform.device.launchfiles import LaunchFiles, remove_stale
from sealpod.platform.device.node import DeviceNode
from sealpod.platform.port import LaunchSpec, PlatformCertificates, PlatformKind, PlatformStatus
from sealpod.sev import cert
from sealpod.sev.chain import Chain

CHAIN_FILE: Final = "/opt/sev/cert_chain.cert"
"""Where Kata has it (``sev_cert_chain``)."""
IDENTIFIER_SIZE: Final = 64
"""GET_ID2's bytes for the first socket: what AMD's key server wants."""
_CHAIN_SIZE: Final = 3 * cert.SIZE
_MAX_CHAIN_FILE: Final = 1 << 16
_EXPORT: Final = "write it with `sealpod sev export --full {}`"


async def start(path: str, *, chain_file: str | None = None) -> DevicePlatform:
    """See :func:`sealpod.platform.device.open_device`."""
    remove_stale()
    return DevicePlatform(DeviceNode.open(path), chain_file=chain_file or CHAIN_FILE)


class DevicePlatform:
    """An open ``/dev/sev``."""

    def __init__(
        self, node: DeviceNode, *, chain_file: str = CHAIN_FILE, host: Encryption | None = None
    ) -> None:
        self._node = node
        self._chain_file = chain_file
        self._encryption = host
        self._open = True

    @property
    def kind(self) -> PlatformKind:
        """``device``."""
        return "device"

    @property
    def path(self) -> str:
        """The device's path, which QEMU opens too."""
        return self._node.path

    @property
    def encryption(self) -> Encryption:
        """What CPUID says; OperationError where it says nothing of SEV."""
        if self._encryption is None:
            self._encryption = encryption()
        return self._encryption

    def require_open(self) -> None:
        """UnavailableError after :meth:`close`."""
        if not self._open:
            raise UnavailableError(
                "the device platform is closed", code="platform.closed", remedy="open the platform again"
            )

    async def status(self) -> PlatformStatus:
        """The firmware's version and state. A platform nobody has initialised shows neither owner nor ES."""
        return await self._node.status()

    async def identifier(self) -> bytes:
        """The chip's identifier."""
        return await self._node.fill(DeviceCommand.GET_ID2, IDENTIFIER_SIZE)

    async def certificate_chain(self) -> bytes:
        """The chain file, once its platform part is what the firmware has now."""
        chain = Chain.decode(self._read_chain())
        ours = await self.pdh_cert_export()
        now = ours.pdh + ours.pek + ours.oca
        then = b"".join(link.encode() for link in (chain.pdh, chain.pek, chain.oca))
        if not hmac.compare_digest(now, then):
            raise ConflictError(
                f"{self._chain_file} is not this platform's chain any more",
                code="platform.chain-stale",
                remedy=_EXPORT.format(self._chain_file),
            )
        return chain.encode()

    def _read_chain(self) -> bytes:
        try:
            with open(self._chain_file, "rb") as source:
                return source.read(_MAX_CHAIN_FILE)
        except OSError as error:
            raise NotFoundError(
                f"no certificate chain in {self._chain_file}: {error.strerror}",
                code="platform.no-chain",
                remedy=_EXPORT.format(self._chain_file),
            ) from error

    async def pdh_cert_export(self) -> PlatformCertificates:
        """The platform's own certificates."""
        pdh, chain = await self._node.fill_two(DeviceCommand.PDH_CERT_EXPORT, cert.SIZE, _CHAIN_SIZE)
        links = (chain[start : start + cert.SIZE] for start in range(0, _CHAIN_SIZE, cert.SIZE))
        return PlatformCertificates(pdh, *links)

    async def vendor_certificates(self) -> None:
        """None: AMD's key server has them."""
        return

    async def pek_csr(self) -> bytes:
        """The PEK's certificate without signatures."""
        return await self._node.fill(DeviceCommand.PEK_CSR, cert.SIZE)

    async def pek_cert_import(self, pek: bytes, oca: bytes) -> None:
        """Make ``oca`` the platform's owner."""
        await self._node.send_two(DeviceCommand.PEK_CERT_IMPORT, pek, oca)

    async def pek_gen(self) -> None:
        """A new OCA of the platform's own, PEK and PDH."""
        await self._node.run(DeviceCommand.PEK_GEN)

    async def pdh_gen(self) -> None:
        """A new PDH."""
        await self._node.run(DeviceCommand.PDH_GEN)

    async def reset(self) -> None:
        """FACTORY_RESET."""
        await self._node.run(DeviceCommand.FACTORY_RESET)

    async def launch(self, spec: LaunchSpec) -> DeviceLaunch:
        """Write the owner's files; QEMU does the rest when it starts."""
        check_spec(spec)
        self.require_open()
        _ = self.encryption
        files = None
        if spec.godh is not None and spec.session is not None:
            files = LaunchFiles(spec.godh, spec.session)
        return DeviceLaunch(self, spec, files)

    async def close(self) -> None:
        """Close the device. Guests live on in their QEMUs. Idempotent."""
        self._open = False
        self._node.close()
