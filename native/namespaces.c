/* The new root, built by init (pid 1 of the new namespaces) before the payload exists.
 *
 * Security: sources are opened below the old root, targets below the new one, both with openat2(RESOLVE_NO_SYMLINKS), so
 * a link that code inside left behind is an error and never a way out. Directories and files to mount on are created in
 * our own tmpfs only: a missing target elsewhere is an error, not a placeholder in the user's tree. */
#define _GNU_SOURCE
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FSCONFIG_FLAG = 0, FSCONFIG_STRING = 1, FSCONFIG_CREATE = 6 };
enum { TREE_CLONE = 1, MOVE_F_EMPTY_PATH = 4 };
static const unsigned RECURSIVE = 0x8000; /* AT_RECURSIVE */
static const char DOCTOR[] = "see what this machine offers: vsbox doctor";

static int new_root = -1;
static dev_t own_devices[256]; /* the tmpfs that we mounted */
static unsigned own_device_count;

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        fail_errno(DOCTOR, "cannot write %s", path);
    close(fd);
}

/* user_namespaces(7): a process may map its own uid, and its gid once setgroups is denied. */
static void map_own_ids(uid_t uid, gid_t gid)
{
    char map[64];
    write_file("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "%u %u 1", uid, uid);
    write_file("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "%u %u 1", gid, gid);
    write_file("/proc/self/gid_map", map);
}

static uid_t outer_uid;
static gid_t outer_gid;
__attribute__((constructor)) static void remember_ids(void)
{
    outer_uid = geteuid();
    outer_gid = getegid();
}

/* has_ids: they are mapped already. */
void enter_namespaces(bool has_ids)
{
    if (!has_ids)
        map_own_ids(outer_uid, outer_gid);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE | MS_SILENT, NULL) < 0)
        fail_errno(DOCTOR, "cannot make mounts private");
}

static bool is_own_device(int fd)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return false;
    for (unsigned i = 0; i < own_device_count; i++)
        if (own_devices[i] == status.st_dev)
            return true;
    return false;
}

static void remember_device(int fd)
{
    struct stat status;
    if (own_device_count == sizeof own_devices / sizeof *own_devices || fstat(fd, &status) < 0)
        fail(EXIT_OWN_FAILURE, NULL, "cannot keep track of mounts");
    own_devices[own_device_count++] = status.st_dev;
}

static int open_below_root(const char *path, uint64_t flags)
{
    while (*path == '/')
        path++;
    return sys_openat2(new_root, *path ? path : ".", flags,
                       RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

/* Opens path as a directory, making what is missing where it lies in our tmpfs. */
static int open_directory(const char *path)
{
    int dir = open_below_root(path, O_PATH | O_DIRECTORY);
    if (dir >= 0 || errno != ENOENT)
        return dir;
    dir = open_below_root("/", O_PATH | O_DIRECTORY);
    for (const char *at = path; *at;) {
        char part[256];
        at += strspn(at, "/");
        size_t length = strcspn(at, "/");
        if (length >= sizeof part)
            fail(EXIT_OWN_FAILURE, NULL, "cannot make %s: a name in it is too long", path);
        memcpy(part, at, length);
        part[length] = 0;
        at += length;
        if (length == 0)
            break;
        int next = sys_openat2(dir, part, O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
        if (next < 0 && errno == ENOENT && is_own_device(dir) && mkdirat(dir, part, 0755) == 0)
            next = sys_openat2(dir, part, O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
        int cause = errno;
        close(dir);
        errno = cause;
        if ((dir = next) < 0)
            break;
    }
    return dir;
}

/* Where something is about to appear: the directory that holds it and its name there. */
struct place {
    int dir;
    bool own; /* the directory is in our tmpfs, so things may be made in it */
    const char *name;
};

/* The last parent stays open: plans list neighbours one after another. */
static struct place find_place(const char *path)
{
    static char last[4096];
    static struct place place = {.dir = -1};
    const char *name = strrchr(path, '/') + 1;
    size_t length = (size_t)(name - path);
    if (length >= sizeof last)
        fail(EXIT_OWN_FAILURE, NULL, "cannot reach %s inside: its path is too long", path);
    if (place.dir < 0 || strlen(last) != length || memcmp(last, path, length) != 0) {
        if (place.dir >= 0)
            close(place.dir);
        memcpy(last, path, length);
        last[length] = 0;
        place.dir = open_directory(last);
        if (place.dir < 0)
            fail_errno("code inside put a link or nothing where a mount belongs; try vsbox sync", "cannot reach %s inside", last);
        place.own = is_own_device(place.dir);
    }
    place.name = name;
    return place;
}

static void make_directory(const char *path)
{
    struct place place = find_place(path);
    if (place.own && mkdirat(place.dir, place.name, 0755) < 0 && errno != EEXIST)
        fail_errno(NULL, "cannot make %s inside", path);
}

static void make_file(const char *path)
{
    struct place place = find_place(path);
    if (place.own && mknodat(place.dir, place.name, S_IFREG | 0644, 0) < 0 && errno != EEXIST)
        fail_errno(NULL, "cannot make %s inside", path);
}

/* Without MOVE_MOUNT_T_SYMLINKS a link in the target's own place is not followed, and cannot be mounted on. */
static void attach(int mount, const char *target)
{
    struct place place = find_place(target);
    if (sys_move_mount(mount, "", place.dir, place.name, MOVE_F_EMPTY_PATH) < 0)
        fail_errno("code inside put a link or nothing where a mount belongs; try vsbox sync", "cannot mount on %s", target);
}

static int create_filesystem(const char *type, const char *const options[][2], unsigned attributes)
{
    int context = sys_fsopen(type);
    if (context < 0)
        fail_errno(DOCTOR, "cannot open filesystem %s", type);
    for (unsigned i = 0; options[i][0]; i++)
        if (sys_fsconfig(context, options[i][1] ? FSCONFIG_STRING : FSCONFIG_FLAG, options[i][0], options[i][1]) < 0)
            fail_errno(DOCTOR, "cannot set %s of filesystem %s", options[i][0], type);
    int mount = -1;
    if (sys_fsconfig(context, FSCONFIG_CREATE, NULL, NULL) < 0 || (mount = sys_fsmount(context, attributes)) < 0)
        fail_errno(DOCTOR, "cannot create filesystem %s", type);
    close(context);
    return mount;
}

/* What is empty takes up no block, but an inode of the kernel's memory: there are as many as pages. The new root is ours
   and becomes read-only: it takes as many mount points as there are grants (0: no limit). */
enum { BYTES_OF_INODE = 4096, LEAST_INODES = 1024 };

static void do_tmpfs(const char *target, uint64_t size, uint64_t mode)
{
    char size_text[32], inodes_text[32], mode_text[16];
    snprintf(size_text, sizeof size_text, "%llu", (unsigned long long)size);
    uint64_t inodes = new_root >= 0 ? size / BYTES_OF_INODE + LEAST_INODES : 0;
    snprintf(inodes_text, sizeof inodes_text, "%llu", (unsigned long long)inodes);
    snprintf(mode_text, sizeof mode_text, "%llo", (unsigned long long)mode);
    const char *const options[][2] = {{"size", size_text}, {"nr_inodes", inodes_text}, {"mode", mode_text}, {NULL, NULL}};
    int mount = create_filesystem("tmpfs", options, ATTRIBUTE_NOSUID | ATTRIBUTE_NODEV);
    remember_device(mount);
    if (new_root >= 0) {
        make_directory(target);
        attach(mount, target);
        close(mount);
        return;
    }
    /* Mounted over /, where absolute paths still start below: the old root stays in reach until the pivot. */
    if (sys_move_mount(mount, "", AT_FDCWD, "/", MOVE_F_EMPTY_PATH) < 0)
        fail_errno(DOCTOR, "cannot mount a new root");
    new_root = mount;
}

static void do_bind(const char *source, const char *target, uint64_t flags)
{
    int from = open_no_symlinks(source, O_PATH);
    if (from < 0 && (flags & BIND_OPTIONAL) && (errno == ENOENT || errno == EACCES))
        return;
    if (from < 0)
        fail_errno("a granted path has vanished or is now a symbolic link: see vsbox explain", "cannot open %s", source);
    struct stat status;
    if (fstat(from, &status) < 0)
        fail_errno(NULL, "cannot look at %s", source);
    if (S_ISDIR(status.st_mode))
        make_directory(target);
    else
        make_file(target);
    int tree = sys_open_tree(from, "", TREE_CLONE | RECURSIVE | AT_EMPTY_PATH);
    if (tree < 0)
        fail_errno(DOCTOR, "cannot clone the mount of %s", source);
    if (flags & BIND_PLAIN) { /* OP_READ_ONLY restricts it, with all others at once */
        attach(tree, target);
        close(tree);
        close(from);
        return;
    }
    uint64_t attributes = ATTRIBUTE_NOSUID | (flags & BIND_DEVICE ? 0 : ATTRIBUTE_NODEV) |
                          (flags & BIND_WRITABLE ? 0 : ATTRIBUTE_RDONLY);
    if (sys_mount_setattr(tree, "", AT_EMPTY_PATH | RECURSIVE, attributes, 0) < 0)
        fail_errno(DOCTOR, "cannot restrict the mount of %s", source);
    attach(tree, target);
    close(tree);
    close(from);
}

/* The upper half is a private tmpfs, below the target until that is covered. Only the source is reached by a link of proc.
 * userxattr: what the kernel notes about a directory that was made anew it may note in user.* only, in a user namespace; tmpfs
 * has these since Linux 6.6. */
static int mount_overlay(int from, const char *target, uint64_t size, bool is_exact)
{
    char lower[32], upper[32], work[32];
    do_tmpfs(target, size, 0755);
    int place = open_below_root(target, O_PATH | O_DIRECTORY);
    if (place < 0 || mkdirat(place, "upper", 0755) < 0 || mkdirat(place, "work", 0755) < 0)
        fail_errno(NULL, "cannot prepare %s inside", target);
    int upper_fd = openat(place, "upper", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int work_fd = openat(place, "work", O_PATH | O_DIRECTORY | O_CLOEXEC);
    snprintf(lower, sizeof lower, "/proc/self/fd/%d", from);
    snprintf(upper, sizeof upper, "/proc/self/fd/%d", upper_fd);
    snprintf(work, sizeof work, "/proc/self/fd/%d", work_fd);
    const char *const options[][2] = {{"lowerdir", lower}, {"upperdir", upper}, {"workdir", work},
                                      {is_exact ? "userxattr" : NULL, NULL}, {NULL, NULL}};
    int mount = create_filesystem("overlay", options, ATTRIBUTE_NOSUID | ATTRIBUTE_NODEV);
    attach(mount, target);
    close(mount);
    close(work_fd);
    close(place);
    close(from);
    return upper_fd;
}

static void do_overlay(const char *source, const char *target)
{
    int from = open_no_symlinks(source, O_PATH | O_DIRECTORY);
    if (from < 0 && errno == ENOENT)
        return;
    if (from < 0)
        fail_errno("a granted path has vanished or is now a symbolic link: see vsbox explain", "cannot open %s", source);
    close(mount_overlay(from, target, 1u << 30, false));
}

static int changes = -1;

static void do_changes(const char *source, const char *target, uint64_t size)
{
    int from = open_no_symlinks(source, O_PATH | O_DIRECTORY);
    if (from < 0)
        fail_errno("name a directory that exists, without symbolic links", "cannot open %s", source);
    int upper = mount_overlay(from, target, size, true); /* a path only: opened anew, to be listed by whoever gets it */
    changes = openat(upper, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    close(upper);
}

int take_changes(void)
{
    int fd = changes;
    changes = -1;
    return fd;
}

static void do_symlink(const char *path, const char *text)
{
    struct place place = find_place(path);
    if (!place.own)
        fail(EXIT_OWN_FAILURE, NULL, "cannot make link %s inside: it is not in a private directory", path);
    if (symlinkat(text, place.dir, place.name) < 0 && errno != EEXIST)
        fail_errno(NULL, "cannot make link %s inside", path);
}

/* All mounts so far become read-only in one call; the root itself stays writable until the pivot. */
static void do_read_only(void)
{
    const uint64_t attributes = ATTRIBUTE_RDONLY | ATTRIBUTE_NOSUID | ATTRIBUTE_NODEV;
    if (sys_mount_setattr(new_root, "", AT_EMPTY_PATH | RECURSIVE, attributes, 0) < 0 ||
        sys_mount_setattr(new_root, "", AT_EMPTY_PATH, 0, ATTRIBUTE_RDONLY) < 0)
        fail_errno(DOCTOR, "cannot make the system's directories read-only");
}

/* Covers a path with an empty, read-only directory or with nothing to read. */
static void do_mask(const char *path, uint64_t flags)
{
    struct stat status;
    int fd = open_below_root(path, O_PATH);
    if (fd < 0 && errno == ENOENT && (flags & BIND_OPTIONAL))
        return;
    if (fd < 0 || fstat(fd, &status) < 0)
        fail_errno(NULL, "cannot hide %s", path);
    close(fd);
    static const char *const options[][2] = {{"size", "4096"}, {"mode", "0555"}, {"nr_inodes", "2"}, {NULL, NULL}};
    unsigned attributes = ATTRIBUTE_RDONLY | ATTRIBUTE_NOSUID | ATTRIBUTE_NODEV | ATTRIBUTE_NOEXEC;
    int cover;
    if (S_ISDIR(status.st_mode)) {
        cover = create_filesystem("tmpfs", options, attributes);
    } else {
        int null = open_no_symlinks("/dev/null", O_PATH);
        cover = sys_open_tree(null, "", TREE_CLONE | AT_EMPTY_PATH);
        close(null);
        /* nodev: /dev/null cannot be opened here, not even to read nothing */
        if (cover < 0 || sys_mount_setattr(cover, "", AT_EMPTY_PATH, attributes, 0) < 0)
            fail_errno(DOCTOR, "cannot hide %s", path);
    }
    attach(cover, path);
    close(cover);
}

/* Read-only as a whole: a fresh proc mounted by root would else leave /proc/sys/kernel/core_pattern writable, since the
 * kernel lets uid 0 of the machine write there whatever its capabilities (fs/proc/proc_sysctl.c, test_perm). */
static void do_proc(const char *target)
{
    static const char *const options[][2] = {{NULL, NULL}};
    int mount = create_filesystem("proc", options,
                                  ATTRIBUTE_RDONLY | ATTRIBUTE_NOSUID | ATTRIBUTE_NODEV | ATTRIBUTE_NOEXEC);
    make_directory(target);
    attach(mount, target);
    close(mount);
}

static void do_devpts(const char *target)
{
    static const char *const options[][2] = {{"ptmxmode", "0666"}, {"mode", "620"}, {NULL, NULL}};
    int mount = create_filesystem("devpts", options, ATTRIBUTE_NOSUID | ATTRIBUTE_NOEXEC);
    make_directory(target);
    attach(mount, target);
    close(mount);
}

/* pivot_root(2): with "." twice the old root ends up stacked on the new one, whence it is detached. */
static void do_pivot(void)
{
    if (fchdir(new_root) < 0 || sys_pivot_root(".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        fail_errno(DOCTOR, "cannot change the root");
    if (sys_mount_setattr(new_root, "", AT_EMPTY_PATH, ATTRIBUTE_RDONLY, 0) < 0)
        fail_errno(DOCTOR, "cannot make the new root read-only");
    close(new_root);
}

static void do_hostname(const char *name)
{
    if (sethostname(name, strlen(name)) < 0)
        fail_errno(NULL, "cannot set the host name %s", name);
}

static void do_seal_userns(void)
{
    write_file("/proc/sys/user/max_user_namespaces", "0");
}

static const struct root_builder MOUNTING = {
    .tmpfs = do_tmpfs, .directory = make_directory, .symlink = do_symlink, .bind = do_bind, .overlay = do_overlay, .changes = do_changes, .mask = do_mask,
    .proc = do_proc, .devpts = do_devpts, .hostname = do_hostname, .read_only = do_read_only, .loopback = join_network,
    .seal_userns = do_seal_userns, .pivot = do_pivot,
};

void do_namespace_step(const struct start *start, const struct record *r)
{
    do_root_step(&MOUNTING, start, r);
}
