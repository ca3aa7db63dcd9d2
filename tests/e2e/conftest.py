# SPDX-License-Identifier: Apache-2.0
"""A whole installation for the length of a session: registry, key broker, platform, images, guest files.

All of it is real: docker-registry, `sealpod kbs serve`, the software firmware's process, QEMU, OVMF, and crun
in the guest. The tests are left out, saying why, where QEMU, docker-registry or a guest image is missing.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commandkit import Workplace
from containerdhost import missing
from labkit import Lab, hosted
from leftovers import Leftovers
from podimages import PodLab, pod_lab

from sealpod.demo import services
from sealpod.demo.image import build_image
from sealpod.errors import NotFoundError
from sealpod.guestimage import locate
from sealpod.guestimage.busybox import read_busybox
from sealpod.guestimage.cache import cache_directory
from sealpod.image.ports import RawManifest
from sealpod.oci import mediatypes
from sealpod.platform.model import open_model
from sealpod.qemu.acceleration import choose_accelerator
from sealpod.qemu.binary import find_qemu
from sealpod.registry.transports import open_sink
from sealpod.sandbox.spec import GuestFiles
from sealpod.sev.chain import Chain

MESSAGE = "only the guest may read this"
KEY_ID, KEYSET = "key_id1", "KEYSET-1"


@pytest.fixture(scope="session")
def guest_files() -> GuestFiles:
    for program in ("qemu-system-x86_64", "docker-registry"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    try:
        image = locate()
    except NotFoundError as error:
        pytest.skip(f"no guest to boot: {error.one_line()}")
    return GuestFiles(os.path.abspath(image.firmware), image.kernel, image.initrd)


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


async def _probe(state: str, cache: str) -> tuple[str, str]:
    """The accelerator guests get here, and the fingerprint of a new platform's root."""
    accelerator, _ = await choose_accelerator(await find_qemu(), cache)
    platform = await open_model(state)
    try:
        return accelerator, Chain.decode(await platform.certificate_chain()).ark.sha256
    finally:
        await platform.close()


@pytest.fixture(scope="session")
def lab(
    guest_files: GuestFiles, runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("lab")
    state = str(root / "platform")
    accelerator, ark = runner.run(_probe(state, cache_directory()))
    with (
        hosted(runner, services.registry(str(root / "registry"))) as registry,
        hosted(runner, services.broker(str(root), ark)) as broker,
    ):
        place = Workplace(root / "place", cache_directory())
        database = f"sqlite:///{root}/kbs.db"
        made = Lab(place, guest_files, accelerator, state, ark, registry, broker, database)
        _publish(made, root)
        _fill_broker(made, root)
        yield made


def _publish(lab: Lab, root: Path) -> None:
    """``plain``; ``user`` (not root); ``encrypted``; ``wrong`` and ``nobody`` for keys the broker lacks."""
    layout = root / "image"
    sink, tag = open_sink(f"oci:{layout}:app")
    build_image(sink, tag, read_busybox(), MESSAGE)
    _add_user(layout, sink, "1234:2345")
    for name, source in (("plain", "app"), ("user", "user")):
        done = lab.place.sealpod("image", "copy", f"oci:{layout}:{source}", f"docker://{lab.image(name)}")
        assert done.status == 0, done.stderr
    for name, key_id in (("encrypted", KEY_ID), ("wrong", "wrong"), ("nobody", "nobody")):
        key = root / f"key-{key_id}"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(32))
        names = (f"oci:{layout}:app", f"docker://{lab.image(name)}")
        done = lab.place.sealpod("image", "encrypt", *names, "--key-id", key_id, "--key-file", str(key))
        assert done.status == 0, done.stderr


def _add_user(layout: Path, sink: Any, user: str) -> None:
    def blob(digest: str) -> Any:
        return json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())

    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = blob(entry["digest"])
    config = blob(manifest["config"]["digest"])
    config["config"]["User"] = user
    digest, size = sink.put_blob(io.BytesIO(json.dumps(config).encode()))
    manifest["config"] |= {"digest": str(digest), "size": size}
    sink.put_manifest("user", RawManifest(mediatypes.OCI_MANIFEST, json.dumps(manifest).encode()))


def _fill_broker(lab: Lab, root: Path) -> None:
    """One policy over both ways to the key; a key that is not the one its image was encrypted with."""
    digests = [
        word
        for kbc in ("offline", "online")
        for word in ("--digest", json.loads(lab.reference(lab.image("encrypted"), kbc))["digest"])
    ]
    lab.broker_set("policy", "set", "app", *digests)
    lab.broker_set("secret", "set", KEY_ID, "--from-file", str(root / f"key-{KEY_ID}"), "--policy", "app")
    lab.broker_set("secret", "set", "wrong", "--from-file", str(root / f"key-{KEY_ID}"))
    lab.broker_set("keyset", "set", KEYSET, "--secret", KEY_ID, "--policy", "app")


@pytest.fixture
def clean(lab: Lab) -> Iterator[None]:
    """Nothing of the test's commands may be left after it."""
    with lab.place.unchanged():
        yield


@pytest.fixture(scope="session")
def pods(guest_files: GuestFiles) -> Iterator[PodLab]:
    """A node with containerd, and all that its pods need around them."""
    if absent := missing():
        pytest.skip(f"no pods without {absent}")
    with pod_lab() as made:
        yield made


@pytest.fixture
def nothing_left(pods: PodLab) -> Iterator[None]:
    """Whatever the test's pods went through, nothing of them stays once they are removed."""
    kept = pods.host.cri.pods()
    before = Leftovers(pods)
    yield
    pods.host.clear(kept)
    before.assert_none()
