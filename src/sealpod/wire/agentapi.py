# SPDX-License-Identifier: Apache-2.0
"""The agent's services as the guest reads them: the messages and methods of agent.proto and health.proto.

Same names, numbers and types as the .proto files (a test holds them equal); the meaning of the fields is
explained there. One method is not Kata's, ReadTerminationMessage. Nested enums are plain numbers here.
"""

from __future__ import annotations

from typing import Final

from sealpod.wire.message import Schema

AGENT: Final = "grpc.AgentService"
HEALTH: Final = "grpc.Health"
API_VERSION: Final = "0.0.1"
"""What Health/Version reports as ``grpc_version``."""
SERVING: Final = 1
"""HealthCheckResponse.ServingStatus."""
TERMINATION_LOG: Final = "io.sealpod.termination-log"
"""Annotation of a container: the destination of the mount whose file ``ReadTerminationMessage`` reads."""
OOM_GROUP: Final = "io.sealpod.oom-group"
"""Annotation of a container, ``"true"``: too much memory is the end of all of it and not of one process."""
MESSAGE_SIZE: Final = 4096
"""Bytes of such a file that count, from its end: Kubernetes' limit."""

MESSAGES: Final = Schema(
    """\
CheckRequest service=1:string
HealthCheckResponse status=1:enum
VersionCheckResponse grpc_version=1:string agent_version=2:string
IPAddress family=1:enum address=2:string mask=3:string
Interface device=1:string name=2:string IPAddresses=3:*IPAddress mtu=4:uint64 hwAddr=5:string
  pciPath=6:string type=7:string raw_flags=8:uint32
Route dest=1:string gateway=2:string device=3:string source=4:string scope=5:uint32 family=6:enum
ARPNeighbor toIPAddress=1:IPAddress device=2:string lladdr=3:string state=4:int32 flags=5:int32
Spec Version=1:string Process=2:Process Root=3:Root Hostname=4:string Mounts=5:*Mount Annotations=7:map
  Linux=8:Linux
Process Terminal=1:bool ConsoleSize=2:Box User=3:User Args=4:*string Env=5:*string Cwd=6:string
  Capabilities=7:LinuxCapabilities Rlimits=8:*POSIXRlimit NoNewPrivileges=9:bool ApparmorProfile=10:string
  OOMScoreAdj=11:int64 SelinuxLabel=12:string
Box Height=1:uint32 Width=2:uint32
User UID=1:uint32 GID=2:uint32 AdditionalGids=3:*uint32 Username=4:string
LinuxCapabilities Bounding=1:*string Effective=2:*string Inheritable=3:*string Permitted=4:*string
  Ambient=5:*string
POSIXRlimit Type=1:string Hard=2:uint64 Soft=3:uint64
Root Path=1:string Readonly=2:bool
Mount destination=1:string source=2:string type=3:string options=4:*string
Linux UIDMappings=1:*LinuxIDMapping GIDMappings=2:*LinuxIDMapping Sysctl=3:map Resources=4:LinuxResources
  CgroupsPath=5:string Namespaces=6:*LinuxNamespace Devices=7:*LinuxDevice Seccomp=8:LinuxSeccomp
  RootfsPropagation=9:string MaskedPaths=10:*string ReadonlyPaths=11:*string MountLabel=12:string
LinuxIDMapping HostID=1:uint32 ContainerID=2:uint32 Size=3:uint32
LinuxNamespace Type=1:string Path=2:string
LinuxDevice Path=1:string Type=2:string Major=3:int64 Minor=4:int64 FileMode=5:uint32 UID=6:uint32
  GID=7:uint32
LinuxResources Devices=1:*LinuxDeviceCgroup Memory=2:LinuxMemory CPU=3:LinuxCPU Pids=4:LinuxPids
  HugepageLimits=6:*LinuxHugepageLimit
LinuxDeviceCgroup Allow=1:bool Type=2:string Major=3:int64 Minor=4:int64 Access=5:string
LinuxMemory Limit=1:int64 Reservation=2:int64 Swap=3:int64 Kernel=4:int64 KernelTCP=5:int64
  Swappiness=6:uint64 DisableOOMKiller=7:bool
LinuxCPU Shares=1:uint64 Quota=2:int64 Period=3:uint64 RealtimeRuntime=4:int64 RealtimePeriod=5:uint64
  Cpus=6:string Mems=7:string
LinuxPids Limit=1:int64
LinuxHugepageLimit Pagesize=1:string Limit=2:uint64
LinuxSeccomp DefaultAction=1:string Architectures=2:*string Flags=3:*string Syscalls=4:*LinuxSyscall
LinuxSyscall Names=1:*string Action=2:string errnoret=3:?uint32 Args=4:*LinuxSeccompArg
LinuxSeccompArg Index=1:uint64 Value=2:uint64 ValueTwo=3:uint64 Op=4:string
Empty
KernelModule name=1:string parameters=2:*string
FSGroup group_id=2:uint32 group_change_policy=3:enum
Storage driver=1:string driver_options=2:*string source=3:string fstype=4:string options=5:*string
  mount_point=6:string fs_group=7:FSGroup shared=8:bool
Device id=1:string type=2:string vm_path=3:string container_path=4:string options=5:*string
StringUser uid=1:string gid=2:string additionalGids=3:*string
CreateSandboxRequest hostname=1:string dns=2:*string storages=3:*Storage sandbox_pidns=4:bool
  sandbox_id=5:string guest_hook_path=6:string kernel_modules=7:*KernelModule
DestroySandboxRequest
CreateContainerRequest container_id=1:string exec_id=2:string string_user=3:StringUser devices=4:*Device
  storages=5:*Storage OCI=6:Spec sandbox_pidns=7:bool
StartContainerRequest container_id=1:string
RemoveContainerRequest container_id=1:string timeout=2:uint32
SignalProcessRequest container_id=1:string exec_id=2:string signal=3:uint32
WaitProcessRequest container_id=1:string exec_id=2:string
WaitProcessResponse status=1:int32
WriteStreamRequest container_id=1:string exec_id=2:string data=3:bytes
WriteStreamResponse len=1:uint32
ReadStreamRequest container_id=1:string exec_id=2:string len=3:uint32
ReadStreamResponse data=1:bytes
CloseStdinRequest container_id=1:string exec_id=2:string
UpdateInterfaceRequest interface=1:Interface
Routes Routes=1:*Route
UpdateRoutesRequest routes=1:Routes
GuestDetailsRequest mem_block_size=1:bool mem_hotplug_probe=2:bool
AgentDetails version=1:string init_daemon=2:bool device_handlers=3:*string storage_handlers=4:*string
  supports_seccomp=5:bool extra_features=6:*string
GuestDetailsResponse mem_block_size_bytes=1:uint64 agent_details=2:AgentDetails
  support_mem_hotplug_probe=3:bool
SetGuestDateTimeRequest Sec=1:int64 Usec=2:int64
ExecProcessRequest container_id=1:string exec_id=2:string string_user=3:StringUser process=4:Process
TtyWinResizeRequest container_id=1:string exec_id=2:string row=3:uint32 column=4:uint32
UpdateContainerRequest container_id=1:string resources=2:LinuxResources
PauseContainerRequest container_id=1:string
ResumeContainerRequest container_id=1:string
StatsContainerRequest container_id=1:string
CpuUsage total_usage=1:uint64 percpu_usage=2:*uint64 usage_in_kernelmode=3:uint64 usage_in_usermode=4:uint64
ThrottlingData periods=1:uint64 throttled_periods=2:uint64 throttled_time=3:uint64
CpuStats cpu_usage=1:CpuUsage throttling_data=2:ThrottlingData
PidsStats current=1:uint64 limit=2:uint64
MemoryData usage=1:uint64 max_usage=2:uint64 failcnt=3:uint64 limit=4:uint64
MemoryStatsEntry key=1:string value=2:uint64
MemoryStats cache=1:uint64 usage=2:MemoryData swap_usage=3:MemoryData kernel_usage=4:MemoryData
  use_hierarchy=5:bool stats=6:*MemoryStatsEntry
BlkioStatsEntry major=1:uint64 minor=2:uint64 op=3:string value=4:uint64
BlkioStats io_service_bytes_recursive=1:*BlkioStatsEntry io_serviced_recursive=2:*BlkioStatsEntry
  io_queued_recursive=3:*BlkioStatsEntry io_service_time_recursive=4:*BlkioStatsEntry
  io_wait_time_recursive=5:*BlkioStatsEntry io_merged_recursive=6:*BlkioStatsEntry
  io_time_recursive=7:*BlkioStatsEntry sectors_recursive=8:*BlkioStatsEntry
HugetlbStats usage=1:uint64 max_usage=2:uint64 failcnt=3:uint64
HugetlbStatsEntry key=1:string value=2:HugetlbStats
CgroupStats cpu_stats=1:CpuStats memory_stats=2:MemoryStats pids_stats=3:PidsStats blkio_stats=4:BlkioStats
  hugetlb_stats=5:*HugetlbStatsEntry
NetworkStats name=1:string rx_bytes=2:uint64 rx_packets=3:uint64 rx_errors=4:uint64 rx_dropped=5:uint64
  tx_bytes=6:uint64 tx_packets=7:uint64 tx_errors=8:uint64 tx_dropped=9:uint64
StatsContainerResponse cgroup_stats=1:CgroupStats network_stats=2:*NetworkStats
GetOOMEventRequest
OOMEvent container_id=1:string
GetMetricsRequest
Metrics metrics=1:string
Interfaces Interfaces=1:*Interface
ListInterfacesRequest
ListRoutesRequest
ARPNeighbors ARPNeighbors=1:*ARPNeighbor
AddARPNeighborsRequest neighbors=1:ARPNeighbors
GetIPTablesRequest is_ipv6=1:bool
GetIPTablesResponse data=1:bytes
SetIPTablesRequest is_ipv6=1:bool data=2:bytes
SetIPTablesResponse data=1:bytes
OnlineCPUMemRequest wait=1:bool nb_cpus=2:uint32 cpu_only=3:bool
ReseedRandomDevRequest data=2:bytes
MemHotplugByProbeRequest memHotplugProbeAddr=1:*uint64
CopyFileRequest path=1:string file_size=2:int64 file_mode=3:uint32 dir_mode=4:uint32 uid=5:int32 gid=6:int32
  offset=7:int64 data=8:bytes
AddSwapRequest PCIPath=1:*uint32
VolumeStatsRequest volume_guest_path=1:string
VolumeUsage available=1:uint64 total=2:uint64 used=3:uint64 unit=4:enum
VolumeCondition abnormal=1:bool message=2:string
VolumeStatsResponse usage=1:*VolumeUsage volume_condition=2:VolumeCondition
ResizeVolumeRequest volume_guest_path=1:string size=2:uint64
"""
)

# Service, method, request, response.
_METHODS: Final = """\
grpc.Health Check CheckRequest HealthCheckResponse
grpc.Health Version CheckRequest VersionCheckResponse
grpc.AgentService CreateContainer CreateContainerRequest Empty
grpc.AgentService StartContainer StartContainerRequest Empty
grpc.AgentService RemoveContainer RemoveContainerRequest Empty
grpc.AgentService SignalProcess SignalProcessRequest Empty
grpc.AgentService WaitProcess WaitProcessRequest WaitProcessResponse
grpc.AgentService WriteStdin WriteStreamRequest WriteStreamResponse
grpc.AgentService ReadStdout ReadStreamRequest ReadStreamResponse
grpc.AgentService ReadStderr ReadStreamRequest ReadStreamResponse
grpc.AgentService ReadTerminationMessage ReadStreamRequest ReadStreamResponse
grpc.AgentService CloseStdin CloseStdinRequest Empty
grpc.AgentService UpdateInterface UpdateInterfaceRequest Interface
grpc.AgentService UpdateRoutes UpdateRoutesRequest Routes
grpc.AgentService CreateSandbox CreateSandboxRequest Empty
grpc.AgentService DestroySandbox DestroySandboxRequest Empty
grpc.AgentService GetGuestDetails GuestDetailsRequest GuestDetailsResponse
grpc.AgentService SetGuestDateTime SetGuestDateTimeRequest Empty
grpc.AgentService ExecProcess ExecProcessRequest Empty
grpc.AgentService TtyWinResize TtyWinResizeRequest Empty
grpc.AgentService UpdateContainer UpdateContainerRequest Empty
grpc.AgentService StatsContainer StatsContainerRequest StatsContainerResponse
grpc.AgentService PauseContainer PauseContainerRequest Empty
grpc.AgentService ResumeContainer ResumeContainerRequest Empty
grpc.AgentService GetOOMEvent GetOOMEventRequest OOMEvent
grpc.AgentService GetMetrics GetMetricsRequest Metrics
grpc.AgentService ListInterfaces ListInterfacesRequest Interfaces
grpc.AgentService ListRoutes ListRoutesRequest Routes
grpc.AgentService AddARPNeighbors AddARPNeighborsRequest Empty
grpc.AgentService GetIPTables GetIPTablesRequest GetIPTablesResponse
grpc.AgentService SetIPTables SetIPTablesRequest SetIPTablesResponse
grpc.AgentService OnlineCPUMem OnlineCPUMemRequest Empty
grpc.AgentService ReseedRandomDev ReseedRandomDevRequest Empty
grpc.AgentService MemHotplugByProbe MemHotplugByProbeRequest Empty
grpc.AgentService CopyFile CopyFileRequest Empty
grpc.AgentService AddSwap AddSwapRequest Empty
grpc.AgentService GetVolumeStats VolumeStatsRequest VolumeStatsResponse
grpc.AgentService ResizeVolume ResizeVolumeRequest Empty
"""

METHODS: Final[dict[tuple[str, str], tuple[str, str]]] = {
    (service, method): (request, response)
    for service, method, request, response in (line.split() for line in _METHODS.splitlines())
}
"""Request and response message by service and method."""
