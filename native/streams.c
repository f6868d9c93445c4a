/* Devices among the standard streams, where mounts decide what may be changed. */
#define _GNU_SOURCE
#include "vsbox.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Opens the device behind a stream again, on a mount of its own that is read-only: a device is written there as ever. */
static int open_shielded(int fd, const struct stat *status)
{
    char link[32], path[4096];
    struct stat found;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    int flags = fcntl(fd, F_GETFL);
    if (length <= 0 || flags < 0)
        return -1;
    path[length] = 0;
    int tree = sys_open_tree(AT_FDCWD, path, 1 | O_CLOEXEC | AT_SYMLINK_NOFOLLOW); /* OPEN_TREE_CLONE */
    if (tree < 0)
        return -1;
    int opened = -1;
    if (fstat(tree, &found) == 0 && found.st_dev == status->st_dev && found.st_ino == status->st_ino &&
        sys_mount_setattr(tree, "", AT_EMPTY_PATH, ATTRIBUTE_RDONLY, 0) == 0) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", tree);
        opened = open(link, (flags & (O_ACCMODE | O_APPEND)) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    }
    close(tree);
    if (opened >= 0)
        fcntl(opened, F_SETFL, flags);
    return opened;
}

#define NULL_DEVICE makedev(1, 3)

/* A terminal that is handed over is the host's, and who owns it may change its mode, owner and times through the descriptor:
 * others could read it. Where it is not to be had by its name (the terminal of another mount namespace), it stays as it is. */
void shield_streams(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        struct stat status;
        if (fstat(fd, &status) < 0 || !S_ISCHR(status.st_mode) || status.st_uid != geteuid() || status.st_rdev == NULL_DEVICE)
            continue;
        int opened = open_shielded(fd, &status);
        if (opened < 0)
            continue;
        dup2(opened, fd);
        close(opened);
    }
}

/* The same of /dev/null, in the new root: there is a read-only mount of it already. */
void reopen_null(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        struct stat status;
        int flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fstat(fd, &status) < 0 || !S_ISCHR(status.st_mode) || status.st_rdev != NULL_DEVICE)
            continue;
        int null = open("/dev/null", (flags & O_ACCMODE) | O_CLOEXEC);
        if (null < 0)
            continue;
        dup2(null, fd);
        close(null);
    }
}
