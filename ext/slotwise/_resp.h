/* RESP2/RESP3 framing: where a reply, or an element of one, begins and ends.
 *
 * https://redis.io/docs/latest/develop/reference/protocol-spec/
 *
 * Lines of the rarer types, and whatever is unusual in a line, are left to hiredis. */
#ifndef SLOTWISE_RESP_H
#define SLOTWISE_RESP_H

#include <stddef.h>
#include <string.h>

enum {
    /* Whole values: */
    SLOTWISE_BULK,      /* data, size */
    SLOTWISE_SIMPLE,    /* data, size */
    SLOTWISE_INTEGER,   /* number */
    SLOTWISE_NIL,
    /* And what takes more than one step: */
    SLOTWISE_AGGREGATE, /* number: of elements that follow, a map's keys and values counted each */
    SLOTWISE_PARTIAL,   /* the rest of it has not come; of a bulk string whose size has: data, size and used */
    SLOTWISE_LINE,      /* for hiredis, up to the next "\r\n" */
    SLOTWISE_BROKEN     /* no reply begins like this */
};

typedef struct {
    const char *data;
    size_t size;
    long long number;
    /* Bytes that the reply takes, an aggregate's elements not counted. */
    size_t used;
} slotwise_token;

/* What begins at p[0:n]. Sets the fields of `t` that belong to the answer; reads nothing outside of p[0:n]. */
static inline int slotwise_next_token(const char *p, size_t n, slotwise_token *t)
{
    size_t i = 1, first;
    int negative = 0;
    long long number = 0;

    t->used = 0;
    if (n == 0)
        return SLOTWISE_PARTIAL;
    switch (p[0]) {
    case '_':
        if (n < 3)
            return SLOTWISE_PARTIAL;
        if (p[1] != '\r' || p[2] != '\n')
            return SLOTWISE_LINE;
        t->used = 3;
        return SLOTWISE_NIL;
    case '+': {
        const char *end = memchr(p, '\r', n);
        if (end == NULL || end + 1 == p + n)
            return SLOTWISE_PARTIAL;
        if (end[1] != '\n' || memchr(p, '\n', (size_t)(end - p)) != NULL)
            return SLOTWISE_LINE;
        t->data = p + 1;
        t->size = (size_t)(end - p) - 1;
        t->used = t->size + 3;
        return SLOTWISE_SIMPLE;
    }
    case '-': /* error */
    case ',': /* double */
    case '#': /* boolean */
    case '(': /* big number */
        return SLOTWISE_LINE;
    case '$':
    case ':':
    case '*':
    case '=': /* verbatim string: a bulk string that begins with three characters for its format and a colon */
    case '%': /* map */
    case '~': /* set */
    case '>': /* push message */
    case '|': /* attributes of what follows them */
        break;
    default:
        return SLOTWISE_BROKEN;
    }
    if (n < 2)
        return SLOTWISE_PARTIAL;
    if (p[1] == '-') {
        negative = 1;
        i = 2;
    }
    first = i;
    /* 18 digits cannot overflow. hiredis takes integers with more, and nobody takes leading zeros. */
    while (i < n && i - first < 18 && p[i] >= '0' && p[i] <= '9')
        number = number * 10 + (p[i++] - '0');
    if (i + 1 >= n && i - first < 18)
        return SLOTWISE_PARTIAL;
    if (i == first || i + 1 >= n || p[i] != '\r' || p[i + 1] != '\n' ||
        (p[first] == '0' && (negative || i > first + 1)))
        return p[0] == ':' ? SLOTWISE_LINE : SLOTWISE_BROKEN;
    i += 2;
    if (p[0] == ':') {
        t->number = negative ? -number : number;
        t->used = i;
        return SLOTWISE_INTEGER;
    }
    if (negative) {
        t->used = i;
        return number == 1 ? SLOTWISE_NIL : SLOTWISE_BROKEN;
    }
    if (p[0] != '$' && p[0] != '=') {
        t->number = p[0] == '%' || p[0] == '|' ? 2 * number : number;
        t->used = i;
        return SLOTWISE_AGGREGATE;
    }
    t->data = p + i;
    t->size = (size_t)number;
    t->used = i + t->size + 2;
    if (n < t->used)
        return SLOTWISE_PARTIAL;
    if (p[t->used - 2] != '\r' || p[t->used - 1] != '\n')
        return SLOTWISE_BROKEN;
    if (p[0] == '=') {
        if (t->size < 4 || t->data[3] != ':')
            return SLOTWISE_BROKEN;
        t->data += 4;
        t->size -= 4;
    }
    return SLOTWISE_BULK;
}

/* How much of p[0:n] belongs to the line that it begins with; `whole`: its end included. */
static inline size_t slotwise_line(const char *p, size_t n, int *whole)
{
    const char *at = p, *end = p + n;

    while ((at = memchr(at, '\r', (size_t)(end - at))) != NULL && at + 1 < end && at[1] != '\n')
        at++;
    *whole = at != NULL && at + 1 < end;
    if (at == NULL)
        return n;
    return (size_t)(at - p) + (*whole ? 2 : 0);
}

#endif
