/* Finds in a project what the host would execute unasked: by name (OP_PROTECT), environments (pyvenv.cfg), repositories without a
 * work tree, which git takes for one wherever they lie, and what repositories and links name elsewhere in the project.
 *
 * Security: code inside made what is looked at, and other runs may still change it. No link is followed on the way; what nobody
 * may list is made readable after a run, since git and others enter it by name all the same. */
#define _GNU_SOURCE
#include "project.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DEPTH = 100, MAX_DIRECTORY = 3800 }; /* a path of such a directory and any name in it is shorter than PATH_MAX */
static const int OPEN_DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

/* ---- lists ---- */

struct protected *add_protected(struct protected_list *list, const char *path)
{
    if (list->count == list->room) {
        list->room = list->room ? 2 * list->room : 32;
        list->entries = realloc(list->entries, list->room * sizeof *list->entries);
    }
    if (!list->entries)
        fail(EXIT_OWN_FAILURE, NULL, "cannot look through the project: no memory");
    struct protected *entry = &list->entries[list->count++];
    *entry = (struct protected){.path = strdup(path)};
    if (!entry->path)
        fail(EXIT_OWN_FAILURE, NULL, "cannot look through the project: no memory");
    return entry;
}

const struct protected *find_protected(const struct protected_list *list, const char *path)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->entries[i].path, path) == 0)
            return &list->entries[i];
    return NULL;
}

bool is_same_protected(const struct protected *one, const struct protected *other)
{
    if (one->link || other->link)
        return one->link && other->link && strcmp(one->link, other->link) == 0;
    return one->device == other->device && one->inode == other->inode;
}

void free_protected(struct protected_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->entries[i].path);
        free(list->entries[i].link);
    }
    free(list->entries);
    *list = (struct protected_list){0};
}

/* ---- what a name means ---- */

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

static bool is_there(int dir, const char *name, const char *below, int flags)
{
    char path[600];
    return (size_t)snprintf(path, sizeof path, "%s/%s", name, below) < sizeof path && faccessat(dir, path, F_OK, flags) == 0;
}

static bool is_environment(int dir, const char *name)
{
    return is_there(dir, name, "pyvenv.cfg", AT_SYMLINK_NOFOLLOW);
}

/* Somebody else's launchers, or with a policy of their own. */
static bool is_box(int dir, const char *name)
{
    return is_there(dir, name, "sandbox/sandbox.json", AT_SYMLINK_NOFOLLOW);
}

/* What git asks of a directory that may be a repository (setup.c, is_git_directory); not whether HEAD makes sense. */
static bool is_repository(int dir, const char *name)
{
    return is_there(dir, name, "HEAD", AT_SYMLINK_NOFOLLOW) &&
           ((is_there(dir, name, "objects", AT_SYMLINK_NOFOLLOW) && is_there(dir, name, "refs", AT_SYMLINK_NOFOLLOW)) ||
            is_there(dir, name, "commondir", AT_SYMLINK_NOFOLLOW));
}

/* A line of the policy of its own says what may be done with something protected. A directory that is a mount only because
 * something below it is granted (writable, without a rule) has no such line. */
static const struct record *own_line(const struct plan *plan, const char *path)
{
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct record *r = &plan->records[i];
        if ((r->op == OP_BIND && !(record_int(r, 2) & BIND_WRITABLE) && strcmp(record_string(r, 1), path) == 0) ||
            ((r->op == OP_MASK || r->op == OP_RULE) && strcmp(record_string(r, 0), path) == 0))
            return r;
    }
    return NULL;
}

static bool is_closed(const struct plan *plan, const char *path)
{
    const struct record *line = own_line(plan, path);
    return line && (line->op != OP_RULE || !(record_int(line, 1) & LANDLOCK_WRITE_FILE));
}

/* ---- noting ---- */

static struct protected *note(struct scan *scan, int dir, const char *name, const char *path, const char *trigger)
{
    char text[4096];
    struct stat status;
    struct protected *entry = add_protected(&scan->found, path);
    entry->trigger = trigger;
    if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return entry;
    entry->device = status.st_dev;
    entry->inode = status.st_ino;
    entry->is_directory = S_ISDIR(status.st_mode);
    ssize_t length = S_ISLNK(status.st_mode) ? readlinkat(dir, name, text, sizeof text - 1) : -1;
    if (length >= 0) {
        text[length] = 0;
        entry->link = strdup(text);
    }
    return entry;
}

static bool was_there(const struct scan *scan, const struct protected *entry)
{
    const struct protected *before = scan->before ? find_protected(scan->before, entry->path) : NULL;
    return before && is_same_protected(before, entry);
}

/* What something protected names: if it is in the project as well, it is as good as part of it. */
static void note_target(struct scan *scan, const char *base, const char *name)
{
    char joined[8200], *real;
    snprintf(joined, sizeof joined, name[0] == '/' ? "%.0s%s" : "%s/%s", base, name);
    real = realpath(joined, NULL);
    if (real && is_below(real, scan->project) && strcmp(real, scan->project) != 0 && !is_below(real, scan->start->root) &&
        !find_protected(&scan->found, real))
        note(scan, AT_FDCWD, real, real, NULL);
    free(real);
}

/* The value of a line `key SEPARATOR value`, without blanks and quotes around it; NULL: another line. */
static char *value_of(char *line, const char *key, char separator)
{
    line += strspn(line, " \t");
    if (strncasecmp(line, key, strlen(key)) != 0)
        return NULL;
    line += strlen(key);
    line += strspn(line, " \t");
    if (*line++ != separator)
        return NULL;
    line += strspn(line, " \t\"");
    line[strcspn(line, "\"\r\n")] = 0;
    return *line ? line : NULL;
}

static void note_values(struct scan *scan, int dir, const char *name, const char *key, char separator, const char *base)
{
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat status;
    FILE *file = fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) ? fdopen(fd, "r") : NULL;
    char line[4200], *value;
    while (file && fgets(line, sizeof line, file))
        if ((value = value_of(line, key, separator)))
            note_target(scan, base, value);
    if (file)
        fclose(file);
    else if (fd >= 0)
        close(fd);
}

/* gitrepository-layout(5): .git may be a file "gitdir: PLACE"; git-config(1): hooks may lie elsewhere. */
static void note_what_it_names(struct scan *scan, int dir, const char *name, const char *parent, const struct protected *entry)
{
    char config[300];
    if (entry->link) {
        char text[4096];
        snprintf(text, sizeof text, "%s", entry->link);
        note_target(scan, parent, text);
    } else if (strcasecmp(name, ".git") == 0) {
        note_values(scan, dir, name, "gitdir", ':', parent);
        snprintf(config, sizeof config, "%s/config", name);
        note_values(scan, dir, config, "hookspath", '=', parent);
    }
}

/* ---- bytecode ---- */

static bool is_younger(const struct stat *status, const struct timespec *than)
{
    const struct timespec *time = &status->st_ctim; /* nothing inside can set the time of a change of status */
    return time->tv_sec != than->tv_sec ? time->tv_sec > than->tv_sec : time->tv_nsec >= than->tv_nsec;
}

static bool has_young_bytecode(const struct scan *scan, int dir, const char *name)
{
    int fd = openat(dir, name, OPEN_DIRECTORY);
    DIR *entries = fd >= 0 ? fdopendir(fd) : NULL;
    struct stat status;
    if (!entries) { /* a link, or unreadable: nothing that Python leaves */
        if (fd >= 0)
            close(fd);
        return true;
    }
    bool young = fstat(fd, &status) == 0 && is_younger(&status, &scan->since);
    for (struct dirent *entry; !young && (entry = readdir(entries));)
        young = strcmp(entry->d_name, "..") != 0 && fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
                is_younger(&status, &scan->since);
    closedir(entries);
    return young;
}

/* ---- the walk ---- */

static void scan_directory(struct scan *scan, int dir, char *path, size_t length, int depth);

static int make_readable(int dir, const char *name)
{
    char link[32];
    struct stat status;
    int fd = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (fstat(fd, &status) == 0)
        chmod(link, (status.st_mode & 07777) | 0700);
    close(fd);
    return openat(dir, name, OPEN_DIRECTORY);
}

/* What cannot be listed, or is too deep, is judged as a whole. */
static void enter(struct scan *scan, int dir, const char *name, char *path, size_t length, int depth)
{
    if (depth == MAX_DEPTH || length > MAX_DIRECTORY) {
        note(scan, dir, name, path, NULL);
        return;
    }
    int below = openat(dir, name, OPEN_DIRECTORY);
    if (below < 0 && errno == EACCES) {
        const struct protected *entry = note(scan, dir, name, path, NULL);
        if (!scan->before || was_there(scan, entry))
            return;
        below = make_readable(dir, name);
        if (below < 0)
            return;
        scan->found.count--; /* what is in it counts, not the directory */
        free(entry->path);
    }
    if (below >= 0)
        scan_directory(scan, below, path, length, depth + 1);
}

static bool is_kind(int dir, const struct dirent *entry, unsigned char type, mode_t mode)
{
    struct stat status;
    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type == type;
    return fstatat(dir, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 && (status.st_mode & S_IFMT) == mode;
}

static void look_at_directory(struct scan *scan, int dir, const char *name, char *path, size_t length, int depth)
{
    static const struct {
        bool (*is_it)(int dir, const char *name);
        const char *trigger;
    } KINDS[] = {{is_environment, "pyvenv.cfg"}, {is_box, "sandbox"}, {is_repository, "HEAD"}};
    for (unsigned i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        if (!KINDS[i].is_it(dir, name))
            continue;
        const struct protected *noted = note(scan, dir, name, path, KINDS[i].trigger);
        if (!scan->before || was_there(scan, noted))
            return; /* protected as a whole */
    }
    if (strcmp(name, "__pycache__") == 0 && scan->before && has_young_bytecode(scan, dir, name))
        add_protected(&scan->bytecode, path);
    enter(scan, dir, name, path, length, depth);
}

static void look_at(struct scan *scan, int dir, const struct dirent *entry, char *path, size_t length, size_t parent, int depth)
{
    const char *name = entry->d_name;
    bool is_directory = is_kind(dir, entry, DT_DIR, S_IFDIR);
    bool is_link = is_kind(dir, entry, DT_LNK, S_IFLNK);
    const struct plan *plan = &scan->start->plan;
    if (is_protected_name(plan, name) || (is_link && is_there(dir, name, "pyvenv.cfg", 0))) {
        if (own_line(plan, path))
            return;
        const struct protected *noted = note(scan, dir, name, path, NULL);
        struct protected copy = *noted; /* the list may move */
        path[parent] = 0;
        if (!scan->before || was_there(scan, noted)) /* else it may name what is the user's */
            note_what_it_names(scan, dir, name, path, &copy);
    } else if (is_directory && !is_closed(plan, path)) {
        look_at_directory(scan, dir, name, path, length, depth);
    } else if (scan->before && strcmp(name, "__pycache__") == 0) {
        add_protected(&scan->bytecode, path);
    }
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
        if (strcmp(path, scan->start->root) != 0)
            look_at(scan, dir, entry, path, length + (size_t)size, length, depth);
    }
    path[length] = 0;
    closedir(entries);
}

/* The project's own directory cannot be protected as a whole: what would make it an environment or a repository is, name by name. */
static void look_at_root(struct scan *scan, int dir, char *path, size_t length)
{
    static const char *const PARTS[] = {"pyvenv.cfg", "HEAD", "config", "hooks", "commondir"};
    bool repository = is_repository(dir, ".");
    for (unsigned i = 0; i < (repository ? 5 : 1); i++) {
        snprintf(path + length, 4096 - length, "/%s", PARTS[i]);
        if (faccessat(dir, PARTS[i], F_OK, AT_SYMLINK_NOFOLLOW) == 0)
            note(scan, dir, PARTS[i], path, NULL);
    }
    path[length] = 0;
}

void scan_project(struct scan *scan)
{
    char path[4096 + 300];
    const char *project = scan->project;
    int dir = open_no_symlinks(project, O_RDONLY | O_DIRECTORY);
    if (dir < 0 && errno == EACCES && scan->before) {
        int parent = open_no_symlinks(project, O_PATH | O_DIRECTORY);
        dir = parent < 0 ? -1 : make_readable(parent, ".");
        if (parent >= 0)
            close(parent);
    }
    if (dir < 0 || strlen(project) > MAX_DIRECTORY)
        fail_errno("a granted path has vanished or is now a symbolic link: see vsbox explain", "cannot open %s", project);
    strcpy(path, project);
    look_at_root(scan, dir, path, strlen(path));
    scan_directory(scan, dir, path, strlen(path), 0);
}
