/*
 * Preloaded into a daemon: makes calls on the files of one file system, or below one directory,
 * fail now and then. What and how often is in a file that the test maps too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READ, WRITE, SYNC, NAME, KINDS };

static struct control {
    uint32_t one_in[KINDS]; /* 0: never */
    uint32_t error[KINDS];
    uint32_t failed[KINDS];
} *control;

static dev_t device;
static const char *below;
static _Thread_local uint64_t state;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAULTY_CONTROL");
    below = getenv("FAULTY_BELOW");
    struct stat status;
    if (!path || !below || stat(below, &status)) return;
    device = status.st_dev;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED) control = at;
}

static int fails(int kind) {
    uint32_t one_in = control->one_in[kind];
    if (!one_in) return 0;
    if (!state) state = (uint64_t)gettid() * 0x9e3779b97f4a7c15u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    if (state % one_in) return 0;
    __atomic_fetch_add(&control->failed[kind], 1, __ATOMIC_RELAXED);
    errno = control->error[kind];
    return 1;
}

static int fd_fails(int fd, int kind) {
    struct stat status;
    return control && control->one_in[kind] && !fstat(fd, &status) && status.st_dev == device &&
           S_ISREG(status.st_mode) && fails(kind);
}

static int path_fails(const char *path) {
    return control && path && !strncmp(path, below, strlen(below)) && fails(NAME);
}

#define NEXT(type, name, ...)                              \
    static type (*next)(__VA_ARGS__);                      \
    if (!next) next = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define ON_FD(type, name, kind, params, ...)               \
    type name params {                                     \
        NEXT(type, #name, TYPES_##name);                   \
        return fd_fails(fd, kind) ? -1 : next(__VA_ARGS__); \
    }

#define TYPES_pread64 int, void *, size_t, off64_t
#define TYPES_pread int, void *, size_t, off_t
#define TYPES_read int, void *, size_t
#define TYPES_pwrite64 int, const void *, size_t, off64_t
#define TYPES_pwrite int, const void *, size_t, off_t
#define TYPES_write int, const void *, size_t
#define TYPES_ftruncate64 int, off64_t
#define TYPES_ftruncate int, off_t
#define TYPES_fsync int
#define TYPES_fdatasync int
#define TYPES_fchmod int, mode_t

ON_FD(ssize_t, pread64, READ, (int fd, void *b, size_t n, off64_t o), fd, b, n, o)
ON_FD(ssize_t, pread, READ, (int fd, void *b, size_t n, off_t o), fd, b, n, o)
ON_FD(ssize_t, read, READ, (int fd, void *b, size_t n), fd, b, n)
ON_FD(ssize_t, pwrite64, WRITE, (int fd, const void *b, size_t n, off64_t o), fd, b, n, o)
ON_FD(ssize_t, pwrite, WRITE, (int fd, const void *b, size_t n, off_t o), fd, b, n, o)
ON_FD(ssize_t, write, WRITE, (int fd, const void *b, size_t n), fd, b, n)
ON_FD(int, ftruncate64, WRITE, (int fd, off64_t n), fd, n)
ON_FD(int, ftruncate, WRITE, (int fd, off_t n), fd, n)
ON_FD(int, fsync, SYNC, (int fd), fd)
ON_FD(int, fdatasync, SYNC, (int fd), fd)
ON_FD(int, fchmod, NAME, (int fd, mode_t m), fd, m)

int rename(const char *from, const char *to) {
    NEXT(int, "rename", const char *, const char *);
    return path_fails(from) ? -1 : next(from, to);
}

int unlink(const char *path) {
    NEXT(int, "unlink", const char *);
    return path_fails(path) ? -1 : next(path);
}

int mkdir(const char *path, mode_t mode) {
    NEXT(int, "mkdir", const char *, mode_t);
    return path_fails(path) ? -1 : next(path, mode);
}

#define OPEN(name)                                                      \
    int name(const char *path, int flags, ...) {                        \
        NEXT(int, #name, const char *, int, ...);                       \
        mode_t mode = 0;                                                \
        if (flags & (O_CREAT | O_TMPFILE)) {                            \
            va_list more;                                               \
            va_start(more, flags);                                      \
            mode = va_arg(more, mode_t);                                \
            va_end(more);                                               \
        }                                                               \
        return path_fails(path) ? -1 : next(path, flags, mode);         \
    }

OPEN(open)
OPEN(open64)
