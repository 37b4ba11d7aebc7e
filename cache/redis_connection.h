// One connection to a Redis server, on which nothing takes longer than its deadline.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/remote_address.h"

struct redisContext;

namespace liger {

using Deadline = std::chrono::steady_clock::time_point;

struct RedisReply {
  enum class Kind {
    broken,   // no answer in time, or no sense in it: `text` says why, the connection is useless
    refused,  // the server's own error, such as `OOM …`: the connection goes on
    absent,   // a null
    text,     // a string or a status
  };
  Kind kind = Kind::broken;
  std::string text;
};

class RedisConnection {
 public:
  // Connects and logs in. Only the look-up of a host's name may take longer than the deadline: the
  // system offers no bound for it, so it is for a thread that nobody waits for. Null after trouble;
  // `why` says which, and holds no password.
  static std::unique_ptr<RedisConnection> open(const RemoteAddress& address, Deadline deadline,
                                               std::string& why);
  ~RedisConnection();
  RedisConnection(const RedisConnection&) = delete;

  // Sends a command and waits for its reply. A reply longer than `most_bytes` is `broken`.
  RedisReply ask(const std::vector<std::string_view>& words, size_t most_bytes, Deadline deadline);

  int descriptor() const;

 private:
  explicit RedisConnection(redisContext* context) : context_(context) {}
  bool wait_for(short events, Deadline deadline) const;
  RedisReply broken(std::string_view otherwise) const;

  redisContext* const context_;
};

}  // namespace liger
