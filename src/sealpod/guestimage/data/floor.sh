#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Boot and stop (kernel parameter rdinit=/floor): what a start costs before anything of ours runs.
echo "sealpod: floor"
/bin/busybox poweroff -f
