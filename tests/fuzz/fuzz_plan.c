/* Feeds the plan decoder: LLVMFuzzerTestOneInput for clang's libFuzzer, and a mutator of its own for everybody else.
 *
 *   fuzz_plan SEED ITERATIONS CORPUS...
 *
 * Every input is decoded as it is and once more with a header that fits it, so that mutations get past the checksum. */
#include "../../native/plan.c"

#include <stdio.h>

enum { MAX_INPUT = 1 << 16, MAX_CORPUS = 256 };

static volatile uint64_t sink; /* what was read must not be optimised away */

static void touch(const struct record *record)
{
    const char *signature = SIGNATURES[record->op];
    for (uint32_t i = 0; i < record->count; i++) {
        char kind = strchr(signature, '*') ? 's' : signature[i];
        struct field field = record_field(record, i);
        for (uint32_t j = 0; j < field.size; j++)
            sink += field.data[j];
        if (kind == 's' && strlen(record_string(record, i)) + 1 != field.size)
            abort(); /* a string that ends elsewhere than its field */
        if (kind == 'i')
            sink += record_int(record, i);
    }
}

static bool decode(const uint8_t *data, size_t size, bool fix_header)
{
    unsigned char *bytes = malloc(size ? size : 1); /* exactly as large: a sanitizer sees every byte beyond */
    struct plan plan;
    if (!bytes)
        abort();
    memcpy(bytes, data, size);
    if (fix_header && size >= HEADER_SIZE) {
        uint64_t body = size - HEADER_SIZE, sum = adler32(bytes + HEADER_SIZE, size - HEADER_SIZE);
        uint32_t version = PLAN_VERSION;
        memcpy(bytes, PLAN_MAGIC, 8);
        memcpy(bytes + 8, &version, 4);
        memcpy(bytes + 16, &body, 8);
        memcpy(bytes + 24, &sum, 8);
    }
    bool usable = plan_decode(&plan, bytes, size) == NULL;
    for (uint32_t i = 0; usable && i < plan.count; i++)
        touch(&plan.records[i]);
    for (int op = 0; usable && op <= OP_COUNT; op++)
        if (plan_find(&plan, (enum op)op))
            sink++;
    plan_free(&plan);
    return usable;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    decode(data, size, false);
    decode(data, size, true);
    return 0;
}

#ifndef LIBFUZZER
static uint64_t state;

static uint64_t next_random(void) /* splitmix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static size_t below(size_t limit)
{
    return limit ? next_random() % limit : 0;
}

struct input {
    uint8_t bytes[MAX_INPUT];
    size_t size;
};

static struct input corpus[MAX_CORPUS];
static size_t corpus_size;

static void set_number(struct input *input)
{
    static const uint32_t INTERESTING[] = {0,  1,  2,  3,          4,          7,          8,         9,          36,        37,
                                           63, 64, 65, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffff8, 0xfffffffc, 0x10000, 255};
    uint32_t value = INTERESTING[below(sizeof INTERESTING / sizeof *INTERESTING)];
    if (input->size >= 4)
        memcpy(input->bytes + below(input->size - 3), &value, 4);
}

static void move_chunk(struct input *input, const struct input *from)
{
    size_t length = 1 + below(64), source = below(from->size), target = below(input->size + 1);
    if (source + length > from->size || input->size + length > MAX_INPUT)
        return;
    memmove(input->bytes + target + length, input->bytes + target, input->size - target);
    memmove(input->bytes + target, from->bytes + source, length);
    input->size += length;
}

static void remove_chunk(struct input *input)
{
    size_t at = below(input->size), length = 1 + below(32);
    if (at + length > input->size)
        length = input->size - at;
    memmove(input->bytes + at, input->bytes + at + length, input->size - at - length);
    input->size -= length;
}

static void mutate(struct input *input)
{
    for (size_t rounds = 1 + below(4); rounds > 0; rounds--) {
        switch (below(8)) {
        case 0:
            if (input->size)
                input->bytes[below(input->size)] ^= (uint8_t)(1u << below(8));
            break;
        case 1:
            if (input->size)
                input->bytes[below(input->size)] = (uint8_t)next_random();
            break;
        case 2:
            input->size = below(input->size + 1);
            break;
        case 3:
            move_chunk(input, input);
            break;
        case 4:
            move_chunk(input, &corpus[below(corpus_size)]);
            break;
        case 5:
            remove_chunk(input);
            break;
        case 6: /* the number of records, which no checksum covers */
            if (input->size >= 16)
                input->bytes[12] = (uint8_t)(input->bytes[12] + below(3) - 1);
            break;
        default:
            set_number(input);
        }
    }
}

static void read_corpus(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || corpus_size == MAX_CORPUS) {
        fprintf(stderr, "cannot use %s\n", path);
        exit(2);
    }
    struct input *input = &corpus[corpus_size++];
    input->size = fread(input->bytes, 1, MAX_INPUT, file);
    fclose(file);
    if (!decode(input->bytes, input->size, false)) {
        fprintf(stderr, "not a plan: %s\n", path);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: %s SEED ITERATIONS CORPUS...\n", argv[0]);
        return 2;
    }
    state = strtoull(argv[1], NULL, 10);
    unsigned long long iterations = strtoull(argv[2], NULL, 10), usable = 0, refused = 0;
    for (int i = 3; i < argc; i++)
        read_corpus(argv[i]);
    static struct input input;
    for (unsigned long long i = 0; i < iterations; i++) {
        input = corpus[below(corpus_size)];
        mutate(&input);
        decode(input.bytes, input.size, false);
        if (decode(input.bytes, input.size, true))
            usable++;
        else
            refused++;
    }
    printf("%llu inputs: %llu plans, %llu refused\n", iterations, usable, refused);
    return 0;
}
#endif
