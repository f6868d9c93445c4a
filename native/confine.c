/* What the payload's process does to itself, last thing before exec. Nothing here can be undone. */
#define _GNU_SOURCE
#include "vsbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_NEW_LISTENER
#define SECCOMP_FILTER_FLAG_NEW_LISTENER (1UL << 3)
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV /* Linux 5.19 */
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
enum { LANDLOCK_PATH_BENEATH = 1 };
enum { FS_EXECUTE = 1, FS_WRITE_FILE = 2, FS_READ_FILE = 4, FS_REFER = 1 << 13, FS_TRUNCATE = 1 << 14, FS_IOCTL_DEV = 1 << 15 };
enum { LOG_SAME_EXEC_OFF = 1 /* of landlock_restrict_self: ABI 7 */ };
/* Rights that mean something for a file; the kernel refuses others there with EINVAL (security/landlock/fs.c, ACCESS_FILE). */
static const uint64_t FILE_RIGHTS = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV | 1 << 16;

struct ruleset_attributes {
    uint64_t handled_access_fs, handled_access_net, scoped;
};

struct path_beneath {
    uint64_t allowed_access;
    int32_t parent_fd;
} __attribute__((packed));

static int ruleset = -1;
static uint64_t handled_fs;
static uint32_t restrict_flags;
static int listener = -1;

int take_listener(void)
{
    int fd = listener;
    listener = -1;
    return fd;
}

void empty_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    if (syscall(SYS_capset, &header, none) < 0)
        fail_errno(NULL, "cannot drop capabilities");
}

/* capabilities(7): an empty bounding set and SECBIT_NOROOT keep uid 0 from gaining any at exec. */
void bound_capabilities(void)
{
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    int bound;
    for (int cap = 0; (bound = prctl(PR_CAPBSET_READ, cap, 0, 0, 0)) >= 0; cap++)
        if (bound && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && geteuid() == 0) /* an ordinary user is held by no_new_privs */
            fail_errno(NULL, "cannot drop capability %d", cap);
    prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED |
                                 SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED,
          0, 0, 0);
}

void drop_capabilities(void)
{
    bound_capabilities();
    empty_capabilities();
}

static void add_rule_for(int fd, uint64_t access, const char *what)
{
    struct path_beneath rule = {.allowed_access = access & handled_fs, .parent_fd = fd};
    if (!rule.allowed_access || sys_landlock_add_rule(ruleset, LANDLOCK_PATH_BENEATH, &rule) == 0)
        return;
    rule.allowed_access &= FILE_RIGHTS; /* EINVAL: rights of a directory for what is none */
    if (errno == EINVAL && (!rule.allowed_access || sys_landlock_add_rule(ruleset, LANDLOCK_PATH_BENEATH, &rule) == 0))
        return;
    fail_errno(NULL, "cannot add a Landlock rule for %s", what);
}

static void add_rule(const char *path, uint64_t access)
{
    if (!(access & handled_fs))
        return;
    int fd = open_no_symlinks(path, O_PATH);
    if (fd < 0)
        fail_errno("a granted path has vanished or is now a symbolic link: see vsbox explain", "cannot open %s", path);
    add_rule_for(fd, access, path);
    close(fd);
}

static void add_own_proc_rule(uint64_t access)
{
    int fd = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC); /* a magic link: its meaning is this process */
    if (fd < 0)
        fail_errno(NULL, "cannot open /proc/self");
    add_rule_for(fd, access, "/proc/self");
    close(fd);
}

/* /dev/stdin, /dev/stdout: files and terminals that the caller handed over may be opened anew, in the mode they have. */
static void add_stdio_rules(uint64_t all)
{
    for (int fd = 0; fd <= 2; fd++) {
        struct stat status;
        int mode = fcntl(fd, F_GETFL);
        if (mode < 0 || (mode & O_PATH) || fstat(fd, &status) < 0)
            continue;
        bool terminal = S_ISCHR(status.st_mode) && isatty(fd);
        if (!terminal && !S_ISREG(status.st_mode))
            continue;
        uint64_t access = 0;
        if ((mode & O_ACCMODE) != O_WRONLY)
            access |= FS_READ_FILE;
        if ((mode & O_ACCMODE) != O_RDONLY)
            access |= FS_WRITE_FILE | FS_TRUNCATE;
        if (terminal)
            access |= FS_IOCTL_DEV;
        add_rule_for(fd, access & all, "a standard stream");
    }
}

/* A file that the caller opened for writing only must not be read by opening it once more. */
static bool has_write_only_stream(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        struct stat status;
        int mode = fcntl(fd, F_GETFL);
        if (mode >= 0 && (mode & O_ACCMODE) == O_WRONLY && fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
            return true;
    }
    return false;
}

/* With namespaces, mounts decide what can be read, and Landlock's own answer, a fifth of the price of opening a file, is asked
 * for only where a standard stream leads around them. Without, the plan names no such rights. */
static void create_ruleset(const struct record *r)
{
    struct ruleset_attributes attributes = {record_int(r, 0), record_int(r, 1), record_int(r, 2)};
    if (!has_write_only_stream())
        attributes.handled_access_fs &= ~record_int(r, 4);
    /* Fields at the end that are zero are left out, so that older ABIs accept the structure. */
    size_t size = attributes.scoped ? 24 : attributes.handled_access_net ? 16 : 8;
    ruleset = sys_landlock_create_ruleset(&attributes, size, 0);
    if (ruleset < 0)
        fail_errno("see what this machine offers: vsbox doctor", "cannot create a Landlock ruleset");
    handled_fs = attributes.handled_access_fs;
    restrict_flags = (uint32_t)record_int(r, 3);
}

static void restrict_self(void)
{
    if (sys_landlock_restrict_self(ruleset, restrict_flags) < 0)
        fail_errno("at most 16 Landlock layers can be stacked", "cannot enforce the Landlock ruleset");
    close(ruleset);
}

/* Each layer denies moves between directories unless it allows them, also one that asks for nothing of files (landlock(7),
 * LANDLOCK_ACCESS_FS_REFER). */
void restrict_signals(void)
{
    const struct ruleset_attributes attributes = {.handled_access_fs = FS_REFER, .scoped = LANDLOCK_SCOPE_SIGNAL};
    struct path_beneath everywhere = {.allowed_access = FS_REFER, .parent_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)};
    int layer = sys_landlock_create_ruleset(&attributes, sizeof attributes, 0);
    if (everywhere.parent_fd < 0 || layer < 0 || sys_landlock_add_rule(layer, LANDLOCK_PATH_BENEATH, &everywhere) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        (sys_landlock_restrict_self(layer, LOG_SAME_EXEC_OFF) < 0 && sys_landlock_restrict_self(layer, 0) < 0))
        fail_errno("see what this machine offers: vsbox doctor", "cannot restrict signals");
    close(everywhere.parent_fd);
    close(layer);
}

static void load_filter(const struct record *r)
{
    struct field program = record_field(r, 0);
    struct sock_filter *copy = malloc(program.size); /* fields of a plan are not aligned */
    if (!copy || program.size % sizeof *copy)
        fail(EXIT_OWN_FAILURE, NULL, "cannot load the seccomp filter: its size is wrong");
    memcpy(copy, program.data, program.size);
    struct sock_fprog filter = {.len = (unsigned short)(program.size / sizeof *copy), .filter = copy};
    bool supervised = record_int(r, 1) != 0;
    unsigned flags = supervised ? SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV : 0;
    int result = sys_seccomp(SECCOMP_SET_MODE_FILTER, flags, &filter);
    if (result < 0 && errno == EINVAL && supervised) /* before that a signal makes a call that waits for its answer fail: EINTR */
        result = sys_seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
    if (result < 0)
        fail_errno("see what this machine offers: vsbox doctor", "cannot load the seccomp filter");
    if (supervised)
        listener = result;
    free(copy);
}

static void set_limit(const struct record *r)
{
    struct rlimit now, wanted = {.rlim_cur = record_int(r, 1), .rlim_max = record_int(r, 2)};
    int resource = (int)record_int(r, 0);
    if (getrlimit(resource, &now) < 0)
        fail_errno(NULL, "cannot read resource limit %d", resource);
    if (wanted.rlim_max > now.rlim_max)
        wanted.rlim_max = now.rlim_max;
    if (wanted.rlim_cur > wanted.rlim_max)
        wanted.rlim_cur = wanted.rlim_max;
    if (setrlimit(resource, &wanted) < 0)
        fail_errno(NULL, "cannot set resource limit %d", resource);
}

void grant_dynamic(const char *path, uint64_t access)
{
    if (ruleset >= 0)
        add_rule(path, access);
}

void do_payload_step(const struct start *start, const struct record *r)
{
    switch (r->op) {
    case OP_RLIMIT:
        set_limit(r);
        break;
    case OP_LANDLOCK:
        create_ruleset(r);
        break;
    case OP_RULE:
        add_rule(record_string(r, 0), record_int(r, 1));
        break;
    case OP_RULE_OWN_PROC:
        add_own_proc_rule(record_int(r, 0));
        break;
    case OP_RULE_STDIO:
        add_stdio_rules(record_int(r, 0));
        break;
    case OP_WORKDIR:
        if (start->show_cwd)
            grant_dynamic(start->cwd, record_int(r, 1));
        break;
    case OP_PROJECT:
        grant_project(start, r);
        break;
    case OP_SCRIPT:
        if (start->script)
            grant_dynamic(start->script, record_int(r, 0));
        break;
    case OP_RESTRICT:
        restrict_self();
        break;
    case OP_SECCOMP:
        load_filter(r);
        break;
    default:
        break;
    }
}

void choose_directory(const struct start *start)
{
    const struct record *home = plan_find(&start->plan, OP_HOME), *wanted = plan_find(&start->plan, OP_CHDIR);
    if (wanted && chdir(record_string(wanted, 0)) < 0)
        fail_errno("is it there, seen from inside? (cwd of a run, --chdir in bwrap_arguments of sandbox.json)", "cannot change to %s", record_string(wanted, 0));
    if (wanted)
        return;
    if (start->cwd && chdir(start->cwd) == 0)
        return;
    if (!home || chdir(record_string(home, 0)) < 0)
        if (chdir("/") < 0)
            fail_errno(NULL, "cannot change to /");
}

/* execvp(3) gives text without a #! line to the shell; people rely on it. */
static void execute_file(const char *program, char **argv, char **environment)
{
    execve(program, argv, environment);
    if (errno != ENOEXEC)
        return;
    size_t count = 0;
    while (argv[count])
        count++;
    char **shell = calloc(count + 2, sizeof *shell);
    if (!shell)
        return;
    shell[0] = "sh";
    shell[1] = (char *)program;
    memcpy(shell + 2, argv + 1, count * sizeof *shell);
    execve("/bin/sh", shell, environment);
}

static const char *search_path(char **environment)
{
    for (char **entry = environment; *entry; entry++)
        if (strncmp(*entry, "PATH=", 5) == 0)
            return *entry + 5;
    return "/usr/bin:/bin";
}

static void execute_from_path(const char *name, char **argv, char **environment)
{
    bool denied = false;
    for (const char *at = search_path(environment); *at;) {
        size_t length = strcspn(at, ":");
        char path[4096];
        if ((size_t)snprintf(path, sizeof path, "%.*s/%s", (int)length, at, name) < sizeof path) {
            execute_file(path, argv, environment);
            denied |= errno == EACCES;
        }
        at += length + (at[length] == ':');
    }
    errno = denied ? EACCES : ENOENT;
}

void execute(const struct start *start)
{
    const char *program;
    char **argv = build_argv(start, &program);
    if (strchr(program, '/'))
        execute_file(program, argv, start->environment);
    else
        execute_from_path(program, argv, start->environment);
    int cause = errno;
    fail(cause == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE, NULL, "cannot execute %s: %s", program, strerror(cause));
}
