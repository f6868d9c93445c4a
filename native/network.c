/* A network of our own, made by a process beside init while that builds the root, since it takes the kernel as long as a third of that.
 *
 * The process shares init's memory and descriptors, and touches nothing of either but its result (and errno, where it fails, and init
 * makes the network itself). The kernel puts a new process where its parent runs, to wait until that sleeps; so it is moved to another
 * processor. Where there is none, it runs when init waits for it. */
#define _GNU_SOURCE
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STACK_BYTES = 16 << 10 };
static bool is_ours; /* to be made, not by bubblewrap */
static pid_t maker;
static volatile int made = -1; /* a descriptor of it */

/* Where a step joins it; else it is made with the other namespaces, so that nobody goes on in the host's. */
bool is_network_made_beside(const struct plan *plan)
{
    const struct record *namespaces = plan_find(plan, OP_NAMESPACES);
    return namespaces && record_int(namespaces, 0) & CLONE_NEWNET && plan_find(plan, OP_LOOPBACK);
}

/* Port 80 of our own network is nobody else's. Returns what could not be done, or NULL. */
static const char *make_network(void)
{
    static const char START[] = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    if (is_ours && unshare(CLONE_NEWNET) < 0)
        return "cannot make a network";
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        return "cannot bring up the loopback interface";
    close(fd);
    fd = open(START, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1)
        return "cannot open the ports of the network";
    close(fd);
    return NULL;
}

static int make_beside(void *unused)
{
    (void)unused;
    if (!make_network())
        made = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    _exit(0);
}

static void move_away(pid_t process)
{
    cpu_set_t allowed;
    int here = sched_getcpu();
    if (here < 0 || sched_getaffinity(0, sizeof allowed, &allowed) < 0 || CPU_COUNT(&allowed) < 2)
        return;
    CPU_CLR((size_t)here, &allowed);
    sched_setaffinity(process, sizeof allowed, &allowed);
}

void begin_network(void)
{
    static char stack[STACK_BYTES] __attribute__((aligned(16)));
    is_ours = true;
    maker = clone(make_beside, stack + sizeof stack, CLONE_VM | CLONE_FILES | SIGCHLD, NULL);
    if (maker > 0)
        move_away(maker);
}

/* What could not be done beside, is done here: a filter of the host's may forbid to enter what somebody else has made. */
void join_network(void)
{
    while (maker > 0 && waitpid(maker, NULL, 0) < 0 && errno == EINTR)
        ;
    bool entered = made >= 0 && setns(made, CLONE_NEWNET) == 0;
    if (made >= 0)
        close(made);
    const char *problem = entered ? NULL : make_network();
    if (problem)
        fail_errno("see what this machine offers: vsbox doctor", "%s", problem);
}
