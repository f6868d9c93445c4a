/* Prints the plans of standard input as text, one record a line: each plan is its size in four bytes and itself.
 * Fields are read the way the launcher reads them; strings and bytes come out in hexadecimal. */
#include "../../native/plan.c"

#include <stdio.h>

static void print_hex(char kind, const unsigned char *data, size_t size)
{
    printf(" %c:", kind);
    for (size_t i = 0; i < size; i++)
        printf("%02x", data[i]);
}

static void print_record(const struct record *record)
{
    const char *signature = SIGNATURES[record->op];
    printf("%u", record->op);
    for (uint32_t i = 0; i < record->count; i++) {
        char kind = strchr(signature, '*') ? 's' : signature[i];
        if (kind == 'i')
            printf(" i:%llu", (unsigned long long)record_int(record, i));
        else if (kind == 's')
            print_hex('s', (const unsigned char *)record_string(record, i), strlen(record_string(record, i)));
        else
            print_hex('b', record_field(record, i).data, record_field(record, i).size);
    }
    putchar('\n');
}

int main(void)
{
    unsigned char head[4];
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        size_t size = read_u32(head);
        unsigned char *bytes = malloc(size ? size : 1);
        struct plan plan;
        if (!bytes || fread(bytes, 1, size, stdin) != size)
            return 2;
        const char *problem = plan_decode(&plan, bytes, size);
        for (uint32_t i = 0; !problem && i < plan.count; i++)
            print_record(&plan.records[i]);
        printf("= %s\n", problem ? problem : "ok");
        plan_free(&plan);
    }
    return 0;
}
