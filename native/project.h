/* What project.c (runs), project_scan.c (finding) and project_grants.c (Landlock) share. */
#ifndef PROJECT_H
#define PROJECT_H

#include "vsbox.h"

#include <time.h>

struct protected_list {
    struct protected *entries;
    size_t count, room;
};

/* One look through a project. Before a run: what is there. After it, with before: what has come, made readable where need be. */
struct scan {
    const struct start *start;
    const char *project;
    const struct protected_list *before; /* NULL: this is the look before */
    struct timespec since;               /* after: bytecode that is younger is noted */
    struct protected_list found;
    struct protected_list bytecode; /* directories, by path */
};

void scan_project(struct scan *scan);
const struct protected *find_protected(const struct protected_list *list, const char *path);
bool is_same_protected(const struct protected *one, const struct protected *other);
struct protected *add_protected(struct protected_list *list, const char *path);
void free_protected(struct protected_list *list);

#endif
