# SPDX-License-Identifier: Apache-2.0
"""The snapshotter under a real containerd, 1.6 and 1.7: no layer of a guest's image reaches the host.

The images of ``host/`` are those the node runs itself.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest
from containerd17 import Containerd, fetched, installed
from criclient import CRI, Pod
from imagekit import make_tar, member, put_image
from localregistry import PROGRAM, docker_registry
from snapshotkit import IMAGE, REF
from snapshotnode import SnapshotNode, snapshot_node

from sealpod.errors import NotFoundError
from sealpod.guestimage.busybox import read_busybox
from sealpod.oci.manifest import Manifest
from sealpod.registry.transports import open_sink
from sealpod.wire.snapshotapi import COMMITTED, NAMED

SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(PROGRAM is None, reason="docker-registry is not installed"),
    pytest.mark.skipif(shutil.which("runc", path=SBIN) is None, reason="runc is not installed"),
]
MARKER = b"nobody-on-the-host-reads-this"
HANDLER = {"io.containerd.cri.runtime-handler": "guest"}
VERSIONS = ("1.6", "1.7")


@dataclass(frozen=True)
class Images:
    """A registry and, by name, the digests of its images' layers."""

    registry: str
    layers: dict[str, tuple[str, ...]]

    def name(self, image: str) -> str:
        return f"{self.registry}/{image}:1"


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    try:
        busybox = read_busybox()
    except NotFoundError as error:
        pytest.skip(str(error))
    links = [member(f"bin/{name}", b"2", linkname="busybox") for name in ("sh", "sleep", "cat", "ls", "id")]
    base = make_tar([member("bin", b"5"), member("bin/busybox", content=busybox, mode=0o755), *links])
    users = make_tar(
        [
            member("etc", b"5"),
            member("etc/passwd", content=b"root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n"),
            member("etc/old", content=b"replaced and removed"),
        ]
    )
    last = make_tar(
        [member("etc", b"5"), member("etc/.wh.old"), member("etc/new", content=b"of the last layer")]
    )
    secret = make_tar([member("secret", content=MARKER)])
    contents: dict[str, tuple[list[bytes], dict[str, object]]] = {
        "host/pause": ([base], {"Cmd": ["/bin/sleep", "1000000"]}),
        "host/tool": ([base, users, last], {"Cmd": ["/bin/sleep", "1000000"], "User": "web"}),
        "guest/app": ([secret, users, last], {"Cmd": ["/bin/app"]}),
        "guest/other": ([secret, last], {"Cmd": ["/bin/app"]}),
        "guest/named": ([secret, users], {"Cmd": ["/bin/app"], "User": "web"}),
        "guest/grouped": ([secret, users, last, secret], {"Cmd": ["/bin/app"], "User": "web:staff"}),
        "guest/numbered": ([secret, users, secret], {"Cmd": ["/bin/app"], "User": "1000:1001"}),
        "host/shared": ([secret, base], {"Cmd": ["/bin/sh"]}),
    }
    with tempfile.TemporaryDirectory() as directory, docker_registry(directory) as registry:
        found = {}
        for name, (layers, config) in contents.items():
            sink, tag = open_sink(f"docker://{registry}/{name}:1")
            raw = put_image(sink, tag, layers, config=config)
            found[name] = tuple(str(layer.digest) for layer in Manifest.decode(raw.body).layers)
        yield Images(registry, found)


def version(wanted: str) -> Containerd:
    found = installed(wanted) if wanted == "1.6" else fetched(wanted)
    if found.missing:
        pytest.skip(found.missing)
    return found


@pytest.fixture(params=VERSIONS)
def node(request: pytest.FixtureRequest, images: Images) -> Iterator[SnapshotNode]:
    with snapshot_node(version(request.param), images.registry) as made:
        yield made


def run_pod(node: SnapshotNode, handler: str = "", annotations: dict[str, str] | None = None) -> Pod:
    config = node.cri.pod_config(f"{node.directory}/logs", annotations=annotations, host_network=True)
    config.hostname = ""  # the host's, as its network is
    return node.cri.run_config(handler, config)


def test_a_guests_image_is_pulled_without_its_layers(node: SnapshotNode, images: Images) -> None:
    name = images.name("guest/app")
    node.cri.pull(name)
    assert node.cri.has_image(name)
    assert not node.blobs() & set(images.layers["guest/app"])
    assert node.blobs(), "manifest and configuration are there"
    assert node.holding(MARKER) == []
    (infos,) = node.snapshots.infos()
    assert [info.kind for info in infos] == [COMMITTED] * 3
    assert [info.parent for info in infos] == ["", infos[0].name, infos[1].name]
    assert {info.labels[IMAGE] for info in infos} == {name}
    assert all(info.labels[REF] == info.name for info in infos)
    assert os.listdir(f"{node.directory}/sn/snapshots") == []
    # A second image of the same first layer adds what it does not share.
    node.cri.pull(images.name("guest/other"))
    assert len(node.snapshots.list()) == 4
    # A second pull of the first one finds it.
    node.cri.pull(name)
    assert len(node.snapshots.list()) == 4


def test_removed_images_leave_no_snapshots(node: SnapshotNode, images: Images) -> None:
    for name in ("guest/app", "guest/other"):
        node.cri.pull(images.name(name))
    node.cri.remove_image(images.name("guest/app"))
    node.wait_for_snapshots(2)
    node.cri.remove_image(images.name("guest/other"))
    node.wait_for_snapshots(0)
    node.cri.pull(images.name("guest/app"))
    assert len(node.snapshots.list()) == 3


def test_what_was_pulled_survives_restarts(node: SnapshotNode, images: Images) -> None:
    node.cri.pull(images.name("guest/app"))
    before = node.snapshots.list()
    assert node.end("containerd") == 0
    assert node.end("snapshotter") == 0
    node.start_snapshotter()
    node.start_containerd()
    assert node.cri.has_image(images.name("guest/app"))
    assert node.snapshots.list() == before
    node.end("snapshotter", kill=True)
    node.start_snapshotter()
    node.pull_again(images.name("guest/app"))
    node.cri.pull(images.name("guest/other"))
    assert len(node.snapshots.list()) == 4
    assert not node.blobs() & set(images.layers["guest/app"])


def test_namespaces_share_layers_and_keep_them_for_each_other(node: SnapshotNode, images: Images) -> None:
    name = images.name("guest/app")
    node.cri.pull(name)
    shown = node.ctr("images", "export", f"{node.directory}/x.tar", name)
    assert shown.returncode != 0  # there is nothing to export
    before = node.snapshots.list()
    # Another namespace is told the same, under its own names.
    for ref, parent in zip(before, ["", *before], strict=False):
        done = node.snapshots.refused(
            "Prepare", key=f"moby/1/extract-1 {ref}", parent=parent, labels={REF: ref}
        )
        assert done[0] == grpc.StatusCode.ALREADY_EXISTS
    assert node.snapshots.list() == before


def test_containers_of_the_host_run_from_what_was_unpacked(node: SnapshotNode, images: Images) -> None:
    pod = run_pod(node)
    assert set(images.layers["host/pause"]) <= node.blobs()
    container = node.cri.run(pod, images.name("host/tool"))
    assert set(images.layers["host/tool"]) <= node.blobs()
    assert node.cri.read(container, "cat", "/etc/new") == "of the last layer"
    assert node.cri.read(container, "ls", "/etc").split() == [
        "group",
        "hostname",
        "hosts",
        "new",
        "passwd",
    ] or ("old" not in node.cri.read(container, "ls", "/etc").split())
    assert node.cri.read(container, "id", "-u").strip() == "1000"  # found by name in the mounted layers
    node.cri.end_pod(pod)
    for name in ("host/tool", "host/pause"):
        node.cri.remove_image(images.name(name))
    node.wait_for_snapshots(0)
    assert os.listdir(f"{node.directory}/sn/snapshots") == []


def test_a_guests_container_gets_an_empty_directory(node: SnapshotNode, images: Images) -> None:
    pod = run_pod(node)
    known = set(node.snapshots.list())
    node.cri.pull(images.name("guest/app"))
    container = node.cri.create(pod, images.name("guest/app"))
    (key,) = [name for name in node.snapshots.list("kind==active") if name not in known]
    assert key.endswith(f"/{container}")
    (mount,) = node.snapshots("Mounts", key=key).mounts
    assert mount.type == "bind"
    assert list(mount.options)[:2] == ["rbind", "rw"]
    assert mount.options[2].startswith("io.katacontainers.volume=")
    assert os.listdir(mount.source) == []
    # containerd's client can mount it, option and all.
    target = f"{node.directory}/mnt"
    os.mkdir(target)
    done = node.ctr("snapshots", "--snapshotter", "sealpod", "mounts", target, container)
    assert done.returncode == 0, done.stderr
    assert "io.katacontainers.volume=" in done.stdout
    node.cri.remove(container)
    node.wait_for_snapshots(len(known) + 3)
    assert not os.path.exists(mount.source)
    assert node.holding(MARKER) == []


def test_users_by_name_get_numbers_that_stand_for_them(node: SnapshotNode, images: Images) -> None:
    pod = run_pod(node)

    def user_of(image: str, name: str, **security: object) -> tuple[int, int, list[int]]:
        """What containerd tells a shim of the container's user."""
        container = node.cri.create(pod, images.name(image), name=name, security=security)
        done = node.ctr("containers", "info", "--spec", container)
        assert done.returncode == 0, done.stderr
        user = json.loads(done.stdout)["process"]["user"]
        return user["uid"], user["gid"], [gid for gid in user.get("additionalGids", ()) if gid not in NAMED]

    for name in ("guest/named", "guest/grouped", "guest/numbered"):
        node.cri.pull(images.name(name))
    first, second = NAMED[:2]
    assert user_of("guest/numbered", "numbered")[:2] == (1000, 1001)
    assert user_of("guest/named", "named")[:2] == (first, first)
    # As kubelet does it, which has asked for the image's user.
    assert user_of("guest/named", "kubelet", run_as_username="web", supplemental_groups=[7])[::2] == (
        first,
        [7],
    )
    assert user_of("guest/grouped", "grouped")[:2] == (first, second)
    assert user_of("guest/named", "given", run_as_user=CRI.new("Int64", value=1000))[0] == 1000
    # Nothing is made up for a name that no image of these layers has.
    with pytest.raises(grpc.RpcError) as caught:
        user_of("guest/named", "stranger", run_as_username="stranger")
    assert "no users found" in caught.value.details()


def test_an_image_of_the_host_upon_a_guests_layer_is_refused(node: SnapshotNode, images: Images) -> None:
    node.cri.pull(images.name("guest/app"))
    with pytest.raises(grpc.RpcError) as caught:
        node.cri.pull(images.name("host/shared"))
    assert "snapshotter.shared-layer" in caught.value.details()
    node.cri.remove_image(images.name("guest/app"))
    node.wait_for_snapshots(0)
    # The other order works: the guest's layers stand upon the host's.
    node.cri.pull(images.name("host/shared"))
    node.cri.pull(images.name("guest/app"))
    assert not node.blobs() & set(images.layers["guest/app"][1:])


def test_what_ctr_fetched_itself_is_unpacked_as_anywhere(node: SnapshotNode, images: Images) -> None:
    # ctr fetches all layers before it asks for a snapshot, as an import of a file does.
    name = images.name("guest/app")
    words = ["images", "pull", "--plain-http", "--snapshotter", "sealpod", name]
    done = node.ctr(*words, namespace="default")
    assert done.returncode == 0, done.stderr
    assert node.blobs() >= set(images.layers["guest/app"])
    assert len(node.snapshots.list()) == 3
    target = f"{node.directory}/mnt"
    os.mkdir(target)
    done = node.ctr("images", "mount", "--snapshotter", "sealpod", name, target, namespace="default")
    assert done.returncode == 0, done.stderr
    try:
        assert sorted(os.listdir(f"{target}/etc")) == ["new", "passwd"]  # the last layer removed a file
    finally:
        done = node.ctr("images", "unmount", "--rm", "--snapshotter", "sealpod", target, namespace="default")
    assert done.returncode == 0, done.stderr


def test_a_runtime_may_have_the_snapshotter_for_itself(images: Images) -> None:
    with snapshot_node(version("1.7"), images.registry, per_runtime=True) as node:
        name = images.name("guest/app")
        pod = run_pod(node, "guest", annotations=HANDLER)
        node.cri.pull(name, pod)
        assert not node.blobs() & set(images.layers["guest/app"])
        assert node.holding(MARKER) == []
        node.cri.create(pod, name)
        assert len(node.snapshots.list("kind==active")) >= 1
        # Pods of other runtimes have containerd's own snapshotter.
        other = run_pod(node)
        container = node.cri.run(other, images.name("host/tool"))
        assert node.cri.read(container, "cat", "/etc/new") == "of the last layer"
