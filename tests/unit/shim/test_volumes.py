# SPDX-License-Identifier: Apache-2.0
"""Volumes brought into the guest: what is copied, what is made there, what is left to the agent."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sealpod.errors import OperationError, RefusedError, SealpodError, UsageError
from sealpod.shim import copying, kubeletvolume
from sealpod.shim.agentspec import rootfs_path
from sealpod.shim.kubeletvolume import KubeletVolume
from sealpod.shim.volumes import SHARED, Volumes


class Store:
    """The guest's files, as CopyFile leaves them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.modes: dict[str, int] = {}
        self.order: list[str] = []
        self.largest = 0
        self.refusal: SealpodError | None = None
        self._news = asyncio.Event()

    async def call(self, method: str, request: Any, *, seconds: float | None = None) -> bytes:
        assert method == "CopyFile"
        if self.refusal is not None:
            raise self.refusal
        self.largest = max(self.largest, len(request.data))
        old = self.files.get(request.path, b"") if request.offset else b""
        assert len(old) == request.offset
        self.files[request.path] = old + request.data
        self.modes[request.path] = request.file_mode
        self.order.append(request.path)
        self._news.set()
        return b""

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._news.clear()
                await self._news.wait()


def play(scenario: Callable[[Store, Volumes], Awaitable[None]]) -> None:
    async def whole() -> None:
        store = Store()
        volumes = Volumes(store, "pod")  # type: ignore[arg-type]
        try:
            await scenario(store, volumes)
        finally:
            volumes.close()

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(whole())
    assert len(os.listdir("/proc/self/fd")) == before


def bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    return {
        "destination": destination,
        "source": str(source),
        "type": "bind",
        "options": ["rbind", "rprivate", *options],
    }


def secret(directory: Path, version: str, value: str) -> None:
    """Write a version as kubelet does: whole, then the link in one step."""
    place = directory / f"..{version}"
    place.mkdir()
    (place / "key").write_text(value)
    (place / "key").chmod(0o440)
    os.symlink(f"..{version}", directory / "..data_tmp")
    os.rename(directory / "..data_tmp", directory / "..data")
    if not (directory / "key").is_symlink():
        os.symlink("..data/key", directory / "key")


def test_a_file_in_chunks_with_its_mode(tmp_path: Path) -> None:
    source = tmp_path / "hosts"
    data = os.urandom((2 << 20) + 5)
    source.write_bytes(data)
    source.chmod(0o640)

    async def scenario(store: Store, volumes: Volumes) -> None:
        mounts, storages = await volumes.bring("one", [bind(source, "/etc/hosts", "ro")])
        assert storages == []
        mount = mounts[0]
        assert mount.source.startswith(f"{SHARED}/one-")
        assert mount.source.endswith("-hosts")
        assert list(mount.options) == ["rbind", "ro"]
        assert store.files == {mount.source: data}
        assert store.modes[mount.source] == stat.S_IFREG | 0o640
        assert store.largest == copying.CHUNK

    play(scenario)


def test_a_secret_with_kubelets_layout_and_its_next_version(tmp_path: Path) -> None:
    secret(tmp_path, "v1", "old")

    async def scenario(store: Store, volumes: Volumes) -> None:
        mounts, _ = await volumes.bring("one", [bind(tmp_path, "/etc/secret")])
        place = mounts[0].source
        assert store.files[f"{place}/..v1/key"] == b"old"
        assert store.modes[f"{place}/..v1/key"] & 0o777 == 0o440
        assert stat.S_ISLNK(store.modes[f"{place}/..data"])
        assert store.files[f"{place}/..data"] == b"..v1"
        assert store.files[f"{place}/key"] == b"..data/key"
        secret(tmp_path, "v2", "new")
        for path in (tmp_path / "..v1").iterdir():
            path.unlink()
        (tmp_path / "..v1").rmdir()
        await store.until(lambda: store.files[f"{place}/..data"] == b"..v2")
        await store.until(lambda: store.order[-1] == f"{place}/key")
        # The guest removes an old version itself; nothing is written there again.
        assert store.order.count(f"{place}/..v1/key") == 1
        assert store.files[f"{place}/..v2/key"] == b"new"
        # There before it is switched to.
        last = len(store.order) - 1 - store.order[::-1].index(f"{place}/..data")
        assert store.order.index(f"{place}/..v2/key") < last

    play(scenario)


def test_what_leaves_another_directory_is_emptied(tmp_path: Path) -> None:
    for name in ("kept", "withdrawn", "..odd"):
        (tmp_path / name).write_text("secret")

    async def scenario(store: Store, volumes: Volumes) -> None:
        mounts, _ = await volumes.bring("one", [bind(tmp_path, "/x")])
        place = mounts[0].source
        for name in ("withdrawn", "..odd"):
            (tmp_path / name).unlink()
        (tmp_path / "new").write_text("n")  # what is noticed is something new
        await store.until(lambda: store.files[f"{place}/withdrawn"] == store.files[f"{place}/..odd"] == b"")
        assert store.files[f"{place}/kept"] == b"secret"

    play(scenario)


def test_nothing_is_refreshed_for_a_container_that_is_gone(tmp_path: Path) -> None:
    secret(tmp_path, "v1", "old")

    async def scenario(store: Store, volumes: Volumes) -> None:
        await volumes.bring("one", [bind(tmp_path, "/s")])
        mounts, _ = await volumes.bring("two", [bind(tmp_path, "/s")])
        volumes.forget("one")
        store.order.clear()
        secret(tmp_path, "v2", "new")
        place = mounts[0].source
        await store.until(lambda: store.files.get(f"{place}/..data") == b"..v2")
        assert all(path.startswith(place) for path in store.order)

    play(scenario)


def test_empty_dirs_are_made_in_the_guest(tmp_path: Path) -> None:
    plain = tmp_path / "kubernetes.io~empty-dir" / "cache"
    plain.mkdir(parents=True)

    async def scenario(store: Store, volumes: Volumes) -> None:
        for name in ("one", "two"):
            mounts, storages = await volumes.bring(name, [bind(plain, "/cache")])
            assert mounts[0].source == f"{SHARED}/pod/rootfs/local/cache"
            assert [(one.driver, one.mount_point) for one in storages] == [("local", mounts[0].source)]
            assert list(storages[0].options) == ["mode=0777"]
        assert store.files == {}

    play(scenario)


def test_an_empty_dir_in_memory_is_sticky(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = KubeletVolume("empty-dir", "fast", "", memory=True, size="8192k", group=4321)
    monkeypatch.setattr(kubeletvolume, "find", lambda _source: fast)

    async def scenario(_store: Store, volumes: Volumes) -> None:
        _, storages = await volumes.bring("one", [bind(Path("/any"), "/dev/shm")])
        assert [one.driver for one in storages] == ["ephemeral"]
        assert list(storages[0].options) == ["mode=1777", "fsgid=4321", "size=8192k"]

    play(scenario)


def test_an_empty_dir_has_its_pods_group_and_its_size(tmp_path: Path) -> None:
    plain = tmp_path / "kubernetes.io~empty-dir" / "cache"
    plain.mkdir(parents=True)
    os.chown(plain, -1, 4321)
    fast = str(tmp_path / "kubernetes.io~empty-dir" / "fast")
    table = tmp_path / "mountinfo"
    table.write_text(f"70 1 0:70 / {fast} rw,relatime shared:7 - tmpfs tmpfs rw,size=65536k,inode64\n")
    assert kubeletvolume.find(fast, str(table)) == KubeletVolume("empty-dir", "fast", "", True, "65536k")
    assert kubeletvolume.find(f"{fast}er", str(table)) == KubeletVolume("empty-dir", "faster", "")

    async def scenario(_store: Store, volumes: Volumes) -> None:
        # Both are volumes whatever the guest has of its own there.
        for place in ("/cache", "/dev/shm", "/dev/cache"):
            mounts, storages = await volumes.bring("one", [bind(plain, place)])
            assert [(one.destination, one.source) for one in mounts] == [(place, storages[0].mount_point)]
            assert list(storages[0].options) == ["mode=0777", "fsgid=4321"]

    play(scenario)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            # On the node's disk: the root of the mount is a path in the disk's file system.
            "90 1 8:1 /u/volumes/kubernetes.io~empty-dir/data/a/b {source} rw - ext4 /dev/sda1 rw\n",
            KubeletVolume("empty-dir", "data", "a/b"),
        ),
        (
            """\
80 1 0:80 / {pod}/volumes/kubernetes.io~empty-dir/fast rw - tmpfs tmpfs rw,size=64k
90 1 0:80 /a/b {source} rw - tmpfs tmpfs rw,size=64k
""",
            KubeletVolume("empty-dir", "fast", "a/b", True, "64k"),
        ),
        (
            """\
80 1 8:9 / {pod}/volumes/kubernetes.io~csi/pvc-1/mount rw - ext4 x rw
90 1 8:9 /k {source} rw - ext4 x rw
""",
            KubeletVolume("csi", "pvc-1", "k"),
        ),
        ("90 1 8:1\n\n90 1 8:1 / {source} rw - ext4\n", None),
        ("", None),
    ],
)
def test_part_of_a_volume(tmp_path: Path, lines: str, expected: KubeletVolume | None) -> None:
    pod = "/var/lib/kubelet/pods/u"
    source = f"{pod}/volume-subpaths/v/c/0"
    table = tmp_path / "mountinfo"
    table.write_text(lines.format(source=source, pod=pod))
    assert kubeletvolume.find(source, str(table)) == expected


def test_a_volume_whose_data_must_last_is_not_copied_to_be_written_to(tmp_path: Path) -> None:
    volume = tmp_path / "pods/u/volumes/kubernetes.io~csi/pvc-1/mount"
    volume.mkdir(parents=True)
    (volume / "data").write_text("x")

    async def scenario(store: Store, volumes: Volumes) -> None:
        with pytest.raises(UsageError, match="/data would be lost") as caught:
            await volumes.bring("one", [bind(volume, "/data", "rw")])
        assert caught.value.code == "shim.volume"
        assert store.files == {}
        mounts, _ = await volumes.bring("one", [bind(volume, "/data", "ro")])
        assert store.files[f"{mounts[0].source}/data"] == b"x"

    play(scenario)


def test_an_images_volume_is_the_images(tmp_path: Path) -> None:
    source = tmp_path / "containers/one/volumes" / ("ab" * 32)
    source.mkdir(parents=True)

    async def scenario(store: Store, volumes: Volumes) -> None:
        store.refusal = OperationError("CopyFileRequest is blocked")
        mounts, storages = await volumes.bring("one", [bind(source, "/data", "rw")])
        assert (mounts[0].source, list(mounts[0].options)) == (f"{rootfs_path('one')}/data", ["rbind", "rw"])
        assert not storages

    play(scenario)


def test_the_guests_own_mounts_are_left_to_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
        bind("/dev/shm", "/dev/shm"),
        {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]},
        bind(log, "/dev/termination-log"),
    ]

    async def scenario(store: Store, volumes: Volumes) -> None:
        found, _ = await volumes.bring("one", mounts)
        assert [(one.destination, one.type) for one in found] == [
            ("/scratch", "tmpfs"),
            ("/dev/termination-log", "bind"),
        ]

    play(scenario)


def test_a_privileged_containers_sys_is_asked_for() -> None:
    kernels = [("/sys", "sysfs"), ("/sys/fs/cgroup", "cgroup"), ("/proc", "proc")]

    async def scenario(store: Store, volumes: Volumes) -> None:
        for option, wanted in (("ro", []), ("rw", kernels[:2])):
            mounts = [
                {"destination": place, "type": kind, "source": kind, "options": ["nosuid", option]}
                for place, kind in kernels
            ]
            found, _ = await volumes.bring("one", mounts)
            assert [(one.destination, one.type) for one in found] == wanted
            assert all("rw" in one.options for one in found)

    play(scenario)


def test_mounts_that_are_to_show_on_the_node_are_refused(tmp_path: Path) -> None:
    """``mountPropagation: Bidirectional``; what the node mounts later does not come in, but harms nobody."""
    scratch = tmp_path / "kubernetes.io~empty-dir/scratch"
    scratch.mkdir(parents=True)

    async def scenario(store: Store, volumes: Volumes) -> None:
        for source in (tmp_path, scratch):
            with pytest.raises(UsageError, match="/x would not be seen on the node") as caught:
                await volumes.bring("one", [bind(source, "/x", "rshared")])
            assert caught.value.code == "shim.volume"
        found, _ = await volumes.bring("two", [bind(tmp_path, "/x", "rslave")])
        assert len(found) == 1
        volumes.forget("two")

    play(scenario)


def test_volumes_below_the_kernels_places_are_not_left_out(tmp_path: Path) -> None:
    """The kernel's own, of the host, is the guest's own; anything else is brought there or refused."""
    (tmp_path / "key").write_text("x")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    mounts = [
        bind("/dev", "/dev"),
        bind("/dev", "//dev/"),
        bind("/sys/kernel", "/sys/kernel"),
        bind("/dev/null", "/dev/null"),
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
        bind(tmp_path, "/dev/settings"),
        bind(tmp_path, "/sys/settings"),
        {"destination": "/dev/scratch", "type": "tmpfs", "source": "tmpfs", "options": []},
    ]

    async def scenario(store: Store, volumes: Volumes) -> None:
        found, _ = await volumes.bring("one", mounts)
        assert [one.destination for one in found] == ["/dev/settings", "/sys/settings", "/dev/scratch"]
        with pytest.raises(UsageError) as caught:
            await volumes.bring("one", [bind(pipe, "/dev/tun")])
        assert caught.value.code == "shim.volume"
        volumes.forget("one")

    play(scenario)


def test_what_cannot_be_copied_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "MAX_FILES", 3)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    many = tmp_path / "many"
    many.mkdir()
    for number in range(4):
        (many / str(number)).touch()

    async def scenario(store: Store, volumes: Volumes) -> None:
        for source, error in ((pipe, UsageError), (many, UsageError), (tmp_path / "none", UsageError)):
            with pytest.raises(error) as caught:
                await volumes.bring("one", [bind(source, "/x")])
            assert caught.value.code == "shim.volume"
        with pytest.raises((UsageError, OperationError)):
            await volumes.bring("one", [bind("/dev/null", "/x")])
        volumes.forget("one")

    play(scenario)


def test_what_the_owner_lets_nobody_bring_in(tmp_path: Path) -> None:
    """The guest's own files do for name service; a volume somebody counts on is not left out in silence."""
    file = tmp_path / "file"
    file.write_text("x")

    async def scenario(store: Store, volumes: Volumes) -> None:
        store.refusal = OperationError("CopyFileRequest is blocked")
        names = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"]
        found, _ = await volumes.bring("one", [bind(file, name) for name in names])
        assert found == []
        for source in (file, tmp_path):
            with pytest.raises(RefusedError, match="/etc/settings") as caught:
                await volumes.bring("two", [bind(source, "/etc/settings")])
            assert caught.value.code == "shim.copy-blocked"
        volumes.forget("two")
        store.refusal = OperationError("no space left")
        with pytest.raises(OperationError, match="no space"):
            await volumes.bring("three", [bind(file, "/etc/hosts")])

    play(scenario)


def test_special_files_in_a_directory_are_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")

    async def scenario(store: Store, volumes: Volumes) -> None:
        mounts, _ = await volumes.bring("one", [bind(tmp_path, "/x")])
        assert set(store.files) == {mounts[0].source, f"{mounts[0].source}/file"}

    play(scenario)
