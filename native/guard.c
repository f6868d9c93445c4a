/* Files that code inside could change and that must be as they are outside: what starts the guard, where nothing can be mounted
 * over it. */
#define _GNU_SOURCE
#include "vsbox.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_BYTES = 64 << 20 }; /* a policy may have ten thousand grants */

struct content {
    void *bytes;
    size_t size;
};

/* False, with errno, where it is no regular file of a sensible size. */
static bool read_whole(const char *path, struct content *content)
{
    struct stat status;
    int fd = open_no_symlinks(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &status) < 0)
        return false;
    content->size = (size_t)status.st_size;
    bool usable = S_ISREG(status.st_mode) && status.st_size > 0 && status.st_size <= MOST_BYTES;
    content->bytes = usable ? mmap(NULL, content->size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    if (!usable)
        errno = EINVAL;
    return content->bytes != MAP_FAILED;
}

/* Word by word: what musl's memcmp() does byte by byte is the longest part of a start. */
static bool is_same(const struct content *ours, const struct content *theirs)
{
    const uint64_t *a = ours->bytes, *b = theirs->bytes; /* whole pages, with zeros behind the end */
    uint64_t differing = ours->size ^ theirs->size;
    for (size_t i = 0; differing == 0 && i < (ours->size + 7) / 8; i++)
        differing = a[i] ^ b[i];
    return differing == 0;
}

void check_same(const struct start *start)
{
    char advice[4200];
    snprintf(advice, sizeof advice, "put it back: vsbox sync %s", start->root);
    for (uint32_t i = 0; i < start->plan.count; i++) {
        const struct record *r = &start->plan.records[i];
        struct content ours, theirs;
        if (r->op != OP_SAME)
            continue;
        if (!read_whole(record_string(r, 0), &ours))
            fail_errno(advice, "cannot read %s", record_string(r, 0));
        if (!read_whole(record_string(r, 1), &theirs))
            fail_errno(advice, "cannot read %s, which code inside took away", record_string(r, 1));
        if (!is_same(&ours, &theirs))
            fail(EXIT_OWN_FAILURE, advice, "cannot trust %s, which code inside changed", record_string(r, 1));
        munmap(ours.bytes, ours.size);
        munmap(theirs.bytes, theirs.size);
    }
}
