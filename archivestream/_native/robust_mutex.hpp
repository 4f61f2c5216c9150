// A lock between processes that survives whoever holds it, and who is still there.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

namespace archivestream {

#ifdef __APPLE__
constexpr bool kRobustMutexes = false;
#else
constexpr bool kRobustMutexes = true;
#endif

// In shared memory. When a process dies that holds it, the next one gets it (pthread_mutexattr_setrobust(3)).
class RobustMutex {
 public:
  int initialise() {
#ifdef __APPLE__
    return ENOTSUP;
#else
    pthread_mutexattr_t attributes;
    int failed = pthread_mutexattr_init(&attributes);
    if (failed) return failed;
    failed = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (!failed) failed = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    if (!failed) failed = pthread_mutex_init(&mutex_, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return failed;
#endif
  }

  bool try_lock() { return is_held(pthread_mutex_trylock(&mutex_)); }

  // Wait for it, but not for ever: who holds it may have been stopped (SIGSTOP, a debugger, a frozen container).
  bool lock(int seconds) {
    if (try_lock()) return true;
#ifdef __APPLE__
    (void)seconds;
    return false;
#else
    timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    return is_held(pthread_mutex_timedlock(&mutex_, &until));
#endif
  }

  void unlock() { pthread_mutex_unlock(&mutex_); }

 private:
  bool is_held(int state) {
#ifndef __APPLE__
    // What it guards says for itself whether the dead one has left it whole.
    if (state == EOWNERDEAD) state = pthread_mutex_consistent(&mutex_);
#endif
    return state == 0;
  }

  pthread_mutex_t mutex_;
};

// A process, told from a later one that has got its number.
struct Process {
  std::uint64_t number = 0;   // 0: none
  std::uint64_t started = 0;  // in clock ticks since the system started; 0: not known

  bool operator==(const Process &other) const { return number == other.number && started == other.started; }

  static Process self() {
    static thread_local Process found;
    const auto number = static_cast<std::uint64_t>(getpid());
    if (found.number != number) {
      found.number = number;
      char state;
      if (!look_up(number, &state, &found.started)) found.started = 0;
    }
    return found;
  }

  // What cannot be found out, be it for want of a descriptor, counts as alive: only what is known is dead.
  bool is_alive() const {
    if (number == 0 || (kill(static_cast<pid_t>(number), 0) != 0 && errno == ESRCH)) return false;
    char state;
    std::uint64_t since;
    if (started == 0 || !look_up(number, &state, &since)) return true;
    return since == started && state != 'Z' && state != 'X';  // a zombie does nothing any more
  }

 private:
  // proc(5), /proc/pid/stat: number (name) state ..., and field 22 is when it started.
  static bool look_up(std::uint64_t number, char *state, std::uint64_t *started) {
    char path[48], text[1024];
    if (!has_proc()) return false;
    std::snprintf(path, sizeof path, "/proc/%llu/stat", static_cast<unsigned long long>(number));
    std::FILE *file = std::fopen(path, "re");
    if (file == nullptr) return false;
    const std::size_t size = std::fread(text, 1, sizeof text - 1, file);
    std::fclose(file);
    text[size] = 0;
    const char *rest = std::strrchr(text, ')');  // the name may have any characters
    unsigned long long since = 0;
    if (rest == nullptr ||
        std::sscanf(rest + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", state,
                    &since) != 2) {
      return false;
    }
    *started = since;
    return true;
  }

  // Whether /proc is there, and numbers processes as they are numbered here: another PID namespace may have left its
  // own (unshare(1) without --mount-proc).
  static bool has_proc() {
    char text[24];
    const ssize_t size = readlink("/proc/self", text, sizeof text - 1);
    if (size <= 0) return false;
    text[size] = 0;
    return std::strtoll(text, nullptr, 10) == static_cast<long long>(getpid());
  }
};

}  // namespace archivestream
