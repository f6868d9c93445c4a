/* Tells the launcher what supervised processes ask of the kernel, when a report is asked for: which call, by whom, at which paths.
 * It judges nothing: src/vsbox/guard/ does, outside, from what arrives there (src/vsbox/guard/events.py reads this format).
 *
 * Security: a call that is only observed goes on in the kernel, which enforces what it enforces; that its memory may change after
 * we looked (seccomp_unotify(2)) makes a report wrong, and opens nothing. */
#define _GNU_SOURCE
#include "broker.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CALLS = 512, MOST_SEEN = 8192, MOST_RANGES = 128, STACK_BYTES = 64 << 10 };

/* An executable mapping of a library that came with a package. */
struct range {
    uint64_t from, to;
    char path[512];
};

static const struct record *calls[MOST_CALLS];
static uint64_t seen[MOST_SEEN];

void observe_calls(const struct plan *plan)
{
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan->records[i].op == OP_OBSERVED && record_int(&plan->records[i], OBSERVED_NUMBER) < MOST_CALLS)
            calls[record_int(&plan->records[i], OBSERVED_NUMBER)] = &plan->records[i];
}

/* ---- what a path means ---- */

static bool read_link(const char *link, char *path, size_t size)
{
    ssize_t length = readlink(link, path, size - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

/* Where a path leads: what of it is there, links followed, and the rest as it was given. */
static void resolve(const struct request *request, int directory, bool follow, char *path, size_t size)
{
    char whole[PATH_ROOM * 2], base[PATH_ROOM], link[64];
    if (path[0] != '/') {
        if (directory == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/%u/cwd", request->notification.pid);
        else
            snprintf(link, sizeof link, "/proc/%u/fd/%d", request->notification.pid, directory);
        if (!read_link(link, base, sizeof base))
            return;
        snprintf(whole, sizeof whole, "%s/%s", base, path);
        snprintf(path, size, "%.*s", (int)size - 1, whole);
    }
    size_t length = strlen(path);
    for (char *end = path + length;;) {
        char before = *end, there[PATH_ROOM], rest[PATH_ROOM];
        snprintf(rest, sizeof rest, "%s", end);
        *end = 0;
        snprintf(whole, sizeof whole, "%s", *path ? path : "/");
        int fd = open_path(request, AT_FDCWD, whole, sizeof whole, follow || rest[0]);
        *end = before;
        if (fd >= 0) {
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            if (read_link(link, there, sizeof there) && there[0] == '/') {
                snprintf(whole, sizeof whole, "%s%s", strcmp(there, "/") == 0 && rest[0] ? "" : there, rest);
                snprintf(path, size, "%.*s", (int)size - 1, whole);
            }
            close(fd);
            return;
        }
        while (end > path && *--end != '/')
            ;
        if (end == path && before == '/')
            return;
    }
}

/* ---- whose library it is ---- */

static unsigned find_ranges(uint32_t process, struct range ranges[static MOST_RANGES])
{
    char path[64], line[1024];
    unsigned count = 0;
    snprintf(path, sizeof path, "/proc/%u/maps", process);
    FILE *file = fopen(path, "re");
    while (file && count < MOST_RANGES && fgets(line, sizeof line, file)) {
        struct range *range = &ranges[count];
        char flags[8];
        int at = 0;
        if (sscanf(line, "%lx-%lx %7s %*s %*s %*s %n", &range->from, &range->to, flags, &at) != 3 || flags[2] != 'x' || !at)
            continue;
        snprintf(range->path, sizeof range->path, "%.*s", (int)strcspn(line + at, "\n"), line + at);
        count += strstr(range->path, "-packages/") != NULL;
    }
    if (file)
        fclose(file);
    return count;
}

/* From where it was when it asked, page by page, since nobody says where it ends. */
static size_t read_stack(const struct request *request, uint64_t stack[static STACK_BYTES / 8])
{
    char path[64];
    unsigned long pointer = 0;
    size_t got = 0;
    snprintf(path, sizeof path, "/proc/%u/syscall", request->notification.pid);
    FILE *file = fopen(path, "re");
    int found = file ? fscanf(file, "%*d %*x %*x %*x %*x %*x %*x %lx", &pointer) : 0;
    if (file)
        fclose(file);
    while (found == 1 && got < STACK_BYTES) {
        size_t wanted = 4096 - ((pointer + got) & 4095);
        struct iovec local = {(char *)stack + got, wanted < STACK_BYTES - got ? wanted : STACK_BYTES - got};
        struct iovec remote = {(void *)(pointer + got), local.iov_len};
        if (process_vm_readv((pid_t)request->notification.pid, &local, 1, &remote, 1, 0) != (ssize_t)local.iov_len)
            break;
        got += local.iov_len;
    }
    return got / sizeof *stack;
}

/* The innermost library of a package that the calling thread is in: the first address on its stack that leads into one. */
static void find_library(const struct request *request, uint32_t process, char *library, size_t size)
{
    static uint64_t stack[STACK_BYTES / sizeof(uint64_t)];
    static struct range ranges[MOST_RANGES];
    unsigned count = find_ranges(process, ranges);
    size_t words = count ? read_stack(request, stack) : 0;
    for (size_t i = 0; i < words; i++)
        for (unsigned j = 0; j < count; j++)
            if (stack[i] >= ranges[j].from && stack[i] < ranges[j].to) {
                snprintf(library, size, "%s", ranges[j].path);
                return;
            }
}

/* Whose work it is matters for what is not everybody's. */
static bool is_of_the_system(const struct broker *broker, const char *path)
{
    static const char *const SYSTEM[] = {"/usr", "/lib", "/lib64", "/bin", "/proc", "/sys", "/dev"};
    for (size_t i = 0; i < sizeof SYSTEM / sizeof *SYSTEM; i++)
        if (is_below(path, SYSTEM[i]))
            return true;
    return is_below(path, broker->start->root);
}

/* ---- telling ---- */

static bool is_news(const struct observation *observation, const char *text, size_t size)
{
    uint64_t words[] = {observation->number, observation->process, observation->arguments[1], observation->arguments[2]};
    uint64_t hash = fnv1a64(words, sizeof words) ^ fnv1a64(text, size) * 31;
    bool known = seen[hash % MOST_SEEN] == hash;
    seen[hash % MOST_SEEN] = hash;
    return !known;
}

static void read_caller(struct observation *observation)
{
    char path[32], line[128];
    snprintf(path, sizeof path, "/proc/%u/status", observation->thread);
    FILE *status = fopen(path, "re");
    while (status && fgets(line, sizeof line, status)) {
        sscanf(line, "Name: %31[^\n]", observation->name);
        sscanf(line, "Tgid: %u", &observation->process);
        if (sscanf(line, "PPid: %u", &observation->parent) == 1)
            break;
    }
    if (status)
        fclose(status);
}

/* A report is to be complete. Whom a cell tells keeps the first hundred, and what is served here must not wait for them. */
static void tell(const struct broker *broker, const struct observation *observation, const struct text *text)
{
    struct iovec parts[] = {{(void *)observation, sizeof *observation}, {(void *)text->bytes, text->size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    sendmsg(broker->channel, &message, MSG_NOSIGNAL | (broker->start->control ? MSG_DONTWAIT : 0));
}

static void add_text(struct text *text, const void *bytes, size_t size)
{
    uint16_t length = (uint16_t)size;
    if (text->size + sizeof length + size > sizeof text->bytes)
        length = 0;
    memcpy(text->bytes + text->size, &length, sizeof length);
    memcpy(text->bytes + text->size + sizeof length, bytes, length);
    text->size += sizeof length + length;
}

static void add_path(const struct request *request, const struct record *call, int which, struct text *text, char *path, uint32_t *unseen)
{
    uint64_t at = record_int(call, which), directory = record_int(call, which + 1);
    path[0] = 0;
    int problem = at < 6 ? read_string(request, argument(request, (int)at), path, PATH_ROOM) : 0;
    if (problem < 0)
        path[0] = 0;
    *unseen |= problem == -EPERM || problem == -EACCES;
    if (path[0] && strncmp(path, NOTE_PREFIX, strlen(NOTE_PREFIX)) != 0)
        resolve(request, directory < 6 ? (int)argument(request, (int)directory) : AT_FDCWD,
                record_int(call, OBSERVED_FOLLOW) != 0, path, PATH_ROOM);
    add_text(text, path, strlen(path));
}

static void add_address(const struct request *request, const struct record *call, struct text *text)
{
    unsigned char address[128];
    uint64_t at = record_int(call, OBSERVED_ADDRESS);
    size_t size = at < 5 ? (size_t)argument(request, (int)at + 1) : 0;
    if (size > sizeof address)
        size = 0;
    if (size && read_exactly(request, argument(request, (int)at), address, size) < 0)
        size = 0;
    add_text(text, address, size);
}

/* Returns who answers: 0 the kernel, ANSWER_BROKER, or an errno to answer with; ANSWER_DONE: it has been. */
int observe(const struct broker *broker, const struct request *request)
{
    static struct text text;
    char path[PATH_ROOM], second[PATH_ROOM], library[512];
    int number = request->notification.data.nr;
    const struct record *call = number >= 0 && number < MOST_CALLS ? calls[number] : NULL;
    if (!call)
        return ANSWER_BROKER;
    struct observation observation = {.kind = MESSAGE_OBSERVED, .number = (uint32_t)number, .thread = request->notification.pid};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    observation.time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    memcpy(observation.arguments, request->notification.data.args, sizeof observation.arguments);
    observation.process = observation.thread;
    text.size = 0;
    add_path(request, call, OBSERVED_PATH, &text, path, &observation.unseen);
    bool note = strncmp(path, NOTE_PREFIX, strlen(NOTE_PREFIX)) == 0;
    add_path(request, call, OBSERVED_SECOND, &text, second, &observation.unseen);
    add_address(request, call, &text);
    if (note || is_news(&observation, text.bytes, text.size)) {
        read_caller(&observation);
        library[0] = 0;
        if (!note && !is_of_the_system(broker, path))
            find_library(request, observation.process, library, sizeof library);
        add_text(&text, library, strlen(library));
        tell(broker, &observation, &text);
    }
    if (note) {
        answer(request, 0, 0);
        return ANSWER_DONE;
    }
    return (int)record_int(call, OBSERVED_ANSWER);
}
