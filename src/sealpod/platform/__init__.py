# SPDX-License-Identifier: Apache-2.0
"""The SEV platform of this machine: one port (:mod:`.port`) and its drivers (:mod:`.model`)."""
