/* What a start needs to know beyond the plan: where it was called, with what, and in which environment. */
#define _GNU_SOURCE
#include "vsbox.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

bool is_below(const char *path, const char *parent)
{
    size_t length = strlen(parent);
    while (length > 0 && parent[length - 1] == '/')
        length--;
    return strncmp(path, parent, length) == 0 && (path[length] == 0 || path[length] == '/');
}

static bool has_hidden_component(const char *below)
{
    return below[0] == '/' && below[1] == '.';
}

static const char *skip_component(const char *path)
{
    while (*path == '/')
        path++;
    return path + strcspn(path, "/");
}

static bool is_private_for(const char *path, const char *place, enum privacy privacy)
{
    if (privacy == PRIVATE_OWN || privacy == PRIVATE_BELOW)
        return is_below(path, place);
    if (is_below(place, path))
        return true;
    if (!is_below(path, place))
        return false;
    const char *rest = path + strlen(place);
    switch (privacy) {
    case PRIVATE_TREE:
        return true;
    case PRIVATE_HOME:
        return has_hidden_component(rest);
    case PRIVATE_HOMES:
        rest = skip_component(rest);
        return *rest == 0 || has_hidden_component(rest);
    default:
        return false;
    }
}

bool is_private(const struct plan *plan, const char *path)
{
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct record *r = &plan->records[i];
        if (r->op == OP_PRIVATE && is_private_for(path, record_string(r, 0), (enum privacy)record_int(r, 1)))
            return true;
    }
    return false;
}

/* True where the plan already says what may be done at path, so that nothing dynamic may change it. */
static bool is_granted(const struct plan *plan, const char *path)
{
    bool namespaces = plan_find(plan, OP_NAMESPACES) != NULL;
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct record *r = &plan->records[i];
        if ((namespaces && r->op == OP_BIND && !(record_int(r, 2) & BIND_VIEW) && is_below(path, record_string(r, 1))) ||
            (!namespaces && r->op == OP_RULE && is_below(path, record_string(r, 0))) ||
            (r->op == OP_PROJECT && is_below(path, record_string(r, 0))))
            return true;
    }
    return false;
}

/* A home is also what the caller's $HOME says, in containers and under sudo. */
static bool is_in_named_home(const char *path)
{
    const char *home = getenv("HOME");
    char *real = home && home[0] == '/' ? realpath(home, NULL) : NULL;
    bool private = real && strcmp(real, "/") != 0 && is_private_for(path, real, PRIVATE_HOME);
    free(real);
    return private;
}

/* What a writable working directory must not hold: what runs outside, and without namespaces whatever is granted less. */
static bool must_not_be_writable(const struct plan *plan, const struct record *r)
{
    bool namespaces = plan_find(plan, OP_NAMESPACES) != NULL;
    switch (r->op) {
    case OP_PRIVATE:
        return record_int(r, 1) == PRIVATE_OWN;
    case OP_ROOT:
        return !namespaces;
    case OP_RULE:
        return !namespaces && !(record_int(r, 1) & LANDLOCK_WRITE_FILE);
    default:
        return false;
    }
}

static void check_writable_working_directory(const struct start *start)
{
    for (uint32_t i = 0; i < start->plan.count; i++) {
        const struct record *r = &start->plan.records[i];
        if (must_not_be_writable(&start->plan, r) && is_below(record_string(r, 0), start->cwd))
            fail(EXIT_OWN_FAILURE, "start somewhere else, or set working_directory to read in sandbox.json",
                 "cannot make the working directory %s writable: it holds %s", start->cwd, record_string(r, 0));
    }
}

/* The directory a person stands in is theirs to show, unless it is a home, a shared or a system directory. */
void choose_working_directory(struct start *start)
{
    const struct record *rule = plan_find(&start->plan, OP_WORKDIR);
    start->cwd = getcwd(NULL, 0);
    if (!start->cwd || start->cwd[0] != '/' || !rule || record_int(rule, 0) == WORKDIR_NONE)
        return;
    start->show_cwd = !is_granted(&start->plan, start->cwd) && !is_private(&start->plan, start->cwd) &&
                      !is_in_named_home(start->cwd);
    start->write_cwd = start->show_cwd && record_int(rule, 0) == WORKDIR_WRITE;
    if (start->write_cwd)
        check_writable_working_directory(start);
}

/* A script that is named on the command line may be read wherever it is, and its directory as the working directory might:
 * naming it is the user's own act. Links are not followed, since code inside may have made them. */
void choose_script(struct start *start)
{
    if (!plan_find(&start->plan, OP_SCRIPT) || !runs_python(start))
        return;
    const char *operand = script_operand(start->arguments + 1);
    if (!operand || (operand[0] != '/' && !start->cwd))
        return;
    int fd = open_no_symlinks(operand, O_PATH);
    struct stat status;
    bool usable = fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    char link[64], path[4096];
    if (usable) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        usable = length > 0 && path[0] == '/';
        if (usable)
            path[length] = 0;
    }
    if (fd >= 0)
        close(fd);
    if (!usable || is_granted(&start->plan, path) || (start->show_cwd && is_below(path, start->cwd)))
        return;
    char *slash = strrchr(path, '/'); /* its neighbours too, which it imports, unless it stands in a private place */
    *slash = 0;
    if (slash == path || is_private(&start->plan, path) || is_in_named_home(path))
        *slash = '/';
    start->script = strdup(path);
}

static void print_plain(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        fprintf(stderr, (unsigned char)text[i] < ' ' || text[i] == 127 ? "\\x%02x" : "%c", (unsigned char)text[i]);
}

static bool sounds_secret(const char *name, size_t length)
{
    static const char *const SOUNDS[] = {"passw", "token", "secret", "key", "credential", "auth"};
    for (size_t at = 0; at < length; at++)
        for (size_t i = 0; i < sizeof SOUNDS / sizeof *SOUNDS; i++)
            if (strlen(SOUNDS[i]) <= length - at && strncasecmp(name + at, SOUNDS[i], strlen(SOUNDS[i])) == 0)
                return true;
    return false;
}

/* What stands between :// and the last @ is nobody's business, nor what is assigned to a name that sounds like it. */
static void print_part(const char *text, size_t length)
{
    const char *end = text + length, *value = memchr(text, '=', length), *scheme = memmem(text, length, "://", 3);
    const char *at = scheme ? memrchr(scheme, '@', (size_t)(end - scheme)) : NULL;
    if (value && sounds_secret(text, (size_t)(value - text))) {
        print_plain(text, (size_t)(value + 1 - text));
        fputs("***", stderr);
    } else if (at) {
        print_plain(text, (size_t)(scheme + 3 - text));
        fputs("***", stderr);
        print_plain(at, (size_t)(end - at));
    } else {
        print_plain(text, length);
    }
}

static void print_masked(const char *word)
{
    fputc(' ', stderr);
    while (*word) {
        size_t length = strcspn(word, " \t\n");
        print_part(word, length);
        word += length;
        if (*word)
            print_plain(word++, 1);
    }
}

/* Names of variables only: values may be secrets. */
void describe_start(const struct start *start)
{
    fputs("vsbox: run", stderr);
    if (start->command)
        print_masked(start->command);
    for (char **word = start->arguments + (start->command != NULL); *word; word++)
        print_masked(*word);
    fprintf(stderr, "\nvsbox: in %s, with %s%s%s, variables", start->root, is_installation(start) ? "its plan for installing" : "its plan",
            *start->variant ? " " : "", start->variant);
    for (char **entry = start->environment; *entry; entry++)
        fprintf(stderr, " %.*s", (int)strcspn(*entry, "="), *entry);
    fprintf(stderr, "\nvsbox: vsbox explain --plan %s prints it\n", start->root);
}

static bool is_named(const struct record *record, const char *entry, size_t length)
{
    struct field name = record_field(record, 0);
    size_t size = name.size - 1;
    bool is_prefix = size > 0 && name.data[size - 1] == '*';
    if (size > 1 && name.data[0] != (unsigned char)entry[0])
        return false;
    return is_prefix ? strncmp(entry, (const char *)name.data, size - 1) == 0
                     : size == length && memcmp(entry, name.data, length) == 0;
}

static bool is_passed(const struct plan *plan, const char *entry)
{
    size_t length = strcspn(entry, "=");
    bool passed = false;
    for (uint32_t i = 0; i < plan->count && entry[length] && length > 0; i++) {
        const struct record *r = &plan->records[i];
        bool takes = r->op == OP_UNSET || r->op == OP_SET;
        if (!(takes || (r->op == OP_PASS && !passed)) || !is_named(r, entry, length))
            continue;
        if (takes)
            return false;
        passed = true;
    }
    return passed;
}

/* Without kernel limits the guard decides, and only here is known what this start shows. */
static char *name_shown(const struct start *start)
{
    const char *shown[] = {start->show_cwd ? start->cwd : NULL, start->script};
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out)
        fputs("VSBOX_SHOWN=", out);
    for (int i = 0; out && i < 2; i++)
        if (shown[i] && !strchr(shown[i], '\n'))
            fprintf(out, "%s %s\n", i == 0 && start->write_cwd ? "write" : "read", shown[i]);
    if (!out || fclose(out) != 0)
        fail(EXIT_OWN_FAILURE, NULL, "cannot build the environment: no memory");
    return text;
}

void build_environment(struct start *start, char **outside)
{
    const struct plan *plan = &start->plan;
    size_t count = 0;
    while (outside[count])
        count++;
    char **environment = calloc(count + plan->count + 2, sizeof *environment);
    if (!environment)
        fail(EXIT_OWN_FAILURE, NULL, "cannot build the environment: no memory");
    size_t used = 0;
    for (char **entry = outside; *entry; entry++)
        if (is_passed(plan, *entry))
            environment[used++] = *entry;
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan->records[i].op == OP_SET &&
            asprintf(&environment[used++], "%s=%s", record_string(&plan->records[i], 0),
                     record_string(&plan->records[i], 1)) < 0)
            fail(EXIT_OWN_FAILURE, NULL, "cannot build the environment: no memory");
    if (plan_find(plan, OP_UNCONFINED))
        environment[used++] = name_shown(start);
    start->environment = environment;
}
