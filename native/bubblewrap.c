/* The backend bubblewrap: bwrap(1) makes the namespaces and starts our own program in them as pid 1, which is init from there on
 * (inner_stage.c) and mounts the new root like the backend native. Where what bwrap starts may not mount (AppArmor's profile
 * for bwrap denies it), or the policy asks for what bwrap alone knows, bwrap makes the new root as well.
 *
 * Nothing about the start is on a command line: the arguments of bwrap are in one memfd, the start in another. bwrap gets no
 * environment, for its loader would honour LD_LIBRARY_PATH, and none of the payload's streams, for it would keep them open. */
#define _GNU_SOURCE
#include "root.h"
#include "supervise.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What bwrap says on standard error, which is never the payload's. */
static int complaints = -1;

static void write_all(int fd, const void *data, size_t size)
{
    for (const char *at = data; size > 0;) {
        ssize_t written = write(fd, at, size);
        if (written < 0)
            fail_errno(NULL, "cannot prepare the start of bwrap");
        at += written;
        size -= (size_t)written;
    }
}

static int make_memfd(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | 8 /* MFD_NOEXEC_SEAL, which vm.memfd_noexec may demand */);
    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        fail_errno(NULL, "cannot prepare the start of bwrap");
    return fd;
}

static void seal(int fd)
{
    if (fcntl(fd, F_ADD_SEALS, START_SEALS) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        fail_errno(NULL, "cannot prepare the start of bwrap");
}

static uint32_t put_strings(FILE *strings, char *const *list)
{
    uint32_t count = 0;
    for (; list[count]; count++)
        fwrite(list[count], 1, strlen(list[count]) + 1, strings);
    return count;
}

static void put_string(FILE *strings, const char *text)
{
    fwrite(text ? text : "", 1, strlen(text ? text : "") + 1, strings);
}

/* The order is inner_stage.c's. */
static struct handed_over put_start(FILE *strings, const struct start *start, const struct argued *argued, bool has_root)
{
    put_string(strings, start->root);
    put_string(strings, start->command);
    put_string(strings, start->cwd);
    put_string(strings, start->script);
    uint32_t argument_count = put_strings(strings, start->arguments);
    uint32_t variable_count = put_strings(strings, start->environment);
    for (size_t i = 0; i < start->protected_count; i++) {
        put_string(strings, start->protected[i].path);
        put_string(strings, start->protected[i].link);
    }
    for (size_t i = 0; i < argued->mount_count; i++)
        put_string(strings, argued->mounts[i].target);
    return (struct handed_over){
        .mounts_size = argued->mount_count * sizeof *argued->mounts, .plan_size = start->plan.size,
        .argument_count = argument_count, .variable_count = variable_count,
        .protected_count = (uint32_t)start->protected_count, .mask = caller_mask,
        .has_root = has_root, .ignores_children = caller_chld.sa_handler == SIG_IGN, .show_cwd = start->show_cwd, .write_cwd = start->write_cwd,
        .verify = start->verify, .has_command = start->command, .has_cwd = start->cwd, .has_script = start->script,
    };
}

static int hand_over(const struct start *start, const struct argued *argued, bool has_root)
{
    int fd = make_memfd("vsbox-start");
    char *strings = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&strings, &size);
    if (!stream)
        fail_errno(NULL, "cannot prepare the start of bwrap");
    struct handed_over head = put_start(stream, start, argued, has_root);
    if (fclose(stream) != 0)
        fail_errno(NULL, "cannot prepare the start of bwrap");
    head.strings_size = size;
    write_all(fd, &head, sizeof head);
    write_all(fd, argued->mounts, head.mounts_size);
    write_all(fd, strings, size);
    write_all(fd, start->plan.bytes, start->plan.size);
    seal(fd);
    free(strings);
    return fd;
}

static int store_arguments(const struct argued *argued)
{
    int fd = make_memfd("vsbox-bwrap");
    write_all(fd, argued->arguments, argued->arguments_size);
    seal(fd);
    return fd;
}

/* Each descriptor gets the number that bwrap or the inner stage knows; first all out of each other's way. */
static void arrange_descriptors(const int *from, int count)
{
    int moved[FD_FILES + sizeof ((struct argued *)0)->files / sizeof(int)];
    for (int fd = 0; fd < count; fd++)
        moved[fd] = fcntl(from[fd], F_DUPFD_CLOEXEC, count);
    for (int fd = 0; fd < count; fd++)
        if (moved[fd] < 0 || dup2(moved[fd], fd) < 0)
            fail_errno(NULL, "cannot prepare the start of bwrap");
    if (sys_close_range((unsigned)count, ~0u, 0) < 0)
        fail_errno(NULL, "cannot prepare the start of bwrap");
}

pid_t start_bubblewrap(const struct start *start, int channel)
{
    const struct record *bubblewrap = plan_find(&start->plan, OP_BUBBLEWRAP);
    const char *program = record_string(bubblewrap, 0);
    bool makes_root = record_int(bubblewrap, 1);
    struct argued argued = makes_root ? argue(start) : argue_namespaces_only(start);
    char inner_stage[8400];
    snprintf(inner_stage, sizeof inner_stage, "%s" INNER_STAGE_OUTSIDE, start->root);
    int ends[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        fail_errno(NULL, "cannot prepare the start of bwrap");
    int from[FD_FILES + sizeof argued.files / sizeof(int)] = {
        null, null, ends[1], [FD_START] = hand_over(start, &argued, makes_root), [FD_CHANNEL] = channel, [FD_STREAMS] = 0,
        [FD_STREAMS + 1] = 1, [FD_STREAMS + 2] = 2, [FD_ARGUMENTS] = store_arguments(&argued)};
    memcpy(from + FD_FILES, argued.files, sizeof argued.files);
    pid_t pid = sys_clone(0);
    if (pid == 0) {
        char number[16];
        snprintf(number, sizeof number, "%d", FD_ARGUMENTS);
        report_channel = channel;
        char *argv[] = {"bwrap", "--args", number, "--", makes_root ? INNER_STAGE : inner_stage, NULL}, *none[] = {NULL};
        arrange_descriptors(from, FD_FILES + argued.file_count);
        report_channel = FD_CHANNEL;
        execve(program, argv, none);
        fail_errno("install it again: apt-get install bubblewrap; then: vsbox sync", "cannot execute %s", program);
    }
    close(ends[1]);
    close(null);
    close(from[FD_START]);
    close(from[FD_ARGUMENTS]);
    for (int i = 0; i < argued.file_count; i++)
        close(argued.files[i]);
    complaints = ends[0];
    return pid;
}

/* True when bwrap gave up before it started the inner stage; then this says why. */
bool has_bubblewrap_failed(void)
{
    char text[600];
    ssize_t size = read(complaints, text, sizeof text - 1);
    while (size > 0 && isspace((unsigned char)text[size - 1]))
        size--;
    if (size <= 0)
        return false;
    text[size] = 0;
    for (ssize_t i = 0; i < size; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 127)
            text[i] = text[i] == '\n' ? ';' : '?';
    const char *cause = strncmp(text, "bwrap: ", 7) == 0 ? text + 7 : text;
    fprintf(stderr, "vsbox: cannot set up the sandbox with bubblewrap: %s\n       see what this machine offers: vsbox doctor\n",
            cause);
    return true;
}
