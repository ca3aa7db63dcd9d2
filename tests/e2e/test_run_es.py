# SPDX-License-Identifier: Apache-2.0
"""SEV-ES on the model, end to end: a guest whose vCPUs are measured gets its key, others do not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from commandkit import Finished
from labkit import Lab, phase, qemu_script, serving

from sealpod.sandbox import podvm, state

pytestmark = pytest.mark.e2e
REFUSED = 3
MESSAGE, KEY_ID, KEYSET = "only the guest may read this", "key_id1", "KEYSET-1"  # the lab's
ES = {"policy": "0x5", "cpus": "2"}


def reference(lab: Lab, kbc: str) -> dict[str, object]:
    """What a launch is made of, before it."""
    run, *rest = lab.arguments(lab.image("encrypted"), kbc=kbc, **ES)
    done = lab.place.sealpod(run, "--dry-run", "-o", "json", *rest)
    assert done.status == 0, done.stderr
    record: dict[str, object] = json.loads(done.stdout)
    return record


@pytest.fixture(scope="module")
def es_lab(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab with a broker whose policy admits two measured vCPUs under policy 5, and nothing else.

    Nothing of its guests may be left at the end.
    """
    root = tmp_path_factory.mktemp("es")
    database = root / "kbs.db"
    with lab.place.unchanged(), serving(lab.place, database, "--trust-ark", lab.ark) as (_, address):
        made = replace(lab, broker=address, database=f"sqlite:///{database}")
        key = lab.place.root.parent / f"key-{KEY_ID}"
        # The broker's address stands on the measured command line of an online guest.
        digests = [
            word
            for kbc in ("offline", "online")
            for word in ("--digest", str(reference(made, kbc)["digest"]))
        ]
        made.broker_set("policy", "set", "es", "--allow-policy", "5", *digests)
        made.broker_set("secret", "set", KEY_ID, "--from-file", str(key), "--policy", "es")
        made.broker_set("keyset", "set", KEYSET, "--secret", KEY_ID, "--policy", "es")
        yield made


def run(lab: Lab, kbc: str, **options: str) -> Finished:
    script = "cat /etc/message; grep -c ^processor /proc/cpuinfo"
    return lab.run(lab.image("encrypted"), "sh", "-c", script, kbc=kbc, **{**ES, **options})


def test_the_digest_is_the_one_the_owner_computes(lab: Lab) -> None:
    record = reference(lab, "offline")
    assert (record["mode"], record["vcpus"], record["fpu"]) == ("seves", 2, "legacy")
    words = ["--mode", "seves", "--vcpus", "2", "--vcpu-sig", str(record["vcpuSignature"])]
    words += ["--ovmf", lab.files.firmware, "--kernel", lab.files.kernel, "--initrd", lab.files.initrd]
    done = lab.place.sealpod("measure", *words, "--append", str(record["cmdline"]))
    assert done.stdout.decode().strip() == record["digest"], done.stderr


@pytest.mark.parametrize("kbc", ["offline", "online"])
def test_a_guest_with_two_measured_vcpus_gets_its_key(es_lab: Lab, kbc: str) -> None:
    done = run(es_lab, kbc)
    assert done.status == 0, done.stderr
    assert done.stdout.decode().split("\n") == [MESSAGE, "2", ""]


def test_another_number_of_vcpus_is_refused(es_lab: Lab) -> None:
    done = run(es_lab, "offline", cpus="3")
    assert done.status == REFUSED
    assert done.error()["code"] == "policy.digest"
    assert phase("boot") not in done.stderr


def test_a_vcpu_the_host_adds_behind_everybodys_back_is_measured(es_lab: Lab, tmp_path: Path) -> None:
    two, three = ("2,cores=1,threads=1,sockets=2,maxcpus=2", "3,cores=1,threads=1,sockets=3,maxcpus=3")
    done = run(es_lab, "offline", qemu=qemu_script(tmp_path / "qemu", replace={two: three}))
    assert done.status == REFUSED
    assert done.error()["code"] == "measurement.mismatch"
    assert phase("boot") not in done.stderr


def test_the_same_vcpus_without_sev_es_are_refused(es_lab: Lab) -> None:
    done = run(es_lab, "offline", policy="1")
    assert done.status == REFUSED
    assert phase("boot") not in done.stderr


POD_CONFIG = """
[hypervisor.qemu]
default_memory = 512
default_vcpus = 2
confidential_guest = true
sev_guest_policy = 5
kernel_params = "agent.enable_signature_verification=false"
"""


def test_a_pod_whose_policy_demands_it_is_an_es_guest(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(state.ENVIRONMENT, str(tmp_path / "run"))
    monkeypatch.setenv(podvm.PLATFORM_STATE, lab.state)
    config = tmp_path / "configuration.toml"
    config.write_text(POD_CONFIG)
    request = podvm.PodRequest(
        id="espod",
        namespace="k8s.io",
        runtime="kata-qemu-sev",
        config_path=str(config),
        annotations={},
        netns="",
        hostname="es-0",
        dns=(),
        socket="",
        bundle=str(tmp_path),
    )

    async def main() -> dict[str, object]:
        pod = await podvm.start_pod(request)
        try:
            return pod.describe()
        finally:
            await pod.stop()

    described = asyncio.run(main())
    measured = described["measured"]
    assert isinstance(measured, dict)
    assert (measured["mode"], measured["vcpus"], measured["policy"]) == ("seves", 2, "0x5")
    assert described["launchDigest"] == measured["digest"]
    commands = [json.loads(line)["command"] for line in (Path(lab.state) / "audit").read_text().splitlines()]
    launch = commands[len(commands) - commands[::-1].index("LAUNCH_START") :]
    assert launch.count("LAUNCH_UPDATE_VMSA") == 2
