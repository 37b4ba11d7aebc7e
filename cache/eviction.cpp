#include "cache/eviction.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>
#include <tuple>
#include <vector>

#include "base/counters.h"
#include "base/descriptor.h"
#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "cache/entry_format.h"

namespace liger {
namespace {

// A writer needs milliseconds; one that is an hour old was killed.
constexpr int64_t dead_writer_seconds = 3600;

constexpr std::string_view election_file = "prune.lock";
constexpr std::string_view done_file = "pruned";  // its time is that of the last time

// Open while this process is elected. A file system without locks elects everybody, which costs
// time only: all of them remove the same files.
std::optional<Descriptor> elected(const std::string& root, std::string& problem) {
  const std::string path = fmt::format("{}/{}", root, election_file);
  Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.is_open()) {
    problem = fmt::format("{}: {}", path, std::strerror(errno));
    return std::nullopt;
  }
  if (::flock(file.number(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return std::nullopt;
  return file;
}

bool is_a_day_from(int64_t now_seconds, std::optional<int64_t> then_seconds) {
  // A time a day ahead was written under a wrong clock.
  return !then_seconds || std::abs(now_seconds - *then_seconds) >= day_seconds;
}

}  // namespace

std::vector<Evictable> evictables_of(const std::string& root) {
  std::vector<Evictable> found;
  for (const std::string_view part : {quarantine_folder, artifact_folder, tune_folder}) {
    for (const std::string& path : list_files(fmt::format("{}/{}", root, part))) {
      if (is_temporary(path)) continue;
      if (const auto stamp = stamp_of(path)) {
        found.push_back({path, *stamp, part == quarantine_folder});
      }
    }
  }
  return found;
}

void remove_longest_unused(std::vector<Evictable> files, uint64_t most_bytes, Pruned& result) {
  for (const Evictable& one : files) result.kept_bytes += one.stamp.size_bytes;
  std::sort(files.begin(), files.end(), [](const Evictable& a, const Evictable& b) {
    return std::tuple(!a.quarantined, a.stamp.modified_ns, std::string_view(a.path)) <
           std::tuple(!b.quarantined, b.stamp.modified_ns, std::string_view(b.path));
  });
  for (const Evictable& one : files) {
    if (result.kept_bytes <= most_bytes) return;
    const std::optional<FileStamp> now = stamp_of(one.path);
    if (now && *now != one.stamp) continue;  // used or replaced since
    // Gone is as good as removed, but somebody else's work.
    if (now && !remove_file(one.path)) continue;
    result.kept_bytes -= one.stamp.size_bytes;
    if (!now) continue;
    result.removed_files += 1;
    result.removed_bytes += one.stamp.size_bytes;
  }
}

Pruned prune_folder(const std::string& root, uint64_t most_bytes) {
  Pruned result;
  const std::optional<Descriptor> lock = elected(root, result.problem);
  result.elected = lock.has_value();
  if (!lock) return result;
  remove_longest_unused(evictables_of(root), most_bytes, result);
  counters().pruned += result.removed_files;
  if (result.removed_files > 0) {
    log_event(Event::prune, {{"folder", root},
                             {"removed", static_cast<double>(result.removed_files)},
                             {"removed_bytes", static_cast<double>(result.removed_bytes)},
                             {"kept_bytes", static_cast<double>(result.kept_bytes)}});
  }
  return result;
}

void prune_if_due(const std::string& root, uint64_t most_bytes) {
  const std::string done = fmt::format("{}/{}", root, done_file);
  const std::optional<int64_t> last_seconds = modified_seconds(done);
  if (!is_a_day_from(std::time(nullptr), last_seconds)) return;
  const std::optional<int64_t> server_seconds = clock_seconds_of(root);
  if (!server_seconds || !is_a_day_from(*server_seconds, last_seconds)) return;
  if (!prune_folder(root, most_bytes).elected) return;
  sweep_temporaries(root);
  // At the end: who was killed before it leaves the rest to the next process.
  replace_file(done, "");
}

uint64_t sweep_temporaries(const std::string& root) {
  const std::optional<int64_t> now_seconds = clock_seconds_of(root);
  if (!now_seconds) return 0;
  uint64_t removed = 0;
  for (const std::string& path : list_files(root)) {
    if (!is_temporary(path)) continue;
    const std::optional<int64_t> born_seconds = modified_seconds(path);
    if (born_seconds && *born_seconds < *now_seconds - dead_writer_seconds && remove_file(path)) {
      ++removed;
    }
  }
  return removed;
}

}  // namespace liger
