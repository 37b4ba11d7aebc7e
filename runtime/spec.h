// All that a kernel knows at compile time: named fields, in the order of the Spec struct in its
// template. A field may be the Spec of a part of it.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "runtime/dtype.h"

namespace liger {

struct SpecField;
using Spec = std::vector<SpecField>;
using SpecValue = std::variant<Dtype, bool, int64_t, Spec>;

struct SpecField {
  std::string name;
  SpecValue value;
};

// `.x = Dtype::bf16, .hidden = 4096, .unit_offset = false`
std::string initialiser(const Spec& spec);

}  // namespace liger
