# SPDX-License-Identifier: Apache-2.0
"""containerd's ``containerd.services.snapshots.v1.Snapshots`` as a proxy snapshotter reads it."""

from __future__ import annotations

from typing import Final

from sealpod.wire.message import Schema

SNAPSHOTS: Final = "containerd.services.snapshots.v1.Snapshots"
VIEW, ACTIVE, COMMITTED = 1, 2, 3
"""``Kind`` of a snapshot."""
NAMED: Final = range(2_147_000_000, 2_147_001_000)
"""Numbers of users and groups that stand for names only a guest can resolve; below 2**31, which some take for
the end of all numbers."""

MESSAGES: Final = Schema(
    """\
Empty
Mount type=1:string source=2:string target=3:string options=4:*string
Timestamp seconds=1:int64 nanos=2:int32
Info name=1:string parent=2:string kind=3:enum created_at=4:Timestamp updated_at=5:Timestamp labels=6:map
PrepareSnapshotRequest snapshotter=1:string key=2:string parent=3:string labels=4:map
PrepareSnapshotResponse mounts=1:*Mount
ViewSnapshotRequest snapshotter=1:string key=2:string parent=3:string labels=4:map
ViewSnapshotResponse mounts=1:*Mount
MountsRequest snapshotter=1:string key=2:string
MountsResponse mounts=1:*Mount
RemoveSnapshotRequest snapshotter=1:string key=2:string
CommitSnapshotRequest snapshotter=1:string name=2:string key=3:string labels=4:map
StatSnapshotRequest snapshotter=1:string key=2:string
StatSnapshotResponse info=1:Info
FieldMask paths=1:*string
UpdateSnapshotRequest snapshotter=1:string info=2:Info update_mask=3:FieldMask
UpdateSnapshotResponse info=1:Info
ListSnapshotsRequest snapshotter=1:string filters=2:*string
ListSnapshotsResponse info=1:*Info
UsageRequest snapshotter=1:string key=2:string
UsageResponse size=1:int64 inodes=2:int64
CleanupRequest snapshotter=1:string
"""
)

_METHODS: Final = """\
Prepare PrepareSnapshotRequest PrepareSnapshotResponse
View ViewSnapshotRequest ViewSnapshotResponse
Mounts MountsRequest MountsResponse
Commit CommitSnapshotRequest Empty
Remove RemoveSnapshotRequest Empty
Stat StatSnapshotRequest StatSnapshotResponse
Update UpdateSnapshotRequest UpdateSnapshotResponse
List ListSnapshotsRequest ListSnapshotsResponse
Usage UsageRequest UsageResponse
Cleanup CleanupRequest Empty
"""

METHODS: Final[dict[str, tuple[str, str]]] = {
    method: (request, response)
    for method, request, response in (line.split() for line in _METHODS.splitlines())
}
"""Request and response message by method; ``List`` answers with a stream."""
