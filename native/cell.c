/* One run for a program that has made a plan for it: nothing of it is on a disk, and nobody synchronises anything afterwards.
 *
 *   vsbox-launcher run PLAN CONTROL KEPT GROUPS CALLER COMMAND [ARGUMENT]...
 *
 * PLAN: descriptor of the encoded plan. CONTROL: a socket, which gets exported directories, what is observed and the last word of
 * the run, and says when to go on, which signal to hand on, and when to end; when its other end is closed, all inside is ended.
 * KEPT: a descriptor that the payload keeps, or -1. GROUPS: directories of control groups to
 * join, separated by colons. CALLER: the process that asks; when it has ended, all inside is ended. */
#define _GNU_SOURCE
#include "supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;
enum { FD_CONTROL_OF_CELL = 3, FD_KEPT = 4, OUT_OF_THE_WAY = 16, FIRST_WORD = 7 };

static void load_cell(struct start *start, int fd)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        fail_errno(NULL, "cannot read the plan");
    unsigned char *bytes = status.st_size > 0 && status.st_size <= PLAN_MAX_SIZE ? malloc((size_t)status.st_size) : NULL;
    if (!bytes || pread(fd, bytes, (size_t)status.st_size, 0) != status.st_size)
        fail_errno(NULL, "cannot read the plan");
    const char *problem = plan_decode(&start->plan, bytes, (size_t)status.st_size);
    if (problem)
        fail(EXIT_OWN_FAILURE, NULL, "cannot use the plan: %s", problem);
    const struct record *root = plan_find(&start->plan, OP_ROOT);
    start->root = root ? strdup(record_string(root, 0)) : NULL;
    if (!start->root)
        fail(EXIT_OWN_FAILURE, NULL, "cannot use the plan: it has no root");
}

static int move_away(const char *word)
{
    int fd = atoi(word);
    if (fd < 0)
        return -1;
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
    if (moved < 0)
        fail_errno(NULL, "cannot use descriptor %d", fd);
    return moved;
}

/* More than one, separated by colons, where each controller has a tree of its own (cgroups v1). */
static void join_groups(const char *directories)
{
    for (const char *at = directories; *at;) {
        char path[4200];
        int length = (int)strcspn(at, ":");
        snprintf(path, sizeof path, "%.*s/cgroup.procs", length, at);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, "0", 1) < 0)
            fail_errno(NULL, "cannot join the control group %.*s", length, at);
        close(fd);
        at += length + (at[length] == ':');
    }
}

/* Returns a descriptor that tells of its end; 0 where it is outside our PID namespace, and the control socket has to do. */
static int watch_caller(pid_t caller)
{
    if (getppid() == 0)
        return 0;
    int fd = sys_pidfd_open(caller);
    if (getppid() != caller) /* it has ended, and who has its number now is somebody else */
        fail(EXIT_OWN_FAILURE, NULL, "cannot run: who asked for it has ended");
    return fd > 0 ? fd : 0;
}

/* In a session of its own the payload answers to the caller alone, who counts on SIGINT: a background job of a shell ignores
 * that, and a thread may have blocked it. In the foreground it is the caller's terminal that counts. */
static void reset_signals(void)
{
    struct sigaction standard = {.sa_handler = SIG_DFL};
    if (getsid(0) != getpid())
        return;
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &standard, NULL); /* fails for those that the C library keeps to itself, and for two more */
    sys_sigprocmask(SIG_SETMASK, 0, NULL);
}

void run_cell(int argc, char **argv)
{
    struct start start = {0};
    if (argc <= FIRST_WORD)
        fail(EXIT_USAGE, "see vsbox --help", "this program is for vsbox itself");
    check_streams();
    int control = move_away(argv[3]), kept = move_away(argv[4]);
    load_cell(&start, atoi(argv[2]));
    if (control < 0 || dup3(control, FD_CONTROL_OF_CELL, O_CLOEXEC) < 0 || (kept >= 0 && dup3(kept, FD_KEPT, O_CLOEXEC) < 0) ||
        sys_close_range(kept >= 0 ? FD_KEPT + 1 : FD_KEPT, ~0u, 0) < 0)
        fail_errno("Linux 5.9 or newer is needed", "cannot close inherited descriptors");
    start.control = FD_CONTROL_OF_CELL;
    start.kept = kept >= 0 ? FD_KEPT : 0;
    start.caller = watch_caller(atoi(argv[6]));
    start.arguments = start.arguments_outside = argv + FIRST_WORD;
    join_groups(argv[5]);
    choose_working_directory(&start);
    build_environment(&start, environ);
    reset_signals();
    int signal_number = 0;
    _exit(run_outside(&start, &signal_number));
}
