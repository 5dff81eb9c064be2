/* Many writes to many files in one go: what is left of a write that was cut short is written too, or its error is kept.
 * Where one fails, those to the same file that follow it at once are not tried: a header must not count what is missing. */
#ifndef CALLREEL_DISK_WRITES_H
#define CALLREEL_DISK_WRITES_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define CR_DISK_IS_SERVED 0
#else
#include <unistd.h>
#define CR_DISK_IS_SERVED 1
#endif

typedef struct {
    int descriptor, error; /* 0: all of it is written */
    int64_t offset;
    const char *data;
    size_t size_bytes;
} cr_disk_write;

static inline void cr_disk_write_all(cr_disk_write *writes, size_t count)
{
#if CR_DISK_IS_SERVED
    for (size_t i = 0; i < count; i++) {
        cr_disk_write *w = &writes[i];
        size_t done = 0;
        if (i && writes[i - 1].error && writes[i - 1].descriptor == w->descriptor) {
            w->error = writes[i - 1].error;
            continue;
        }
        while (done < w->size_bytes) {
            ssize_t some = pwrite(w->descriptor, w->data + done, w->size_bytes - done, (off_t)(w->offset + (int64_t)done));
            if (some < 0 && errno == EINTR)
                continue;
            if (some <= 0) {
                w->error = some < 0 ? errno : EIO;
                break;
            }
            done += (size_t)some;
        }
    }
#else
    (void)writes, (void)count;
#endif
}

#endif
