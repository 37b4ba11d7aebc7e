#include "runtime/share/node_lock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <mutex>
#include <optional>

#include "base/process_state.h"
#include "base/text.h"

namespace liger {
namespace {

// The default of the design: a compile by NVRTC takes a tenth of it.
WaitBudget& wait_budget() {
  static WaitBudget of_node{std::chrono::milliseconds(500)};
  return of_node;
}

std::string& lock_path() {
  // Memory on every Linux, so never a file server that hangs.
  static auto& path = *new std::string(fmt::format("/dev/shm/liger_jit-{}.lock", geteuid()));
  return path;
}

// Open for the life of the process: closing any descriptor of the file would give up every lock.
struct LockFile {
  std::once_flag once;
  int number = -1;

  int open_once() {
    std::call_once(once, [this] {
      const int file = ::open(lock_path().c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
      struct stat status = {};
      const bool ours = file >= 0 && ::fstat(file, &status) == 0 && status.st_uid == geteuid() &&
                        S_ISREG(status.st_mode);
      if (ours) {
        number = file;
      } else if (file >= 0) {
        ::close(file);
      }
    });
    return number;
  }
};

struct flock one_byte(short type, int64_t byte) {
  struct flock region = {};
  region.l_type = type;
  region.l_whence = SEEK_SET;
  region.l_start = byte;
  region.l_len = 1;
  return region;
}

// Of the folder too: who waits for a process that writes elsewhere waits in vain.
int64_t byte_of(const Hash128& key, const std::string& folder) {
  const Hash128 place = hash128(folder);
  return static_cast<int64_t>((key.low ^ key.high ^ place.low) >> 2);
}

int lock_file() { return ProcessState<LockFile>::get().open_once(); }

// Empty where there is no lock to be had at all.
std::optional<bool> try_lock(int64_t byte) {
  const int file = lock_file();
  if (file < 0) return std::nullopt;
  struct flock region = one_byte(F_WRLCK, byte);
  if (::fcntl(file, F_SETLK, &region) == 0) return true;
  if (errno == EAGAIN || errno == EACCES) return false;
  return std::nullopt;
}

}  // namespace

NodeLock::NodeLock(const Hash128& key, const std::string& folder) : byte_(byte_of(key, folder)) {
  // A folder that does not exist brings nothing from one process to another.
  if (folder.empty()) return;
  wait_budget().wait_until([&] {
    const std::optional<bool> locked = try_lock(byte_);
    held_ = locked.value_or(false);
    waited_ |= !locked.value_or(true);
    return locked.value_or(true);
  });
}

NodeLock::~NodeLock() {
  if (!held_) return;
  struct flock region = one_byte(F_UNLCK, byte_);
  ::fcntl(lock_file(), F_SETLK, &region);
}

bool NodeLock::busy(const Hash128& key, const std::string& folder) {
  const int file = lock_file();
  if (folder.empty() || file < 0) return false;
  struct flock region = one_byte(F_WRLCK, byte_of(key, folder));
  return ::fcntl(file, F_GETLK, &region) == 0 && region.l_type != F_UNLCK;
}

void set_node_lock_file(const std::string& path) { lock_path() = path; }

}  // namespace liger
