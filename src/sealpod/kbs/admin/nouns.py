# SPDX-License-Identifier: Apache-2.0
"""All that the key owner manages, each kind an entry: what is listed here has its command and its routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sealpod.kbs.admin.connection import CONNECTION
from sealpod.kbs.admin.keyset import KEYSET
from sealpod.kbs.admin.launch import LAUNCH
from sealpod.kbs.admin.noun import Noun
from sealpod.kbs.admin.policy import POLICIES
from sealpod.kbs.admin.reportkey import REPORT_KEY
from sealpod.kbs.admin.resource import RESOURCE
from sealpod.kbs.admin.secret import SECRET

NOUNS: Final = (SECRET, KEYSET, POLICIES, RESOURCE, REPORT_KEY, CONNECTION, LAUNCH)
"""In the order of the documents."""

BY_NAME: Final[Mapping[str, Noun]] = {noun.name: noun for noun in NOUNS}
BY_NOUN: Final[Mapping[str, Noun]] = {noun.noun: noun for noun in NOUNS}
