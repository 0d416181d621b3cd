/* CRC16/XMODEM and the hash-tag rule of the Redis Cluster specification.
 *
 *   width 16, polynomial 0x1021, initial value 0, input and output not reflected,
 *   final xor 0; check value of "123456789": 0x31C3
 *
 * https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/ (Key distribution model)
 */
#ifndef SLOTWISE_CRC16_H
#define SLOTWISE_CRC16_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SLOTWISE_SLOTS 16384

/* The remainders of x^16 to x^79, by shifting the one before: all that the table is made of. As enumerators
 * they are constants to the compiler, so that the table is read-only data and needs no start-up code. */
#define SLOTWISE_SHIFT(r) (((r) << 1 & 0xffff) ^ ((r) & 0x8000 ? 0x1021 : 0))
#define SLOTWISE_BYTE(name, before)                                                       \
    name##0 = SLOTWISE_SHIFT(before), name##1 = SLOTWISE_SHIFT(name##0),                  \
    name##2 = SLOTWISE_SHIFT(name##1), name##3 = SLOTWISE_SHIFT(name##2),                 \
    name##4 = SLOTWISE_SHIFT(name##3), name##5 = SLOTWISE_SHIFT(name##4),                 \
    name##6 = SLOTWISE_SHIFT(name##5), name##7 = SLOTWISE_SHIFT(name##6)

enum {
    SLOTWISE_BYTE(slotwise_a, 0x8000),
    SLOTWISE_BYTE(slotwise_b, slotwise_a7),
    SLOTWISE_BYTE(slotwise_c, slotwise_b7),
    SLOTWISE_BYTE(slotwise_d, slotwise_c7),
    SLOTWISE_BYTE(slotwise_e, slotwise_d7),
    SLOTWISE_BYTE(slotwise_f, slotwise_e7),
    SLOTWISE_BYTE(slotwise_g, slotwise_f7),
    SLOTWISE_BYTE(slotwise_h, slotwise_g7)
};

/* The remainder is linear: that of a byte is the xor of those of its bits. */
#define SLOTWISE_BIT(i, b, r) ((i) >> b & 1 ? r : 0)
#define SLOTWISE_ENTRY(name, i)                                                           \
    (SLOTWISE_BIT(i, 0, name##0) ^ SLOTWISE_BIT(i, 1, name##1) ^ SLOTWISE_BIT(i, 2, name##2) ^ \
     SLOTWISE_BIT(i, 3, name##3) ^ SLOTWISE_BIT(i, 4, name##4) ^ SLOTWISE_BIT(i, 5, name##5) ^ \
     SLOTWISE_BIT(i, 6, name##6) ^ SLOTWISE_BIT(i, 7, name##7))
#define SLOTWISE_4(name, i)                                                               \
    SLOTWISE_ENTRY(name, i), SLOTWISE_ENTRY(name, i + 1), SLOTWISE_ENTRY(name, i + 2), SLOTWISE_ENTRY(name, i + 3)
#define SLOTWISE_16(name, i)                                                              \
    SLOTWISE_4(name, i), SLOTWISE_4(name, i + 4), SLOTWISE_4(name, i + 8), SLOTWISE_4(name, i + 12)
#define SLOTWISE_64(name, i)                                                              \
    SLOTWISE_16(name, i), SLOTWISE_16(name, i + 16), SLOTWISE_16(name, i + 32), SLOTWISE_16(name, i + 48)
#define SLOTWISE_ROW(name)                                                                \
    { SLOTWISE_64(name, 0), SLOTWISE_64(name, 64), SLOTWISE_64(name, 128), SLOTWISE_64(name, 192) }

/* Row r, entry i: the remainder of the byte i with r zero bytes after it. */
static const uint16_t slotwise_crc16_table[8][256] = {
    SLOTWISE_ROW(slotwise_a), SLOTWISE_ROW(slotwise_b), SLOTWISE_ROW(slotwise_c), SLOTWISE_ROW(slotwise_d),
    SLOTWISE_ROW(slotwise_e), SLOTWISE_ROW(slotwise_f), SLOTWISE_ROW(slotwise_g), SLOTWISE_ROW(slotwise_h),
};

/* Returns the CRC of n bytes at p; 0 for n == 0. */
static inline uint16_t slotwise_crc16(const char *p, size_t n)
{
    const uint16_t (*t)[256] = slotwise_crc16_table;
    const unsigned char *c = (const unsigned char *)p;
    unsigned crc = 0;
    /* Eight bytes a step: six of the eight look-ups wait for no other. */
    for (; n >= 8; n -= 8, c += 8)
        crc = t[7][c[0] ^ crc >> 8] ^ t[6][c[1] ^ (crc & 0xff)] ^ t[5][c[2]] ^ t[4][c[3]] ^
              t[3][c[4]] ^ t[2][c[5]] ^ t[1][c[6]] ^ t[0][c[7]];
    while (n--)
        crc = (crc << 8 & 0xffff) ^ t[0][crc >> 8 ^ *c++];
    return (uint16_t)crc;
}

/* Returns the slot, 0 to 16383, of the key of n bytes at p.
 *
 * Only what stands between the first '{' and the first '}' after it is hashed,
 * provided that it is not empty: so "{}x" hashes whole, "{{a}}" hashes "{a",
 * and "a{b" hashes whole. */
static inline int slotwise_key_slot(const char *p, size_t n)
{
    const char *open = n ? (const char *)memchr(p, '{', n) : NULL;
    if (open != NULL) {
        const char *tag = open + 1;
        const char *close = (const char *)memchr(tag, '}', (size_t)(p + n - tag));
        if (close != NULL && close != tag) {
            p = tag;
            n = (size_t)(close - tag);
        }
    }
    return slotwise_crc16(p, n) & (SLOTWISE_SLOTS - 1);
}

#endif
