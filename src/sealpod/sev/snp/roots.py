# SPDX-License-Identifier: Apache-2.0
"""AMD's roots for SEV-SNP, pinned by the SHA-256 of their X.509 certificates in DER.

They hold the same keys as the roots of SEV (:mod:`sealpod.sev.roots`), in certificates of another form.
Naples and Rome have no SNP. Bergamo and Siena use Genoa's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

AMD_SNP_ARKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd": "AMD Milan",
        "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1": "AMD Genoa",
        "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a": "AMD Turin",
    }
)
"""Lower-case hex SHA-256 of the ARK certificate to a name for people."""
AMD_SNP_ASKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b": "AMD Milan",
        "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521": "AMD Genoa",
        "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185": "AMD Turin",
    }
)
"""The same for the ASKs of chip keys (VCEK). Trust needs the ARK's pin only."""
