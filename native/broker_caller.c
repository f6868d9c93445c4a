/* What a supervised call means: the caller's memory is read, its paths and descriptors are opened, and where these are is
 * held against the grants. What was got from a caller who is no longer waiting does not count: its number may be another's. */
#define _GNU_SOURCE
#include "broker.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- looking at the caller ---- */

static bool is_still_waiting(const struct request *request)
{
    return ioctl(request->broker->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &request->notification.id) == 0;
}

static ssize_t read_memory(const struct request *request, uint64_t address, void *buffer, size_t size)
{
    struct iovec local = {buffer, size}, remote = {(void *)(uintptr_t)address, size};
    ssize_t got = process_vm_readv((pid_t)request->notification.pid, &local, 1, &remote, 1, 0);
    if (got < 0)
        return -errno;
    return is_still_waiting(request) ? got : -ESRCH;
}

int read_exactly(const struct request *request, uint64_t address, void *buffer, size_t size)
{
    ssize_t got = read_memory(request, address, buffer, size);
    return got < 0 ? (int)got : (size_t)got == size ? 0 : -EFAULT;
}

/* A string may end just before an unmapped page: it is read up to each page's end. */
int read_string(const struct request *request, uint64_t address, char *buffer, size_t size)
{
    for (size_t used = 0; used < size;) {
        size_t chunk = 4096 - ((address + used) & 4095);
        if (chunk > size - used)
            chunk = size - used;
        ssize_t got = read_memory(request, address + used, buffer + used, chunk);
        if (got <= 0)
            return got < 0 ? (int)got : -EFAULT;
        if (memchr(buffer + used, 0, (size_t)got))
            return 0;
        used += (size_t)got;
    }
    return -ENAMETOOLONG;
}

int open_of_caller(const struct request *request, const char *what, uint64_t flags)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/%s", request->notification.pid, what);
    int fd = open(path, (int)flags | O_PATH | O_CLOEXEC);
    int cause = errno;
    if (fd >= 0 && !is_still_waiting(request)) {
        close(fd);
        return -ESRCH;
    }
    return fd < 0 ? -cause : fd;
}

int open_descriptor(const struct request *request, int fd)
{
    char name[32];
    if (fd < 0)
        return -EBADF;
    snprintf(name, sizeof name, "fd/%d", fd);
    int opened = open_of_caller(request, name, 0);
    return opened == -ENOENT ? -EBADF : opened;
}

/* /proc/self is the caller's own, as it would be in its own call. */
static void name_caller(const struct request *request, char *path, size_t size)
{
    static const char *const OWN[] = {"/proc/self/", "/proc/thread-self/"};
    for (unsigned i = 0; i < 2; i++) {
        size_t length = strlen(OWN[i]);
        char rest[4096];
        if (strncmp(path, OWN[i], length) != 0)
            continue;
        snprintf(rest, sizeof rest, "%s", path + length);
        snprintf(path, size, "/proc/%u/%.4000s", request->notification.pid, rest);
        return;
    }
}

int open_path(const struct request *request, int dir, char *path, size_t size, bool follow)
{
    name_caller(request, path, size);
    int base = path[0] == '/' ? AT_FDCWD : dir == AT_FDCWD ? open_of_caller(request, "cwd", O_DIRECTORY)
                                                           : open_descriptor(request, dir);
    if (path[0] != '/' && base < 0)
        return base;
    int fd = openat(base, path, O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
    int cause = errno;
    if (base >= 0)
        close(base);
    return fd < 0 ? -cause : fd;
}

pid_t process_of(uint32_t thread)
{
    char path[32], line[128];
    int pid = 0;
    snprintf(path, sizeof path, "/proc/%u/status", thread);
    FILE *status = fopen(path, "re");
    while (status && fgets(line, sizeof line, status) && sscanf(line, "Tgid: %d", &pid) != 1)
        ;
    if (status)
        fclose(status);
    return pid;
}

/* The caller's own open file, not a copy of what a name means: it stays the same whatever the caller does meanwhile. */
int take_descriptor(const struct request *request, int fd)
{
    int process = sys_pidfd_open(process_of(request->notification.pid));
    if (process < 0)
        return -errno;
    int taken = sys_pidfd_getfd(process, fd);
    int cause = errno;
    close(process);
    if (taken >= 0 && !is_still_waiting(request)) {
        close(taken);
        return -ESRCH;
    }
    return taken < 0 ? -cause : taken;
}

/* ---- deciding ---- */

static bool is_in_place(const struct broker *broker, int fd, enum op op, bool working_directory)
{
    const struct start *start = broker->start;
    char link[32], path[8192];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0 || length == sizeof path - 1)
        return false;
    path[length] = 0;
    for (uint32_t i = 0; i < start->plan.count; i++)
        if (start->plan.records[i].op == op && is_below(path, record_string(&start->plan.records[i], 0)))
            return true;
    return is_free_in_project(start, path) || (working_directory && is_below(path, start->cwd));
}

bool is_writable_place(const struct broker *broker, int fd)
{
    struct statvfs mount; /* with namespaces something read-only may be mounted below what is writable */
    if (fstatvfs(fd, &mount) < 0 || (mount.f_flag & ST_RDONLY))
        return false;
    return is_in_place(broker, fd, OP_WRITABLE, broker->start->write_cwd);
}

bool is_readable_place(const struct broker *broker, int fd)
{
    return is_in_place(broker, fd, OP_RULE, broker->start->show_cwd);
}
