/* What Landlock does not restrict, answered here: file metadata, connections to UNIX sockets, and
 * the terminal side of a new pseudo-terminal; forks pass here too, so that they can be stopped. The seccomp filter sends these
 * calls to init (seccomp_unotify(2)), which looks at the very object and acts on that object itself, so nothing can be swapped between the look and the act:
 *
 *   memory of the caller is read once; a path becomes an O_PATH descriptor, which stays what it is; where the descriptor is
 *   (/proc/self/fd) decides; the call is then made on the descriptor. The caller's own call never happens.
 *
 * Security: init is not under the payload's Landlock domain but has no capability either, so it can do what the payload's
 * user can do to files below the writable grants, and nothing elsewhere. Abstract sockets of the host are refused.
 * With namespaces mounts do most of this, and only connections come here. */
#define _GNU_SOURCE
#include "vsbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>
#include <utime.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

struct broker {
    int listener;
    bool own_network;
    bool offline; /* the policy closed the network: connections other than to UNIX sockets are refused */
    const struct start *start;
};

struct request {
    const struct broker *broker;
    struct seccomp_notif notification;
};

struct broker *broker_new(const struct start *start, int listener)
{
    struct broker *broker = calloc(1, sizeof *broker);
    const struct record *landlock = plan_find(&start->plan, OP_LANDLOCK);
    if (broker)
        *broker = (struct broker){.listener = listener,
                                  .own_network = plan_find(&start->plan, OP_LOOPBACK) != NULL,
                                  .offline = landlock && record_int(landlock, 1) != 0,
                                  .start = start};
    return broker;
}

/* From now on the payload's processes can neither fork nor anything else that is supervised: all of it answers ENOSYS. */
void broker_close(struct broker *broker)
{
    if (broker)
        close(broker->listener);
}

/* ---- looking at the caller ---- */

static uint64_t argument(const struct request *request, int index)
{
    return request->notification.data.args[index];
}

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

static int read_exactly(const struct request *request, uint64_t address, void *buffer, size_t size)
{
    ssize_t got = read_memory(request, address, buffer, size);
    return got < 0 ? (int)got : (size_t)got == size ? 0 : -EFAULT;
}

/* A string may end just before an unmapped page: it is read up to each page's end. */
static int read_string(const struct request *request, uint64_t address, char *buffer, size_t size)
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

static int open_of_caller(const struct request *request, const char *what, uint64_t flags)
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

static int open_descriptor(const struct request *request, int fd)
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

static int open_path(const struct request *request, int dir, char *path, size_t size, bool follow)
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
    return working_directory && is_below(path, start->cwd);
}

static bool is_writable_place(const struct broker *broker, int fd)
{
    struct statvfs mount; /* with namespaces something read-only may be mounted below what is writable */
    if (fstatvfs(fd, &mount) < 0 || (mount.f_flag & ST_RDONLY))
        return false;
    return is_in_place(broker, fd, OP_WRITABLE, broker->start->write_cwd);
}

static bool is_readable_place(const struct broker *broker, int fd)
{
    return is_in_place(broker, fd, OP_RULE, broker->start->show_cwd);
}

/* ---- acting on a descriptor ---- */

static int result_of(long status)
{
    return status < 0 ? -errno : 0;
}

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
    struct timespec times[2] = {{.tv_sec = given.actime}, {.tv_sec = given.modtime}};
    return problem ? problem : set_times(fd, times);
}
#endif

static int act_truncate(const struct request *request, int fd, int length_index)
{
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return result_of(truncate(link, (off_t)argument(request, length_index)));
}

/* ---- the calls ---- */

enum { NONE = -1 };

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

static int serve_metadata(const struct request *request, const struct call *call)
{
    int fd = open_object(request, call);
    if (fd < 0)
        return fd;
    int result = is_writable_place(request->broker, fd) ? call->act(request, fd, call->rest) : -EPERM;
    close(fd);
    return result;
}

static pid_t process_of(uint32_t thread)
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
static int take_descriptor(const struct request *request, int fd)
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

static int connect_unix(const struct request *request, int socket, const struct sockaddr_un *address, socklen_t size)
{
    char path[sizeof address->sun_path + 1] = {0}, resolved[4096];
    if (size <= offsetof(struct sockaddr_un, sun_path))
        return -EINVAL;
    if (address->sun_path[0] == 0) /* abstract: ours alone where the network is */
        return request->broker->own_network ? result_of(connect(socket, (const struct sockaddr *)address, size))
                                            : -ECONNREFUSED;
    memcpy(path, address->sun_path, size - offsetof(struct sockaddr_un, sun_path));
    snprintf(resolved, sizeof resolved, "%s", path);
    int fd = open_path(request, AT_FDCWD, resolved, sizeof resolved, true);
    if (fd < 0)
        return fd;
    struct sockaddr_un direct = {.sun_family = AF_UNIX};
    snprintf(direct.sun_path, sizeof direct.sun_path, "/proc/self/fd/%d", fd);
    int result = is_writable_place(request->broker, fd)
                     ? result_of(connect(socket, (const struct sockaddr *)&direct, sizeof direct))
                     : -EACCES;
    close(fd);
    return result;
}

static int serve_connect(const struct request *request)
{
    struct sockaddr_storage address = {0};
    int domain = 0;
    socklen_t length = sizeof domain, size = (socklen_t)argument(request, 2);
    if (size > sizeof address)
        return -EINVAL;
    int problem = read_exactly(request, argument(request, 1), &address, size);
    if (problem)
        return problem;
    int socket = take_descriptor(request, (int)argument(request, 0));
    if (socket < 0)
        return socket;
    int result;
    if (getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0)
        result = -errno;
    else if (domain == AF_UNIX && address.ss_family == AF_UNIX && size <= sizeof(struct sockaddr_un))
        result = connect_unix(request, socket, (const struct sockaddr_un *)&address, size);
    else if (domain == AF_UNIX)
        result = -EINVAL;
    else if (request->broker->offline)
        result = -EACCES;
    else
        result = result_of(connect(socket, (const struct sockaddr *)&address, size));
    close(socket);
    return result;
}

/* ioctl_tty(2), TIOCGPTPEER: opens the other side of a pseudo-terminal whose master the caller has. Its path in /dev/pts is
 * not granted, since the user's other terminals are there too. */
static int serve_terminal(const struct request *request, int *value)
{
    int flags = (int)argument(request, 2);
    int master = take_descriptor(request, (int)argument(request, 0));
    if (master < 0)
        return master;
    int terminal = ioctl(master, TIOCGPTPEER, (flags & ~O_CLOEXEC) | O_NOCTTY | O_CLOEXEC);
    int result = terminal < 0 ? -errno : 0;
    close(master);
    if (result)
        return result;
    struct seccomp_notif_addfd add = {.id = request->notification.id,
                                      .srcfd = (uint32_t)terminal,
                                      .newfd_flags = flags & O_CLOEXEC ? O_CLOEXEC : 0};
    int added = ioctl(request->broker->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
    result = added < 0 ? -errno : 0;
    close(terminal);
    *value = added;
    return result;
}

/* seccomp_unotify(2) warns of letting a call go on: its memory may have changed meanwhile. Done only for calls that are judged
 * by their registers, which cannot. */
static void let_go_on(const struct request *request)
{
    struct seccomp_notif_resp response = {.id = request->notification.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    ioctl(request->broker->listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

static bool is_fork(int number)
{
#ifdef SYS_fork
    if (number == SYS_fork || number == SYS_vfork)
        return true;
#endif
    return number == SYS_clone;
}

/* Watching a directory needs no right to read it, as far as Landlock goes. */
static int serve_watch(const struct request *request, int *value)
{
    char path[4096], link[32];
    uint32_t mask = (uint32_t)argument(request, 2);
    int problem = read_string(request, argument(request, 1), path, sizeof path);
    if (problem)
        return problem;
    int inotify = take_descriptor(request, (int)argument(request, 0));
    if (inotify < 0)
        return inotify;
    int fd = open_path(request, AT_FDCWD, path, sizeof path, !(mask & IN_DONT_FOLLOW)), result = fd;
    if (fd >= 0 && !is_readable_place(request->broker, fd)) {
        result = -EACCES;
    } else if (fd >= 0) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        *value = inotify_add_watch(inotify, link, mask & ~(uint32_t)IN_DONT_FOLLOW);
        result = *value < 0 ? -errno : 0;
    }
    if (fd >= 0)
        close(fd);
    close(inotify);
    return result;
}

/* Limits and scheduling of a process are the business of that process alone. Which argument says whose; the filter lets calls
 * about "me" (0) pass without asking. */
static const struct process_call {
    int number;
    signed char which, who;
    uint64_t process; /* the value of which that means a process */
} PROCESS_CALLS[] = {
    {SYS_prlimit64, NONE, 0, 0},          {SYS_setpriority, 0, 1, 0 /* PRIO_PROCESS */},
    {SYS_sched_setaffinity, NONE, 0, 0},  {SYS_sched_setscheduler, NONE, 0, 0},
    {SYS_sched_setparam, NONE, 0, 0},     {SYS_sched_setattr, NONE, 0, 0},
    {SYS_ioprio_set, 0, 1, 1 /* IOPRIO_WHO_PROCESS */},
};

static const struct process_call *find_process_call(int number)
{
    for (size_t i = 0; i < sizeof PROCESS_CALLS / sizeof *PROCESS_CALLS; i++)
        if (PROCESS_CALLS[i].number == number)
            return &PROCESS_CALLS[i];
    return NULL;
}

static bool is_about_caller(const struct request *request, const struct process_call *call)
{
    uint32_t who = (uint32_t)argument(request, call->who);
    if (call->which != NONE && (uint32_t)argument(request, call->which) != call->process)
        return false;
    return who == 0 || process_of(who) == process_of(request->notification.pid);
}

static void answer(const struct request *request, int result, int value)
{
    struct seccomp_notif_resp response = {.id = request->notification.id, .val = result ? 0 : value, .error = result};
    ioctl(request->broker->listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

/* A connection may take its time; each has a process of its own, and the others need not wait. */
static void serve_connect_aside(const struct request *request)
{
    pid_t child = fork();
    if (child < 0)
        answer(request, -EAGAIN, 0);
    if (child != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    answer(request, serve_connect(request), 0);
    _exit(0);
}

void broker_serve(struct broker *broker)
{
    struct request request = {.broker = broker};
    if (ioctl(broker->listener, SECCOMP_IOCTL_NOTIF_RECV, &request.notification) < 0)
        return;
    int number = request.notification.data.nr, value = 0;
    if (is_fork(number)) {
        let_go_on(&request);
        return;
    }
    if (number == SYS_connect) {
        serve_connect_aside(&request);
        return;
    }
    const struct process_call *process_call = find_process_call(number);
    if (process_call && is_about_caller(&request, process_call)) {
        let_go_on(&request);
        return;
    }
    int result = process_call ? -EPERM : -ENOSYS; /* also for what is supervised to be refused: file_setattr */
    if (number == SYS_ioctl)
        result = serve_terminal(&request, &value);
    if (number == SYS_inotify_add_watch)
        result = serve_watch(&request, &value);
    for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++)
        if (CALLS[i].number == number)
            result = serve_metadata(&request, &CALLS[i]);
    answer(&request, result, value);
}
