// A real redis-server of one test's own, on a socket in a private folder.
#pragma once

#include <gtest/gtest.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "base/process.h"
#include "base/remote_address.h"
#include "tests/base/temporary_folder.h"

namespace liger {

class RedisServer {
 public:
  // The server is the same program as redis-check-rdb; the package that has only that one starts no
  // service on the machine.
  static std::optional<std::string> program() {
    return find_program({"redis-server", "redis-check-rdb"});
  }

  explicit RedisServer(std::vector<std::string> options = {}) : options_(std::move(options)) {
    start();
  }
  RedisServer(const RedisServer&) = delete;
  ~RedisServer() { stop(); }

  void start() {
    std::vector<std::string> words = {"redis-server", "--port", "0",     "--unixsocket", socket(),
                                      "--save",       "",       "--dir", folder_.path()};
    words.insert(words.end(), options_.begin(), options_.end());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const std::string file = *program();
    pid_ = fork();
    if (pid_ == 0) {
      if (!freopen((folder_ / "log").c_str(), "w", stdout)) _exit(126);
      execv(file.c_str(), arguments.data());
      _exit(127);
    }
    for (int i = 0; i < 500; ++i) {
      redisContext* const context = redisConnectUnix(socket().c_str());
      const bool up = context->err == 0;
      redisFree(context);
      if (up) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << "redis-server did not start: " << read_plainly(folder_ / "log");
  }

  void send(int signal) const { kill(pid_, signal); }

  void stop() {
    if (pid_ <= 0) return;
    send(SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

  std::string socket() const { return folder_ / "redis.sock"; }

  RemoteAddress address(const std::string& password = "") const {
    RemoteAddress address;
    address.socket_path = socket();
    address.password = password;
    address.prefix = "test";
    return address;
  }

  // What the server answers to a command of the test's own: text, or a number as text.
  std::string ask(const std::vector<std::string>& words) const {
    redisContext* const context = redisConnectUnix(socket().c_str());
    std::vector<const char*> parts;
    std::vector<size_t> lengths;
    for (const std::string& word : words) {
      parts.push_back(word.data());
      lengths.push_back(word.size());
    }
    auto* const reply = static_cast<redisReply*>(
        redisCommandArgv(context, static_cast<int>(parts.size()), parts.data(), lengths.data()));
    std::string text;
    if (reply != nullptr && reply->str != nullptr) text.assign(reply->str, reply->len);
    if (reply != nullptr && reply->type == REDIS_REPLY_INTEGER)
      text = std::to_string(reply->integer);
    freeReplyObject(reply);
    redisFree(context);
    return text;
  }

 private:
  const TemporaryFolder folder_;
  const std::vector<std::string> options_;
  pid_t pid_ = -1;
};

}  // namespace liger
