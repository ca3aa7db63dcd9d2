#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# First program of the guest (initramfs). Puts the root together and becomes the agent:
#   lower layers  /app (sealpod's code, part of the initramfs) over /root.squashfs (Python, crun)
#   upper layer   a tmpfs
# The initramfs keeps what stays in use (squashfs, /app); the rest is small and is not worth the time of removing it.
echo "sealpod: init"
b=/bin/busybox

fail() {
    echo "sealpod: init failed: $1"
    $b poweroff -f
}

# An executable of one's own in the environment of PID 1 must not change how the agent starts.
unset PYTHONPATH PYTHONHOME
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8

$b mount -t devtmpfs -o nosuid dev /dev || fail "no devices"
for module in $($b cat /modules/order); do
    $b insmod "/modules/$module.ko" || fail "module $module"
done
$b mount -t squashfs -o ro,loop,nodev /root.squashfs /base || fail "the base system cannot be mounted"
$b mount -t tmpfs -o mode=0755,nodev rw /rw && $b mkdir /rw/upper /rw/work || fail "no tmpfs"
$b mount -t overlay -o lowerdir=/app:/base,upperdir=/rw/upper,workdir=/rw/work root /new || fail "no overlay"
$b mount -o move /dev /new/dev || fail "devices cannot be moved"
$b mount -t proc -o nosuid,nodev,noexec proc /new/proc || fail "no proc"
$b mount -t sysfs -o nosuid,nodev,noexec sys /new/sys || fail "no sysfs"
cd /new && $b mount -o move . / || fail "the root cannot be moved"
exec $b chroot . /usr/bin/python3.11 -I -m sealpod.agent </dev/console >/dev/console 2>&1
