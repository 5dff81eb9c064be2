/* What a spool asks of a disk, in as few calls as can be: each call from Python waits for the GIL when it is done.
 *
 *   many writes to many open files    what is left of one that was cut short is written too, or its error is kept; where
 *                                     one fails, those to the same file that follow it at once are not tried: a header
 *                                     must not count what is missing
 *   a file opened, written, closed    an error of close counts: it is one of the writing
 *   many files and folders synced     each by itself; what is not there needs none of it */
#ifndef CALLREEL_DISK_WRITES_H
#define CALLREEL_DISK_WRITES_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define CR_DISK_IS_SERVED 0
#else
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#define CR_DISK_IS_SERVED 1
#endif

typedef struct {
    int descriptor, error; /* 0: all of it is written */
    int64_t offset;
    const char *data;
    size_t size_bytes;
} cr_disk_write;

#if CR_DISK_IS_SERVED

/* The errno, 0 when all is written. */
static inline int cr_disk_write_whole(int descriptor, int64_t offset, const char *data, size_t size_bytes)
{
    size_t done = 0;
    while (done < size_bytes) {
        ssize_t some = pwrite(descriptor, data + done, size_bytes - done, (off_t)(offset + (int64_t)done));
        if (some < 0 && errno == EINTR)
            continue;
        if (some <= 0)
            return some < 0 ? errno : EIO;
        done += (size_t)some;
    }
    return 0;
}

static inline void cr_disk_write_all(cr_disk_write *writes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        cr_disk_write *w = &writes[i];
        if (i && writes[i - 1].error && writes[i - 1].descriptor == w->descriptor)
            w->error = writes[i - 1].error;
        else
            w->error = cr_disk_write_whole(w->descriptor, w->offset, w->data, w->size_bytes);
    }
}

static inline int cr_disk_open(const char *path, int flags, unsigned mode)
{
    int descriptor;
    do
        descriptor = open(path, flags | O_CLOEXEC, mode);
    while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

/* Write to the file at `path`, which is made if need be, with `empties` in place of all that it held; the errno, or 0. */
static inline int cr_disk_put(const char *path, int64_t offset, const char *data, size_t size_bytes, int empties,
                              unsigned mode)
{
    int descriptor = cr_disk_open(path, O_WRONLY | O_CREAT | (empties ? O_TRUNC : 0), mode), error;
    if (descriptor < 0)
        return errno;
    error = cr_disk_write_whole(descriptor, offset, data, size_bytes);
    if (close(descriptor) < 0 && !error && errno != EINTR) /* with EINTR it is closed, and nothing is known to be wrong */
        error = errno;
    return error;
}

/* Have a file or a folder last; the errno, or 0, also when it is not there. */
static inline int cr_disk_sync(const char *path)
{
    int descriptor = cr_disk_open(path, O_RDONLY, 0), error = 0;
    if (descriptor < 0)
        return errno == ENOENT ? 0 : errno;
    while (fsync(descriptor) < 0) {
        if (errno != EINTR) {
            error = errno;
            break;
        }
    }
    close(descriptor); /* what it says was said of the writing */
    return error;
}

#else

static inline void cr_disk_write_all(cr_disk_write *writes, size_t count) { (void)writes, (void)count; }
static inline int cr_disk_put(const char *path, int64_t offset, const char *data, size_t size_bytes, int empties,
                              unsigned mode)
{
    (void)path, (void)offset, (void)data, (void)size_bytes, (void)empties, (void)mode;
    return ENOSYS;
}
static inline int cr_disk_sync(const char *path) { (void)path; return ENOSYS; }

#endif

#endif
