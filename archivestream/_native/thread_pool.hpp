// A pool of native threads for the whole process, and the jobs that it runs.
//
// A job is a number of items and a function that does one of them. Whoever takes part in a job claims
// items one after another from an atomic counter, so the caller of a job can always take part, and a
// job ends even where no thread could be started.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include <pthread.h>
#include <signal.h>

namespace archivestream {

class Job {
  friend class ThreadPool;

 public:
  using Work = void (*)(void *context, std::size_t item);
  using Clock = std::chrono::steady_clock;

  Job(Work work, void *context, std::size_t items) : work_(work), context_(context), items_(items) {}

  // Do items until none is left (true) or `seconds` have passed (false).
  bool help(double seconds) {
    const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                          std::chrono::duration<double>(seconds));
    active_.fetch_add(1);
    std::size_t item;
    bool all_begun = true;
    while ((item = next_.fetch_add(1)) < items_) {
      work_(context_, item);
      if (Clock::now() >= until) {
        all_begun = exhausted();
        break;
      }
    }
    leave();
    return all_begun;
  }

  void help_to_the_end() {
    active_.fetch_add(1);
    std::size_t item;
    while ((item = next_.fetch_add(1)) < items_) work_(context_, item);
    leave();
  }

  // No item is begun after this; those under way go on.
  void cancel() { next_.store(items_); }

  bool done() const {
    // In this order: a thread counts itself before it claims, so a claim that is seen here is counted.
    return exhausted() && active_.load() == 0;
  }

  // Whether anybody has taken part.
  bool begun() const { return next_.load() > 0; }

  bool wait(double seconds) {
    std::unique_lock<std::mutex> lock(mutex_);
    return left_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return done(); });
  }

 private:
  void leave() {
    // Counted down under the lock, or a waiter could miss the notification between its test and its sleep.
    std::lock_guard<std::mutex> lock(mutex_);
    if (active_.fetch_sub(1) == 1) left_.notify_all();
  }

  // Nobody can help any more.
  bool exhausted() const { return next_.load() >= items_; }

  const Work work_;
  void *const context_;  // not touched once done() has been true
  const std::size_t items_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::size_t> active_{0};
  std::mutex mutex_;
  std::condition_variable left_;
  // In the queue of the pool, under its lock.
  std::shared_ptr<Job> following_;
  std::size_t helpers_ = 0;  // threads that are still to come
};

// Where there is no memory, there are fewer threads, or none: nothing here throws.
class ThreadPool {
 public:
  // How many forks lie between the first process and this one: a job of another generation has no threads.
  static std::uint64_t generation() { return forks().load(std::memory_order_relaxed); }

  // Ask up to `helpers` threads to take part in the job, which needs none to end. Once for each job.
  // False where there is no thread at all, and the caller has to do everything.
  static bool run(const std::shared_ptr<Job> &job, std::size_t helpers) noexcept {
    ThreadPool *pool = instance();
    if (pool == nullptr || helpers == 0) return false;
    {
      std::lock_guard<std::mutex> lock(pool->mutex_);
      pool->start_threads(helpers);
      if (pool->threads_ == 0) return false;
      pool->drop_exhausted();
      pool->append(job, helpers);
    }
    pool->wake_.notify_all();
    return true;
  }

 private:
  ThreadPool() noexcept = default;

  // The pool of this process, or none. A forked child starts with a new one: threads are not copied by fork,
  // and the locks of the old pool may be held by threads that are gone, so it is left alone.
  static ThreadPool *instance() noexcept {
    std::atomic<ThreadPool *> &slot = current();
    ThreadPool *pool = slot.load(std::memory_order_acquire);
    if (pool == nullptr) {
      auto *fresh = new (std::nothrow) ThreadPool;
      if (slot.compare_exchange_strong(pool, fresh)) {
        pool = fresh;
      } else {
        delete fresh;
      }
    }
    return pool;
  }

  static std::atomic<ThreadPool *> &current() {
    static std::atomic<ThreadPool *> pool{nullptr};
    static const bool registered = at_fork();
    (void)registered;
    return pool;
  }

  static std::atomic<std::uint64_t> &forks() {
    static std::atomic<std::uint64_t> count{0};
    return count;
  }

  static bool at_fork() {
    pthread_atfork(nullptr, nullptr, [] {
      forks().fetch_add(1);
      current().store(nullptr);
    });
    return true;
  }

  void start_threads(std::size_t wanted) noexcept {
    try {
      while (threads_ < wanted) start_thread();
    } catch (const std::exception &) {
      // No more threads to be had: those that are there do the work.
    }
  }

  // The queue is a list of the jobs themselves, which takes no memory of its own.
  void append(const std::shared_ptr<Job> &job, std::size_t helpers) noexcept {
    job->helpers_ = helpers;
    if (last_ != nullptr) {
      last_->following_ = job;
    } else {
      first_ = job;
    }
    last_ = job.get();
  }

  // Threads may be held up for as long as they like, while callers do all of job after job: these do not wait for them.
  void drop_exhausted() noexcept {
    Job *before = nullptr;
    for (std::shared_ptr<Job> job = first_; job != nullptr;) {
      std::shared_ptr<Job> following = job->following_;
      if (job->exhausted()) {
        job->following_.reset();
        if (last_ == job.get()) last_ = before;
        (before != nullptr ? before->following_ : first_) = following;
      } else {
        before = job.get();
      }
      job = std::move(following);
    }
  }

  std::shared_ptr<Job> take() noexcept {
    std::shared_ptr<Job> job = first_;
    if (--job->helpers_ == 0) {
      first_ = std::move(job->following_);
      job->following_.reset();
      if (first_ == nullptr) last_ = nullptr;
    }
    return job;
  }

  void start_thread() {
    // Signals are for the interpreter's threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      std::thread([this] { serve(); }).detach();
      ++threads_;
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void serve() {
    for (;;) {
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return first_ != nullptr; });
        job = take();
      }
      job->help_to_the_end();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::shared_ptr<Job> first_;
  Job *last_ = nullptr;
  std::size_t threads_ = 0;
};

}  // namespace archivestream
