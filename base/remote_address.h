// Where a Redis server is, as LIGER_JIT_REMOTE writes it:
//   redis://[user][:password@]host[:port][/prefix]        a name, an IPv4 or an [IPv6] address
//   unix://[user][:password@]/path/of/socket[?prefix=…]
#pragma once

#include <string>
#include <string_view>

namespace liger {

struct RemoteAddress {
  std::string host;
  int port = 6379;
  std::string socket_path;  // instead of host and port
  std::string user;         // empty: the server's default user
  std::string password;     // percent-encoding undone; never printed
  std::string prefix = "liger";

  // The address without user and password, for people.
  std::string shown() const;
};

// Raises Error(invalid_argument) that says what is wrong, and repeats nothing that may be a secret.
RemoteAddress parse_remote_address(std::string_view text);

// The text of the variable with its password replaced by `***`, whether or not it can be parsed.
std::string without_password(std::string_view text);

}  // namespace liger
