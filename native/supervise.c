/* The launcher's side of a start (supervise.h): makes init, forwards signals to it, stops when the payload has stopped, and
 * ends with the payload's status. */
#define _GNU_SOURCE
#include "supervise.h"
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
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

/* ---- a report of the run: Python outside hears of every call, and says in the end what it found ---- */

static int reporter = -1;
static bool is_cell; /* has no shell above it that wants to see a stop */
static pid_t reporter_process;

/* Called with every signal blocked, which Python inherits: what ends the payload is what it has to report. */
static void start_reporter(const struct start *start)
{
    int ends[2];
    is_cell = start->control != 0;
    if (is_cell) {
        const int most = 1 << 20; /* the kernel gives what it allows */
        reporter = start->control;
        setsockopt(reporter, SOL_SOCKET, SO_SNDBUF, &most, sizeof most);
    }
    if (is_cell || !plan_find(&start->plan, OP_OBSERVED) || start->verify)
        return;
    char *const words[] = {(char *)start->variant, is_installation(start) ? "install" : "", start->show_cwd ? start->cwd : "",
                           start->write_cwd ? "write" : "read", start->script ? start->script : "",
                           start->command ? start->command : start->arguments[0], NULL};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        fail_errno(NULL, "cannot make a channel");
    reporter_process = start_python(start, "observe", ends[1], words);
    close(ends[1]);
    reporter = ends[0];
}

enum { REPORTER_MS = 20000 };

/* One that does not come to its end, because somebody has stopped it for instance, keeps nobody from coming to theirs. */
static void end_reporter(void)
{
    if (!reporter_process)
        return;
    if (reporter >= 0)
        close(reporter);
    struct pollfd end = {.fd = sys_pidfd_open(reporter_process), .events = POLLIN};
    if (end.fd < 0 || poll(&end, 1, REPORTER_MS) == 0)
        kill(reporter_process, SIGKILL);
    if (wait_for_python(reporter_process) == 0)
        return;
    struct sigaction before, ignored = {.sa_handler = SIG_IGN}; /* the status is the payload's, whoever reads this */
    sigaction(SIGPIPE, &ignored, &before);
    fputs("vsbox: the report of this run is not complete\n", stderr);
    sigaction(SIGPIPE, &before, NULL);
}

static void forward_to_init(int signals, int channel);

/* While it has no time for us, signals are passed on as ever; in the end the run goes on without it. */
static void tell_reporter(const void *bytes, size_t size, int channel, int signals)
{
    struct pollfd watched[] = {{.fd = reporter, .events = POLLOUT}, {.fd = signals, .events = POLLIN}};
    while (reporter >= 0 && send(reporter, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EINTR)) {
        int found = poll(watched, 2, REPORTER_MS);
        if (watched[1].revents)
            forward_to_init(signals, channel);
        if (found != 0)
            continue;
        kill(reporter_process, SIGKILL);
        close(reporter);
        reporter = -1;
    }
}

/* Of a cell: who does not listen now, between the calls of a session for instance, misses it. A socket is writable while three
 * quarters of its room are free (af_unix.c, unix_writable), so that the last word always finds some. */
static void tell_caller(const void *bytes, size_t size)
{
    struct pollfd caller = {.fd = reporter, .events = POLLOUT};
    if (poll(&caller, 1, 0) > 0 && caller.revents & POLLOUT)
        send(reporter, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* An open directory, to the program that asked for it. */
static void hand_on(int control, struct msghdr *envelope, size_t size)
{
    int fd = -1;
    if (envelope->msg_controllen >= CMSG_LEN(sizeof fd))
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(envelope)), sizeof fd);
    envelope->msg_iov->iov_len = size;
    sendmsg(control, envelope, MSG_NOSIGNAL);
    if (fd >= 0)
        close(fd);
}

static bool take_message(int channel, int signals, struct message *last)
{
    static union {
        struct message message;
        char bytes[MOST_OBSERVED];
    } received;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } descriptor;
    struct iovec data = {&received, sizeof received};
    struct msghdr envelope = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &descriptor, .msg_controllen = sizeof descriptor};
    ssize_t size = recvmsg(channel, &envelope, MSG_CMSG_CLOEXEC);
    /* ECONNRESET: init ended with a signal of ours unread; its last word still follows (af_unix.c, unix_release_sock). */
    if (size < 0 && (errno == EINTR || errno == ECONNRESET))
        return true;
    if (size <= 0)
        return false;
    if (received.message.kind == MESSAGE_OBSERVED) {
        if (is_cell)
            tell_caller(&received, (size_t)size);
        else
            tell_reporter(&received, (size_t)size, channel, signals);
        return true;
    }
    if (received.message.kind == MESSAGE_EXPORTED) {
        hand_on(reporter, &envelope, (size_t)size);
        return true;
    }
    if ((size_t)size < sizeof received.message)
        memset(received.bytes + size, 0, sizeof received.message - (size_t)size);
    struct message message = received.message;
    stops += message.kind == MESSAGE_STOPPED;
    if (message.kind == MESSAGE_STOPPED && !is_cell && !has_news(channel))
        stop_like(message.value);
    if (message.kind == MESSAGE_STOPPED || message.kind == MESSAGE_CONTINUED)
        return true;
    if (last->kind != MESSAGE_FAILED) /* the end of a payload that never started is not news */
        *last = message;
    return true;
}

/* Init hears of our end as well. */
static _Noreturn void end_without_caller(int channel)
{
    send_message(channel, MESSAGE_KILL, 0, "");
    _exit(EXIT_OWN_FAILURE);
}

/* Of a cell: what the program that started us says; its end is ours, and so init's. */
static void obey(int control, int channel, pid_t init, bool namespaced)
{
    struct message message = {0};
    ssize_t size = recv(control, &message, sizeof message, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0)
        message = (struct message){.kind = MESSAGE_KILL};
    if (message.kind == MESSAGE_KILL && namespaced) /* the kernel ends all with it; else init has to do that itself */
        kill(init, SIGKILL);
    if (size <= 0)
        end_without_caller(channel);
    if (message.kind == MESSAGE_SIGNAL)
        message.value |= (int)((stops & 0xffff) << SIGNAL_BITS);
    send_message(channel, (enum message_kind)message.kind, message.value, "");
}

static void forward_to_init(int signals, int channel)
{
    struct signalfd_siginfo info;
    if (read(signals, &info, sizeof info) == sizeof info && is_forwarded(&info))
        send_message(channel, MESSAGE_SIGNAL, (int)(info.ssi_signo | (stops & 0xffff) << SIGNAL_BITS), "");
}

static struct message wait_for_end(const struct start *start, int channel, int signals, pid_t init)
{
    struct message last = {0};
    struct pollfd watched[] = {{.fd = channel, .events = POLLIN},
                               {.fd = signals, .events = POLLIN},
                               {.fd = start->control ? start->control : -1, .events = POLLIN},
                               {.fd = start->caller ? start->caller : -1, .events = POLLIN}};
    for (bool open = true; open;) {
        if (poll(watched, 4, -1) < 0)
            continue;
        if (watched[3].revents) { /* a child that it has forked may still hold the other end of the socket */
            if (plan_find(&start->plan, OP_NAMESPACES))
                kill(init, SIGKILL);
            end_without_caller(channel);
        }
        if (watched[2].revents)
            obey(start->control, channel, init, plan_find(&start->plan, OP_NAMESPACES) != NULL);
        if (watched[1].revents)
            forward_to_init(signals, channel);
        if (watched[0].revents)
            open = take_message(channel, signals, &last);
    }
    return last;
}

/* The caller may wait for the end of a stream that the payload closes: only standard error stays open here. */
static void release_streams(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        fail_errno(NULL, "cannot open /dev/null");
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
    start_reporter(start);
    struct spared spared = {0}; /* children of a shell that we were executed from */
    if (!namespaces) {
        spared = find_children();
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0)
        fail_errno(NULL, "cannot make a channel");
    bool through_bubblewrap = plan_find(&start->plan, OP_BUBBLEWRAP) != NULL;
    uint64_t flags = namespaces ? record_int(namespaces, 0) : 0;
    if (is_network_made_beside(&start->plan))
        flags &= ~(uint64_t)CLONE_NEWNET;
    pid_t init = through_bubblewrap ? start_bubblewrap(start, channel[1]) : sys_clone(flags);
    if (init < 0)
        fail_errno("see what this machine offers: vsbox doctor", "cannot create namespaces");
    if (init == 0) {
        close(channel[0]);
        run_init(start, channel[1]);
    }
    close(channel[1]);
    int signals = watch_signals();
    release_streams();
    struct message last = wait_for_end(start, channel[0], signals, init);
    if (start->control) /* who hears it gets ready while the kernel takes the rest down; our end says that this is done */
        send(start->control, &last, sizeof last, MSG_NOSIGNAL | MSG_DONTWAIT);
    int status = 0;
    while (waitpid(init, &status, 0) < 0 && errno == EINTR)
        ;
    end_reporter();
    sys_sigprocmask(SIG_SETMASK, caller_mask, NULL);
    switch (last.kind) {
    case MESSAGE_FAILED:
        if (start->control)
            return last.value;
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
