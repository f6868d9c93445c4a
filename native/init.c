/* Init's side of a start (supervise.h): does the plan's steps up to the payload, starts that, serves the broker, tells the
 * launcher of stops and of the end, hands on its signals, and leaves nothing running behind. */
#define _GNU_SOURCE
#include "supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
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

static bool has_scope;
static pid_t witness_process;

/* Landlock ABI 6: from here on, signals of init reach init and what descends from it. Only when that is seen to hold is
 * "everybody" (-1) an address to send SIGKILL to; as the kernel does it in one go, nothing can fork ahead of it. */
static void scope_signals(const struct plan *plan, pid_t launcher)
{
    const struct record *landlock = plan_find(plan, OP_LANDLOCK);
    if (!landlock || !(record_int(landlock, 2) & LANDLOCK_SCOPE_SIGNAL))
        return;
    restrict_signals();
    has_scope = kill(launcher, 0) < 0 && errno == EPERM;
    if (!has_scope)
        fail(EXIT_OWN_FAILURE, "see what this machine offers: vsbox doctor", "cannot restrict signals: they still reach the launcher");
}

static bool is_spared(const struct spared *spared, pid_t pid)
{
    for (size_t i = 0; spared && i < spared->count; i++)
        if (spared->pids[i] == pid)
            return true;
    return false;
}

static FILE *open_children(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    return fopen(path, "re"); /* without this file the tier does not promise it: src/vsbox/plan/aspects.py */
}

struct spared find_children(void)
{
    struct spared found = {0};
    FILE *children = open_children();
    long pid;
    while (children && found.count < MOST_SPARED && fscanf(children, "%ld", &pid) == 1)
        found.pids[found.count++] = (pid_t)pid;
    if (children)
        fclose(children);
    return found;
}

/* Without a PID namespace: everything that descends from us, which orphans do too since we are their subreaper. All of it is
 * waited for, the witness as well: whom we left it to may be a program that is pid 1 of a container and waits for nobody. */
void kill_descendants(struct broker *broker, const struct spared *spared)
{
    broker_close(broker);
    if (has_scope)
        kill(-1, SIGKILL);
    if (waitpid(-1, NULL, WNOHANG) < 0)
        return;
    for (;;) {
        FILE *children = open_children();
        long pid;
        bool found = false, others = false;
        if (!children)
            return;
        while (fscanf(children, "%ld", &pid) == 1) {
            if (is_spared(spared, (pid_t)pid)) {
                others = true;
                continue;
            }
            kill((pid_t)pid, SIGKILL);
            found = true;
        }
        fclose(children);
        if (others && !found)
            return;
        pid_t reaped;
        while ((reaped = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (reaped < 0)
            return;
        if (!found) /* no pause while there is prey: one that forks and exits all the time would keep ahead */
            usleep(1000);
    }
}

/* To wait for it lets it run: a loop that looks whether it is gone would keep the processor from it. */
static void end_witness(void)
{
    if (witness_process <= 0)
        return;
    kill(witness_process, SIGKILL);
    waitpid(witness_process, NULL, 0);
    witness_process = 0;
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
static void forward(int signal_number, unsigned stops_heard, pid_t payload)
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

static void witness(int signals)
{
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info)
        witnessed[info.ssi_signo] = now_ms();
}

static void make_witness(int signals, pid_t launcher, bool namespaced)
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

static bool end_now;

/* The launcher got a signal. The kernel serves the members of a group one by one: a moment, and init knows if it was for all. */
static void forward_unless_witnessed(int channel, int signals, pid_t payload)
{
    struct message message = {0};
    if (recv(channel, &message, sizeof message, MSG_DONTWAIT) <= 0)
        return;
    if (message.kind == MESSAGE_KILL)
        end_now = true;
    if (message.kind != MESSAGE_SIGNAL)
        return;
    int signal_number = message.value & ((1 << SIGNAL_BITS) - 1);
    if (signal_number <= 0 || signal_number >= NSIG)
        return;
    usleep(1000);
    if (!witness_process)
        witness(signals);
    else if (is_pending(witness_process, signal_number))
        return;
    if (witnessed[signal_number] == 0 || now_ms() - witnessed[signal_number] > WITNESS_MS)
        forward(signal_number, (unsigned)message.value >> SIGNAL_BITS, payload);
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
    if (namespaced && !start->has_root)
        enter_namespaces(start->has_namespaces);
    else if (!namespaced)
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    uint32_t next = 0;
    for (; next < plan->count && plan->records[next].op != OP_PAYLOAD; next++)
        if (namespaced && !start->has_root)
            do_namespace_step(start, &plan->records[next]);
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
            forward_unless_witnessed(channel, signals, payload);
        if (end_now) {
            end_witness();
            kill_descendants(broker, NULL);
            send_message(channel, MESSAGE_KILLED, SIGKILL, "");
            _exit(0);
        }
        reap(channel, payload, namespaced, broker);
    }
}
