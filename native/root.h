/* How the steps of a new root are carried out: by mounting it (namespaces.c), or as arguments of bwrap(1) (arguing.c).
 * What a step means beyond that (pins, the working directory, the project) is the same for both: root.c. */
#ifndef ROOT_H
#define ROOT_H

#include "vsbox.h"

#include <signal.h>

struct root_builder {
    void (*tmpfs)(const char *target, uint64_t size, uint64_t mode);
    void (*directory)(const char *path);
    void (*symlink)(const char *path, const char *text);
    void (*bind)(const char *source, const char *target, uint64_t flags);
    void (*overlay)(const char *source, const char *target);
    void (*changes)(const char *source, const char *target, uint64_t size);
    void (*mask)(const char *path, uint64_t flags);
    void (*proc)(const char *target);
    void (*devpts)(const char *target);
    void (*hostname)(const char *name);
    void (*read_only)(void);
    void (*loopback)(void);
    void (*seal_userns)(void);
    void (*pivot)(void);
};

void do_root_step(const struct root_builder *how, const struct start *start, const struct record *record);

/* ---- arguing.c: the arguments of bwrap, and what must be found inside when it has done its work ---- */

/* A file or directory for good: an inode number may be used again, the time of birth is not. */
struct identity {
    uint64_t inode, device, born_s, born_ns; /* no padding: compared as bytes */
};

bool identify(int fd, struct identity *identity, bool *is_mount_root); /* identity.c */

/* What was asked for at a path inside. Of a bind, identity is what must be there; of what is hidden, what must not. */
struct mounted {
    struct identity identity;
    const char *target;
    const char *source; /* NULL: nothing of the host */
    bool read_only, hidden;
};

struct argued {
    char *arguments; /* each ends in NUL */
    size_t arguments_size;
    struct mounted *mounts;
    size_t mount_count;
    int files[64]; /* which bwrap copies: it is told their numbers, FD_FILES and up */
    int file_count;
};

struct argued argue(const struct start *start);
struct argued argue_namespaces_only(const struct start *start); /* the root stays the host's */

/* ---- bubblewrap.c, inner_stage.c: bwrap between the launcher and init ---- */

/* Where bwrap finds what it starts, the launcher itself: in the new root, at a place that no policy names. */
#define INNER_STAGE "/.vsbox-init"
#define INNER_STAGE_OUTSIDE "/sandbox/inner" /* of the box: where bwrap makes no new root */
enum { FD_START = 3, FD_CHANNEL, FD_STREAMS, FD_ARGUMENTS = FD_STREAMS + 3, FD_FILES };
enum { START_SEALS = 0xf }; /* F_SEAL_SEAL, _SHRINK, _GROW, _WRITE */
pid_t start_bubblewrap(const struct start *start, int channel);
bool has_bubblewrap_failed(void); /* before it started anything; has said why */
bool is_inner_stage(const char *own_path);
_Noreturn void run_inner_stage(void);

/* A start handed over in a sealed memfd: this, the mounts, strings (each ends in NUL), the encoded plan. */
struct handed_over {
    uint64_t mounts_size, strings_size, plan_size;
    uint32_t argument_count, variable_count, protected_count;
    uint64_t mask;
    bool has_root, ignores_children, show_cwd, write_cwd, verify, has_command, has_cwd, has_script;
};

#endif
