# SPDX-License-Identifier: Apache-2.0
"""The containerd runtime: one process per pod that serves Task v2 and keeps the pod's virtual machine."""
