// The one exception of the project. torch_bindings/ turns it into a torch error in one place.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace liger {

enum class ErrorKind {
  invalid_argument,  // the caller can mend it: names op, argument, value and what is allowed
  unsupported,       // this build, device or dtype cannot do it
  compile,           // a compiler is missing or refused a unit
  device,            // the driver refused a load, a launch or an allocation
};

class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message) : kind_(kind), message_(std::move(message)) {}
  ErrorKind kind() const { return kind_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  ErrorKind kind_;
  std::string message_;
};

}  // namespace liger
