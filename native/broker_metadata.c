/* Calls that change a file's mode, owner, times or size: the object that a call names is opened, and if it is in a writable
 * place the change is made on that descriptor. */
#define _GNU_SOURCE
#include "broker.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>
#include <utime.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

/* ---- acting on a descriptor ---- */

static int act_chmod(const struct request *request, int fd, int mode_index)
{
    mode_t mode = (mode_t)argument(request, mode_index);
    if (syscall(SYS_fchmodat2, fd, "", mode, AT_EMPTY_PATH) == 0)
        return 0;
    if (errno != ENOSYS)
        return -errno;
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return result_of(chmod(link, mode));
}

static int act_chown(const struct request *request, int fd, int owner_index)
{
    return result_of(fchownat(fd, "", (uid_t)argument(request, owner_index), (gid_t)argument(request, owner_index + 1),
                              AT_EMPTY_PATH));
}

static int set_times(int fd, const struct timespec times[2])
{
    return result_of(utimensat(fd, "", times, AT_EMPTY_PATH));
}

static int act_utimensat(const struct request *request, int fd, int times_index)
{
    struct timespec times[2];
    if (!argument(request, times_index))
        return set_times(fd, NULL);
    int problem = read_exactly(request, argument(request, times_index), times, sizeof times);
    return problem ? problem : set_times(fd, times);
}

static int act_utimes(const struct request *request, int fd, int times_index)
{
    struct timeval given[2];
    if (!argument(request, times_index))
        return set_times(fd, NULL);
    int problem = read_exactly(request, argument(request, times_index), given, sizeof given);
    if (problem)
        return problem;
    struct timespec times[2];
    for (int i = 0; i < 2; i++) {
        if (given[i].tv_usec < 0 || given[i].tv_usec >= 1000000) /* else UTIME_NOW could be smuggled in */
            return -EINVAL;
        times[i] = (struct timespec){given[i].tv_sec, given[i].tv_usec * 1000};
    }
    return set_times(fd, times);
}

#ifdef SYS_chmod /* x86_64 keeps the calls of old */
static int act_utime(const struct request *request, int fd, int times_index)
{
    struct utimbuf given;
    if (!argument(request, times_index))
        return set_times(fd, NULL);
    int problem = read_exactly(request, argument(request, times_index), &given, sizeof given);
    if (problem)
        return problem;
    return set_times(fd, (struct timespec[2]){{.tv_sec = given.actime}, {.tv_sec = given.modtime}});
}
#endif

static int act_truncate(const struct request *request, int fd, int length_index)
{
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return result_of(truncate(link, (off_t)argument(request, length_index)));
}

/* ---- the calls ---- */

/* Which arguments name the object and where the rest begins. no_follow: the call itself never follows a last link. */
static const struct call {
    int number;
    signed char dir, path, flags, rest;
    bool no_follow;
    int (*act)(const struct request *request, int fd, int rest);
} CALLS[] = {
    {SYS_fchmod, 0, NONE, NONE, 1, false, act_chmod},
    {SYS_fchmodat, 0, 1, NONE, 2, false, act_chmod},
    {SYS_fchmodat2, 0, 1, 3, 2, false, act_chmod},
    {SYS_fchown, 0, NONE, NONE, 1, false, act_chown},
    {SYS_fchownat, 0, 1, 4, 2, false, act_chown},
    {SYS_utimensat, 0, 1, 3, 2, false, act_utimensat},
    {SYS_truncate, NONE, 0, NONE, 1, false, act_truncate},
#ifdef SYS_chmod
    {SYS_chmod, NONE, 0, NONE, 1, false, act_chmod},
    {SYS_chown, NONE, 0, NONE, 1, false, act_chown},
    {SYS_lchown, NONE, 0, NONE, 1, true, act_chown},
    {SYS_utime, NONE, 0, NONE, 1, false, act_utime},
    {SYS_utimes, NONE, 0, NONE, 1, false, act_utimes},
    {SYS_futimesat, 0, 1, NONE, 2, false, act_utimes},
#endif
};

static const struct call *find_call(int number)
{
    for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++)
        if (CALLS[i].number == number)
            return &CALLS[i];
    return NULL;
}

static int open_object(const struct request *request, const struct call *call)
{
    char path[4096];
    int dir = call->dir == NONE ? AT_FDCWD : (int)argument(request, call->dir);
    int flags = call->flags == NONE ? 0 : (int)argument(request, call->flags);
    if (flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
        return -EINVAL;
    if (call->path == NONE)
        return open_descriptor(request, dir);
    if (!argument(request, call->path)) /* utimensat(2): NULL means the descriptor itself */
        return call->act == act_utimensat || call->act == act_utimes ? open_descriptor(request, dir) : -EFAULT;
    int problem = read_string(request, argument(request, call->path), path, sizeof path);
    if (problem)
        return problem;
    if (path[0] == 0)
        return !(flags & AT_EMPTY_PATH) ? -ENOENT
               : dir == AT_FDCWD        ? open_of_caller(request, "cwd", 0)
                                        : open_descriptor(request, dir);
    return open_path(request, dir, path, sizeof path, !call->no_follow && !(flags & AT_SYMLINK_NOFOLLOW));
}

int serve_metadata(const struct request *request)
{
    const struct call *call = find_call(request->notification.data.nr);
    if (!call)
        return -ENOSYS; /* supervised to be refused: file_setattr */
    int fd = open_object(request, call);
    if (fd < 0)
        return fd;
    int result = is_writable_place(request->broker, fd) ? call->act(request, fd, call->rest) : -EPERM;
    close(fd);
    return result;
}
