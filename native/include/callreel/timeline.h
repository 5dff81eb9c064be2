/* One track's true timeline: RTP packets (or host frames) in, gap-free PCM on the recorder's clock out.
 *
 * Two clocks, one map. Samples are kept by their number in the *stream* (sample_store.h); where they stand on the
 * *timeline* (sample n is the moment origin + n / rate) is decided by segments, and only when they are read, more than a
 * second later, when all that could still speak about them has arrived:
 *
 *   stream    |######|#########|     |#####|            numbers without the silence between
 *              \      \         \     \     \
 *   timeline    |######|.........#########|......|#####|
 *                                ^ a segment: its place by RTP timestamp, or by arrival when the stream starts anew
 *
 * Requirements (docs/architecture.md, "Rules of the timeline"), each a named test in tests/unit/test_legs.py:
 *   1. The first packet stands at its arrival, later ones by RTP timestamp.
 *   2. A packet up to `late` late lands in its place, also across a reordering; later ones are counted.
 *   3. Lost audio is concealed for up to 60 ms; a pause the sender made (no sequence number missing) is silence, and so
 *      is a loss that lasts longer than `late`: in time for the reader, nobody can tell the two apart.
 *   4. A new SSRC, a timestamp that jumps by more than 2 s against the clock, a sender that stopped its clock: the stream
 *      is anchored anew by arrival; nothing overlaps.
 *   5. Drift is measured (drift.h) and taken out by resampling, never by a jump.
 *   6. Telephone events sound where the stream has no audio of its own.
 *   7. The result does not depend on how packets are batched or when it is read.
 *   8. Memory is fixed at creation.
 */
#ifndef CALLREEL_TIMELINE_H
#define CALLREEL_TIMELINE_H

#include "callreel/placing.h"         /* stream numbers and segments */
#include "callreel/reading.h"         /* PCM out */
#include "callreel/receiving.h"       /* packets in */
#include "callreel/telephone_event.h" /* keys */
#include "callreel/track.h"           /* the state of it all */

/* Called once when a module is imported: its kernels in the version for that level. */
static inline void cr_timeline_use(cr_isa isa)
{
    cr_g711_use(isa);
    cr_retime_use(isa);
    cr_conceal_use(isa);
}

#endif
