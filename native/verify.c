/* Proof, from inside, that a plan confines: run once when it is made, not at each start. One line a check, then a status. */
#define _GNU_SOURCE
#include "vsbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int failures;

static void check(const char *name, bool holds)
{
    printf("%s %s\n", holds ? "ok" : "FAILED", name);
    failures += !holds;
}

static bool has_no_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct have[2] = {{0}};
    if (syscall(SYS_capget, &header, have) < 0)
        return false;
    return !(have[0].permitted | have[0].effective | have[0].inheritable | have[1].permitted | have[1].effective |
             have[1].inheritable);
}

static bool cannot_open_for_writing(const char *path)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd < 0;
}

static bool has_no_descriptors(void)
{
    for (int fd = 3; fd < 256; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags >= 0 && !(flags & FD_CLOEXEC))
            return false;
    }
    return true;
}

void verify_and_exit(const struct start *start)
{
    char zero = 0;
    char plan[8400];
    snprintf(plan, sizeof plan, "%s/sandbox/plan.new", start->root);
    check("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    check("seccomp filter", prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2);
    check("no capabilities", has_no_capabilities());
    check("no nested user namespace", unshare(CLONE_NEWUSER) < 0);
    check("no terminal injection", ioctl(0, TIOCSTI, &zero) < 0 && errno == EPERM);
    check("no kernel settings", cannot_open_for_writing("/proc/sys/kernel/core_pattern"));
    check("no inherited descriptors", has_no_descriptors());
    check("no policy within reach", cannot_open_for_writing(plan));
    fflush(stdout);
    _exit(failures ? EXIT_OWN_FAILURE : 0);
}
