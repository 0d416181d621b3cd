/* Versions as numbers, and the checksum of stored values. */
#ifndef SLOTWISE_VERSIONS_H
#define SLOTWISE_VERSIONS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Returns the big-endian number in the 8 bytes at p, which need not be aligned. Compilers know these shifts: two
 * instructions. */
static inline uint64_t slotwise_load64(const unsigned char *p)
{
    return (uint64_t)p[0] << 56 | (uint64_t)p[1] << 48 | (uint64_t)p[2] << 40 | (uint64_t)p[3] << 32 |
           (uint64_t)p[4] << 24 | (uint64_t)p[5] << 16 | (uint64_t)p[6] << 8 | (uint64_t)p[7];
}

static inline void slotwise_store64(unsigned char *p, uint64_t number)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    /* gcc makes one instruction of the shifts above, and 30 of the stores below. */
    number = __builtin_bswap64(number);
    memcpy(p, &number, 8);
#else
    for (int i = 0; i < 8; i++)
        p[i] = (unsigned char)(number >> (56 - 8 * i));
#endif
}

/* Returns 1 if the first version is newer than the second, else 0. Without a jump, which the processor would guess wrong
 * every other time: as one number of 128 bits where the compiler has those, which is a quarter faster. */
static inline int slotwise_newer(uint64_t high, uint64_t low, uint64_t other_high, uint64_t other_low)
{
#ifdef __SIZEOF_INT128__
    __extension__ typedef unsigned __int128 whole;
    return ((whole)high << 64 | low) > ((whole)other_high << 64 | other_low);
#else
    return (high > other_high) | ((high == other_high) & (low > other_low));
#endif
}

/* ---- SHA-1 (FIPS 180-4); the first 4 bytes for "abc": a9993e36 ---------------------------------------------------
 *
 * A checksum against accidents, chosen because servers have it in Lua. OpenSSL's, through hashlib, takes 0.3 us
 * to begin with and 0.5 ns a byte; this takes 0.16 us for 117 bytes, and 1.2 ns for each more. */

#define SLOTWISE_ROTATED(x, n) ((x) << (n) | (x) >> (32 - (n)))
/* Word i of the schedule, 0 to 79, in a ring of 16; i is a constant, so that nothing is decided while it runs. */
#define SLOTWISE_WORD(i)                                                                                  \
    ((i) < 16 ? w[(i) & 15]                                                                               \
              : (x = w[((i) + 13) & 15] ^ w[((i) + 8) & 15] ^ w[((i) + 2) & 15] ^ w[(i) & 15],            \
                 w[(i) & 15] = SLOTWISE_ROTATED(x, 1)))
#define SLOTWISE_CHOICE(b, c, d) ((d) ^ ((b) & ((c) ^ (d))))
#define SLOTWISE_PARITY(b, c, d) ((b) ^ (c) ^ (d))
#define SLOTWISE_MAJORITY(b, c, d) (((b) & (c)) | ((d) & ((b) | (c))))
#define SLOTWISE_ROUND(a, b, c, d, e, f, k, i)                                                            \
    e += SLOTWISE_ROTATED(a, 5) + f(b, c, d) + k + SLOTWISE_WORD(i), b = SLOTWISE_ROTATED(b, 30)
/* Five rounds: then each variable is in its place again, and nothing was moved. */
#define SLOTWISE_ROUNDS(f, k, i)                                                                          \
    SLOTWISE_ROUND(a, b, c, d, e, f, k, i), SLOTWISE_ROUND(e, a, b, c, d, f, k, i + 1),                   \
    SLOTWISE_ROUND(d, e, a, b, c, f, k, i + 2), SLOTWISE_ROUND(c, d, e, a, b, f, k, i + 3),               \
    SLOTWISE_ROUND(b, c, d, e, a, f, k, i + 4)
#define SLOTWISE_20_ROUNDS(f, k, i)                                                                       \
    SLOTWISE_ROUNDS(f, k, i), SLOTWISE_ROUNDS(f, k, i + 5), SLOTWISE_ROUNDS(f, k, i + 10),                \
    SLOTWISE_ROUNDS(f, k, i + 15)

static inline void slotwise_sha1_block(uint32_t state[5], const unsigned char *p)
{
    uint32_t w[16], x, a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++, p += 4)
        w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
    SLOTWISE_20_ROUNDS(SLOTWISE_CHOICE, 0x5a827999, 0);
    SLOTWISE_20_ROUNDS(SLOTWISE_PARITY, 0x6ed9eba1, 20);
    SLOTWISE_20_ROUNDS(SLOTWISE_MAJORITY, 0x8f1bbcdc, 40);
    SLOTWISE_20_ROUNDS(SLOTWISE_PARITY, 0xca62c1d6, 60);
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* Returns the first 4 bytes of the SHA-1 of the n bytes at p, as a big-endian number. */
static inline uint32_t slotwise_sha1_start(const unsigned char *p, size_t n)
{
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    unsigned char end[128] = {0};
    size_t left = n;
    for (; left >= 64; left -= 64, p += 64)
        slotwise_sha1_block(state, p);
    /* What is left, one bit, zeros, and the length in bits: one block, or two if the length has no room in the first. */
    memcpy(end, p, left);
    end[left] = 0x80;
    size_t blocks = left < 56 ? 1 : 2;
    slotwise_store64(end + 64 * blocks - 8, (uint64_t)n << 3);
    for (size_t i = 0; i < blocks; i++)
        slotwise_sha1_block(state, end + 64 * i);
    return state[0];
}

#endif
