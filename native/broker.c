/* What Landlock does not restrict is answered here. This is the loop: it receives supervised calls, lets go on what registers
 * alone decide (limits of processes), gives the others to broker_metadata.c and broker_descriptors.c, which learn from
 * broker_caller.c what the caller means, and answers.
 * The seccomp filter sends these calls to init (seccomp_unotify(2)), which looks at the very object and acts on that object
 * itself, so nothing can be swapped between the look and the act:
 *
 *   memory of the caller is read once; a path becomes an O_PATH descriptor, which stays what it is; where the descriptor is
 *   (/proc/self/fd) decides; the call is then made on the descriptor. The caller's own call never happens.
 *
 * Security: init is not under the payload's Landlock domain but has no capability either, so it can do what the payload's
 * user can do to files below the writable grants, and nothing elsewhere. Abstract sockets of the host are refused.
 * With namespaces mounts do most of this, and only connections come here. */
#define _GNU_SOURCE
#include "broker.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct broker *broker_new(const struct start *start, int listener, int channel)
{
    struct broker *broker = calloc(1, sizeof *broker);
    const struct record *landlock = plan_find(&start->plan, OP_LANDLOCK);
    void *shared = mmap(NULL, CONNECTING * sizeof *broker->connecting, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!broker || shared == MAP_FAILED)
        fail_errno(NULL, "cannot start the broker");
    observe_calls(&start->plan);
    *broker = (struct broker){.listener = listener,
                              .channel = channel,
                              .connecting = shared,
                              .own_network = plan_find(&start->plan, OP_LOOPBACK) != NULL,
                              .offline = landlock && record_int(landlock, 1) != 0,
                              .start = start};
    return broker;
}

/* From now on all that is supervised answers ENOSYS. */
void broker_close(struct broker *broker)
{
    if (broker)
        close(broker->listener);
}

void answer(const struct request *request, int result, int value)
{
    struct seccomp_notif_resp response = {.id = request->notification.id, .val = result ? 0 : value, .error = result};
    ioctl(request->broker->listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

/* ---- judged by registers ---- */

/* seccomp_unotify(2) warns of letting a call go on: its memory may have changed meanwhile. Done only for calls that are judged
 * by their registers, which cannot. */
static void let_go_on(const struct request *request)
{
    struct seccomp_notif_resp response = {.id = request->notification.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    ioctl(request->broker->listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

/* Limits and scheduling of a process are the business of that process alone. Which argument says whose; the filter lets calls
 * about "me" (0) pass without asking. */
static const struct process_call {
    int number;
    signed char which, who;
    uint64_t process; /* the value of which that means a process */
} PROCESS_CALLS[] = {
    {SYS_prlimit64, NONE, 0, 0},          {SYS_setpriority, 0, 1, 0 /* PRIO_PROCESS */},
    {SYS_sched_setaffinity, NONE, 0, 0},  {SYS_sched_setscheduler, NONE, 0, 0},
    {SYS_sched_setparam, NONE, 0, 0},     {SYS_sched_setattr, NONE, 0, 0},
    {SYS_ioprio_set, 0, 1, 1 /* IOPRIO_WHO_PROCESS */},
};

static const struct process_call *find_process_call(int number)
{
    for (size_t i = 0; i < sizeof PROCESS_CALLS / sizeof *PROCESS_CALLS; i++)
        if (PROCESS_CALLS[i].number == number)
            return &PROCESS_CALLS[i];
    return NULL;
}

static bool is_about_caller(const struct request *request, const struct process_call *call)
{
    uint32_t who = (uint32_t)argument(request, call->who);
    if (call->which != NONE && (uint32_t)argument(request, call->which) != call->process)
        return false;
    return who == 0 || process_of(who) == process_of(request->notification.pid);
}

static bool is_there(const struct request *request, const struct process_call *call)
{
    return process_of((uint32_t)argument(request, call->who)) != 0;
}

/* ---- the loop ---- */

/* A connection may take its time; each has a process of its own, and the others need not wait. */
static void serve_connect_aside(const struct request *request)
{
    pid_t child = fork();
    if (child < 0)
        answer(request, -EAGAIN, 0);
    if (child != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    serve_connect(request);
    _exit(0);
}

void broker_serve(struct broker *broker)
{
    struct request request = {.broker = broker};
    if (ioctl(broker->listener, SECCOMP_IOCTL_NOTIF_RECV, &request.notification) < 0)
        return;
    int number = request.notification.data.nr, value = 0, by = observe(broker, &request);
    if (by == ANSWER_DONE)
        return;
    if (by == ANSWER_KERNEL) {
        let_go_on(&request);
        return;
    }
    if (by != ANSWER_BROKER) {
        answer(&request, -by, 0);
        return;
    }
    if (number == SYS_connect) {
        serve_connect_aside(&request);
        return;
    }
    const struct process_call *process_call = find_process_call(number);
    if (process_call && is_about_caller(&request, process_call)) {
        let_go_on(&request);
        return;
    }
    int result;
    if (process_call)
        result = is_there(&request, process_call) ? -EPERM : -ESRCH;
    else if (number == SYS_ioctl)
        result = serve_terminal(&request, &value);
    else if (number == SYS_inotify_add_watch)
        result = serve_watch(&request, &value);
    else
        result = serve_metadata(&request);
    answer(&request, result, value);
}
