# SPDX-License-Identifier: Apache-2.0
"""A containerd snapshotter for images that only guests unpack."""
