# SPDX-License-Identifier: Apache-2.0
"""``sealpod measure --kata-config`` and ``sealpod measure explain``, as a script sees them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from ovmfkit import FULL, build_image

from sealpod.cli import main as cli
from sealpod.errors import DecodeError, NotFoundError, UsageError
from sealpod.sandbox import state

POD = """
kind: Pod
metadata:
  annotations: {io.katacontainers.config.sev.policy: "5"}
spec:
  containers: [{name: a, resources: {limits: {cpu: 2}}}]
"""
Output = pytest.CaptureFixture[str]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's files: configuration, firmware, kernel, initrd; the working directory."""
    (tmp_path / "fw").write_bytes(build_image(FULL))
    (tmp_path / "kernel").write_bytes(b"kernel")
    (tmp_path / "initrd").write_bytes(b"initrd")
    (tmp_path / "pod.yaml").write_text(POD)
    (tmp_path / "node.toml").write_text(
        f'[hypervisor.qemu]\nfirmware = "{tmp_path}/fw"\nkernel = "{tmp_path}/kernel"\n'
        f'initrd = "{tmp_path}/initrd"\nconfidential_guest = true\nsev_guest_policy = 3\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(state.ENVIRONMENT, str(tmp_path / "run"))
    return tmp_path


def measure(*arguments: str) -> int:
    return cli.dispatch(["measure", *arguments])


def kata(*arguments: str) -> int:
    return measure("--kata-config", "node.toml", *arguments)


def printed(capsys: Output, *arguments: str) -> str:
    assert measure(*arguments) == 0
    return capsys.readouterr().out


def record(capsys: Output, *arguments: str) -> dict[str, object]:
    found = json.loads(printed(capsys, "--kata-config", "node.toml", "-o", "json", *arguments))
    assert isinstance(found, dict)
    return found


def files_digest(capsys: Output, line: object, *arguments: str) -> str:
    """The digest of the same parts, by the ordinary options."""
    parts = ("--ovmf", "fw", "--kernel", "kernel", "--initrd", "initrd", "--append", str(line))
    return printed(capsys, *(arguments or ("--mode", "sev")), *parts).strip()


def test_the_digest_is_that_of_the_parts_and_the_line(node: Path, capsys: Output) -> None:
    found = record(capsys)
    assert printed(capsys, "--kata-config", "node.toml") == f"{found['digest']}\n"
    assert files_digest(capsys, found["cmdline"]) == found["digest"]
    assert (found["mode"], found["policy"], found["runtime"], found["pod"]) == ("sev", "0x3", "sealpod", None)


def test_a_node_has_so_many_processors_and_no_more(node: Path, capsys: Output) -> None:
    found = record(capsys, "--pod", "pod.yaml", "--vcpu-type", "EPYC-v4", "--node-cpus", "2")
    assert (found["vcpus"], " nr_cpus=2 " in str(found["cmdline"])) == (2, True)
    with pytest.raises(SystemExit):
        kata("--node-cpus", "0")


def test_a_pod_brings_policy_and_size(node: Path, capsys: Output) -> None:
    found = record(capsys, "--pod", "pod.yaml", "--vcpu-type", "EPYC-v4")
    assert (found["mode"], found["vcpus"], found["policy"], found["fpu"]) == ("seves", 3, "0x5", "legacy")
    assert " nr_cpus=3 " in str(found["cmdline"])
    seves = ("--mode", "seves", "--vcpus", "3", "--vcpu-type", "EPYC-v4")
    assert files_digest(capsys, found["cmdline"], *seves) == found["digest"]


def test_katas_own_line(node: Path, capsys: Output) -> None:
    found = record(capsys, "--runtime", "cc-0.3.0", "--fips")
    assert str(found["cmdline"]).startswith("tsc=reliable ")
    assert " console=hvc0 console=hvc1 quiet panic=1 nr_cpus=1 selinux=0 scsi_mod.scan=none" in str(
        found["cmdline"]
    )
    assert str(found["cmdline"]).endswith(" fips=1")


def test_a_digest_for_each_size(node: Path, capsys: Output) -> None:
    lines = printed(capsys, "--kata-config", "node.toml", "--vcpus", "1-3").splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    found = record(capsys, "--vcpus", "1-3")
    guests = found["guests"]
    assert isinstance(guests, list)
    assert [line.split()[1] for line in lines] == [guest["digest"] for guest in guests]
    assert [guest["bootVcpus"] for guest in guests] == [1, 2, 3]
    both = printed(capsys, "--kata-config", "node.toml", "--vcpus", "2", "--output-format", "base64")
    assert base64.b64decode(both).hex() == guests[1]["digest"]


def test_json_has_every_step(node: Path, capsys: Output) -> None:
    pod = ("--pod", "pod.yaml", "--vcpu-sig", "0x60fb1")
    found = record(capsys, *pod)
    parts = ("--ovmf", "fw", "--kernel", "kernel", "--initrd", "initrd", "--append", str(found["cmdline"]))
    words = (
        "--mode",
        "seves",
        "--vcpus",
        "3",
        "--vcpu-sig",
        "0x60fb1",
        "--policy",
        "5",
        "-o",
        "json",
        *parts,
    )
    by_hand = json.loads(printed(capsys, *words))
    assert {"tableHash", "firmwareTable", "sections", "vmsa", "trace", "digestBase64"} <= set(by_hand)
    assert {name: found[name] for name in by_hand} == by_hand
    several = record(capsys, *pod, "--vcpus", "2-3")
    guests = several["guests"]
    assert isinstance(guests, list)
    assert several["firmwareTable"] == found["firmwareTable"]
    assert [guest["vmsa"] for guest in guests][1] == found["vmsa"]
    assert "trace" not in guests[0]


def test_what_the_processors_of_each_runtime_are_is_told(node: Path) -> None:
    for runtime, text in (
        ("sealpod", "--vcpu-sig 0x60fb1 if it has no KVM"),
        ("cc-0.3.0", "node's processor"),
    ):
        with pytest.raises(UsageError) as caught:
            kata("--pod", "pod.yaml", "--runtime", runtime)
        assert text in caught.value.remedy


def test_copies_of_a_nodes_files(node: Path, capsys: Output) -> None:
    (node / "other").write_bytes(b"another kernel")
    assert record(capsys, "--kernel", "other")["digest"] != record(capsys)["digest"]


def test_warnings_of_the_configuration_go_to_standard_error(node: Path, capsys: Output) -> None:
    (node / "node.toml").write_text((node / "node.toml").read_text() + "kernle = 1\n")
    assert kata() == 0
    assert "unknown key 'kernle'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--append", "x"),
        ("--policy", "3"),
        ("--kernel-hash", "00" * 32),
        ("--mode", "snp"),
        ("--pod", "pod.yaml"),
        ("--kernel", "-"),
        ("--explain", "x.json", "--vcpus", "1-2"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(node: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        kata(*arguments)


def test_a_manifest_that_is_none(node: Path) -> None:
    (node / "pod.yaml").write_bytes(b"\xff")
    with pytest.raises(DecodeError):
        kata("--pod", "pod.yaml")


def test_explain_names_the_changed_word(node: Path, capsys: Output) -> None:
    Path("a.json").write_text(json.dumps(record(capsys)))
    assert kata("--explain", "a.json") == 0
    capsys.readouterr()
    with (node / "node.toml").open("a") as file:
        file.write('kernel_params = "agent.log=debug"\n')
    assert kata("--explain", "a.json") == 3
    assert capsys.readouterr().out.startswith("command line differs: ")
    assert measure("explain", "a.json", "files:--kata-config node.toml") == 3
    assert "'agent.log=debug' is not in the reference" in capsys.readouterr().out


def test_explain_takes_files_by_their_options(node: Path, capsys: Output) -> None:
    parts = "files:--ovmf fw --kernel kernel --initrd initrd --append 'quiet x'"
    assert measure("explain", parts, parts) == 0
    assert capsys.readouterr().out == "no part differs from the reference\n"
    assert measure("explain", parts, parts.replace("initrd initrd", "initrd kernel"), "-o", "json") == 3
    found = json.loads(capsys.readouterr().out)
    assert [each["part"] for each in found["differences"]] == ["initrd"]


def test_a_record_of_several_sizes_is_a_reference(node: Path, capsys: Output) -> None:
    Path("sizes.json").write_text(json.dumps(record(capsys, "--vcpus", "1-4")))
    assert kata("--vcpus", "2", "--explain", "sizes.json") == 0
    assert measure("--mode", "sev", "--ovmf", "fw", "--explain", "sizes.json") == 3
    assert "command line differs: is not measured" in capsys.readouterr().out


def test_explain_takes_of_several_sizes_the_closest(node: Path, capsys: Output) -> None:
    Path("sizes.json").write_text(json.dumps(record(capsys, "--vcpus", "1-4")))
    Path("three.json").write_text(json.dumps(record(capsys, "--vcpus", "3")))
    assert measure("explain", "sizes.json", "three.json") == 0
    assert measure("explain", "three.json", "sizes.json") == 0
    capsys.readouterr()
    with (node / "node.toml").open("a") as file:
        file.write('kernel_params = "agent.log=debug"\n')
    # No size has this digest; of those that differ in the line alone, the same size differs least.
    assert measure("explain", "sizes.json", "files:--kata-config node.toml --vcpus 3") == 3
    assert "nr_cpus" not in capsys.readouterr().out


def sandbox(node: Path, name: str, measured: dict[str, object] | None) -> None:
    place = state.SandboxState(name)
    place.create()
    place.write({} if measured is None else {"measured": measured, "launchDigest": measured["digest"]})


def test_explain_takes_a_running_sandbox(node: Path, capsys: Output) -> None:
    found = record(capsys)
    Path("a.json").write_text(json.dumps(found))
    sandbox(node, "4f0c11", found)
    sandbox(node, "77aa", None)
    assert measure("explain", "a.json", "sandbox:4f0c") == 0
    with pytest.raises(NotFoundError, match="nothing of sandbox 77aa"):
        measure("explain", "a.json", "sandbox:77")
    with pytest.raises(NotFoundError, match="no sandboxes"):
        measure("explain", "a.json", "sandbox:x")


def test_explain_looks_a_digest_up(node: Path, capsys: Output) -> None:
    found = record(capsys)
    digest = str(found["digest"])
    Path("a.json").write_text(json.dumps(found))
    with pytest.raises(NotFoundError) as caught:
        measure("explain", "a.json", digest)
    assert caught.value.code == "measure.unknown-digest"
    (node / "records").mkdir()
    (node / "records" / "broken.json").write_text("{")
    (node / "records" / "one.json").write_text(json.dumps(record(capsys, "--vcpus", "1-2")))
    assert measure("explain", "a.json", digest, "--records", "records") == 0
    sandbox(node, "4f0c11", found)
    assert measure("explain", "a.json", base64.b64encode(bytes.fromhex(digest)).decode()) == 0
    assert measure("explain", "a.json", digest.upper()) == 0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("files:--mode sev", "x"),
        ("files:--no-such", "x"),
        ("files:--version", "x"),
        ("files:'", "x"),
        ("-", "-"),
    ],
)
def test_explain_refuses_what_names_no_guest(node: Path, a: str, b: str) -> None:
    with pytest.raises(UsageError):
        measure("explain", a, b)


def test_measuring_in_the_ordinary_way_imports_nothing_of_this() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from sealpod.cli.main import dispatch\n"
        "try: dispatch(['measure', '--mode', 'sev', '--ovmf', '/dev/null'])\n"
        "except Exception: pass\n"
        "ours = ('yaml', 'sealpod.kataconfig', 'sealpod.sandbox')\n"
        "print([name for name in sys.modules if name.startswith(ours)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
