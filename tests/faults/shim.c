// Makes the n-th system call of a kind, or the n-th allocation of the package, fail: see shim.py. For LD_PRELOAD.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READ = 1, WRITE = 2, SYNC = 4, OPEN = 8, NAME = 16, ROOM = 32, MAP = 64, CLOSE = 128, MEMORY = 256, THREAD = 512 };
enum { SHORT = -1, KILL = -2, TORN = -3, ACTION = -4 };  // any other fault is an errno

static atomic_int armed;   // the groups that are counted
static atomic_long seen;   // calls of them
static atomic_long struck;
static long first, last;   // which of them fail
static int fault;
static void (*action)(void);
static char folder[4096];  // only calls on files in there count

static struct range { uintptr_t begin, end; } ours[128], theirs[16];
static int n_ours, n_theirs;
static int no_unnamed;  // whether the file systems have no files without a name
static __thread int inside;  // of this file

static int strike(int group) {
  if (!(atomic_load(&armed) & group)) return 0;
  const long n = atomic_fetch_add(&seen, 1) + 1;
  if (n < first || n > last) return 0;
  atomic_fetch_add(&struck, 1);
  if (fault == KILL) kill(getpid(), SIGKILL);
  if (fault == ACTION) {
    const int saved = errno;
    action();
    errno = saved;
  }
  return fault;
}

static int is_below(const char *path) {
  return path && (!strncmp(path, folder, strlen(folder)) || !strncmp(path, "/memfd:archivestream", 20));
}

// Whether a call on a file counts.
static int on_file(int fd, int group) {
  char link[32], path[4096];
  if (!(atomic_load(&armed) & group)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return is_below(path);
}

// Whether a name counts, which may begin at a folder that is open.
static int is_name_below(int at, const char *path) {
  char link[32], whole[2 * sizeof folder];
  if (path[0] == '/' || at == AT_FDCWD) return is_below(path);
  snprintf(link, sizeof link, "/proc/self/fd/%d", at);
  const ssize_t size = readlink(link, whole, sizeof folder - 1);
  if (size < 0) return 0;
  snprintf(whole + size, sizeof whole - size, "/%s", path);
  return is_below(whole);
}

static void after(int what) {
  if (what == TORN) kill(getpid(), SIGKILL);
}

// The function that stands behind ours.
#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define FAIL(what, value) \
  if ((what) > 0) return errno = (what), (value)
#define HALF(what, size) ((what) == SHORT || (what) == TORN ? ((size) + 1) / 2 : (size))

#define PIECE(type, name, group, buffer, parameters, arguments) \
  type name parameters { \
    REAL(name); \
    const int what = on_file(fd, group) ? strike(group) : 0; \
    FAIL(what, -1); \
    size = HALF(what, size); \
    const type result = real arguments; \
    after(what); \
    return result; \
  }
PIECE(ssize_t, read, READ, to, (int fd, void *to, size_t size), (fd, to, size))
PIECE(ssize_t, write, WRITE, from, (int fd, const void *from, size_t size), (fd, from, size))
PIECE(ssize_t, pread, READ, to, (int fd, void *to, size_t size, off_t at), (fd, to, size, at))
PIECE(ssize_t, pread64, READ, to, (int fd, void *to, size_t size, off64_t at), (fd, to, size, at))
PIECE(ssize_t, pwrite, WRITE, from, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at))
PIECE(ssize_t, pwrite64, WRITE, from, (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at))

#define PIECES(name, group, parameters, ...) \
  ssize_t name parameters { \
    REAL(name); \
    const int what = on_file(fd, group) ? strike(group) : 0; \
    FAIL(what, -1); \
    struct iovec part = n ? parts[0] : (struct iovec){0, 0}; \
    part.iov_len = HALF(what, part.iov_len); \
    if (n && (what == SHORT || what == TORN)) parts = &part, n = 1; \
    const ssize_t result = real(fd, parts, n, ##__VA_ARGS__); \
    after(what); \
    return result; \
  }
PIECES(writev, WRITE, (int fd, const struct iovec *parts, int n))
PIECES(preadv, READ, (int fd, const struct iovec *parts, int n, off_t at), at)
PIECES(preadv64, READ, (int fd, const struct iovec *parts, int n, off64_t at), at)
PIECES(preadv2, READ, (int fd, const struct iovec *parts, int n, off_t at, int flags), at, flags)
PIECES(preadv64v2, READ, (int fd, const struct iovec *parts, int n, off64_t at, int flags), at, flags)

#define WHOLE(type, name, group, counts, bad, parameters, arguments) \
  type name parameters { \
    REAL(name); \
    const int what = (counts) ? strike(group) : 0; \
    FAIL(what, bad); \
    type result = real arguments; \
    after(what); \
    return result; \
  }
WHOLE(int, fsync, SYNC, on_file(fd, SYNC), -1, (int fd), (fd))
WHOLE(int, fdatasync, SYNC, on_file(fd, SYNC), -1, (int fd), (fd))
WHOLE(int, ftruncate, ROOM, on_file(fd, ROOM), -1, (int fd, off_t size), (fd, size))
WHOLE(int, ftruncate64, ROOM, on_file(fd, ROOM), -1, (int fd, off64_t size), (fd, size))
WHOLE(int, posix_fallocate, ROOM, on_file(fd, ROOM), what, (int fd, off_t at, off_t size), (fd, at, size))
WHOLE(int, posix_fallocate64, ROOM, on_file(fd, ROOM), what, (int fd, off64_t at, off64_t size), (fd, at, size))
WHOLE(int, rename, NAME, is_below(to), -1, (const char *from, const char *to), (from, to))
WHOLE(int, link, NAME, is_below(to), -1, (const char *from, const char *to), (from, to))
WHOLE(int, linkat, NAME, is_name_below(b, to), -1, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
WHOLE(int, renameat, NAME, is_name_below(b, to), -1, (int a, const char *from, int b, const char *to), (a, from, b, to))
WHOLE(int, mkdir, NAME, is_below(path), -1, (const char *path, mode_t mode), (path, mode))
WHOLE(void *, mmap, MAP, on_file(fd, MAP), MAP_FAILED,
      (void *at, size_t size, int may, int flags, int fd, off_t offset), (at, size, may, flags, fd, offset))
WHOLE(void *, mmap64, MAP, on_file(fd, MAP), MAP_FAILED,
      (void *at, size_t size, int may, int flags, int fd, off64_t offset), (at, size, may, flags, fd, offset))
WHOLE(int, pthread_create, THREAD, 1, what,
      (pthread_t * thread, const pthread_attr_t *how, void *(*run)(void *), void *with), (thread, how, run, with))

int close(int fd) {  // which closes, whatever it says
  REAL(close);
  const int what = on_file(fd, CLOSE) ? strike(CLOSE) : 0;
  const int result = real(fd);
  after(what);
  FAIL(what, -1);
  return result;
}

#define OPENING(name, at, parameters, ...) \
  int name parameters { \
    REAL(name); \
    va_list more; \
    va_start(more, flags); \
    const int unnamed = (flags & O_TMPFILE) == O_TMPFILE; \
    const mode_t mode = flags & O_CREAT || unnamed ? va_arg(more, mode_t) : 0; \
    va_end(more); \
    const int counts = is_name_below(at, path); \
    const int what = counts ? strike(OPEN) : 0; \
    FAIL(what, -1); \
    if (counts && no_unnamed && unnamed) return errno = EOPNOTSUPP, -1; \
    const int result = real(__VA_ARGS__, mode); \
    after(what); \
    return result; \
  }
OPENING(open, AT_FDCWD, (const char *path, int flags, ...), path, flags)
OPENING(open64, AT_FDCWD, (const char *path, int flags, ...), path, flags)
OPENING(openat, at, (int at, const char *path, int flags, ...), at, path, flags)
OPENING(openat64, at, (int at, const char *path, int flags, ...), at, path, flags)

// Allocations: those that our modules ask for, by themselves or through the C++ runtime and Python.

static int among(const struct range *ranges, int n, uintptr_t place) {
  for (int i = 0; i < n; ++i) {
    if (place >= ranges[i].begin && place < ranges[i].end) return 1;
  }
  return 0;
}

static int refused(void *caller) {
  if (!(atomic_load(&armed) & MEMORY) || inside) return 0;
  int counts = among(ours, n_ours, (uintptr_t)caller);
  if (!counts && among(theirs, n_theirs, (uintptr_t)caller)) {
    void *frames[6];
    inside = 1;
    const int n = backtrace(frames, 6);
    inside = 0;
    for (int i = 2; i < n && !counts; ++i) counts = among(ours, n_ours, (uintptr_t)frames[i]);
  }
  if (!counts || strike(MEMORY) <= 0) return 0;
  errno = ENOMEM;
  return 1;
}

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);

#define CALLER __builtin_return_address(0)
void *malloc(size_t size) { return refused(CALLER) ? 0 : __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return refused(CALLER) ? 0 : __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { return refused(CALLER) ? 0 : __libc_realloc(old, size); }
void *aligned_alloc(size_t align, size_t size) { return refused(CALLER) ? 0 : __libc_memalign(align, size); }
int posix_memalign(void **to, size_t align, size_t size) {
  if (refused(CALLER)) return ENOMEM;
  void *got = __libc_memalign(align, size);
  if (!got) return ENOMEM;
  *to = got;
  return 0;
}

static int note_module(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size, (void)data;
  const int is_ours = strstr(info->dlpi_name, "archivestream/_native/") != 0;
  const int is_theirs = !info->dlpi_name[0] || strstr(info->dlpi_name, "libstdc++") || strstr(info->dlpi_name, "libpython");
  for (int i = 0; i < info->dlpi_phnum && (is_ours || is_theirs); ++i) {
    const ElfW(Phdr) *part = &info->dlpi_phdr[i];
    if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
    const struct range found = {info->dlpi_addr + part->p_vaddr, info->dlpi_addr + part->p_vaddr + part->p_memsz};
    if (is_ours && n_ours < 128) ours[n_ours++] = found;
    if (is_theirs && n_theirs < 16) theirs[n_theirs++] = found;
  }
  return 0;
}

// What shim.py calls.

void faults_arm(int groups, long from, long to, int what, const char *below, void (*call)(void)) {
  void *frames[2];
  backtrace(frames, 2);  // whose first call allocates
  n_ours = n_theirs = 0;
  dl_iterate_phdr(note_module, 0);
  snprintf(folder, sizeof folder, "%s", below);
  first = from, last = to, fault = what, action = call;
  atomic_store(&seen, 0);
  atomic_store(&struck, 0);
  atomic_store(&armed, groups);
}

void faults_name_all(int yes) { no_unnamed = yes; }

void faults_disarm(long *calls, long *hits) {
  atomic_store(&armed, 0);
  *calls = atomic_load(&seen);
  *hits = atomic_load(&struck);
}
