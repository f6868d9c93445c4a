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

/* Our own filter answers whatever its list is, and nothing else does. */
static bool has_our_filter(const struct start *start)
{
    uint64_t box_id = fnv1a64(start->root, strlen(start->root));
    return prctl(PROBE_OPTION, box_id, 0, 0, 0) < 0 && errno == PROBE_ERRNO;
}

/* Standard input is no terminal: only a filter answers so, by its rule or since its list leaves ioctl out. */
static bool cannot_type(void)
{
    char zero = 0;
    return ioctl(0, TIOCSTI, &zero) < 0 && (errno == EPERM || errno == ENOSYS);
}

void verify_before_filter(const struct start *start)
{
    char plan[8400];
    snprintf(plan, sizeof plan, "%s/sandbox/plan.new", start->root);
    check("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    check("no capabilities", has_no_capabilities());
    check("no inherited descriptors", has_no_descriptors());
    const struct record *profile = plan_find(&start->plan, OP_APPARMOR);
    if (profile)
        check("AppArmor profile", is_in_profile(record_string(profile, 0)));
    if (plan_find(&start->plan, OP_UNCONFINED))
        return;
    check("no kernel settings", cannot_open_for_writing("/proc/sys/kernel/core_pattern"));
    check("no policy within reach", cannot_open_for_writing(plan));
    fflush(stdout);
}

void verify_and_exit(const struct start *start)
{
    bool confines = !plan_find(&start->plan, OP_UNCONFINED), filters = plan_find(&start->plan, OP_SECCOMP) != NULL;
    if (confines)
        check("no nested user namespace", unshare(CLONE_NEWUSER) < 0);
    if (filters)
        check("seccomp filter", has_our_filter(start));
    if (filters && confines)
        check("no terminal injection", cannot_type());
    fflush(stdout);
    _exit(failures ? EXIT_OWN_FAILURE : 0);
}
