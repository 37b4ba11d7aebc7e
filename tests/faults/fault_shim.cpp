// A library for LD_PRELOAD that makes the file system below one folder misbehave.
//
//   FAULT_SHIM_FOLDER            only paths below it are touched
//   FAULT_SHIM_RULES             call=fault[@n], separated by semicolons; @n: every n-th call only.
//                                Calls: open create read write close link renameat2 rename mkdir
//                                stat flock
//                                Faults: the name of an errno; `short` for read and write; `lie`
//                                (link: made, but EIO is told; flock: nothing locked, but success
//                                is told); `hang` (flock: until the process ends)
//   FAULT_SHIM_NEGATIVE_SECONDS  a name that was looked up in vain stays absent for so long, as NFS
//                                clients do
//   FAULT_SHIM_LATE_SECONDS      a name made by link() or rename() is seen so much later
//   FAULT_SHIM_CLOCK_SECONDS     added to the wall clock of this process
//   FAULT_SHIM_NO_THREADS        not empty: no thread can be started
//
// Read at each call, so that a program may set them once it runs.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

namespace {

constexpr int most_files = 65536;
std::array<std::atomic<bool>, most_files> is_below;  // descriptors of files below the folder
std::atomic<long> injected{0};

template <typename Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

std::string_view setting(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

double seconds_of(const char* name) { return std::atof(std::string(setting(name)).c_str()); }

bool below(const char* path) {
  const std::string_view folder = setting("FAULT_SHIM_FOLDER");
  return !folder.empty() && path != nullptr && std::string_view(path).starts_with(folder);
}

bool below(int file) { return file >= 0 && file < most_files && is_below[file]; }

void note(int file, bool is_ours) {
  if (file >= 0 && file < most_files) is_below[file] = is_ours;
}

int errno_named(std::string_view name) {
  static const std::map<std::string_view, int> numbers = {
      {"EACCES", EACCES}, {"EDQUOT", EDQUOT}, {"EINTR", EINTR},   {"EIO", EIO},
      {"EMFILE", EMFILE}, {"ENOLCK", ENOLCK}, {"ENOSPC", ENOSPC}, {"ENOSYS", ENOSYS},
      {"EPERM", EPERM},   {"EROFS", EROFS},   {"ESTALE", ESTALE}, {"EXDEV", EXDEV},
      {"EINVAL", EINVAL}, {"ENOENT", ENOENT}};
  const auto found = numbers.find(name);
  if (found == numbers.end()) std::abort();  // a test that asks for what is not there
  return found->second;
}

// What this call is to suffer; empty for nothing.
std::string_view fault_of(std::string_view call) {
  static std::mutex mutex;
  static std::map<std::string, long> calls;
  std::string_view rules = setting("FAULT_SHIM_RULES");
  while (!rules.empty()) {
    std::string_view rule = rules.substr(0, rules.find(';'));
    rules.remove_prefix(std::min(rules.size(), rule.size() + 1));
    if (!rule.starts_with(call) || rule.substr(call.size(), 1) != "=") continue;
    const std::string_view words = rule.substr(call.size() + 1);
    const std::string_view fault = words.substr(0, words.find('@'));
    const long every = fault.size() == words.size()
                           ? 1
                           : std::atol(std::string(words.substr(fault.size() + 1)).c_str());
    const std::lock_guard lock(mutex);
    if (++calls[std::string(rule)] % every != 0) continue;
    ++injected;
    return fault;
  }
  return {};
}

// True if the call fails; errno is then set. `short`, `lie` and `hang` are for the caller.
bool fails(std::string_view call, std::string_view& fault) {
  fault = fault_of(call);
  if (fault.empty() || fault == "short" || fault == "lie" || fault == "hang") return false;
  errno = errno_named(fault);
  return true;
}

bool fails(std::string_view call) {
  std::string_view fault;
  return fails(call, fault);
}

double monotonic_seconds() {
  timespec now{};
  real<int(clockid_t, timespec*)>("clock_gettime")(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Names that this client believes absent, until when.
struct Absent {
  std::mutex mutex;
  std::map<std::string, double> until;
};
Absent& absent() {
  static auto* names = new Absent;
  return *names;
}

void hide(const char* path, const char* variable) {
  const double wait_seconds = seconds_of(variable);
  if (wait_seconds <= 0) return;
  ++injected;
  const std::lock_guard lock(absent().mutex);
  double& until = absent().until[path];
  until = std::max(until, monotonic_seconds() + wait_seconds);
}

bool hidden(const char* path) {
  const std::lock_guard lock(absent().mutex);
  const auto found = absent().until.find(path);
  if (found == absent().until.end() || monotonic_seconds() >= found->second) return false;
  errno = ENOENT;
  return true;
}

// A look-up of a name: from the client's memory, else real, and remembered if in vain.
template <typename Real>
int look_up(const char* path, std::string_view call, Real real_call) {
  if (!below(path)) return real_call();
  if (hidden(path) || fails(call)) return -1;
  const int answer = real_call();
  if (answer < 0 && errno == ENOENT) {
    hide(path, "FAULT_SHIM_NEGATIVE_SECONDS");
    errno = ENOENT;
  }
  return answer;
}

int open_file(const char* path, int flags, mode_t mode, const char* name) {
  const auto open = [&] { return real<int(const char*, int, ...)>(name)(path, flags, mode); };
  // Making a file asks the server, whatever the client believes.
  const int file = (flags & O_CREAT) == 0           ? look_up(path, "open", open)
                   : below(path) && fails("create") ? -1
                                                    : open();
  note(file, file >= 0 && below(path));
  return file;
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}

time_t shift_seconds() { return static_cast<time_t>(seconds_of("FAULT_SHIM_CLOCK_SECONDS")); }

}  // namespace

extern "C" {

// How many calls were made to misbehave so far, and names hidden.
long fault_shim_injected() { return injected; }

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_file(path, flags, mode, "open");
}

int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_file(path, flags, mode, "open64");
}

ssize_t read(int file, void* bytes, size_t size) {
  std::string_view fault;
  if (below(file)) {
    if (fails("read", fault)) return -1;
    if (fault == "short") size = std::min<size_t>(size, 1000);
  }
  return real<ssize_t(int, void*, size_t)>("read")(file, bytes, size);
}

ssize_t write(int file, const void* bytes, size_t size) {
  std::string_view fault;
  if (below(file)) {
    if (fails("write", fault)) return -1;
    if (fault == "short") size = std::min<size_t>(size, 1000);
  }
  return real<ssize_t(int, const void*, size_t)>("write")(file, bytes, size);
}

int close(int file) {
  const bool ours = below(file);
  note(file, false);
  const int answer = real<int(int)>("close")(file);
  return ours && fails("close") ? -1 : answer;
}

int link(const char* from, const char* to) noexcept {
  const auto make = [&] { return real<int(const char*, const char*)>("link")(from, to); };
  if (!below(to)) return make();
  std::string_view fault;
  if (fails("link", fault)) return -1;
  int answer = make();
  if (answer == 0) hide(to, "FAULT_SHIM_LATE_SECONDS");
  if (answer == 0 && fault == "lie") {
    errno = EIO;
    answer = -1;
  }
  return answer;
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to,
              unsigned int flags) noexcept {
  if (below(to) && fails("renameat2")) return -1;
  return real<int(int, const char*, int, const char*, unsigned int)>("renameat2")(
      from_folder, from, to_folder, to, flags);
}

int rename(const char* from, const char* to) noexcept {
  if (below(to) && fails("rename")) return -1;
  const int answer = real<int(const char*, const char*)>("rename")(from, to);
  if (answer == 0 && below(to)) hide(to, "FAULT_SHIM_LATE_SECONDS");
  return answer;
}

int mkdir(const char* path, mode_t mode) noexcept {
  if (below(path) && fails("mkdir")) return -1;
  return real<int(const char*, mode_t)>("mkdir")(path, mode);
}

int stat(const char* path, struct stat* status) noexcept {
  return look_up(path, "stat",
                 [&] { return real<int(const char*, struct stat*)>("stat")(path, status); });
}

int lstat(const char* path, struct stat* status) noexcept {
  return look_up(path, "stat",
                 [&] { return real<int(const char*, struct stat*)>("lstat")(path, status); });
}

int flock(int file, int operation) noexcept {
  std::string_view fault;
  if (!setting("FAULT_SHIM_FOLDER").empty()) {
    if (fails("flock", fault)) return -1;
    if (fault == "lie") return 0;
    while (fault == "hang" && (operation & (LOCK_NB | LOCK_UN)) == 0) ::pause();
  }
  return real<int(int, int)>("flock")(file, operation);
}

// Only locks suffer; they are what the same rule names.
int fcntl(int file, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  const bool waits = command == F_SETLKW || command == F_OFD_SETLKW;
  if ((waits || command == F_SETLK || command == F_OFD_SETLK) &&
      !setting("FAULT_SHIM_FOLDER").empty()) {
    std::string_view fault;
    if (fails("flock", fault)) return -1;
    if (fault == "lie") return 0;
    while (fault == "hang" && waits) ::pause();
  }
  return real<int(int, int, ...)>("fcntl")(file, command, argument);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                   void* argument) noexcept {
  if (!setting("FAULT_SHIM_NO_THREADS").empty()) {
    ++injected;
    return EAGAIN;
  }
  return real<int(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*)>("pthread_create")(
      thread, attributes, start, argument);
}

int clock_gettime(clockid_t clock, timespec* now) noexcept {
  const int answer = real<int(clockid_t, timespec*)>("clock_gettime")(clock, now);
  if (answer == 0 && clock == CLOCK_REALTIME) now->tv_sec += shift_seconds();
  return answer;
}

int gettimeofday(timeval* now, void* zone) noexcept {
  const int answer = real<int(timeval*, void*)>("gettimeofday")(now, zone);
  if (answer == 0) now->tv_sec += shift_seconds();
  return answer;
}

time_t time(time_t* now) noexcept {
  const time_t shifted = real<time_t(time_t*)>("time")(nullptr) + shift_seconds();
  if (now != nullptr) *now = shifted;
  return shifted;
}

}  // extern "C"
