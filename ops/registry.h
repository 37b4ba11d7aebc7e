// All ops. A declaration adds itself before main() or when the library is loaded.
#pragma once

#include <deque>
#include <string>
#include <string_view>

#include "ops/op.h"

namespace liger {

// Never moves its elements: torch's dispatcher keeps references.
std::deque<Op>& registry();

struct Register {
  explicit Register(Op op);
};

// Null when there is none.
const Op* find_op(std::string_view name);

// As find_op, but raises Error(invalid_argument) naming the nearest op.
const Op& op_named(std::string_view name);

}  // namespace liger
