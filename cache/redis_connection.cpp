#include "cache/redis_connection.h"

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/text.h"

namespace liger {
namespace {

constexpr size_t short_reply = 4096;
constexpr std::string_view no_answer = "no answer in time";

RedisReply reply_of(const redisReply& reply) {
  switch (reply.type) {
    case REDIS_REPLY_NIL:
      return {RedisReply::Kind::absent, {}};
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
      return {RedisReply::Kind::text, std::string(reply.str, reply.len)};
    case REDIS_REPLY_ERROR:
      return {RedisReply::Kind::refused, std::string(reply.str, std::min(reply.len, short_reply))};
    default:
      return {RedisReply::Kind::broken, "a reply of a type that was not asked for"};
  }
}

// What connect() came to, once the socket can be written.
int connect_error(int descriptor) {
  int error = 0;
  socklen_t length = sizeof error;
  return getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno;
}

}  // namespace

std::unique_ptr<RedisConnection> RedisConnection::open(const RemoteAddress& address,
                                                       Deadline deadline, std::string& why) {
  redisContext* const context = address.socket_path.empty()
                                    ? redisConnectNonBlock(address.host.c_str(), address.port)
                                    : redisConnectUnixNonBlock(address.socket_path.c_str());
  if (context == nullptr) {
    why = "no memory";
    return nullptr;
  }
  std::unique_ptr<RedisConnection> connection(new RedisConnection(context));
  if (context->err != 0) {
    why = context->errstr;
    return nullptr;
  }
  fcntl(context->fd, F_SETFD, FD_CLOEXEC);
  if (!connection->wait_for(POLLOUT, deadline)) {
    why = "no connection in time";
    return nullptr;
  }
  if (const int error = connect_error(context->fd); error != 0) {
    why = std::strerror(error);
    return nullptr;
  }
  const int on = 1;  // no wait for more to send; a local socket has no such option and needs none
  setsockopt(context->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (address.password.empty()) return connection;

  std::vector<std::string_view> words = {"AUTH", address.password};
  if (!address.user.empty()) words.insert(words.begin() + 1, address.user);
  const RedisReply reply = connection->ask(words, short_reply, deadline);
  if (reply.kind == RedisReply::Kind::text) return connection;
  // Only the first word: a server that does not know AUTH repeats what it was given.
  why =
      reply.kind == RedisReply::Kind::broken
          ? reply.text
          : fmt::format("the password is refused: {}", reply.text.substr(0, reply.text.find(' ')));
  return nullptr;
}

RedisConnection::~RedisConnection() { redisFree(context_); }

int RedisConnection::descriptor() const { return context_->fd; }

RedisReply RedisConnection::broken(std::string_view otherwise) const {
  return {RedisReply::Kind::broken,
          context_->err != 0 ? std::string(context_->errstr) : std::string(otherwise)};
}

bool RedisConnection::wait_for(short events, Deadline deadline) const {
  pollfd watched{context_->fd, events, 0};
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    const int ready = poll(&watched, 1, static_cast<int>(left.count()));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

RedisReply RedisConnection::ask(const std::vector<std::string_view>& words, size_t most_bytes,
                                Deadline deadline) {
  std::vector<const char*> parts;
  std::vector<size_t> lengths;
  for (const std::string_view word : words) {
    parts.push_back(word.data());
    lengths.push_back(word.size());
  }
  if (redisAppendCommandArgv(context_, static_cast<int>(parts.size()), parts.data(),
                             lengths.data()) != REDIS_OK)
    return broken("the command cannot be written");
  for (int all_sent = 0; all_sent == 0;) {
    if (!wait_for(POLLOUT, deadline)) return broken(no_answer);
    if (redisBufferWrite(context_, &all_sent) != REDIS_OK) return broken("");
  }
  while (true) {
    void* made = nullptr;
    if (redisGetReplyFromReader(context_, &made) != REDIS_OK) return broken("");
    if (made != nullptr) {
      const RedisReply reply = reply_of(*static_cast<redisReply*>(made));
      freeReplyObject(made);
      return reply;
    }
    if (context_->reader->len - context_->reader->pos > most_bytes + short_reply)
      return broken("a reply longer than what was asked for");
    if (!wait_for(POLLIN, deadline)) return broken(no_answer);
    if (redisBufferRead(context_) != REDIS_OK) return broken("");
  }
}

}  // namespace liger
