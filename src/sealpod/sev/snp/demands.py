# SPDX-License-Identifier: Apache-2.0
"""What a reader demands of a verified SNP report: firmware, policy, and the guest it describes.

Only what is set is compared, with three exceptions that hold by default because nobody wants them otherwise:
the policy must not allow debugging or a migration agent, nor have a bit whose meaning is not known here, and
the report must be a guest's own.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from sealpod.errors import RefusedError
from sealpod.sev.snp.policy import ALLOWING, PlatformInfo, SnpPolicyFlag
from sealpod.sev.snp.report import SnpReport
from sealpod.sev.snp.tcb import TcbLayout, TcbVersion

LOWEST_VMPL: Final = 3
NO_FLAGS: Final = SnpPolicyFlag(0)
NO_INFO: Final = PlatformInfo(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """Expectations about one guest. ``None`` is no expectation."""

    report_data: bytes | None = None
    measurement: bytes | None = None
    host_data: bytes | None = None
    family_id: bytes | None = None
    image_id: bytes | None = None
    id_key_digest: bytes | None = None
    author_key_digest: bytes | None = None
    """Given, the report must also say that there is an author key."""
    max_vmpl: int = LOWEST_VMPL
    """A report a host asked for has 0xFFFFFFFF, and so is refused."""
    min_guest_svn: int = 0
    min_tcb: TcbVersion | None = None
    """For the reported, the committed and the current TCB."""
    min_launch_tcb: TcbVersion | None = None
    min_firmware: tuple[int, int, int] | None = None
    """Major, minor, build: for the committed firmware, to which a platform can roll back, and the current."""
    may_allow: SnpPolicyFlag = SnpPolicyFlag.SMT
    """What the policy may allow the host, of :data:`~sealpod.sev.snp.policy.ALLOWING`."""
    must_demand: SnpPolicyFlag = NO_FLAGS
    """What the policy must demand, of :data:`~sealpod.sev.snp.policy.DEMANDING`."""
    platform_has: PlatformInfo = NO_INFO
    platform_lacks: PlatformInfo = NO_INFO
    mitigations: int = 0
    """Bits both mitigation vectors must have; only reports since version 5 have vectors."""


def check_demands(report: SnpReport, demands: Demands, layout: TcbLayout) -> None:
    """Compare a report that has been verified with what is demanded.

    1. TCB and firmware are not too old; 2. the policy; 3. the platform; 4. the guest is the expected one.

    :raise RefusedError: code ``snp.tcb-minimum``, ``snp.policy``, ``snp.platform`` or ``snp.guest``.
    """
    _check_tcb(report, demands, layout)  # (1)
    _check_policy(report, demands)  # (2)
    _check_platform(report, demands)  # (3)
    _check_guest(report, demands)  # (4)


def _check_tcb(report: SnpReport, demands: Demands, layout: TcbLayout) -> None:
    minimums = {"reported": demands.min_tcb, "committed": demands.min_tcb, "current": demands.min_tcb}
    versions = report.tcb(layout)
    for name, minimum in (*minimums.items(), ("launch", demands.min_launch_tcb)):
        older = versions[name].below(minimum) if minimum is not None else ()
        if older:
            raise _refused(
                f"the {name} TCB is too old in {', '.join(older)}: {versions[name]}", "snp.tcb-minimum"
            )
    least = demands.min_firmware
    if least is not None and min(report.committed_firmware, report.current_firmware) < least:
        raise _refused("the SNP firmware is too old, or may be rolled back too far", "snp.tcb-minimum")


def _check_policy(report: SnpReport, demands: Demands) -> None:
    flags = report.policy.flags
    given = flags & ALLOWING & ~demands.may_allow
    lacking = demands.must_demand & ~flags
    # What a bit allows that is not known here, nobody has demanded or agreed to.
    unknown = report.policy.unknown
    if given or lacking or unknown or SnpPolicyFlag.RESERVED_ONE not in flags:
        raise _refused(f"the guest's policy is {report.policy.describe()}", "snp.policy")


def _check_platform(report: SnpReport, demands: Demands) -> None:
    lacking = demands.platform_has & ~report.platform_info
    unwanted = demands.platform_lacks & report.platform_info
    if lacking or unwanted:
        raise _refused(f"the platform says of itself {report.platform_info!r}", "snp.platform")
    launch, current = report.mitigations or (0, 0)
    if demands.mitigations & ~(launch & current):
        raise _refused("the platform lacks a mitigation that is demanded", "snp.platform")


def _check_guest(report: SnpReport, demands: Demands) -> None:
    expected = (
        ("report data", demands.report_data, report.report_data),
        ("launch digest", demands.measurement, report.measurement),
        ("host data", demands.host_data, report.host_data),
        ("family id", demands.family_id, report.family_id),
        ("image id", demands.image_id, report.image_id),
        ("id key digest", demands.id_key_digest, report.id_key_digest),
        ("author key digest", demands.author_key_digest, report.author_key_digest),
    )
    for name, wanted, found in expected:
        if wanted is not None and not hmac.compare_digest(wanted, found):
            raise _refused(f"the report has another {name}", "snp.guest")
    if demands.author_key_digest is not None and not report.author_key_enabled:
        raise _refused("the report has no author key", "snp.guest")
    if report.vmpl > demands.max_vmpl:
        raise _refused(f"the report is from VMPL {report.vmpl:#x}", "snp.guest")
    if report.guest_svn < demands.min_guest_svn:
        raise _refused(f"the guest's SVN is {report.guest_svn}", "snp.guest")


def _refused(message: str, code: str) -> RefusedError:
    return RefusedError(message, code=code)
