# SPDX-License-Identifier: Apache-2.0
"""What ``sealpod measure`` prints and writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from sealpod.errors import AccessError, OperationError, UsageError, VerificationError

if TYPE_CHECKING:
    from sealpod.measure.components import Components
    from sealpod.measure.explain import Difference
    from sealpod.measure.sevlaunch import Launch

_NAMES: Final = {"sev": "SEV", "seves": "SEV_ES", "snp": "SEV_SNP", "snp:svsm": "SEV_SNP_SVSM"}
"""How the tool calls its modes."""


def print_digests(launch: Launch, output_format: str, verbose: bool) -> None:
    """One digest as the tool prints it; several one a line, after their vCPU counts."""
    for count, digest in launch.digests:
        text = encoded(digest, output_format)
        several = len(launch.digests) > 1
        if verbose:
            guest = f" for {count} vCPUs" if several else ""
            print(f"Calculated {_NAMES[launch.mode]} guest measurement{guest}: {text}")
        else:
            print(f"{count} {text}" if several else text)


def encoded(digest: bytes, output_format: str) -> str:
    """Hex or base64."""
    if output_format == "hex":
        return digest.hex()
    from base64 import b64encode

    return b64encode(digest).decode()


def print_json(document: dict[str, object]) -> None:
    """One field per line."""
    import json

    print(json.dumps(document, indent=2))


def compare_with(record: str, found: Sequence[Components], output: str) -> int:
    """Say what differs from the guest of a record that comes closest. Returns the exit status."""
    from sealpod.cli.measure_input import read_text
    from sealpod.measure.reading import read_guests

    if len(found) != 1:
        raise UsageError("--explain compares one number of vCPUs", code="measure.vcpus")
    return compare(read_guests(read_text(record)), found[0], output)


def compare(references: Sequence[Components], actual: Components, output: str) -> int:
    """Say what differs from the reference that comes closest. Returns the exit status."""
    from sealpod.measure.explain import closest, explain

    differences = explain(closest(references, actual), actual)
    _print_differences(differences, actual.digest, output)
    return VerificationError.exit_status if differences else 0


def _print_differences(differences: Sequence[Difference], digest: str, output: str) -> None:
    if output == "json":
        found = [{"part": each.part, "detail": each.detail} for each in differences]
        print_json({"schemaVersion": 1, "digest": digest, "differences": found})
        return
    for difference in differences:
        print(difference)
    if not differences:
        print("no part differs from the reference")


def dump(pages: Iterable[bytes]) -> None:
    """Write each vCPU's page to ``vmsa<N>.bin`` in the working directory."""
    for vcpu, page in enumerate(pages):
        path = f"vmsa{vcpu}.bin"
        try:
            with open(path, "wb") as file:
                file.write(page)
        except PermissionError:
            raise AccessError(f"no permission to write {path}", code="output.access") from None
        except OSError as error:
            raise OperationError(f"cannot write {path}: {error.strerror}", code="output.failed") from None
