/* What this machine offers, found by doing it: one line "NAME=ok", "NAME=number" or "NAME=-errno" each, for src/vsbox/host/. */
#define _GNU_SOURCE
#include "vsbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void print_result(const char *name, int error)
{
    if (error)
        printf("%s=-%d\n", name, error);
    else
        printf("%s=ok\n", name);
}

/* Runs try in a child with the namespaces given; its errno is the answer. */
static void probe_child(const char *name, uint64_t flags, int (*try)(void))
{
    fflush(stdout);
    pid_t child = sys_clone(flags);
    if (child < 0) {
        print_result(name, errno);
        return;
    }
    if (child == 0)
        _exit(try() < 0 ? errno : 0);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    print_result(name, WIFEXITED(status) ? WEXITSTATUS(status) : EINTR);
}

static int write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = write(fd, text, strlen(text)) < 0 ? -1 : 0;
    int cause = errno;
    close(fd);
    errno = cause;
    return result;
}

static uid_t uid;
static gid_t gid;

static int map_ids(void)
{
    char map[64];
    if (write_text("/proc/self/setgroups", "deny") < 0)
        return -1;
    snprintf(map, sizeof map, "%u %u 1", uid, uid);
    if (write_text("/proc/self/uid_map", map) < 0)
        return -1;
    snprintf(map, sizeof map, "%u %u 1", gid, gid);
    return write_text("/proc/self/gid_map", map);
}

static int enter(void)
{
    return map_ids() < 0 ? -1 : mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

static int try_clone(void)
{
    int tree = sys_open_tree(AT_FDCWD, "/usr", 1 | 0x8000);
    if (tree < 0 || sys_mount_setattr(tree, "", AT_EMPTY_PATH | 0x8000, ATTRIBUTE_RDONLY | ATTRIBUTE_NOSUID, 0) < 0)
        return -1;
    return 0;
}

static int try_filesystem(const char *type)
{
    int context = sys_fsopen(type);
    if (context < 0 || sys_fsconfig(context, 6, NULL, NULL) < 0)
        return -1;
    int mounted = sys_fsmount(context, ATTRIBUTE_RDONLY | ATTRIBUTE_NOSUID | ATTRIBUTE_NODEV | ATTRIBUTE_NOEXEC);
    return mounted;
}

static int try_root(void)
{
    int root = try_filesystem("tmpfs");
    if (root < 0 || sys_move_mount(root, "", AT_FDCWD, "/", 4) < 0 || fchdir(root) < 0)
        return -1;
    return sys_pivot_root(".", ".");
}

static int try_bind(void)
{
    return enter() < 0 ? -1 : try_clone();
}

static int try_pivot(void)
{
    return enter() < 0 ? -1 : try_root();
}

static int try_proc(void)
{
    return map_ids() < 0 || try_filesystem("proc") < 0 ? -1 : 0;
}

static int try_network(void)
{
    return map_ids();
}

static int try_seccomp_with(unsigned flags)
{
    struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {.len = 1, .filter = allow};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return sys_seccomp(SECCOMP_SET_MODE_FILTER, flags, &program);
}

static int try_seccomp(void)
{
    return try_seccomp_with(0);
}

static int try_listener(void)
{
    return try_seccomp_with(1u << 3);
}

static int try_descriptor_copy(void)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC); /* our standard streams may be closed */
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    int pidfd = sys_pidfd_open(child);
    int result = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, null);
    int cause = errno;
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    errno = cause;
    return result;
}

/* How init of the Landlock-only tier finds what it must end: needs CONFIG_PROC_CHILDREN. */
static int probe_children(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    return access(path, R_OK) < 0 ? errno : 0;
}

static void probe_landlock(void)
{
    int abi = sys_landlock_create_ruleset(NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */);
    if (abi < 0)
        print_result("landlock", errno);
    else
        printf("landlock=%d\n", abi);
}

/* In a sandbox that bwrap made for this (src/vsbox/host/bubblewrap.py): may what it starts mount? */
static int probe_mounting(void)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || try_filesystem("proc") < 0 || try_clone() < 0 || try_root() < 0) {
        printf("%s\n", strerror(errno));
        return EXIT_OWN_FAILURE;
    }
    puts("arrived");
    return 0;
}

int probe_main(int argc, char **argv)
{
    const uint64_t base = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
    if (argc == 2 && strcmp(argv[1], "arrived") == 0) { /* the same, but mounted by bwrap */
        puts("arrived");
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "mount") == 0)
        return probe_mounting();
    if (argc >= 2 && strcmp(argv[1], "profiles") == 0)
        return probe_profiles(argv + 2);
    if (argc < 2 || argc > 3 || strcmp(argv[1], "probe") != 0) {
        fprintf(stderr, "vsbox: this program starts the commands of boxes\n       see vsbox --help\n");
        return EXIT_USAGE;
    }
    if (argc == 3)
        try_profile(argv[2]);
    uid = geteuid();
    gid = getegid();
    probe_landlock();
    probe_child("user_namespace", CLONE_NEWUSER, map_ids);
    probe_child("bind", base, try_bind);
    probe_child("pivot_root", base, try_pivot);
    probe_child("proc", base, try_proc);
    probe_child("network_namespace", base | CLONE_NEWNET, try_network);
    probe_child("cgroup_namespace", base | CLONE_NEWCGROUP, map_ids);
    probe_child("seccomp", 0, try_seccomp);
    probe_child("seccomp_listener", 0, try_listener);
    probe_child("pidfd_getfd", 0, try_descriptor_copy);
    print_result("proc_children", probe_children());
    print_result("openat2", open_no_symlinks("/", O_PATH) < 0 ? errno : 0);
    print_result("close_range", sys_close_range(~0u - 1, ~0u, 4 /* CLOSE_RANGE_CLOEXEC: Linux 5.11 */) < 0 ? errno : 0);
    return 0;
}
