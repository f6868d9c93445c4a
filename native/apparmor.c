/* The payload's AppArmor profile. It is entered before no_new_privs, which forbids to leave one profile for another, and so before
 * everything else that the payload's process does to itself; it is not left by exec.
 *
 * Security: entered is what the kernel says afterwards, and only where the profile is enforced. Nothing starts otherwise. */
#define _GNU_SOURCE
#include "vsbox.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int proc = -1;

/* The /proc that code inside sees is read-only: that of the host is kept in reach, a path only. */
void keep_attributes(const struct start *start)
{
    if (!plan_find(&start->plan, OP_APPARMOR))
        return;
    proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0)
        fail_errno("is /proc mounted?", "cannot open /proc");
}

void forget_attributes(void)
{
    if (proc >= 0)
        close(proc);
    proc = -1;
}

/* Before Linux 5.8 there is one file for whatever security module is the first. */
static int open_current(int from, int flags)
{
    int fd = openat(from, "thread-self/attr/apparmor/current", flags | O_CLOEXEC);
    return fd < 0 && errno == ENOENT ? openat(from, "thread-self/attr/current", flags | O_CLOEXEC) : fd;
}

static int ask_for(const char *how, const char *profile)
{
    char text[512];
    int length = snprintf(text, sizeof text, "%s %s", how, profile);
    if ((size_t)length >= sizeof text)
        return ENAMETOOLONG;
    int fd = open_current(proc, O_WRONLY);
    if (fd < 0)
        return errno;
    int cause = write(fd, text, (size_t)length) < 0 ? errno : 0;
    close(fd);
    return cause;
}

/* Into the profile, or, where no_new_privs forbids to leave another one, into both at once. Returns an errno. */
static int change_profile(const char *profile)
{
    int cause = ask_for("changeprofile", profile);
    return cause == EPERM ? ask_for("stack", profile) : cause;
}

/* By the /proc that is seen here: what the profile allows to read. */
static bool read_label(char *label, size_t size)
{
    int from = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC), fd = from < 0 ? -1 : open_current(from, O_RDONLY);
    ssize_t length = fd < 0 ? -1 : read(fd, label, size - 1);
    if (fd >= 0)
        close(fd);
    if (from >= 0)
        close(from);
    label[length < 0 ? 0 : length] = 0;
    label[strcspn(label, "\n")] = 0;
    return length > 0;
}

/* A label is profiles with //& between them, and in parentheses their mode, which is one word where all have the same. */
static bool is_enforced_in(char *label, const char *profile)
{
    static const char ENFORCED[] = " (enforce)", AND[] = "//&";
    size_t length = strlen(label), mode = sizeof ENFORCED - 1;
    if (length < mode || strcmp(label + length - mode, ENFORCED) != 0)
        return false;
    label[length - mode] = 0;
    for (char *at = label, *next; at; at = next) {
        next = strstr(at, AND);
        if (next) {
            *next = 0;
            next += sizeof AND - 1;
        }
        if (strcmp(at, profile) == 0)
            return true;
    }
    return false;
}

bool is_in_profile(const char *profile)
{
    char label[4096];
    return read_label(label, sizeof label) && is_enforced_in(label, profile);
}

void enter_profile(const struct start *start)
{
    const struct record *step = plan_find(&start->plan, OP_APPARMOR);
    char label[4096], shown[4096], hint[8600];
    if (!step)
        return;
    const char *profile = record_string(step, 0);
    snprintf(hint, sizeof hint, "how to load it: vsbox apparmor %s; what is loaded is looked at anew by: vsbox sync %s", start->root, start->root);
    int cause = change_profile(profile);
    if (cause == ENOENT)
        fail(EXIT_OWN_FAILURE, hint, "cannot enter the AppArmor profile %s: it is not loaded", profile);
    if (cause)
        fail(EXIT_OWN_FAILURE, hint, "cannot enter the AppArmor profile %s: %s", profile, strerror(cause));
    bool read = read_label(label, sizeof label);
    memcpy(shown, label, sizeof shown);
    if (!read || !is_enforced_in(label, profile))
        fail(EXIT_OWN_FAILURE, hint, "cannot enforce the AppArmor profile %s: the kernel says %s", profile, read ? shown : "nothing");
    forget_attributes();
}

void try_profile(const char *profile)
{
    proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc >= 0)
        ask_for("changeprofile", profile);
    forget_attributes();
}

/* What becomes of a process that asks for a profile: the label, or a negative errno; one line for each name. */
int probe_profiles(char *const names[])
{
    for (; *names; names++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid < 0)
            fail_errno(NULL, "cannot fork");
        if (pid == 0) {
            char label[4096];
            proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
            int cause = proc < 0 ? errno : change_profile(*names);
            if (!cause && !read_label(label, sizeof label))
                cause = EIO;
            if (cause)
                printf("-%d\n", cause);
            else
                printf("%s\n", is_enforced_in(label, *names) ? "enforce" : "complain");
            fflush(stdout);
            _exit(0);
        }
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    return 0;
}
