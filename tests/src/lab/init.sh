#!/bin/busybox sh
# L1's PID 1. Sets L1 up, runs the command, reports its status, ends L1. MARKER, OUTPUTS and INTERACTIVE are set in
# front of this text. ttyS0 is the kernel's console and takes the report; ttyS1 belongs to the command alone.

die() {
    echo "lab: $*" >/dev/ttyS0
    stty -F /dev/ttyS0 -echo
    reboot -f
}

if [ "$1" != rooted ]; then
    # pivot_root refuses the kernel's own first mount, so all of L1 lives on a second mount of the same files.
    /bin/busybox mount --bind / /lab/root
    cd /lab/root
    /bin/busybox mount --move . /
    exec /bin/busybox chroot . /init rooted
fi

/bin/busybox --install -s /bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM="${TERM:-linux}"
cd /
mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS0 2>&1
mkdir -p /dev/pts /dev/shm
mount -t proc proc /proc || die "no /proc"
mount -t sysfs sysfs /sys || die "no /sys"
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts || die "no /dev/pts"
mount -t tmpfs -o mode=1777 tmpfs /dev/shm || die "no /dev/shm"
mount -t tmpfs -o mode=1777 tmpfs /tmp || die "no /tmp"
mount -t tmpfs -o mode=755 tmpfs /run || die "no /run"
mount -t cgroup2 cgroup2 /sys/fs/cgroup || die "no /sys/fs/cgroup"
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
ip link set lo up || die "no loopback interface"
for module in /lab/modules/*.ko; do
    insmod "$module" || die "cannot load $module"
done
[ -c /dev/kvm ] || die "no /dev/kvm: the kernel takes this CPU for one without AMD-V"

# From here on nothing but an emergency comes to the console.
dmesg -n 1
stty -F /dev/ttyS0 raw -echo
stty -F /dev/ttyS1 raw -echo -onlcr || die "no second serial line"
# Keeps the line's settings while no one else has it open.
exec 8<>/dev/ttyS1
if [ "$INTERACTIVE" = yes ]; then
    stty -F /dev/ttyS1 sane -echo
    setsid -c sh /lab/command <&8 >&8 2>&8 8>&-
    status=$?
else
    setsid sh /lab/command </dev/null >&8 2>&8 8>&-
    status=$?
fi
kill -9 -1
# Setting a line waits until it is drained.
stty -F /dev/ttyS1 raw -echo
echo "$MARKER"
echo "status $status"
eval "set -- $OUTPUTS"
for file in "$@"; do
    if [ -f "$file" ]; then
        echo "file $(stat -L -c %s "$file")"
        cat "$file"
    else
        echo missing
    fi
done
echo end
stty -F /dev/ttyS0 raw -echo
reboot -f
