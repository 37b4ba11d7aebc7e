// All that a kernel knows at compile time: named fields, in the order of the Spec struct in its
// template. A field may be the Spec of a part of it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/compile/dtype.h"

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

// Appends what tells it from any other to the bytes of a key in memory.
void append_bytes(std::string& key, const Spec& spec);
void append_bytes(std::string& key, std::string_view text);
void append_bytes(std::string& key, int64_t number);

}  // namespace liger
