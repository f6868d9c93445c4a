/* What the files of the broker share; broker.c tells what each is for. */
#ifndef BROKER_H
#define BROKER_H

#include "supervise.h"
#include "vsbox.h"

#include <errno.h>
#include <linux/seccomp.h>

enum { CONNECTING = 64, PATH_ROOM = 4200 };

struct broker {
    int listener, channel;
    _Atomic uint64_t *connecting; /* sockets that were, by cookie; shared with the processes that connect */
    bool own_network;
    bool offline; /* the policy closed the network: connections other than to UNIX sockets are refused */
    const struct start *start;
};

struct request {
    const struct broker *broker;
    struct seccomp_notif notification;
};

enum { NONE = -1 }; /* in tables of calls: there is no such argument */

static inline uint64_t argument(const struct request *request, int index)
{
    return request->notification.data.args[index];
}

static inline int result_of(long status)
{
    return status < 0 ? -errno : 0;
}

void answer(const struct request *request, int result, int value);

/* Results are descriptors or 0, else a negated errno. */

/* ---- broker_caller.c: what the caller means, and where that is ---- */
int read_exactly(const struct request *request, uint64_t address, void *buffer, size_t size);
int read_string(const struct request *request, uint64_t address, char *buffer, size_t size);
int open_of_caller(const struct request *request, const char *what, uint64_t flags); /* a link in its /proc directory */
int open_descriptor(const struct request *request, int fd);
int open_path(const struct request *request, int dir, char *path, size_t size, bool follow); /* changes path */
pid_t process_of(uint32_t thread);
int take_descriptor(const struct request *request, int fd);
bool is_writable_place(const struct broker *broker, int fd);
bool is_readable_place(const struct broker *broker, int fd);

/* ---- observer.c ---- */
void observe_calls(const struct plan *plan);
int observe(const struct broker *broker, const struct request *request); /* enum answer, or an errno */

/* What is sent for each call; then the first path, the second, the address, the library at work, each behind its length. */
struct observation {
    int32_t kind;
    uint32_t number, thread, process, parent, unseen; /* unseen: nobody may look at the memory of this process */
    uint64_t time_ns, arguments[6];
    char name[32];
};
struct text {
    size_t size;
    char bytes[MOST_OBSERVED - sizeof(struct observation)];
};

/* ---- broker_metadata.c ---- */
int serve_metadata(const struct request *request);

/* ---- broker_descriptors.c ---- */
void serve_connect(const struct request *request);
int serve_terminal(const struct request *request, int *value);
int serve_watch(const struct request *request, int *value);

#endif
