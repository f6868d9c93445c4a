/* The attacks that need a compiled program: no interpreter, no C library in between, foreign system call tables, raw
 * clone flags. Prints "name errno" lines. Arguments: secret, directory outside, pid outside, own directory. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *secret, *outside, *own;
static pid_t victim;
static char path[8192];

static const char *in(const char *directory, const char *name)
{
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static long end_child(long pid)
{
    if (pid == 0)
        _exit(0);
    return pid;
}

static long raw_open(void) { return syscall(SYS_openat, AT_FDCWD, secret, O_RDONLY); }
static long raw_write(void) { return syscall(SYS_openat, AT_FDCWD, in(outside, "new-c"), O_WRONLY | O_CREAT, 0644); }
static long raw_chmod(void) { return syscall(SYS_fchmodat, AT_FDCWD, in(outside, "victim"), 0600); }
static long raw_kill(void) { return syscall(SYS_kill, victim, SIGURG); }
static long raw_tgkill(void) { return syscall(SYS_tgkill, victim, victim, SIGURG); }
static long raw_ptrace(void) { return syscall(SYS_ptrace, PTRACE_SEIZE, victim, 0, 0); }

static long raw_openat2(void)
{
    uint64_t how[3] = {O_RDONLY, 0, 0};
    return syscall(437, AT_FDCWD, secret, how, sizeof how);
}

static long raw_connect(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", in(outside, "stream.sock"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return fd < 0 ? -1 : connect(fd, (struct sockaddr *)&address, sizeof address);
}

static long clone_user(void) { return end_child(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)); }
static long clone_user_high(void)
{
    return end_child(syscall(SYS_clone, (1ul << 40) | CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
}
static long clone3_user(void)
{
    uint64_t arguments[8] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD, 0, 0, 0};
    return end_child(syscall(SYS_clone3, arguments, sizeof arguments));
}
static long unshare_user(void) { return syscall(SYS_unshare, CLONE_NEWUSER); }
static long unshare_time(void) { return syscall(SYS_unshare, 0x80 | CLONE_NEWUSER); }
static long terminal_input(void)
{
    char c = 'x';
    return syscall(SYS_ioctl, 0, 0xdeadbeef00000000ul | TIOCSTI, &c);
}
static long set_uid_file(void) { return syscall(SYS_openat, AT_FDCWD, in(own, "c-setuid"), O_CREAT | O_WRONLY, 04755); }
static long set_uid_tmpfile(void) { return syscall(SYS_openat, AT_FDCWD, own, O_TMPFILE | O_WRONLY, 04755); }
static long set_uid_high(void)
{
    return syscall(SYS_openat, AT_FDCWD, in(own, "c-setuid-high"), (1ul << 33) | O_CREAT | O_WRONLY, (1ul << 40) | 04755);
}
static long raise_privilege(void)
{
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0)
        return 0;
    errno = EPERM;
    return -1;
}
static long unknown_call(void) { return syscall(9999) < 0 && errno == ENOSYS ? (errno = ENOSYS, -1) : 0; }

#ifdef __x86_64__
/* __X32_SYSCALL_BIT: the same numbers with other argument layouts, past filters that compare for equality. */
static long x32_getpid(void) { return syscall(0x40000000 | SYS_getpid); }
static long x32_ptrace(void) { return syscall(0x40000000 | 521, PTRACE_SEIZE, victim, 0, 0); }

static long int80_getpid(void)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
    if (result < 0) {
        errno = (int)-result;
        return -1;
    }
    return result;
}
#endif

static const struct {
    const char *name;
    long (*attack)(void);
} ATTACKS[] = {
    {"open", raw_open},
    {"write", raw_write},
    {"openat2", raw_openat2},
    {"chmod", raw_chmod},
    {"connect", raw_connect},
    {"kill", raw_kill},
    {"tgkill", raw_tgkill},
    {"ptrace", raw_ptrace},
    {"clone-user", clone_user},
    {"clone-user-high", clone_user_high},
    {"clone3-user", clone3_user},
    {"unshare-user", unshare_user},
    {"unshare-time", unshare_time},
    {"tiocsti-high", terminal_input},
    {"setuid-file", set_uid_file},
    {"setuid-tmpfile", set_uid_tmpfile},
    {"setuid-high", set_uid_high},
    {"new-privileges", raise_privilege},
    {"unknown-call", unknown_call},
#ifdef __x86_64__
    {"x32", x32_getpid},
    {"x32-ptrace", x32_ptrace},
    {"int80", int80_getpid},
#endif
};

static void try(const char *name, long (*attack)(void))
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(15);
        errno = 0;
        _exit(attack() < 0 ? errno : 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        printf("%s %s\n", name, strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status))
        printf("%s %s\n", name, strerrorname_np(WEXITSTATUS(status)));
    else
        printf("%s done\n", name);
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    secret = argv[1];
    outside = argv[2];
    victim = (pid_t)atoi(argv[3]);
    own = argv[4];
    for (size_t i = 0; i < sizeof ATTACKS / sizeof *ATTACKS; i++)
        try(ATTACKS[i].name, ATTACKS[i].attack);
    return 0;
}
