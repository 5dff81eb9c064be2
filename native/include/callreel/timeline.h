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
 *   6. Telephone events sound where the stream has no audio of its own. Under an SSRC that is not the source's they are
 *      the source's all the same, and stand where they came.
 *   7. The result does not depend on how packets are batched or when it is read.
 *   8. Memory is bounded at creation, taken when audio comes, and given back when it has been read.
 */
#ifndef CALLREEL_TIMELINE_H
#define CALLREEL_TIMELINE_H

#include "callreel/placing.h"         /* stream numbers and segments */
#include "callreel/reading.h"         /* PCM out */
#include "callreel/receiving.h"       /* packets in */
#include "callreel/telephone_event.h" /* keys */
#include "callreel/track.h"           /* the state of it all */

/* A call's turn comes every 0.2 s. With thousands of them its state has left the caches by then, and is asked for in
 * three goes that need the one before: what receiving looks at, ... */
static inline void cr_track_fetch(const cr_track *t)
{
    cr_fetch_lines(t, offsetof(cr_track, holes) + sizeof t->holes[0]);
    cr_fetch_lines(&t->hole_count, sizeof t->hole_count);
    cr_fetch_lines(&t->drift.block_at, offsetof(cr_track, conceal) - offsetof(cr_track, drift.block_at));
    cr_fetch_lines(t + 1, 240); /* the pages of a store of 3.6 s, where they stand right behind the track */
    cr_fetch_lines(&t->events, sizeof *t - offsetof(cr_track, events));
}

static inline void cr_track_fetch_store(const cr_track *t, int64_t number, uint32_t ms)
{
    const cr_sample_store *s = &t->store;
    uint32_t count = ms * t->samples_per_ms, from, part;
    for (count = cr_store_clip(s, &number, count); count; number += part, count -= part) {
        const cr_page *page = *cr_store_page(s, number);
        part = cr_store_part(number, count, &from);
        if (!page)
            continue;
        cr_fetch_lines(page, sizeof *page);
        cr_fetch_lines(page->samples + (size_t)from * s->sample_bytes, (size_t)part * s->sample_bytes);
    }
}

/* ... where the next `ms` of audio go, ... */
static inline void cr_track_fetch_room(const cr_track *t, uint32_t ms)
{
    cr_track_fetch_store(t, t->timestamp_first, ms);
    cr_fetch_lines(cr_last_segment(t), sizeof(cr_segment));
    if (t->drift.line_count)
        cr_fetch_lines(&t->drift.lines[(t->drift.line_count - 1) % CR_DRIFT_LINES], sizeof t->drift.lines[0]);
}

/* ... and what is heard and read after that. */
static inline void cr_track_fetch_reading(const cr_track *t, uint32_t ms)
{
    cr_track_fetch_store(t, t->fill_next, ms);
    cr_fetch_lines(&t->conceal, sizeof t->conceal);
    cr_fetch_lines(t->history, sizeof t->history);
}

/* Called once when a module is imported: its kernels in the version for that level. */
static inline void cr_timeline_use(cr_isa isa)
{
    cr_g711_use(isa);
    cr_retime_use(isa);
    cr_conceal_use(isa);
}

#endif
