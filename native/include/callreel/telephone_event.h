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
    if (t->digit_count == CR_DIGITS) {
        t->digit_head = (t->digit_head + 1) % CR_DIGITS;
        t->digit_count--;
    }
    digit = &t->digits[(t->digit_head + t->digit_count++) % CR_DIGITS];
    digit->position = e->position;
    digit->duration = e->duration;
    digit->code = e->code;
}

static inline void cr_events_expire(cr_track *t, int64_t arrival)
{
    for (uint32_t i = 0; i < t->event_count; i++)
        if (!t->events[i].ended && arrival - t->events[i].last_arrival > cr_ms(t, CR_EVENT_IDLE_MS))
            cr_event_end(t, &t->events[i]);
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

static inline cr_event *cr_event_begin(cr_track *t)
{
    for (uint32_t i = 0; i < t->event_count; i++)
        cr_event_end(t, &t->events[i]);
    if (t->event_count == CR_EVENTS) {
        memmove(&t->events[0], &t->events[1], (CR_EVENTS - 1) * sizeof t->events[0]);
        t->event_count--;
    }
    return &t->events[t->event_count++];
}

#endif
