# SPDX-License-Identifier: Apache-2.0
"""The keys of Kata's ``configuration-qemu-sev.toml``, of CC-0.3.0 and CC-0.5.0, as one table.

With them stand the few keys of later releases that count here: those that reach the command line of a guest
(rootfs_type, cdh_api_timeout), and create_container_timeout. A key's default is what the file as shipped
says, or what Kata takes when the key is absent; None where it depends on the installation. What sealpod makes
of them is :mod:`sealpod.kataconfig.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["string", "boolean", "integer", "count", "strings"]
Value = str | bool | int | tuple[str, ...]

HYPERVISOR: Final = "hypervisor.qemu"
AGENT: Final = "agent.kata"
RUNTIME: Final = "runtime"
IMAGE: Final = "image"
FACTORY: Final = "factory"

FIRST: Final = "CC-0.3.0"
RENAMED: Final = "CC-0.5.0"


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``used``: sealpod acts on it; another key is accepted, and changing it has no effect."""

    table: str
    name: str
    kind: Kind
    default: Value | None = None
    used: bool = False
    since: str = FIRST
    renamed_to: str = ""
    """What takes its place from CC-0.5.0 on."""


def _used(table: str, name: str, kind: Kind, default: Value, since: str = FIRST, renamed_to: str = "") -> Key:
    return Key(table, name, kind, default, used=True, since=since, renamed_to=renamed_to)


_USED: Final = (
    _used(HYPERVISOR, "path", "string", ""),
    _used(HYPERVISOR, "kernel", "string", ""),
    _used(HYPERVISOR, "initrd", "string", ""),
    _used(HYPERVISOR, "firmware", "string", ""),
    _used(HYPERVISOR, "confidential_guest", "boolean", False),
    _used(HYPERVISOR, "guest_pre_attestation", "boolean", False),
    _used(HYPERVISOR, "guest_pre_attestation_keyset", "string", "KEYSET-1"),
    _used(
        HYPERVISOR,
        "guest_pre_attestation_proxy",
        "string",
        "localhost:44444",
        renamed_to="guest_pre_attestation_kbs_uri",
    ),
    _used(HYPERVISOR, "guest_pre_attestation_kbs_uri", "string", "localhost:44444", RENAMED),
    _used(
        HYPERVISOR,
        "guest_pre_attestation_secret_guid",
        "string",
        "1ee27366-0c87-43a6-af48-28543eaf7cb0",
        renamed_to="guest_pre_attestation_kbs_mode",
    ),
    _used(
        HYPERVISOR,
        "guest_pre_attestation_secret_type",
        "string",
        "connection",
        renamed_to="guest_pre_attestation_kbs_mode",
    ),
    _used(HYPERVISOR, "guest_pre_attestation_kbs_mode", "string", "online", RENAMED),
    _used(HYPERVISOR, "sev_guest_policy", "integer", 0),
    _used(HYPERVISOR, "sev_cert_chain", "string", "/opt/sev/cert_chain.cert"),
    _used(HYPERVISOR, "kernel_params", "string", ""),
    _used(HYPERVISOR, "default_vcpus", "count", 1),
    _used(HYPERVISOR, "default_maxvcpus", "integer", 0),
    _used(HYPERVISOR, "default_memory", "integer", 2048),
    _used(HYPERVISOR, "enable_debug", "boolean", False),
    _used(HYPERVISOR, "enable_annotations", "strings", ()),
    _used(HYPERVISOR, "valid_hypervisor_paths", "strings", ()),
    _used(HYPERVISOR, "image", "string", ""),
    _used(AGENT, "enable_debug", "boolean", False),
    _used(AGENT, "dial_timeout", "integer", 0),
    _used(RUNTIME, "enable_debug", "boolean", False),
    _used(RUNTIME, "create_container_timeout", "integer", 0),
    _used(RUNTIME, "sandbox_cgroup_only", "boolean", False),
)

# Table, kind, and names with what the shipped file says. None: whatever the installation put there.
_OTHERS: Final[tuple[tuple[str, Kind, Mapping[str, Value | None]], ...]] = (
    (
        HYPERVISOR,
        "string",
        {
            "machine_type": "q35",
            "firmware_volume": "",
            "machine_accelerators": "",
            "cpu_features": None,
            "seccompsandbox": "",
            "ctlpath": "",
            "jailer_path": "",
            "shared_fs": None,
            "virtio_fs_daemon": None,
            "virtio_fs_cache": None,
            "block_device_driver": "virtio-scsi",
            "block_device_aio": None,
            "vhost_user_store_path": None,
            "file_mem_backend": "",
            "entropy_source": None,
            "guest_hook_path": "",
            "guest_memory_dump_path": "",
            "rootfs_type": "ext4",
        },
    ),
    (
        HYPERVISOR,
        "boolean",
        {
            "rootless": False,
            "enable_virtio_mem": False,
            "disable_block_device_use": None,
            "block_device_cache_set": False,
            "block_device_cache_direct": False,
            "block_device_cache_noflush": False,
            "enable_iothreads": False,
            "enable_mem_prealloc": False,
            "enable_hugepages": False,
            "enable_vhost_user_store": False,
            "enable_iommu": False,
            "enable_iommu_platform": False,
            "disable_nesting_checks": False,
            "disable_image_nvdimm": None,
            "hotplug_vfio_on_root_bus": False,
            "disable_vhost_net": None,
            "guest_memory_dump_paging": False,
            "enable_guest_swap": False,
            "use_legacy_serial": None,
            "disable_selinux": False,
            "disable_guest_selinux": True,
            "sev_snp_guest": False,
        },
    ),
    (
        HYPERVISOR,
        "integer",
        {
            "default_bridges": None,
            "memory_slots": None,
            "default_maxmemory": None,
            "memory_offset": 0,
            "virtio_fs_cache_size": None,
            "virtio_fs_queue_size": None,
            "msize_9p": None,
            "pcie_root_port": 0,
            "rx_rate_limiter_max_rate": 0,
            "tx_rate_limiter_max_rate": 0,
            "guest_pre_attestation_grpc_timeout": None,
            "snp_guest_policy": None,
        },
    ),
    (
        HYPERVISOR,
        "strings",
        {
            "valid_virtio_fs_daemon_paths": None,
            "virtio_fs_extra_args": None,
            "valid_vhost_user_store_paths": None,
            "valid_file_mem_backends": None,
            "valid_entropy_sources": None,
            "pflashes": (),
        },
    ),
    (AGENT, "boolean", {"enable_tracing": False, "debug_console_enabled": False}),
    (AGENT, "strings", {"kernel_modules": ()}),
    (AGENT, "integer", {"container_pipe_size": 0, "cdh_api_timeout": 0}),
    (
        RUNTIME,
        "string",
        {
            "internetworking_model": "tcfilter",
            "jaeger_endpoint": "",
            "jaeger_user": "",
            "jaeger_password": "",
            "guest_selinux_label": "",
            "vfio_mode": "guest-kernel",
        },
    ),
    (
        RUNTIME,
        "boolean",
        {
            "disable_guest_seccomp": None,
            "enable_tracing": False,
            "disable_new_netns": False,
            "static_sandbox_resource_mgmt": None,
            "disable_guest_empty_dir": None,
            "enable_pprof": False,
            "sealed_secret_enabled": False,
        },
    ),
    (RUNTIME, "strings", {"sandbox_bind_mounts": (), "experimental": ()}),
    (IMAGE, "boolean", {"service_offload": None}),
    (IMAGE, "integer", {"image_request_timeout": None}),
    (FACTORY, "boolean", {"enable_template": False}),
    (FACTORY, "string", {"template_path": None, "vm_cache_endpoint": None}),
    (FACTORY, "integer", {"vm_cache_number": 0}),
)

KEYS: Final[Mapping[tuple[str, str], Key]] = {
    (key.table, key.name): key
    for key in (
        *_USED,
        *(
            Key(table, name, kind, default)
            for table, kind, names in _OTHERS
            for name, default in names.items()
        ),
    )
}
"""Every known key, by table and name."""

TABLES: Final = (HYPERVISOR, AGENT, RUNTIME, IMAGE, FACTORY)
