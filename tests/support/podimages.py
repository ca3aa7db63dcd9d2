# SPDX-License-Identifier: Apache-2.0
"""What pods need around them: a registry and a key broker on the pods' network, and images in both forms.

:class:`PodLab` is a whole site: network, registry, broker, platform, images, one containerd. Everything that
is started carries a mark in its environment and has the site's directory in its arguments, so that what is
left of it can be told from others' work (see :mod:`leftovers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cnikit
import tutorial
from commandkit import Command, Workplace
from containerdhost import ContainerdHost, running
from imagekit import make_tar, member, put_image
from labkit import qemu_script
from localregistry import docker_registry

from sealpod.guestimage.busybox import read_busybox
from sealpod.guestimage.cache import cache_directory
from sealpod.platform.model import open_model
from sealpod.qemu.acceleration import choose_accelerator
from sealpod.qemu.binary import find_qemu
from sealpod.qemu.vcpu import vcpu_signature
from sealpod.registry.transports import open_sink
from sealpod.sandbox.inputs import LaunchInputs, read_inputs
from sealpod.sandbox.podsettings import pod_settings
from sealpod.sandbox.spec import PodSpec
from sealpod.sev.chain import Chain

BLOCKED = ("ExecProcessRequest", "ReadStreamRequest", "CopyFileRequest")
KEY_ID, KEYSET = "key_id1", "KEYSET-1"
MEMORY = 512  # MiB of each guest
APPLETS = (
    *("cat", "chmod", "chown", "cp", "date", "dd", "df", "echo", "env", "false", "free", "grep", "head"),
    *("hostname", "httpd", "id", "ip", "ipcs", "kill", "ln", "ls", "mkdir", "mount", "nc", "ps", "pwd"),
    *("readlink", "rm", "seq", "sh", "sleep", "stat", "stty", "tail", "test", "touch", "tr", "true", "tty"),
    *("umount", "uname", "wc", "wget", "yes"),
)
CONFIDENTIAL = "kata-qemu-sev"
# Runtime handlers of the site: the shim's name, the broker's mode, words for the command line.
HANDLERS = {
    "kata": ("kata", "", ""),
    "kata-qemu": ("kata-qemu", "", ""),
    "counted": ("kata-qemu", "", ""),
    "closed": ("kata-qemu", "", f"agent.blocked_endpoints={','.join(BLOCKED)}"),
    "signed": ("kata-qemu", "", "agent.enable_signature_verification=true"),
    "no-agent": ("kata-qemu", "", "rdinit=/floor"),
    "no-kernel": ("kata-qemu", "", ""),
    "halting": (CONFIDENTIAL, "online", ""),
    CONFIDENTIAL: (CONFIDENTIAL, "online", ""),
    "offline": (CONFIDENTIAL, "offline", ""),
    "es": (CONFIDENTIAL, "offline", ""),
    "spare": (CONFIDENTIAL, "online", "spare"),
    "wrong-online": (CONFIDENTIAL, "online", "tampered"),
    "wrong-offline": (CONFIDENTIAL, "offline", "tampered"),
}
ALLOWED = (CONFIDENTIAL, "offline", "es", "spare")


def busybox_layer(marker: str) -> bytes:
    """A root file system of one program under many names, two users, a page, and the marker."""
    files = {
        "bin/busybox": (read_busybox(), 0o755),
        "etc/passwd": (b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home/web:/bin/sh\n", 0o644),
        "etc/group": (b"root:x:0:\nweb:x:1000:\n", 0o644),
        "etc/marker": (f"{marker}\n".encode(), 0o644),
        "www/index.html": (f"page of {marker}\n".encode(), 0o644),
    }
    directories = ("bin", "dev", "etc", "home", "home/web", "mnt", "proc", "root", "sys", "tmp", "www")
    members = [member(name, tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755) for name in directories]
    members += [member(name, content=data, mode=mode) for name, (data, mode) in files.items()]
    members += [member(f"bin/{name}", tarfile.SYMTYPE, linkname="busybox") for name in APPLETS]
    return make_tar(members)


@dataclass(frozen=True)
class PodLab:
    """A site. ``marker`` is what nobody outside a guest may read of the encrypted image."""

    host: ContainerdHost
    place: Workplace
    registry: str
    spare: Command
    """A second key broker on the same database, for tests to kill; the handler ``spare`` uses it."""
    marker: str
    platform: str
    """State directory of the software platform its pods are launched on."""
    layers: tuple[str, ...]
    """SHA-256 of each layer as the registry has it."""

    def image(self, tag: str) -> str:
        """The name of ``plain``, ``pause``, ``encrypted``, ``nobody`` (its key is not the broker's to give),
        ``named`` or ``root`` (with users by name; the latter declares a volume, ``/www``)."""
        return f"{self.registry}/app:{tag}"


@contextlib.contextmanager
def pod_lab(*, snapshotter: str = "sealpod", containerd: str = "containerd") -> Iterator[PodLab]:
    """A site for the length of the block."""
    with contextlib.ExitStack() as scope:
        name = scope.enter_context(
            tempfile.TemporaryDirectory(prefix="sp", dir="/tmp", ignore_cleanup_errors=True)
        )
        root = Path(name)
        network = scope.enter_context(cnikit.pod_network())
        place = Workplace(root / "w", cache_directory())
        (root / "registry").mkdir()
        registry = scope.enter_context(docker_registry(str(root / "registry"), network.gateway))
        platform = str(root / "platform")
        ark = asyncio.run(_fingerprint(platform))
        database = f"sqlite:///{root}/kbs.db"
        _, kbs = scope.enter_context(serving(place, f"{network.gateway}:0", database, ark))
        spare, spare_kbs = scope.enter_context(serving(place, f"{network.gateway}:0", database, ark))
        marker = f"marker-{secrets.token_hex(16)}"
        layers = _publish(place, root, registry, marker)
        configs = _configs(root, registry, kbs, spare_kbs)
        _fill_broker(place, root, database, configs)
        environment = {**place.environment, "SEALPOD_PLATFORM_STATE": platform}
        host = ContainerdHost(
            f"{name}/n",
            network,
            # runc runs the pause container's program, sealpod's shim does not.
            f"{registry}/app:{'pause' if snapshotter == 'sealpod' else 'sleep'}",
            environment,
            configs,
            snapshotter=snapshotter,
            containerd=containerd,
        )
        scope.enter_context(running(host))
        yield PodLab(host, place, registry, spare, marker, platform, layers)


@contextlib.contextmanager
def serving(place: Workplace, listen: str, database: str, ark: str) -> Iterator[tuple[Command, str]]:
    """A key broker at ``listen``: its process and HOST:PORT."""
    words = ("kbs", "serve", "--listen", listen, "--database", database, "--trust-ark", ark)
    with place.start(*words) as command:
        yield command, command.until("listening on ").rpartition("listening on ")[2].split()[0].rstrip(",")
        command.send(signal.SIGTERM)


async def _fingerprint(state: str) -> str:
    platform = await open_model(state)
    try:
        return Chain.decode(await platform.certificate_chain()).ark.sha256
    finally:
        await platform.close()


def _publish(place: Workplace, root: Path, registry: str, marker: str) -> tuple[str, ...]:
    layout = root / "image"
    sink, _ = open_sink(f"oci:{layout}:app")
    config: dict[str, object] = {
        "Cmd": ["cat", "/etc/marker"],
        "Env": ["PATH=/bin", "OF_IMAGE=yes"],
        "WorkingDir": "/home",
    }
    layer = busybox_layer(marker)
    put_image(sink, "app", [layer], config=config)
    # containerd knows an image by its configuration, and calls equal ones by the name it met first.
    for key_id in (KEY_ID, "nobody"):
        put_image(sink, key_id, [layer], config={**config, "Labels": {"key": key_id}})
    put_image(sink, "named", [layer], config={**config, "User": "web:web"})
    put_image(sink, "root", [layer], config={**config, "User": "root", "Volumes": {"/www": {}}})
    put_image(sink, "sleep", [busybox_layer("sleeps")], config={"Cmd": ["/bin/sleep", "1000000"]})
    put_image(sink, "pause", [make_tar([member("pause", content=b"never run\n", mode=0o755)])])
    http = ("--insecure-registry", registry)
    for tag, source in (("plain", "app"), *((name, name) for name in ("pause", "sleep", "named", "root"))):
        _sealpod(place, "image", "copy", *http, f"oci:{layout}:{source}", f"docker://{registry}/app:{tag}")
    for tag, key_id in (("encrypted", KEY_ID), ("nobody", "nobody")):
        key = root / f"key-{key_id}"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(32))
        words = (f"oci:{layout}:{key_id}", f"docker://{registry}/app:{tag}")
        _sealpod(place, "image", "encrypt", *http, *words, "--key-id", key_id, "--key-file", str(key))
    blobs = (root / "registry/data/docker/registry/v2/blobs/sha256").glob("*/*/data")
    return tuple(path.parent.name for path in blobs if path.read_bytes()[:1] != b"{")


def _configs(root: Path, registry: str, kbs: str, spare: str) -> dict[str, tuple[str, str]]:
    """Kind and configuration by handler: the shipped files, edited with sed as guides have it."""
    found = {}
    for name, (kind, mode, more) in HANDLERS.items():
        path = root / f"{name}.toml"
        shutil.copy(tutorial.SHIPPED if mode else tutorial.SHIPPED_PLAIN, path)
        address = spare if name == "spare" else kbs
        tutorial.sed(path, f"s/^default_memory = .*/default_memory = {MEMORY}/")
        tutorial.sed(path, f's/^guest_pre_attestation_proxy = .*/guest_pre_attestation_proxy = "{address}"/')
        if name == "counted":
            tutorial.sed(path, "s/^sandbox_cgroup_only = .*/sandbox_cgroup_only = true/")
        if name == "es":
            tutorial.sed(path, "s/^sev_guest_policy = .*/sev_guest_policy = 7/")
        if mode == "online":
            tutorial.online(path, address)
        if mode == "offline":
            tutorial.offline(path)
        words = f"agent.insecure_registries={registry} {more}"
        tutorial.sed(path, f's|^\\(kernel_params = ".*\\)"$|\\1 {words}"|')
        _break(root, name, path)
        found[name] = (kind, path.read_text())
    return found


def _break(root: Path, name: str, path: Path) -> None:
    """What cannot work in the handlers that are there to fail."""
    if name == "halting":
        hostile = qemu_script(root / "hostile-qemu", replace={"panic=1": "panic=2"})
        tutorial.sed(path, f's|^path = .*|path = "{hostile}"|')
    if name == "no-kernel":
        for part in ("kernel", "initrd"):
            (root / part).write_bytes(b"x" * 4096)
            tutorial.sed(path, f's|^{part} = .*|{part} = "{root / part}"|')


def _fill_broker(place: Workplace, root: Path, database: str, configs: dict[str, tuple[str, str]]) -> None:
    digests = [
        word for name in ALLOWED for word in ("--digest", digest(root / f"{name}.toml", *configs[name]))
    ]
    at = ("--database", database)
    _sealpod(place, "kbs", "policy", "set", "app", *digests, *at)
    key = str(root / f"key-{KEY_ID}")
    _sealpod(place, "kbs", "secret", "set", KEY_ID, "--from-file", key, "--policy", "app", *at)
    _sealpod(place, "kbs", "keyset", "set", KEYSET, "--secret", KEY_ID, "--policy", "app", *at)


def digest(path: Path, kind: str, config: str) -> str:
    """The launch digest of a pod with this configuration."""
    path.write_text(config)
    settings = pod_settings(kind, str(path), {}, user_network=False)
    return asyncio.run(_measured(settings.spec())).components.digest


async def _measured(spec: PodSpec) -> LaunchInputs:
    accelerator, _ = await choose_accelerator(await find_qemu(), cache_directory())
    return await read_inputs(spec, lambda: vcpu_signature(accelerator))


def _sealpod(place: Workplace, *words: str) -> None:
    done = place.sealpod(*words)
    assert done.status == 0, done.stderr
