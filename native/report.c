#define _GNU_SOURCE
#include "vsbox.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int report_channel = -1;

bool send_message(int channel, enum message_kind kind, int value, const char *text)
{
    struct message message = {.kind = kind, .value = value};
    snprintf(message.text, sizeof message.text, "%s", text);
    return send(channel, &message, offsetof(struct message, text) + strlen(message.text) + 1, MSG_NOSIGNAL) >= 0;
}

/* DESIGN: "<what failed> <object>: <cause>", the next step on a second line. */
static _Noreturn void report(int code, const char *hint, const char *what, const char *cause)
{
    char text[1025];
    int used = snprintf(text, sizeof text - 1, "vsbox: %s%s%s", what, cause ? ": " : "", cause ? cause : "");
    if (hint && used > 0 && (size_t)used < sizeof text - 1)
        snprintf(text + used, sizeof text - 1 - (size_t)used, "\n       %s", hint);
    /* a filter may refuse to send, and what a stream of stdio does: each C library does it in its own way */
    if (report_channel < 0 || !send_message(report_channel, MESSAGE_FAILED, code, text)) {
        size_t length = strlen(text);
        text[length] = '\n'; /* in place of the NUL */
        if (write(2, text, length + 1) < 0)
            _exit(code);
    }
    _exit(code);
}

void fail(int code, const char *hint, const char *format, ...)
{
    char what[768];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    report(code, hint, what, NULL);
}

void fail_errno(const char *hint, const char *format, ...)
{
    const char *cause = strerror(errno);
    char what[768];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    report(EXIT_OWN_FAILURE, hint, what, cause);
}
