# SPDX-License-Identifier: Apache-2.0
"""umoci's unpacking of an image and ours, of the encrypted twin, give the same tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator

import pytest
from imagekit import KEK, make_tar, member, overlay, picture, put_image, unwrapper

from sealpod.image.encrypt import Recipient, encrypt
from sealpod.image.pull import pull
from sealpod.oci.reference import ImageReference
from sealpod.registry.layout import LayoutSink, LayoutSource

pytestmark = [
    pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="owners and device nodes need root"),
]

LONG = "long-" + "x" * 200
DEEP = "/".join(["deep-directory-name"] * 12)
CAPABILITY = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"


def directory(name: str, **fields: object):
    return member(name, tarfile.DIRTYPE, **fields)


def lower() -> list[tuple[tarfile.TarInfo, bytes]]:
    return [
        directory("./", mode=0o755),
        directory("bin"),
        member("bin/su", content=b"setuid", mode=0o4755),
        member("bin/sg", content=b"setgid", mode=0o2711, uid=3, gid=7),
        member("bin/first", content=b"two names"),
        member("bin/second", tarfile.LNKTYPE, linkname="bin/first"),
        member("bin/third", tarfile.LNKTYPE, linkname="/bin/first"),
        directory("tmp", mode=0o1777),
        directory("home", uid=1000, gid=1000, mode=0o700),
        directory("home/gone"),
        member("home/gone/file", content=b"x"),
        member("home/kept", content=b"kept", uid=1000, gid=100, mtime=1_234_567_890.123456789),
        directory("opaque"),
        member("opaque/below", content=b"hidden by the upper layer"),
        directory("replaced"),
        member("replaced/below", content=b"x"),
        member("becomes-directory", content=b"a file first"),
        member("relative", tarfile.SYMTYPE, linkname="../../etc/shadow"),
        member("absolute", tarfile.SYMTYPE, linkname="/etc/shadow"),
        member("dangling", tarfile.SYMTYPE, linkname="nowhere", uid=5),
        member(LONG, content=b"long name"),
        *(directory("/".join(DEEP.split("/")[:depth]), mode=0o750) for depth in range(1, 13)),
        member(f"{DEEP}/{LONG}", content=b"long path"),
        member("unicode-ä-日本", content=b"name"),
        member("empty"),
        member("fifo", tarfile.FIFOTYPE, mode=0o600),
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("capable", content=b"c", pax_headers={"SCHILY.xattr.security.capability": CAPABILITY}),
        member("big", content=os.urandom(700_000)),
        member("twice", content=b"first"),
        member("twice", content=b"second wins"),
        directory("usr"),
        directory("usr/lib"),
        member("lib", tarfile.SYMTYPE, linkname="usr/lib"),
    ]


def upper() -> list[tuple[tarfile.TarInfo, bytes]]:
    return [
        directory("./"),
        directory("home", uid=1000, gid=1000, mode=0o700),
        member("home/.wh.gone"),
        directory("opaque"),
        member("opaque/.wh..wh..opq"),
        member("opaque/above", content=b"visible"),
        member(".wh.replaced"),
        directory("replaced", mode=0o711),
        member("replaced/above", content=b"new"),
        directory("becomes-directory"),
        member("becomes-directory/inside", content=b"y"),
        directory("bin"),
        member("bin/.wh.sg"),
        member("bin/su", content=b"rewritten", mode=0o755),
        member(".wh.absent"),
        member("tmp/implied-parent", content=b"tmp keeps its mode"),
    ]


@pytest.fixture
def workdir() -> Iterator[str]:
    # tmpfs takes trusted.* attributes, which the container's own file system may not.
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as path:
        yield path


def test_same_tree_as_umoci(workdir: str) -> None:
    layout = os.path.join(workdir, "plain")
    put_image(LayoutSink(layout), "v1", [make_tar(lower()), make_tar(upper())])
    sink = LayoutSink(os.path.join(workdir, "encrypted"))
    encrypt(LayoutSource(layout), "v1", sink, "v1", Recipient(KEK, "key_id1"), rng=os.urandom)

    bundle = os.path.join(workdir, "bundle")
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:v1", bundle], check=True, capture_output=True)
    reference = ImageReference.parse("localhost/image:v1")
    image = pull(sink.reader(), reference, unwrapper(), os.path.join(workdir, "store"))
    try:
        with overlay(image.layers, os.path.join(workdir, "merged")) as merged:
            ours = picture(merged)
    except OSError as error:
        pytest.skip(f"no overlay mounts here: {error}")
    theirs = picture(os.path.join(bundle, "rootfs"))
    # umoci stamps a directory it had to imply, or changed while deleting, with the present.
    for path in ("tmp", "bin", "opaque", "home", ".", "becomes-directory", "replaced"):
        ours[path] = (*ours[path][:4], 0, *ours[path][5:])
        theirs[path] = (*theirs[path][:4], 0, *theirs[path][5:])
    assert ours == theirs
