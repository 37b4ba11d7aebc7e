#include "cache/remote_check.h"

#include <unistd.h>

#include "base/text.h"
#include "cache/redis_connection.h"

namespace liger {
namespace {

using Clock = std::chrono::steady_clock;
using Kind = RedisReply::Kind;

constexpr size_t most_reply_bytes = 1024;

}  // namespace

RemoteCheck check_remote(const RemoteAddress& address, bool writes,
                         std::chrono::milliseconds longest) {
  RemoteCheck result;
  const Deadline deadline = Clock::now() + longest;
  const auto connection = RedisConnection::open(address, deadline, result.problem);
  if (!connection) return result;

  const std::string name = fmt::format("{}/doctor-{}", address.prefix, getpid());
  const Clock::time_point begin = Clock::now();
  const RedisReply read = connection->ask({"GET", name}, most_reply_bytes, deadline);
  result.read_ms = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  result.reads = read.kind == Kind::absent || read.kind == Kind::text;
  if (!result.reads) {
    result.problem = read.text;
    return result;
  }
  if (!writes) return result;
  const RedisReply written =
      connection->ask({"SET", name, "1", "EX", "60"}, most_reply_bytes, deadline);
  if (written.kind != Kind::text) {
    result.problem = written.text;
    return result;
  }
  connection->ask({"DEL", name}, most_reply_bytes, deadline);
  return result;
}

}  // namespace liger
