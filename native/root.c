/* What the steps of a new root mean, whoever carries them out: namespaces.c mounts, arguing.c writes arguments for bwrap. Here is
 * what depends on the start: the working directory, the script, what of a project is protected, and the way to each. */
#define _GNU_SOURCE
#include "root.h"

#include <stdlib.h>
#include <string.h>

static const struct root_builder *how;

static bool is_bound(const struct plan *plan, const char *path)
{
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan->records[i].op == OP_BIND && strcmp(record_string(&plan->records[i], 1), path) == 0)
            return true;
    return false;
}

/* A mount point cannot be renamed, but what holds it can: moved away and rebuilt, a writable directory would keep its name and
 * give code inside the place of the box at the next start. So each directory on the way becomes a mount point as well, once. */
static void pin_way_to(const struct start *start, const char *path, const char *writable)
{
    static char **pinned;
    static size_t count;
    char way[4096];
    if (strlen(path) >= sizeof way || !is_below(path, writable))
        return;
    for (size_t i = strlen(writable) + 1; path[i]; i++) {
        if (path[i] != '/')
            continue;
        memcpy(way, path, i);
        way[i] = 0;
        bool done = is_bound(&start->plan, way);
        for (size_t j = 0; j < count && !done; j++)
            done = strcmp(pinned[j], way) == 0;
        if (done)
            continue;
        how->bind(way, way, BIND_WRITABLE);
        pinned = realloc(pinned, (count + 1) * sizeof *pinned);
        if (!pinned || !(pinned[count++] = strdup(way)))
            fail(EXIT_OWN_FAILURE, NULL, "cannot keep track of mounts");
    }
}

static void bind_working_directory(const struct start *start)
{
    how->bind(start->cwd, start->cwd, start->write_cwd ? BIND_WRITABLE : 0);
    for (uint32_t i = 0; start->write_cwd && i < start->plan.count; i++) {
        const struct record *r = &start->plan.records[i];
        if (r->op == OP_BIND || r->op == OP_MASK)
            pin_way_to(start, record_string(r, r->op == OP_BIND), start->cwd);
    }
}

/* Ways first, or they would cover what is mounted below them. A mount follows no link: links are looked at in the end. */
static void protect_project(const struct start *start, const char *project, uint64_t flags)
{
    for (size_t i = 0; i < start->protected_count; i++)
        if (!start->protected[i].link)
            pin_way_to(start, start->protected[i].path, project);
    for (size_t i = 0; i < start->protected_count; i++) {
        const char *path = start->protected[i].path;
        if (start->protected[i].link)
            continue;
        if (flags & PROJECT_HIDE)
            how->mask(path, 0);
        else
            how->bind(path, path, 0);
    }
}

void do_root_step(const struct root_builder *builder, const struct start *start, const struct record *r)
{
    how = builder;
    switch (r->op) {
    case OP_TMPFS:
        how->tmpfs(record_string(r, 0), record_int(r, 1), record_int(r, 2));
        break;
    case OP_DIRECTORY:
        how->directory(record_string(r, 0));
        break;
    case OP_SYMLINK:
        how->symlink(record_string(r, 0), record_string(r, 1));
        break;
    case OP_BIND:
        how->bind(record_string(r, 0), record_string(r, 1), record_int(r, 2));
        break;
    case OP_OVERLAY:
        how->overlay(record_string(r, 0), record_string(r, 1));
        break;
    case OP_CHANGES:
        how->changes(record_string(r, 0), record_string(r, 1), record_int(r, 2));
        break;
    case OP_READ_ONLY:
        how->read_only();
        break;
    case OP_PROC:
        how->proc(record_string(r, 0));
        break;
    case OP_DEVPTS:
        how->devpts(record_string(r, 0));
        break;
    case OP_MASK:
        how->mask(record_string(r, 0), record_int(r, 1));
        break;
    case OP_WORKDIR:
        if (start->show_cwd)
            bind_working_directory(start);
        break;
    case OP_SCRIPT:
        if (start->script)
            how->bind(start->script, start->script, 0);
        break;
    case OP_PROJECT:
        protect_project(start, record_string(r, 0), record_int(r, 1));
        break;
    case OP_HOSTNAME:
        how->hostname(record_string(r, 0));
        break;
    case OP_LOOPBACK:
        how->loopback();
        break;
    case OP_SEAL_USERNS:
        how->seal_userns();
        break;
    case OP_PIVOT:
        how->pivot();
        break;
    default:
        break;
    }
}
