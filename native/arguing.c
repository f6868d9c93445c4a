/* The steps of a new root as arguments of bwrap(1), which carries its operations out in the order of its arguments.
 *
 * Security: bwrap follows links in sources and in targets. So each source is opened here with RESOLVE_NO_SYMLINKS, each target
 * that lies in something of the host is looked at the same way (bwrap would make what is missing: a placeholder in the user's own
 * tree), and what was seen is noted. The inner stage compares: a link that appears in between is found out before anything runs. */
#define _GNU_SOURCE
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_WORDS = 9000 }; /* bubblewrap.c, MAX_ARGS */

static struct argued argued;
static size_t words;
static size_t arguments_room, mounts_room;
static char **made;
static size_t made_count, made_room;
static const char *box;
static bool has_devices;

static void *grow(void *block, size_t *room, size_t needed, size_t unit)
{
    if (needed <= *room)
        return block;
    *room = needed * 2;
    block = realloc(block, *room * unit);
    if (!block)
        fail(EXIT_OWN_FAILURE, NULL, "cannot prepare the arguments of bwrap: no memory");
    return block;
}

static void add_bytes(const void *data, size_t size)
{
    argued.arguments = grow(argued.arguments, &arguments_room, argued.arguments_size + size, 1);
    memcpy(argued.arguments + argued.arguments_size, data, size);
    argued.arguments_size += size;
}

static void add(const char *word)
{
    words++;
    add_bytes(word, strlen(word) + 1);
}

static void add_number(const char *format, uint64_t number)
{
    char text[32];
    snprintf(text, sizeof text, format, (unsigned long long)number);
    add(text);
}

static void add_path(const char *option, const char *path)
{
    add(option);
    add(path);
}

static void add_bind(const char *option, const char *source, const char *target)
{
    add_path(option, source);
    add(target);
}

static void add_tmpfs(const char *target, uint64_t size, uint64_t mode)
{
    add("--perms");
    add_number("%04llo", mode);
    add("--size");
    add_number("%llu", size);
    add_path("--tmpfs", target);
}

/* Covers what was mounted at its target and below. */
static void note(struct mounted mounted)
{
    size_t kept = 0;
    for (size_t i = 0; i < argued.mount_count; i++)
        if (!is_below(argued.mounts[i].target, mounted.target))
            argued.mounts[kept++] = argued.mounts[i];
    argued.mounts = grow(argued.mounts, &mounts_room, kept + 1, sizeof *argued.mounts);
    argued.mounts[kept] = mounted;
    argued.mount_count = kept + 1;
}

/* What is at a path inside so far, as a path of the host; NULL where it would be in a file system of our own. */
static char *find_on_host(const char *path)
{
    const struct mounted *holder = NULL;
    for (size_t i = 0; i < argued.mount_count; i++)
        if (is_below(path, argued.mounts[i].target) &&
            (!holder || strlen(argued.mounts[i].target) >= strlen(holder->target)))
            holder = &argued.mounts[i];
    char *host = NULL;
    if (!holder || !holder->source)
        return NULL;
    if (asprintf(&host, "%s%s", holder->source, path + strlen(holder->target)) < 0)
        fail(EXIT_OWN_FAILURE, NULL, "cannot prepare the arguments of bwrap: no memory");
    return host;
}

static bool is_made(const char *path, size_t length)
{
    for (size_t i = 0; i < made_count; i++)
        if (strncmp(made[i], path, length) == 0 && made[i][length] == 0)
            return true;
    return false;
}

/* The directories on the way that are nobody's yet: bwrap would make them for their owner only. */
static void make_way_to(const char *target)
{
    for (size_t length = 1; target[length]; length++) {
        if (target[length] != '/' || is_made(target, length))
            continue;
        char *way = strndup(target, length);
        made = grow(made, &made_room, made_count + 1, sizeof *made);
        if (!way)
            fail(EXIT_OWN_FAILURE, NULL, "cannot prepare the arguments of bwrap: no memory");
        made[made_count++] = way;
        char *host = find_on_host(way);
        if (!host && strcmp(way, "/dev") != 0)
            add_path("--dir", way);
        free(host);
    }
}

static bool is_directory(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
}

static void check_target(const char *source, const char *target, bool directory)
{
    char *host = find_on_host(target);
    if (host && strcmp(host, source) != 0) {
        int fd = open_no_symlinks(host, O_PATH);
        if (fd >= 0 && is_directory(fd) != directory) {
            close(fd);
            fd = -1;
            errno = directory ? ENOTDIR : EISDIR;
        }
        if (fd < 0)
            fail_errno("code inside put a link or nothing where a mount belongs; try vsbox sync", "cannot mount on %s", target);
        close(fd);
    }
    free(host);
}

/* What --dev makes: all that plans ask for in /dev, but no more than the user's own devices. */
static bool is_made_with_devices(const char *path)
{
    static const char *const MADE[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty",
                                       "/dev/pts", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/ptmx"};
    for (size_t i = 0; i < sizeof MADE / sizeof *MADE; i++)
        if (strcmp(path, MADE[i]) == 0)
            return true;
    return false;
}

static void make_devices(const char *path)
{
    if (!has_devices && is_below(path, "/dev"))
        add_path("--dev", "/dev");
    has_devices |= is_below(path, "/dev");
}

static void argue_tmpfs(const char *target, uint64_t size, uint64_t mode)
{
    if (strcmp(target, "/") == 0) /* bwrap starts with one */
        return;
    make_devices(target);
    check_target("", target, true);
    make_way_to(target);
    add_tmpfs(target, size, mode);
    note((struct mounted){.target = target});
}

static void argue_directory(const char *path)
{
    check_target("", path, true);
    make_way_to(path);
    add_path("--dir", path);
}

static void argue_symlink(const char *path, const char *text)
{
    make_devices(path);
    if (is_made_with_devices(path))
        return;
    char *host = find_on_host(path);
    if (host)
        fail(EXIT_OWN_FAILURE, NULL, "cannot make link %s inside: it is not in a private directory", path);
    make_way_to(path);
    add_bind("--symlink", text, path);
}

enum { MAX_COPIED = 256 << 10 };

/* Small files of the system: bwrap takes ten times as long to mount one as to copy it. */
static bool copy_file(const char *source, const char *target)
{
    struct stat status;
    if (argued.file_count == sizeof argued.files / sizeof *argued.files)
        return false;
    int fd = open_no_symlinks(source, O_RDONLY | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || status.st_size > MAX_COPIED) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    make_way_to(target);
    add_path("--perms", "0444");
    add("--file");
    add_number("%llu", (uint64_t)(FD_FILES + argued.file_count));
    add(target);
    argued.files[argued.file_count++] = fd;
    return true;
}

static void argue_bind(const char *source, const char *target, uint64_t flags)
{
    if ((flags & BIND_PLAIN) && copy_file(source, target))
        return;
    struct mounted mounted = {.target = strdup(target), .source = strdup(source), .read_only = !(flags & (BIND_WRITABLE | BIND_DEVICE))};
    bool is_root;
    int from = open_no_symlinks(source, O_PATH);
    if (from < 0 && (flags & BIND_OPTIONAL) && (errno == ENOENT || errno == EACCES))
        return;
    if (from < 0)
        fail_errno("a granted path has vanished or is now a symbolic link: see vsbox explain", "cannot open %s", source);
    if (!mounted.target || !mounted.source || !identify(from, &mounted.identity, &is_root))
        fail_errno(NULL, "cannot look at %s", source);
    bool directory = is_directory(from);
    close(from);
    make_devices(target);
    if (is_made_with_devices(target))
        return;
    check_target(source, target, directory);
    make_way_to(target);
    /* a device is not made read-only: bwrap makes it unusable with that (MS_NODEV); Landlock decides */
    add_bind(flags & BIND_DEVICE ? "--dev-bind" : flags & BIND_WRITABLE ? "--bind" : "--ro-bind", source, target);
    note(mounted);
}

/* Of bwrap 0.11; src/vsbox/plan/bubblewrap.py sees that it is there. */
static void argue_overlay(const char *source, const char *target)
{
    int from = open_no_symlinks(source, O_PATH | O_DIRECTORY);
    if (from < 0)
        fail_errno("a granted path has vanished or is now a symbolic link: see vsbox explain", "cannot open %s", source);
    close(from);
    check_target("", target, true);
    make_way_to(target);
    add_path("--overlay-src", source);
    add_path("--tmp-overlay", target);
    note((struct mounted){.target = target});
}

static void argue_changes(const char *source, const char *target, uint64_t size)
{
    (void)source, (void)size;
    fail(EXIT_OWN_FAILURE, "use the backend native", "cannot keep changes of %s apart: bubblewrap does not hand them over", target);
}

static void argue_mask(const char *path, uint64_t flags)
{
    char *host = find_on_host(path);
    int fd = host ? open_no_symlinks(host, O_PATH) : -1;
    errno = host ? errno : ENOENT;
    free(host);
    if (fd < 0 && errno == ENOENT && (flags & BIND_OPTIONAL))
        return;
    bool is_root;
    struct mounted mounted = {.target = strdup(path), .hidden = true, .read_only = true};
    if (fd < 0 || !mounted.target || !identify(fd, &mounted.identity, &is_root))
        fail_errno(NULL, "cannot hide %s", path);
    if (is_directory(fd)) {
        add_tmpfs(path, 4096, 0555);
        add_path("--remount-ro", path);
    } else {
        add_bind("--ro-bind", "/dev/null", path); /* nodev: it cannot be opened, not even to read nothing */
    }
    close(fd);
    note(mounted);
}

static void argue_proc(const char *target)
{
    add_path("--proc", target);
    add_path("--remount-ro", target); /* as a whole: bwrap leaves /proc/sys writable to root */
    note((struct mounted){.target = target, .source = "/proc", .hidden = true, .read_only = true});
}

static void argue_hostname(const char *name)
{
    add_path("--hostname", name);
}

/* The inner stage comes last but one: whatever was mounted before, this is what bwrap starts. */
static void argue_pivot(void)
{
    char program[8400];
    snprintf(program, sizeof program, "%s" INNER_STAGE_OUTSIDE, box);
    argue_bind(program, INNER_STAGE, 0);
    if (has_devices)
        add_path("--remount-ro", "/dev");
    add_path("--remount-ro", "/");
}

static void need_nothing(void)
{
    /* of bwrap: binds are read-only one by one, loopback comes up with --unshare-net, --disable-userns is said at the start */
}

static const struct root_builder ARGUING = {
    .tmpfs = argue_tmpfs, .directory = argue_directory, .symlink = argue_symlink, .bind = argue_bind,
    .overlay = argue_overlay, .changes = argue_changes, .mask = argue_mask, .proc = argue_proc, .devpts = make_devices, .hostname = argue_hostname, .read_only = need_nothing,
    .loopback = need_nothing, .seal_userns = need_nothing, .pivot = argue_pivot,
};

static void add_all(const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        add(list[i]);
}

static void argue_namespaces(uint64_t flags)
{
    static const char *const ALWAYS[] = {"--unshare-user", "--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts",
                                         "--die-with-parent"};
    add_all(ALWAYS, sizeof ALWAYS / sizeof *ALWAYS);
    add("--uid");
    add_number("%llu", geteuid());
    add("--gid");
    add_number("%llu", getegid());
    if (flags & CLONE_NEWNET)
        add("--unshare-net");
    if (flags & CLONE_NEWCGROUP)
        add("--unshare-cgroup-try");
}

/* The inner stage drops the capabilities when it has mounted, as init of the backend native does. */
struct argued argue_namespaces_only(const struct start *start)
{
    static const char *const POWER[] = {"--cap-add", "ALL", "--dev-bind", "/", "/"};
    argue_namespaces(record_int(plan_find(&start->plan, OP_NAMESPACES), 0));
    add_all(POWER, sizeof POWER / sizeof *POWER);
    return argued;
}

struct argued argue(const struct start *start)
{
    static const char *const NO_POWER[] = {"--disable-userns", "--cap-drop", "ALL"};
    box = start->root;
    add_all(NO_POWER, sizeof NO_POWER / sizeof *NO_POWER);
    for (uint32_t i = 0; i < start->plan.count && start->plan.records[i].op != OP_PAYLOAD; i++) {
        const struct record *r = &start->plan.records[i];
        if (r->op == OP_NAMESPACES)
            argue_namespaces(record_int(r, 0));
        else if (r->op == OP_BUBBLEWRAP_ARGUMENTS)
            for (uint32_t word = 0; word < r->count; word++)
                add(record_string(r, word));
        else
            do_root_step(&ARGUING, start, r);
    }
    if (words > MAX_WORDS)
        fail(EXIT_OWN_FAILURE, "grant the directories above, or use the backend native",
             "cannot use bubblewrap: it takes %d arguments, and this start has %zu", MAX_WORDS, words);
    return argued;
}
