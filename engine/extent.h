// The sizes of an op's example, by name: what the shared tests, `liger-jit show` and the bench ask
// for.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace liger {

struct NamedSize {
  std::string name;
  int64_t value;
};

class Extent {
 public:
  Extent(std::initializer_list<NamedSize> sizes) : sizes_(sizes) {}
  explicit Extent(std::vector<NamedSize> sizes) : sizes_(std::move(sizes)) {}

  // A name that it does not have is a defect of the declaration and aborts.
  int64_t operator[](std::string_view name) const;
  const std::vector<NamedSize>& sizes() const { return sizes_; }

 private:
  std::vector<NamedSize> sizes_;
};

// A size that an op's example may be asked for.
struct ExampleSize {
  std::string name;
  int64_t usual;        // where nobody says
  std::string meaning;  // for the command line
};

// Those that all ops have, and after them an op's own.
std::vector<ExampleSize> example_sizes(std::vector<ExampleSize> own = {});

}  // namespace liger
