/* The project directory of preset project: code inside writes to it, the host's tools execute from it. What those would execute
 * unasked is found before each start and protected (project_scan.c), and looked for again afterwards: what has appeared meanwhile
 * cannot be stopped without leaving placeholders, so Python takes it away.
 *
 * A record of each run stays in sandbox/runs while it lasts: the project, and what was there. One that nobody holds locked is of a
 * run that was killed; the next start, or `sandbox/tidy`, settles it. What a run finds that other runs did not, as they began,
 * one of them may have left: it is protected, but not noted as having been there. */
#define _GNU_SOURCE
#include "project.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static int run_record = -1;
static char run_name[24];
static struct protected_list found_before;

/* ---- records ---- */

static int open_runs(const struct start *start)
{
    char path[8400];
    snprintf(path, sizeof path, "%s/sandbox/runs", start->root);
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        fail_errno(NULL, "cannot make %s", path);
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        fail_errno(NULL, "cannot open %s", path);
    return dir;
}

static void put_field(FILE *file, const char *text)
{
    fwrite(text, 1, strlen(text) + 1, file);
}

/* Fields end with NUL: the project, then path, text of a link, device and inode of each. Locked before it has its name. */
static void write_record(int runs, const struct start *start, const char *project, const struct protected_list *before)
{
    char temporary[32];
    uint64_t number;
    if (getrandom(&number, sizeof number, 0) != sizeof number)
        fail_errno(NULL, "cannot name this run");
    snprintf(run_name, sizeof run_name, "%016llx", (unsigned long long)number);
    snprintf(temporary, sizeof temporary, ".%s", run_name);
    run_record = openat(runs, temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    FILE *file = run_record >= 0 && flock(run_record, LOCK_EX) == 0 ? fdopen(dup(run_record), "w") : NULL;
    if (!file)
        fail_errno(NULL, "cannot note this run in %s/sandbox/runs", start->root);
    put_field(file, project);
    for (size_t i = 0; i < before->count; i++) {
        const struct protected *entry = &before->entries[i];
        put_field(file, entry->path);
        put_field(file, entry->link ? entry->link : "");
        fprintf(file, "%llu %llu%c", (unsigned long long)entry->device, (unsigned long long)entry->inode, 0);
    }
    if (fclose(file) != 0 || renameat(runs, temporary, runs, run_name) < 0)
        fail_errno(NULL, "cannot note this run in %s/sandbox/runs", start->root);
}

static char *read_field(FILE *file)
{
    char *text = NULL;
    size_t room = 0;
    if (getdelim(&text, &room, 0, file) > 0)
        return text;
    free(text);
    return NULL;
}

/* Returns the project of a record, or NULL: it is none. */
static char *read_record(int fd, struct protected_list *before)
{
    FILE *file = fdopen(dup(fd), "r");
    if (!file)
        return NULL;
    rewind(file);
    char *project = read_field(file), *path, *link, *identity;
    while (project && (path = read_field(file)) && (link = read_field(file)) && (identity = read_field(file))) {
        struct protected *entry = add_protected(before, path);
        unsigned long long device = 0, inode = 0;
        sscanf(identity, "%llu %llu", &device, &inode);
        entry->device = device;
        entry->inode = inode;
        entry->link = *link ? link : NULL;
        free(path);
        free(identity);
        if (!entry->link)
            free(link);
    }
    fclose(file);
    return project;
}

/* ---- after a run ---- */

enum action { TAKE, REMOVE, RESTORE, REPORT };

static void put_action(FILE *file, enum action action, const char *path, const char *text)
{
    static const char *const NAMES[] = {"take", "remove", "restore", "report"};
    put_field(file, NAMES[action]);
    put_field(file, path);
    put_field(file, text);
}

/* Nothing inside can replace what is protected: the host did, and from then on it could be changed. A file is often written anew
 * (.env by an editor), and easily looked at. */
static void put_appeared(FILE *file, const struct scan *scan, const struct protected *entry)
{
    const struct protected *before = find_protected(scan->before, entry->path);
    char path[4400];
    if (before && is_same_protected(before, entry))
        return;
    snprintf(path, sizeof path, entry->trigger ? "%s/%s" : "%s", entry->path, entry->trigger ? entry->trigger : "");
    if (!before)
        put_action(file, TAKE, path, "");
    else if (!before->link)
        put_action(file, entry->is_directory ? TAKE : REPORT, entry->path, "");
}

/* A link cannot be protected by a mount. */
static void put_changed_links(FILE *file, const struct scan *scan)
{
    char text[4096];
    for (size_t i = 0; i < scan->before->count; i++) {
        const struct protected *entry = &scan->before->entries[i];
        if (!entry->link)
            continue;
        ssize_t length = readlink(entry->path, text, sizeof text - 1);
        text[length < 0 ? 0 : length] = 0;
        if (length < 0 || strcmp(text, entry->link) != 0)
            put_action(file, RESTORE, entry->path, entry->link);
    }
}

static bool write_actions(int runs, const char *name, const struct scan *scan)
{
    char temporary[48], final[48];
    struct stat status;
    snprintf(temporary, sizeof temporary, ".%s.todo", name);
    snprintf(final, sizeof final, "%s.todo", name);
    int fd = openat(runs, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!file)
        fail_errno(NULL, "cannot note what a run left in the project");
    for (size_t i = 0; i < scan->found.count; i++)
        put_appeared(file, scan, &scan->found.entries[i]);
    for (size_t i = 0; i < scan->bytecode.count; i++)
        put_action(file, REMOVE, scan->bytecode.entries[i].path, "");
    put_changed_links(file, scan);
    if (fflush(file) != 0 || fstat(fd, &status) < 0)
        fail_errno(NULL, "cannot note what a run left in the project");
    fclose(file);
    if (status.st_size == 0)
        unlinkat(runs, temporary, 0);
    else if (renameat(runs, temporary, runs, final) < 0)
        fail_errno(NULL, "cannot note what a run left in the project");
    return status.st_size != 0;
}

/* Returns true if there is something for Python to do; else the record is gone. */
static bool look_after(const struct start *start, int runs, int record, const char *name)
{
    struct protected_list before = {0};
    struct stat status;
    char *project = fstat(record, &status) == 0 ? read_record(record, &before) : NULL;
    if (!project)
        fail_errno("look at it, then remove it", "cannot read %s/sandbox/runs/%s", start->root, name);
    if (access(project, F_OK) < 0 && errno == ENOENT) {
        unlinkat(runs, name, 0);
        return false;
    }
    struct scan scan = {.start = start, .project = project, .before = &before, .since = status.st_mtim};
    scan_project(&scan);
    bool has_work = write_actions(runs, name, &scan);
    if (!has_work)
        unlinkat(runs, name, 0);
    free_protected(&scan.found);
    free_protected(&scan.bytecode);
    free_protected(&before);
    free(project);
    return has_work;
}

/* The record of a run, unless its name is that of something else. */
static int open_record(int runs, const char *name)
{
    return name[0] == '.' || strchr(name, '.') ? -1 : openat(runs, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
}

/* Settles runs that were killed; of those that go on, what was there as they began is added to others. */
static bool look_after_others(const struct start *start, int runs, struct protected_list *others, size_t *other_count)
{
    DIR *entries = fdopendir(openat(runs, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    bool has_work = false;
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        int record = open_record(runs, entry->d_name);
        if (record < 0)
            continue;
        if (flock(record, LOCK_EX | LOCK_NB) == 0) {
            has_work |= look_after(start, runs, record, entry->d_name);
        } else {
            free(read_record(record, others));
            ++*other_count;
        }
        close(record);
    }
    if (entries)
        closedir(entries);
    return has_work;
}

static void settle_killed_runs(const struct start *start, int runs, struct protected_list *others, size_t *other_count)
{
    if (!look_after_others(start, runs, others, other_count))
        return;
    int status = call_python(start, "tidy");
    if (status != 0)
        exit(status);
}

void settle_runs(const struct start *start)
{
    struct protected_list others = {0};
    size_t other_count = 0;
    settle_killed_runs(start, open_runs(start), &others, &other_count);
}

/* ---- before a run ---- */

/* What each of the runs that go on found there as well. */
static struct protected_list vouched(const struct protected_list *found, const struct protected_list *others, size_t other_count)
{
    struct protected_list known = {0};
    for (size_t i = 0; i < found->count; i++) {
        const struct protected *entry = &found->entries[i];
        size_t agreeing = 0;
        for (size_t j = 0; j < others->count; j++)
            agreeing += strcmp(others->entries[j].path, entry->path) == 0 && is_same_protected(&others->entries[j], entry);
        if (agreeing < other_count)
            continue;
        struct protected *copy = add_protected(&known, entry->path);
        copy->link = entry->link ? strdup(entry->link) : NULL;
        copy->device = entry->device;
        copy->inode = entry->inode;
    }
    return known;
}

void project_begin(struct start *start)
{
    const struct record *project = plan_find(&start->plan, OP_PROJECT);
    if (!project || start->verify)
        return;
    int runs = open_runs(start);
    struct protected_list others = {0};
    size_t other_count = 0;
    settle_killed_runs(start, runs, &others, &other_count);
    struct scan scan = {.start = start, .project = record_string(project, 0)};
    scan_project(&scan);
    start->protected = scan.found.entries;
    start->protected_count = scan.found.count;
    found_before = vouched(&scan.found, &others, other_count);
    write_record(runs, start, scan.project, &found_before);
    free_protected(&others);
    close(runs);
}

void project_end(const struct start *start)
{
    if (run_record < 0)
        return;
    int runs = open_runs(start);
    if (look_after(start, runs, run_record, run_name))
        call_python(start, "tidy");
    close(runs);
}
