/* What bwrap starts: pid 1 of the new namespaces. It sees that bwrap did what was asked, and is init from there on.
 *
 * Security: whoever runs this program inside gets nothing by it: without pid 1, or without a sealed start and a channel in the
 * right places, it ends; with forged ones it confines itself. */
#define _GNU_SOURCE
#include "root.h"
#include "supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

bool is_inner_stage(const char *own_path)
{
    size_t length = strlen(own_path), name = strlen(INNER_STAGE_OUTSIDE);
    return strcmp(own_path, INNER_STAGE) == 0 || (length > name && strcmp(own_path + length - name, INNER_STAGE_OUTSIDE) == 0);
}

static void check_caller(void)
{
    int type = 0;
    socklen_t size = sizeof type;
    int seals = fcntl(FD_START, F_GET_SEALS);
    if (getpid() != 1 || seals < 0 || (seals & START_SEALS) != START_SEALS ||
        getsockopt(FD_CHANNEL, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_SEQPACKET)
        fail(EXIT_USAGE, "see vsbox --help", "this program is for vsbox itself");
}

/* ---- the start, as bubblewrap.c wrote it ---- */

struct reader {
    unsigned char *at, *end;
};

static void *take(struct reader *reader, size_t size)
{
    if ((size_t)(reader->end - reader->at) < size)
        fail(EXIT_OWN_FAILURE, NULL, "cannot read the start handed over: it is cut short");
    void *taken = reader->at;
    reader->at += size;
    return taken;
}

static char *take_string(struct reader *reader)
{
    size_t length = strnlen((char *)reader->at, (size_t)(reader->end - reader->at));
    return take(reader, length + 1);
}

static char *take_optional(struct reader *reader, bool is_there)
{
    char *text = take_string(reader);
    return is_there ? text : NULL;
}

static char **take_list(struct reader *reader, uint32_t count)
{
    char **list = calloc((size_t)count + 1, sizeof *list);
    for (uint32_t i = 0; list && i < count; i++)
        list[i] = take_string(reader);
    return list;
}

static struct reader read_start(void)
{
    struct stat status;
    unsigned char *bytes = NULL;
    if (fstat(FD_START, &status) == 0)
        bytes = malloc((size_t)status.st_size);
    if (!bytes || pread(FD_START, bytes, (size_t)status.st_size, 0) != status.st_size)
        fail_errno(NULL, "cannot read the start handed over");
    return (struct reader){bytes, bytes + status.st_size};
}

/* The plan is the last; what is left of the reader then is its bytes. */
static struct handed_over take_start(struct reader *reader, struct start *start, struct mounted **mounts)
{
    struct handed_over head;
    memcpy(&head, take(reader, sizeof head), sizeof head);
    *mounts = malloc(head.mounts_size + 1);
    start->protected = calloc((size_t)head.protected_count + 1, sizeof *start->protected);
    if (!*mounts || !start->protected)
        fail(EXIT_OWN_FAILURE, NULL, "cannot read the start handed over: no memory");
    memcpy(*mounts, take(reader, head.mounts_size), head.mounts_size);
    start->root = take_string(reader);
    start->command = take_optional(reader, head.has_command);
    start->cwd = take_optional(reader, head.has_cwd);
    start->script = take_optional(reader, head.has_script);
    start->arguments = take_list(reader, head.argument_count);
    start->environment = take_list(reader, head.variable_count);
    if (!start->arguments || !start->environment)
        fail(EXIT_OWN_FAILURE, NULL, "cannot read the start handed over: no memory");
    for (size_t i = 0; i < head.protected_count; i++) {
        start->protected[i].path = take_string(reader);
        char *link = take_string(reader);
        start->protected[i].link = *link ? link : NULL;
    }
    start->protected_count = head.protected_count;
    for (size_t i = 0; i < head.mounts_size / sizeof **mounts; i++)
        (*mounts)[i].target = take_string(reader);
    start->has_root = head.has_root;
    start->show_cwd = head.show_cwd;
    start->write_cwd = head.write_cwd;
    start->verify = head.verify;
    caller_mask = head.mask;
    caller_chld = (struct sigaction){.sa_handler = head.ignores_children ? SIG_IGN : SIG_DFL};
    return head;
}

/* ---- verify after doing ---- */

static const char *find_fault(const struct mounted *mounted)
{
    struct identity found;
    bool is_mount_root;
    struct statvfs file_system;
    int fd = open_no_symlinks(mounted->target, O_PATH);
    if (fd < 0)
        return strerror(errno);
    bool seen = identify(fd, &found, &is_mount_root) && fstatvfs(fd, &file_system) == 0;
    close(fd);
    if (!seen)
        return strerror(errno);
    bool is_same = memcmp(&found, &mounted->identity, sizeof found) == 0;
    bool is_own = mounted->hidden || !mounted->identity.inode; /* nothing of the host */
    if (is_own ? is_same || !is_mount_root : !is_same)
        return "something else is there";
    if (mounted->read_only && !(file_system.f_flag & ST_RDONLY))
        return "it can be written";
    return NULL;
}

static void check_mounts(const struct mounted *mounts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *fault = find_fault(&mounts[i]);
        if (fault)
            fail(EXIT_OWN_FAILURE, "something changed meanwhile; try again", "cannot trust what bubblewrap mounted on %s: %s",
                 mounts[i].target, fault);
    }
}

static void take_streams(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (dup2(FD_STREAMS + fd, fd) < 0)
            fail_errno(NULL, "cannot take over the standard streams");
    if (close(FD_START) < 0 || sys_close_range(FD_STREAMS, ~0u, 0) < 0 || fcntl(FD_CHANNEL, F_SETFD, FD_CLOEXEC) < 0)
        fail_errno(NULL, "cannot close descriptors");
}

void run_inner_stage(void)
{
    struct start start = {.has_namespaces = true};
    struct mounted *mounts;
    check_caller();
    report_channel = FD_CHANNEL;
    sys_sigprocmask(SIG_SETMASK, EVERY_SIGNAL, NULL);
    struct reader reader = read_start();
    struct handed_over head = take_start(&reader, &start, &mounts);
    const char *problem = plan_decode(&start.plan, take(&reader, head.plan_size), head.plan_size);
    if (problem)
        fail(EXIT_OWN_FAILURE, NULL, "cannot read the plan handed over: %s", problem);
    take_streams();
    check_mounts(mounts, head.mounts_size / sizeof *mounts);
    run_init(&start, FD_CHANNEL);
}
