/* A project without namespaces: Landlock rules for what is not protected in it. */
#define _GNU_SOURCE
#include "project.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

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
