/* What the files of the broker share; broker.c tells what each is for. */
#ifndef BROKER_H
#define BROKER_H

#include "vsbox.h"

#include <errno.h>
#include <linux/seccomp.h>

enum { CONNECTING = 64 };

struct broker {
    int listener;
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

/* ---- broker_metadata.c ---- */
int serve_metadata(const struct request *request);

/* ---- broker_descriptors.c ---- */
void serve_connect(const struct request *request);
int serve_terminal(const struct request *request, int *value);
int serve_watch(const struct request *request, int *value);

#endif
