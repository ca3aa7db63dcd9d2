# SPDX-License-Identifier: Apache-2.0
"""Any order of calls and restarts against a model of a few lines, over the real socket."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass, field

import grpc
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from snapshotkit import IMAGE, REF, Client

from sealpod.snapshotter.serve import serving
from sealpod.wire.snapshotapi import ACTIVE, COMMITTED, MESSAGES, VIEW

OK = grpc.StatusCode.OK
NOT_FOUND, EXISTS = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS
INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
NAMES = st.sampled_from(["a", "b", "c", "d", "L1", "L2"])
PARENTS = st.sampled_from(["", "a", "b", "L1", "L2"])
LABELS = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["", "1", "2"]), max_size=2)


@dataclass
class Known:
    parent: str
    kind: int
    host: bool
    labels: dict[str, str] = field(default_factory=dict)
    bare: bool = False  # without a directory


def kept(labels: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if value}


class Machine(RuleBasedStateMachine):
    """The service on one side, a dictionary on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.scope = contextlib.ExitStack()
        self.directory = self.scope.enter_context(tempfile.TemporaryDirectory())
        self.model: dict[str, Known] = {}
        self.server = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        self.server.enter_context(serving(f"{self.directory}/s", f"{self.directory}/root", ("host",)))
        self.client = Client(f"{self.directory}/s")
        self.server.callback(self.client.close)

    def teardown(self) -> None:
        self.server.close()
        self.scope.close()

    def call(self, method: str, **fields: object) -> grpc.StatusCode:
        try:
            self.client(method, **fields)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return OK

    def parent_problem(self, parent: str) -> grpc.StatusCode | None:
        if not parent:
            return None
        if parent not in self.model:
            return NOT_FOUND
        return None if self.model[parent].kind == COMMITTED else INVALID

    @rule(key=NAMES, parent=PARENTS, labels=LABELS, view=st.booleans())
    def prepare(self, key: str, parent: str, labels: dict[str, str], view: bool) -> None:
        wanted = self.parent_problem(parent) or (EXISTS if key in self.model else OK)
        assert self.call("View" if view else "Prepare", key=key, parent=parent, labels=labels) == wanted
        if wanted is OK:
            host = bool(parent) and self.model[parent].host
            self.model[key] = Known(parent, VIEW if view else ACTIVE, host, kept(labels))

    @rule(layer=st.sampled_from(["L1", "L2"]), parent=PARENTS)
    def guests_layer(self, layer: str, parent: str) -> None:
        key = f"ns/1/extract-{layer}-{parent}"
        wanted = self.parent_problem(parent) or EXISTS
        there = any(
            one.labels.get(REF) == layer and one.parent == parent and one.kind == COMMITTED
            for one in self.model.values()
        )
        name = key if layer in self.model else layer
        assert self.call("Prepare", key=key, parent=parent, labels={REF: layer}) == wanted
        if wanted is EXISTS and not there and name not in self.model:
            self.model[name] = Known(parent, COMMITTED, False, {REF: layer}, bare=True)

    @rule(key=NAMES, parent=PARENTS)
    def hosts_layer(self, key: str, parent: str) -> None:
        wanted = self.parent_problem(parent)
        known = self.model.get(parent)
        if known is not None and not known.host and wanted in (None, INVALID):
            wanted = PRECONDITION
        wanted = wanted or (EXISTS if key in self.model else OK)
        labels = {REF: "L9", IMAGE: "host"}
        assert self.call("Prepare", key=key, parent=parent, labels=labels) == wanted
        if wanted is OK:
            self.model[key] = Known(parent, ACTIVE, True, labels)

    @rule(key=NAMES, name=NAMES, labels=LABELS)
    def commit(self, key: str, name: str, labels: dict[str, str]) -> None:
        known = self.model.get(key)
        if known is None:
            wanted = NOT_FOUND
        elif known.kind != ACTIVE:
            wanted = PRECONDITION
        else:
            wanted = EXISTS if name in self.model else OK
        assert self.call("Commit", key=key, name=name, labels=labels) == wanted
        if wanted is OK and known is not None:
            del self.model[key]
            self.model[name] = Known(known.parent, COMMITTED, known.host, kept(labels))

    @rule(key=NAMES)
    def remove(self, key: str) -> None:
        wanted = OK if key in self.model else NOT_FOUND
        if wanted is OK and any(one.parent == key for one in self.model.values()):
            wanted = PRECONDITION
        assert self.call("Remove", key=key) == wanted
        if wanted is OK:
            del self.model[key]

    @rule(
        key=NAMES,
        labels=LABELS,
        paths=st.sampled_from([[], ["labels"], ["labels.x"], ["labels.x", "labels.y"]]),
    )
    def update(self, key: str, labels: dict[str, str], paths: list[str]) -> None:
        info = MESSAGES.new("Info", name=key, labels=labels)
        mask = MESSAGES.new("FieldMask", paths=paths)
        wanted = OK if key in self.model else NOT_FOUND
        assert self.call("Update", info=info, update_mask=mask) == wanted
        if wanted is OK:
            known = self.model[key]
            if paths in ([], ["labels"]):
                known.labels = kept(labels)
            else:
                one = {
                    path.removeprefix("labels."): labels.get(path.removeprefix("labels."), "")
                    for path in paths
                }
                known.labels = kept({**known.labels, **one})

    @rule()
    def restart(self) -> None:
        self.server.close()
        self.start()

    @rule()
    def clean_up(self) -> None:
        assert self.call("Cleanup") is OK

    @invariant()
    def same(self) -> None:
        infos = [info for page in self.client.infos() for info in page]
        found = {info.name: (info.parent, info.kind, dict(info.labels)) for info in infos}
        assert found == {name: (one.parent, one.kind, one.labels) for name, one in self.model.items()}

    @invariant()
    def directories(self) -> None:
        for name, one in self.model.items():
            code = self.call("Mounts", key=name)
            assert code is (PRECONDITION if one.kind == COMMITTED else OK)
        with_one = sum(1 for one in self.model.values() if not one.bare)
        assert len(os.listdir(f"{self.directory}/root/snapshots")) == with_one


def test_any_order_of_calls() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
