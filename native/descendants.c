/* Without a PID namespace: everything that descends from init is ended when the payload or the launcher has ended. */
#define _GNU_SOURCE
#include "supervise.h"

#include <errno.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static bool has_scope;

/* Landlock ABI 6: from here on, signals of init reach init and what descends from it. Only when that is seen to hold is
 * "everybody" (-1) an address to send SIGKILL to; as the kernel does it in one go, nothing can fork ahead of it. */
void scope_signals(const struct plan *plan, pid_t launcher)
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
