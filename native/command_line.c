/* What a command line means, judged as Python and the installers would read it: which file it starts, whether it installs. */
#define _GNU_SOURCE
#include "vsbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first operand of a Python command line that is a file: https://docs.python.org/3/using/cmdline.html */
const char *script_operand(char **arguments)
{
    for (char **argument = arguments; *argument; argument++) {
        const char *text = *argument;
        if (text[0] != '-' || text[1] == 0)
            return text[0] == '-' ? NULL : text;
        if (strcmp(text, "--check-hash-based-pycs") == 0 && argument[1]) {
            argument++;
            continue;
        }
        if (text[1] == '-')
            continue;
        for (const char *flag = text + 1; *flag; flag++) {
            if (*flag == 'c' || *flag == 'm')
                return NULL;
            if (*flag == 'W' || *flag == 'X') {
                if (flag[1] == 0 && argument[1])
                    argument++;
                break;
            }
        }
    }
    return NULL;
}

/* pip is also pip3 and pip3.12. */
static bool is_command(const char *name, const char *command)
{
    size_t length = strlen(command);
    return strncmp(name, command, length) == 0 && strspn(name + length, "0123456789.") == strlen(name + length);
}

static char subcommand_kind(const struct record *installer, const char *word)
{
    for (uint32_t i = 1; i < installer->count; i++)
        if (strcmp(word, record_string(installer, i) + 1) == 0)
            return record_string(installer, i)[0];
    return 0;
}

/* Options before the subcommand may have values. So the first word that is known decides, or, where it may be such a value, the
 * second if there is one. */
static bool installs(const struct record *installer, const char *name, bool is_module, char **arguments)
{
    const char *command = record_string(installer, 0);
    if (is_module ? strcmp(name, command) != 0 : !is_command(name, command))
        return false;
    char decided = installer->count == 1 ? '+' : 0;
    for (bool after_option = false; *arguments; arguments++) {
        char kind = subcommand_kind(installer, *arguments);
        if (kind)
            decided = kind;
        if (kind && !after_option)
            break;
        after_option = kind ? false : **arguments == '-';
    }
    return decided == '+';
}

/* The module that -m of a Python command line names, and what follows it; NULL without. */
static const char *find_module(char **arguments, char ***rest)
{
    for (; *arguments && **arguments == '-'; arguments++) {
        const char *flags = *arguments + 1;
        if (strcmp(flags, "") == 0 || strcmp(flags, "-") == 0) /* what follows is the program's own */
            return NULL;
        if (*flags == '-')
            continue;
        for (; *flags; flags++) {
            if (*flags == 'c')
                return NULL;
            if (*flags == 'm') {
                bool attached = flags[1] != 0;
                *rest = arguments + (attached || !arguments[1] ? 1 : 2);
                return attached ? flags + 1 : arguments[1];
            }
            if (*flags == 'W' || *flags == 'X') {
                arguments += flags[1] == 0 && arguments[1];
                break;
            }
        }
    }
    return NULL;
}

bool runs_python(const struct start *start)
{
    const char *name = start->command ? start->command : start->arguments[0];
    const char *slash = name ? strrchr(name, '/') : NULL;
    return name && strncmp(slash ? slash + 1 : name, "python", 6) == 0;
}

/* uv outside asks a Python where its packages are, to write there and to build with the base Python, both unconfined. It would
 * fail in here anyhow, at not finding its script. */
void refuse_uv(const struct start *start)
{
    if (!runs_python(start))
        return;
    for (char **word = start->arguments; *word; word++)
        if (strstr(*word, "from python.get_interpreter_info import main"))
            fail(EXIT_OWN_FAILURE, "install uv into the box and run that one: pip install uv, or: vsbox exec DIR -- uv",
                 "cannot let uv work on %s from outside: it would build and install unconfined", start->root);
}

/* With exec any file can be named; the box's own commands count, and what a search of the path finds, where they come first. */
static bool is_named_by_path(const struct start *start)
{
    const char *name = start->command ? start->command : start->arguments[0];
    const char *slash = strrchr(name, '/');
    size_t root = strlen(start->root);
    return slash && !((size_t)(slash - name) == root + 4 && strncmp(name, start->root, root) == 0 &&
                      strncmp(name + root, "/bin", 4) == 0);
}

bool is_installation(const struct start *start)
{
    if (is_named_by_path(start))
        return false;
    const char *name = start->command ? start->command : start->arguments[0];
    char **arguments = start->arguments + 1;
    const char *slash = strrchr(name, '/');
    name = slash ? slash + 1 : name;
    bool is_module = runs_python(start);
    if (is_module && !(name = find_module(arguments, &arguments)))
        return false;
    for (uint32_t i = 0; i < start->plan.count; i++)
        if (start->plan.records[i].op == OP_INSTALLER && installs(&start->plan.records[i], name, is_module, arguments))
            return true;
    return false;
}

static size_t word_count(char **words)
{
    size_t count = 0;
    while (words[count])
        count++;
    return count;
}

static const char *find_alias(const struct plan *plan, const char *name)
{
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct record *r = &plan->records[i];
        if (r->op == OP_ALIAS && strcmp(record_string(r, 0), name) == 0)
            return record_string(r, 1);
    }
    return NULL;
}

/* python -m pip becomes python PIP, PIP being a directory that runs: -m would look in the working directory first. For other
 * installers the command of the box is started. */
static char **name_module_by_path(const struct start *start)
{
    char **rest, **word = start->arguments + 1;
    const char *module = runs_python(start) ? find_module(word, &rest) : NULL;
    char alias[40];
    if (!module || (size_t)snprintf(alias, sizeof alias, "-m %s", module) >= sizeof alias)
        return NULL;
    const char *place = find_alias(&start->plan, alias);
    if (!place)
        return NULL;
    const struct record *bin = plan_find(&start->plan, OP_BIN);
    if (bin && is_below(place, record_string(bin, 0))) {
        rest[-1] = (char *)place;
        return rest - 1;
    }
    bool attached = rest[-1] != module;
    char **flags = attached ? rest - 1 : rest - 2;
    size_t length = strcspn(*flags, "m");
    char *before = strndup(*flags, length);
    if (!before)
        fail(EXIT_OWN_FAILURE, NULL, "cannot build the arguments: no memory");
    size_t kept = 0;
    if (length > 1)
        flags[kept++] = before;
    flags[kept++] = (char *)place;
    memmove(flags + kept, rest, (word_count(rest) + 1) * sizeof *rest);
    return NULL;
}

char **build_argv(const struct start *start, const char **program)
{
    char **instead = name_module_by_path(start);
    if (instead) {
        *program = instead[0];
        return instead;
    }
    if (!start->command) {
        *program = start->arguments[0];
        return start->arguments;
    }
    const char *alias = find_alias(&start->plan, start->command);
    char *path = alias ? strdup(alias) : NULL;
    const struct record *bin = plan_find(&start->plan, OP_BIN);
    if (!path && (!bin || asprintf(&path, "%s/%s", record_string(bin, 0), start->command) < 0))
        fail(EXIT_OWN_FAILURE, NULL, "cannot find %s: the plan names no directory of commands", start->command);
    start->arguments[0] = path;
    *program = path;
    return start->arguments;
}
