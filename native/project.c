/* The project directory of preset project: code inside writes to it, the host's tools execute from it. What those would execute
 * unasked (.git, .envrc, editor folders, other environments: OP_PROTECT) is found before each start, protected, and looked for
 * again afterwards: what has appeared meanwhile cannot be stopped without leaving placeholders, so Python takes it away.
 *
 * A record of each run stays in sandbox/runs while it lasts. One that nobody holds locked is of a run whose launcher was killed:
 * the next start has it cleaned up first. */
#define _GNU_SOURCE
#include "vsbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DEPTH = 100 };

struct scan {
    const struct plan *plan;
    const char *project, *box;
    struct protected *found;
    size_t count, room;
    struct timespec since; /* look for bytecode that is younger, unless zero */
    bool has_young_bytecode;
};

static bool matches(const char *pattern, const char *name)
{
    size_t length = strlen(pattern);
    if (length > 0 && pattern[length - 1] == '*')
        return strncasecmp(name, pattern, length - 1) == 0;
    return strcasecmp(name, pattern) == 0;
}

static bool is_protected_name(const struct plan *plan, const char *name)
{
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan->records[i].op == OP_PROTECT && matches(record_string(&plan->records[i], 0), name))
            return true;
    return false;
}

/* A line of policy of its own says what may be done there. */
static bool is_granted_itself(const struct plan *plan, const char *path)
{
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct record *r = &plan->records[i];
        if ((r->op == OP_BIND && strcmp(record_string(r, 1), path) == 0) ||
            (r->op == OP_MASK && strcmp(record_string(r, 0), path) == 0) ||
            (r->op == OP_RULE && strcmp(record_string(r, 0), path) == 0))
            return true;
    }
    return false;
}

static void note(struct scan *scan, int dir, const char *name, const char *path)
{
    char text[4096];
    ssize_t length = readlinkat(dir, name, text, sizeof text - 1);
    if (scan->count == scan->room) {
        scan->room = scan->room ? 2 * scan->room : 32;
        scan->found = realloc(scan->found, scan->room * sizeof *scan->found);
    }
    if (!scan->found)
        fail(EXIT_OWN_FAILURE, NULL, "cannot look through the project: no memory");
    text[length < 0 ? 0 : length] = 0;
    struct protected *entry = &scan->found[scan->count++];
    entry->path = strdup(path);
    entry->link = length < 0 ? NULL : strdup(text);
}

static bool is_younger(const struct timespec *time, const struct timespec *than)
{
    return time->tv_sec != than->tv_sec ? time->tv_sec > than->tv_sec : time->tv_nsec >= than->tv_nsec;
}

static void look_at_bytecode(struct scan *scan, int dir, const char *name)
{
    if (scan->since.tv_sec == 0 || scan->has_young_bytecode)
        return;
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *entries = fd >= 0 ? fdopendir(fd) : NULL;
    struct stat status;
    if (!entries) { /* a link or unreadable: nothing that Python leaves */
        scan->has_young_bytecode = true;
        return;
    }
    if (fstat(fd, &status) == 0 && is_younger(&status.st_ctim, &scan->since))
        scan->has_young_bytecode = true;
    for (struct dirent *entry; !scan->has_young_bytecode && (entry = readdir(entries));)
        if (fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 && entry->d_name[0] != '.' &&
            is_younger(&status.st_ctim, &scan->since))
            scan->has_young_bytecode = true;
    closedir(entries);
}

static bool is_directory(int dir, const struct dirent *entry)
{
    struct stat status;
    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type == DT_DIR;
    return fstatat(dir, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode);
}

static bool is_environment(int dir, const char *name)
{
    char config[300];
    snprintf(config, sizeof config, "%s/pyvenv.cfg", name);
    return faccessat(dir, config, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void scan_directory(struct scan *scan, int dir, char *path, size_t length, int depth)
{
    DIR *entries = fdopendir(dir);
    if (!entries)
        fail_errno(NULL, "cannot look through %s", path);
    for (struct dirent *entry; (entry = readdir(entries));) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        int size = snprintf(path + length, 4096 - length, "/%s", name);
        bool fits = size > 0 && (size_t)size < 4096 - length;
        if (fits && (strcmp(path, scan->box) == 0 || is_granted_itself(scan->plan, path)))
            continue;
        bool is_dir = is_directory(dir, entry);
        if (!fits || (is_dir && depth == MAX_DEPTH)) { /* nothing there is ours to judge: it stays out of the host's sight */
            path[length] = 0;
            note(scan, AT_FDCWD, path, path);
            break;
        }
        if (is_protected_name(scan->plan, name) || (is_dir && is_environment(dir, name))) {
            note(scan, dir, name, path);
        } else if (strcmp(name, "__pycache__") == 0) {
            look_at_bytecode(scan, dir, name);
        } else if (is_dir) {
            int below = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (below >= 0)
                scan_directory(scan, below, path, length + (size_t)size, depth + 1);
        }
    }
    path[length] = 0;
    closedir(entries);
}

static struct scan scan_project(const struct start *start, const char *project, struct timespec since)
{
    struct scan scan = {.plan = &start->plan, .project = project, .box = start->root, .since = since};
    char path[4096];
    int dir = open_no_symlinks(project, O_RDONLY | O_DIRECTORY);
    if (dir < 0 || (size_t)snprintf(path, sizeof path, "%s", project) >= sizeof path)
        fail_errno("a granted path has vanished or is now a symbolic link: see vsbox explain", "cannot open %s", project);
    scan_directory(&scan, dir, path, strlen(path), 0);
    return scan;
}

/* ---- without namespaces ---- */

static bool is_protected(const struct start *start, const char *path)
{
    for (size_t i = 0; i < start->protected_count; i++)
        if (is_below(path, start->protected[i].path))
            return true;
    return is_below(path, start->root);
}

static bool holds_protected(const struct start *start, const char *path)
{
    for (size_t i = 0; i < start->protected_count; i++)
        if (is_below(start->protected[i].path, path))
            return true;
    return is_below(start->root, path);
}

bool is_free_in_project(const struct start *start, const char *path)
{
    const struct record *project = plan_find(&start->plan, OP_PROJECT);
    return project && is_below(path, record_string(project, 0)) && !is_protected(start, path) &&
           !holds_protected(start, path);
}

/* Landlock cannot subtract: what holds something protected is granted child by child, and nothing can be made in it. The
 * directory itself can be listed only, since rights reach all the way down. */
static void grant_children(const struct start *start, const char *path, uint64_t flags, uint64_t access)
{
    const uint64_t execute = 1, read_file = 1 << 2, read_dir = 1 << 3;
    if (!holds_protected(start, path)) {
        grant_dynamic(path, access);
        return;
    }
    grant_dynamic(path, read_dir & access);
    int dir = open_no_symlinks(path, O_RDONLY | O_DIRECTORY);
    DIR *entries = dir >= 0 ? fdopendir(dir) : NULL;
    if (!entries)
        fail_errno(NULL, "cannot look through %s", path);
    for (struct dirent *entry; (entry = readdir(entries));) {
        char child[4096];
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            (size_t)snprintf(child, sizeof child, "%s/%s", path, entry->d_name) >= sizeof child ||
            fstatat(dir, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0 || S_ISLNK(status.st_mode) ||
            strcmp(child, start->root) == 0)
            continue;
        if (is_protected(start, child))
            grant_dynamic(child, flags & PROJECT_HIDE ? 0 : (execute | read_file | read_dir) & access);
        else if (S_ISDIR(status.st_mode))
            grant_children(start, child, flags, access);
        else if (S_ISREG(status.st_mode))
            grant_dynamic(child, access);
    }
    closedir(entries);
}

void grant_project(const struct start *start, const struct record *r)
{
    grant_children(start, record_string(r, 0), record_int(r, 1), record_int(r, 2));
}

/* ---- records of runs ---- */

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

static bool is_abandoned(int runs, const char *name)
{
    int fd = openat(runs, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    bool abandoned = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (fd >= 0)
        close(fd);
    return abandoned;
}

static bool has_abandoned_run(int runs)
{
    DIR *entries = fdopendir(dup(runs));
    bool found = false;
    for (struct dirent *entry; entries && !found && (entry = readdir(entries));)
        found = entry->d_name[0] != '.' && is_abandoned(runs, entry->d_name);
    if (entries)
        closedir(entries);
    return found;
}

static int run_record = -1;
static char run_name[32];

/* NUL-terminated pairs: a path that is there already, and the text of the link that it is. Locked before it has its name. */
static void write_record(int runs, const struct start *start)
{
    char temporary[40];
    snprintf(run_name, sizeof run_name, "%d", getpid());
    snprintf(temporary, sizeof temporary, ".%s", run_name);
    unlinkat(runs, temporary, 0);
    run_record = openat(runs, temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    FILE *file = run_record >= 0 && flock(run_record, LOCK_EX) == 0 ? fdopen(dup(run_record), "w") : NULL;
    if (!file)
        fail_errno(NULL, "cannot note this run in %s/sandbox/runs", start->root);
    for (size_t i = 0; i < start->protected_count; i++) {
        const struct protected *entry = &start->protected[i];
        fprintf(file, "%s%c%s%c", entry->path, 0, entry->link ? entry->link : "", 0);
    }
    if (fclose(file) != 0 || renameat(runs, temporary, runs, run_name) < 0)
        fail_errno(NULL, "cannot note this run in %s/sandbox/runs", start->root);
}

void project_begin(struct start *start)
{
    const struct record *project = plan_find(&start->plan, OP_PROJECT);
    if (!project || start->verify)
        return;
    int runs = open_runs(start);
    if (has_abandoned_run(runs)) {
        int status = call_python(start, "tidy");
        if (status != 0)
            exit(status);
    }
    struct scan scan = scan_project(start, record_string(project, 0), (struct timespec){0});
    start->protected = scan.found;
    start->protected_count = scan.count;
    write_record(runs, start);
    close(runs);
}

static bool was_there(const struct start *start, const struct protected *entry)
{
    for (size_t i = 0; i < start->protected_count; i++) {
        const struct protected *before = &start->protected[i];
        if (strcmp(before->path, entry->path) == 0)
            return (before->link == NULL) == (entry->link == NULL) &&
                   (!before->link || strcmp(before->link, entry->link) == 0);
    }
    return false;
}

/* Links cannot be protected by a mount, so one that has gone is a change as well. */
static bool has_changed_links(const struct start *start)
{
    char text[4096];
    for (size_t i = 0; i < start->protected_count; i++) {
        const struct protected *entry = &start->protected[i];
        if (!entry->link)
            continue;
        ssize_t length = readlink(entry->path, text, sizeof text - 1);
        text[length < 0 ? 0 : length] = 0;
        if (length < 0 || strcmp(text, entry->link) != 0)
            return true;
    }
    return false;
}

void project_end(const struct start *start)
{
    const struct record *project = plan_find(&start->plan, OP_PROJECT);
    struct stat record;
    if (!project || run_record < 0)
        return;
    if (fstat(run_record, &record) < 0)
        fail_errno(NULL, "cannot look at the record of this run");
    struct scan scan = scan_project(start, record_string(project, 0), record.st_mtim);
    bool changed = scan.has_young_bytecode || has_changed_links(start);
    for (size_t i = 0; i < scan.count && !changed; i++)
        changed = !was_there(start, &scan.found[i]);
    if (changed) {
        flock(run_record, LOCK_UN); /* so that it counts as ended */
        call_python(start, "tidy");
        return;
    }
    int runs = open_runs(start);
    unlinkat(runs, run_name, 0);
    close(runs);
}
