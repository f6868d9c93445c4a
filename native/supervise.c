/* The launcher's side of a start (supervise.h): makes init, forwards signals to it, stops when the payload has stopped, and
 * ends with the payload's status. */
#define _GNU_SOURCE
#include "supervise.h"
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

uint64_t caller_mask;
struct sigaction caller_chld;
/* How many stops of the payload were heard of: said with each signal. */
static unsigned stops;

int watch_signals(void)
{
    int fd = sys_signalfd(EVERY_SIGNAL, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        fail_errno(NULL, "cannot watch signals");
    return fd;
}

static bool is_forwarded(const struct signalfd_siginfo *info)
{
    switch (info->ssi_signo) {
    case SIGCHLD:
        return false;
    case SIGHUP:
    case SIGINT:
    case SIGQUIT:
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU:
    case SIGCONT:
    case SIGWINCH:
        return info->ssi_code != SI_KERNEL; /* the terminal sends these to the payload as well */
    default:
        return true; /* a timer, for one, is set before we are executed and lasts */
    }
}

/* Stops as the payload did, so that the caller's shell sees it; goes on when the shell says so. */
static void stop_like(int signal_number)
{
    struct sigaction standard = {.sa_handler = SIG_DFL}, before;
    uint64_t old;
    sigaction(signal_number, &standard, &before);
    raise(signal_number);
    sys_sigprocmask(SIG_UNBLOCK, 1ull << (signal_number - 1), &old);
    sys_sigprocmask(SIG_SETMASK, old, NULL);
    sigaction(signal_number, &before, NULL);
}

/* A stop is old news when something came after it. */
static bool has_news(int channel)
{
    struct pollfd more = {.fd = channel, .events = POLLIN};
    return poll(&more, 1, 0) > 0;
}

static bool take_message(int channel, struct message *last)
{
    struct message message = {0};
    ssize_t size = recv(channel, &message, sizeof message, 0);
    /* ECONNRESET: init ended with a signal of ours unread; its last word still follows (af_unix.c, unix_release_sock). */
    if (size < 0 && (errno == EINTR || errno == ECONNRESET))
        return true;
    if (size <= 0)
        return false;
    stops += message.kind == MESSAGE_STOPPED;
    if (message.kind == MESSAGE_STOPPED && !has_news(channel))
        stop_like(message.value);
    if (message.kind == MESSAGE_STOPPED || message.kind == MESSAGE_CONTINUED)
        return true;
    if (last->kind != MESSAGE_FAILED) /* the end of a payload that never started is not news */
        *last = message;
    return true;
}

static void forward_to_init(int signals, int channel)
{
    struct signalfd_siginfo info;
    if (read(signals, &info, sizeof info) == sizeof info && is_forwarded(&info))
        send_message(channel, MESSAGE_SIGNAL, (int)(info.ssi_signo | (stops & 0xffff) << SIGNAL_BITS), "");
}

static struct message wait_for_end(int channel, int signals)
{
    struct message last = {0};
    struct pollfd watched[] = {{.fd = channel, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    for (bool open = true; open;) {
        if (poll(watched, 2, -1) < 0)
            continue;
        if (watched[1].revents)
            forward_to_init(signals, channel);
        if (watched[0].revents)
            open = take_message(channel, &last);
    }
    return last;
}

/* The caller may wait for the end of a stream that the payload closes: only standard error stays open here. */
static void release_streams(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, 0);
    dup2(null, 1);
    close(null);
}

/* One empty keyring for all starts of a user: a keyring each would meet the quota of keys (200 a user) when many start at
 * once. The next start finds it by name only if its owner may search it, which new session keyrings do not allow.
 * Where keyctl(2) is not to be had (containers forbid it), the payload has none either. */
static void leave_session_keyring(const struct plan *plan)
{
    const unsigned long possessor_all = 0x3f000000, user_view_search = 0x00090000; /* keyctl_setperm(3) */
    if (!plan_find(plan, OP_KEYRING))
        return;
    long keyring = sys_keyctl(KEYCTL_JOIN_SESSION_KEYRING, (unsigned long)(uintptr_t) "vsbox", 0);
    if (keyring < 0 && errno != ENOSYS && errno != EPERM)
        fail_errno(NULL, "cannot leave the session keyring");
    if (keyring >= 0)
        sys_keyctl(KEYCTL_SETPERM, (unsigned long)keyring, possessor_all | user_view_search);
}

int run_outside(struct start *start, int *signal_out)
{
    leave_session_keyring(&start->plan);
    const struct record *namespaces = plan_find(&start->plan, OP_NAMESPACES);
    struct sigaction standard = {.sa_handler = SIG_DFL};
    int channel[2];
    sys_sigprocmask(SIG_SETMASK, EVERY_SIGNAL, &caller_mask);
    sigaction(SIGCHLD, &standard, &caller_chld);
    struct spared spared = {0}; /* children of a shell that we were executed from */
    if (!namespaces) {
        spared = find_children();
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0)
        fail_errno(NULL, "cannot make a channel");
    bool through_bubblewrap = plan_find(&start->plan, OP_BUBBLEWRAP) != NULL;
    pid_t init = through_bubblewrap ? start_bubblewrap(start, channel[1]) : sys_clone(namespaces ? record_int(namespaces, 0) : 0);
    if (init < 0)
        fail_errno("see what this machine offers: vsbox doctor", "cannot create namespaces");
    if (init == 0) {
        close(channel[0]);
        run_init(start, channel[1]);
    }
    close(channel[1]);
    int signals = watch_signals();
    release_streams();
    struct message last = wait_for_end(channel[0], signals);
    int status = 0;
    while (waitpid(init, &status, 0) < 0 && errno == EINTR)
        ;
    sys_sigprocmask(SIG_SETMASK, caller_mask, NULL);
    switch (last.kind) {
    case MESSAGE_FAILED:
        fprintf(stderr, "%s\n", last.text);
        return last.value;
    case MESSAGE_EXITED:
        return last.value;
    case MESSAGE_KILLED:
        *signal_out = last.value;
        return 128 + last.value;
    default:
        if (through_bubblewrap && has_bubblewrap_failed())
            return EXIT_OWN_FAILURE;
        /* init itself was killed, and all inside with it: by the kernel, or by us, whom its orphans came to */
        if (!namespaces)
            kill_descendants(NULL, &spared);
        *signal_out = WIFSIGNALED(status) ? WTERMSIG(status) : SIGKILL;
        return 128 + *signal_out;
    }
}
