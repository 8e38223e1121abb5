/* Makes one system call on files below given folders fail, and counts such calls.  Loaded by LD_PRELOAD.

   A call is named by its kind and its file's role: the path below the folder with digits and temporary names as '#'.
   arm() names the k-th call of one kind and role, and the error that it is to end with. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

void arm(const char *where, const char *what, long k, int error) {
    pthread_mutex_lock(&mutex);
    snprintf(folder, sizeof folder, "%s", where);
    snprintf(wanted, sizeof wanted, "%s", what);
    nth = k, wrong = error, met = hits = 0, used = 0;
    if (list) *list = 0;
    pthread_mutex_unlock(&mutex);
}
long fired(void) { return hits; }
const char *calls(void) { return list ? list : ""; }

static int digit(char c) { return c >= '0' && c <= '9'; }
static int hex(char c) { return digit(c) || (c >= 'a' && c <= 'f'); }

static void role_of(const char *path, char *role, size_t size) {
    size_t n = 0;
    while (*path && n + 2 < size) {
        if (!strncmp(path, ".tmp-", 5)) {
            memcpy(role + n, ".tmp-", n + 6 < size ? 5 : 0), n += n + 6 < size ? 5 : 0, path += 5;
            if (hex(*path)) role[n++] = '#';
            while (hex(*path)) path++;
        } else if (digit(*path)) {
            role[n++] = '#';
            while (digit(*path)) path++;
        } else role[n++] = *path++;
    }
    role[n] = 0;
}

/* Whether this call is the one that is to fail. */
static int fails(const char *kind, const char *path) {
    size_t length = strlen(folder);
    if (!length || !path || strncmp(path, folder, length) || (path[length] && path[length] != '/')) return 0;
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
    if (!*folder || !path) return 0;
    if (*path == '/') return fails(kind, path);
    char name[64];
    int before = errno;
    if (dir == AT_FDCWD) snprintf(name, sizeof name, "/proc/self/cwd");
    else snprintf(name, sizeof name, "/proc/self/fd/%d", dir);
    long n = syscall(SYS_readlink, name, whole, 4095);
    errno = before;
    if (n < 0) return 0;
    snprintf(whole + n, sizeof whole - n, *path ? "/%s" : "%s", path);
    return fails(kind, whole);
}

static int on(const char *kind, int file) { return file < 0 ? 0 : at(kind, file, ""); }

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(name) int name(const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    REAL(int, #name, const char *, int, ...); \
    return at("open", AT_FDCWD, path) ? -1 : real(path, flags, mode); }
OPEN(open) OPEN(open64)
#define OPENAT(name) int name(int dir, const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    REAL(int, #name, int, const char *, int, ...); \
    return at("open", dir, path) ? -1 : real(dir, path, flags, mode); }
OPENAT(openat) OPENAT(openat64)

#define ON(result, name, kind, types, names) result name types { \
    static result (*real) types; if (!real) real = (result(*) types)dlsym(RTLD_NEXT, #name); \
    return on(kind, file) ? -1 : real names; }
ON(ssize_t, read, "read", (int file, void *to, size_t n), (file, to, n))
ON(ssize_t, pread, "read", (int file, void *to, size_t n, off_t from), (file, to, n, from))
ON(ssize_t, pread64, "read", (int file, void *to, size_t n, off_t from), (file, to, n, from))
ON(ssize_t, write, "write", (int file, const void *from, size_t n), (file, from, n))
ON(int, fsync, "fsync", (int file), (file))
ON(int, fdatasync, "fsync", (int file), (file))
ON(int, flock, "flock", (int file, int how), (file, how))
ON(int, ftruncate, "truncate", (int file, off_t n), (file, n))
ON(int, ftruncate64, "truncate", (int file, off_t n), (file, n))
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
PATH(access, "stat", (const char *path, int how), (path, how))
PATH(mkdir, "mkdir", (const char *path, mode_t mode), (path, mode))
PATH(rmdir, "unlink", (const char *path), (path))
PATH(unlink, "unlink", (const char *path), (path))
PATH(rename, "rename", (const char *path, const char *to), (path, to))

#define PATHAT(name, kind, types, names) int name types { \
    static int (*real) types; if (!real) real = (int(*) types)dlsym(RTLD_NEXT, #name); \
    return at(kind, dir, path) ? -1 : real names; }
PATHAT(fstatat, "stat", (int dir, const char *path, struct stat *to, int how), (dir, path, to, how))
PATHAT(fstatat64, "stat", (int dir, const char *path, struct stat64 *to, int how), (dir, path, to, how))
PATHAT(mkdirat, "mkdir", (int dir, const char *path, mode_t mode), (dir, path, mode))
PATHAT(unlinkat, "unlink", (int dir, const char *path, int how), (dir, path, how))
PATHAT(renameat, "rename", (int dir, const char *path, int to, const char *as), (dir, path, to, as))

int symlink(const char *to, const char *path) {
    REAL(int, "symlink", const char *, const char *);
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
#define MMAP(name) void *name(void *where, size_t n, int how, int flags, int file, off_t from) { \
    REAL(void *, #name, void *, size_t, int, int, int, off_t); \
    return on("mmap", file) ? MAP_FAILED : real(where, n, how, flags, file, from); }
MMAP(mmap) MMAP(mmap64)
