// An open file descriptor that is closed when it goes out of scope.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <utility>

namespace liger {

class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() { reset(); }

  bool is_open() const { return number_ >= 0; }
  int number() const { return number_; }
  void reset() {
    if (is_open()) ::close(std::exchange(number_, -1));
  }

 private:
  int number_;
};

// Takes the descriptor and gives one above 0, 1 and 2, which may be closed in a daemon and are
// overwritten in a child; not open if there is none.
inline Descriptor above_standard(int number) {
  const Descriptor low(number);
  return Descriptor(low.is_open() ? ::fcntl(number, F_DUPFD_CLOEXEC, 3) : -1);
}

}  // namespace liger
