/* The launcher: reads a compiled plan, does its steps in order, starts the command, passes on signals and status.
 * It takes no decision: src/vsbox/plan/ makes plans, src/vsbox/plan/encode.py writes the format read by plan.c. */
#ifndef VSBOX_H
#define VSBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* ---- plan.c: the encoded plan ---- */

#define PLAN_MAGIC "VSBXPLAN"
#define PLAN_VERSION 1
#define PLAN_MAX_SIZE (64u << 20)
#define MAX_FIELDS 64

enum op {
    OP_ROOT = 1,      /* s     the box */
    OP_OWNER,         /* i     uid the plan was made for */
    OP_KERNEL,        /* s     uname release the plan was made on */
    OP_COMPILER,      /* s*    argv that makes plans and launchers anew */
    OP_WATCH,         /* siiii path, device, inode (0: absent), size, mtime in ns: any change makes the plan stale */
    OP_COMMANDS,      /* i     mtime in ns of inside/bin when launchers were last made */
    OP_ALIAS,         /* ss    launcher name, program */
    OP_BIN,           /* s     where the payload finds the box's commands */
    OP_NAMESPACES,    /* i     clone(2) flags; none: the Landlock-only tier */
    OP_TMPFS,         /* sii   target, size in bytes, mode */
    OP_DIRECTORY,     /* s */
    OP_SYMLINK,       /* ss    path, text */
    OP_BIND,          /* ssi   source, target, enum bind_flags */
    OP_PROC,          /* s */
    OP_DEVPTS,        /* s */
    OP_MASK,          /* si    covered by nothing; BIND_OPTIONAL: if it is there */
    OP_PIVOT,         /*       the new root becomes /, read-only */
    OP_LOOPBACK,      /*       lo up */
    OP_SEAL_USERNS,   /*       user.max_user_namespaces = 0 in here */
    OP_PAYLOAD,       /*       all that follows happens in the payload's own process */
    OP_KEYRING,       /*       join a session keyring that holds nothing; done outside */
    OP_RLIMIT,        /* iii   resource, soft, hard */
    OP_LANDLOCK,      /* iiiii handled fs, handled net, scoped, restrict_self flags, fs handled only if a stream needs it */
    OP_RULE,          /* si    path, access */
    OP_RULE_OWN_PROC, /* i     access to /proc/self as a directory of this process only */
    OP_RULE_STDIO,    /* i     all rights known: standard streams may be opened again, in the mode that they have */
    OP_RESTRICT,      /*       landlock_restrict_self */
    OP_SECCOMP,       /* bi    program, nonzero: with a listener for the broker */
    OP_PASS,          /* s     environment variable passed on; a trailing * makes it a prefix */
    OP_SET,           /* ss    environment variable set */
    OP_WORKDIR,       /* ii    enum workdir_mode, Landlock access */
    OP_SCRIPT,        /* i     Landlock access to the script named on the command line */
    OP_PRIVATE,       /* si    path, enum privacy: where the working directory is never shown */
    OP_WRITABLE,      /* s     a tree the payload may write to, for the broker */
    OP_HOME,          /* s     $HOME inside, and the directory of last resort */
    OP_READ_ONLY,     /*       all binds so far */
    OP_PROJECT,       /* sii   a writable tree, enum project_flags, Landlock access to what is not protected in it */
    OP_PROTECT,       /* s     a name protected in it; a trailing * makes it a prefix */
    OP_INSTALLER,     /* s*    a command that takes the plan for installing, unless its first word is one of the others */
    OP_UNSET,         /* s     environment variable not passed on after all; a trailing * makes it a prefix */
    OP_CHDIR,         /* s     where the command starts */
    OP_HOSTNAME,      /* s */
    OP_BUBBLEWRAP,    /* si    the bwrap(1) that makes the namespaces in our place; 1: and the new root */
    OP_BUBBLEWRAP_ARGUMENTS, /* s* what it is told besides */
    OP_OVERLAY,       /* ss    source, target: the source as it is, with changes that are forgotten */
    OP_SAME,          /* ss    source, target: the target's content must be the source's */
    OP_OBSERVED,      /* iiiiiiii enum observed_field: a system call that a report tells of */
    OP_UNCONFINED,    /* s     nothing is enforced: it is reported, or left to the guard; said on a terminal */
    OP_EXPORT,        /* s     a directory inside that is handed to the caller, open */
    OP_CHANGES,       /* ssi   source, target, size: the source as it is; changes are kept apart, and handed to the caller */
    OP_WAIT,          /*       the payload starts when the caller says so */
    OP_APPARMOR,      /* s     profile that the payload's process enters, and never leaves */
    OP_COUNT
};

/* Which argument is what; ARGUMENT_NONE: none is. */
enum observed_field {
    OBSERVED_NUMBER,  /* of the call */
    OBSERVED_ANSWER,  /* enum answer, or the errno that it gets */
    OBSERVED_PATH,    /* argument: a path; the next: the directory that it starts from */
    OBSERVED_PATH_DIRECTORY,
    OBSERVED_SECOND,  /* another */
    OBSERVED_SECOND_DIRECTORY,
    OBSERVED_ADDRESS, /* argument: of a socket; the one after it is its size */
    OBSERVED_FOLLOW,  /* nonzero: a link at the end of a path is followed */
};
enum { ARGUMENT_NONE = 255 };
enum answer { ANSWER_KERNEL = 0, ANSWER_BROKER = 5000, ANSWER_DONE };
#define NOTE_PREFIX "/.vsbox-observer" /* access(2) of it: a note of the guard (src/vsbox/guard/hook/reports.py) */

enum project_flags { PROJECT_HIDE = 1 /* protected things are not even seen */ };
enum bind_flags { BIND_WRITABLE = 1, BIND_DEVICE = 2, BIND_OPTIONAL = 4, BIND_PLAIN = 8, BIND_VIEW = 16 /* of a preview: shown, not granted */ };
enum workdir_mode { WORKDIR_NONE = 0, WORKDIR_READ = 1, WORKDIR_WRITE = 2 };
enum privacy {
    PRIVATE_SELF = 1,  /* the path itself and what is above it */
    PRIVATE_TREE = 2,  /* also everything below it */
    PRIVATE_HOME = 3,  /* also its dot-directories */
    PRIVATE_HOMES = 4, /* its children are homes */
    PRIVATE_OWN = 5,   /* it and what is below, and what holds it is never writable: vsbox itself runs from there */
    PRIVATE_BELOW = 6, /* it and what is below: the box, which has rules of its own */
};

struct field {
    const unsigned char *data;
    uint32_t size;
};

struct record {
    enum op op;
    uint32_t count;
    const unsigned char *first; /* encoded fields, validated */
};

struct plan {
    unsigned char *bytes;
    size_t size;
    uint32_t count;
    struct record *records;
};

/* Why a plan cannot be used; NULL when it can. Every string field is NUL-terminated inside the buffer. */
const char *plan_decode(struct plan *plan, unsigned char *bytes, size_t size);
void plan_free(struct plan *plan);
const char *record_string(const struct record *record, uint32_t index);
uint64_t record_int(const struct record *record, uint32_t index);
struct field record_field(const struct record *record, uint32_t index);
const struct record *plan_find(const struct plan *plan, enum op op);
uint64_t fnv1a64(const void *data, size_t size);
uint32_t adler32(const unsigned char *bytes, size_t size);

/* ---- report.c: one way out for every failure ---- */

enum { EXIT_USAGE = 2, EXIT_OWN_FAILURE = 125, EXIT_CANNOT_EXECUTE = 126, EXIT_NOT_FOUND = 127 };

enum message_kind { MESSAGE_FAILED = 1, MESSAGE_STOPPED, MESSAGE_CONTINUED, MESSAGE_EXITED, MESSAGE_KILLED, MESSAGE_SIGNAL, MESSAGE_OBSERVED,
                    MESSAGE_EXPORTED, MESSAGE_GO, MESSAGE_KILL };

struct message {
    int32_t kind;
    int32_t value; /* exit code, signal or status */
    char text[1024];
};

extern int report_channel; /* -1: print; otherwise a descriptor to the launcher outside */
_Noreturn void fail(int code, const char *hint, const char *format, ...) __attribute__((format(printf, 3, 4)));
_Noreturn void fail_errno(const char *hint, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool send_message(int channel, enum message_kind kind, int value, const char *text);

/* ---- start.c: what is known when a start begins ---- */

/* What the host would execute unasked in a project. A link is known by its text, anything else by what it is. */
struct protected {
    char *path;
    char *link;          /* its text if it is a symbolic link, or NULL */
    const char *trigger; /* of a directory: the name in it that makes it what it is, or NULL */
    uint64_t device, inode;
    bool is_directory;
};

struct start {
    char *root;    /* the box */
    char variant[32]; /* of the plan, for what the environment asks of this start: "" or "x" and a hash */
    char *command; /* name of the launcher, or NULL with exec: the command is arguments[0] */
    char **arguments;
    char **arguments_outside; /* as they were given to us */
    char **environment;
    char *cwd;
    bool show_cwd;    /* grant the working directory */
    bool write_cwd;
    char *script;     /* absolute path of a script named on the command line or of its directory, or NULL */
    struct protected *protected; /* what the project directory holds that code inside must not change */
    size_t protected_count;
    bool has_namespaces; /* bubblewrap has made them already */
    bool has_root;       /* and the new root */
    bool verify;      /* prove the confinement instead of starting a command */
    bool tidy;        /* settle runs that were killed, and that is all */
    int control;      /* of a cell: a socket to the program that started us; 0: none */
    int caller;       /* of a cell: a pidfd of that program; 0: none */
    int kept;         /* of a cell: a descriptor that the payload keeps; 0: none */
    struct plan plan;
};

bool is_below(const char *path, const char *parent); /* equal or below, by components */
bool is_private(const struct plan *plan, const char *path);
void choose_working_directory(struct start *start);
void choose_script(struct start *start);
void build_environment(struct start *start, char **environ_outside);
void describe_start(const struct start *start);

/* ---- command_line.c: what a command line means ---- */
const char *script_operand(char **arguments); /* of Python, or NULL */
bool runs_python(const struct start *start);
void refuse_uv(const struct start *start);
bool is_installation(const struct start *start);
char **build_argv(const struct start *start, const char **program);

/* ---- guard.c ---- */
void check_same(const struct start *start);

/* ---- project*.c: what the host would execute in a project ---- */
void project_begin(struct start *start);
void project_end(const struct start *start);
void settle_runs(const struct start *start); /* those that were killed */
void grant_project(const struct start *start, const struct record *r); /* Landlock rules for what is not protected */
bool is_free_in_project(const struct start *start, const char *path);

/* ---- main.c ---- */
void check_streams(void);
int call_python(const struct start *start, const char *action); /* exit status of COMPILER... ACTION ROOT */
pid_t start_python(const struct start *start, const char *action, int input, char *const words[]);
int wait_for_python(pid_t pid);

/* ---- namespaces.c: the new root ---- */

void enter_namespaces(bool has_ids);
void do_namespace_step(const struct start *start, const struct record *record);
int take_changes(void); /* the upper half of OP_CHANGES, or -1 */

/* ---- network.c ---- */

bool is_network_made_beside(const struct plan *plan);
void begin_network(void);
void join_network(void);

/* ---- confine.c: what the payload's process, and init, do to themselves ---- */

void grant_dynamic(const char *path, uint64_t access); /* a Landlock rule for what the plan does not name */
void do_payload_step(const struct start *start, const struct record *record);
void restrict_signals(void); /* for good: to this process and what descends from it; Landlock ABI 6 */
void bound_capabilities(void); /* none can be gained any more */
void drop_capabilities(void); /* for good, also across exec */
void empty_capabilities(void); /* of a process that never execs */
void choose_directory(const struct start *start); /* changes to it */
_Noreturn void execute(const struct start *start);
int take_listener(void); /* the seccomp listener made by OP_SECCOMP, or -1 */

/* ---- apparmor.c ---- */
void keep_attributes(const struct start *start); /* before the root changes */
void forget_attributes(void);
void enter_profile(const struct start *start); /* before no_new_privs; nothing where the plan has none */
bool is_in_profile(const char *profile);
int probe_profiles(char *const names[]);
void try_profile(const char *profile); /* enters it if there is such a one */

/* ---- streams.c ---- */
void shield_streams(void); /* with the power to mount, before the root changes */
void reopen_null(void);    /* and after */

/* ---- verify.c ---- */
void verify_before_filter(const struct start *start); /* what a filter might not let us ask */
_Noreturn void verify_and_exit(const struct start *start);

/* ---- supervise.c ---- */
int run_outside(struct start *start, int *signal_out);

/* ---- broker.c: metadata and UNIX sockets where Landlock does not reach ---- */
struct broker;
struct broker *broker_new(const struct start *start, int listener, int channel);
void broker_serve(struct broker *broker); /* answers one notification */
void broker_close(struct broker *broker);

/* ---- cell.c: one run for a program, with a plan that is on no disk ---- */
_Noreturn void run_cell(int argc, char **argv);

/* ---- probe.c ---- */
int probe_main(int argc, char **argv);

/* ---- syscalls.c ---- */
int sys_openat2(int dir, const char *path, uint64_t flags, uint64_t resolve);
int open_no_symlinks(const char *path, uint64_t flags);
int sys_open_tree(int dir, const char *path, unsigned flags);
int sys_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags);
int sys_mount_setattr(int dir, const char *path, unsigned flags, uint64_t set, uint64_t clear);
int sys_fsopen(const char *type);
int sys_fsconfig(int fd, unsigned command, const char *key, const char *value);
int sys_fsmount(int fd, unsigned attributes);
int sys_pivot_root(const char *new_root, const char *put_old);
int sys_pidfd_open(pid_t pid);
int sys_pidfd_getfd(int pidfd, int fd);
pid_t sys_clone(uint64_t flags);
int sys_close_range(unsigned first, unsigned last, unsigned flags);
/* Sets of signals as the kernel has them, bit n - 1 for signal n: the C library's functions leave out what it uses itself. */
#define EVERY_SIGNAL UINT64_MAX
int sys_sigprocmask(int how, uint64_t set, uint64_t *old);
int sys_signalfd(uint64_t set, int flags);
int sys_landlock_create_ruleset(const void *attributes, size_t size, uint32_t flags);
int sys_landlock_add_rule(int ruleset, int type, const void *attributes);
int sys_landlock_restrict_self(int ruleset, uint32_t flags);
int sys_seccomp(unsigned operation, unsigned flags, void *arguments);
long sys_keyctl(int operation, unsigned long first, unsigned long second);

#define LANDLOCK_WRITE_FILE 2
#define LANDLOCK_SCOPE_SIGNAL 2
#define PROBE_OPTION 0x76736278 /* prctl(2) option that only our seccomp filter knows: src/vsbox/seccomp/program.py */
#define PROBE_ERRNO 4004
#define ATTRIBUTE_RDONLY 0x1
#define ATTRIBUTE_NOSUID 0x2
#define ATTRIBUTE_NODEV 0x4
#define ATTRIBUTE_NOEXEC 0x8

#endif
