/* Four float32 side by side, in whatever every machine of its kind has: no version to choose, no target to mark.
 *
 * Every function is the plain one, four times, rounded the same: SSE2 and NEON give the bits of the last branch.
 * CR_FOUR_PLAIN compiles that branch everywhere, for tests.
 */
#ifndef CALLREEL_FOUR_H
#define CALLREEL_FOUR_H

#include <math.h>

#include "callreel/cpu.h"

#if defined(CR_HAVE_X86) && !defined(CR_FOUR_PLAIN)
typedef __m128 cr_four;

CR_FORCE_INLINE cr_four cr_four_load(const float *p) { return _mm_loadu_ps(p); }
CR_FORCE_INLINE void cr_four_store(float *p, cr_four v) { _mm_storeu_ps(p, v); }
CR_FORCE_INLINE cr_four cr_four_all(float x) { return _mm_set1_ps(x); }
/* Two from each address. */
CR_FORCE_INLINE cr_four cr_four_join(const float *low, const float *high)
{
    return _mm_castsi128_ps(_mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)(const void *)low),
                                               _mm_loadl_epi64((const __m128i *)(const void *)high)));
}
CR_FORCE_INLINE cr_four cr_four_add(cr_four a, cr_four b) { return _mm_add_ps(a, b); }
CR_FORCE_INLINE cr_four cr_four_sub(cr_four a, cr_four b) { return _mm_sub_ps(a, b); }
CR_FORCE_INLINE cr_four cr_four_mul(cr_four a, cr_four b) { return _mm_mul_ps(a, b); }
CR_FORCE_INLINE cr_four cr_four_div(cr_four a, cr_four b) { return _mm_div_ps(a, b); }
CR_FORCE_INLINE cr_four cr_four_sqrt(cr_four a) { return _mm_sqrt_ps(a); }
/* low low high high */
CR_FORCE_INLINE cr_four cr_four_pairs(float low, float high)
{
    return _mm_shuffle_ps(_mm_set_ss(low), _mm_set_ss(high), 0);
}
/* b a d c */
CR_FORCE_INLINE cr_four cr_four_swapped(cr_four a) { return _mm_shuffle_ps(a, a, 0xB1); }
CR_FORCE_INLINE float cr_four_first(cr_four a) { return _mm_cvtss_f32(a); }
CR_FORCE_INLINE float cr_four_third(cr_four a) { return _mm_cvtss_f32(_mm_movehl_ps(a, a)); }

#elif defined(CR_HAVE_NEON) && !defined(CR_FOUR_PLAIN)
typedef float32x4_t cr_four;

CR_FORCE_INLINE cr_four cr_four_load(const float *p) { return vld1q_f32(p); }
CR_FORCE_INLINE void cr_four_store(float *p, cr_four v) { vst1q_f32(p, v); }
CR_FORCE_INLINE cr_four cr_four_all(float x) { return vdupq_n_f32(x); }
CR_FORCE_INLINE cr_four cr_four_join(const float *low, const float *high)
{
    return vcombine_f32(vld1_f32(low), vld1_f32(high));
}
CR_FORCE_INLINE cr_four cr_four_add(cr_four a, cr_four b) { return vaddq_f32(a, b); }
CR_FORCE_INLINE cr_four cr_four_sub(cr_four a, cr_four b) { return vsubq_f32(a, b); }
CR_FORCE_INLINE cr_four cr_four_mul(cr_four a, cr_four b) { return vmulq_f32(a, b); }
CR_FORCE_INLINE cr_four cr_four_div(cr_four a, cr_four b) { return vdivq_f32(a, b); }
CR_FORCE_INLINE cr_four cr_four_sqrt(cr_four a) { return vsqrtq_f32(a); }
CR_FORCE_INLINE cr_four cr_four_pairs(float low, float high) { return vcombine_f32(vdup_n_f32(low), vdup_n_f32(high)); }
CR_FORCE_INLINE cr_four cr_four_swapped(cr_four a) { return vrev64q_f32(a); }
CR_FORCE_INLINE float cr_four_first(cr_four a) { return vgetq_lane_f32(a, 0); }
CR_FORCE_INLINE float cr_four_third(cr_four a) { return vgetq_lane_f32(a, 2); }

#else
typedef struct { float of[4]; } cr_four;

CR_FORCE_INLINE cr_four cr_four_of(float a, float b, float c, float d)
{
    cr_four four = {{a, b, c, d}};
    return four;
}
CR_FORCE_INLINE cr_four cr_four_load(const float *p) { return cr_four_of(p[0], p[1], p[2], p[3]); }
CR_FORCE_INLINE void cr_four_store(float *p, cr_four v) { memcpy(p, v.of, sizeof v.of); }
CR_FORCE_INLINE cr_four cr_four_all(float x) { return cr_four_of(x, x, x, x); }
CR_FORCE_INLINE cr_four cr_four_join(const float *low, const float *high)
{
    return cr_four_of(low[0], low[1], high[0], high[1]);
}
#define CR_FOUR_EACH(name, op)                                                                                        \
    CR_FORCE_INLINE cr_four cr_four_##name(cr_four a, cr_four b)                                                      \
    {                                                                                                                 \
        return cr_four_of(a.of[0] op b.of[0], a.of[1] op b.of[1], a.of[2] op b.of[2], a.of[3] op b.of[3]);            \
    }
CR_FOUR_EACH(add, +)
CR_FOUR_EACH(sub, -)
CR_FOUR_EACH(mul, *)
CR_FOUR_EACH(div, /)
#undef CR_FOUR_EACH
CR_FORCE_INLINE cr_four cr_four_sqrt(cr_four a)
{
    return cr_four_of(sqrtf(a.of[0]), sqrtf(a.of[1]), sqrtf(a.of[2]), sqrtf(a.of[3]));
}
CR_FORCE_INLINE cr_four cr_four_pairs(float low, float high) { return cr_four_of(low, low, high, high); }
CR_FORCE_INLINE cr_four cr_four_swapped(cr_four a) { return cr_four_of(a.of[1], a.of[0], a.of[3], a.of[2]); }
CR_FORCE_INLINE float cr_four_first(cr_four a) { return a.of[0]; }
CR_FORCE_INLINE float cr_four_third(cr_four a) { return a.of[2]; }
#endif

/* Of two complex numbers, each real part first: `a` turned by `re` (cos and cos) and `im` (-sin and sin), plus `b`. */
CR_FORCE_INLINE cr_four cr_four_turned(cr_four a, cr_four re, cr_four im, cr_four b)
{
    return cr_four_add(cr_four_add(cr_four_mul(a, re), cr_four_mul(cr_four_swapped(a), im)), b);
}

/* Their squared magnitudes, each twice. */
CR_FORCE_INLINE cr_four cr_four_powers(cr_four a)
{
    const cr_four squares = cr_four_mul(a, a);
    return cr_four_add(squares, cr_four_swapped(squares));
}

#endif
