# SPDX-License-Identifier: Apache-2.0
"""AMD's authorities for SEV and SEV-ES, pinned by the SHA-256 of their certificate bytes.

The certificates themselves come with the chain, from a file, or from AMD; only what they must be stands
here. Computed from the ``ask_ark_<generation>.cert`` files AMD publishes (the ARK follows the ASK in them).
The roots of SEV-SNP are certificates of another form: :mod:`sealpod.sev.snp.roots`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

AMD_ARKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "dedabca561e1dece8cc00b7bda864cf5f20b95017864408cfe18eaee0dce24b9": "AMD Naples",
        "865977b268c16d5b27772b00aaefb4e737ba9499e818ed8e9f65b0cecefbc529": "AMD Rome",
        "1246469862b78a7a8625579b0378d1f8e975eb8b82a1623b579d7968a5969888": "AMD Milan",
        "8f4e3fd36589c23f1fe0c8338465bac7e2e066d97fc92f228bbee4fd356fb674": "AMD Genoa",
        "f6405e5096a6eee1eb7d5df75c49f9b9f7c8357a31c7fff150149d68588a7bf7": "AMD Turin",
    }
)
"""Lower-case hex SHA-256 of the ARK certificate to a name for people. Bergamo and Siena use Genoa's."""

AMD_ASKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "c6f30cf923f526c3bcd5c8c221db51e0db65911782f046de17a6603131cdfd7f": "AMD Naples",
        "7754a69407d25540fe3a695be6b02c58a53bffd12594f5c30793d6cb62875706": "AMD Rome",
        "c7c73765561c58003a3d09adb2c76993027dd3a1ec4e9be876024c035e015cec": "AMD Milan",
        "c30307e4f594fb6c51fd753ab758eb78ad4bb70d9e4d96690e51c0621901031d": "AMD Genoa",
        "2ee285477f0d5eb94a69029197f4cf58ca82d8e1b9a276da1ac45b0db3f4be56": "AMD Turin",
    }
)
"""The same for the ASKs. Trust needs the ARK's pin only; these tell a download or a file for what it is."""

# AMD's original Naples ARK file stops after the modulus. The signature that completes it is public (it
# stands in the files published later); the completed certificate is the one pinned above.
NAPLES_ARK_BODY_SHA256: Final = "8efddcaaf84990cf6354d93637be270220cf15797332b3d918c3b8cc77349f31"
NAPLES_ARK_SIGNATURE: Final = bytes.fromhex(
    "82e5ad8cb8acf04bb0f4f04165f3b9f871afa4d1865add11d783ac6198bc1323c2685941fd76422917592353431e1174"
    "caf64495e3b7cc01aafdaac0641530d7df731b89902c96c778d19a679a0fd48691599d977f4cb1f421b954e3ae63b178"
    "d255cf50547b9170d15329959119c092ac8abfe54a8a17d0c1d42287a4b00eded120bc4c2b9407d1851e0f936c1fbdcb"
    "eb7b7cf1d618466d6fd31773b65600dfbf7ff6edcbfbfec021bbebde1aa4b0701045a1b48db056e9736a8e75cf137b8d"
    "3e75009aad5a8d2687f9c0697454804d673c491bce7d09ea8da383eb5b987710623b5d1aae772f0e0468897f5bf236cc"
    "356a5003f7a49e2c1639fed635427c55"
)
