/* Makes system calls on files below a given folder fail, and counts such calls.  Loaded by LD_PRELOAD.

   A call is named by its kind and its file's role: the path below the folder with numbers and checksums as '#'.
   arm() names the k-th call of one kind and role, and the error that it is to end with.

   arm_change() counts the calls that change something, whatever their file, and says what becomes of the k-th:
   it is the last one of a process that is killed, before it or in the middle of a write; it fails, or it and all after
   it do; it writes a part; or the disk is full from then on, until files are removed.

   trace() writes each call that changed something to a file, with the bytes that were written: a line of the kind, the
   path, the other path, the number of the file, the offset or size, and how many bytes follow. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char folder[4096];        /* "" while nothing is watched */
static char wanted[4200];        /* "kind role" of the call that fails; "" for none */
static long nth, wrong, met, hits;
static char *list;               /* "kind role\n" of all calls so far */
static size_t used, room;
enum how { NOTHING, KILL, CUT, ONCE, LASTING, SHORT, FULL };
static enum how how;             /* what becomes of the k-th call that changes something */
static long at_change, changes, freed;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

void arm(const char *where, const char *what, long k, int error) {
    pthread_mutex_lock(&mutex);
    snprintf(folder, sizeof folder, "%s", where);
    snprintf(wanted, sizeof wanted, "%s", what);
    nth = k, wrong = error, met = hits = 0, used = 0, how = NOTHING;
    if (list) *list = 0;
    pthread_mutex_unlock(&mutex);
}
long fired(void) { return hits; }
const char *calls(void) { return list ? list : ""; }

void arm_change(const char *where, int what, long k, int error) {
    pthread_mutex_lock(&mutex);
    snprintf(folder, sizeof folder, "%s", where);
    how = what, at_change = k, wrong = error, changes = freed = hits = 0, *wanted = 0;
    pthread_mutex_unlock(&mutex);
}
long changed(void) { return changes; }

static int below(const char *path) {
    size_t length = strlen(folder);
    return length && path && !strncmp(path, folder, length) && (!path[length] || path[length] == '/');
}

/* The absolute path of a file that is named relative to an open folder, or of that itself; 0 if there is none. */
static int absolute(int dir, const char *path, char *whole, size_t size) {
    if (path && *path == '/') return snprintf(whole, size, "%s", path) < (int)size;
    char name[64];
    int before = errno;
    if (dir == AT_FDCWD) snprintf(name, sizeof name, "/proc/self/cwd");
    else snprintf(name, sizeof name, "/proc/self/fd/%d", dir);
    long n = syscall(SYS_readlink, name, whole, size - 1);
    errno = before;
    if (n < 0) return 0;
    whole[n] = 0;
    if (path && *path) snprintf(whole + n, size - n, "/%s", path);
    return 1;
}

static long size_of(const char *path) {
    struct stat found;
    int before = errno;
    long n = syscall(SYS_newfstatat, AT_FDCWD, path, &found, AT_SYMLINK_NOFOLLOW) ? 0 : found.st_size;
    errno = before;
    return n;
}

/* What becomes of a call that changes something: -1 it fails; else how many of n bytes are written.
   gives: the file whose bytes become free by it. */
static long change(int dir, const char *path, long n, int dir2, const char *gives) {
    char whole[8192], other[8192];
    if (how == NOTHING || !*folder || !absolute(dir, path, whole, sizeof whole) || !below(whole)) return n;
    pthread_mutex_lock(&mutex);
    long number = ++changes, result = n;
    int now = number == at_change, since = number >= at_change;
    if (how == KILL && now) kill(getpid(), SIGKILL);
    else if (how == CUT && since && n > 1 && !hits) hits++, result = n / 2;
    else if (how == SHORT && since && n > 1 && !hits) hits++, result = n / 2;
    else if ((how == ONCE && now) || (how == LASTING && since)) hits++, result = -1;
    else if (how == FULL && since) {
        if (gives && absolute(dir2, gives, other, sizeof other)) freed += size_of(other);
        if (n > 0) {
            if (freed <= 0) hits++, result = -1;
            else if (n > freed) hits++, result = freed;
            if (result > 0) freed -= result;
        }
    }
    if (result < 0) errno = wrong;
    pthread_mutex_unlock(&mutex);
    return result;
}
static void after_change(void) { if (how == CUT && hits) kill(getpid(), SIGKILL); }
static int makes(int flags) { return flags & (O_CREAT | O_TRUNC); }

static int tracing = -1;
void trace(const char *to) { tracing = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600); }

/* Writes a call that succeeded to the trace; dir and path, or an open file and "". */
static void note(const char *kind, int dir, const char *path, int dir2, const char *to, long at, const void *data, long n) {
    char whole[8192], other[8192] = "", line[20000];
    if (tracing < 0 || !absolute(dir, path, whole, sizeof whole) || !below(whole)) return;
    if (to) absolute(dir2, to, other, sizeof other);
    struct stat found = {0};
    int before = errno;
    if (*path) syscall(SYS_newfstatat, AT_FDCWD, whole, &found, AT_SYMLINK_NOFOLLOW);
    else syscall(SYS_fstat, dir, &found);
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\t%ld\t%ld\t%ld\n", kind, whole, other, (long)found.st_ino, at, n);
    pthread_mutex_lock(&mutex);
    syscall(SYS_write, tracing, line, length);
    for (long done = 0, part; done < n; done += part)
        if ((part = syscall(SYS_write, tracing, (const char *)data + done, n - done)) <= 0) break;
    pthread_mutex_unlock(&mutex);
    errno = before;
}
static long place_of(int file) {
    struct stat found;
    if (tracing < 0) return 0;
    int flags = syscall(SYS_fcntl, file, F_GETFL);
    if (!(flags & O_APPEND)) return syscall(SYS_lseek, file, 0, SEEK_CUR);
    return syscall(SYS_fstat, file, &found) ? 0 : found.st_size;
}
static int opened(int file, int flags) {
    if (file >= 0 && makes(flags)) note("open", file, "", 0, NULL, !!(flags & O_TRUNC), NULL, 0);
    return file;
}

static int digit(char c) { return c >= '0' && c <= '9'; }
static int hex(char c) { return digit(c) || (c >= 'a' && c <= 'f'); }

static void role_of(const char *path, char *role, size_t size) {
    size_t n = 0;
    while (*path && n + 2 < size) {
        size_t letters = 0;
        while (hex(path[letters])) letters++;
        if (letters >= 8) { /* of a temporary name, or of a checksum in a name */
            role[n++] = '#';
            path += letters;
        } else if (digit(*path)) {
            role[n++] = '#';
            while (digit(*path)) path++;
        } else role[n++] = *path++;
    }
    role[n] = 0;
}

/* Whether this call is the one that is to fail. */
static int fails(const char *kind, const char *path) {
    if (!below(path)) return 0;
    size_t length = strlen(folder);
    char role[4096], call[4200];
    role_of(path[length] ? path + length + 1 : ".", role, sizeof role);
    snprintf(call, sizeof call, "%s %s", kind, role);
    int fail = 0;
    pthread_mutex_lock(&mutex);
    size_t more = strlen(call) + 2;
    if (used + more > room) list = realloc(list, room = 2 * (used + more) + 65536);
    used += sprintf(list + used, "%s\n", call);
    if (*wanted && !strcmp(call, wanted) && ++met == nth) fail = 1, hits++;
    pthread_mutex_unlock(&mutex);
    if (fail) errno = wrong;
    return fail;
}

static int at(const char *kind, int dir, const char *path) {
    char whole[8192];
    if (!*folder || !path || !absolute(dir, path, whole, sizeof whole)) return 0;
    return fails(kind, whole);
}

static int on(const char *kind, int file) { return file < 0 ? 0 : at(kind, file, ""); }

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(name) int name(const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    REAL(int, #name, const char *, int, ...); \
    if (makes(flags) && change(AT_FDCWD, path, 0, 0, NULL) < 0) return -1; \
    return at("open", AT_FDCWD, path) ? -1 : opened(real(path, flags, mode), flags); }
OPEN(open) OPEN(open64)
#define OPENAT(name) int name(int dir, const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    REAL(int, #name, int, const char *, int, ...); \
    if (makes(flags) && change(dir, path, 0, 0, NULL) < 0) return -1; \
    return at("open", dir, path) ? -1 : opened(real(dir, path, flags, mode), flags); }
OPENAT(openat) OPENAT(openat64)

#define ON(result, name, kind, types, names) result name types { \
    static result (*real) types; if (!real) real = (result(*) types)dlsym(RTLD_NEXT, #name); \
    return on(kind, file) ? -1 : real names; }
ON(ssize_t, read, "read", (int file, void *to, size_t n), (file, to, n))
ON(ssize_t, pread, "read", (int file, void *to, size_t n, off_t from), (file, to, n, from))
ON(ssize_t, pread64, "read", (int file, void *to, size_t n, off_t from), (file, to, n, from))
ssize_t write(int file, const void *from, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (on("write", file)) return -1;
    long part = file < 0 ? (long)n : change(file, "", n, 0, NULL);
    if (part < 0) return -1;
    long place = place_of(file);
    ssize_t written = real(file, from, part);
    if (written > 0) note("write", file, "", 0, NULL, place, from, written);
    if (part < (long)n) after_change();
    return written;
}
ON(int, flock, "flock", (int file, int what), (file, what))
#define CHANGED(name, kind, types, names, size) int name types { \
    static int (*real) types; if (!real) real = (int(*) types)dlsym(RTLD_NEXT, #name); \
    int result = on(kind, file) || (file >= 0 && change(file, "", 0, 0, NULL) < 0) ? -1 : real names; \
    if (!result) note(kind, file, "", 0, NULL, size, NULL, 0); \
    return result; }
CHANGED(fsync, "fsync", (int file), (file), 0)
CHANGED(fdatasync, "fsync", (int file), (file), 0)
CHANGED(ftruncate, "truncate", (int file, off_t n), (file, n), n)
CHANGED(ftruncate64, "truncate", (int file, off_t n), (file, n), n)
ON(off_t, lseek, "seek", (int file, off_t to, int how), (file, to, how))
ON(off_t, lseek64, "seek", (int file, off_t to, int how), (file, to, how))
ON(int, fstat, "stat", (int file, struct stat *to), (file, to))
ON(int, fstat64, "stat", (int file, struct stat64 *to), (file, to))

#define PATH(name, kind, types, names) int name types { \
    static int (*real) types; if (!real) real = (int(*) types)dlsym(RTLD_NEXT, #name); \
    return at(kind, AT_FDCWD, path) ? -1 : real names; }
PATH(stat, "stat", (const char *path, struct stat *to), (path, to))
PATH(stat64, "stat", (const char *path, struct stat64 *to), (path, to))
PATH(lstat, "stat", (const char *path, struct stat *to), (path, to))
PATH(lstat64, "stat", (const char *path, struct stat64 *to), (path, to))
PATH(access, "stat", (const char *path, int what), (path, what))

#define CHANGE(name, kind, types, names, dir, dir2, gives) int name types { \
    static int (*real) types; if (!real) real = (int(*) types)dlsym(RTLD_NEXT, #name); \
    int result = at(kind, dir, path) || change(dir, path, 0, dir2, gives) < 0 ? -1 : real names; \
    if (!result) note(kind, dir, path, dir2, gives, 0, NULL, 0); \
    return result; }
CHANGE(mkdir, "mkdir", (const char *path, mode_t mode), (path, mode), AT_FDCWD, 0, NULL)
CHANGE(rmdir, "unlink", (const char *path), (path), AT_FDCWD, 0, NULL)
CHANGE(unlink, "unlink", (const char *path), (path), AT_FDCWD, AT_FDCWD, path)
CHANGE(rename, "rename", (const char *path, const char *to), (path, to), AT_FDCWD, AT_FDCWD, to)

#define PATHAT(name, kind, types, names) int name types { \
    static int (*real) types; if (!real) real = (int(*) types)dlsym(RTLD_NEXT, #name); \
    return at(kind, dir, path) ? -1 : real names; }
PATHAT(fstatat, "stat", (int dir, const char *path, struct stat *to, int flags), (dir, path, to, flags))
PATHAT(fstatat64, "stat", (int dir, const char *path, struct stat64 *to, int flags), (dir, path, to, flags))
CHANGE(mkdirat, "mkdir", (int dir, const char *path, mode_t mode), (dir, path, mode), dir, 0, NULL)
CHANGE(unlinkat, "unlink", (int dir, const char *path, int flags), (dir, path, flags), dir, dir, path)
CHANGE(renameat, "rename", (int dir, const char *path, int to, const char *as), (dir, path, to, as), dir, to, as)

int symlink(const char *to, const char *path) {
    REAL(int, "symlink", const char *, const char *);
    if (change(AT_FDCWD, path, 0, 0, NULL) < 0) return -1;
    return at("symlink", AT_FDCWD, path) ? -1 : real(to, path);
}
DIR *opendir(const char *path) {
    REAL(DIR *, "opendir", const char *);
    return at("list", AT_FDCWD, path) ? NULL : real(path);
}
DIR *fdopendir(int file) {
    REAL(DIR *, "fdopendir", int);
    return on("list", file) ? NULL : real(file);
}
struct dirent *readdir(DIR *dir) {
    REAL(struct dirent *, "readdir", DIR *);
    return on("list", dirfd(dir)) ? NULL : real(dir);
}
struct dirent64 *readdir64(DIR *dir) {
    REAL(struct dirent64 *, "readdir64", DIR *);
    return on("list", dirfd(dir)) ? NULL : real(dir);
}
#define MMAP(name) void *name(void *where, size_t n, int what, int flags, int file, off_t from) { \
    REAL(void *, #name, void *, size_t, int, int, int, off_t); \
    return on("mmap", file) ? MAP_FAILED : real(where, n, what, flags, file, from); }
MMAP(mmap) MMAP(mmap64)
