#include "base/remote_address.h"

#include <charconv>

#include "base/error.h"
#include "base/text.h"

namespace liger {
namespace {

constexpr std::string_view tcp_scheme = "redis://";
constexpr std::string_view unix_scheme = "unix://";
constexpr std::string_view prefix_option = "?prefix=";

[[noreturn]] void refuse(std::string_view text, std::string_view why) {
  throw Error(ErrorKind::invalid_argument,
              fmt::format("LIGER_JIT_REMOTE=\"{}\" is not understood: {}; allowed: "
                          "redis://[user][:password@]host[:port][/prefix] or "
                          "unix://[user][:password@]/path/of/socket[?prefix=name], with % and two "
                          "hexadecimal digits for what a name cannot hold",
                          without_password(text), why));
}

// Cuts `text` at the first of `mark`; what stood after it, without the mark, is the answer.
std::string_view cut_at(std::string_view& text, std::string_view mark) {
  const size_t at = text.find(mark);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = text.substr(at + mark.size());
  text = text.substr(0, at);
  return rest;
}

std::string decoded(std::string_view text, std::string_view whole) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      result += text[i];
      continue;
    }
    unsigned code = 0;
    const char* const first = text.data() + i + 1;
    const char* const last = first + 2;
    if (i + 2 >= text.size() || std::from_chars(first, last, code, 16).ptr != last)
      refuse(whole, "a % without two hexadecimal digits");
    result += static_cast<char>(code);
    i += 2;
  }
  return result;
}

void parse_host_and_port(RemoteAddress& address, std::string_view text, std::string_view whole) {
  std::string_view port;
  if (text.starts_with('[')) {
    text.remove_prefix(1);
    if (text.find(']') == std::string_view::npos) refuse(whole, "there is a [ without a ]");
    port = cut_at(text, "]");
    if (!port.empty() && !port.starts_with(':')) refuse(whole, "after the ] comes no port");
    if (!port.empty()) port.remove_prefix(1);
  } else {
    port = cut_at(text, ":");
  }
  if (text.empty()) refuse(whole, "there is no host");
  address.host = text;
  if (port.empty()) return;
  const auto [end, trouble] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (trouble != std::errc() || end != port.data() + port.size() || address.port < 1 ||
      address.port > 65535)
    refuse(whole, "the port is no number from 1 to 65535");
}

// The part that may hold a secret: between the scheme and the last `@`. Passwords may hold an `@`.
std::string_view credentials_of(std::string_view text) {
  const size_t scheme = text.find("://");
  const size_t first = scheme == std::string_view::npos ? 0 : scheme + 3;
  const size_t at = text.rfind('@');
  return at == std::string_view::npos || at < first ? std::string_view()
                                                    : text.substr(first, at - first);
}

}  // namespace

std::string RemoteAddress::shown() const {
  if (!socket_path.empty()) return fmt::format("unix://{}?prefix={}", socket_path, prefix);
  const bool brackets = host.find(':') != std::string::npos;
  return fmt::format("redis://{}{}{}:{}/{}", brackets ? "[" : "", host, brackets ? "]" : "", port,
                     prefix);
}

RemoteAddress parse_remote_address(std::string_view text) {
  const bool tcp = text.starts_with(tcp_scheme);
  if (!tcp && !text.starts_with(unix_scheme))
    refuse(text, "it starts with neither redis:// nor unix://");
  RemoteAddress address;
  std::string_view rest = text.substr(tcp ? tcp_scheme.size() : unix_scheme.size());
  if (std::string_view user = credentials_of(text); user.data() != nullptr) {
    rest.remove_prefix(user.size() + 1);
    address.password = decoded(cut_at(user, ":"), text);
    address.user = decoded(user, text);
    if (address.password.empty()) refuse(text, "there is an @ and no password before it");
  }
  const std::string_view prefix = cut_at(rest, tcp ? "/" : prefix_option);
  if (!prefix.empty()) address.prefix = decoded(prefix, text);
  if (tcp) {
    parse_host_and_port(address, rest, text);
  } else {
    if (!rest.starts_with('/')) refuse(text, "the path of the socket does not start with /");
    address.socket_path = decoded(rest, text);
  }
  return address;
}

std::string without_password(std::string_view text) {
  const std::string_view secret = credentials_of(text);
  if (secret.data() == nullptr) return std::string(text);
  const size_t first = static_cast<size_t>(secret.data() - text.data());
  std::string result(text);
  // All of it: in a text that cannot be parsed nobody knows which part is the password.
  return result.replace(first, secret.size(), "***");
}

}  // namespace liger
