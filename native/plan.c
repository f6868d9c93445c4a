/* The plan decoder. It trusts nothing: every length is checked before it is used (fuzzed in tests/fuzz). */
#include "vsbox.h"

#include <stdlib.h>
#include <string.h>

static const char *const SIGNATURES[OP_COUNT] = {
    [OP_ROOT] = "s",       [OP_OWNER] = "i",         [OP_KERNEL] = "s",     [OP_COMPILER] = "s*",
    [OP_WATCH] = "siiii",  [OP_COMMANDS] = "i",      [OP_ALIAS] = "ss",     [OP_BIN] = "s",
    [OP_NAMESPACES] = "i", [OP_TMPFS] = "sii",       [OP_DIRECTORY] = "s",  [OP_SYMLINK] = "ss",
    [OP_BIND] = "ssi",     [OP_PROC] = "s",          [OP_DEVPTS] = "s",     [OP_MASK] = "si",
    [OP_PIVOT] = "",       [OP_LOOPBACK] = "",       [OP_SEAL_USERNS] = "", [OP_PAYLOAD] = "",
    [OP_KEYRING] = "",     [OP_RLIMIT] = "iii",      [OP_LANDLOCK] = "iiiii", [OP_RULE] = "si",
    [OP_RULE_OWN_PROC] = "i", [OP_RULE_STDIO] = "i", [OP_RESTRICT] = "",    [OP_SECCOMP] = "bi",
    [OP_PASS] = "s",       [OP_SET] = "ss",          [OP_WORKDIR] = "ii",   [OP_SCRIPT] = "i",
    [OP_PRIVATE] = "si",   [OP_WRITABLE] = "s",      [OP_HOME] = "s",
    [OP_READ_ONLY] = "",   [OP_PROJECT] = "sii",     [OP_PROTECT] = "s",
    [OP_INSTALLER] = "s*", [OP_OVERLAY] = "ss", [OP_UNSET] = "s",         [OP_CHDIR] = "s",      [OP_HOSTNAME] = "s",
    [OP_SAME] = "ss",      [OP_OBSERVED] = "iiiiiiii", [OP_UNCONFINED] = "s",
    [OP_EXPORT] = "s",      [OP_CHANGES] = "ssi",    [OP_WAIT] = "", [OP_APPARMOR] = "s",
        [OP_BUBBLEWRAP] = "si", [OP_BUBBLEWRAP_ARGUMENTS] = "s*",
};

enum { HEADER_SIZE = 32 };

static uint32_t read_u32(const unsigned char *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t read_u64(const unsigned char *at)
{
    return read_u32(at) | (uint64_t)read_u32(at + 4) << 32;
}

/* FNV-1a, 64 bit: short names of boxes. */
uint64_t fnv1a64(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

/* RFC 1950, which takes the remainder as seldom as 32 bits allow. It finds accidents. Against intent the directory's permissions
 * stand, not a checksum. */
uint32_t adler32(const unsigned char *bytes, size_t size)
{
    enum { MODULUS = 65521, MOST_WITHOUT_OVERFLOW = 5552 };
    uint32_t a = 1, b = 0;
    while (size > 0) {
        size_t part = size < MOST_WITHOUT_OVERFLOW ? size : MOST_WITHOUT_OVERFLOW;
        for (size_t i = 0; i < part; i++)
            b += a += bytes[i];
        a %= MODULUS;
        b %= MODULUS;
        bytes += part;
        size -= part;
    }
    return b << 16 | a;
}

static bool field_fits(char kind, const unsigned char *data, uint32_t size)
{
    switch (kind) {
    case 'i':
        return size == 8;
    case 'b':
        return true;
    default: /* a string: its NUL is the last byte and the only one */
        return size > 0 && memchr(data, 0, size) == data + size - 1;
    }
}

static const char *decode_record(struct record *record, const unsigned char **at, const unsigned char *end)
{
    if (end - *at < 8)
        return "it is cut short";
    uint32_t op = read_u32(*at);
    record->op = op;
    record->count = read_u32(*at + 4);
    *at += 8;
    record->first = *at;
    if (op == 0 || op >= OP_COUNT)
        return "it has an unknown step";
    const char *signature = SIGNATURES[op];
    bool repeats = signature[0] != 0 && strchr(signature, '*') != NULL;
    if (record->count > MAX_FIELDS || (repeats ? record->count < 1 : record->count != strlen(signature)))
        return "a step has the wrong number of fields";
    for (uint32_t i = 0; i < record->count; i++) {
        if (end - *at < 4)
            return "it is cut short";
        uint32_t size = read_u32(*at);
        *at += 4;
        if ((uint64_t)(end - *at) < size)
            return "it is cut short";
        if (!field_fits(repeats ? 's' : signature[i], *at, size))
            return "a step has a malformed field";
        *at += size;
    }
    return NULL;
}

const char *plan_decode(struct plan *plan, unsigned char *bytes, size_t size)
{
    *plan = (struct plan){.bytes = bytes, .size = size};
    if (size < HEADER_SIZE || memcmp(bytes, PLAN_MAGIC, 8) != 0)
        return "it is not a plan";
    if (read_u32(bytes + 8) != PLAN_VERSION)
        return "it was made by another version of vsbox";
    uint32_t count = read_u32(bytes + 12);
    if (read_u64(bytes + 16) != size - HEADER_SIZE)
        return "it is cut short";
    if (read_u64(bytes + 24) != adler32(bytes + HEADER_SIZE, size - HEADER_SIZE))
        return "its checksum does not match";
    if (count > (size - HEADER_SIZE) / 8)
        return "it is cut short";
    plan->records = calloc(count ? count : 1, sizeof *plan->records);
    if (!plan->records)
        return "it does not fit into memory";
    const unsigned char *at = bytes + HEADER_SIZE, *end = bytes + size;
    for (plan->count = 0; plan->count < count; plan->count++) {
        const char *problem = decode_record(&plan->records[plan->count], &at, end);
        if (problem)
            return problem;
    }
    return at == end ? NULL : "it has bytes after its end";
}

void plan_free(struct plan *plan)
{
    free(plan->records);
    free(plan->bytes);
    *plan = (struct plan){0};
}

struct field record_field(const struct record *record, uint32_t index)
{
    const unsigned char *at = record->first;
    for (uint32_t i = 0; i < index; i++)
        at += 4 + read_u32(at);
    return (struct field){.data = at + 4, .size = read_u32(at)};
}

const char *record_string(const struct record *record, uint32_t index)
{
    return (const char *)record_field(record, index).data;
}

uint64_t record_int(const struct record *record, uint32_t index)
{
    return read_u64(record_field(record, index).data);
}

const struct record *plan_find(const struct plan *plan, enum op op)
{
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan->records[i].op == op)
            return &plan->records[i];
    return NULL;
}
