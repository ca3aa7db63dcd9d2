# SPDX-License-Identifier: Apache-2.0
"""containerd's runtime v2 API as a shim reads it: Task v2, its events, the runtime's options, cgroup metrics.

Field numbers are those of containerd's and containerd/cgroups' .proto files. ``containerd.task.v3.Task`` has
the same messages in another package. Enums are plain numbers. An ``Any`` of containerd has a type url without
a prefix, such as ``containerd.events.TaskExit``.
"""

from __future__ import annotations

from typing import Final

from sealpod.wire.message import Message, Schema

TASK: Final = "containerd.task.v2.Task"
TASK_V3: Final = "containerd.task.v3.Task"
EVENTS: Final = "containerd.services.events.ttrpc.v1.Events"
EVENT_PREFIX: Final = "containerd.events."
OPTIONS_URLS: Final = ("runtimeoptions.v1.Options", "cri.runtimeoptions.v1.Options")
METRICS_V1: Final = "io.containerd.cgroups.v1.Metrics"
METRICS_V2: Final = "io.containerd.cgroups.v2.Metrics"

UNKNOWN, CREATED, RUNNING, STOPPED, PAUSED = 0, 1, 2, 3, 4
"""``Status`` of a task."""

MESSAGES: Final = Schema(
    """\
Empty
Any type_url=1:string value=2:bytes
Timestamp seconds=1:int64 nanos=2:int32
Mount type=1:string source=2:string target=3:string options=4:*string
Options type_url=1:string config_path=2:string config_body=3:bytes
CreateTaskRequest id=1:string bundle=2:string rootfs=3:*Mount terminal=4:bool stdin=5:string stdout=6:string
  stderr=7:string checkpoint=8:string parent_checkpoint=9:string options=10:Any
CreateTaskResponse pid=1:uint32
StartRequest id=1:string exec_id=2:string
StartResponse pid=1:uint32
StateRequest id=1:string exec_id=2:string
StateResponse id=1:string bundle=2:string pid=3:uint32 status=4:enum stdin=5:string stdout=6:string
  stderr=7:string terminal=8:bool exit_status=9:uint32 exited_at=10:Timestamp exec_id=11:string
DeleteRequest id=1:string exec_id=2:string
DeleteResponse pid=1:uint32 exit_status=2:uint32 exited_at=3:Timestamp
KillRequest id=1:string exec_id=2:string signal=3:uint32 all=4:bool
ExecProcessRequest id=1:string exec_id=2:string terminal=3:bool stdin=4:string stdout=5:string
  stderr=6:string spec=7:Any
ResizePtyRequest id=1:string exec_id=2:string width=3:uint32 height=4:uint32
CloseIORequest id=1:string exec_id=2:string stdin=3:bool
WaitRequest id=1:string exec_id=2:string
WaitResponse exit_status=1:uint32 exited_at=2:Timestamp
PidsRequest id=1:string
ProcessInfo pid=1:uint32 info=2:Any
PidsResponse processes=1:*ProcessInfo
PauseRequest id=1:string
ResumeRequest id=1:string
CheckpointTaskRequest id=1:string path=2:string options=3:Any
UpdateTaskRequest id=1:string resources=2:Any annotations=3:map
StatsRequest id=1:string
StatsResponse stats=1:Any
ConnectRequest id=1:string
ConnectResponse shim_pid=1:uint32 task_pid=2:uint32 version=3:string
ShutdownRequest id=1:string now=2:bool
ForwardRequest envelope=1:Envelope
Envelope timestamp=1:Timestamp namespace=2:string topic=3:string event=4:Any
TaskIO stdin=1:string stdout=2:string stderr=3:string terminal=4:bool
TaskCreate container_id=1:string bundle=2:string rootfs=3:*Mount io=4:TaskIO checkpoint=5:string pid=6:uint32
TaskStart container_id=1:string pid=2:uint32
TaskExit container_id=1:string id=2:string pid=3:uint32 exit_status=4:uint32 exited_at=5:Timestamp
TaskDelete container_id=1:string pid=2:uint32 exit_status=3:uint32 exited_at=4:Timestamp id=5:string
TaskOOM container_id=1:string
TaskExecAdded container_id=1:string exec_id=2:string
TaskExecStarted container_id=1:string exec_id=2:string pid=3:uint32
TaskPaused container_id=1:string
TaskResumed container_id=1:string
GetContainerRequest id=1:string
ContainerRecord id=1:string labels=2:map image=3:string
GetContainerResponse container=1:ContainerRecord
RuntimeVersion version=1:string revision=2:string
RuntimeInfo name=1:string version=2:RuntimeVersion options=3:Any features=4:Any annotations=5:map
"""
)

TOPICS: Final = {
    "TaskCreate": "/tasks/create",
    "TaskStart": "/tasks/start",
    "TaskExit": "/tasks/exit",
    "TaskDelete": "/tasks/delete",
    "TaskOOM": "/tasks/oom",
    "TaskExecAdded": "/tasks/exec-added",
    "TaskExecStarted": "/tasks/exec-started",
    "TaskPaused": "/tasks/paused",
    "TaskResumed": "/tasks/resumed",
}
"""An event's topic by its message."""

_METHODS: Final = """\
Create CreateTaskRequest CreateTaskResponse
Start StartRequest StartResponse
State StateRequest StateResponse
Delete DeleteRequest DeleteResponse
Kill KillRequest Empty
Exec ExecProcessRequest Empty
ResizePty ResizePtyRequest Empty
CloseIO CloseIORequest Empty
Wait WaitRequest WaitResponse
Pids PidsRequest PidsResponse
Pause PauseRequest Empty
Resume ResumeRequest Empty
Checkpoint CheckpointTaskRequest Empty
Update UpdateTaskRequest Empty
Stats StatsRequest StatsResponse
Connect ConnectRequest ConnectResponse
Shutdown ShutdownRequest Empty
"""

METHODS: Final[dict[str, tuple[str, str]]] = {
    method: (request, response)
    for method, request, response in (line.split() for line in _METHODS.splitlines())
}
"""Request and response message by method of ``Task``."""


def timestamp(nanoseconds: int) -> Message:
    """A ``Timestamp`` of nanoseconds since 1970."""
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return MESSAGES.new("Timestamp", seconds=seconds, nanos=nanos)


def envelope(namespace: str, name: str, event: Message, at: int) -> Message:
    """The ``ForwardRequest`` for ``event``, a message called ``name``, that happened at ``at`` (ns)."""
    packed = MESSAGES.new("Any", type_url=EVENT_PREFIX + name, value=event.encode())
    return MESSAGES.new(
        "ForwardRequest",
        envelope=MESSAGES.new(
            "Envelope", timestamp=timestamp(at), namespace=namespace, topic=TOPICS[name], event=packed
        ),
    )
