#include "base/remote_address.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace liger {
namespace {

TEST(RemoteAddress, parts_are_taken_apart) {
  const RemoteAddress plain = parse_remote_address("redis://server");
  EXPECT_EQ(plain.host, "server");
  EXPECT_EQ(plain.port, 6379);
  EXPECT_EQ(plain.prefix, "liger");
  EXPECT_EQ(plain.password, "");

  const RemoteAddress full = parse_remote_address("redis://me:a%40b%2F@c@10.0.0.1:7000/team/x");
  EXPECT_EQ(full.user, "me");
  EXPECT_EQ(full.password, "a@b/@c");
  EXPECT_EQ(full.host, "10.0.0.1");
  EXPECT_EQ(full.port, 7000);
  EXPECT_EQ(full.prefix, "team/x");

  const RemoteAddress six = parse_remote_address("redis://:secret@[::1]:7000");
  EXPECT_EQ(six.host, "::1");
  EXPECT_EQ(six.port, 7000);
  EXPECT_EQ(six.user, "");
  EXPECT_EQ(six.shown(), "redis://[::1]:7000/liger");

  const RemoteAddress socket = parse_remote_address("unix://:secret@/run/r.sock?prefix=team");
  EXPECT_EQ(socket.socket_path, "/run/r.sock");
  EXPECT_EQ(socket.prefix, "team");
  EXPECT_EQ(socket.password, "secret");
  EXPECT_EQ(socket.shown(), "unix:///run/r.sock?prefix=team");
}

TEST(RemoteAddress, what_is_wrong_is_said_without_the_password) {
  for (const char* text :
       {"http://:hunter2@server", "redis://:hunter2@", "redis://:hunter2@server:0",
        "redis://:hunter2@server:70000", "redis://:hunter2@server:7x", "redis://hunter2@server",
        "redis://:hunter2%zz@server", "redis://:hunter2@[::1", "unix://:hunter2@run/r.sock",
        "redis:hunter2@server", ":hunter2@server"}) {
    try {
      parse_remote_address(text);
      ADD_FAILURE() << text << " was taken";
    } catch (const Error& error) {
      const std::string words = error.what();
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
      EXPECT_EQ(words.find("hunter2"), std::string::npos) << words;
      EXPECT_NE(words.find("LIGER_JIT_REMOTE"), std::string::npos) << words;
    }
  }
}

TEST(RemoteAddress, shown_without_the_password) {
  EXPECT_EQ(without_password("redis://me:hunter2@server:1/p"), "redis://***@server:1/p");
  EXPECT_EQ(without_password("redis://server:1/p"), "redis://server:1/p");
  EXPECT_EQ(parse_remote_address("redis://me:hunter2@server:1/p").shown(), "redis://server:1/p");
}

}  // namespace
}  // namespace liger
