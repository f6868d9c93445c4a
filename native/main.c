/* From a name to a confined command: find the box, read its plan, see that it still holds, start, return the status. */
#define _GNU_SOURCE
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* DIRECTORY/bin/NAME or DIRECTORY/sandbox/NAME, as the kernel tells it: argv[0] is the caller's word only. */
static char *own_path(void)
{
    static char path[8192];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0)
        fail_errno("is /proc mounted?", "cannot read /proc/self/exe");
    if (length == sizeof path - 1)
        fail(EXIT_OWN_FAILURE, NULL, "cannot find the box: its path is too long");
    path[length] = 0;
    /* Replaced by an upgrade since it was started: the kernel says so, and the place is still the same. */
    static const char MARK[] = " (deleted)";
    if ((size_t)length > sizeof MARK && strcmp(path + length - (sizeof MARK - 1), MARK) == 0)
        path[(size_t)length - (sizeof MARK - 1)] = 0;
    return path;
}

static char *cut_component(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        fail(EXIT_OWN_FAILURE, "start it from a box: vsbox --help", "cannot find the box: %s is not in one", path);
    *slash = 0;
    return slash + 1;
}

static uint64_t mtime_ns(const struct stat *status)
{
    return (uint64_t)status->st_mtim.tv_sec * 1000000000u + (uint64_t)status->st_mtim.tv_nsec;
}

static void check_place(const struct start *start)
{
    const struct record *root = plan_find(&start->plan, OP_ROOT);
    if (!root || strcmp(record_string(root, 0), start->root) != 0)
        fail(EXIT_OWN_FAILURE, "move it back, or make a new one here: its scripts name the old place",
             "cannot use %s: this box was made at %s", start->root, root ? record_string(root, 0) : "another place");
}

static void locate_plan(const struct start *start, char path[static 8400], const char *suffix)
{
    snprintf(path, 8400, "%s/sandbox/plan%s%s%s", start->root, *start->variant ? "." : "", start->variant, suffix);
}

static void load_plan(struct start *start, const char *suffix)
{
    char path[8400], hint[8600];
    struct stat status;
    locate_plan(start, path, suffix);
    snprintf(hint, sizeof hint, "make it anew: vsbox sync %s", start->root);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) < 0)
        fail_errno(hint, "cannot read the plan of %s", start->root);
    if (status.st_uid != geteuid())
        fail(EXIT_OWN_FAILURE, "a box is for the user who made it: make your own with vsbox DIR",
             "cannot use %s: it belongs to uid %u and you are uid %u", start->root, status.st_uid, geteuid());
    if (!S_ISREG(status.st_mode) || (status.st_mode & 022))
        fail(EXIT_OWN_FAILURE, hint, "cannot trust the plan of %s: others may write to it", start->root);
    if (status.st_size <= 0 || status.st_size > PLAN_MAX_SIZE)
        fail(EXIT_OWN_FAILURE, hint, "cannot use the plan of %s: its size is wrong", start->root);
    unsigned char *bytes = malloc((size_t)status.st_size);
    if (!bytes || read(fd, bytes, (size_t)status.st_size) != status.st_size)
        fail_errno(hint, "cannot read the plan of %s", start->root);
    close(fd);
    const char *problem = plan_decode(&start->plan, bytes, (size_t)status.st_size);
    if (problem)
        fail(EXIT_OWN_FAILURE, hint, "cannot use the plan of %s: %s", start->root, problem);
    check_place(start);
}

static bool has_changed(const struct record *watch)
{
    struct stat status;
    uint64_t inode = record_int(watch, 2);
    if (stat(record_string(watch, 0), &status) < 0)
        return inode != 0;
    return inode != status.st_ino || record_int(watch, 1) != status.st_dev ||
           record_int(watch, 3) != (uint64_t)status.st_size || record_int(watch, 4) != mtime_ns(&status);
}

static bool is_stale(const struct plan *plan)
{
    struct utsname name;
    if (uname(&name) < 0)
        return true;
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct record *r = &plan->records[i];
        if ((r->op == OP_WATCH && has_changed(r)) || (r->op == OP_OWNER && record_int(r, 0) != geteuid()) ||
            (r->op == OP_KERNEL && strcmp(record_string(r, 0), name.release) != 0))
            return true;
    }
    return false;
}

enum { MOST_WORDS = 64 };

/* Everything that needs judgement is Python's: COMPILER... ACTION ROOT [WORD]...; input: its standard input, or -1 for none. */
pid_t start_python(const struct start *start, const char *action, int input, char *const words[])
{
    const struct record *compiler = plan_find(&start->plan, OP_COMPILER);
    char *argv[MAX_FIELDS + MOST_WORDS + 3] = {0};
    if (!compiler)
        fail(EXIT_OWN_FAILURE, NULL, "cannot go on: the plan names no compiler");
    uint32_t used = compiler->count;
    for (uint32_t i = 0; i < used; i++)
        argv[i] = (char *)record_string(compiler, i);
    argv[used++] = (char *)action;
    argv[used++] = start->root;
    for (int i = 0; words[i] && i < MOST_WORDS; i++)
        argv[used++] = words[i];
    pid_t pid = fork();
    if (pid < 0)
        fail_errno(NULL, "cannot fork");
    if (pid == 0) {
        /* Standard input is the payload's, standard output too: Python may speak on standard error only. */
        dup2(input < 0 ? open("/dev/null", O_RDONLY | O_CLOEXEC) : input, 0);
        dup2(2, 1);
        execv(argv[0], argv);
        fail_errno("was it uninstalled? make the box anew with the vsbox you have: vsbox sync", "cannot execute %s", argv[0]);
    }
    return pid;
}

int wait_for_python(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            fail_errno(NULL, "cannot wait for Python");
    return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_OWN_FAILURE;
}

int call_python(const struct start *start, const char *action)
{
    char *const words[] = {*start->variant ? (char *)start->variant : NULL, NULL};
    return wait_for_python(start_python(start, action, -1, words));
}

/* A newer vsbox brought a newer launcher, which then reads the plan that it knows. */
static void restart_if_replaced(const struct start *start)
{
    char path[8400];
    struct stat now, before;
    snprintf(path, sizeof path, "%s/%s/%s", start->root, start->command ? "bin" : "sandbox",
             start->command ? start->command : start->verify ? "verify" : start->tidy ? "tidy" : "exec");
    if (stat(path, &now) < 0 || stat("/proc/self/exe", &before) < 0)
        fail_errno(NULL, "cannot look at %s", path);
    if (now.st_ino != before.st_ino || now.st_dev != before.st_dev) {
        execv(path, start->arguments_outside);
        fail_errno(NULL, "cannot execute %s", path);
    }
}

static void refresh_plan(struct start *start)
{
    for (int tries = 0; !start->verify && is_stale(&start->plan); tries++) {
        if (tries == 3)
            fail(EXIT_OWN_FAILURE, "something changes all the time: see vsbox explain",
                 "cannot make a plan for %s that holds", start->root);
        int status = call_python(start, "compile");
        if (status != 0)
            exit(status);
        restart_if_replaced(start);
        plan_free(&start->plan);
        load_plan(start, "");
    }
}

/* What the environment may ask of one start; src/vsbox/policy/overrides.py gives them their meaning. */
static const char *const OVERRIDES[] = {"BWRAP_ARGS", "SANDBOX_SECCOMP_ALLOW", "SANDBOX_USE_PIP_CACHE", "VSBOX_REPORT"};

static void take_variant(struct start *start)
{
    char *text = NULL, path[8400];
    size_t size = 0;
    FILE *asked = open_memstream(&text, &size);
    for (size_t i = 0; asked && i < sizeof OVERRIDES / sizeof *OVERRIDES; i++)
        if (getenv(OVERRIDES[i]))
            fprintf(asked, "%s=%s%c", OVERRIDES[i], getenv(OVERRIDES[i]), 0);
    if (!asked || fclose(asked) != 0)
        fail_errno(NULL, "cannot read the environment");
    if (size > 0) {
        snprintf(start->variant, sizeof start->variant, "x%016llx", (unsigned long long)fnv1a64(text, size));
        locate_plan(start, path, "");
        int status = access(path, F_OK) < 0 ? call_python(start, "compile") : 0;
        if (status != 0)
            exit(status);
        plan_free(&start->plan);
        load_plan(start, "");
        refresh_plan(start);
    }
    free(text);
}

/* A directory handed over as a standard stream is the whole host to openat(2); a closed one would be the next file. */
void check_streams(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        struct stat status;
        if (fstat(fd, &status) < 0) {
            if (open("/dev/null", fd == 0 ? O_RDONLY : O_RDWR) != fd)
                fail_errno(NULL, "cannot open /dev/null");
        } else if (S_ISDIR(status.st_mode)) {
            fail(EXIT_OWN_FAILURE, "redirect it from a file or /dev/null",
                 "cannot start: standard stream %d is a directory, which would open the whole disk", fd);
        }
    }
}

/* Inside (Landlock-only tier, where a script's #! line leads here) only our own filter answers so. */
static bool is_inside(const char *root)
{
    uint64_t box_id = fnv1a64(root, strlen(root));
    return prctl(PROBE_OPTION, box_id, 0, 0, 0) < 0 && errno == PROBE_ERRNO;
}

static _Noreturn void pass_through(const struct start *start)
{
    char *path;
    const char *name = start->command;
    if (!name || strcmp(name, "shell") == 0)
        path = name ? strdup("/bin/sh") : strdup(start->arguments[0]);
    else if (asprintf(&path, "%s/inside/bin/%s", start->root, strcmp(name, "python-sandboxed") == 0 ? "python" : name) < 0)
        path = NULL;
    if (!path)
        fail(EXIT_OWN_FAILURE, NULL, "cannot go on: no memory");
    start->arguments[0] = path;
    execvp(path, start->arguments);
    int cause = errno;
    fail(cause == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE, NULL, "cannot execute %s: %s", path, strerror(cause));
}

static void say_unconfined(const struct start *start)
{
    const struct record *notice = plan_find(&start->plan, OP_UNCONFINED);
    if (notice && !start->verify && isatty(2))
        fprintf(stderr, "vsbox: %s\n", record_string(notice, 0));
}

static bool have_commands_changed(const struct start *start)
{
    const struct record *commands = plan_find(&start->plan, OP_COMMANDS);
    char path[8400];
    struct stat status;
    snprintf(path, sizeof path, "%s/inside/bin", start->root);
    return commands && lstat(path, &status) == 0 && mtime_ns(&status) != record_int(commands, 0);
}

static _Noreturn void end_like(int status, int signal_number)
{
    if (signal_number > 0) { /* so that the caller sees what it would have seen without us; no core of ours, though */
        struct rlimit none = {0, 0};
        struct sigaction standard = {.sa_handler = SIG_DFL};
        setrlimit(RLIMIT_CORE, &none);
        sigaction(signal_number, &standard, NULL);
        sys_sigprocmask(SIG_UNBLOCK, 1ull << (signal_number - 1), NULL);
        raise(signal_number);
    }
    _exit(status);
}

static void find_box(struct start *start, char **argv)
{
    char *path = own_path();
    char *name = cut_component(path);
    char *place = cut_component(path);
    start->root = path;
    start->command = name;
    start->arguments = start->arguments_outside = argv;
    if (strcmp(place, "sandbox") == 0) {
        start->verify = strcmp(name, "verify") == 0;
        start->tidy = strcmp(name, "tidy") == 0;
        start->command = NULL;
        start->arguments = argv + 1;
        if (!start->verify && !start->tidy && !argv[1])
            fail(EXIT_USAGE, "usage: exec COMMAND [ARGUMENT ...]", "no command given");
    } else if (strcmp(place, "bin") != 0) {
        fail(EXIT_OWN_FAILURE, "start it from a box: vsbox --help", "cannot find the box of %s/%s/%s", path, place, name);
    }
}

int main(int argc, char **argv)
{
    struct start start = {0};
    char *name = strrchr(own_path(), '/');
    if (name && strcmp(name, "/vsbox-launcher") == 0)
        argc > 1 && strcmp(argv[1], "run") == 0 ? run_cell(argc, argv) : exit(probe_main(argc, argv));
    if (is_inner_stage(own_path()))
        run_inner_stage();
    if (argc < 1)
        fail(EXIT_USAGE, NULL, "no argument vector given");
    if (sys_close_range(3, ~0u, 0) < 0)
        fail_errno("Linux 5.9 or newer is needed", "cannot close inherited descriptors");
    find_box(&start, argv);
    if (is_inside(start.root))
        pass_through(&start);
    check_streams();
    load_plan(&start, start.verify ? ".new" : "");
    restart_if_replaced(&start); /* the plan may be for the newer one */
    if (start.tidy) {
        settle_runs(&start);
        return 0;
    }
    refresh_plan(&start);
    if (!start.verify)
        take_variant(&start);
    if (!start.verify && is_installation(&start)) {
        plan_free(&start.plan);
        load_plan(&start, ".install");
    }
    check_same(&start);
    refuse_uv(&start);
    choose_working_directory(&start);
    choose_script(&start);
    build_environment(&start, environ);
    if (!start.verify && getenv("VERBOSE") && strcmp(getenv("VERBOSE"), "1") == 0)
        describe_start(&start);
    say_unconfined(&start);
    project_begin(&start);
    int signal_number = 0;
    int status = run_outside(&start, &signal_number);
    project_end(&start);
    if (!start.verify && have_commands_changed(&start))
        call_python(&start, "sync");
    end_like(status, signal_number);
}
