#!/bin/busybox sh
# The first program of a test machine: the file system of the host as root, read-only, what is written in memory.
set -e
PATH=/bin
/bin/busybox --install -s /bin
trap 'echo "vm: init failed"; poweroff -f' EXIT
mkdir -p /proc /sys /dev /host /memory /root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
    insmod "$module"
done
over=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "$over,ro,cache=loose" root /host
mount -t tmpfs -o mode=755 tmpfs /memory
mkdir /memory/changes /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/changes,workdir=/memory/work overlay /root
for place in dev proc sys run tmp; do
    mkdir -p "/root/$place"
done
mount --move /dev /root/dev
mount --move /sys /root/sys
mount --move /proc /root/proc
mount -t tmpfs -o mode=755 tmpfs /root/run
mkdir -p /root/run/control /root/dev/shm /root/dev/pts
mount -t 9p -o "$over,cache=none" control /root/run/control
mount -t tmpfs -o mode=1777 tmpfs /root/dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /root/dev/pts
ln -sf /proc/self/fd /root/dev/fd
mount -t securityfs securityfs /root/sys/kernel/security
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
ip link set lo up
hostname vm
exec switch_root /root /bin/sh /run/control/boot
