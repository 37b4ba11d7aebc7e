// All that a kernel knows at compile time: named fields, in the order of the Spec struct in its
// template.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "runtime/dtype.h"

namespace liger {

using SpecValue = std::variant<Dtype, bool, int64_t>;

struct SpecField {
  std::string name;
  SpecValue value;
};

using Spec = std::vector<SpecField>;

// `.x = Dtype::bf16, .hidden = 4096, .unit_offset = false`
std::string initialiser(const Spec& spec);

}  // namespace liger
