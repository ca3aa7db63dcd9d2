# SPDX-License-Identifier: Apache-2.0
"""Attestation of SEV-SNP guests: reports, the keys that sign them, and what a reader demands of both."""
