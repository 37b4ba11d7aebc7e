// All ops. A declaration adds itself before main() or while the library is loaded, in an order that
// is the linker's: who reads the registry comes later.
#pragma once

#include <deque>
#include <string>
#include <string_view>

#include "engine/op.h"

namespace liger {

// Never moves its elements: torch's dispatcher keeps references.
std::deque<Op>& registry();

struct Register {
  explicit Register(Op op);
};

// How many `const Register` stand in ops/, counted by the build (cmake/count_ops.cmake).
extern const int declared_ops;

// Empty if every op that is declared is in the registry, with a gradient that fits; else what was
// found instead.
std::string registry_problem();

// Empty if the names in an op's gradient are there, and its backward takes what it is given.
std::string gradient_problem(const Op& op);

// Null when there is none.
const Op* find_op(std::string_view name);

// As find_op, but raises Error(invalid_argument) naming the nearest op.
const Op& op_named(std::string_view name);

}  // namespace liger
