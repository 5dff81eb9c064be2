/* Powers of ten: from decibels to factors.
 *
 *     10^x = 2^n e^r      n = the whole number next to x / log10(2)
 *                         r = (x - n log10(2)) ln(10), at most ln(2) / 2
 *
 * e^r is its Taylor series up to r^13 (what is left out is below 2^-57). log10(2) is taken off in two parts, the first
 * of 42 bits, so that its product with n is exact.
 *
 * Requirements:
 *   1. Within two units in the last place of 10^x; 10^0 is exactly 1.
 *   2. The same bits on every machine and with every C library: IEEE 754 double arithmetic and `ldexp` alone.
 *   3. No `pow`, `exp` or `log`: glibc gave them new versions in 2.29, and what is linked against those does not load
 *      on anything older (a wheel would be manylinux_2_31 and not manylinux_2_17).
 */
#ifndef CALLREEL_DECIBEL_H
#define CALLREEL_DECIBEL_H

#include <math.h>

#define CR_LOG2_OF_10 3.3219280948873623
#define CR_LOG10_OF_2_HIGH 0x1.34413509f78p-2   /* its first 42 bits */
#define CR_LOG10_OF_2_LOW 0x1.fef311f12b358p-46 /* the next 53 */
#define CR_LN_OF_10 2.302585092994046
#define CR_TEN_TO_MAX 400.0 /* beyond every double: 10^308.25 is the largest */

static inline double cr_ten_to(double x)
{
    double n, r, sum = 1;
    if (!(x <= CR_TEN_TO_MAX))
        return x != x ? x : HUGE_VAL;
    if (x < -CR_TEN_TO_MAX)
        return 0;
    n = floor(x * CR_LOG2_OF_10 + 0.5);
    r = ((x - n * CR_LOG10_OF_2_HIGH) - n * CR_LOG10_OF_2_LOW) * CR_LN_OF_10;
    for (int i = 13; i > 0; i--)
        sum = 1 + r / i * sum;
    return ldexp(sum, (int)n);
}

#endif
