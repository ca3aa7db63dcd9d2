# SPDX-License-Identifier: Apache-2.0
"""What goes into the guest image: packages, wheels, kernel modules, and what is left out. Data, with
reasons."""

from __future__ import annotations

from typing import Final

from sealpod.guestimage.debian import Request

PYTHON: Final = "python3.11"
"""Debian 12's interpreter; the pinned wheels are for it."""

KERNEL: Final = Request("bookworm-backports", ("linux-image-cloud-amd64>",))
"""Linux 6.12 for clouds: virtio-pci and virtio-console are built in, and little else is."""

FIRMWARE: Final = Request("sid", ("ovmf-amdsev",))
"""OVMF's AmdSev build; Debian has it in no release yet. It depends on nothing."""

USERLAND: Final = Request(
    "bookworm",
    (
        "busybox-static",
        "ca-certificates",
        "catatonit",
        "crun",
        "libbz2-1.0",
        "libc6",
        "libcap2",
        "libexpat1",
        "libffi8",
        "libgcc-s1",
        "libgcrypt20",
        "libgpg-error0",
        "liblz4-1",
        "liblzma5",
        "liblzo2-2",
        "libpython3.11-minimal",
        "libpython3.11-stdlib",
        "libseccomp2",
        "libssl3",
        "libstdc++6",
        "libsystemd0",
        "libyajl2",
        "libzstd1",
        "python3.11-minimal",
        "squashfs-tools",
        "zlib1g",
    ),
)
"""Interpreter, OCI runtime, pause process and the libraries they are linked with; the build fails if one is
missing. And what packs it all."""

PACKER: Final = frozenset(
    ("squashfs-tools", "libc6", "liblz4-1", "liblzma5", "liblzo2-2", "libzstd1", "zlib1g")
)
"""Packages mksquashfs runs from."""

WHEELS_OF: Final = {
    # Imported top-level name: the wheels that provide it. cryptography's library loads cffi's backend.
    "cryptography": ("cryptography", "cffi"),
    "google": ("protobuf",),
    "h2": ("h2", "hpack", "hyperframe"),
}

MODULES: Final = ("loop", "squashfs", "overlay", "virtio_net")
"""Kernel modules loaded by /init, after what they depend on."""

LATER_MODULES: Final = ("vmw_vsock_virtio_transport",)
"""Kernel modules the agent loads when the machine turns out to need them, and what they depend on."""

PROGRAMS: Final = (f"usr/bin/{PYTHON}", "usr/bin/crun")

STATIC_PROGRAMS: Final = ("usr/bin/catatonit",)
"""Linked with nothing. catatonit is the first process of pods that share their process ids."""

EXTRA_LIBRARIES: Final = ("libgcc_s.so.1",)
"""Loaded by name at run time: glibc wants libgcc_s when a thread is cancelled or ends early."""

KEPT: Final = ("lib", "lib64", "usr/bin", "usr/lib")
"""Top directories of the packages that are looked at; documentation and configuration are not."""

LIBRARY_DIRECTORIES: Final = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")

DROPPED_IN_WHEELS: Final = (
    "cffi",
    "*.dist-info/*",
    "*.pyi",
    "*/py.typed",
    "*/tests",
    "google/protobuf/compiler",
)
"""Patterns of paths below the wheels' directory; licences stay."""

KEPT_IN_WHEELS: Final = ("*/LICENSE*", "*/licenses/*")

SQUASHFS_BLOCK: Final = 128 << 10  # bytes; a page fault unpacks a block, larger ones save little
SQUASHFS_COMPRESSION: Final = ("-comp", "lz4", "-Xhc")
"""Measured under emulation, from the firmware's first instruction until Python has its cryptography
imported: zstd makes the initrd 4 MiB smaller and the start 0.6 s (6 %) longer, xz longer by seconds."""

MAX_INITRD: Final = 25 << 20  # bytes; the budget of the design
