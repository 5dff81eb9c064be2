/* CRC-32C, the checksum of iSCSI (RFC 3720, appendix B.4) that S3 takes beside SHA-256.

     data ──> 8 bytes at a time: one table look-up for each, added up (slicing by 8) ──> 32 bits
              what is left over: one byte at a time

   Requirements
     polynomial 0x1EDC6F41, reflected 0x82F63B78; begins with and ends by exclusive-or of all ones   RFC 3720
     "123456789" gives 0xE3069283                                                          the usual check value
     in pieces as at once: the sum so far goes in, the sum comes out */
#ifndef CALLREEL_CRC32C_H
#define CALLREEL_CRC32C_H

#include <stddef.h>
#include <stdint.h>

#include "callreel/bytes.h"

#define CR_CRC32C_POLYNOMIAL 0x82F63B78u

/* Table k says what a byte does that is followed by k others. */
static uint32_t cr_crc32c_tables[8][256];

/* Once, before the first sum. */
static inline void cr_crc32c_begin(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t sum = byte;
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? CR_CRC32C_POLYNOMIAL : 0);
        cr_crc32c_tables[0][byte] = sum;
    }
    for (int k = 1; k < 8; k++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t sum = cr_crc32c_tables[k - 1][byte];
            cr_crc32c_tables[k][byte] = sum >> 8 ^ cr_crc32c_tables[0][sum & 0xFF];
        }
}

/* The sum of what `sum` is the sum of, and `size` bytes more; of nothing it is 0. */
static inline uint32_t cr_crc32c(uint32_t sum, const uint8_t *data, size_t size)
{
    sum = ~sum;
    for (; size >= 8; data += 8, size -= 8) {
        uint32_t low = cr_load_u32le(data) ^ sum, high = cr_load_u32le(data + 4);
        sum = cr_crc32c_tables[7][low & 0xFF] ^ cr_crc32c_tables[6][low >> 8 & 0xFF]
            ^ cr_crc32c_tables[5][low >> 16 & 0xFF] ^ cr_crc32c_tables[4][low >> 24]
            ^ cr_crc32c_tables[3][high & 0xFF] ^ cr_crc32c_tables[2][high >> 8 & 0xFF]
            ^ cr_crc32c_tables[1][high >> 16 & 0xFF] ^ cr_crc32c_tables[0][high >> 24];
    }
    for (; size > 0; data++, size--)
        sum = sum >> 8 ^ cr_crc32c_tables[0][(sum ^ *data) & 0xFF];
    return ~sum;
}

#endif
