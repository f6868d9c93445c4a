/* Calls that use what the caller has open: a socket that connects, the master of a pseudo-terminal, an inotify instance. Each
 * is made on the caller's own open file, taken with pidfd_getfd(2). */
#define _GNU_SOURCE
#include "broker.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SECCOMP_ADDFD_FLAG_SEND /* Linux 5.14 */
#define SECCOMP_ADDFD_FLAG_SEND 2
#endif
#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

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

static int connect_taken(const struct request *request, int socket, const struct sockaddr_storage *address, socklen_t size)
{
    int domain = 0;
    socklen_t length = sizeof domain;
    if (getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0)
        return -errno;
    if (domain == AF_UNIX && address->ss_family == AF_UNIX && size <= sizeof(struct sockaddr_un))
        return connect_unix(request, socket, (const struct sockaddr_un *)address, size);
    if (domain == AF_UNIX)
        return -EINVAL;
    if (request->broker->offline)
        return -EACCES;
    return result_of(connect(socket, (const struct sockaddr *)address, size));
}

static uint64_t cookie_of(int socket)
{
    uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    return getsockopt(socket, SOL_SOCKET, SO_COOKIE, &cookie, &length) < 0 ? 0 : cookie;
}

/* A signal may take the caller away from a call that is being made for it, or has been: neither the listener nor the answer tells.
 * With SA_RESTART the call comes again and would hear EISCONN; as of a connection that was completed in the background
 * (connect(2)), it hears of success instead. */
static int connect_again(const struct request *request, int socket, const struct sockaddr_storage *address, socklen_t size)
{
    uint64_t cookie = cookie_of(socket);
    _Atomic uint64_t *last = &request->broker->connecting[cookie % CONNECTING];
    bool again = cookie && *last == cookie;
    *last = cookie;
    int result = connect_taken(request, socket, address, size);
    return result == -EISCONN && again ? 0 : result;
}

void serve_connect(const struct request *request)
{
    struct sockaddr_storage address = {0};
    socklen_t size = (socklen_t)argument(request, 2);
    int result = size > sizeof address ? -EINVAL : read_exactly(request, argument(request, 1), &address, size);
    int socket = result ? result : take_descriptor(request, (int)argument(request, 0));
    if (socket < 0) {
        answer(request, socket, 0);
        return;
    }
    answer(request, connect_again(request, socket, &address, size), 0);
}

/* ioctl_tty(2), TIOCGPTPEER: opens the other side of a pseudo-terminal whose master the caller has. Its path in /dev/pts is
 * not granted, since the user's other terminals are there too. */
int serve_terminal(const struct request *request, int *value)
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
                                      .flags = SECCOMP_ADDFD_FLAG_SEND, /* it is the answer; nobody waiting: nothing is added */
                                      .srcfd = (uint32_t)terminal,
                                      .newfd_flags = flags & O_CLOEXEC ? O_CLOEXEC : 0};
    int added = ioctl(request->broker->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
    result = added < 0 ? -errno : 0;
    close(terminal);
    *value = added;
    return result;
}

/* Watching a directory needs no right to read it, as far as Landlock goes. */
int serve_watch(const struct request *request, int *value)
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
