/* Init's side of a start (supervise.h): does the plan's steps up to the payload, starts that, serves the broker, tells the
 * launcher of stops and of the end. witness.c hands on its signals; descendants.c leaves nothing running behind. */
#define _GNU_SOURCE
#include "supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
/* How often the payload has stopped; the launcher says with each signal how far it has heard. */
static unsigned stops;

static bool is_namespaced(const struct start *start)
{
    return plan_find(&start->plan, OP_NAMESPACES) != NULL;
}

/* ---- the payload's process ---- */

static bool send_descriptor(int channel, enum message_kind kind, int value, int fd)
{
    struct message message = {.kind = kind, .value = value};
    struct iovec data = {&message, sizeof(int32_t) * 2};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr envelope = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    bool sent = sendmsg(channel, &envelope, MSG_NOSIGNAL) >= 0;
    close(fd);
    return sent;
}

/* The end of set-up: nothing of what it used stays open to the payload. A filter comes after it, which may refuse all this. */
static void leave_setup(const struct start *start)
{
    if (sys_close_range(3, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */) < 0)
        fail_errno(NULL, "cannot close descriptors");
    if (start->kept && fcntl(start->kept, F_SETFD, 0) < 0)
        fail_errno(NULL, "cannot keep a descriptor");
    drop_capabilities();
    choose_directory(start);
    sigaction(SIGCHLD, &caller_chld, NULL);
    sys_sigprocmask(SIG_SETMASK, caller_mask, NULL);
    if (start->verify)
        verify_before_filter(start);
}

static _Noreturn void run_payload(const struct start *start, uint32_t first, int channel)
{
    if (!is_namespaced(start))
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (plan_find(&start->plan, OP_APPARMOR))
        bound_capabilities(); /* the profile allows none, and to give them up takes one */
    enter_profile(start);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail_errno(NULL, "cannot set no_new_privs");
    char ready; /* init has nothing of the caller's left that could be read */
    if (recv(channel, &ready, 1, 0) != 1)
        _exit(EXIT_OWN_FAILURE);
    const struct plan *plan = &start->plan;
    for (uint32_t i = first; i < plan->count; i++) {
        if (plan->records[i].op == OP_SECCOMP) /* the last step; absent where the policy asks for no filter */
            leave_setup(start);
        do_payload_step(start, &plan->records[i]);
    }
    if (!plan_find(plan, OP_SECCOMP))
        leave_setup(start);
    int listener = take_listener();
    if (listener >= 0 && !send_descriptor(channel, 0, 0, listener))
        fail_errno(NULL, "cannot hand the seccomp listener to the broker");
    if (start->verify)
        verify_and_exit(start);
    execute(start);
}

/* ---- init ---- */

/* Init shares no secret with what it watches over: nothing of the caller's environment stays readable in /proc/1. */
static void forget_environment(void)
{
    for (char **entry = environ; *entry; entry++)
        memset(*entry, 0, strlen(*entry));
}

static void become_init(bool namespaced)
{
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_NAME, "vsbox-init", 0, 0, 0);
    if (!namespaced)
        setpgid(0, 0);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2; fd++)
        if (null < 0) /* the policy may show none */
            close(fd);
        else
            dup2(null, fd);
    if (null > 2)
        close(null);
    empty_capabilities();
}

/* Death of the launcher: in a PID namespace the kernel kills init and all with it; else SIGTERM asks init to do so. */
static void die_with_launcher(int channel, bool namespaced)
{
    prctl(PR_SET_PDEATHSIG, namespaced ? SIGKILL : SIGTERM, 0, 0, 0);
    struct pollfd peer = {.fd = channel, .events = POLLRDHUP};
    if (poll(&peer, 1, 0) > 0 && (peer.revents & (POLLHUP | POLLRDHUP)))
        _exit(EXIT_OWN_FAILURE);
}

static _Noreturn void end(int channel, const siginfo_t *info, bool namespaced, struct broker *broker)
{
    bool exited = info->si_code == CLD_EXITED;
    end_witness();
    if (!namespaced)
        kill_descendants(broker, NULL);
    send_message(channel, exited ? MESSAGE_EXITED : MESSAGE_KILLED, info->si_status, "");
    _exit(0);
}

static void reap(int channel, pid_t payload, bool namespaced, struct broker *broker)
{
    for (;;) {
        siginfo_t info = {0};
        if (waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WCONTINUED | WNOHANG) < 0 || info.si_pid == 0)
            return;
        if (info.si_pid != payload)
            continue;
        if (info.si_code == CLD_STOPPED) {
            stops++;
            send_message(channel, MESSAGE_STOPPED, info.si_status, "");
        } else if (info.si_code == CLD_CONTINUED)
            send_message(channel, MESSAGE_CONTINUED, 0, "");
        else
            end(channel, &info, namespaced, broker);
    }
}

static int receive_listener(int channel)
{
    int32_t words[2];
    struct iovec data = {words, sizeof words};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr envelope = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int listener = -1;
    if (recvmsg(channel, &envelope, MSG_CMSG_CLOEXEC) > 0 && control.header.cmsg_type == SCM_RIGHTS)
        memcpy(&listener, CMSG_DATA(&control.header), sizeof listener);
    return listener;
}

static bool end_now;

static void hear_launcher(int channel, int signals, pid_t payload)
{
    struct message message = {0};
    if (recv(channel, &message, sizeof message, MSG_DONTWAIT) <= 0)
        return;
    if (message.kind == MESSAGE_KILL)
        end_now = true;
    if (message.kind == MESSAGE_SIGNAL)
        forward_unless_witnessed(signals, message.value, stops, payload);
}

/* What a run leaves behind is read by the program that asked for it, when all inside has ended. */
static void export_directories(const struct start *start, int channel)
{
    int number = 0, fd = take_changes();
    if (fd >= 0 && !send_descriptor(channel, MESSAGE_EXPORTED, -1, fd))
        fail_errno(NULL, "cannot hand over what changes");
    for (uint32_t i = 0; i < start->plan.count; i++) {
        if (start->plan.records[i].op != OP_EXPORT)
            continue;
        const char *path = record_string(&start->plan.records[i], 0);
        fd = open_no_symlinks(path, O_RDONLY | O_DIRECTORY);
        if (fd < 0 || !send_descriptor(channel, MESSAGE_EXPORTED, number++, fd))
            fail_errno(NULL, "cannot hand over %s", path);
    }
    struct message message = {0};
    while (plan_find(&start->plan, OP_WAIT) && message.kind != MESSAGE_GO) {
        if (recv(channel, &message, sizeof message, 0) <= 0 && errno != EINTR)
            _exit(EXIT_OWN_FAILURE);
        if (message.kind != MESSAGE_KILL)
            continue;
        send_message(channel, MESSAGE_KILLED, SIGKILL, "");
        _exit(0);
    }
}

static bool launcher_is_gone(pid_t launcher)
{
    return launcher != 0 && getppid() != launcher;
}

static pid_t fork_payload(const struct start *start, uint32_t first, int channel, int link[2])
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) < 0)
        fail_errno(NULL, "cannot make a channel");
    pid_t payload = fork();
    if (payload < 0)
        fail_errno(NULL, "cannot fork");
    if (payload == 0) {
        close(link[0]);
        report_channel = channel;
        run_payload(start, first, link[1]);
    }
    close(link[1]);
    return payload;
}

_Noreturn void run_init(const struct start *start, int channel)
{
    const struct plan *plan = &start->plan;
    bool namespaced = is_namespaced(start);
    pid_t launcher = getppid(); /* 0 in a PID namespace */
    report_channel = channel;
    die_with_launcher(channel, namespaced);
    keep_attributes(start);
    if (namespaced && !start->has_root) {
        enter_namespaces(start->has_namespaces);
        if (!start->has_namespaces && is_network_made_beside(plan))
            begin_network();
        if (!plan_find(plan, OP_APPARMOR)) /* which looks at descriptors again, by paths */
            shield_streams();
    } else if (!namespaced)
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    uint32_t next = 0;
    for (; next < plan->count && plan->records[next].op != OP_PAYLOAD; next++)
        if (namespaced && !start->has_root)
            do_namespace_step(start, &plan->records[next]);
    if (namespaced)
        reopen_null();
    int signals = watch_signals();
    int link[2];
    export_directories(start, channel);
    if (!namespaced)
        scope_signals(plan, launcher);
    pid_t payload = fork_payload(start, next, channel, link);
    forget_attributes();
    become_init(namespaced);
    forget_environment();
    send(link[0], "", 1, MSG_NOSIGNAL);
    make_witness(signals, launcher, namespaced);
    const struct record *filter = plan_find(plan, OP_SECCOMP);
    struct broker *broker = NULL;
    struct pollfd watched[] = {{.fd = signals, .events = POLLIN},
                               {.fd = filter && record_int(filter, 1) ? link[0] : -1, .events = POLLIN},
                               {.fd = channel, .events = POLLIN}};
    for (;;) {
        poll(watched, 3, -1);
        if (launcher_is_gone(launcher)) {
            kill_descendants(broker, NULL);
            _exit(EXIT_OWN_FAILURE);
        }
        if (watched[1].revents && !broker) {
            int listener = receive_listener(link[0]);
            broker = listener >= 0 ? broker_new(start, listener, channel) : NULL;
            watched[1].fd = listener;
        } else if (watched[1].revents & POLLIN) {
            broker_serve(broker);
        } else if (watched[1].revents) {
            watched[1].fd = -1; /* no task under the filter is left */
        }
        if (watched[0].revents)
            witness(signals);
        if (watched[2].revents)
            hear_launcher(channel, signals, payload);
        if (end_now) {
            end_witness();
            kill_descendants(broker, NULL);
            send_message(channel, MESSAGE_KILLED, SIGKILL, "");
            _exit(0);
        }
        reap(channel, payload, namespaced, broker);
    }
}
