# SPDX-License-Identifier: Apache-2.0
"""The host's half of vsock on a kernel that has it: the device's reservations, and dialling.

This machine's kernel may have no ``vhost_vsock``; that of the guests has it as a module, and so an emulated
machine plays the host. A whole pod on that host is a guest emulated by an emulated machine: right, and slow,
and therefore left out unless ``SEALPOD_TEST_NESTED`` is set. A guest without it: test_vsock_guest.py.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import kernelhost
import pytest

import sealpod
from sealpod.errors import NotFoundError
from sealpod.sandbox.spec import GuestFiles

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed"),
]

NESTED = "SEALPOD_TEST_NESTED"
SUPPORT = Path(__file__).parents[1] / "support"
MODULES = ("vsock", "vsock_loopback", "vhost_vsock", "vmw_vsock_virtio_transport")


@pytest.fixture(scope="module")
def found() -> Any:
    try:
        return kernelhost.run(
            SUPPORT / "vsockscenes.py", modules=MODULES, packages={"sealpod": Path(sealpod.__file__).parent}
        )
    except NotFoundError as error:
        pytest.skip(f"no kernel to emulate: {error.one_line()}")


def test_a_number_belongs_to_whoever_holds_its_descriptor(found: Any) -> None:
    assert found["reservations"] == {"available": True, "distinct": True, "taken": "EADDRINUSE"}


def test_guests_that_start_at_once_get_different_numbers(found: Any) -> None:
    race = found["race"]
    assert race["distinct"]
    assert race["got"] <= 8
    assert race["refused"] == ["launch.vsock"]


def test_dialling_goes_on_until_it_is_cancelled_and_leaves_no_socket(found: Any) -> None:
    unanswered = found["unanswered"]
    assert unanswered == {"no listener": True, "no guest": True, "not yet running": True, "leaked": 0}


def test_the_agents_listener_and_the_hosts_client_speak_ttrpc(found: Any) -> None:
    conversation = found["conversation"]
    assert conversation["whole"]
    assert conversation["again"] == ["again", "still"]


def test_the_agent_turns_away_who_is_not_the_host(found: Any) -> None:
    assert found["conversation"]["turned away"]


QEMU_DATA = ("bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin")
QEMU_PLACES = ("/usr/share/qemu", "/usr/share/seabios")
QEMU_MODULE = Path("/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so")


def site(name: str) -> Path:
    """Where an installed package or module is."""
    found = importlib.util.find_spec(name)
    assert found is not None
    return Path(next(iter(found.submodule_search_locations or ()), found.origin or ""))


@pytest.mark.timeout(3600)
@pytest.mark.skipif(NESTED not in os.environ, reason=f"takes many minutes; {NESTED} is not set")
def test_a_pod_on_the_kernels_own_device(guest_files: GuestFiles) -> None:
    """Nothing stands for anything: the shim's own start of a pod, QEMU, vhost-vsock, the agent."""
    files = {f"/guest/{Path(path).name}": Path(path) for path in (guest_files.kernel, guest_files.initrd)}
    for name in QEMU_DATA:
        (source,) = (path for place in QEMU_PLACES if (path := Path(place, name)).is_file())
        files[f"/usr/share/qemu/{name}"] = source
    qemu, setpriv = shutil.which("qemu-system-x86_64"), shutil.which("setpriv")
    assert qemu is not None
    assert setpriv is not None
    pod = kernelhost.run(
        SUPPORT / "vsockpod.py",
        modules=MODULES,
        packages={
            "sealpod": Path(sealpod.__file__).parent,
            **{name: site(name) for name in ("google", "qemu", "cryptography")},
            **{path.name: path for path in [site("_cffi_backend")]},
        },
        programs=(qemu, setpriv, str(QEMU_MODULE)),
        files=files,
        memory=3072,
        cpus=2,
        seconds=3500,
    )
    assert "error" not in pod, pod
    assert (pod["device"], pod["serial"]) == ("vhost-vsock-pci", False)
    # QEMU holds the number, and nobody else.
    assert (pod["opened"], pod["ours"]) == (1, 0)
    assert (pod["ready"], pod["echoed"]) == (True, True)
    assert (pod["ended"], pod["left"]) == ("sandbox.stopped", [])
