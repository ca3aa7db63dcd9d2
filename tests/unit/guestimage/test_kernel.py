# SPDX-License-Identifier: Apache-2.0
"""Modules out of a kernel package: names, needs, order, compression, signature."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, NotFoundError
from sealpod.guestimage import kernel

RELEASE = "6.12.0-test"


def module(name: str, *needs: str) -> bytes:
    return (
        b"\x7fELF...\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=" + name.encode() + b"\0"
    )


def signed(content: bytes, signature: bytes = b"s" * 40) -> bytes:
    trailer = kernel.SIGNATURE_TRAILER.pack(0, 0, 2, 0, 0, len(signature))
    return content + signature + trailer + kernel.SIGNATURE_MAGIC


@pytest.fixture
def package(tmp_path: Path) -> Path:
    modules = tmp_path / "lib/modules" / RELEASE / "kernel/drivers/net"
    modules.mkdir(parents=True)
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / f"vmlinuz-{RELEASE}").write_bytes(b"kernel")
    (modules / "virtio_net.ko.xz").write_bytes(lzma.compress(signed(module("virtio_net", "net_failover"))))
    (modules / "net_failover.ko").write_bytes(module("net_failover", "failover"))
    (modules / "failover.ko").write_bytes(module("failover"))
    (modules / "dash-name.ko").write_bytes(module("dash_name", "dash-need"))
    (modules / "dash-need.ko").write_bytes(module("dash_need"))
    (modules / "ring-a.ko").write_bytes(module("ring_a", "ring_b"))
    (modules / "ring-b.ko").write_bytes(module("ring_b", "ring_a"))
    return tmp_path


def test_needs_come_first(package: Path) -> None:
    found = kernel.read(str(package), ("virtio_net", "failover"))
    assert found.release == RELEASE
    assert [name for name, _ in found.modules] == ["failover", "net_failover", "virtio_net"]
    assert dict(found.modules)["virtio_net"] == module("virtio_net", "net_failover")


def test_dashes_are_underscores(package: Path) -> None:
    found = kernel.read(str(package), ("dash_name",))
    assert [name for name, _ in found.modules] == ["dash_need", "dash_name"]


def test_modules_for_later_are_kept_apart(package: Path) -> None:
    found = kernel.read(str(package), ("net_failover",), ("dash_name", "virtio_net"))
    assert [name for name, _ in found.modules] == ["failover", "net_failover"]
    assert [name for name, _ in found.later] == ["dash_need", "dash_name", "virtio_net"]


@pytest.mark.parametrize("name", ["absent", "ring_a"])
def test_a_module_that_cannot_be_had(package: Path, name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        kernel.read(str(package), (name,))
    assert caught.value.code == "guest.kernel"


def test_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        kernel.read(str(tmp_path), ())


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_the_signature_is_taken_off(content: bytes, signature: bytes) -> None:
    assert kernel.without_signature(signed(content, signature)) == content


def test_a_signature_that_does_not_fit() -> None:
    with pytest.raises(DecodeError):
        kernel.without_signature(kernel.SIGNATURE_MAGIC)
    with pytest.raises(DecodeError):
        kernel.without_signature(signed(b"abc", b"s" * 40)[10:])


def test_damaged_compression(package: Path) -> None:
    path = package / "lib/modules" / RELEASE / "kernel/drivers/net/virtio_net.ko.xz"
    path.write_bytes(b"not xz")
    with pytest.raises(DecodeError):
        kernel.read(str(package), ("virtio_net",))
