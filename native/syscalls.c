/* System calls that C libraries of supported distributions may not wrap yet; each is named like its man page. */
#define _GNU_SOURCE
#include "vsbox.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Numbers from 424 on are the same on every architecture (Documentation/process/adding-syscalls.rst). */
enum {
    NR_OPEN_TREE = 428,
    NR_MOVE_MOUNT = 429,
    NR_FSOPEN = 430,
    NR_FSCONFIG = 431,
    NR_FSMOUNT = 432,
    NR_PIDFD_OPEN = 434,
    NR_CLOSE_RANGE = 436,
    NR_OPENAT2 = 437,
    NR_PIDFD_GETFD = 438,
    NR_MOUNT_SETATTR = 442,
    NR_LANDLOCK_CREATE_RULESET = 444,
    NR_LANDLOCK_ADD_RULE = 445,
    NR_LANDLOCK_RESTRICT_SELF = 446,
};

struct mount_attributes {
    uint64_t set, clear, propagation, userns_fd;
};

int sys_openat2(int dir, const char *path, uint64_t flags, uint64_t resolve)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};
    return (int)syscall(NR_OPENAT2, dir, path, &how, sizeof how);
}

int open_no_symlinks(const char *path, uint64_t flags)
{
    return sys_openat2(AT_FDCWD, path, flags, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

int sys_open_tree(int dir, const char *path, unsigned flags)
{
    return (int)syscall(NR_OPEN_TREE, dir, path, flags | O_CLOEXEC);
}

int sys_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags)
{
    return (int)syscall(NR_MOVE_MOUNT, from, from_path, to, to_path, flags);
}

int sys_mount_setattr(int dir, const char *path, unsigned flags, uint64_t set, uint64_t clear)
{
    struct mount_attributes attributes = {.set = set, .clear = clear};
    return (int)syscall(NR_MOUNT_SETATTR, dir, path, flags, &attributes, sizeof attributes);
}

int sys_fsopen(const char *type)
{
    return (int)syscall(NR_FSOPEN, type, 1 /* FSOPEN_CLOEXEC */);
}

int sys_fsconfig(int fd, unsigned command, const char *key, const char *value)
{
    return (int)syscall(NR_FSCONFIG, fd, command, key, value, 0);
}

int sys_fsmount(int fd, unsigned attributes)
{
    return (int)syscall(NR_FSMOUNT, fd, 1 /* FSMOUNT_CLOEXEC */, attributes);
}

int sys_pivot_root(const char *new_root, const char *put_old)
{
    return (int)syscall(SYS_pivot_root, new_root, put_old);
}

int sys_pidfd_open(pid_t pid)
{
    return (int)syscall(NR_PIDFD_OPEN, pid, 0);
}

int sys_pidfd_getfd(int pidfd, int fd)
{
    return (int)syscall(NR_PIDFD_GETFD, pidfd, fd, 0);
}

/* fork(2) with namespaces: no new stack, so the child goes on here with a copy of ours. */
pid_t sys_clone(uint64_t flags)
{
    return (pid_t)syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
}

int sys_sigprocmask(int how, uint64_t set, uint64_t *old)
{
    return (int)syscall(SYS_rt_sigprocmask, how, &set, old, sizeof set);
}

int sys_signalfd(uint64_t set, int flags)
{
    return (int)syscall(SYS_signalfd4, -1, &set, sizeof set, flags);
}

int sys_close_range(unsigned first, unsigned last, unsigned flags)
{
    return (int)syscall(NR_CLOSE_RANGE, first, last, flags);
}

int sys_landlock_create_ruleset(const void *attributes, size_t size, uint32_t flags)
{
    return (int)syscall(NR_LANDLOCK_CREATE_RULESET, attributes, size, flags);
}

int sys_landlock_add_rule(int ruleset, int type, const void *attributes)
{
    return (int)syscall(NR_LANDLOCK_ADD_RULE, ruleset, type, attributes, 0);
}

int sys_landlock_restrict_self(int ruleset, uint32_t flags)
{
    return (int)syscall(NR_LANDLOCK_RESTRICT_SELF, ruleset, flags);
}

int sys_seccomp(unsigned operation, unsigned flags, void *arguments)
{
    return (int)syscall(SYS_seccomp, operation, flags, arguments);
}

long sys_keyctl(int operation, unsigned long first, unsigned long second)
{
    return syscall(SYS_keyctl, operation, first, second);
}
