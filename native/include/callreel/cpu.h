/* Which instruction sets the machine has, and what a function needs to be compiled for one of them.
 *
 * What: the levels `scalar < sse2 < avx2 < avx512` on x86-64, `scalar < neon` on arm64, `scalar` alone elsewhere.
 * How:  every file is compiled for the oldest processor of its kind; only functions marked CR_TARGET_... use more,
 *       and only functions that were chosen by `cr_cpu_has` at import are called. Compiling whole files with
 *       -mavx2 would let the compiler use AVX2 in code that runs before anybody has asked.
 *
 *   level     processor must have                         compiled under        found in
 *   scalar    nothing beyond C                            always                everywhere
 *   sse2      SSE2                                        CR_HAVE_X86           every x86-64
 *   avx2      AVX2, FMA                                   CR_HAVE_X86           Intel since 2013, AMD since 2015
 *   avx512    AVX-512 F, BW, VL, VBMI (and all of avx2)   CR_HAVE_X86           Intel since 2019, AMD since 2022
 *   neon      Advanced SIMD                               CR_HAVE_NEON          every arm64
 *
 * A processor's word is not enough: the operating system must save the wide registers too (XCR0). The builtins of
 * GCC and clang look at both; for MSVC it is done by hand below.
 */
#ifndef CALLREEL_CPU_H
#define CALLREEL_CPU_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#define CR_HAVE_X86 1
#include <immintrin.h>
#elif (defined(__aarch64__) && !defined(__AARCH64EB__)) || defined(_M_ARM64)
#define CR_HAVE_NEON 1
#include <arm_neon.h>
#endif

/* Before the function's own words: `CR_TARGET_AVX2 static void cr_..._avx2(...)`. MSVC needs and has no such mark.
 * CR_TARGET_AVX2 leaves FMA out, so that no compiler fuses a product and a sum whose rounding is specified. */
#if defined(CR_HAVE_X86) && (defined(__GNUC__) || defined(__clang__))
#define CR_TARGET_SSE2 __attribute__((target("sse2")))
#define CR_TARGET_AVX2 __attribute__((target("avx2")))
#define CR_TARGET_AVX2_FMA __attribute__((target("avx2,fma")))
#define CR_TARGET_AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vbmi")))
#define CR_TARGET_AVX512_VNNI __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))
#else
#define CR_TARGET_SSE2
#define CR_TARGET_AVX2
#define CR_TARGET_AVX2_FMA
#define CR_TARGET_AVX512
#define CR_TARGET_AVX512_VNNI
#endif

/* For the parts of a version whose speed depends on an argument being a constant. */
#if defined(_MSC_VER) && !defined(__clang__)
#define CR_FORCE_INLINE static __forceinline
#else
#define CR_FORCE_INLINE static inline __attribute__((always_inline))
#endif

#ifdef CR_HAVE_X86
/* Ask for the memory that a loop will come to soon. Where input and output lie in the third-level cache, decoding and
 * gain take an eighth less time; within the first two levels it costs nothing. Beyond the end of memory it does
 * nothing. */
#define CR_AHEAD_BYTES 1024
CR_FORCE_INLINE void cr_fetch_ahead(const uint8_t *p)
{
    _mm_prefetch((const char *)((uintptr_t)p + CR_AHEAD_BYTES), _MM_HINT_T0);
}
#endif

/* Ask for all lines of some memory at once: they come together in the time of one, and not one after the other. */
static inline void cr_fetch_lines(const void *from, size_t size_bytes)
{
    const char *line = (const char *)((uintptr_t)from & ~(uintptr_t)63), *end = (const char *)from + size_bytes;
    for (; line < end; line += 64) {
#if defined(CR_HAVE_X86)
        _mm_prefetch(line, _MM_HINT_T0);
#elif defined(__GNUC__)
        __builtin_prefetch(line);
#endif
    }
}

typedef enum { CR_ISA_SCALAR, CR_ISA_SSE2, CR_ISA_AVX2, CR_ISA_AVX512, CR_ISA_NEON, CR_ISA_COUNT } cr_isa;

static inline const char *cr_isa_name(cr_isa isa)
{
    static const char *const names[CR_ISA_COUNT] = {"scalar", "sse2", "avx2", "avx512", "neon"};
    return names[isa];
}

/* The level of this name, or CR_ISA_COUNT. */
static inline cr_isa cr_isa_named(const char *name)
{
    int isa = CR_ISA_SCALAR;
    while (isa < CR_ISA_COUNT && strcmp(name, cr_isa_name((cr_isa)isa)))
        isa++;
    return (cr_isa)isa;
}

#if defined(CR_HAVE_X86) && defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
/* 1 if all bits of `ecx1` (leaf 1), `ebx7` and `ecx7` (leaf 7) are there and XCR0 has all of `saved`. */
static inline int cr_cpuid_has(unsigned ecx1, unsigned ebx7, unsigned ecx7, unsigned saved)
{
    const unsigned xsave_in_use = 1u << 27;
    int leaf[4];
    __cpuid(leaf, 0);
    if (leaf[0] < 7)
        return 0;
    __cpuid(leaf, 1);
    if (~(unsigned)leaf[2] & (ecx1 | xsave_in_use))
        return 0;
    if (~(unsigned)_xgetbv(0) & saved)
        return 0;
    __cpuidex(leaf, 7, 0);
    return !(~(unsigned)leaf[1] & ebx7) && !(~(unsigned)leaf[2] & ecx7);
}
#define CR_CPU_HAS_AVX2 cr_cpuid_has(1u << 28 | 1u << 12, 1u << 5, 0, 0x06)
#define CR_CPU_HAS_AVX512 cr_cpuid_has(1u << 28 | 1u << 12, 1u << 5 | 1u << 16 | 1u << 30 | 1u << 31, 1u << 1, 0xE6)
#define CR_CPU_HAS_VNNI cr_cpuid_has(1u << 28, 0, 1u << 11, 0xE6)
#elif defined(CR_HAVE_X86)
#define CR_CPU_HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#define CR_CPU_HAS_AVX512                                                                                             \
    (CR_CPU_HAS_AVX2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&                    \
     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi"))
#define CR_CPU_HAS_VNNI __builtin_cpu_supports("avx512vnni")
#endif

/* 1 if this machine runs code of that level. Not for every call: ask once, at import. */
static inline int cr_cpu_has(cr_isa isa)
{
#if defined(CR_HAVE_X86) && !(defined(_MSC_VER) && !defined(__clang__))
    __builtin_cpu_init();
#endif
    switch (isa) {
    case CR_ISA_SCALAR: return 1;
#ifdef CR_HAVE_X86
    case CR_ISA_SSE2: return 1;
    case CR_ISA_AVX2: return CR_CPU_HAS_AVX2;
    case CR_ISA_AVX512: return CR_CPU_HAS_AVX512;
#endif
#ifdef CR_HAVE_NEON
    case CR_ISA_NEON: return 1;
#endif
    default: return 0;
    }
}

/* 1 if a function marked CR_TARGET_AVX512_VNNI may be called: no level of its own, an addition to avx512. */
static inline int cr_cpu_has_vnni(void)
{
#ifdef CR_HAVE_X86
    return cr_cpu_has(CR_ISA_AVX512) && CR_CPU_HAS_VNNI;
#else
    return 0;
#endif
}

#endif
