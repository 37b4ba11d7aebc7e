// What today's headers call and an old system's libraries have not, for LIGER_JIT_PORTABLE: hidden,
// so it serves only the library that it is linked into.
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LIGER_HIDDEN extern "C" __attribute__((visibility("hidden"), used))

// From 2.32 on: whether the process has one thread. Without the library's word it may have more.
extern "C" {
extern char __libc_single_threaded __attribute__((visibility("hidden")));
char __libc_single_threaded = 0;
}

// From 2.33 on these are functions; before, inline ones around these.
extern "C" int __xstat(int version, const char*, struct stat*) noexcept;
extern "C" int __lxstat(int version, const char*, struct stat*) noexcept;
extern "C" int __fxstat(int version, int, struct stat*) noexcept;
extern "C" int __fxstatat(int version, int, const char*, struct stat*, int) noexcept;
namespace {
constexpr int stat_version = 1;  // _STAT_VER of x86-64
}
LIGER_HIDDEN int stat(const char* path, struct stat* told) noexcept {
  return __xstat(stat_version, path, told);
}
LIGER_HIDDEN int lstat(const char* path, struct stat* told) noexcept {
  return __lxstat(stat_version, path, told);
}
LIGER_HIDDEN int fstat(int file, struct stat* told) noexcept {
  return __fxstat(stat_version, file, told);
}
LIGER_HIDDEN int fstatat(int folder, const char* path, struct stat* told, int flags) noexcept {
  return __fxstatat(stat_version, folder, path, told, flags);
}

// From 2.30 on.
LIGER_HIDDEN pid_t gettid() noexcept { return static_cast<pid_t>(syscall(SYS_gettid)); }

// From 2.30 on. Without it the deadline is moved to the clock that pthread_cond_timedwait has, as
// libstdc++ did then.
LIGER_HIDDEN int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                                        clockid_t clock, const timespec* deadline) {
  using Wait = int(pthread_cond_t*, pthread_mutex_t*, clockid_t, const timespec*);
  static Wait* const real = reinterpret_cast<Wait*>(dlsym(RTLD_DEFAULT, "pthread_cond_clockwait"));
  if (real) return real(condition, mutex, clock, deadline);
  timespec now_there{}, now_here{};
  clock_gettime(clock, &now_there);
  clock_gettime(CLOCK_REALTIME, &now_here);
  constexpr long second = 1000000000;
  timespec here{now_here.tv_sec + deadline->tv_sec - now_there.tv_sec,
                now_here.tv_nsec + deadline->tv_nsec - now_there.tv_nsec};
  here.tv_sec += here.tv_nsec >= second ? 1 : here.tv_nsec < 0 ? -1 : 0;
  here.tv_nsec += here.tv_nsec >= second ? -second : here.tv_nsec < 0 ? second : 0;
  return pthread_cond_timedwait(condition, mutex, &here);
}

// std::exception_ptr of the archive keeps nothing, but calls this of a part that does.
extern "C" void end_by(void (*handler)()) noexcept __asm__("_ZN10__cxxabiv111__terminateEPFvvE");
LIGER_HIDDEN void end_by(void (*handler)()) noexcept {
  handler();
  abort();
}

// With --wrap, in programs only. Start-up code of glibc 2.34 and later gives no function that runs
// the constructors, and a C library before it runs none by itself.
using Function = void();
using Initialiser = void(int, char**, char**);
extern "C" {
extern Initialiser* __init_array_start[] __attribute__((visibility("hidden"), weak));
extern Initialiser* __init_array_end[] __attribute__((visibility("hidden"), weak));
int __real___libc_start_main(int (*main)(int, char**, char**), int, char**, Initialiser*, Function*,
                             Function*, void*) __attribute__((weak));
}

static void run_constructors(int count, char** words, char** environment) {
  for (Initialiser** one = __init_array_start; one < __init_array_end; ++one)
    (*one)(count, words, environment);
}

LIGER_HIDDEN int __wrap___libc_start_main(int (*main)(int, char**, char**), int count, char** words,
                                          Initialiser*, Function* at_end, Function* loader_at_end,
                                          void* stack) {
  return __real___libc_start_main(main, count, words, run_constructors, at_end, loader_at_end,
                                  stack);
}
