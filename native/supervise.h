/* What launcher and init share. Two processes stand between the caller and the payload:
 *
 *   launcher (outside)  stays in the caller's process group; forwards signals; mirrors stops; returns the status
 *     init              pid 1 of the namespaces, or subreaper in the Landlock-only tier; dies with the launcher
 *       payload         stays in the caller's process group, so the terminal's signals reach it directly
 *
 * Signals that the terminal sends (si_code SI_KERNEL) reach the payload by themselves and are not forwarded; nor are those that
 * somebody sends to the whole process group. With namespaces init is a member of it, as a witness: what it got itself, the
 * payload has got as well. Without, init keeps out of the group, since SIGKILL to the group must leave somebody who ends what
 * has left it; there a process of its own is the witness. */
#ifndef SUPERVISE_H
#define SUPERVISE_H

#include "vsbox.h"

#include <signal.h>

/* The value of a MESSAGE_SIGNAL: the signal, and above these bits how many stops the launcher has heard of. */
enum { SIGNAL_BITS = 8 };

enum { MOST_OBSERVED = 16 << 10 }; /* bytes of one message about a call */

/* ---- supervise.c ---- */
extern uint64_t caller_mask; /* the payload gets both back */
extern struct sigaction caller_chld;
int watch_signals(void);

/* ---- init.c ---- */
_Noreturn void run_init(const struct start *start, int channel);

/* ---- witness.c ---- */
void make_witness(int signals, pid_t launcher, bool namespaced);
void end_witness(void);
void witness(int signals);
/* value of a MESSAGE_SIGNAL; stops: how often the payload has stopped. */
void forward_unless_witnessed(int signals, int32_t value, unsigned stops, pid_t payload);

/* ---- descendants.c ---- */
void scope_signals(const struct plan *plan, pid_t launcher);
enum { MOST_SPARED = 256 };
struct spared {
    pid_t pids[MOST_SPARED];
    size_t count;
};
struct spared find_children(void);
void kill_descendants(struct broker *broker, const struct spared *spared);

#endif
