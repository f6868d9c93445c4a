/* Signals of a process group: what everybody in it got is not handed on, and the payload is told once (supervise.h). */
#define _GNU_SOURCE
#include "supervise.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pid_t witness_process; /* 0: init is the witness itself */

/* A shell continues the whole process group, and the payload is in it: it is told once only. */
static bool is_stopped(pid_t payload)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", payload);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[length < 0 ? 0 : length] = 0;
    const char *end = strrchr(text, ')'); /* of the name, which may hold anything */
    return end && end[1] == ' ' && end[2] == 'T';
}

/* A continue that is meant for an earlier stop would undo a later one. */
static void forward(int signal_number, unsigned stops_heard, unsigned stops, pid_t payload)
{
    if (signal_number != SIGCONT || (stops_heard == (stops & 0xffff) && is_stopped(payload)))
        kill(payload, signal_number);
}

/* When each signal came to the group, in ms. With namespaces init is in the group. Else it must not be, since `kill -9` to the group
 * has to leave somebody to end what has left it; a process of its own sees for it. */
static int64_t *witnessed;
enum { WITNESS_MS = 200 };

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void witness(int signals)
{
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info)
        witnessed[info.ssi_signo] = now_ms();
}

void make_witness(int signals, pid_t launcher, bool namespaced)
{
    struct pollfd watched = {.fd = 3, .events = POLLIN};
    witnessed = mmap(NULL, NSIG * sizeof *witnessed, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (witnessed == MAP_FAILED)
        fail_errno(NULL, "cannot watch signals");
    if (namespaced || (witness_process = fork()) != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    prctl(PR_SET_NAME, "vsbox-witness", 0, 0, 0);
    if (setpgid(0, getpgid(launcher)) < 0 || (signals != 3 && dup2(signals, 3) < 0) || sys_close_range(4, ~0u, 0) < 0)
        _exit(EXIT_OWN_FAILURE);
    for (;;) {
        poll(&watched, 1, -1);
        witness(3);
    }
}

/* It may not have run yet. */
static bool is_pending(pid_t process, int signal_number)
{
    char path[32], line[128];
    unsigned long long pending = 0;
    snprintf(path, sizeof path, "/proc/%d/status", process);
    FILE *status = fopen(path, "re");
    while (status && fgets(line, sizeof line, status) && sscanf(line, "ShdPnd: %llx", &pending) != 1)
        ;
    if (status)
        fclose(status);
    return pending >> (signal_number - 1) & 1;
}

/* To wait for it lets it run: a loop that looks whether it is gone would keep the processor from it. */
void end_witness(void)
{
    if (witness_process <= 0)
        return;
    kill(witness_process, SIGKILL);
    waitpid(witness_process, NULL, 0);
    witness_process = 0;
}

/* The launcher got a signal. The kernel serves the members of a group one by one: a moment, and init knows if it was for all. */
void forward_unless_witnessed(int signals, int32_t value, unsigned stops, pid_t payload)
{
    int signal_number = value & ((1 << SIGNAL_BITS) - 1);
    if (signal_number <= 0 || signal_number >= NSIG)
        return;
    usleep(1000);
    if (!witness_process)
        witness(signals);
    else if (is_pending(witness_process, signal_number))
        return;
    if (witnessed[signal_number] == 0 || now_ms() - witnessed[signal_number] > WITNESS_MS)
        forward(signal_number, (unsigned)value >> SIGNAL_BITS, stops, payload);
}
