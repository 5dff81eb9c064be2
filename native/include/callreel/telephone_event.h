/* Telephone events (RFC 4733): keys sent beside or in place of audio.
 *
 *    0                   1                   2                   3
 *    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *   |     event     |E|R| volume    |          duration             |
 *
 * One event = one RTP timestamp, however many packets repeat it and whatever their marker bits say. It ends with its
 * E bit, with the next event, or by itself CR_EVENT_IDLE_MS after its last packet. */
#ifndef CALLREEL_TELEPHONE_EVENT_H
#define CALLREEL_TELEPHONE_EVENT_H

#include <stdint.h>
#include <string.h>

#include "callreel/track.h"

static inline void cr_event_end(cr_track *t, cr_event *e)
{
    cr_event_digit *digit;
    if (e->ended)
        return;
    e->ended = 1;
    if (e->code > 15)
        return; /* hook flash, modem and trunk signals: no digit, no tone */
    t->digits = (cr_event_digit *)cr_roomier(t->digits, t->digit_count, &t->digit_capacity, CR_DIGITS, sizeof *digit);
    if (t->digit_count == t->digit_capacity) {
        if (!t->digit_count)
            return;
        t->digit_count--;
        memmove(&t->digits[0], &t->digits[1], t->digit_count * sizeof *digit);
    }
    digit = &t->digits[t->digit_count++];
    digit->position = e->position;
    digit->duration = e->duration;
    digit->code = e->code;
}

static inline void cr_events_expire(cr_track *t, int64_t arrival)
{
    cr_event *last = t->event_count ? &t->events[t->event_count - 1] : NULL;
    if (last && !last->ended && arrival - last->last_arrival > cr_ms(t, CR_EVENT_IDLE_MS))
        cr_event_end(t, last);
}

static inline cr_event *cr_event_find(cr_track *t, uint32_t timestamp, uint8_t code)
{
    for (uint32_t i = 0; i < t->event_count; i++) {
        cr_event *e = &t->events[i];
        if (e->code == code && e->timestamp == timestamp)
            return e;
    }
    return NULL;
}

/* A new one, which ends the one before; where there is no room for more the oldest makes place. NULL: no memory. */
static inline cr_event *cr_event_begin(cr_track *t)
{
    if (t->event_count)
        cr_event_end(t, &t->events[t->event_count - 1]);
    t->events = (cr_event *)cr_roomier(t->events, t->event_count, &t->event_capacity, CR_EVENTS, sizeof *t->events);
    if (t->event_count == t->event_capacity) {
        if (!t->event_count)
            return NULL;
        t->event_count--;
        memmove(&t->events[0], &t->events[1], t->event_count * sizeof t->events[0]);
    }
    return &t->events[t->event_count++];
}

#endif
