/* Which file it is, for good. statx(2) by number, and without sys/stat.h: not every C library has it, and those that have define
 * the kernel's structure again. */
#include "root.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

bool identify(int fd, struct identity *identity, bool *is_mount_root)
{
    const int empty_path = 0x1000; /* AT_EMPTY_PATH */
    struct statx status;
    if (syscall(SYS_statx, fd, "", empty_path, STATX_INO | STATX_BTIME, &status) < 0)
        return false;
    *identity = (struct identity){.inode = status.stx_ino,
                                  .device = (uint64_t)status.stx_dev_major << 32 | status.stx_dev_minor};
    if (status.stx_mask & STATX_BTIME) {
        identity->born_s = (uint64_t)status.stx_btime.tv_sec;
        identity->born_ns = status.stx_btime.tv_nsec;
    }
    *is_mount_root = status.stx_attributes & STATX_ATTR_MOUNT_ROOT;
    return true;
}
