# shellcheck shell=bash
# shellcheck disable=SC2154 # $dir is of server.sh
# Sourced beside server.sh and steps.sh by what puts a filesystem of this kernel on a volume:
# NBD export -> nbdfuse (a file) -> loop device -> ext4 or xfs.

make_ext4() { timeout 180 mkfs.ext4 -q -F "${@:2}" "$1"; }
make_xfs() { timeout 180 mkfs.xfs -q -f "$1"; }
check_ext4() { timeout 180 e2fsck -fn "$1"; }
check_xfs() { timeout 180 xfs_repair -n "$1"; }

mounted() { grep -q " $1 " /proc/self/mounts; }
attach() { # sets $loop
    mkdir -p "$dir/mnt"
    : >"$dir/disk"
    nbdfuse --connections=4 "$dir/disk" "$(uri data)" </dev/null >>"$dir/nbdfuse.log" 2>&1 &
    nbdfuse=$!
    at_exit+=("umount -l $dir/disk" "kill -9 $nbdfuse" "kill -9 $nbdfuse; umount -l $dir/mnt")
    for _ in $(seq 300); do
        if mounted "$dir/disk"; then break; fi
        kill -0 $nbdfuse 2>/dev/null || break
        sleep 0.05
    done
    mounted "$dir/disk" || { cat "$dir/nbdfuse.log"; return 1; }
    loop=$(losetup -f --show --direct-io=on "$dir/disk")
    at_exit+=("losetup -d $loop")
}
detach() {
    losetup -d "$loop"
    # A detached loop device lets go of its file a moment later.
    for _ in $(seq 300); do
        if fusermount3 -u "$dir/disk" 2>/dev/null; then break; fi
        sleep 0.05
    done
    wait "$nbdfuse"
    at_exit=()
}
filesystem_possible() {
    need nbdfuse fusermount3 losetup mkfs.ext4 mkfs.xfs
    [ "$(id -u)" = 0 ] || skip "mounting needs root"
    [ -c /dev/fuse ] || skip "no /dev/fuse"
    [ -c /dev/loop-control ] || skip "no /dev/loop-control"
}
